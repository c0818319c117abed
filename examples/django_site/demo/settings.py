import os
import sys
from pathlib import Path

from demo.first_start import read_or_make_secret_key

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("DJANGO_SITE_DATA") or BASE_DIR / "data").resolve()
DATA_DIR.mkdir(parents=True, exist_ok=True, mode=0o700)

# The page of the chat is that of the example next door, the package `chat`.
if str(BASE_DIR.parent) not in sys.path:
    sys.path.append(str(BASE_DIR.parent))


def listed(variable: str, default: str = "") -> list[str]:
    return [entry.strip() for entry in os.environ.get(variable, default).split(",") if entry.strip()]


DEBUG = os.environ.get("DJANGO_SITE_DEBUG") == "1"
SECRET_KEY = read_or_make_secret_key(DATA_DIR)
ALLOWED_HOSTS = listed("DJANGO_SITE_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = listed("DJANGO_SITE_ORIGINS")

INSTALLED_APPS = [
    "ifserver.django",  # manage.py runserver is ifserver
    "pages",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "demo.urls"
ASGI_APPLICATION = "demo.asgi.application"
WSGI_APPLICATION = "demo.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA_DIR / "site.sqlite3",
        # Several worker processes write: readers must not wait for a writer, and a transaction takes the write lock at
        # its beginning, where SQLite lets it wait, instead of failing in the middle.
        "OPTIONS": {"init_command": "PRAGMA journal_mode = WAL", "transaction_mode": "IMMEDIATE", "timeout": 10},
    },
}
# Joins the chats of all worker processes. It needs no Redis: it uses the nodes that the workers have anyway.
CHANNEL_LAYERS = {"default": {"BACKEND": "ifserver.django.ChannelLayer"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "home"

STATIC_URL = "static/"
MEDIA_ROOT = DATA_DIR / "uploads"  # kept, never served: what strangers upload is no part of the site

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True

# Django's default mails errors to ADMINS unless DEBUG is on; here they are wanted in the server's log.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {
        "django": {"handlers": ["console"], "level": "WARNING", "propagate": False},
        "django.server": {"handlers": ["console"], "level": "INFO", "propagate": False},  # the requests of runserver
    },
}
