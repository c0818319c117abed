"""A Django site as its tests have it, for workers: with their settings, and on the test databases.

`Site` travels in the environment, since every worker is a new process. Importing `application` in one makes the site.
"""

from __future__ import annotations

import base64
import functools
import importlib
import logging
import os
import pickle
import zlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final, NamedTuple

import django
from django.conf import global_settings, settings
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["Site"]

#: Not IFSERVER_...: such a variable would have to be a setting.
_VARIABLE: Final = "_IFSERVER_TESTED_SITE"
#: The kernel takes no longer string in an environment (MAX_ARG_STRLEN).
_MAX_CHARACTERS: Final = 128 * 1024 - 256
#: A setting that nobody has given.
_NOTHING: Final = object()


class Site(NamedTuple):
    """What the workers have to know."""

    #: The module of the settings; None: the site has called ``settings.configure()``.
    module: str | None
    #: Pickled, by their names: the settings that differ from those of the module.
    settings: Mapping[str, bytes]
    #: The name of each test database by its alias.
    databases: Mapping[str, Any]
    #: What is said when another database is used.
    refusal: str
    #: Whether it is the site's ASGI application, and whether static files are served beside it.
    is_asgi: bool
    serves_static: bool

    @classmethod
    def of_tests(cls, databases: Mapping[str, Any], refusal: str, is_asgi: bool, serves_static: bool) -> Site:
        """The site of this process, as its settings are now.

        Raises:
            ImproperlyConfigured: a setting that tests have changed cannot be pickled.
        """
        name: str | None = getattr(settings, "SETTINGS_MODULE", None)
        return cls(name, _changed(name), databases, refusal, is_asgi, serves_static)

    def environment(self) -> dict[str, str]:
        """The variables by which a worker finds it.

        Raises:
            ImproperlyConfigured: it is too long for one.
        """
        text = base64.b64encode(zlib.compress(pickle.dumps(tuple(self)))).decode()
        if len(text) > _MAX_CHARACTERS:
            longest = max(self.settings, key=lambda name: len(self.settings[name]))
            raise ImproperlyConfigured(
                f"the settings that the tests have changed are too long to be told to workers, above all {longest}"
            )
        return {_VARIABLE: text} | ({} if self.module is None else {"DJANGO_SETTINGS_MODULE": self.module})

    def make(self) -> Any:
        """In a worker: the application."""
        if self.module is None:
            settings.configure(**{name: pickle.loads(value) for name, value in self.settings.items()})
        else:
            for name, value in self.settings.items():
                setattr(settings, name, pickle.loads(value))
        for alias, name in self.databases.items():
            settings.DATABASES[alias]["NAME"] = name
        self._refuse_other_databases()
        django.setup()
        made = _asgi() if self.is_asgi else _wsgi()
        _show_errors()  # only now: sites set Django up once more, and that configures logging anew
        return _with_files(made, self.is_asgi) if self.serves_static else made

    def _refuse_other_databases(self) -> None:
        """Never connect to those that the test case does not have. Nobody has made a test database of them, so that
        they are the real ones; Django guards the process of the tests against them in the same way."""
        connect = BaseDatabaseWrapper.connect

        @functools.wraps(connect)
        def checked(connection: Any) -> Any:
            if connection.alias not in self.databases and connection.alias in settings.DATABASES:
                raise AssertionError(self.refusal.format(alias=connection.alias))
            return connect(connection)

        BaseDatabaseWrapper.connect = checked


def _changed(name: str | None) -> dict[str, bytes]:
    """The settings that differ from those of the module, pickled: by decorators of tests, the test runner, plugins."""
    module: ModuleType | None = None if name is None else importlib.import_module(name)
    found = {}
    for setting in dir(settings):
        # Databases are told by their names, unless the workers know nothing of them.
        if not setting.isupper() or setting in ("SETTINGS_MODULE", *(() if module is None else ("DATABASES",))):
            continue
        value = getattr(settings._wrapped, setting)  # without the prefix of URLs, which each process finds out itself
        default = getattr(module, setting, _NOTHING)
        if default is _NOTHING:
            default = getattr(global_settings, setting, _NOTHING)
        if value is default or value == default:
            continue
        try:
            found[setting] = pickle.dumps(value)
        except Exception as error:  # what a value raises that cannot be pickled, it alone knows
            raise ImproperlyConfigured(
                f"the setting {setting} was changed by the tests, but workers cannot be told its value: {error}. "
                "Put it into the module of the settings."
            ) from error
    return found


def _show_errors() -> None:
    """Write the errors of views into the output, unless the site does so. Django's own configuration only mails them to
    ADMINS where DEBUG is off, as it is in tests."""
    logger: logging.Logger | None = logging.getLogger("django.request")
    while logger is not None:
        if any(isinstance(each, logging.StreamHandler) and not each.filters for each in logger.handlers):
            return
        logger = logger.parent if logger.propagate else None
    handler = logging.StreamHandler()
    handler.setLevel(logging.ERROR)
    logging.getLogger("django.request").addHandler(handler)


def _asgi() -> Any:
    from django.utils.module_loading import import_string

    return import_string(settings.ASGI_APPLICATION)


def _wsgi() -> Any:
    from django.core.servers.basehttp import get_internal_wsgi_application

    return get_internal_wsgi_application()


def _with_files(made: Any, is_asgi: bool) -> Any:
    """The application behind what serves static files and media, as Django's and Channels' own test servers do it."""
    from django.contrib.staticfiles import handlers
    from django.views.static import serve

    handler: Any = handlers.ASGIStaticFilesHandler if is_asgi else handlers.StaticFilesHandler

    def of_folder(url: str, folder: str) -> Any:
        class FolderHandler(handler):  # type: ignore[misc]
            def get_base_url(self) -> str:
                return url

            def serve(self, request: Any) -> Any:
                return serve(request, self.file_path(request.path), document_root=folder)

        return FolderHandler(made)

    # An empty URL is read as "/", which would be all of the site.
    if settings.MEDIA_ROOT and settings.MEDIA_URL not in ("", "/"):
        made = of_folder(settings.MEDIA_URL, settings.MEDIA_ROOT)
    if "django.contrib.staticfiles" in settings.INSTALLED_APPS:
        return handler(made)
    if settings.STATIC_ROOT and settings.STATIC_URL not in (None, "", "/"):
        return of_folder(settings.STATIC_URL, settings.STATIC_ROOT)
    return made


def __getattr__(name: str) -> Any:
    if name != "application":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    text = os.environ.get(_VARIABLE)
    if text is None:
        raise ImproperlyConfigured("this is the site of ifserver's test cases for Django, which only they start")
    found = globals()["application"] = Site(*pickle.loads(zlib.decompress(base64.b64decode(text)))).make()
    return found
