"""Several servers and their parent, on a clock that the tests turn; the processes are fakes."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver.process.servers import Report, Servers


class FakeServer:
    """A process."""

    def __init__(self, stage: Stage, number: int, calls: tuple[Callable[..., None], ...]) -> None:
        self.number = number
        self.pid = 100 + len(stage.started)
        self.status: int | None = None
        self.signals: list[signal.Signals] = []
        self.ready, self.reported, self._ended = calls

    @property
    def ending(self) -> str:
        return f"exit code {self.status}"

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)

    def kill(self) -> None:
        self.signals.append(signal.SIGKILL)

    def end(self, status: int = 0) -> None:
        """It ends."""
        self.status = status
        self._ended()


class Stage:
    """Servers that are fakes."""

    def __init__(self, count: int = 2) -> None:
        self.clock = Clock()
        self.started: list[FakeServer] = []
        self.failing = 0
        self.ready = 0
        self.failed: list[int] = []
        self.servers = Servers(count, self._start, self.clock, self._ready, self.failed.append)

    def _start(
        self, number: int, ready: Callable[[], None], reported: Callable[[Report], None], ended: Callable[[], None]
    ) -> Any:
        if self.failing:
            self.failing -= 1
            raise OSError(11, "Resource temporarily unavailable")
        server = FakeServer(self, number, (ready, reported, ended))
        self.started.append(server)
        return server

    def _ready(self) -> None:
        self.ready += 1

    def begin(self) -> list[FakeServer]:
        """Start them, until they are ready."""
        self.servers.start()
        for server in self.started:
            server.ready()
        return list(self.started)

    def report(self, seconds: int, *servers: FakeServer) -> None:
        """Let time pass, while these servers report."""
        for _ in range(seconds):
            self.clock.advance(1.0)
            for server in servers:
                server.reported(Report(1, 2))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> list[None]:
        done: list[None] = []
        self.servers.stop(number, 30.0).addCallback(done.append)
        return done


def test_they_are_ready_when_all_are() -> None:
    stage = Stage(3)
    stage.servers.start()
    assert [server.number for server in stage.started] == [0, 1, 2]
    for server, ready in zip(stage.started, (0, 0, 1), strict=True):
        server.ready()
        assert stage.ready == ready
    assert stage.servers.serving() == 3


def test_what_they_report() -> None:
    stage = Stage()
    first, second = stage.begin()
    first.reported(Report(3, 4))
    second.reported(Report(10, 20))
    assert stage.servers.report() == Report(13, 24)
    first.end(1)
    assert stage.servers.report() == Report(10, 20)


def test_one_that_has_crashed_is_replaced_and_ever_later(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(1)
    [server] = stage.begin()
    for latest in (0.14, 0.27, 0.53, 1.05, 2.1, 2.7):
        count = len(stage.started)
        server.end(-9)
        assert stage.servers.serving() == 0
        stage.clock.advance(latest / 3)
        assert len(stage.started) == count, "not at once"
        stage.clock.advance(latest)
        assert len(stage.started) == count + 1
        server = stage.started[-1]
        server.ready()
    assert stage.ready == 1, "this is told once"
    stage.report(11, server)
    server.end(-9)
    stage.clock.advance(0.14)
    assert stage.started[-1] is not server, "one that has lived long begins anew"
    assert "server 101 has ended (exit code -9); a new server starts in " in caplog.text


def test_one_that_cannot_be_started_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.failing = 1
    stage.servers.start()
    assert [server.number for server in stage.started] == [1]
    stage.clock.advance(0.2)
    assert [server.number for server in stage.started] == [1, 0]
    assert "cannot start a server: [Errno 11] Resource temporarily unavailable; trying again in 0.1 s" in caplog.text


def test_what_the_operator_has_to_mend_ends_them_before_they_were_ready() -> None:
    stage = Stage()
    stage.servers.start()
    stage.started[0].end(2)
    assert stage.failed == [2]
    stage.started[1].end(2)
    assert stage.failed == [2]


def test_later_it_is_a_crash_like_any_other() -> None:
    stage = Stage()
    stage.begin()[0].end(2)
    assert stage.failed == []
    stage.clock.advance(1.0)
    assert len(stage.started) == 3


def test_signals_are_handed_on_and_to_those_that_start_as_soon_as_they_can() -> None:
    stage = Stage()
    first, second = stage.begin()
    second.end(-9)
    stage.clock.advance(0.2)
    third = stage.started[-1]
    stage.servers.forward(signal.SIGHUP)
    assert (first.signals, third.signals) == ([signal.SIGHUP], [])
    third.ready()
    assert third.signals == [signal.SIGHUP]
    third.end(-9)
    stage.servers.forward(signal.SIGUSR1)
    stage.clock.advance(1.0)
    stage.started[-1].ready()
    assert stage.started[-1].signals == [], "to one that was started later it has nothing to say"


def test_one_that_reports_nothing_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    first, second = stage.begin()
    stage.report(14, first)
    assert second.signals == []
    stage.report(1, first)
    assert second.signals == [signal.SIGKILL]
    assert first.signals == []
    assert "server 101 has reported nothing for 15 s: killing it" in caplog.text


def test_a_parent_that_has_stood_still_blames_nobody() -> None:
    stage = Stage(1)
    [server] = stage.begin()
    stage.report(2, server)
    stage.clock.advance(100.0)
    assert server.signals == []
    stage.report(20, server)
    assert server.signals == []


def test_one_that_does_not_get_ready_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(1)
    stage.servers.start()
    stage.report(59)
    assert stage.started[0].signals == []
    stage.report(1)
    assert stage.started[0].signals == [signal.SIGKILL]
    assert "server 100 has not got ready for 60 s: killing it" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_the_end(number: signal.Signals) -> None:
    stage = Stage()
    first, second = stage.begin()
    done = stage.stop(number)
    assert (first.signals, second.signals) == ([number], [number])
    first.end()
    assert done == []
    second.end()
    assert done == [None]
    assert stage.stop() == [None]
    assert len(stage.started) == 2
    assert stage.clock.getDelayedCalls() == []


def test_the_end_while_some_start_and_others_wait_for_it() -> None:
    stage = Stage(3)
    stage.servers.start()
    for server in stage.started[:2]:
        server.ready()
    stage.started[0].end(1)
    done = stage.stop(signal.SIGQUIT)
    assert stage.started[1].signals == [signal.SIGQUIT]
    assert stage.started[2].signals == [signal.SIGTERM], "it handles nothing yet"
    stage.started[1].end()
    stage.started[2].ready()
    stage.started[2].end()
    assert (done, stage.ready) == ([None], 0)
    assert stage.clock.getDelayedCalls() == []


def test_one_that_does_not_end_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(1)
    [server] = stage.begin()
    done = stage.stop()
    with caplog.at_level(logging.WARNING):
        stage.clock.advance(34.9)
        assert server.signals == [signal.SIGTERM]
        stage.clock.advance(0.2)
    assert server.signals == [signal.SIGTERM, signal.SIGKILL]
    assert "server 100 has not stopped in time: killing it" in caplog.text
    server.end(-9)
    assert done == [None]


def test_the_end_of_servers_that_were_never_started() -> None:
    assert Stage().stop() == [None]
