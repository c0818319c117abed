"""What is put together from settings: what cannot be is said at once, and nothing is left behind.

That the parts work together is shown with real processes, in `tests/e2e`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from ifserver.config.configuration import CommandSettings
from ifserver.config.node_urls import ClusterSettings, NodeSettings, parse_cluster
from ifserver.config.settings import FrontSettings, LayerSettings
from ifserver.errors import ConfigurationError
from ifserver.net import sockets
from ifserver.services.server import Listening, ServeService
from ifserver.services.service import Runtime

T = TypeVar("T")

RUNTIME = Runtime(reactor, reactor._asyncioEventloop)  # type: ignore[attr-defined]
NOWHERE = LayerSettings(clusters=(parse_cluster("none=redis+unix:///nowhere"),))


def done(what: Awaitable[T]) -> Deferred[T]:
    """`what`, which is asyncio's, for a test that waits for Deferreds."""
    return Deferred.fromFuture(asyncio.ensure_future(what, loop=RUNTIME.loop))


def server(listening: Listening, layer: LayerSettings = NOWHERE, front: FrontSettings | None = None) -> ServeService:
    return ServeService(RUNTIME, CommandSettings(front=front or FrontSettings(), layer=layer), listening)


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


# While it runs.


def serving(folder: Path, **front: Any) -> ServeService:
    """A server that listens on a Unix socket."""
    sock, file = sockets.bind_unix(str(folder / "sock"))
    assert file is not None
    return server(Listening([sock], files=[file]), front=FrontSettings(**front))


@pytest_twisted.ensureDeferred
async def test_it_is_ready_from_its_start_to_the_beginning_of_its_end(tmp_path: Path) -> None:
    service = serving(tmp_path, shutdown_delay_s=3600.0)
    assert not service.ready
    await done(service.start())
    assert service.ready
    assert service.well()
    assert service.counts() == {"connections": 0, "streams": 0}
    stopping = done(service.stop())
    await done(asyncio.sleep(0))
    assert not service.ready
    assert is_open(tmp_path / "sock"), "clients have time to notice"
    service.stop_now()
    await stopping
    assert not is_open(tmp_path / "sock")


@pytest.mark.parametrize("why", ["quick", "succeeded"])
@pytest_twisted.ensureDeferred
async def test_an_end_that_needs_no_delay(tmp_path: Path, why: str) -> None:
    service = serving(tmp_path, shutdown_delay_s=3600.0)
    await done(service.start())
    setattr(service, why, True)
    await done(service.stop())
    assert (tmp_path / "sock").exists() == (why == "succeeded"), "the file is the successor's"


@pytest_twisted.ensureDeferred
async def test_one_that_listens_no_more_is_not_well(tmp_path: Path) -> None:
    service = serving(tmp_path)
    await done(service.start())
    await done(service._listener.stop())
    assert not service.well()
    await done(service.stop())
    assert service.well(), "it ends, and must not be killed for that"


@pytest_twisted.ensureDeferred
async def test_new_settings(tmp_path: Path) -> None:
    service = serving(tmp_path, max_headers=20)
    await done(service.start())
    new = FrontSettings(max_headers=7, proxy_protocol=True)
    live = service.reload(CommandSettings(front=new))
    assert "front.max_headers" in live
    assert "front.proxy_protocol" not in live
    assert (service.server.settings.max_headers, service.server.settings.proxy_protocol) == (7, False)
    await done(service.stop())


@pytest_twisted.ensureDeferred
async def test_a_folder_for_files_that_is_gone_is_no_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    service = serving(tmp_path, file_roots=(str(tmp_path),))
    await done(service.start())
    live = service.reload(CommandSettings(front=FrontSettings(file_roots=(str(tmp_path / "no"),), max_headers=7)))
    assert "front.max_headers" in live
    assert "front.file_roots" not in live
    assert "No such file or directory; the roots before are kept" in caplog.text
    await done(service.stop())


@pytest_twisted.ensureDeferred
async def test_a_log_that_was_moved_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = tmp_path / "logs/log"
    log.parent.mkdir()
    service = serving(tmp_path, access_log=str(log))
    await done(service.start())
    log.rename(tmp_path / "old")
    service.reopen_logs()
    assert log.exists()
    log.unlink()
    log.parent.rmdir()
    before = service.server.access_log
    service.reopen_logs()
    assert service.server.access_log is before
    assert "the old file is kept" in caplog.text
    await done(service.stop())


@pytest_twisted.ensureDeferred
async def test_a_successor_waits_for_the_admin_endpoint_of_the_one_before(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = server(Listening(taken_over=True), front=FrontSettings(admin=f"127.0.0.1:{port}"))
        await done(service.start())
        assert service.ready
        assert service._admin_starting is not None
        assert not service._admin_starting.done()
    await done(service._admin_starting)
    with socket.create_connection(("127.0.0.1", port)):
        pass
    await done(service.stop())
