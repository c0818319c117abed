"""System checks: what in Django's settings does not go together with ifserver.

Those of ``manage.py check`` find what is wrong anywhere. Those of ``--deploy``, which ``manage.py ifserver`` runs too,
find what is wrong in production only. Each is about something that fails later, and less clearly.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Warning

from ifserver.config import sources
from ifserver.config.configuration import Configuration
from ifserver.config.pools import DEFAULT as DEFAULT_POOL
from ifserver.django.layer_options import BACKENDS, OPTIONS, mistakes
from ifserver.errors import ConfigurationError

__all__ = ["TAG", "register", "use"]

TAG: Final = "ifserver"
#: Of settings of ifserver that cannot be. Those of a file and of the environment are looked at for production only:
#: whoever migrates the database may not be allowed to read them.
_UNFIT: Final = "ifserver.E002"
#: Whoever has installed the package has no file of ``docs``.
_SETTINGS_HINT: Final = "The reference of settings in ifserver's documentation has all sections, keys and variables."

#: Apps that have a ``runserver`` of their own.
_OTHERS: Final = ("daphne", "django.contrib.staticfiles")
_STATIC_STORAGE: Final = "django.contrib.staticfiles.storage."

#: The settings of the command that is to run; None: those that any would find.
_configuration: Configuration | None = None


def register() -> None:
    """Have ``manage.py check`` do them."""
    checks.register(check_always, TAG)
    checks.register(check_production, TAG, deploy=True)


def use(configuration: Configuration) -> None:
    """From now on, check against these settings: those of a command line are among them."""
    global _configuration
    _configuration = configuration


def check_always(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """What is wrong while code is written, and later."""
    return [*_order(), *_channels(), *_layers(), *_settings()]


def check_production(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """What is wrong in production."""
    try:
        configuration = _configuration or sources.configuration(os.environ)
        workers = _workers(configuration)
    except ConfigurationError as error:
        return [Error(str(error), hint=_SETTINGS_HINT, id=_UNFIT)]
    found = [*_hosts(), *_proxy(configuration), *_databases(configuration), *_static()]
    return found + (_memory(workers) if workers > 1 else [])


def _workers(configuration: Configuration) -> int:
    """How many processes run the site, those of all pools together.

    Raises:
        ConfigurationError: a pool cannot be.
    """
    each = configuration.of("worker.processes").value or len(os.sched_getaffinity(0))
    pools = {pool.name: pool.processes or each for pool in configuration.pools()}
    # manage.py ifserver names the application of the pool without a name, if nobody else does.
    return sum(({DEFAULT_POOL: each} | pools).values())


def _order() -> Iterator[CheckMessage]:
    names = [app.name for app in apps.get_app_configs()]
    before = [name for name in names[: names.index("ifserver.django")] if name in _OTHERS]
    if before:
        yield Error(
            f"ifserver.django is behind {' and '.join(before)} in INSTALLED_APPS, whose runserver is used instead.",
            hint="Put ifserver.django first.",
            id="ifserver.E001",
        )
    if "daphne" in names and "daphne" not in before:
        yield Warning(
            "daphne is in INSTALLED_APPS beside ifserver.django, and is not used.",
            hint="Remove it: only its runserver needs it there.",
            id="ifserver.W001",
        )


def _settings() -> Iterator[CheckMessage]:
    try:
        sources.from_django(getattr(settings, "IFSERVER", {}))
    except ConfigurationError as error:
        yield Error(str(error), hint=_SETTINGS_HINT, id=_UNFIT)


def _channels() -> Iterator[CheckMessage]:
    # Channels need not be in INSTALLED_APPS: its own tutorial has it there no more.
    uses_channels = apps.is_installed("channels") or bool(getattr(settings, "CHANNEL_LAYERS", None))
    if uses_channels and not getattr(settings, "ASGI_APPLICATION", None):
        yield Warning(
            "Channels is used, but there is no ASGI_APPLICATION: runserver and manage.py ifserver refuse WebSockets.",
            hint='Set ASGI_APPLICATION, for example "mysite.asgi.application".',
            id="ifserver.W002",
        )


def _layers() -> Iterator[CheckMessage]:
    """Otherwise each is first seen by the first client of a WebSocket, who gets 500."""
    for alias, layer in (getattr(settings, "CHANNEL_LAYERS", None) or {}).items():
        if layer.get("BACKEND") in BACKENDS:
            for mistake in mistakes(layer.get("CONFIG", {})):
                yield Error(
                    f'CHANNEL_LAYERS["{alias}"]["CONFIG"]: {mistake}',
                    hint=f"Options: {', '.join(OPTIONS)}.",
                    id="ifserver.E004",
                )


# In production.


def _hosts() -> Iterator[CheckMessage]:
    # With DEBUG, Django says so itself (security.W018).
    if not settings.DEBUG and not settings.ALLOWED_HOSTS:
        yield Error(
            "ALLOWED_HOSTS is empty: every request is answered with 400.",
            hint="Name the hosts of the site.",
            id="ifserver.E003",
        )


def _proxy(configuration: Configuration) -> Iterator[CheckMessage]:
    trusted = configuration.of("front.trusted_proxies").value
    if trusted and settings.SECURE_PROXY_SSL_HEADER:
        yield Warning(
            "SECURE_PROXY_SSL_HEADER is set beside front.trusted_proxies: Django believes the header of any client, "
            "and not only of these proxies.",
            hint="Remove SECURE_PROXY_SSL_HEADER: with trusted_proxies, request.is_secure() is right without it.",
            id="ifserver.W003",
        )
    ends_tls = configuration.has("listen.certfile") or configuration.has("listen.endpoints")
    if settings.SECURE_SSL_REDIRECT and not (trusted or settings.SECURE_PROXY_SSL_HEADER or ends_tls):
        yield Warning(
            "SECURE_SSL_REDIRECT is on, and nothing tells Django of HTTPS: behind a proxy that ends TLS, every page is "
            "redirected to itself.",
            hint='Set front.trusted_proxies to the proxy\'s address: IFSERVER = {"front": {"trusted_proxies": [...]}}.',
            id="ifserver.W004",
        )


def _databases(configuration: Configuration) -> Iterator[CheckMessage]:
    if not getattr(settings, "ASGI_APPLICATION", None):
        return  # threads of WSGI stay, and keep one connection each
    for alias, database in settings.DATABASES.items():
        persistent = database.get("CONN_MAX_AGE", 0) != 0
        if persistent and "sqlite" not in str(database.get("ENGINE")):
            yield Warning(
                f'DATABASES["{alias}"]: CONN_MAX_AGE is {database["CONN_MAX_AGE"]}, but with ASGI, threads come and go '
                "with requests: their connections stay open and are not used again.",
                hint="Set CONN_MAX_AGE = 0, and use a pool: with PostgreSQL \"OPTIONS\": {'pool': True}, or PgBouncer.",
                id="ifserver.W005",
            )


def _static() -> Iterator[CheckMessage]:
    if not (apps.is_installed("django.contrib.staticfiles") and apps.is_installed("django.contrib.admin")):
        return
    backend = str(settings.STORAGES.get("staticfiles", {}).get("BACKEND", _STATIC_STORAGE))
    served = any("whitenoise" in name for name in settings.MIDDLEWARE)
    local = "//" not in (settings.STATIC_URL or "//")
    if local and backend.startswith(_STATIC_STORAGE) and not settings.STATIC_ROOT and not served:
        yield Warning(
            "Nothing can serve the static files: there is no STATIC_ROOT, and the admin will have no style.",
            hint="Use WhiteNoise, or set STATIC_ROOT and let a proxy serve it: the page on static files in ifserver's "
            "documentation says how.",
            id="ifserver.W006",
        )


def _memory(workers: int) -> list[CheckMessage]:
    """What several workers do not share."""
    found: list[CheckMessage] = []
    many = f"There are {workers} workers"
    for alias, layer in getattr(settings, "CHANNEL_LAYERS", {}).items():
        if str(layer.get("BACKEND")).endswith(".InMemoryChannelLayer"):
            found.append(
                Warning(
                    f'{many}, and CHANNEL_LAYERS["{alias}"] is in the memory of each: group_send() reaches only the '
                    "clients of its own worker.",
                    hint='Set "BACKEND": "ifserver.django.ChannelLayer", which needs no Redis.',
                    id="ifserver.W007",
                )
            )
    if settings.SESSION_ENGINE.endswith(".cache"):
        cache = settings.CACHES.get(settings.SESSION_CACHE_ALIAS, {})
        if str(cache.get("BACKEND")).endswith(".LocMemCache"):
            found.append(
                Warning(
                    f"{many}, and sessions are in a cache in the memory of each: users are logged out by chance.",
                    hint="Keep sessions in the database, or the cache in Redis.",
                    id="ifserver.W008",
                )
            )
    return [*found, *_memory_of_packages(many)]


def _memory_of_packages(many: str) -> Iterator[CheckMessage]:
    """The same of packages that many sites have. Their own documentation says so as well."""
    told = any(getattr(settings, name, None) for name in ("EVENTSTREAM_REDIS", "GRIP_URL", "GRIP_PROXIES"))
    if apps.is_installed("django_eventstream") and not told:
        yield Warning(
            f"{many}, and django-eventstream tells nobody but its own worker of an event: send_event() reaches only "
            "the clients of that worker.",
            hint='Set EVENTSTREAM_REDIS = {"host": ..., "port": 6379}, and install redis.',
            id="ifserver.W009",
        )
    rates = (getattr(settings, "REST_FRAMEWORK", None) or {}).get("DEFAULT_THROTTLE_RATES") or {}
    if any(rates.values()) and str(settings.CACHES.get("default", {}).get("BACKEND")).endswith(".LocMemCache"):
        yield Warning(
            f"{many}, and each counts for itself what Django REST framework throttles: the cache is in its memory.",
            hint="Keep the default cache in Redis or in the database.",
            id="ifserver.W010",
        )
