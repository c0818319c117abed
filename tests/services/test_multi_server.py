"""Several servers: what each is told, and what cannot be. `tests/e2e/test_restarting.py` shows that they serve."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import pytest
import pytest_twisted
from msgspec import structs
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from ifserver.config.configuration import CommandSettings
from ifserver.config.node_urls import parse_cluster
from ifserver.config.settings import FrontSettings, LayerSettings, LogSettings
from ifserver.errors import ConfigurationError
from ifserver.process import addresses
from ifserver.process.addresses import ServerLaunch
from ifserver.process.servers import Report
from ifserver.services import multi_server
from ifserver.services.multi_server import MemberService, MultiServerService
from ifserver.services.server import Listening
from ifserver.services.service import Runtime

T = TypeVar("T")

RUNTIME = Runtime(reactor, reactor._asyncioEventloop)  # type: ignore[attr-defined]
LAYER = LayerSettings(clusters=(parse_cluster("none=redis+unix:///nowhere"),))
SETTINGS = CommandSettings(layer=LAYER)


def done(what: Awaitable[T]) -> Deferred[T]:
    """`what`, which is asyncio's, for a test that waits for Deferreds."""
    return Deferred.fromFuture(asyncio.ensure_future(what, loop=RUNTIME.loop))


class FakeChild:
    """A server that is told what `addresses.start_server` is told."""

    status = None
    ending = "exit code 0"

    def __init__(self, pid: int, launch: ServerLaunch, ready: Callable[[], None], ended: Callable[[], None]) -> None:
        self.pid = pid
        self.launch = launch
        self.ready, self.ended = ready, ended
        self.report = socket.socket(fileno=os.dup(launch.report_fd))
        self.signals: list[signal.Signals] = []

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)
        if number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR2):
            self.report.close()
            RUNTIME.loop.call_soon(self.ended)


class Stage:
    """Several servers that are fakes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int = 2, front: FrontSettings | None = None) -> None:
        self.children: list[FakeChild] = []
        monkeypatch.setattr(addresses, "start_server", self._start)
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.sockets = [socket.socket(fileno=os.dup(sock.fileno()))]
        self.settings = structs.replace(SETTINGS, front=front or FrontSettings())
        self.service = MultiServerService(RUNTIME, count, self.settings, Listening(self.sockets), ["serve", "-p", "0"])

    def _start(
        self, launch: ServerLaunch, loop: object, ready: Callable[[], None], ended: Callable[[], None]
    ) -> FakeChild:
        self.children.append(FakeChild(100 + len(self.children), launch, ready, ended))
        return self.children[-1]


@pytest_twisted.ensureDeferred
async def test_what_each_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        stage = Stage(monkeypatch, front=FrontSettings(admin="127.0.0.1:9100"))
        await stage.service.start()
        first, second = (child.launch for child in stage.children)
        assert (first.settings.front.admin, second.settings.front.admin) == ("127.0.0.1:9100", "127.0.0.1:9101")
        assert first.sockets == second.sockets == (stage.sockets[0].fileno(),)
        assert (first.parent, first.words, first.settings.log, first.settings.layer) == (
            os.getpid(), ("serve", "-p", "0"), LogSettings(), LAYER,
        )  # fmt: skip
        await stage.service.stop()
        assert stage.sockets[0].fileno() == -1, "nobody who connects now is kept waiting"

    await done(main())


@pytest_twisted.ensureDeferred
async def test_it_is_ready_and_well_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        stage = Stage(monkeypatch)
        await stage.service.start()
        first, second = stage.children
        first.ready()
        assert not stage.service.ready
        second.ready()
        assert stage.service.ready
        first.report.send(msgspec.msgpack.encode(Report(3, 4)))
        first.report.send(b"\xc1")
        second.report.send(msgspec.msgpack.encode(Report(1, 1)))
        while stage.service.counts() != {"connections": 4, "streams": 5, "servers": 2}:
            await asyncio.sleep(0)
        assert stage.service.well()
        for child in (first, second):
            child.report.close()
            child.ended()
        assert not stage.service.well()
        await stage.service.stop()

    await done(main())


@pytest_twisted.ensureDeferred
async def test_signals_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        stage = Stage(monkeypatch)
        await stage.service.start()
        for child in stage.children:
            child.ready()
        stage.service.reopen_logs()
        new = structs.replace(stage.settings, front=FrontSettings(max_headers=7), log=LogSettings(verbosity=2))
        assert "front.max_headers" in stage.service.reload(new)
        assert stage.children[0].signals == stage.children[1].signals == [signal.SIGUSR1, signal.SIGHUP]
        launch = stage.service._start_server(0, lambda: None, lambda report: None, lambda: None)
        assert stage.children[-1] is launch  # type: ignore[comparison-overlap]
        assert (
            stage.children[-1].launch.settings.front.max_headers,
            stage.children[-1].launch.settings.log.verbosity,
        ) == (7, 2)
        stage.children[-1].signal(signal.SIGTERM)
        stage.service.quick = True
        await stage.service.stop()
        assert stage.children[0].signals[2:] == [signal.SIGQUIT]

    await done(main())


@pytest_twisted.ensureDeferred
async def test_the_end_waits_as_its_servers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        stage = Stage(monkeypatch, front=FrontSettings(shutdown_delay_s=3600.0))
        await stage.service.start()
        for child in stage.children:
            child.ready()
        stopping = asyncio.ensure_future(stage.service.stop())
        while not stage.children[0].signals:
            await asyncio.sleep(0)
        assert stage.sockets[0].fileno() != -1
        stage.service.stop_now()
        await stopping
        assert stage.sockets[0].fileno() == -1

    await done(main())


def test_what_cannot_be_shared() -> None:
    with pytest.raises(ConfigurationError, match=r"^--endpoint 'tcp:0': cannot be shared by several processes"):
        MultiServerService(RUNTIME, 2, SETTINGS, Listening(descriptions=["tcp:0"]), [])
    settings = structs.replace(SETTINGS, front=FrontSettings(admin="127.0.0.1:65534"))
    with pytest.raises(
        ConfigurationError, match=r"^front\.admin: 3 servers need as many ports, got 127\.0\.0\.1:65534"
    ):
        MultiServerService(RUNTIME, 3, settings, Listening(), [])


@pytest.mark.parametrize(
    ("admin", "number", "found"),
    [
        (None, 3, None),
        ("127.0.0.1:0", 3, "127.0.0.1:0"),
        ("127.0.0.1:9100", 0, "127.0.0.1:9100"),
        ("localhost:9100", 2, "localhost:9102"),
        ("[::1]:9100", 1, "[::1]:9101"),
    ],
)
def test_each_has_an_admin_endpoint_of_its_own(admin: str | None, number: int, found: str | None) -> None:
    assert multi_server._front_of(FrontSettings(admin=admin), number).admin == found


@pytest_twisted.ensureDeferred
async def test_a_member_reports() -> None:
    async def main() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        read_end, write_end = os.pipe()
        launch = ServerLaunch(
            sockets=(sock.fileno(),), parent=os.getpid(), words=(),
            settings=SETTINGS, report_fd=theirs.detach(), taken_over=False, ready_fd=write_end,
        )  # fmt: skip
        sock.detach()
        member = MemberService(RUNTIME, launch)
        await member.start()
        assert os.read(read_end, 10) == b"."
        assert msgspec.msgpack.decode(ours.recv(100), type=Report) == Report(0, 0)
        ours.close()
        member._report()  # a parent that is gone
        await member.stop()
        os.close(read_end)

    await done(main())


@pytest_twisted.ensureDeferred
async def test_its_servers_are_told_of_a_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        stage = Stage(monkeypatch, front=FrontSettings(shutdown_delay_s=3600.0))
        await stage.service.start()
        for child in stage.children:
            child.ready()
        stage.service.succeeded = True
        await stage.service.stop()
        assert [child.signals for child in stage.children] == [[signal.SIGUSR2]] * 2

    await done(main())
