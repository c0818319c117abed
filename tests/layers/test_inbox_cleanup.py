"""What is left in the inboxes of processes that have ended."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ifserver.layers.clusters import Clusters
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.inbox_cleanup import InboxCleanup
from ifserver.metrics import Counters
from tests.layers.fakes import FakeTurn
from tests.layers.helpers import ROOMY

INBOX = "!east.9876543210"


class Stage:
    def __init__(self) -> None:
        self.clock = Clock()
        self.node = MemoryNode("east", ROOMY, ROOMY, self.clock, "epoch")
        self.node.start()
        self.counters = Counters()
        clusters = Clusters("0123456789", {"east": [self.node]}, "east", self.clock, FakeTurn(), self.counters)
        self.leftovers = InboxCleanup(clusters, self.clock)

    def gone(self) -> int:
        return self.counters.value("messages_dropped", "gone")


def test_it_is_emptied_and_counted_twice_in_case_something_comes_late() -> None:
    stage = Stage()
    stage.node.push(INBOX, [b"x"] * 2500)
    stage.leftovers.ended(INBOX)
    stage.clock.advance(1)
    assert stage.gone() == 2500
    stage.node.push(INBOX, [b"late"])
    stage.clock.advance(11)
    assert stage.gone() == 2501
    stage.node.push(INBOX, [b"later"])
    stage.clock.advance(60)
    assert stage.gone() == 2501


def test_at_the_end_it_looks_at_once() -> None:
    stage = Stage()
    stage.leftovers.ended(INBOX)
    stage.node.push(INBOX, [b"x"])
    stopped = Deferred.fromCoroutine(stage.leftovers.stop())
    stage.clock.advance(0)
    assert stopped.called
    assert stage.gone() == 1


def test_a_node_that_is_gone_or_not_configured_is_no_trouble() -> None:
    stage = Stage()
    stage.leftovers.ended("!west.9876543210")
    stage.leftovers.ended(INBOX)
    stage.node.stop()
    stage.clock.advance(60)
    assert stage.gone() == 0
