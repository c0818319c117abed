"""Which order counts, however and in whatever order it is heard."""

from __future__ import annotations

from itertools import permutations

import msgspec
import pytest
from twisted.internet.task import Clock

from ifserver.layers import operator_orders as orders
from ifserver.layers.operator_orders import Board, Fact, Order, Pause, Weights


def order(at: float, fact: Fact, by: str = "a") -> Order:
    return Order(at, by, fact)


def test_the_latest_order_about_each_thing_counts_in_whatever_order_they_come() -> None:
    given = [
        order(1.0, Pause("", 60.0)),
        order(2.0, Pause("", 0.0)),
        order(2.0, Pause("web", 30.0)),
        order(1.0, Weights("web", {"web": 95, "next": 5})),
        order(3.0, Weights("web", {"web": 80, "next": 20})),
    ]
    for each in permutations(given):
        board = Board(Clock())
        for one in each:
            board.take([one])
            board.take([one])
        assert board.pauses_left_s() == {"web": 30.0}
        assert board.weights() == {"web": {"web": 80, "next": 20}}


def test_orders_of_one_moment_have_an_order_too() -> None:
    one, two = order(1.0, Pause("", 60.0), "a"), order(1.0, Pause("", 0.0), "b")
    for given in ([one, two], [two, one]):
        board = Board(Clock())
        board.take(given)
        assert board.pauses_left_s() == {}


def test_only_what_is_later_is_news() -> None:
    board = Board(Clock())
    first = order(1.0, Pause("", 60.0))
    assert board.take([first]) == [first]
    assert board.take([first, order(0.5, Pause("", 0.0))]) == []


def test_a_pause_that_is_told_on_ends_at_the_same_time() -> None:
    clock = Clock()
    board = Board(clock)
    board.take([order(1.0, Pause("", 60.0))])
    clock.advance(20)
    other_clock = Clock()
    other = Board(other_clock)
    other.take(board.orders())
    assert other.pauses_left_s() == {"": 40.0}
    assert other.in_force
    other_clock.advance(40)
    assert other.pauses_left_s() == {}
    assert not other.in_force
    assert other.orders()[0].fact == Pause("", 0.0)


def test_what_was_ordered_last_is_later_than_what_is_known_whatever_the_clock_says() -> None:
    board = Board(Clock())
    assert board.stamp(100.0) == 100.0
    board.take([order(200.0, Pause("", 60.0))])
    assert board.stamp(100.0) > 200.0
    assert board.stamp(300.0) == 300.0


def test_who_knows_more() -> None:
    board = Board(Clock())
    assert not board.knows_more_than([])
    old, new = order(1.0, Pause("", 60.0)), order(2.0, Pause("", 0.0))
    board.take([new])
    assert board.knows_more_than([])
    assert board.knows_more_than([old])
    assert not board.knows_more_than([new, order(1.0, Pause("web", 1.0))])
    assert board.has_later_than([old])
    assert not board.has_later_than([new, order(1.0, Pause("web", 1.0))])


def test_weights_are_in_force_until_those_of_the_settings_are_wanted_again() -> None:
    board = Board(Clock())
    board.take([order(1.0, Weights("web", {"web": 100, "next": 0}))])
    assert board.in_force
    board.take([order(2.0, Weights("web", {}))])
    assert not board.in_force
    assert board.weights() == {}


def test_there_is_a_limit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(orders, "_MOST", 2)
    board = Board(Clock())
    taken = board.take([order(1.0, Pause(name, 9.0)) for name in ("a", "b", "c")])
    assert len(taken) == 2
    assert "an order about pool 'c' is ignored: there are 2 already" in caplog.text
    assert board.take([order(2.0, Pause("a", 0.0))])


def test_what_is_said_can_be_read() -> None:
    said = orders.Said([order(1.0, Pause("", 60.0)), order(2.0, Weights("web", {"next": 0.5}))], "!x")
    assert orders.read(orders.encode(said)) == said
    here = orders.Here(said.orders, 1, 2)
    assert orders.read_here(orders.encode(here)) == here


def test_orders_of_a_later_release_hide_none_of_those_that_are_known() -> None:
    known = order(1.0, Pause("web", 30.0))
    unknown = [2.0, "b", ["mirror", "web", 1]]
    assert orders.read(orders.encode([[unknown, known], "!a.b"])) == orders.Said([known], "!a.b")
    here = orders.Here([known], 1, 2, 3.0, [])
    assert orders.read_here(orders.encode([[known, unknown], 1, 2, 3.0, []])) == here
    assert orders.read_here(orders.encode(here)) == here
    with pytest.raises(msgspec.MsgspecError):
        orders.read(orders.encode([[known]]))
