"""The broker's end of its connections: what it makes of bad peers, slow peers and other people's processes."""

from __future__ import annotations

import logging
import os
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from ifserver.layers.embedded import broker as broker_module
from ifserver.layers.embedded import frames
from ifserver.layers.embedded.broker import LocalBroker
from ifserver.layers.embedded.frames import (
    Answer,
    Ask,
    Brought,
    Call,
    EndPulls,
    Hello,
    Interrupted,
    Nothing,
    Peer,
    Published,
    Pull,
    Push,
    Refused,
    Result,
    Taken,
    decode_answer,
    frame,
    packed,
)
from ifserver.layers.embedded.node import MemoryNode
from ifserver.net.endpoints import StreamClientEndpoint
from tests.layers.fakes import FakeTransport, FakeTurn
from tests.layers.harnesses import LocalHarness
from tests.layers.helpers import LOOP, ROOMY, async_test, eventually, listen, turn, within


class FakeSocket:
    """Says who is at the other end."""

    def __init__(self, uid: int) -> None:
        self._uid = uid

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return struct.pack("3i", 1, self._uid, 1)


class Talk(Peer):
    """The other end of a broker's connection on a fake transport."""

    def __init__(self, broker: LocalBroker, uid: int | None = None) -> None:
        super().__init__()
        self.answers: list[Answer] = []
        self.wire = FakeTransport()
        if uid is not None:
            self.wire.getHandle = lambda: FakeSocket(uid)
        self.client = broker.buildProtocol(None)
        assert self.client is not None
        self.client.makeConnection(self.wire)

    def ask(self, *asks: Ask) -> list[Answer]:
        """Ask, and return what is answered at once."""
        self.client.dataReceived(b"".join(map(frame, asks)))
        return self.hear()

    def hear(self) -> list[Answer]:
        """What was answered since the last time."""
        self.answers = []
        self.dataReceived(self.wire.taken())
        return self.answers

    def message_received(self, body: bytes) -> None:
        self.answers.append(decode_answer(body))

    def malformed(self, why: str) -> None:
        raise AssertionError(why)


def make() -> tuple[LocalBroker, MemoryNode, Clock]:
    clock = Clock()
    node = MemoryNode("east-1", ROOMY, ROOMY, clock, "epoch")
    node.start()
    return LocalBroker(node), node, clock


def test_it_greets_and_answers_what_it_is_asked() -> None:
    broker, _, clock = make()
    clock.advance(7.0)
    talk = Talk(broker)
    assert talk.hear() == [Hello(frames.VERSION, "epoch")]
    assert talk.ask(Push(1, "r", [b"a", b"b"], False)) == [Taken(1, 2, 2)]
    assert talk.ask(
        Call(2, "holds", packed(("r", b"b"))),
        Call(3, "withdraw", packed(("r", b"b"))),
        Call(4, "holds", packed(("r", b"b"))),
    ) == [
        Result(2, packed(True)),
        Result(3, packed(True)),
        Result(4, packed(False)),
    ]
    assert talk.ask(Pull(5, ["q", "r"], 9, 1.0)) == [Brought(5, "r", [b"a"], False)]
    assert talk.ask(Pull(6, ["q", "r"], 9, 1.0)) == []
    clock.advance(1.0)
    assert talk.hear() == [Nothing(6)]


def test_asks_may_come_byte_by_byte() -> None:
    broker, _, _ = make()
    talk = Talk(broker)
    data = frame(Push(1, "r", [b"a"], False)) + frame(Pull(2, ["r"], 1, 1.0))
    for i in range(len(data)):
        talk.client.dataReceived(data[i : i + 1])
    assert talk.hear()[1:] == [Taken(1, 1, 1), Brought(2, "r", [b"a"], False)]


def test_answers_come_in_the_order_in_which_they_become_known() -> None:
    broker, _, _ = make()
    talk, other = Talk(broker), Talk(broker)
    talk.hear()
    assert talk.ask(Pull(1, ["a"], 1, 9.0), Pull(2, ["b"], 1, 9.0), Call(3, "holds", packed(("a", b"x")))) == [
        Result(3, packed(False))
    ]
    other.ask(Push(1, "b", [b"x"], False))
    other.ask(Push(1, "a", [b"y"], False))
    assert talk.hear() == [Brought(2, "b", [b"x"], False), Brought(1, "a", [b"y"], False)]


def test_end_pulls_ends_those_of_this_connection() -> None:
    broker, _, _ = make()
    talk, other = Talk(broker), Talk(broker)
    talk.hear()
    other.hear()
    talk.ask(Pull(1, ["a"], 1, 9.0), Pull(2, ["b"], 1, 9.0))
    other.ask(Pull(1, ["a"], 1, 9.0))
    assert broker.statistics() == {"connections": 2, "pulls": 3, "groups": 0, "broadcasts_dropped": 0}
    assert talk.ask(EndPulls()) == [Nothing(1), Nothing(2)]
    assert talk.ask(Push(3, "a", [b"x"], False)) == [Taken(3, 1, 1)]
    assert other.hear() == [Brought(1, "a", [b"x"], False)]


def test_what_is_too_long_for_a_frame_comes_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "PIECE_BYTES", 20)
    broker, _, _ = make()
    talk = Talk(broker)
    talk.hear()
    payloads = [bytes([i]) * 10 for i in range(5)]
    asks = [
        Push(1, "r", payloads[:2], True),
        # Others may stand between them.
        Push(2, "s", [b"between"], False),
        Push(1, "r", payloads[2:4], True),
        Push(1, "r", payloads[4:], False),
    ]
    assert talk.ask(*asks) == [Taken(2, 1, 1), Taken(1, 5, 5)]
    answers = talk.ask(Pull(3, ["r"], 9, 0.0))
    assert answers == [
        Brought(3, "r", payloads[:2], True),
        Brought(3, "r", payloads[2:4], True),
        Brought(3, "r", payloads[4:], False),
    ]


def test_a_name_that_is_refused_is_answered() -> None:
    broker, _, _ = make()
    talk = Talk(broker)
    talk.hear()
    asks = [
        Push(1, "a b", [], False),
        Pull(2, ["r", ""], 1, 0.0),
        Call(3, "withdraw", packed(("!", b""))),
        Call(4, "holds", packed(("!", b""))),
    ]
    answers = talk.ask(*asks)
    assert [type(answer) for answer in answers] == [Refused] * 4
    assert [answer.id for answer in answers if isinstance(answer, Refused)] == [1, 2, 3, 4]
    assert "'a b'" in str(answers[0])


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\xc1",
        b"\x00\x00\x00\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        frame(Hello(1, "epoch")),
        frame(Call(1, "stop", packed(()))),
        frame(Call(1, "holds", packed(("r",)))),
        frame(Call(1, "beat", packed(("0123456789", b"", -1.0)))),
        len(body := msgspec.msgpack.encode([2, 1, ["r"], 0, 1.0])).to_bytes(4, "big") + body,
    ],
    ids=[
        "too long",
        "garbage",
        "empty",
        "HTTP",
        "an answer",
        "no call",
        "an argument too few",
        "a life below 0",
        "a count of 0",
    ],
)
def test_a_malformed_frame_closes_that_connection_alone(bad: bytes, caplog: pytest.LogCaptureFixture) -> None:
    broker, _, _ = make()
    talk, other = Talk(broker), Talk(broker)
    other.hear()
    talk.ask(Pull(1, ["r"], 1, 9.0))
    with caplog.at_level(logging.WARNING):
        talk.client.dataReceived(bad)
    assert talk.wire.aborting
    assert "does not keep to the protocol" in caplog.text
    # The pull that waited there takes nothing more, already before the transport says that the connection is lost.
    assert other.ask(Push(1, "r", [b"x"], False), Pull(2, ["r"], 1, 9.0)) == [
        Taken(1, 1, 1),
        Brought(2, "r", [b"x"], False),
    ]
    assert not other.wire.aborting
    talk.client.connectionLost()
    assert broker.statistics()["connections"] == 1


def test_a_push_without_end_is_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "MAX_BATCH_BYTES", 100)
    broker, _, _ = make()
    talk = Talk(broker)
    for round in range(3):
        talk.ask(Push(round, "r", [bytes(60)], True), Push(round, "r", [bytes(60)], False))
    assert not talk.wire.aborting
    talk.ask(Push(9, "r", [bytes(60)], True), Push(10, "s", [bytes(60)], True))
    assert talk.wire.aborting


def subscribe(id: int, *groups: str) -> Call:
    return Call(id, "subscribe", packed((list(groups),)))


def publish(id: int, group: str, payload: bytes) -> Call:
    return Call(id, "publish", packed((group, payload)))


def test_what_is_published_goes_to_all_connections_and_to_this_process() -> None:
    broker, node, _ = make()
    ear = listen(node)
    node.subscribe(["g"])
    talk, other = Talk(broker), Talk(broker)
    talk.hear()
    other.hear()
    assert talk.ask(subscribe(1, "g", "h")) == [Result(1, packed(None))]
    assert other.ask(subscribe(1, "g")) == [Result(1, packed(None))]
    assert other.ask(publish(2, "g", b"x")) == [Published("g", b"x"), Result(2, packed(3))]
    assert talk.hear() == [Published("g", b"x")]
    assert ear.heard == [("g", b"x")]
    assert broker.statistics()["groups"] == 2
    assert other.ask(publish(3, "h", b"y")) == [Result(3, packed(1))]
    assert other.ask(publish(4, "i", b"z")) == [Result(4, packed(0))]
    assert talk.ask(Call(2, "unsubscribe", packed((["h", "never"],)))) == [
        Published("h", b"y"),
        Result(2, packed(None)),
    ]
    other.client.connectionLost()
    assert talk.ask(publish(3, "g", b"x")) == [Published("g", b"x"), Result(3, packed(2))]
    talk.client.close()
    assert broker.statistics()["groups"] == 0
    assert broker.relay("g", b"x") == 0
    assert talk.ask(subscribe(9, "a b"))[0].__class__ is Refused


def test_a_connection_that_does_not_read_misses_what_is_published_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "_MAX_UNREAD_BYTES", 100)
    broker, node, _ = make()
    talk, other = Talk(broker), Talk(broker)
    for each in (talk, other):
        each.ask(subscribe(1, "g", "h", "i"))
        each.hear()
    talk.client.pauseProducing()
    handed: list[Any] = []
    for i in range(10):
        node.publish("g", b"%d" % i * 30).addCallback(handed.append)
    node.publish("h", b"x").addCallback(handed.append)
    node.publish("i", b"x").addCallback(handed.append)
    assert handed == [2] * 3 + [1] * 9
    assert broker.statistics()["broadcasts_dropped"] == 9
    assert len(other.hear()) == 12
    talk.client.unsubscribe(["i"])
    talk.client.resumeProducing()
    assert talk.hear() == [*(Published("g", b"%d" % i * 30) for i in range(3)), Interrupted(["g", "h"])]
    assert node.publish("g", b"next").result == 2
    assert talk.hear() == [Published("g", b"next")]
    talk.client.pauseProducing()
    talk.client.resumeProducing()
    assert talk.hear() == []


def test_what_is_published_in_one_turn_is_written_at_once() -> None:
    broker, node, _ = make()
    turn = FakeTurn()
    node.soon = turn
    talk, other = Talk(broker), Talk(broker)
    for each in (talk, other):
        each.ask(subscribe(1, "g"))
    writes: list[bytes] = []
    other.client.transport.write = writes.append
    assert talk.ask(*(publish(i, "g", b"x") for i in range(5))) == [Result(i, packed(2)) for i in range(5)]
    assert writes == []
    turn.end()
    assert len(writes) == 1
    assert talk.hear() == [Published("g", b"x")] * 5
    turn.end()
    assert len(writes) == 1


def test_pulls_of_a_lost_connection_take_nothing() -> None:
    broker, _, _ = make()
    talk, other = Talk(broker), Talk(broker)
    talk.ask(Pull(1, ["r"], 1, 9.0))
    talk.client.connectionLost()
    other.hear()
    assert other.ask(Push(1, "r", [b"x"], False), Pull(2, ["r"], 1, 9.0))[1] == Brought(2, "r", [b"x"], False)


def test_a_peer_that_does_not_read_is_not_read_from() -> None:
    broker, _, _ = make()
    talk = Talk(broker)
    assert talk.wire.streaming is True
    talk.wire.producer.pauseProducing()
    assert talk.wire.producerState == "paused"
    talk.wire.producer.resumeProducing()
    assert talk.wire.producerState == "producing"


# Who may connect.


@pytest.mark.parametrize("uid", [4242, 0])
def test_this_user_and_root_are_served(uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    broker, _, _ = make()
    assert isinstance(Talk(broker, uid).hear()[0], Hello)


def test_other_users_are_not_served(caplog: pytest.LogCaptureFixture) -> None:
    broker, _, _ = make()
    with caplog.at_level(logging.WARNING):
        talk = Talk(broker, os.getuid() + 12345)
    assert talk.wire.aborting
    assert talk.hear() == []
    assert f"user {os.getuid() + 12345}" in caplog.text


@pytest_twisted.async_yield_fixture
async def place() -> AsyncIterator[LocalHarness]:
    harness = LocalHarness()
    await harness.open()
    yield harness
    await within(harness.close())


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
@async_test
async def test_the_system_tells_who_connects(place: LocalHarness, caplog: pytest.LogCaptureFixture) -> None:
    await place.node()
    code = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.settimeout(120);"
        "s.connect('\\0' + sys.argv[1][1:])\n"
        "try: print(len(s.recv(100)))\n"
        "except ConnectionResetError: print(0)"
    )
    command = [sys.executable, "-c", code, place.address]
    with caplog.at_level(logging.WARNING):
        run = deferToThread(subprocess.run, command, capture_output=True, text=True, check=True)
        assert (await within(run)).stdout == "0\n"
    assert "user 65534" in caplog.text
    assert place.broker is not None
    await eventually(lambda: place.broker is not None and len(place.broker.connections) == 1)


# On real sockets.


class Raw(Peer):
    """A client that reads when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Answer] = []
        self.lost = False

    def message_received(self, body: bytes) -> None:
        self.answers.append(decode_answer(body))

    def malformed(self, why: str) -> None:
        raise AssertionError(why)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


async def connect(place: LocalHarness) -> Raw:
    factory: Any = Factory.forProtocol(Raw)
    factory.noisy = False
    connecting: Any = StreamClientEndpoint(LOOP, path=place.address).connect(factory)
    raw: Raw = await within(connecting)
    await eventually(lambda: raw.answers, "the greeting")
    return raw


@async_test
async def test_who_does_not_read_its_answers_is_not_asked_for_more_questions(place: LocalHarness) -> None:
    node = await place.node()
    raw = await connect(place)
    raw.transport.pauseProducing()
    messages = [bytes([i]) * 1024 * 1024 for i in range(40)]
    await node.push("r", messages)
    for id in range(40):
        raw.transport.write(frame(Pull(id, ["r"], 1, 5.0)))
        await turn()
    assert place.broker is not None
    # A message or two fill the sockets and what is kept in front of them.
    await eventually(lambda: place.broker is not None and place.broker.node.statistics()["pulled"] > 0)
    assert place.broker.node.statistics()["pulled"] < 10
    raw.transport.resumeProducing()
    await eventually(lambda: len(raw.answers) == 41, "all answers")
    assert [answer.payloads for answer in raw.answers if isinstance(answer, Brought)] == [[m] for m in messages]
    raw.transport.abortConnection()
    await eventually(lambda: raw.lost)


@async_test
async def test_a_process_that_is_blocked_costs_the_broker_no_more_than_its_bound(place: LocalHarness) -> None:
    node, other = await place.node(), await place.node()
    ear = listen(other)
    await other.subscribe(["g", "h"])
    raw = await connect(place)
    raw.transport.write(frame(subscribe(1, "g")))
    await eventually(lambda: len(raw.answers) == 2, "its subscription")
    raw.transport.pauseProducing()
    payload = bytes(1024 * 1024)
    for _ in range(40):
        await node.publish("g", payload)
    assert place.broker is not None
    dropped = place.broker.statistics()["broadcasts_dropped"]
    assert 20 <= dropped <= 24
    await eventually(lambda: len(ear.heard) == 40, "what others are sent")
    raw.transport.resumeProducing()
    await eventually(lambda: raw.answers[-1] == Interrupted(["g"]), "that it is told")
    assert len(raw.answers) == 2 + 40 - dropped + 1
    assert await node.publish("g", b"next") == 2
    await eventually(lambda: raw.answers[-1] == Published("g", b"next"), "the next")
    assert ear.interruptions == []
    raw.transport.abortConnection()
    await eventually(lambda: raw.lost)


@async_test
async def test_close_closes_all_and_takes_no_more(place: LocalHarness) -> None:
    await place.node()
    raws = [await connect(place) for _ in range(3)]
    broker = place.broker
    assert broker is not None
    assert broker.statistics()["connections"] == 4
    closing = [broker.close(), broker.close()]
    for closed in closing:
        await within(closed)
    await eventually(lambda: all(raw.lost for raw in raws), "the loss of all connections")
    assert broker.statistics()["connections"] == 0
    assert broker.buildProtocol(None) is None
    await within(broker.close())
