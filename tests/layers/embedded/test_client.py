"""The node's end of its connection to an embedded broker: what it makes of a bad one, and what it remembers."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ifserver.errors import NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.layers.embedded import client as local_module
from ifserver.layers.embedded.client import LocalNode
from ifserver.layers.embedded.frames import (
    VERSION,
    Answer,
    Brought,
    Call,
    Cutter,
    EndPulls,
    Hello,
    Interrupted,
    Nothing,
    Published,
    Pull,
    Push,
    Refused,
    Result,
    Taken,
    decode_ask,
    frame,
    packed,
)
from ifserver.layers.node import Pulled, Pushed
from tests.layers.fakes import FakeEndpoint, FakeTurn
from tests.layers.helpers import ROOMY, listen


class Place:
    """A node whose broker is this test."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.endpoint = FakeEndpoint()
        self.node = LocalNode("east-1", ROOMY, ROOMY, self.clock, self.endpoint)
        self.node.start()

    def greet(self, epoch: str = "first") -> None:
        """Accept the connection, and greet."""
        self.endpoint.accept()
        self.answer(Hello(VERSION, epoch))

    def answer(self, *answers: Answer) -> None:
        self.endpoint.receive(b"".join(map(frame, answers)))

    def asked(self) -> list[Any]:
        """What the node has asked since the last time."""
        return [decode_ask(body) for body in Cutter().cut(self.endpoint.transport.taken())]

    def lose(self) -> None:
        """Lose the connection, and wait for the next attempt."""
        self.endpoint.lose()
        self.clock.advance(2.0)


def outcome(deferred: Deferred[Any]) -> list[Any]:
    """Where the result appears, or the exception."""
    results: list[Any] = []
    deferred.addCallbacks(results.append, lambda failure: results.append(failure.value))
    return results


def test_it_can_be_used_after_the_greeting() -> None:
    place = Place()
    ready = outcome(place.node.ready())
    place.endpoint.accept()
    assert not place.node.connected
    assert [type(error) for error in outcome(place.node.push("r", [b"x"]))] == [NodeUnreachable]
    assert ready == []
    place.answer(Hello(VERSION, "first"))
    assert place.node.connected
    assert ready == [None]
    assert place.node.epoch == "first"


def test_its_clock_is_that_of_the_machine_however_late_it_is_greeted() -> None:
    place = Place()
    place.clock.advance(100.0)
    place.greet()
    place.clock.advance(5.0)
    assert place.node.clock() == place.clock.seconds() == 105.0


def test_answers_find_who_asked_whatever_their_order() -> None:
    place = Place()
    place.greet()
    results = [outcome(place.node.pull(("r",), 1, 9.0)), outcome(place.node.push("r", [b"x"]))]
    results += [outcome(place.node.withdraw("r", b"x")), outcome(place.node.holds("r", b"x"))]
    pull, push, withdraw, holds = (ask.id for ask in place.asked())
    place.answer(
        Result(holds, packed(False)),
        Result(withdraw, packed(True)),
        Taken(push, 1, 7),
        Brought(pull, "r", [b"y"], False),
    )
    assert results == [[Pulled("r", [b"y"])], [Pushed(1, 7)], [True], [False]]
    assert place.node.statistics() == {
        "connected": 1,
        "waiting": 0,
        "pushed": 1,
        "pulled": 1,
        "withdrawn": 1,
        "connections_lost": 0,
        "published": 0,
        "publishes_unreachable": 0,
        "publishes_refused": 0,
        "publishes_in_doubt": 0,
        "groups": 0,
        "heard": 0,
        "interruptions": 0,
    }


def test_what_is_subscribed_to_in_one_turn_is_one_call_and_is_asked_for_anew() -> None:
    place = Place()
    ear = listen(place.node)
    results = [outcome(place.node.subscribe(["a"]))]
    place.greet()
    [call] = place.asked()
    assert call == Call(1, "subscribe", packed((["a"],)))
    results += [outcome(place.node.subscribe(["b", "c"])), outcome(place.node.subscribe(["d"]))]
    place.node.unsubscribe(["d"])
    place.clock.advance(0)
    assert place.asked() == [Call(2, "subscribe", packed((["b", "c"],)))]
    place.answer(Published("a", b"x"), Published("d", b"y"), Result(1, packed(None)))
    assert results == [[None], [], [None]]
    place.answer(Result(2, packed(None)), Interrupted(["a", "d"]))
    assert results == [[None], [None], [None]]
    assert (ear.heard, ear.interruptions) == ([("a", b"x")], ["a"])
    place.node.unsubscribe(["b"])
    place.clock.advance(0)
    assert place.asked() == [Call(3, "unsubscribe", packed((["b"],)))]
    place.lose()
    place.greet()
    [call] = place.asked()
    assert call == Call(4, "subscribe", packed((["a", "c"],)))
    assert ear.interruptions == ["a"]
    place.answer(Result(4, packed(None)))
    assert ear.interruptions == ["a", "a", "c"]
    assert place.node.statistics()["interruptions"] == 3


def test_what_is_published_in_one_turn_is_written_at_once() -> None:
    place = Place()
    place.node.soon = turn = FakeTurn()
    place.greet()
    results = [outcome(place.node.publish("g", b"%d" % i)) for i in range(3)]
    assert place.asked() == []
    turn.end()
    assert place.asked() == [Call(i + 1, "publish", packed(("g", b"%d" % i))) for i in range(3)]
    place.answer(*(Result(i + 1, packed(7)) for i in range(3)))
    assert results == [[7]] * 3
    lost = outcome(place.node.publish("g", b"x"))
    place.lose()
    turn.end()
    assert [type(error) for error in lost] == [PushInDoubt]
    place.greet()
    assert place.asked() == []


def test_answers_may_come_byte_by_byte_and_in_several_frames() -> None:
    place = Place()
    place.endpoint.accept()
    data = frame(Hello(VERSION, "first"))
    for i in range(len(data)):
        place.endpoint.receive(data[i : i + 1])
    results = [outcome(place.node.pull(("r",), 9, 9.0)), outcome(place.node.pull(("s",), 1, 9.0))]
    r, s = (ask.id for ask in place.asked())
    answers = [Brought(r, "r", [b"1"], True), Nothing(s), Brought(r, "r", [b"2"], True), Brought(r, "r", [b"3"], False)]
    data = b"".join(map(frame, answers))
    for i in range(len(data)):
        place.endpoint.receive(data[i : i + 1])
    assert results == [[Pulled("r", [b"1", b"2", b"3"])], [None]]


def test_a_refusal_is_told() -> None:
    place = Place()
    place.greet()
    result = outcome(place.node.push("r", [b"x"]))
    place.answer(Refused(place.asked()[0].id, "for a reason"))
    assert [type(error) for error in result] == [NodeRefused]
    assert "east-1: for a reason" in str(result[0])


def test_a_pull_cannot_be_cancelled() -> None:
    place = Place()
    place.greet()
    pulling = place.node.pull(("r",), 1, 9.0)
    pulling.cancel()
    result = outcome(pulling)
    assert result == []
    [ask] = place.asked()
    assert ask == Pull(ask.id, ["r"], 1, 9.0)
    place.answer(Brought(ask.id, "r", [b"x"], False))
    assert result == [Pulled("r", [b"x"])]


def test_end_pulls_is_said_to_the_broker() -> None:
    place = Place()
    place.node.end_pulls()
    place.greet()
    place.node.end_pulls()
    assert place.asked() == [EndPulls()]


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\xc1",
        b"HTTP/1.1 400 Bad Request\r\n",
        frame(Hello(VERSION, "again")),
        frame(Nothing(99)),
        frame(Result(99, packed(None))),
        frame(Result(1, packed(None))),
        frame(Push(1, "r", [], False)),
    ],
    ids=[
        "too long",
        "garbage",
        "HTTP",
        "a second greeting",
        "an answer to nothing",
        "a result of nothing",
        "a result of a pull",
        "a question",
    ],
)
def test_a_broker_that_does_not_keep_to_the_protocol_is_left(bad: bytes, caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    place.greet()
    results = [outcome(place.node.pull(("r",), 1, 9.0)), outcome(place.node.push("r", [b"x"]))]
    with caplog.at_level(logging.INFO):
        place.endpoint.receive(bad)
        assert not place.node.connected
        assert place.endpoint.transport.aborting
        place.lose()
    assert [type(result[0]) for result in results] == [NodeUnreachable, PushInDoubt]
    assert "does not keep to the protocol" in caplog.text
    assert place.node.statistics()["connections_lost"] == 1
    place.greet()
    assert place.node.connected


def test_another_version_is_told_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            place.endpoint.accept()
            place.answer(Hello(VERSION + 1, "first"))
            assert not place.node.connected
            place.lose()
        place.greet()
    assert caplog.text.count(f"it speaks version {VERSION + 1}, not {VERSION}") == 1
    assert "connected after" in caplog.text
    assert place.node.connected


def test_a_broker_that_closes_before_it_greets_is_told(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    with caplog.at_level(logging.INFO):
        place.endpoint.accept()
        place.lose()
    assert "closed before its greeting" in caplog.text
    assert place.endpoint.count == 2


def test_a_new_epoch_is_told(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    with caplog.at_level(logging.INFO):
        place.greet()
        place.lose()
        assert place.node.epoch == "first"
        place.greet("first")
        assert "it was restarted" not in caplog.text
        place.lose()
        place.greet("second")
    assert "it was restarted" in caplog.text
    assert place.node.epoch == "second"


def test_what_is_too_large_is_refused_and_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place()
    place.greet()
    monkeypatch.setattr(local_module, "MAX_FRAME_BYTES", 1000)
    result = outcome(place.node.push("r", [bytes(1001)]))
    assert [type(error) for error in result] == [NodeRefused]
    monkeypatch.setattr(local_module, "MAX_BATCH_BYTES", 1000)
    result = outcome(place.node.push("r", [bytes(600)] * 5000))
    assert [type(error) for error in result] == [NodeRefused]
    assert place.asked() == []
    assert place.node.statistics()["waiting"] == 0
    outcome(place.node.push("r", [b"x"]))
    assert len(place.asked()) == 1


def test_stop_tells_those_who_wait() -> None:
    place = Place()
    place.greet()
    results = [outcome(place.node.push("r", [b"x"])), outcome(place.node.pull(("r",), 1, 9.0))]
    stopped = outcome(place.node.stop())
    assert not place.node.connected
    assert place.endpoint.transport.disconnecting
    assert stopped == []
    place.endpoint.lose()
    assert stopped == [None]
    assert [type(result[0]) for result in results] == [PushInDoubt, NodeUnreachable]
    assert place.clock.getDelayedCalls() == []
    assert outcome(place.node.ready()) == []


def test_a_greeting_that_comes_too_late_is_ignored() -> None:
    place = Place()
    place.endpoint.accept()
    stopped = outcome(place.node.stop())
    place.answer(Hello(VERSION, "first"))
    assert not place.node.connected
    place.endpoint.lose()
    assert stopped == [None]
