"""The pytest plugin: fixtures that give a server under test, and its output beside a test that fails.

Every run of pytest loads this where ifserver is installed. So it imports nothing that only a test with a server needs.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from ifserver.testing.server import Server

__all__ = [
    "ServerFactory",
    "ifserver_live_server",
    "ifserver_live_server_options",
    "ifserver_server",
    "ifserver_server_factory",
]


class ServerFactory(Protocol):
    """Starts a server with an application: the arguments are those of `ifserver.testing.Server`."""

    def __call__(self, application: Any, **options: Any) -> Server: ...


@pytest.fixture
def ifserver_server() -> Iterator[ServerFactory]:
    """Starts ifserver with an ASGI or WSGI application: ``server = ifserver_server("mysite.asgi:application")``.

    May be called several times. The servers end with the test.
    """
    yield from _factory()


@pytest.fixture(scope="session")
def ifserver_server_factory() -> Iterator[ServerFactory]:
    """As ``ifserver_server``, for fixtures of a wider scope. The servers end with the session, or where a ``with``
    block ends."""
    yield from _factory()


def _factory() -> Iterator[ServerFactory]:
    from ifserver.testing.server import Server

    with ExitStack() as running:

        def start(application: Any, **options: Any) -> Server:
            __tracebackhide__ = True
            server = Server(application, **options)
            running.callback(server.stop)
            return server.start()

        yield start


# For sites of Django, with pytest-django.


@pytest.fixture(scope="session")
def ifserver_live_server_options() -> Mapping[str, Any]:
    """Arguments of `ifserver.testing.Server` for ``ifserver_live_server``: to be overridden in a conftest.py."""
    return {}


@pytest.fixture(scope="session")
def _ifserver_site(django_db_setup: None, ifserver_live_server_options: Mapping[str, Any]) -> Iterator[Server]:
    from ifserver.django import testing

    with testing.start_session_site(ifserver_live_server_options) as server:
        yield server


@pytest.fixture
def ifserver_live_server(transactional_db: None, _ifserver_site: Server) -> Server:
    """The site of Django on ifserver, on the test databases, as pytest-django's ``live_server``.

    One server runs for the whole session, with the settings that hold when the first test asks for it.
    """
    return _ifserver_site


# What servers have written, beside a test that fails.


def _servers() -> list[Server]:
    module = sys.modules.get("ifserver.testing.server")
    return [] if module is None else sorted(module.SERVERS, key=lambda server: server.number)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logstart() -> None:
    """A test begins, for which nothing counts that was written before."""
    for server in _servers():
        server.written_before = server.written


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[Any]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """It has failed: show what was written meanwhile, but for what its error shows already."""
    report = yield
    for server in _servers() if report.failed else []:
        text = server.settled_output(server.written_before)
        server.written_before = server.written
        if text and (call.excinfo is None or text not in str(call.excinfo.value)):
            report.sections.append((f"ifserver at {server.url}, {server.application}, {report.when}", text))
    return report
