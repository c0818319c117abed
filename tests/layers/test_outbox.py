"""What waits for an inbox: in order, in batches, repeated when in doubt, and bounded."""

from __future__ import annotations

import logging

import pytest
from twisted.internet.task import Clock

from ifserver.errors import ChannelNameError, NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Limits, Pulled, Pushed
from ifserver.layers.outbox import Outbox
from ifserver.metrics import Counters
from tests.layers.fakes import FakeTurn, ToldNode
from tests.layers.helpers import INBOX, OTHER_INBOX, ROOMY


class Place:
    """An outbox whose node answers as the test says."""

    def __init__(self) -> None:
        self.node = ToldNode()
        self.clock = Clock()
        self.turn = FakeTurn()
        self.counters = Counters()
        #: What the accounting has been told: messages taken, or None where that is in doubt.
        self.accounting: list[tuple[str, int | None]] = []
        self.outbox = Outbox({"east-1": self.node}, self.clock, self.turn, self.counters, self)
        self.done: list[bytes] = []

    def sent(self, inbox: str, count: int) -> None:
        self.accounting.append((inbox, count))

    def doubted(self, inbox: str) -> None:
        self.accounting.append((inbox, None))

    def send(self, *payloads: bytes, inbox: str = INBOX) -> None:
        for payload in payloads:
            self.outbox.send(inbox, payload, lambda payload=payload: self.done.append(payload))


def test_what_is_sent_in_one_turn_leaves_as_one_push() -> None:
    place = Place()
    place.send(b"1")
    place.send(b"x", inbox=OTHER_INBOX)
    place.send(b"2", b"3")
    assert place.node.asked() == []
    assert place.outbox.waiting() == 4
    assert place.turn.end() == 1
    assert place.node.asked() == [(INBOX, [b"1", b"2", b"3"]), (OTHER_INBOX, [b"x"])]
    assert place.counters.gauges()["messages_flying"] == 4
    place.node.answer(Pushed(3, 3))
    assert place.counters.gauges()["messages_flying"] == 1
    assert place.done == [b"1", b"2", b"3"]
    assert place.outbox.waiting() == 1
    place.node.answer(Pushed(1, 1))
    assert place.outbox.waiting() == 0
    assert place.counters.value("messages_sent") == 4
    assert place.turn.end() == 0


def test_one_push_to_an_inbox_is_under_way_at_a_time() -> None:
    place = Place()
    place.send(b"1")
    place.turn.end()
    place.send(b"2")
    place.send(b"3")
    place.turn.end()
    assert place.node.asked() == [(INBOX, [b"1"])]
    place.node.answer(Pushed(1, 1))
    place.turn.end()
    assert place.node.asked() == [(INBOX, [b"2", b"3"])]


def test_batches_are_bounded_in_number_and_in_bytes() -> None:
    place = Place()
    place.send(*[b"%d" % i for i in range(1200)])
    place.turn.end()
    sizes = []
    while place.node.pushes:
        sizes.append(len(place.node.asked()[0][1]))
        place.node.answer(Pushed(sizes[-1], 0))
        place.turn.end()
    assert sizes == [500, 500, 200]
    assert place.done == [b"%d" % i for i in range(1200)]
    place.send(*[bytes(600 * 1024)] * 5)
    place.turn.end()
    assert len(place.node.asked()[0][1]) == 2


def test_what_a_full_inbox_did_not_take_is_tried_again_in_order() -> None:
    place = Place()
    place.send(b"1", b"2", b"3")
    place.turn.end()
    place.node.answer(Pushed(1, 100))
    place.send(b"4")
    assert place.done == [b"1"]
    assert place.turn.end() == 0
    pauses = []
    for _ in range(8):
        [call] = place.clock.getDelayedCalls()
        pauses.append(call.getTime() - place.clock.seconds())
        place.clock.advance(pauses[-1])
        place.turn.end()
        assert place.node.asked() == [(INBOX, [b"2", b"3", b"4"])]
        place.node.answer(Pushed(0, 100))
    for n, pause in enumerate(pauses):
        middle = min(0.05 * 2**n, 1.0)
        assert middle * 0.7 <= pause <= middle * 1.3
    place.clock.advance(1.3)
    place.turn.end()
    place.node.answer(Pushed(3, 100))
    assert place.done == [b"1", b"2", b"3", b"4"]
    assert place.clock.getDelayedCalls() == []


def test_the_pauses_start_anew_when_a_batch_was_taken() -> None:
    place = Place()
    place.send(*[b"x"] * 501)
    place.turn.end()
    for _ in range(5):
        place.node.answer(Pushed(0, 100))
        place.clock.advance(1.3)
        place.turn.end()
    place.node.answer(Pushed(500, 500))
    place.turn.end()
    place.node.answer(Pushed(0, 500))
    [call] = place.clock.getDelayedCalls()
    assert call.getTime() - place.clock.seconds() <= 0.065


@pytest.mark.parametrize("error", [NodeUnreachable("gone"), PushInDoubt("broken")])
def test_what_an_unreachable_node_did_not_confirm_is_repeated_first(error: Exception) -> None:
    place = Place()
    place.send(b"1", b"2")
    place.turn.end()
    place.send(b"3")
    place.node.answer(error)
    place.send(b"4")
    assert place.turn.end() == 0
    assert place.outbox.waiting() == 4
    assert place.clock.getDelayedCalls() == []
    place.node.become_ready()
    place.turn.end()
    assert place.node.asked() == [(INBOX, [b"1", b"2", b"3", b"4"])]
    assert place.done == []


def test_a_refusal_is_logged_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    with caplog.at_level(logging.WARNING):
        place.send(b"1")
        place.turn.end()
        for _ in range(5):
            place.node.answer(NodeRefused("out of memory"))
            place.clock.advance(1.3)
            place.turn.end()
            assert place.node.asked() == [(INBOX, [b"1"])]
    assert caplog.text.count("out of memory") == 1
    assert INBOX in caplog.text
    place.node.answer(Pushed(1, 1))
    assert place.done == [b"1"]


def test_the_books_are_told_what_the_node_has_taken() -> None:
    place = Place()
    place.send(b"1", b"2")
    place.outbox.send(INBOX, b"receipt", counted=False)
    assert place.outbox.ahead(INBOX) == 2
    assert place.outbox.ahead(OTHER_INBOX) == 0
    place.turn.end()
    place.send(b"3")
    assert place.outbox.ahead(INBOX) == 3
    place.node.answer(Pushed(1, 1))
    assert place.accounting == [(INBOX, 1)]
    assert place.outbox.ahead(INBOX) == 2
    place.clock.advance(1)
    place.turn.end()
    place.node.answer(PushInDoubt("broken"))
    assert place.accounting == [(INBOX, 1), (INBOX, None)]
    place.node.become_ready()
    place.turn.end()
    place.node.answer(Pushed(3, 3))
    assert place.accounting[2:] == [(INBOX, 2)]
    assert place.counters.value("messages_sent") == 3
    assert place.outbox.ahead(INBOX) == 0


def test_a_receipt_for_which_there_is_no_room_is_no_lost_message() -> None:
    place = Place()
    place.send(*[b"x"] * place.node.limits(INBOX).capacity)
    place.outbox.send(INBOX, b"receipt", counted=False)
    assert place.counters.statistics() == {}


def test_one_inbox_does_not_hold_up_another() -> None:
    place = Place()
    place.send(b"1")
    place.turn.end()
    place.node.answer(Pushed(0, 100))
    place.send(b"x", inbox=OTHER_INBOX)
    place.turn.end()
    assert place.node.asked() == [(OTHER_INBOX, [b"x"])]


def test_beyond_the_capacity_is_dropped_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    place.node._inboxes = Limits(3, 60.0)
    place.send(b"0")
    place.turn.end()
    with caplog.at_level(logging.ERROR):
        place.send(b"1", b"2", b"3", b"4", b"5")
        assert place.outbox.waiting() == 4
        assert len(caplog.records) == 1
        assert INBOX in caplog.text
        place.node.answer(Pushed(1, 1))
        place.turn.end()
        assert place.node.asked() == [(INBOX, [b"1", b"2", b"3"])]
        place.node.answer(Pushed(3, 3))
    assert place.counters.value("messages_dropped", "full") == 2
    assert "dropped 2 messages" in caplog.text
    assert place.done == [b"4", b"5", b"0", b"1", b"2", b"3"], "nobody waits for what was dropped"


def test_empty_queues_are_bounded() -> None:
    place = Place()
    for number in range(1000):
        place.send(b"x", inbox=f"!east-1.{number:010}")
        place.turn.end()
        place.node.answer(Pushed(1, 1))
    assert len(place.done) == 1000
    assert 0 < len(place.outbox._queues) <= 200


def test_an_unknown_node_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ChannelNameError, match="there are: east-1"):
        Place().send(b"x", inbox="!west-1.0123456789")


@pytest.mark.parametrize("name", ["r", "!east-1", "", "xeast-1.0123456789"])
def test_what_is_no_inbox_is_refused_and_harms_no_other(name: str) -> None:
    place = Place()
    place.send(b"before")
    with pytest.raises(ChannelNameError):
        place.send(b"x", inbox=name)
    place.send(b"after")
    place.turn.end()
    assert place.node.asked() == [(INBOX, [b"before", b"after"])]


def test_with_a_node_that_answers_at_once() -> None:
    node = MemoryNode("east-1", ROOMY, ROOMY, Clock(), "epoch")
    node.start()
    turn, counters = FakeTurn(), Counters()
    outbox = Outbox({"east-1": node}, Clock(), turn, counters, Place())
    for i in range(3):
        outbox.send(INBOX, b"%d" % i)
    while turn.end():
        pass
    pulled: list[Pulled | None] = []
    node.pull((INBOX,), 9, 0).addCallback(pulled.append)
    assert pulled == [Pulled(INBOX, [b"0", b"1", b"2"])]
    assert outbox.waiting() == 0


def test_what_waits_can_be_taken_and_sent_elsewhere() -> None:
    place = Place()
    place.send(b"1")
    place.turn.end()
    place.send(b"2", b"3")
    place.send(b"x", inbox=OTHER_INBOX)
    assert [payload for payload, _, _ in place.outbox.take(INBOX)] == [b"1", b"2", b"3"]
    assert place.accounting == [(INBOX, None)]
    assert place.outbox.take(INBOX) == []
    assert place.counters.value("messages_in_doubt") == 1
    assert place.counters.gauges()["messages_flying"] == 0
    place.turn.end()
    place.node.answer(Pushed(1, 1))
    place.node.answer(Pushed(1, 1))
    assert place.done == [b"x"], "nobody is told of what may arrive all the same"
    assert place.counters.value("messages_sent") == 1
    assert place.outbox.waiting() == 0


def test_nobody_has_to_wait_for_a_node_that_does_not_come_back() -> None:
    place = Place()
    place.send(b"1")
    place.turn.end()
    place.send(b"2")
    place.send(b"x", inbox=OTHER_INBOX)
    assert sorted(place.outbox.unsent()) == sorted([INBOX, OTHER_INBOX])
    place.outbox.stop_waiting(INBOX)
    assert place.done == [b"1", b"2"]
    # It may come back all the same.
    place.node.answer(NodeUnreachable("gone"))
    place.node.become_ready()
    place.turn.end()
    assert place.node.asked() == [(OTHER_INBOX, [b"x"]), (INBOX, [b"1", b"2"])]
    place.node.answer(Pushed(1, 1))
    place.node.answer(Pushed(2, 2))
    assert place.done == [b"1", b"2", b"x"]
    assert place.outbox.unsent() == []
    assert place.counters.value("messages_sent") == 3


@pytest.mark.parametrize("error", [NodeUnreachable("gone"), PushInDoubt("gone"), NodeRefused("OOM")])
def test_a_queue_that_was_given_up_disturbs_no_later_one(error: Exception) -> None:
    place = Place()
    place.send(b"1")
    place.turn.end()
    place.outbox.take(INBOX)
    place.send(b"2")
    place.node.answer(error)
    place.turn.end()
    place.clock.advance(10)
    assert place.node.asked() == [(INBOX, [b"2"])]
    place.node.answer(Pushed(1, 1))
    assert place.done == [b"2"]
