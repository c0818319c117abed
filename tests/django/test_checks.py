"""System checks: each finds what it is there for, and nothing in a site that is fit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ifserver.config.configuration import Configuration
from ifserver.config.sources import from_django
from ifserver.django import checks

APPS = ("ifserver.django", "django.contrib.admin", "django.contrib.staticfiles")


class Apps:
    def __init__(self, *names: str) -> None:
        self._names = names

    def get_app_configs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self._names]

    def is_installed(self, name: str) -> bool:
        return name in self._names


def found(monkeypatch: pytest.MonkeyPatch, apps: tuple[str, ...] = APPS, **changes: Any) -> list[str]:
    """The ids of what is found in a site that differs by `changes` from one that is fit."""
    settings: dict[str, Any] = {
        "DEBUG": False,
        "ALLOWED_HOSTS": ["example.com"],
        "ASGI_APPLICATION": "site.asgi.application",
        "CACHES": {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
        "DATABASES": {"default": {"ENGINE": "django.db.backends.postgresql"}},
        "IFSERVER": {"worker": {"processes": 2}},
        "MIDDLEWARE": [],
        "SECURE_PROXY_SSL_HEADER": None,
        "SECURE_SSL_REDIRECT": False,
        "SESSION_CACHE_ALIAS": "default",
        "SESSION_ENGINE": "django.contrib.sessions.backends.db",
        "STATIC_ROOT": "/srv/static",
        "STATIC_URL": "/static/",
        "STORAGES": {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}},
        **changes,
    }
    monkeypatch.setattr(checks, "settings", SimpleNamespace(**settings))
    monkeypatch.setattr(checks, "apps", Apps(*apps))
    always = checks.check_always(None)
    if "ifserver.E002" not in [each.id for each in always]:
        monkeypatch.setattr(checks, "_configuration", Configuration(from_django(settings["IFSERVER"])))
    messages = always + checks.check_production(None)
    assert all(each.hint and "docs/" not in each.hint for each in messages)
    return [each.id.removeprefix("ifserver.") for each in messages]


def test_a_site_that_is_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch) == []


@pytest.mark.parametrize(
    ("apps", "ids"),
    [
        (("django.contrib.staticfiles", "ifserver.django"), ["E001"]),
        (("daphne", "ifserver.django"), ["E001"]),
        (("ifserver.django", "daphne"), ["W001"]),
        (("pages", "ifserver.django", "django.contrib.staticfiles"), []),
    ],
)
def test_other_apps(monkeypatch: pytest.MonkeyPatch, apps: tuple[str, ...], ids: list[str]) -> None:
    assert found(monkeypatch, apps) == ids


MEMORY = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
LAYER = {"default": {"BACKEND": "ifserver.django.ChannelLayer"}}


def configured(**config: Any) -> dict[str, Any]:
    return {"default": {**LAYER["default"], "CONFIG": config}}


PROXY = ("HTTP_X_FORWARDED_PROTO", "https")
TRUSTED = {"front": {"trusted_proxies": ["10.0.0.1"]}}


@pytest.mark.parametrize(
    ("changes", "ids"),
    [
        ({"IFSERVER": {"front": {"max_heders": 1}}}, ["E002"]),
        ({"IFSERVER": []}, ["E002"]),
        ({"ALLOWED_HOSTS": []}, ["E003"]),
        ({"ALLOWED_HOSTS": [], "DEBUG": True}, []),
        ({"SECURE_PROXY_SSL_HEADER": PROXY}, []),
        ({"SECURE_PROXY_SSL_HEADER": PROXY, "IFSERVER": TRUSTED}, ["W003"]),
        ({"SECURE_SSL_REDIRECT": True}, ["W004"]),
        ({"SECURE_SSL_REDIRECT": True, "SECURE_PROXY_SSL_HEADER": PROXY}, []),
        ({"SECURE_SSL_REDIRECT": True, "IFSERVER": TRUSTED}, []),
        ({"SECURE_SSL_REDIRECT": True, "IFSERVER": {"listen": {"certfile": "c.pem"}}}, []),
        ({"DATABASES": {"default": {"ENGINE": "x.postgresql", "CONN_MAX_AGE": None}}}, ["W005"]),
        ({"DATABASES": {"default": {"ENGINE": "x.postgresql", "CONN_MAX_AGE": 60}}, "ASGI_APPLICATION": None}, []),
        ({"DATABASES": {"default": {"ENGINE": "x.sqlite3", "CONN_MAX_AGE": 60}}}, []),
        ({"STATIC_ROOT": None}, ["W006"]),
        ({"STATIC_ROOT": None, "STATIC_URL": "https://cdn.example.com/"}, []),
        ({"STATIC_ROOT": None, "MIDDLEWARE": ["whitenoise.middleware.WhiteNoiseMiddleware"]}, []),
        ({"CHANNEL_LAYERS": MEMORY}, ["W007"]),
        ({"CHANNEL_LAYERS": MEMORY, "IFSERVER": {"worker": {"processes": 1}}}, []),
        ({"CHANNEL_LAYERS": MEMORY, "IFSERVER": {"worker": {"processes": 1, "http": "site.wsgi:app"}}}, ["W007"]),
        ({"IFSERVER": {"pools": {"api": {"paths": ["/api/*"]}}}}, ["E002"]),
        ({"CHANNEL_LAYERS": LAYER}, []),
        ({"CHANNEL_LAYERS": configured(capacity=5, hosts=[], channel_capacity=None)}, []),
        ({"CHANNEL_LAYERS": configured(capacity="5", expiry="60s", capcity=5)}, ["E004"] * 3),
        ({"CHANNEL_LAYERS": {"default": {**LAYER["default"], "CONFIG": None}}}, ["E004"]),
        ({"SESSION_ENGINE": "django.contrib.sessions.backends.cache"}, ["W008"]),
        ({"SESSION_ENGINE": "django.contrib.sessions.backends.cached_db"}, []),
        ({"REST_FRAMEWORK": {"DEFAULT_THROTTLE_RATES": {"user": "9/hour"}}}, ["W010"]),
        ({"REST_FRAMEWORK": {"DEFAULT_THROTTLE_RATES": {"user": "9/hour"}}, "CACHES": {}}, []),
        ({"REST_FRAMEWORK": {"DEFAULT_THROTTLE_RATES": {"user": None}}}, []),
        ({"REST_FRAMEWORK": {"PAGE_SIZE": 10}}, []),
    ],
)
def test_settings(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], ids: list[str]) -> None:
    assert found(monkeypatch, **changes) == ids


def test_events_that_stay_in_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    apps = ("ifserver.django", "django_eventstream")
    assert found(monkeypatch, apps) == ["W009"]
    assert found(monkeypatch, apps, IFSERVER={"worker": {"processes": 1}}) == []
    assert found(monkeypatch, apps, EVENTSTREAM_REDIS={"host": "redis"}) == []
    assert found(monkeypatch, apps, GRIP_URL="http://pushpin:5561") == []


def test_channels_without_asgi(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, ("ifserver.django", "channels"), ASGI_APPLICATION=None) == ["W002"]
    assert found(monkeypatch, ("ifserver.django", "channels")) == []
    # As in its own tutorial, where it is not in INSTALLED_APPS.
    assert found(monkeypatch, CHANNEL_LAYERS=LAYER, ASGI_APPLICATION=None) == ["W002"]
    assert found(monkeypatch, CHANNEL_LAYERS={}, ASGI_APPLICATION=None) == []
