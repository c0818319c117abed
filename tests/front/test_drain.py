"""How a server's connections end, with connections that are played by the test."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from ifserver.config.settings import FrontSettings
from ifserver.front.deadlines import Deadlines
from ifserver.front.drain import Drain, DrainPlan, Spread
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

    def begin(self, quick: bool = False) -> None:
        self.drain.begin(FrontSettings(drain_timeout_s=8.0), quick).addCallback(self.over.append)

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
    stage.begin()
    assert stage.over == [None]
    assert stage.clock.getDelayedCalls() == []


def test_it_is_over_when_the_last_one_is_gone() -> None:
    stage = Stage(2)
    stage.drain.look()
    stage.begin()
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
    stage.begin(quick)
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
    stage.begin()
    assert stage.over == []
    stage.clock.advance(0.5)
    assert stage.over == [None]


def test_nothing_is_waited_for_once_all_is_cut() -> None:
    stage = Stage(1)
    stage.announced.waiting.append("connection")
    stage.begin()
    stage.drain.cut()
    assert stage.asked() == [["abort"]]
    stage.leave()
    assert stage.over == [None]
    assert stage.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("timeout_s", "close_timeout_s", "websockets", "quick", "plan"),
    [
        (30.0, 5.0, 0, False, (0.5, 0.0, 30.0)),
        (30.0, 5.0, 10, False, (0.5, 1.0, 30.0)),
        (30.0, 5.0, 1000, False, (0.5, 25.0, 30.0)),
        (8.0, 5.0, 1000, False, (0.5, 4.0, 8.0)),
        (0.0, 5.0, 1000, False, (0.0, 0.0, 0.0)),
        (0.2, 5.0, 1000, False, (0.2, 0.1, 0.2)),
        (30.0, 5.0, 1000, True, (0.0, 0.0, 5.0)),
        (3.0, 5.0, 1000, True, (0.0, 0.0, 3.0)),
    ],
)
def test_plans(
    timeout_s: float, close_timeout_s: float, websockets: int, quick: bool, plan: tuple[float, float, float]
) -> None:
    assert DrainPlan.of(timeout_s, close_timeout_s, websockets, quick) == pytest.approx(plan)


def spread(clock: Clock, count: int, window_s: float) -> tuple[Spread[int], list[float]]:
    times: list[float] = []
    return Spread(clock, range(count), window_s, lambda _: times.append(clock.seconds())), times


def turn(clock: Clock) -> None:
    """Let everything come that there is to come."""
    while clock.getDelayedCalls():
        clock.advance(clock.getDelayedCalls()[0].getTime() - clock.seconds())


def test_a_few_are_called_one_by_one() -> None:
    clock = Clock()
    _, times = spread(clock, 4, 2.0)
    turn(clock)
    assert times == pytest.approx([0.0, 0.5, 1.0, 1.5])


def test_all_in_their_order() -> None:
    clock, seen = Clock(), list[str]()
    Spread(clock, "abc", 3.0, seen.append)
    assert seen == ["a"]
    turn(clock)
    assert seen == ["a", "b", "c"]


def test_nobody_and_no_time() -> None:
    clock = Clock()
    assert spread(clock, 0, 5.0)[1] == []
    assert spread(clock, 3, 0.0)[1] == [0.0, 0.0, 0.0]
    assert clock.getDelayedCalls() == []


def test_no_more_are_called_once_it_is_stopped() -> None:
    clock = Clock()
    each, times = spread(clock, 4, 2.0)
    each.stop()
    each.stop()
    assert clock.getDelayedCalls() == []
    assert times == [0.0]


def test_a_loop_that_stood_still_catches_up() -> None:
    clock = Clock()
    _, times = spread(clock, 10, 10.0)
    clock.advance(5.5)
    assert len(times) == 6
    clock.advance(60.0)
    assert len(times) == 10


@given(st.integers(1, 3_000), st.floats(0.0, 60.0))
def test_they_are_spread_evenly(count: int, window_s: float) -> None:
    clock = Clock()
    _, times = spread(clock, count, window_s)
    turns = 0
    while clock.getDelayedCalls():
        clock.advance(clock.getDelayedCalls()[0].getTime() - clock.seconds())
        turns += 1
    assert len(times) == count
    assert turns <= window_s / 0.02 + 1
    for number, time in enumerate(times):
        assert -0.001 <= time - number * window_s / count <= 0.021
