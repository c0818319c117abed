"""Taking requests, from nodes in memory, with a clock and turns of a loop that the test makes."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from ifserver.errors import NodeRefused, NodeUnreachable
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Limits, Pulled
from ifserver.messages import ToWorkers, encode
from ifserver.metrics import Counters
from ifserver.worker.pull import RETRY_MAX_S, RETRY_S, ROUND_WAIT_S, TURN_S, WAIT_S, Puller, SupervisorWatch
from ifserver.worker_ledger import Ledger
from tests.worker.stage import http_request

LIMITS = Limits(1000, 600.0)
URGENT, A, B = "websocket.resume", "http.request", "websocket.connect"


class Node(MemoryNode):
    """Notes what it was asked, and fails as often as it was told to."""

    def __init__(self, name: str, clock: Clock) -> None:
        super().__init__(name, LIMITS, LIMITS, clock, "epoch")
        self.asked: list[tuple[tuple[str, ...], int, float]] = []
        self.failures: list[Exception] = []

    def pull(self, names: Sequence[str], count: int, wait_s: float) -> Deferred[Pulled | None]:
        self.asked.append((tuple(names), count, wait_s))
        if self.failures:
            return fail(self.failures.pop(0))
        return super().pull(names, count, wait_s)


class Stage:
    """A puller with `slots` slots: each request that it brings takes one until `finish`."""

    def __init__(self, nodes: int = 1, slots: int = 10, batch: int = 4, names: Sequence[str] = (A, B)) -> None:
        self.clock = Clock()
        self.nodes = [Node(f"n{number}", self.clock) for number in range(nodes)]
        for node in self.nodes:
            node.start()
        self.slots = slots
        self.taken: list[str] = []
        #: Where what was pulled is to be answered.
        self.pulled: list[str] = []
        #: What is given back, for it may have been offered once more.
        self.unread: list[ToWorkers] = []
        self.finished = 0
        self.counters = Counters()
        self._due: list[Callable[[], None]] = []
        self.home_leads_s = 0.0
        #: Who has asked the node for its clock, and has no answer yet; None: all are answered at once.
        self.asking: list[Deferred[float]] | None = None
        #: By how much a server may have taken that clock for less.
        self.server_lags_s = 0.0
        #: How long the first turn of one request keeps the loop busy, how long beside that it only waits; and the CPU
        #: time that this thread has used.
        self.busy_s = self.waits_s = 0.0
        self.cpu_s = 0.0
        #: Of how many requests all but one are answered in their first turn; 1: none is.
        self.one_stays_of = 1
        #: Whether what is taken waits for its client, and so keeps no slot.
        self.lends = False
        self.puller = Puller(
            self.nodes,
            URGENT,
            names,
            batch,
            self,
            lambda channel: self.clock.seconds() + self.home_leads_s,
            self._least_clock_of,
            self.clock,
            lambda: self.cpu_s,
            self._due.append,
            self.counters,
        )

    def least_clock(self) -> float:
        return self.clock.seconds() + self.home_leads_s - self.server_lags_s

    def _least_clock_of(self, channel: str) -> Deferred[float]:
        if self.asking is None:
            return succeed(self.least_clock())
        asking: Deferred[float] = Deferred()
        self.asking.append(asking)
        return asking

    def tell_the_time(self) -> None:
        assert self.asking is not None
        self.asking.pop(0).callback(self.least_clock())

    def free(self) -> int:
        return self.slots - (0 if self.lends else self.unanswered)

    @property
    def unanswered(self) -> int:
        return len(self.taken) - self.finished

    def give_back(self, requests: list[ToWorkers]) -> None:
        self.unread += requests

    def expired(self, requests: list[ToWorkers]) -> None:
        self.pulled += [request.reply_channel for request in requests]

    def open(self, requests: list[ToWorkers]) -> None:
        self.taken += [request.path for request in requests]
        self.cpu_s += self.busy_s * len(requests)
        self.clock.rightNow += (self.busy_s + self.waits_s) * len(requests)
        assert self.free() >= 0, "more were taken than there are slots"
        before = len(self.taken) - len(requests)
        self.finished += sum(bool(i % self.one_stays_of) for i in range(before, len(self.taken)))

    def check(self) -> None:
        waiting = sum(node.statistics()["pulls"] for node in self.nodes)
        assert self.puller.reads == waiting + len(self.asking or ())
        assert self.puller.asked <= self.free()

    def turn(self) -> None:
        """Until nothing is left to be done at once."""
        while self._due:
            self.step()
        self.check()

    def step(self) -> None:
        """One turn of the loop."""
        due, self._due[:] = list(self._due), []
        for call in due:
            call()

    def push(self, node: int, *paths: str, name: str = A, deadline: float = 1e9) -> None:
        payloads = [encode(http_request(path=path, deadline=deadline)) for path in paths]
        self.nodes[node].push(name, payloads)

    def finish(self, count: int = 1) -> None:
        self.finished += count
        if self.puller.resting:
            self.puller.read_resting()
        self.check()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.turn()


def fired(deferred: Deferred[None]) -> bool:
    return bool(deferred.called)


def test_what_waits_is_taken_in_order_and_no_more_at_once_than_a_batch() -> None:
    stage = Stage()
    stage.push(0, *"abcdef")
    stage.puller.start()
    assert stage.taken == list("abcd")
    stage.turn()
    assert stage.taken == list("abcdef")
    assert [count for _, count, _ in stage.nodes[0].asked] == [4, 6, 4], "as far as there are slots"


def test_reads_that_come_back_full_ask_for_more_up_to_a_limit_and_one_that_does_not_for_few_again() -> None:
    stage = Stage(slots=1000)
    stage.push(0, *map(str, range(4 + 8 + 16 + 16 + 3)))
    stage.puller.start()
    for _ in range(6):
        stage.turn()
    assert [count for _, count, _ in stage.nodes[0].asked] == [4, 8, 16, 16, 16, 4]
    assert stage.taken == list(map(str, range(47)))


def test_a_read_for_which_there_were_few_slots_says_nothing_of_what_waits() -> None:
    stage = Stage(slots=2)
    stage.push(0, *"abcdef")
    stage.puller.start()
    stage.finish(2)
    stage.turn()
    assert [count for _, count, _ in stage.nodes[0].asked] == [2, 2]


def test_the_longer_first_turns_last_the_fewer_are_taken_at_once() -> None:
    stage = Stage(slots=100_000)
    stage.push(0, *"abcdefghijklmnop")

    def asked(busy_s: float, reads: int) -> list[int]:
        stage.busy_s = busy_s
        before = len(stage.nodes[0].asked)
        for _ in range(reads):
            stage.push(0, *"abcdefghijklmnop")  # more than is taken
            stage.step()
        return [count for _, count, _ in stage.nodes[0].asked[before:]]

    stage.puller.start()
    assert asked(0.00005, 20)[-1] == 16, "all of them take less than a millisecond"
    assert asked(0.00025, 60)[-1] == 4
    assert asked(0.2, 1) == [4], "which nobody could foresee"
    assert asked(0.2, 20) == [1] * 20
    assert asked(0.0, 600)[-1] == 16, "that was long ago"
    stage.waits_s = 0.002
    assert asked(0.0, 100) == [16] * 100, "the kernel has others to serve"
    stage.waits_s = 0.2
    assert asked(0.0, 10)[-1] == 1, "they have kept the loop waiting"


def test_the_more_are_answered_in_their_first_turn_the_more_are_taken_at_once() -> None:
    stage = Stage(slots=100_000)
    stage.puller.start()

    def asked_in_the_end(one_stays_of: int) -> int:
        stage.one_stays_of = one_stays_of
        for _ in range(400):
            stage.push(0, "a", "b", "c")  # less than is asked for
            stage.turn()
        return stage.nodes[0].asked[-1][1]

    assert asked_in_the_end(1) == 4, "others might have time for them"
    assert asked_in_the_end(8) in (7, 8, 9), "about one of which will stay"
    assert asked_in_the_end(1000) == 16
    stage.lends = True
    assert asked_in_the_end(1) == 4, "for others might answer them when their clients have sent all"
    stage.lends = False
    stage.busy_s = 0.0005
    assert asked_in_the_end(1000) == 2, "they wait for each other all the same"


def test_after_little_has_come_at_a_time_few_are_taken_at_once() -> None:
    """For these may be others: health checks are answered at once, and what comes with a rush of clients stays."""
    stage = Stage(slots=100_000, batch=8)
    stage.one_stays_of = 10_000
    stage.puller.start()
    for _ in range(1000):
        stage.push(0, "health")
        stage.turn()
    assert stage.nodes[0].asked[-1][1] == 8
    stage.push(0, *"abcdefghijklmno")
    stage.turn()
    assert stage.nodes[0].asked[-2][1] == 32, "it has come in numbers, and so far all was answered at once"


def test_what_comes_is_taken_at_once() -> None:
    stage = Stage()
    stage.puller.start()
    stage.push(0, "a")
    assert stage.taken == ["a"]


def test_the_next_read_leaves_a_turn_later() -> None:
    stage = Stage()
    stage.puller.start()
    stage.push(0, "a")
    assert stage.puller.reads == 0
    stage.turn()
    assert stage.puller.reads == 1


def test_the_channel_that_comes_first_changes_with_every_read() -> None:
    stage = Stage(batch=1)
    stage.push(0, "a1", "a2", "a3", name=A)
    stage.push(0, "b1", "b2", "b3", name=B)
    stage.puller.start()
    for _ in range(6):
        stage.turn()
    assert stage.taken == ["a1", "b1", "b2", "a2", "a3", "b3"]
    assert [names for names, _, _ in stage.nodes[0].asked[:3]] == [(URGENT, A, B), (URGENT, B, A), (URGENT, A, B)]


def test_what_is_urgent_is_taken_before_all_that_came_earlier() -> None:
    stage = Stage(batch=1)
    stage.push(0, "a1", "a2", name=A)
    stage.push(0, "b1", "b2", name=B)
    stage.push(0, "u1", "u2", "u3", name=URGENT)
    stage.puller.start()
    for _ in range(7):
        stage.turn()
    assert stage.taken[:3] == ["u1", "u2", "u3"]
    assert sorted(stage.taken[3:]) == ["a1", "a2", "b1", "b2"]


def test_nodes_begin_with_different_channels() -> None:
    stage = Stage(nodes=3)
    stage.puller.start()
    assert [node.asked[0][0] for node in stage.nodes] == [(URGENT, A, B), (URGENT, B, A), (URGENT, A, B)]


def test_a_read_asks_for_no_more_than_there_are_slots() -> None:
    stage = Stage(slots=3)
    stage.push(0, *"abcdef")
    stage.puller.start()
    stage.turn()
    assert stage.taken == list("abc")
    assert stage.puller.reads == 0
    assert len(stage.puller.resting) == 1
    stage.finish()
    assert stage.taken == list("abcd")
    stage.turn()
    stage.finish(2)
    stage.turn()
    assert stage.taken == list("abcdef")


def test_each_node_is_read_when_there_are_slots_for_all() -> None:
    stage = Stage(nodes=3, slots=6)
    stage.puller.start()
    one, other = (URGENT, A, B), (URGENT, B, A)
    assert [node.asked for node in stage.nodes] == [[(one, 4, WAIT_S)], [(other, 1, WAIT_S)], [(one, 1, WAIT_S)]]


def test_with_fewer_slots_than_nodes_the_reads_go_round() -> None:
    stage = Stage(nodes=3, slots=1)
    stage.puller.start()
    order: list[int] = []
    for _ in range(6):
        (reading,) = [i for i, node in enumerate(stage.nodes) if node.statistics()["pulls"]]
        assert stage.nodes[reading].asked[-1][1:] == (1, ROUND_WAIT_S)
        order.append(reading)
        stage.advance(ROUND_WAIT_S)
    assert order == [0, 1, 2, 0, 1, 2]


def test_a_full_worker_that_gets_a_slot_reads_the_node_that_has_rested_longest() -> None:
    stage = Stage(nodes=2, slots=1)
    stage.push(0, "a0", "a1")
    stage.push(1, "b0", "b1")
    stage.puller.start()
    for _ in range(4):
        stage.turn()
        stage.finish()
    assert stage.taken == ["a0", "b0", "a1", "b1"]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(["push", "finish", "time", "turn"]), st.integers(0, 9)), max_size=60),
)
def test_slots_are_never_exceeded_and_nothing_is_left_lying(
    nodes: int, slots: int, batch: int, steps: list[tuple[str, int]]
) -> None:
    stage = Stage(nodes, slots, batch)
    stage.puller.start()
    pushed: list[str] = []
    for step, number in steps:
        if step == "push":
            paths = [str(len(pushed) + i) for i in range(number)]
            pushed += paths
            stage.push(number % nodes, *paths, name=random.choice((A, B)))
        elif step == "finish":
            stage.finish(min(number, len(stage.taken) - stage.finished))
        elif step == "time":
            stage.advance(number * 0.02)
        else:
            stage.turn()
        stage.check()
    for _ in range(10 * (len(pushed) + 1) * nodes):
        stage.finish(len(stage.taken) - stage.finished)
        stage.advance(ROUND_WAIT_S)
    assert sorted(stage.taken) == sorted(pushed)


def test_a_request_that_is_too_old_is_dropped_and_counted() -> None:
    stage = Stage()
    stage.clock.advance(100.0)
    stage.push(0, "old", deadline=99.9)
    stage.push(0, "just", deadline=100.0)
    stage.puller.start()
    assert stage.taken == ["just"]
    assert stage.counters.value("messages_dropped", "expired") == 1


def test_a_deadline_is_by_the_clock_of_the_servers_node() -> None:
    stage = Stage()
    stage.clock.advance(100.0)
    stage.home_leads_s = -60.0
    stage.push(0, "fresh", deadline=70.0)
    stage.push(0, "old", deadline=39.9)
    stage.puller.start()
    assert stage.taken == ["fresh"]
    assert stage.counters.value("messages_dropped", "expired") == 1


def test_before_anything_is_dropped_its_node_is_asked_for_the_time() -> None:
    stage = Stage()
    stage.asking = []
    stage.clock.advance(100.0)
    stage.push(0, "late", deadline=50.0)
    stage.push(0, "in time", deadline=100.0)
    stage.push(0, "later", deadline=90.0)
    stage.puller.start()
    # It holds up nothing else, but has a slot.
    assert stage.taken == ["in time"]
    assert stage.puller.asked == 2
    stage.turn()
    # The clock of the node was set back, and nobody knew.
    stage.home_leads_s = -20.0
    stage.tell_the_time()
    stage.turn()
    assert stage.taken == ["in time", "later"]
    assert len(stage.pulled) == stage.counters.value("messages_dropped", "expired") == 1


def test_a_server_that_does_not_know_that_the_clock_was_set_forward_is_served() -> None:
    stage = Stage()
    stage.clock.advance(100.0)
    stage.home_leads_s, stage.server_lags_s = 3600.0, 3600.0
    stage.push(0, "fresh", deadline=130.0)
    stage.push(0, "old", deadline=99.0)
    stage.puller.start()
    assert stage.taken == ["fresh"]
    assert stage.counters.value("messages_dropped", "expired") == 1


def test_what_may_be_late_has_slots_and_nobody_else_gets_them() -> None:
    stage = Stage(nodes=2, slots=3, batch=3)
    stage.asking = []
    stage.clock.advance(100.0)
    stage.push(0, "a", "b", "c", deadline=50.0)
    stage.puller.start()
    stage.turn()
    stage.advance(ROUND_WAIT_S)
    stage.push(1, "d", "e", "f")
    held = stage.puller.asked
    assert stage.asking
    assert held <= 3
    while stage.asking:
        stage.tell_the_time()
        stage.turn()
    for _ in range(10):
        stage.finish(len(stage.taken) - stage.finished)
        stage.advance(ROUND_WAIT_S)
        while stage.asking:
            stage.tell_the_time()
            stage.turn()
    assert sorted(stage.taken) == list("def")
    assert stage.counters.value("messages_dropped", "expired") == 3


def test_a_stop_waits_for_what_may_be_late() -> None:
    stage = Stage()
    stage.asking = []
    stage.clock.advance(100.0)
    stage.push(0, "late", deadline=50.0)
    stage.puller.start()
    stage.turn()
    stopped = stage.puller.stop()
    stage.home_leads_s = -60.0
    assert not fired(stopped)
    stage.tell_the_time()
    assert fired(stopped)
    assert stage.taken == ["late"]


def test_what_does_not_decode_is_dropped_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.nodes[0].push(A, [b"", b"\x02", b"\x01\x90"])
    stage.push(0, "good")
    stage.puller.start()
    stage.turn()
    stage.nodes[0].push(A, [b"nothing"])
    stage.turn()
    assert stage.taken == ["good"]
    assert stage.counters.value("messages_dropped", "undecodable") == 4
    assert [record.getMessage() for record in caplog.records] == [
        "dropped a message from http.request of node n0: format version missing, expected 01"
    ]


def test_a_defect_of_ours_does_not_end_the_reading(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()

    def broken(requests: list[ToWorkers]) -> None:
        raise ValueError("a defect")

    working, stage.open = stage.open, broken  # type: ignore[method-assign]
    stage.push(0, "a")
    stage.puller.start()
    stage.open = working  # type: ignore[method-assign]
    stage.turn()
    stage.push(0, "b")
    assert stage.taken == ["b"]
    assert "ValueError: a defect" in caplog.text


# Nodes that fail.


def test_a_node_that_is_not_there_is_read_when_it_is() -> None:
    stage = Stage(nodes=2)
    stage.nodes[1].stop()
    stage.puller.start()
    stage.turn()
    stage.push(0, "a")
    assert stage.taken == ["a"]
    stage.nodes[1].start()
    stage.turn()
    stage.push(1, "b")
    assert stage.taken == ["a", "b"]


def test_a_node_that_fails_again_and_again_is_asked_more_and_more_seldom() -> None:
    stage = Stage()
    stage.nodes[0].failures = [NodeUnreachable("gone")] * 20
    stage.puller.start()
    times = []
    while stage.nodes[0].failures:
        before = len(stage.nodes[0].asked)
        stage.turn()
        if len(stage.nodes[0].asked) == before:
            (call,) = stage.clock.getDelayedCalls()
            times.append(call.getTime() - stage.clock.seconds())
            stage.advance(times[-1])
    assert len(stage.nodes[0].asked) <= 22
    assert RETRY_S * 0.7 <= times[0] <= RETRY_S * 2 * 1.3
    assert RETRY_MAX_S * 0.7 <= times[-1] <= RETRY_MAX_S * 1.3
    stage.advance(RETRY_MAX_S * 1.3)
    stage.push(0, "a")
    assert stage.taken == ["a"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [(NodeRefused("OOM"), "node n0 refuses to be read: OOM"), (ValueError("a defect"), "reading node n0 failed")],
)
def test_a_node_that_refuses_is_logged_and_asked_again_later(
    error: Exception, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    stage.nodes[0].failures = [error]
    stage.push(0, "a")
    stage.puller.start()
    stage.turn()
    assert stage.taken == []
    assert expected in caplog.text
    stage.advance(RETRY_S * 1.3)
    assert stage.taken == ["a"]


# Holding and stopping.


def test_nothing_is_taken_while_it_is_held() -> None:
    stage = Stage(batch=1)
    stage.puller.start()
    stage.puller.hold()
    stage.push(0, "a", "b")
    assert stage.taken == ["a"], "the read was under way"
    stage.turn()
    stage.finish()
    assert stage.taken == ["a"]
    stage.puller.resume()
    assert stage.taken == ["a", "b"]


def test_stop_ends_the_reads_that_wait_and_begins_no_other() -> None:
    stage = Stage(nodes=2)
    stage.puller.start()
    stopped = stage.puller.stop()
    assert fired(stopped)
    stage.turn()
    stage.push(0, "a")
    stage.puller.read_resting()
    stage.advance(10.0)
    assert stage.taken == []
    assert stage.clock.getDelayedCalls()[0].getTime() >= 600, "nothing but the node's own sweep"


def test_what_the_last_read_brings_is_handed_on() -> None:
    stage = Stage()
    node = stage.nodes[0]
    node.end_pulls = lambda: None  # type: ignore[method-assign]
    stage.puller.start()
    stopped = stage.puller.stop()
    assert not fired(stopped)
    stage.push(0, "a", "b")
    assert stage.taken == ["a", "b"]
    assert fired(stopped)
    stage.turn()
    assert stage.puller.reads == 0


def test_the_last_read_ends_by_its_own_time() -> None:
    stage = Stage()
    stage.nodes[0].end_pulls = lambda: None  # type: ignore[method-assign]
    stage.puller.start()
    stopped = stage.puller.stop()
    stage.advance(WAIT_S)
    assert fired(stopped)


@pytest.mark.parametrize("error", [NodeUnreachable("gone"), NodeRefused("OOM")])
def test_stop_forgets_a_node_that_it_waits_for(error: Exception) -> None:
    stage = Stage()
    stage.nodes[0].failures = [error, error]
    if isinstance(error, NodeUnreachable):
        stage.nodes[0].stop()
    stage.puller.start()
    stage.turn()
    assert fired(stage.puller.stop())
    assert stage.clock.getDelayedCalls() == []
    stage.nodes[0].start()
    asked = len(stage.nodes[0].asked)
    stage.advance(10.0)
    assert len(stage.nodes[0].asked) == asked


def test_stop_before_start_fires_at_once() -> None:
    assert fired(Stage().puller.stop())


def test_a_read_that_fails_while_it_stops_ends_it() -> None:
    stage = Stage()
    stage.nodes[0].end_pulls = lambda: None  # type: ignore[method-assign]
    stage.puller.start()
    stopped = stage.puller.stop()
    stage.nodes[0].stop()
    assert fired(stopped)
    stage.advance(10.0)
    assert len(stage.nodes[0].asked) == 1


def stalled(stage: Stage, begun_s: float, still_s: float, timers_first: bool) -> None:
    """A read that began `begun_s` before the loop stood still brings a request behind that."""
    stage.puller.turned()
    stage.puller.start()
    while begun_s > 0:
        stage.clock.advance(0.25)
        begun_s -= 0.25
        stage.puller.turned()
    stage.clock.rightNow += still_s
    if timers_first:
        stage.puller.turned()
    stage.push(0, "a", "b")


@pytest.mark.parametrize("timers_first", [True, False])
@pytest.mark.parametrize("begun_s", [0, 0.5])
def test_what_may_have_lain_unread_for_too_long_is_given_back(begun_s: float, timers_first: bool) -> None:
    stage = Stage()
    stalled(stage, begun_s, 0.6, timers_first)
    assert (stage.taken, [request.path for request in stage.unread]) == ([], ["a", "b"])
    # The next read begins when the loop turns again.
    stage.turn()
    stage.push(0, "c")
    assert stage.taken == ["c"]


@pytest.mark.parametrize("timers_first", [True, False])
def test_what_lay_there_for_a_shorter_time_is_begun(timers_first: bool) -> None:
    stage = Stage()
    stalled(stage, 0.5, 0.4, timers_first)
    assert (stage.taken, stage.unread) == (["a", "b"], [])


def test_what_comes_well_after_the_loop_stood_still_is_begun() -> None:
    stage = Stage()
    stage.puller.turned()
    stage.puller.start()
    stage.clock.rightNow += 0.6
    stage.puller.turned()
    stage.clock.rightNow += 0.25
    stage.puller.turned()
    stage.push(0, "a")
    assert (stage.taken, stage.unread) == (["a"], [])


class Holdable:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.turns = 0

    def hold(self) -> None:
        self.told.append("hold")

    def resume(self) -> None:
        self.told.append("resume")

    def turned(self) -> None:
        self.turns += 1


class Watched:
    """A watch, and the memory that it shares with a supervisor, which the test plays."""

    def __init__(self) -> None:
        self.clock = Clock()
        memory = bytearray(Ledger.size(1))
        self.supervisor, self.ours = Ledger(memory, 1), Ledger(memory, 1)
        self.worker = Holdable()
        self.watch = SupervisorWatch(self.ours, self.worker, self.clock)

    def run(self, seconds: float, beating: bool = True) -> None:
        for _ in range(round(seconds / 0.25)):
            if beating:
                self.supervisor.beat()
            self.clock.advance(0.25)


def test_it_says_that_the_loop_turns() -> None:
    stage = Watched()
    stage.watch.start()
    assert stage.supervisor.turns == 1
    for turns in range(2, 6):
        stage.clock.advance(TURN_S)
        assert stage.supervisor.turns == stage.worker.turns == turns
    stage.watch.stop()
    stage.clock.advance(10)
    assert stage.supervisor.turns == 5
    assert stage.clock.getDelayedCalls() == []


def test_while_the_supervisor_beats_nothing_happens() -> None:
    stage = Watched()
    stage.watch.start()
    stage.run(60)
    assert stage.worker.told == []


def test_a_supervisor_that_stands_still_for_a_second_holds_the_worker_until_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    stage = Watched()
    stage.watch.start()
    stage.run(5)
    stage.run(0.75, beating=False)
    assert stage.worker.told == []
    stage.run(0.25, beating=False)
    assert stage.worker.told == ["hold"]
    stage.run(10, beating=False)
    assert stage.worker.told == ["hold"]
    stage.run(0.25)
    assert stage.worker.told == ["hold", "resume"]
    stage.run(5)
    assert stage.worker.told == ["hold", "resume"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]


def test_one_that_never_beats_at_all_is_noticed() -> None:
    stage = Watched()
    stage.watch.start()
    stage.run(1, beating=False)
    assert stage.worker.told == ["hold"]


def test_a_worker_that_stood_still_itself_sees_that_the_supervisor_did_not() -> None:
    stage = Watched()
    stage.watch.start()
    stage.run(1)
    stage.supervisor.beat()
    stage.clock.advance(10)
    assert stage.worker.told == []


def test_a_worker_that_stood_still_does_not_forget_that_its_supervisor_stands_still() -> None:
    stage = Watched()
    stage.watch.start()
    stage.run(1)
    stage.run(2, beating=False)
    stage.clock.advance(5)
    stage.run(5, beating=False)
    assert stage.worker.told == ["hold"]


def test_both_stood_still_and_the_worker_wakes_first() -> None:
    stage = Watched()
    stage.watch.start()
    stage.run(1)
    stage.clock.advance(5)
    stage.run(0.25)
    assert stage.worker.told == ["hold", "resume"]


def test_stopping_what_was_not_started() -> None:
    Watched().watch.stop()
