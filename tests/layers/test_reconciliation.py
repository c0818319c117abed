"""What two processes tell each other once a second: when, and where to."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver.layers.clusters import Clusters
from ifserver.layers.node import Pushed
from ifserver.layers.reconciliation import EVERYTHING_S, SYNC_ENTRIES, Account, Correspondent, epoch_of
from ifserver.messages import Sync, SyncEntry, decode_for_worker
from ifserver.metrics import Counters
from tests.layers.fakes import FakeTurn, ToldNode

SENDER, INBOX = "!east.0123456789", "!west.9876543210"


class Place:
    """A process that can tell others, on nodes that answer as the test says."""

    def __init__(self) -> None:
        self.east, self.west, self.other = ToldNode("east"), ToldNode("west"), ToldNode("other")
        self.turn = FakeTurn()
        nodes: Any = {"here": [self.east], "there": [self.west, self.other]}
        self.clusters = Clusters("0123456789", nodes, "here", Clock(), self.turn, Counters())

    def told(self, node: ToldNode) -> list[tuple[str, Sync]]:
        """What is asked of a node now, by inbox."""
        self.turn.end()
        found = []
        for inbox, payloads in node.asked():
            for payload in payloads:
                sync = decode_for_worker(payload)
                assert isinstance(sync, Sync)
                found.append((inbox, sync))
        return found


def entries(count: int) -> list[SyncEntry]:
    return [SyncEntry(f"9876543210.{number}", 0, 3, 7) for number in range(count)]


def test_all_is_told_once_a_minute_after_a_new_epoch_and_when_that_is_asked_for() -> None:
    correspondent = Correspondent(0.0, "a")
    assert correspondent.begin(1.0, "a") is False
    assert correspondent.begin(2.0, "b") is True
    assert correspondent.begin(3.0, "b") is False
    assert correspondent.begin(2.0 + EVERYTHING_S, "b") is True
    assert correspondent.begin(3.0 + EVERYTHING_S, "b") is False
    correspondent.tell_everything()
    assert correspondent.begin(4.0 + EVERYTHING_S, "b") is True
    assert correspondent.begin(5.0 + EVERYTHING_S, "b") is False


def test_nothing_is_told_while_the_last_is_under_way_but_for_a_minute_at_most() -> None:
    place = Place()
    correspondent = Correspondent(0.0, "a")
    correspondent.tell(place.clusters, INBOX, SENDER, "supervisor", entries(1))
    assert place.told(place.west) == [(INBOX, Sync(SENDER, "supervisor", entries(1)))]
    assert correspondent.begin(1.0, "b") is None
    assert correspondent.begin(EVERYTHING_S, "b") is True
    place.west.answer(Pushed(1, 1))
    assert correspondent.begin(EVERYTHING_S + 1.0, "b") is False


def test_a_message_speaks_of_so_many_streams_at_most() -> None:
    place = Place()
    Correspondent(0.0, "a").tell(place.clusters, INBOX, SENDER, "", entries(SYNC_ENTRIES + 1))
    assert [len(sync.entries) for _, sync in place.told(place.west)] == [SYNC_ENTRIES, 1]


def test_one_whose_node_is_gone_is_looked_for_elsewhere_and_told_nothing_of_what_still_waits() -> None:
    place = Place()
    place.west.gone_s = place.clusters.outages.grace_s
    Correspondent(0.0, "a").tell(place.clusters, INBOX, SENDER, "", entries(1))
    [(inbox, sync)] = place.told(place.other)
    assert inbox == "!other.9876543210"
    assert [(entry.sent, entry.consumed) for entry in sync.entries] == [(0, 7)]
    assert place.told(place.west) == []


def test_one_on_a_node_that_is_not_configured_is_no_reason_to_fail(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    assert epoch_of(place.clusters, "!north.9876543210") is None
    Correspondent(0.0, None).tell(place.clusters, "!north.9876543210", SENDER, "", entries(1))
    assert "'!north.9876543210' has its home on no configured node" in caplog.text


def test_an_epoch_is_that_of_both_nodes() -> None:
    place = Place()
    before = epoch_of(place.clusters, INBOX)
    assert before == epoch_of(place.clusters, INBOX)
    place.west.epoch = "another"
    assert epoch_of(place.clusters, INBOX) != before


# Which streams are due.


def due(account: Account, *times: float, sent: int = 0, consumed: int = 0, in_any_case: bool = False) -> list[bool]:
    """At which of `times` a stream is told of."""
    return [account.is_due(at, sent, consumed, in_any_case) for at in times]


def test_a_stream_is_told_of_when_it_is_a_second_old() -> None:
    assert due(Account(10), 10, 10.5, 10.8, 11) == [False, False, False, True]


def test_a_timer_that_is_a_little_early_makes_no_stream_wait_for_the_next() -> None:
    assert due(Account(10), 10.999) == [True]


@pytest.mark.parametrize("in_any_case", [False, True])
def test_a_young_stream_costs_nothing(in_any_case: bool) -> None:
    account = Account(10)
    assert due(account, 10.1, 10.8, sent=5, consumed=9, in_any_case=in_any_case) == [False, False]


def test_what_does_not_move_is_told_three_times() -> None:
    assert due(Account(0), 1, 2, 3, 4, 5) == [True, True, True, False, False]


@pytest.mark.parametrize("moved", [{"sent": 1}, {"consumed": 256}])
def test_what_has_moved_is_told_three_times_more(moved: dict[str, int]) -> None:
    account = Account(0)
    due(account, 1, 2, 3, 4)
    assert due(account, 5, 6, 7, 8, **moved) == [True, True, True, False]
    assert (account.sent, account.consumed) == (moved.get("sent", 0), moved.get("consumed", 0))


def test_what_moves_on_is_told_as_long_as_it_does() -> None:
    account = Account(0)
    assert [account.is_due(at, at, 0, False) for at in range(1, 20)] == [True] * 19
    assert due(account, 20, 21, 22, sent=19) == [True, True, False]


def test_what_waits_is_told_every_time() -> None:
    account = Account(0)
    assert due(account, *range(1, 10), in_any_case=True) == [True] * 9
    assert due(account, 10) == [False]
