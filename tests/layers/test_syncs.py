"""What two processes tell each other once a second: when, and where to."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver.layers.base import Pushed
from ifserver.layers.clusters import Clusters
from ifserver.layers.syncs import Correspondent, epoch_of
from ifserver.messages import Sync, SyncEntry, decode_for_worker
from ifserver.metrics import Counters
from ifserver.streams.account import EVERYTHING_S, SYNC_ENTRIES
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
    place.west.gone_s = place.clusters.broker_grace_s
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
