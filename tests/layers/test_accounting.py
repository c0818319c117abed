"""What two processes count, between which the test plays the nodes: what is lost, doubled, forgotten, confirmed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from ifserver.layers.accounting import Accounting
from ifserver.messages import Message, Receipt
from ifserver.metrics import Counters, balance, total

HOUR_S = 3600.0


class Process:
    """One process, which receives at `inbox`; its messages are numbers."""

    def __init__(self, clock: Clock, inbox: str, reads: bool = True) -> None:
        self.inbox = inbox
        self.counters = Counters()
        self.accounting = Accounting(self, lambda: self.inbox, lambda: reads, clock, self.counters)
        #: What is on the way to each inbox, oldest first.
        self.ways: dict[str, list[Any]] = {}
        self.waiting = 0
        #: The receipts that were made.
        self.made: list[Receipt] = []
        #: Whether the nodes take receipts.
        self.taking = True

    def send_uncounted(self, inbox: str, message: Message, done: Callable[[], None]) -> None:
        assert isinstance(message, Receipt)
        self.made.append(message)
        self.ways.setdefault(inbox, []).append(message)
        if self.taking:
            done()

    def ahead(self, inbox: str) -> int:
        return self.waiting

    def send(self, inbox: str, count: int = 1) -> None:
        """Messages, which the node takes."""
        self.ways.setdefault(inbox, []).extend([self.inbox] * count)
        self.counters.add("messages_sent", count)
        self.accounting.sent(inbox, count)

    def send_twice(self, inbox: str) -> None:
        """A message whose first push was in doubt, and had been taken."""
        self.ways.setdefault(inbox, []).append(self.inbox)
        self.accounting.doubted(inbox)
        self.send(inbox)

    def receive(self, other: Process) -> int:
        """All that is on the way here from `other`; how many messages that was."""
        way, other.ways[self.inbox] = other.ways.get(self.inbox, []), []
        for each in way:
            if isinstance(each, Receipt):
                self.accounting.hear(self.inbox, each)
            else:
                self.accounting.incoming[self.inbox][each].count += 1
                self.counters.add("messages_delivered")
        return sum(not isinstance(each, Receipt) for each in way)


class Pair:
    """A server and a worker."""

    def __init__(self, reads: bool = True) -> None:
        self.clock = Clock()
        self.server = Process(self.clock, "!east.server0000")
        self.worker = Process(self.clock, "!east.worker0000", reads)

    def pass_time(self, seconds: float = 1.0) -> None:
        for _ in range(round(seconds)):
            self.clock.advance(1.0)
            self.server.receive(self.worker)
            self.worker.receive(self.server)

    def receipts(self) -> int:
        return len(self.server.made) + len(self.worker.made)

    @property
    def balance(self) -> int:
        return balance(total((self.server.counters.statistics(), self.worker.counters.statistics())))

    def lost(self) -> tuple[int, int]:
        """What the server and the worker have counted as lost on the way to them."""
        return tuple(each.counters.value("messages_dropped", "broker") for each in (self.server, self.worker))  # type: ignore[return-value]

    def assert_at_rest(self) -> None:
        self.pass_time(5)
        assert self.balance == 0
        assert self.clock.getDelayedCalls() == []


def test_two_that_talk_tell_each_other_once_a_second_and_then_no_more() -> None:
    pair = Pair()
    assert pair.clock.getDelayedCalls() == []
    for _ in range(10):
        pair.server.send(pair.worker.inbox, 100)
        pair.worker.send(pair.server.inbox, 50)
        pair.pass_time(1)
    assert 10 <= pair.receipts() <= 40
    pair.assert_at_rest()
    before = pair.receipts()
    pair.pass_time(1000)
    assert pair.receipts() == before
    assert pair.lost() == (0, 0)


def test_what_is_lost_is_counted_once_by_its_receiver() -> None:
    pair = Pair()
    pair.server.send(pair.worker.inbox, 3)
    pair.pass_time(3)
    pair.server.send(pair.worker.inbox, 5)
    pair.server.ways[pair.worker.inbox].clear()
    pair.server.send(pair.worker.inbox, 2)
    assert pair.balance == 7
    pair.assert_at_rest()
    assert pair.lost() == (0, 5)


def test_what_waits_here_is_ahead_of_what_is_said_of_it() -> None:
    pair = Pair()
    pair.server.send(pair.worker.inbox, 3)
    pair.server.waiting = 2
    pair.clock.advance(1.0)
    assert pair.server.made == [Receipt(pair.worker.inbox, pair.server.inbox, (0, 0), (5, 0), None, True)]


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_lost_receipts_are_made_again(lost: int) -> None:
    pair = Pair()
    pair.server.send(pair.worker.inbox, 3)
    while len(pair.server.made) < lost:
        pair.clock.advance(1.0)
    pair.server.ways[pair.worker.inbox].clear()
    pair.pass_time(20)
    assert pair.lost() == (0, 3)
    pair.assert_at_rest()


def pull(pair: Pair, count: int = 1) -> None:
    """The worker pulls requests of the server's."""
    for _ in range(count):
        pair.worker.accounting.pulled([pair.server.inbox])


def test_requests_that_were_pulled_and_of_which_nothing_is_heard() -> None:
    pair = Pair()
    pull(pair, 5)
    for _ in range(3):
        pair.worker.send(pair.server.inbox)
        pair.server.accounting.incoming[pair.server.inbox][pair.worker.inbox].spoken_of += 1
    pair.assert_at_rest()
    assert pair.server.accounting.untold == 2
    pull(pair, 2)
    pair.assert_at_rest()
    assert pair.server.accounting.untold == 4


def test_lost_confirmations_are_made_again() -> None:
    pair = Pair()
    pair.server.send(pair.worker.inbox, 3)
    pair.clock.advance(1.0)
    pair.worker.receive(pair.server)
    pair.clock.advance(1.0)
    assert [each.confirmed for each in pair.worker.made] == [(3, 0)]
    pair.worker.ways[pair.server.inbox].clear()
    pair.server.send(pair.worker.inbox, 2)
    pair.assert_at_rest()
    assert pair.lost() == (0, 0)


def test_what_was_taken_twice_was_sent_twice() -> None:
    pair = Pair()
    pair.server.send(pair.worker.inbox, 3)
    pair.server.send_twice(pair.worker.inbox)
    pair.pass_time(3)
    assert pair.worker.counters.value("messages_delivered") == 5
    # Nobody can know of this one from the number of messages that its sender knows to have been taken.
    pair.server.ways[pair.worker.inbox].append(pair.server.inbox)
    pair.server.accounting.doubted(pair.worker.inbox)
    pair.assert_at_rest()
    assert pair.lost() == (0, 0)


def test_who_reads_nothing_is_not_answered() -> None:
    pair = Pair(reads=False)
    pair.worker.send(pair.server.inbox, 3)
    pair.pass_time(100)
    assert pair.server.made == []
    assert len(pair.worker.made) == 4
    assert pair.clock.getDelayedCalls() == []


def test_who_does_not_answer_is_left_alone_until_he_does() -> None:
    pair = Pair()
    pair.server.send(pair.worker.inbox, 3)
    pair.clock.advance(1.0)
    for _ in range(300):
        pair.clock.advance(1.0)
    assert len(pair.server.made) == 4
    assert pair.clock.getDelayedCalls() == []
    # The node has lost it all while he was frozen.
    pair.server.ways[pair.worker.inbox].clear()
    pair.worker.send(pair.server.inbox)
    pair.pass_time(5)
    assert pair.lost() == (0, 3)
    pair.assert_at_rest()


def test_a_receipt_that_the_node_has_not_taken_holds_the_next_back_for_a_minute() -> None:
    pair = Pair()
    pair.server.taking = False
    for _ in range(59):
        pair.server.send(pair.worker.inbox)
        pair.clock.advance(1.0)
    assert len(pair.server.made) == 1
    pair.server.taking = True
    pair.clock.advance(5.0)
    assert len(pair.server.made) == 2
    pair.assert_at_rest()


def test_a_message_that_went_another_way_may_overtake() -> None:
    """The worker has moved: what is said of the route to its old inbox is of no use at the new one."""
    pair = Pair()
    old, pair.worker.inbox = pair.worker.inbox, "!west.worker0000"
    pair.worker.accounting.hear(pair.worker.inbox, Receipt(old, pair.server.inbox, (0, 0), (7, 0), None, True))
    assert pair.lost() == (0, 0)
    pair.clock.advance(1.0)
    assert pair.worker.made == []


def test_a_process_that_has_moved_is_the_same_one() -> None:
    pair = Pair()
    pair.worker.send(pair.server.inbox, 3)
    pair.pass_time(3)
    pair.worker.inbox = "!west.worker0000"
    pair.worker.send(pair.server.inbox, 2)
    pair.assert_at_rest()
    assert pair.lost() == (0, 0)


@pytest.mark.parametrize("forgetful", ["server", "worker"])
def test_a_queue_that_one_end_has_forgotten_begins_anew(forgetful: str) -> None:
    pair = Pair()
    pair.server.send(pair.worker.inbox, 1000)
    pair.assert_at_rest()
    getattr(pair, forgetful).accounting._forget(pair.clock.seconds() + 2 * HOUR_S)
    pair.server.send(pair.worker.inbox, 3)
    pair.assert_at_rest()
    pair.server.send(pair.worker.inbox, 2)
    pair.server.ways[pair.worker.inbox].clear()
    pair.assert_at_rest()
    assert pair.lost() == (0, 2)


def test_routes_that_nobody_uses_are_forgotten() -> None:
    pair = Pair()
    for number in range(50):
        other = Process(pair.clock, f"!east.other{number:05}")
        pair.server.send(other.inbox)
        other.send(pair.server.inbox)
        pair.server.receive(other)
        pair.clock.advance(1.0)
        pair.server.receive(other)
    pair.pass_time(100)
    pair.clock.advance(2 * HOUR_S)
    pair.server.send(pair.worker.inbox)
    pair.pass_time(5)
    accounting = pair.server.accounting
    assert list(accounting._outgoing) == [pair.worker.inbox]
    assert accounting.incoming[pair.server.inbox].routes.keys() <= {"worker0000"}
    pair.assert_at_rest()


def test_nothing_is_said_after_the_end() -> None:
    pair = Pair()
    pair.server.send(pair.worker.inbox)
    pair.server.accounting.stop()
    pair.server.send(pair.worker.inbox)
    assert pair.clock.getDelayedCalls() == []


#: A message of one side, the loss of what is on the way to it, a push in doubt, or time that passes.
happenings = st.tuples(st.sampled_from(["send", "lose", "double", "read", "pass"]), st.booleans())


@given(st.lists(happenings, max_size=60))
def test_whatever_happens_the_books_balance(course: list[tuple[str, bool]]) -> None:
    pair = Pair()
    for what, of_server in course:
        one, other = (pair.server, pair.worker) if of_server else (pair.worker, pair.server)
        if what == "send":
            one.send(other.inbox)
        elif what == "lose":
            one.ways.pop(other.inbox, None)
        elif what == "double":
            one.send_twice(other.inbox)
        elif what == "read":
            one.receive(other)
        else:
            pair.clock.advance(1.0)
    pair.pass_time(20)
    pair.server.send(pair.worker.inbox)
    pair.worker.send(pair.server.inbox)
    pair.assert_at_rest()
