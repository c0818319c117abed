"""Where one process receives, how it reads, and what is left by processes that have ended."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from ifserver.errors import NodeRefused, NodeUnreachable
from ifserver.layers.clusters import Clusters
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.inbox import (
    COUNT,
    RETRY_MAX_S,
    RETRY_S,
    UNREACHABLE_S,
    WAIT_S,
    InboxCleanup,
    InboxHome,
    InboxReader,
)
from ifserver.layers.node import Limits, Pulled
from ifserver.metrics import Counters
from tests.layers.fakes import FakeTurn
from tests.layers.helpers import ROOMY

PROCESS = "0123456789"
LIMITS = Limits(1000, 600.0)
GRACE_S = 30.0


class Stage:
    """A process, the nodes of its home cluster, and the streams that name its inboxes."""

    def __init__(self, nodes: int = 2, start: bool = True, grace_s: float = GRACE_S) -> None:
        self.clock = Clock()
        self.nodes = {f"east-{i}": self._node(f"east-{i}") for i in range(1, nodes + 1)}
        nodes = list(self.nodes.values())
        self.home = InboxHome(PROCESS, nodes, self.clock, grace_s, lambda node: self.silent.append(node.name))
        self.first, self.inbox = self.home.node, self.home.inbox
        self.heard: list[bytes] = []
        self.streams: list[str] = []
        self.moves: list[str] = []
        self.silent: list[str] = []
        if start:
            self.home.start(self)

    def _node(self, name: str) -> MemoryNode:
        node = MemoryNode(name, LIMITS, LIMITS, self.clock, "epoch")
        node.start()
        return node

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.25)):
            self.clock.advance(0.25)

    def says(self, inbox: str, payload: bytes) -> bool:
        """Whether what is sent to an inbox is heard."""
        node = self.nodes[inbox[1:].partition(".")[0]]
        node.push(inbox, [payload])
        return payload in self.heard

    # Resident.

    def deliver(self, inbox: str, payloads: list[bytes]) -> None:
        self.heard += payloads

    def moved(self) -> None:
        self.moves.append(self.home.inbox)

    def names(self, inbox: str) -> bool:
        return inbox in self.streams

    def readdress(self, inbox: str) -> None:
        self.streams = [self.home.inbox if name == inbox else name for name in self.streams]


def test_it_lives_on_one_node_of_its_cluster() -> None:
    stage = Stage()
    stage.pass_time(60)
    assert stage.home.nodes() == [stage.first]
    assert stage.says(stage.inbox, b"x")
    assert stage.moves == []


def test_it_moves_when_its_node_was_unreachable_for_a_second() -> None:
    stage = Stage()
    stage.first.stop()
    stage.pass_time(UNREACHABLE_S - 0.25)
    assert stage.moves == []
    stage.pass_time(0.5)
    assert stage.moves == [stage.home.inbox] != [stage.inbox]
    assert stage.says(stage.home.inbox, b"there")


def test_whoever_needs_an_address_does_not_wait_for_that() -> None:
    stage = Stage()
    stage.first.stop()
    assert stage.home.ensure()
    assert stage.home.inbox != stage.inbox


def test_a_node_that_is_silent_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    monkeypatch.setattr(stage.first, "unreachable_s", lambda: UNREACHABLE_S)
    assert stage.first.connected
    stage.pass_time(0.25)
    assert len(stage.moves) == 1
    assert stage.silent == [stage.first.name]


def test_the_only_node_is_used_as_soon_as_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(nodes=1)
    monkeypatch.setattr(stage.first, "unreachable_s", lambda: UNREACHABLE_S)
    stage.pass_time(0.25)
    assert not stage.home.ensure()
    monkeypatch.setattr(stage.first, "unreachable_s", lambda: 0.0)
    assert stage.home.ensure()


def test_who_was_asleep_himself_reads_before_he_takes_a_node_for_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(nodes=1)
    silent_since = stage.clock.seconds()
    monkeypatch.setattr(stage.first, "unreachable_s", lambda: stage.clock.seconds() - silent_since)
    stage.clock.advance(UNREACHABLE_S + 1)
    assert stage.home.ensure()
    assert stage.silent == []
    # The answers that had come meanwhile are read only now.
    monkeypatch.setattr(stage.first, "unreachable_s", lambda: 0.0)
    stage.pass_time(2)
    assert stage.home.ensure()
    assert stage.silent == []


def test_with_no_other_node_it_stays() -> None:
    stage = Stage(nodes=1)
    stage.first.stop()
    stage.pass_time(60)
    assert not stage.home.ensure()
    assert stage.moves == []
    stage.first.start()
    assert stage.home.ensure()
    assert stage.says(stage.inbox, b"x")


def test_both_are_read_while_streams_name_the_old_one() -> None:
    stage = Stage()
    stage.streams = [stage.inbox]
    stage.first.stop()
    stage.pass_time(2)
    stage.first.start()
    stage.pass_time(10 * GRACE_S)
    assert stage.streams == [stage.inbox], "its node is back: it keeps its address"
    assert stage.home.nodes() == [stage.home.node, stage.first]
    assert stage.says(stage.inbox, b"old")
    assert stage.says(stage.home.inbox, b"new")
    stage.streams = []
    stage.pass_time(10)
    assert stage.home.nodes() == [stage.home.node]
    assert not stage.says(stage.inbox, b"late")


def test_what_is_late_is_heard_for_the_grace() -> None:
    stage = Stage()
    stage.first.stop()
    stage.pass_time(2)
    stage.first.start()
    stage.pass_time(GRACE_S - 5)
    assert stage.says(stage.inbox, b"late")


def test_after_the_grace_streams_get_the_new_address() -> None:
    stage = Stage()
    stage.streams = [stage.inbox, "another's"]
    stage.first.stop()
    stage.pass_time(GRACE_S - 1)
    assert stage.streams == [stage.inbox, "another's"]
    stage.pass_time(6)
    assert stage.streams == [stage.home.inbox, "another's"]
    stage.pass_time(6)
    stage.first.start()
    stage.pass_time(GRACE_S)
    assert stage.home.nodes() == [stage.home.node]


@pytest.mark.parametrize("grace_s", [0.0, 0.5, 4.9, 5.0, 5.1, 6.1, 9.9, 10.3, 11.2, 30.0, 31.1])
@pytest.mark.parametrize("moves_at_s", [0.0, 1.0])
def test_as_soon_as_the_grace_is_over_whatever_it_is(grace_s: float, moves_at_s: float) -> None:
    """Others take a process for dead 5 s after that, and hear of it a second later at most."""
    stage = Stage(grace_s=grace_s)
    stage.streams = [stage.inbox]
    stage.pass_time(3.25)
    stage.first.stop()
    stage.pass_time(moves_at_s)
    stage.home.ensure()
    stage.pass_time(max(0.0, grace_s - moves_at_s) + 0.5)
    assert stage.streams == [stage.home.inbox] != [stage.inbox]


def test_it_may_move_back() -> None:
    stage = Stage()
    stage.streams = [stage.inbox]
    stage.first.stop()
    stage.pass_time(2)
    second, other = stage.home.node, stage.home.inbox
    stage.first.start()
    second.stop()
    stage.pass_time(2)
    assert stage.moves == [other, stage.inbox]
    assert stage.home.nodes() == [stage.first, second]
    assert stage.says(stage.inbox, b"once")
    assert stage.heard == [b"once"]


def test_ready_waits_for_any_node_of_the_cluster() -> None:
    stage = Stage()
    fired: list[None] = []
    for node in stage.nodes.values():
        node.stop()
    stage.home.ready().addCallback(fired.append)
    cancelled = stage.home.ready()
    cancelled.addErrback(lambda _: None)
    cancelled.cancel()
    assert not fired
    (other,) = (node for node in stage.nodes.values() if node is not stage.first)
    other.start()
    assert fired == [None]
    assert stage.home.node is other
    stage.home.ready().addCallback(fired.append)
    assert len(fired) == 2


def test_before_its_start_it_may_choose_anew_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(start=False)
    stage.first.stop()
    assert stage.home.ensure()
    assert len(stage.home.places) == 1
    assert not caplog.records
    stage.home.start(stage)
    assert stage.says(stage.home.inbox, b"x")


def test_its_end_waits_for_the_last_reads() -> None:
    stage = Stage()
    stage.streams = [stage.inbox]
    stage.first.stop()
    stage.pass_time(2)
    ended: list[object] = []
    stage.home.stop().addCallback(ended.append)
    assert ended == [None]
    assert not stage.says(stage.home.inbox, b"late")
    assert stage.clock.getDelayedCalls() == [] or all(
        isinstance(call.func.__self__, MemoryNode)  # type: ignore[attr-defined]
        for call in stage.clock.getDelayedCalls()
    )


# The reader.


INBOX = "!east.k3v9x2aq7m"


class Node(MemoryNode):
    """Fails as often as it was told to."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("east", LIMITS, LIMITS, clock, "epoch")
        self.failures: list[Exception] = []
        self.asked = 0

    def pull(self, names: Sequence[str], count: int, wait_s: float) -> Deferred[Pulled | None]:
        assert (list(names), count, wait_s) == ([INBOX], COUNT, WAIT_S)
        self.asked += 1
        return fail(self.failures.pop(0)) if self.failures else super().pull(names, count, wait_s)


class Reading:
    """An inbox that is read."""

    def __init__(self, start: bool = True) -> None:
        self.clock = Clock()
        self.node = Node(self.clock)
        self.node.start()
        self.heard: list[bytes] = []
        self.reader = InboxReader(self.node, INBOX, self.heard.extend, self.clock)
        if start:
            self.reader.start()

    def push(self) -> None:
        self.node.push(INBOX, [b"x"])


def test_a_defect_of_who_is_given_the_messages_does_not_end_the_reading(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    node = Node(clock)
    node.start()
    InboxReader(node, INBOX, lambda payloads: payloads[1].split(), clock).start()  # type: ignore[arg-type, return-value]
    node.push(INBOX, [b"x"])
    assert "IndexError" in caplog.text
    assert node.asked == 2


def test_reading_goes_on_after_a_second_without_messages() -> None:
    stage = Reading()
    for _ in range(3):
        stage.clock.advance(WAIT_S)
    stage.push()
    assert stage.heard == [b"x"]
    assert stage.node.asked == 5


def test_a_node_that_is_not_there_is_read_when_it_is() -> None:
    stage = Reading()
    stage.node.stop()
    stage.clock.advance(10.0)
    stage.node.start()
    stage.push()
    assert stage.heard == [b"x"]


def test_a_node_that_says_it_is_there_and_fails_is_asked_more_and_more_seldom() -> None:
    stage = Reading(start=False)
    stage.node.failures = [NodeUnreachable("gone")] * 12
    stage.reader.start()
    pauses = []
    while stage.node.failures:
        (call,) = stage.clock.getDelayedCalls()
        pauses.append(call.getTime() - stage.clock.seconds())
        stage.clock.advance(pauses[-1])
    assert len(pauses) == 10, "the second attempt is made at once"
    assert RETRY_S * 0.7 <= pauses[0] <= RETRY_S * 1.3
    assert RETRY_MAX_S * 0.7 <= pauses[-1] <= RETRY_MAX_S * 1.3
    stage.push()
    assert stage.heard == []
    stage.clock.advance(RETRY_MAX_S * 1.3)
    assert stage.heard == [b"x"]


@pytest.mark.parametrize(("error", "traceback"), [(NodeRefused("OOM"), False), (ValueError("a defect"), True)])
def test_a_node_that_refuses_is_logged_and_asked_again_later(
    error: Exception, traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Reading(start=False)
    stage.node.failures = [error]
    stage.reader.start()
    stage.push()
    assert stage.heard == []
    (record,) = caplog.records
    assert record.getMessage() == f"node east does not let us read {INBOX}: {error}"
    assert bool(record.exc_info) is traceback
    stage.clock.advance(RETRY_S * 1.3)
    assert stage.heard == [b"x"]


def test_stop_ends_the_read_that_waits() -> None:
    stage = Reading()
    stopped = stage.reader.stop()
    assert stopped.called
    stage.push()
    assert stage.heard == []
    assert stage.reader.stop().called


def test_what_the_last_read_brings_is_handed_on() -> None:
    stage = Reading()
    stage.node.end_pulls = lambda: None  # type: ignore[method-assign]
    stopped = stage.reader.stop()
    assert not stopped.called
    stage.push()
    assert stage.heard == [b"x"]
    assert stopped.called


@pytest.mark.parametrize("how", ["not there", "pause"])
def test_stop_does_not_wait_for_a_node(how: str) -> None:
    stage = Reading(start=False)
    if how == "pause":
        stage.node.failures = [NodeRefused("OOM")]
    else:
        stage.node.stop()
    stage.reader.start()
    assert stage.reader.stop().called
    assert stage.clock.getDelayedCalls() == []


def test_stop_before_start_fires_at_once() -> None:
    assert Reading(start=False).reader.stop().called


# Clean-up.


ENDED = "!east.9876543210"


class CleanUp:
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
    stage = CleanUp()
    stage.node.push(ENDED, [b"x"] * 2500)
    stage.leftovers.ended(ENDED)
    stage.clock.advance(1)
    assert stage.gone() == 2500
    stage.node.push(ENDED, [b"late"])
    stage.clock.advance(11)
    assert stage.gone() == 2501
    stage.node.push(ENDED, [b"later"])
    stage.clock.advance(60)
    assert stage.gone() == 2501


def test_at_the_end_it_looks_at_once() -> None:
    stage = CleanUp()
    stage.leftovers.ended(ENDED)
    stage.node.push(ENDED, [b"x"])
    stopped = Deferred.fromCoroutine(stage.leftovers.stop())
    stage.clock.advance(0)
    assert stopped.called
    assert stage.gone() == 1


def test_a_node_that_is_gone_or_not_configured_is_no_trouble() -> None:
    stage = CleanUp()
    stage.leftovers.ended("!west.9876543210")
    stage.leftovers.ended(ENDED)
    stage.node.stop()
    stage.clock.advance(60)
    assert stage.gone() == 0
