"""How a server's connections end, with connections that are played by the test."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver.config.settings import FrontSettings
from ifserver.front.deadlines import Deadlines
from ifserver.front.drain import Drain
from ifserver.front.http1.connection import Http1Connection


class Connection(Http1Connection):
    """Notes what is asked of it; ends when the test says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def shut_down(self) -> None:
        self.asked.append("shut down")

    def abort(self) -> None:
        self.asked.append("abort")


class Announced:
    """Connections that a proxy has not announced yet: only how many there are counts."""

    def __init__(self) -> None:
        self.waiting: list[str] = []

    def stop(self) -> None:
        self.waiting.clear()


class Stage:
    """A server's end, and the connections that it has."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.connections: set[Any] = {Connection() for _ in range(count)}
        self.announced: Any = Announced()
        self.idle: Deadlines[Any] = Deadlines(self.clock, 75.0, Connection.shut_down)
        self.clock.advance(60.0)
        for each in self.connections:
            self.idle.add(each)
        self.drain = Drain(self.connections, self.idle, self.announced, self.clock)
        self.over: list[None] = []

    def say(self, quick: bool = False) -> None:
        self.drain.say(FrontSettings(drain_timeout_s=8.0), quick).addCallback(self.over.append)

    def asked(self) -> list[list[str]]:
        return [each.asked for each in self.connections]

    def leave(self) -> None:
        """One connection is gone."""
        self.idle.pop(self.connections.pop(), None)
        if not self.connections:
            self.idle.stop()
        self.drain.look()


def test_without_connections_there_is_nothing_to_wait_for() -> None:
    stage = Stage(0)
    stage.say()
    assert stage.over == [None]
    assert stage.clock.getDelayedCalls() == []


def test_it_is_over_when_the_last_one_is_gone() -> None:
    stage = Stage(2)
    stage.drain.look()
    stage.say()
    stage.leave()
    assert stage.over == []
    stage.leave()
    stage.drain.look()
    assert stage.over == [None]
    assert stage.clock.getDelayedCalls() == []


@pytest.mark.parametrize(("quick", "idle_s", "timeout_s"), [(False, 0.5, 8.0), (True, 0.0, 5.0)])
def test_those_without_a_request_are_told_first_and_what_is_left_is_cut(
    quick: bool, idle_s: float, timeout_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(2)
    stage.say(quick)
    stage.clock.advance(idle_s)
    assert stage.asked() == [["shut down"]] * 2
    stage.clock.advance(timeout_s - idle_s - 0.1)
    assert stage.asked() == [["shut down"]] * 2
    stage.clock.advance(0.1)
    assert stage.asked() == [["shut down", "abort"]] * 2
    assert "cutting 2 connections that did not end within" in caplog.text
    stage.leave()
    stage.leave()
    assert stage.over == [None]


def test_those_that_a_proxy_may_yet_announce_are_waited_for() -> None:
    stage = Stage(0)
    stage.announced.waiting.append("connection")
    stage.say()
    assert stage.over == []
    stage.clock.advance(0.5)
    assert stage.over == [None]


def test_nothing_is_waited_for_once_all_is_cut() -> None:
    stage = Stage(1)
    stage.announced.waiting.append("connection")
    stage.say()
    stage.drain.cut()
    assert stage.asked() == [["abort"]]
    stage.leave()
    assert stage.over == [None]
    assert stage.clock.getDelayedCalls() == []
