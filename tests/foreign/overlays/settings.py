# Of every site: ifserver, and what is different in production.
import os

INSTALLED_APPS = ["ifserver.django", *INSTALLED_APPS]
DEBUG = os.environ.get("SITE_DEBUG", "1") == "1"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ASGI_APPLICATION = "mysite.asgi.application"
STATIC_ROOT = BASE_DIR / "collected"
MEDIA_ROOT = BASE_DIR / "media"
MEDIA_URL = "/media/"
# Right behind SecurityMiddleware.
MIDDLEWARE.insert(1, "whitenoise.middleware.WhiteNoiseMiddleware")
DATABASES["default"]["TEST"] = {"NAME": BASE_DIR / "test.sqlite3"}
