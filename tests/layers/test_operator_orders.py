"""Which order counts, however and in whatever order it is heard."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from twisted.internet.task import Clock

from ifserver.errors import UndecodableError
from ifserver.layers import operator_orders as orders
from ifserver.layers.operator_orders import Board, Fact, Order, Pause, Weights


def order(at: float, fact: Fact, by: str = "a") -> Order:
    return Order(at, by, fact)


def board_at(clock: Clock | None = None, now: float = 1000.0) -> Board:
    return Board(clock or Clock(), lambda: now)


def test_the_latest_order_about_each_thing_counts_in_whatever_order_they_come() -> None:
    given = [
        order(1.0, Pause("", 60.0)),
        order(2.0, Pause("", 0.0)),
        order(2.0, Pause("web", 30.0)),
        order(1.0, Weights("web", {"web": 95, "next": 5})),
        order(3.0, Weights("web", {"web": 80, "next": 20})),
    ]
    for each in permutations(given):
        board = board_at()
        for one in each:
            board.take([one])
            board.take([one])
        assert board.pauses_left_s() == {"web": 30.0}
        assert board.weights() == {"web": {"web": 80, "next": 20}}


def test_orders_of_one_moment_have_an_order_too() -> None:
    one, two = order(1.0, Pause("", 60.0), "a"), order(1.0, Pause("", 0.0), "b")
    for given in ([one, two], [two, one]):
        board = board_at()
        board.take(given)
        assert board.pauses_left_s() == {}


def test_only_what_is_later_is_news() -> None:
    board = board_at()
    first = order(1.0, Pause("", 60.0))
    assert board.take([first]) == [first]
    assert board.take([first, order(0.5, Pause("", 0.0))]) == []


def test_a_pause_that_is_told_on_ends_at_the_same_time() -> None:
    clock = Clock()
    board = board_at(clock)
    board.take([order(1.0, Pause("", 60.0))])
    clock.advance(20)
    other_clock = Clock()
    other = board_at(other_clock)
    other.take(board.orders())
    assert other.pauses_left_s() == {"": 40.0}
    assert other.in_force
    other_clock.advance(40)
    assert other.pauses_left_s() == {}
    assert not other.in_force
    assert other.orders()[0].fact == Pause("", 0.0)


def test_what_was_ordered_last_is_later_than_what_is_known_whatever_the_clock_says() -> None:
    board = board_at()
    assert board.stamp(100.0) == 100.0
    board.take([order(200.0, Pause("", 60.0))])
    assert board.stamp(100.0) > 200.0
    assert board.stamp(300.0) == 300.0


def test_who_knows_more() -> None:
    board = board_at()
    assert not board.knows_more_than([])
    old, new = order(1.0, Pause("", 60.0)), order(2.0, Pause("", 0.0))
    board.take([new])
    assert board.knows_more_than([])
    assert board.knows_more_than([old])
    assert not board.knows_more_than([new, order(1.0, Pause("web", 1.0))])
    assert board.has_later_than([old])
    assert not board.has_later_than([new, order(1.0, Pause("web", 1.0))])


def test_weights_are_in_force_until_those_of_the_settings_are_wanted_again() -> None:
    board = board_at()
    board.take([order(1.0, Weights("web", {"web": 100, "next": 0}))])
    assert board.in_force
    board.take([order(2.0, Weights("web", {}))])
    assert not board.in_force
    assert board.weights() == {}


def test_there_is_a_limit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(orders, "_MOST", 2)
    board = board_at()
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


def test_what_a_later_release_appends_is_passed_over() -> None:
    known = order(1.0, Pause("web", 30.0))
    raw = [1.0, "a", ["pause", "web", 30.0, "why"], {"later": 1}]
    assert orders.read(orders.encode([[raw], "!a.b", 7, "more"])) == orders.Said([known], "!a.b")
    pool = ["web", "", None, False, 3, 1, [1, 2], "more"]
    here = orders.Here([known], 1, 2, 3.0, [orders.PoolHere("web", "", None, False, 3, 1, [1, 2])])
    assert orders.read_here(orders.encode([[raw], 1, 2, 3.0, [pool], "more", None])) == here
    # And an earlier one may say less.
    assert orders.read(orders.encode([[raw]])) == orders.Said([known])
    assert orders.read_here(orders.encode([[raw]])) == orders.Here([known])


@pytest.mark.parametrize("payload", [b"", b"\x90", b"\x01", orders.encode([1]), b"\x92\x90\xa1\xff", b"\x91" * 5000])
def test_what_is_no_order_at_all_is_undecodable(payload: bytes) -> None:
    for read in (orders.read, orders.read_here):
        with pytest.raises(UndecodableError):
            read(payload)


@pytest.mark.parametrize(
    ("fact", "at"),
    [
        (Pause("", 60.0), math.inf),
        (Pause("", 60.0), math.nan),
        (Pause("", 60.0), 1e300),
        (Pause("", 60.0), -1.0),
        (Pause("", 60.0), 1000.0 + 367 * 86_400),
        (Pause("", math.inf), 1.0),
        (Pause("", math.nan), 1.0),
        (Pause("", 1e300), 1.0),
        (Pause("", -1.0), 1.0),
        (Pause("", orders.LONGEST_PAUSE_S + 1), 1.0),
        (Pause("x" * 201, 60.0), 1.0),
        (Weights("web", {"web": math.inf}), 1.0),
        (Weights("web", {"web": math.nan, "next": 1.0}), 1.0),
        (Weights("web", {"web": -5.0, "next": 1.0}), 1.0),
        (Weights("web", {"web": 1e300}), 1.0),
        (Weights("web", {str(number): 1.0 for number in range(1001)}), 1.0),
    ],
)
def test_what_nobody_can_have_meant_is_refused(fact: Fact, at: float, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    board = board_at(clock)
    evil, good = order(at, fact, "wrong00000"), order(2.0, Pause("", 30.0))
    read = orders.read(orders.encode(orders.Said([evil, good]))).orders
    assert board.take(read[:1]) == []
    assert "an order of process 'wrong00000' about pool " in caplog.text
    caplog.clear()
    board.take([evil])
    assert caplog.text == ""  # it may come every few seconds
    clock.advance(60.0)
    board.take([evil])
    assert "is refused" in caplog.text
    assert board.take(read) == [good]
    assert board.pauses_left_s() == {"": 30.0}
    assert board.stamp(1000.0) == 1000.0


def test_a_clock_that_is_far_ahead_is_believed_and_what_is_ordered_later_counts() -> None:
    board = board_at()
    ahead = order(1000.0 + 300 * 86_400, Pause("", 60.0))
    assert board.take([ahead]) == [ahead]
    end = Order(board.stamp(1000.0), "b", Pause("", 0.0))
    assert board.take([end]) == [end]
