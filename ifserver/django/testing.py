"""Test cases for Django on ifserver: the site runs in a worker, on the test databases, behind a real server."""

from __future__ import annotations

import functools
import multiprocessing
import sys
import unittest
from collections.abc import Mapping
from typing import Any, ClassVar

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import TransactionTestCase
from django.test.utils import modify_settings
from django.utils.functional import classproperty

from ifserver.django.tested_site import Site
from ifserver.testing import Server

__all__ = ["ChannelsLiveServerTestCase", "LiveServerTestCase", "start_session_site"]


class LiveServerTestCase(TransactionTestCase):  # type: ignore[misc]
    """Django's `LiveServerTestCase` on ifserver, with WebSockets.

    The site is ``ASGI_APPLICATION`` where that is set, else ``WSGI_APPLICATION``. One worker runs it for all tests of
    the class, on the test databases of `databases` and with the settings that hold when the class begins: also those of
    a decorator of the class, but not of a decorator or a ``with`` block of one test. Static files and media are served.

    Raises:
        ImproperlyConfigured: in ``setUpClass``: a test database is SQLite in memory, which processes cannot share.
        ServerError: in ``setUpClass``: the site cannot be loaded.
    """

    #: Where to listen, and 0 for any port that is free.
    host: ClassVar[str] = "localhost"
    port: ClassVar[int] = 0
    #: Whether static files and media are served.
    serve_static: ClassVar[bool] = True
    #: Further arguments of `ifserver.testing.Server`: ``{"workers": 2, "redis": "redis://localhost"}``.
    server_options: ClassVar[Mapping[str, Any]] = {}
    #: The server itself, whose workers a test may kill and replace.
    server: ClassVar[Server]

    @classproperty  # type: ignore[untyped-decorator]
    def live_server_url(cls) -> str:  # noqa: N805
        """Where the site is: ``http://localhost:54321``."""
        return f"http{cls._place}"

    @classproperty  # type: ignore[untyped-decorator]
    def live_server_ws_url(cls) -> str:  # noqa: N805
        """The same for WebSockets: ``ws://localhost:54321``."""
        return f"ws{cls._place}"

    @classproperty  # type: ignore[untyped-decorator]
    def _place(cls) -> str:  # noqa: N805
        return f"{cls.server.url.removeprefix('http').partition(':')[0]}://{cls.host}:{cls.server.port}"

    @classproperty  # type: ignore[untyped-decorator]
    def allowed_host(cls) -> str:  # noqa: N805
        """What is added to ``ALLOWED_HOSTS``."""
        return cls.host

    @classmethod
    def setUpClass(cls) -> None:
        _check_databases(cls._validate_databases(), cls.__name__)
        super().setUpClass()
        cls.enterClassContext(modify_settings(ALLOWED_HOSTS={"append": cls.allowed_host}))
        cls.server = _start_site(
            cls.databases,
            f"{cls.__module__}.{cls.__qualname__}.databases",
            cls._is_asgi(),
            cls.serve_static,
            {"host": cls.host, "port": cls.port, **cls.server_options},
        )
        cls.addClassCleanup(cls.server.stop)

    @classmethod
    def _is_asgi(cls) -> bool:
        return bool(getattr(settings, "ASGI_APPLICATION", None))

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Run the test; a note to an error has what the server has written meanwhile. In pytest our plugin shows it."""
        if "ifserver.testing.plugin" not in sys.modules:
            method = getattr(self, self._testMethodName)
            setattr(self, self._testMethodName, _with_output(method, self.server))
        return super().run(result)  # type: ignore[no-any-return]


class ChannelsLiveServerTestCase(LiveServerTestCase):
    """Channels' `ChannelsLiveServerTestCase` on ifserver: always the site's ``ASGI_APPLICATION``.

    Raises:
        ImproperlyConfigured: in ``setUpClass``: as `LiveServerTestCase`, or ``ASGI_APPLICATION`` is not set.
    """

    @classmethod
    def _is_asgi(cls) -> bool:
        if not super()._is_asgi():
            raise ImproperlyConfigured(f"{cls.__name__} runs the setting ASGI_APPLICATION, which is not set")
        return True


def start_session_site(options: Mapping[str, Any]) -> Server:
    """A server for all tests of a session, with all databases of which there are test databases.

    Args:
        options: arguments of `ifserver.testing.Server`.

    Raises:
        ImproperlyConfigured: as `LiveServerTestCase`.
        ServerError: the site cannot be loaded.
    """
    databases = [alias for alias in connections if _is_test_database(connections[alias])]
    _check_databases(databases, "ifserver_live_server")
    given = {"host": LiveServerTestCase.host, **options}
    with modify_settings(ALLOWED_HOSTS={"append": given["host"]}):
        is_asgi = bool(getattr(settings, "ASGI_APPLICATION", None))
        return _start_site(databases, "the databases of the mark django_db", is_asgi, True, given)


def _start_site(
    databases: Any, databases_of: str, is_asgi: bool, serve_static: bool, options: Mapping[str, Any]
) -> Server:
    """A server whose workers run this site with the settings that hold now.

    Args:
        databases: the aliases of the test databases that it may use.
        databases_of: what names them, for whoever uses another one.
        options: arguments of `ifserver.testing.Server`.

    Raises:
        ImproperlyConfigured: a setting cannot be told to workers.
        ServerError: the site cannot be loaded.
    """
    refusal = f"Queries to {{alias!r}} are not allowed in this test. Add {{alias!r}} to {databases_of}."
    names = {alias: connections[alias].settings_dict["NAME"] for alias in databases}
    site = Site.of_tests(names, refusal, is_asgi, serve_static)
    given = {"interface": "asgi" if is_asgi else "wsgi", **options}
    given["environment"] = {**site.environment(), **given.get("environment", {})}
    return Server("ifserver.django.tested_site:application", **given).start()


def _check_databases(databases: Any, who: str) -> None:
    for alias in databases:
        connection = connections[alias]
        if connection.vendor == "sqlite" and connection.is_in_memory_db():
            # Where processes are not forked, Django loads the file's copies into their memory. Python 3.14 forks none.
            is_forked = multiprocessing.get_start_method(allow_none=True) in (None, "fork")
            also = "" if is_forked else "; and in manage.py, call multiprocessing.set_start_method('fork')"
            raise ImproperlyConfigured(
                f"{who}: the test database {alias!r} is SQLite in memory, which the workers cannot share, because they "
                f"are processes of their own. Give it a file: in your settings, DATABASES[{alias!r}]['TEST'] = "
                f"{{'NAME': BASE_DIR / 'test.sqlite3'}}{also}"
            )


def _is_test_database(connection: Any) -> bool:
    """Whether a test database was made of it."""
    return bool(connection.settings_dict["NAME"] == connection.creation._get_test_db_name())


def _with_output(method: Any, server: Server) -> Any:
    @functools.wraps(method)
    def with_output(*args: Any, **kwargs: Any) -> Any:
        before = server.written
        try:
            return method(*args, **kwargs)
        except unittest.SkipTest:
            raise
        except Exception as error:
            text = server.settled_output(before)
            if text:
                error.add_note(f"What ifserver has written meanwhile:\n{text}")
            raise

    return with_output
