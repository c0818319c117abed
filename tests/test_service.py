"""What is put together from settings: what cannot be is said at once, and nothing is left behind.

That the parts work together is shown with real processes, in `tests/e2e`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from ifserver import sockets
from ifserver.errors import ConfigurationError
from ifserver.service import Listening, Runtime, ServeService
from ifserver.settings import ClusterSettings, FrontSettings, LayerSettings, NodeSettings, parse_cluster

T = TypeVar("T")

RUNTIME = Runtime(reactor, reactor._asyncioEventloop)  # type: ignore[attr-defined]
NOWHERE = LayerSettings(clusters=(parse_cluster("none=redis+unix:///nowhere"),))


def done(what: Awaitable[T]) -> Deferred[T]:
    """`what`, which is asyncio's, for a test that waits for Deferreds."""
    return Deferred.fromFuture(asyncio.ensure_future(what, loop=RUNTIME.loop))


def server(listening: Listening, layer: LayerSettings = NOWHERE, front: FrontSettings | None = None) -> ServeService:
    return ServeService(RUNTIME, front or FrontSettings(), layer, listening)


def is_open(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


@pytest_twisted.ensureDeferred
async def test_a_server_listens_from_its_start_to_its_stop(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    sock, file = sockets.bind_unix(str(path))
    assert file is not None
    service = server(Listening([sock], [f"unix:{tmp_path / 'other'}"], [file]))
    await done(service.start())
    assert is_open(path)
    assert is_open(tmp_path / "other")
    await done(service.stop())
    assert list(tmp_path.iterdir()) == []
    assert not service.ended.done()


@pytest_twisted.ensureDeferred
async def test_a_server_listens_everywhere_or_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    sock, file = sockets.bind_unix(str(path))
    assert file is not None
    first, second = f"unix:{tmp_path / 'first'}", "unix:/nowhere/sock"
    service = server(Listening([sock], [first, second], [file]))
    with pytest.raises(ConfigurationError, match=f"^cannot listen on {second}: "):
        await done(service.start())
    await done(service.stop())
    sock.close()
    assert list(tmp_path.iterdir()) == []


@pytest_twisted.ensureDeferred
async def test_a_server_that_was_never_started_can_be_stopped() -> None:
    service = server(Listening())
    await done(service.stop())


@pytest.mark.parametrize("text", ["", "nonsense:1", "tcp", "tcp:many", "ssl:0:privateKey=/nowhere.pem", "tcp:1:a=b"])
def test_an_endpoint_that_is_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--endpoint ") as caught:
        server(Listening(descriptions=[text]))
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)


def test_an_access_log_that_cannot_be_opened() -> None:
    with pytest.raises(ConfigurationError, match=r"^front\.access_log: '/nowhere/log': No such file or directory$"):
        server(Listening(), front=FrontSettings(access_log="/nowhere/log"))


def test_memory_is_no_node_that_others_can_reach() -> None:
    cluster = ClusterSettings(name="a", nodes=(NodeSettings(name="a", kind="memory"),))
    with pytest.raises(ConfigurationError, match="node a: memory is no kind of node that another process can reach"):
        server(Listening(), LayerSettings(clusters=(cluster,)))


@pytest_twisted.ensureDeferred
async def test_a_runtime_turns_deferreds_into_futures() -> None:
    deferred: Deferred[int] = Deferred()
    future = RUNTIME.future(deferred)
    deferred.callback(3)
    assert await done(future) == 3
