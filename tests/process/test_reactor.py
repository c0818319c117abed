"""The reactor's time, on the reactor that these tests themselves run on."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import uvloop
from twisted.internet import reactor as installed
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorAlreadyInstalledError
from twisted.internet.task import LoopingCall

from ifserver.process.reactor import MonotonicReactor, install
from tests.certificates import Certificates
from tests.layers.helpers import async_test

REACTOR: Any = installed


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of Twisted's own reactors goes back by an hour each time that it is looked at."""
    shown = [time.time()]

    def look() -> float:
        shown[0] -= 3600
        return shown[0]

    monkeypatch.setattr(ReactorBase, "seconds", staticmethod(look))


def later(seconds: float) -> Deferred[float]:
    """When it is called by the monotonic clock, after so many seconds."""
    fires: Deferred[float] = Deferred()
    REACTOR.callLater(seconds, lambda: fires.callback(time.monotonic()))
    return fires


def turn() -> Deferred[None]:
    """Fires in the loop's next turn."""
    fires: Deferred[None] = Deferred()
    REACTOR._asyncioEventloop.call_soon(fires.callback, None)
    return fires


def test_the_tests_run_on_the_products_reactor() -> None:
    assert type(REACTOR) is MonotonicReactor


def test_there_is_one_reactor() -> None:
    with contextlib.closing(uvloop.new_event_loop()) as loop, pytest.raises(ReactorAlreadyInstalledError):
        install(loop)


def test_its_time_is_the_monotonic_clock() -> None:
    before = time.monotonic()
    assert before <= REACTOR.seconds() <= time.monotonic()


@async_test
async def test_calls_are_made_in_time_and_in_order(wall: None) -> None:
    begin = time.monotonic()
    second, first = later(0.1), later(0.05)
    assert await first - begin >= 0.05
    assert not second.called
    assert 0.1 <= await second - begin < 5


@async_test
async def test_a_call_can_be_put_off_brought_forward_and_cancelled(wall: None) -> None:
    made: list[str] = []
    begin = REACTOR.seconds()
    call = REACTOR.callLater(60, made.append, "soon")
    assert begin + 60 <= call.getTime() <= REACTOR.seconds() + 60
    call.reset(0.01)
    assert call.getTime() < REACTOR.seconds() + 1
    cancelled = REACTOR.callLater(0.01, made.append, "cancelled")
    put_off = REACTOR.callLater(0.01, made.append, "put off")
    put_off.delay(60)
    assert put_off.getTime() > begin + 60
    cancelled.cancel()
    await later(0.05)
    assert made == ["soon"]
    assert put_off.active()
    put_off.cancel()


@async_test
async def test_the_loop_sleeps_until_a_call_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    run_until_current = ReactorBase.runUntilCurrent

    def look(reactor: Any) -> None:
        looks.append(time.monotonic())
        run_until_current(reactor)

    monkeypatch.setattr(ReactorBase, "runUntilCurrent", look)
    for _ in range(20):
        await later(0.0104)
    # Twisted's own reactor on uvloop looks some twenty times each, without rest in between.
    assert 20 <= len(looks) <= 40


@async_test
async def test_what_is_due_does_not_wait_for_the_millisecond_of_another_call() -> None:
    await turn()  # out of what the reactor calls, behind which it looks again
    other = REACTOR.callLater(0.0501, int)
    while time.monotonic() < other.getTime() + 0.0002:
        pass
    made, turns = later(0), 0
    while not made.called:
        await turn()
        turns += 1
    assert turns <= 3


@async_test
async def test_what_loops_goes_on(wall: None) -> None:
    turns: list[float] = []
    enough: Deferred[None] = Deferred()

    def turn() -> None:
        turns.append(time.monotonic())
        if len(turns) == 5:
            enough.callback(None)

    loop = LoopingCall(turn)
    loop.clock = REACTOR
    ended = loop.start(0.02)
    await enough
    loop.stop()
    await ended
    assert 0.08 - 0.01 <= turns[-1] - turns[0] < 5


def test_tls_of_twisteds_own_is_imported_when_it_is_used() -> None:
    text = """
        import asyncio, sys
        import uvloop
        from ifserver.net import lean_imports
        lean_imports.be_lean()
        from ifserver.process import reactor as ours
        assert "OpenSSL" not in sys.modules
        reactor = ours.install(uvloop.new_event_loop())
        from twisted.internet import defer, endpoints, interfaces, protocol, ssl
        assert interfaces.IReactorSSL.providedBy(reactor)

        class Echo(protocol.Protocol):
            def dataReceived(self, data):
                self.transport.write(data)

        class Says(protocol.Protocol):
            def connectionMade(self):
                self.transport.write(b"over TLS")

            def dataReceived(self, data):
                print(data.decode())
                reactor.stop()

        async def main():
            server = endpoints.serverFromString(reactor, "ssl:0:interface=127.0.0.1:privateKey=%s:certKey=%s")
            port = (await server.listen(protocol.Factory.forProtocol(Echo))).getHost().port
            client = protocol.ClientFactory.forProtocol(Says)
            reactor.connectSSL("127.0.0.1", port, client, ssl.CertificateOptions())

        reactor.callWhenRunning(lambda: defer.Deferred.fromCoroutine(main()))
        reactor.run()
    """
    with Certificates() as certificates:
        files = certificates.path("server.key"), certificates.path("server.pem")
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(text) % files],
            capture_output=True,
            text=True,
            timeout=50,
            cwd=Path(__file__).parents[2],
        )
    assert (done.stdout, done.returncode) == ("over TLS\n", 0), done.stderr
