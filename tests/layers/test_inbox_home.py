"""Where a process receives, and that it moves when it cannot be reached there."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.inbox_home import UNREACHABLE_S, InboxHome
from ifserver.layers.node import Limits

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
