import os
from pathlib import Path

#: Where the databases are. Without one those of the tests are in memory, as Django has it by default.
FOLDER = os.environ.get("NOTES_FOLDER")


def database(name: str) -> dict[str, object]:
    found: dict[str, object] = {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(FOLDER or "/nowhere", name)}
    return found | ({"TEST": {"NAME": Path(FOLDER, f"test_{name}")}} if FOLDER else {})


SECRET_KEY = "a secret of tests"
INSTALLED_APPS = ["django.contrib.staticfiles", "channels", "notes"]
DATABASES = {"default": database("notes.sqlite3"), "archive": database("archive.sqlite3")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "mysite.urls"
ASGI_APPLICATION = "mysite.asgi.application"
WSGI_APPLICATION = "mysite.wsgi.application"
CHANNEL_LAYERS = {"default": {"BACKEND": "ifserver.django.ChannelLayer"}}
STATIC_URL = "static/"
GREETING = "hello"
USE_TZ = True
