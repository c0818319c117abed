"""When the other side of a stream is told how far it is."""

from __future__ import annotations

import pytest

from ifserver.streams.account import Account


def told(account: Account, *times: float, sent: int = 0, consumed: int = 0, in_any_case: bool = False) -> list[bool]:
    """At which of `times` it is told."""
    return [account.is_due(at, sent, consumed, in_any_case) for at in times]


def test_a_stream_is_told_of_when_it_is_a_second_old() -> None:
    assert told(Account(10), 10, 10.5, 10.8, 11) == [False, False, False, True]


def test_a_timer_that_is_a_little_early_makes_no_stream_wait_for_the_next() -> None:
    assert told(Account(10), 10.999) == [True]


@pytest.mark.parametrize("in_any_case", [False, True])
def test_a_young_stream_costs_nothing(in_any_case: bool) -> None:
    account = Account(10)
    assert told(account, 10.1, 10.8, sent=5, consumed=9, in_any_case=in_any_case) == [False, False]


def test_what_does_not_move_is_told_three_times() -> None:
    assert told(Account(0), 1, 2, 3, 4, 5) == [True, True, True, False, False]


@pytest.mark.parametrize("moved", [{"sent": 1}, {"consumed": 256}])
def test_what_has_moved_is_told_three_times_more(moved: dict[str, int]) -> None:
    account = Account(0)
    told(account, 1, 2, 3, 4)
    assert told(account, 5, 6, 7, 8, **moved) == [True, True, True, False]
    assert (account.sent, account.consumed) == (moved.get("sent", 0), moved.get("consumed", 0))


def test_what_moves_on_is_told_as_long_as_it_does() -> None:
    account = Account(0)
    assert [account.is_due(at, at, 0, False) for at in range(1, 20)] == [True] * 19
    assert told(account, 20, 21, 22, sent=19) == [True, True, False]


def test_what_waits_is_told_every_time() -> None:
    account = Account(0)
    assert told(account, *range(1, 10), in_any_case=True) == [True] * 9
    assert told(account, 10) == [False]
