"""When connections are closed at the end, on a clock that the tests turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from ifserver.front.drain_plan import DrainPlan, Spread


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
