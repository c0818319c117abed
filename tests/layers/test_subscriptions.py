"""What a node remembers of its groups, over connections that a test makes and breaks."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ifserver.errors import ChannelNameError, NodeRefused, NodeUnreachable
from ifserver.layers import subscriptions as module
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.subscriptions import Subscriptions
from tests.layers.helpers import ROOMY, listen


class Wire:
    """A connection whose answers the test gives."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], Deferred[None]]] = []
        self.left: list[list[str]] = []
        self.why = ""

    def subscribe(self, groups: list[str]) -> Deferred[None]:
        self.asked.append((groups, Deferred()))
        return self.asked[-1][1]

    def unsubscribe(self, groups: list[str]) -> None:
        self.left.append(groups)

    def refused(self, why: str) -> None:
        self.why = why

    def groups(self) -> list[list[str]]:
        """What was asked for and is not answered."""
        return [groups for groups, _ in self.asked]

    def answer(self, error: Exception | None = None) -> None:
        """Answer the oldest question."""
        _, asking = self.asked.pop(0)
        if error is None:
            asking.callback(None)
        else:
            asking.errback(error)


class Place:
    """Subscriptions, and who hears."""

    def __init__(self) -> None:
        self.clock = Clock()
        node = MemoryNode("east-1", ROOMY, ROOMY, self.clock, "epoch")
        self.ear = listen(node)
        self.subscriptions = Subscriptions(node, self.clock, lambda: NodeUnreachable("gone"))

    def connect(self) -> Wire:
        wire = Wire()
        self.subscriptions.connected(wire)
        return wire

    def subscribe(self, *groups: str) -> list[Any]:
        """Where the result appears, or the exception."""
        return outcome(self.subscriptions.subscribe(groups))

    def turn(self) -> None:
        self.clock.advance(0)


def outcome(deferred: Deferred[Any]) -> list[Any]:
    results: list[Any] = []
    deferred.addCallbacks(results.append, lambda failure: results.append(failure.value))
    return results


def test_one_turn_is_one_command() -> None:
    place = Place()
    wire = place.connect()
    assert wire.asked == []
    results = [place.subscribe("a"), place.subscribe("a", "b", "b"), place.subscribe()]
    place.turn()
    assert wire.groups() == [["a", "b"]]
    assert results == [[], [], [None]]
    wire.answer()
    assert results == [[None]] * 3
    assert place.subscribe("b", "a") == [None]
    place.turn()
    assert place.clock.getDelayedCalls() == []
    assert wire.asked == wire.left == []


def test_many_are_several_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 2)
    place = Place()
    result = place.subscribe("a", "b", "c", "d", "e")
    wire = place.connect()
    assert wire.groups() == [["a", "b"], ["c", "d"], ["e"]]
    wire.answer()
    wire.answer()
    assert result == []
    wire.answer()
    assert result == [None]
    place.subscriptions.unsubscribe(["a", "b", "c"])
    place.turn()
    assert wire.left == [["a", "b"], ["c"]]


def test_what_is_left_and_joined_again_waits_for_the_second_answer() -> None:
    place = Place()
    wire = place.connect()
    first = place.subscribe("a")
    place.turn()
    place.subscriptions.unsubscribe(["a"])
    place.turn()
    second = place.subscribe("a")
    place.turn()
    assert wire.left == [["a"]]
    assert wire.groups() == [["a"], ["a"]]
    assert (first, second) == ([None], [])
    wire.answer()
    assert second == []
    wire.answer()
    assert second == [None]


def test_what_is_left_and_joined_again_in_one_turn_is_one_subscription() -> None:
    place = Place()
    wire = place.connect()
    place.subscribe("a", "b")
    place.turn()
    place.subscriptions.unsubscribe(["a"])
    second = place.subscribe("a")
    place.turn()
    wire.answer()
    assert second == [None]
    place.subscriptions.unsubscribe(["b"])
    assert place.subscribe("b") == [None]
    place.turn()
    assert wire.left == wire.asked == []
    place.subscriptions.lost()
    wire = place.connect()
    wire.answer()
    assert place.ear.interruptions == ["a", "b"]


def test_only_what_was_heard_before_is_interrupted() -> None:
    place = Place()
    wire = place.connect()
    place.subscribe("a")
    place.turn()
    wire.answer()
    waiting = place.subscribe("b")
    place.turn()
    place.subscriptions.lost()
    wire.answer(NodeUnreachable("the connection broke"))
    assert waiting == []
    while_gone = place.subscribe("a", "c")
    place.turn()
    wire = place.connect()
    assert wire.groups() == [["a", "b", "c"]]
    assert place.ear.interruptions == []
    wire.answer()
    assert place.ear.interruptions == ["a"]
    assert (waiting, while_gone) == ([None], [None])


def test_a_late_answer_of_the_last_connection_means_nothing() -> None:
    place = Place()
    old = place.connect()
    waiting = place.subscribe("a")
    place.turn()
    place.subscriptions.lost()
    new = place.connect()
    old.answer()
    assert waiting == []
    new.answer()
    assert waiting == [None]


def test_a_refusal_is_told_to_those_who_wait_and_nothing_is_held() -> None:
    place = Place()
    wire = place.connect()
    refused = [place.subscribe("a", "b"), place.subscribe("b")]
    place.turn()
    other = place.subscribe("c")
    place.turn()
    wire.answer(NodeRefused("no"))
    assert [[str(error) for error in result] for result in refused] == [["no"], ["no"]]
    wire.answer()
    assert other == [None]
    assert wire.why == ""
    place.subscriptions.published("a", b"x")
    assert place.ear.heard == []
    again = place.subscribe("a")
    place.turn()
    wire.answer()
    assert again == [None]


def test_a_refusal_of_what_was_granted_before_costs_the_connection() -> None:
    place = Place()
    wire = place.connect()
    place.subscribe("a")
    place.turn()
    wire.answer()
    place.subscriptions.lost()
    new = place.subscribe("b")
    wire = place.connect()
    wire.answer(NodeRefused("no"))
    assert wire.why == "no"
    assert [str(error) for error in new] == ["no"]
    place.subscriptions.lost()
    wire = place.connect()
    assert wire.groups() == [["a"]]
    wire.answer()
    assert place.ear.interruptions == ["a"]


def test_what_comes_unasked_is_not_heard() -> None:
    place = Place()
    place.connect().asked.clear()
    place.subscriptions.published("a", b"x")
    place.subscriptions.interrupted(["a"])
    assert place.ear.heard == []
    assert place.ear.interruptions == []
    assert place.subscriptions.statistics() == {"groups": 0, "heard": 0, "interruptions": 0}


def test_stop_ends_those_who_wait() -> None:
    place = Place()
    wire = place.connect()
    waiting, cancelled = place.subscribe("a"), place.subscriptions.subscribe(["b"])
    cancelled.addErrback(lambda _: None)
    cancelled.cancel()
    place.subscriptions.stop()
    assert [str(error) for error in waiting] == ["gone"]
    assert [str(error) for error in place.subscribe("c")] == ["gone"]
    place.subscriptions.unsubscribe(["a"])
    assert place.clock.getDelayedCalls() == []
    assert wire.asked == []


def test_a_bad_name_changes_nothing() -> None:
    place = Place()
    with pytest.raises(ChannelNameError):
        place.subscriptions.subscribe(["a", "b c"])
    assert not place.subscriptions.any
