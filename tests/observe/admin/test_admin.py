"""The admin endpoint from its start to its stop, on a real socket."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from ifserver.errors import ConfigurationError
from ifserver.observe.admin import Admin
from tests.observe.admin.stage import Stage

LOOP = reactor._asyncioEventloop  # type: ignore[attr-defined]


def done(what: Any) -> Deferred[Any]:
    return Deferred.fromFuture(asyncio.ensure_future(what, loop=LOOP))


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := client.recv(65536):
            answer += data
    return answer


def admin(address: str | None) -> Admin:
    return Admin(Stage().subject, reactor, LOOP, address, ())


@pytest_twisted.ensureDeferred
async def test_it_answers_from_its_start_to_its_stop() -> None:
    each = admin("127.0.0.1:0")
    await done(each.start())
    port = each._ports[0].getHost().port
    assert (await deferToThread(ask, port)).endswith(b"alive\n")
    # One that says nothing does not keep it from ending.
    with socket.create_connection(("127.0.0.1", port), 20) as silent:
        await deferToThread(ask, port)
        await done(each.stop())
        silent.settimeout(120)
        with pytest.raises(ConnectionResetError):
            await deferToThread(silent.recv, 1)
    with pytest.raises(ConnectionRefusedError):
        await deferToThread(ask, port)


@pytest_twisted.ensureDeferred
async def test_an_address_that_cannot_be_had() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        each = admin(f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ConfigurationError, match="Address already in use"):
            await done(each.start())
        await done(each.stop())


@pytest_twisted.ensureDeferred
async def test_without_an_address_there_is_none() -> None:
    each = admin(None)
    await done(each.start())
    assert each._ports == []
    await done(each.stop())


def test_what_is_not_asked_for_is_not_imported() -> None:
    """So that worker processes, which never have one, are as small and as quick to start as before."""
    import subprocess

    code = "import ifserver.services.server, sys; print(sorted({n.split('.')[0] for n in sys.modules}))"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert "prometheus_client" not in modules
    assert "'rich'" not in modules
