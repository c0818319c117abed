"""Offers that are not claimed: what is known of them, what is asked, and what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from ifserver import channels
from ifserver import messages as m
from ifserver.errors import NodeUnreachable
from ifserver.front.exchanges.offers import OfferList, UnclaimedOffers
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Limits, Node
from tests.front.fakes import GET, HANDSHAKE, WORKER, World

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
LIMITS = Limits(10_000, 600.0)


class Asked(MemoryNode):
    """Remembers for what it was asked, and answers late if it is told to."""

    questions: list[bytes]
    late: list[Deferred[bool]] | None = None

    def holds(self, channel: str, payload: bytes) -> Deferred[bool]:
        self.__dict__.setdefault("questions", []).append(payload)
        if self.late is not None:
            self.late.append(Deferred())
            return self.late[-1]
        return super().holds(channel, payload)

    def count(self) -> int:
        """How often it was asked."""
        return len(self.__dict__.get("questions", ()))


class FakeAttempt:
    """Something that was offered."""

    list: OfferList | None = None
    placed_at = popped_at = 0.0

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.name = name
        self.payload = name.encode()
        self.rerouted = self.taken_back = self.nodes_lost = 0
        self.then: Callable[[], object] = lambda: None

    def claim_timed_out(self) -> None:
        self.stage.timed_out.append(self.name)
        self.then()

    def reroute(self) -> None:
        self.rerouted += 1

    def take_back(self) -> None:
        self.taken_back += 1

    def node_lost(self) -> None:
        self.nodes_lost += 1


def timers(clock: Clock) -> list[Any]:
    """The timers that run, but for those of nodes."""
    calls: Any = clock.getDelayedCalls()
    return [call for call in calls if not isinstance(call.func.__self__, MemoryNode)]


class FakeNodes:
    """What `UnclaimedOffers` is told of nodes, and what it tells."""

    def __init__(self) -> None:
        #: Whether another node is better.
        self.better = False
        #: Nodes that nobody reads.
        self.unread: set[str] = set()
        self.were_behind: list[str] = []
        self.were_emptied: list[tuple[str, str]] = []

    def behind(self, node: Node, channel: str) -> bool:
        self.were_behind.append(node.name)
        return self.better

    def emptied(self, node: Node, channel: str) -> None:
        self.were_emptied.append((node.name, channel))

    def is_unread(self, node: Node, channel: str) -> bool:
        return node.name in self.unread

    def has_better(self, node: Node, channel: str) -> bool:
        return self.better


class Stage:
    """Offers, and nodes whose lists the test empties."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.node = Asked("east", LIMITS, LIMITS, self.clock, "e")
        self.other = Asked("west", LIMITS, LIMITS, self.clock, "e")
        for node in (self.node, self.other):
            node.start()
        self.nodes = FakeNodes()
        self.offers = UnclaimedOffers(self.clock, self.nodes)
        self.timed_out: list[str] = []
        self.attempts: dict[str, FakeAttempt] = {}

    def offer(self, *names: str, node: MemoryNode | None = None, channel: str = channels.HTTP_REQUEST) -> None:
        for name in names:
            attempt = self.attempts.setdefault(name, FakeAttempt(self, name))
            where = node or self.node
            where.push(channel, [attempt.payload])
            self.offers.made(attempt, where, channel)

    def pop(self, count: int = 1, channel: str = channels.HTTP_REQUEST) -> None:
        """Somebody takes so many requests, and says nothing."""
        assert self.node.pull([channel], count, 0).called

    def timers(self) -> int:
        """How many of the offers' own timers run."""
        return len(timers(self.clock))

    def claim(self, name: str) -> bool:
        return self.offers.claimed(self.attempts[name])

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.clock.advance(0.25)


def test_what_came_before_a_claimed_one_was_popped_and_nobody_need_be_asked() -> None:
    stage = Stage()
    stage.offer("a", "b")
    stage.run(0.5)
    stage.offer("c")
    stage.pop(2)
    assert stage.claim("b") is True
    stage.run(1.25)
    assert stage.timed_out == []
    stage.run(0.25)
    assert stage.timed_out == ["a"]
    # That is about another one.
    assert stage.node.questions == [b"c"]
    assert len(stage.offers) == 1


def test_lists_have_nothing_to_do_with_each_other() -> None:
    stage = Stage()
    stage.offer("a")
    stage.offer("b", channel=channels.WEBSOCKET_CONNECT)
    stage.offer("c", node=stage.other)
    stage.claim("b")
    stage.claim("c")
    stage.run(3)
    assert stage.timed_out == []


def test_what_stands_is_asked_for_once_a_second_and_only_the_oldest() -> None:
    stage = Stage()
    stage.offer("a", "b")
    stage.run(0.75)
    assert stage.node.count() == 0
    stage.run(0.25)
    assert stage.node.questions == [b"a"]
    stage.run(3)
    assert stage.node.questions == [b"a"] * 4
    assert stage.timed_out == []


def test_it_is_told_when_nothing_stands_on_a_list_any_more() -> None:
    stage = Stage()
    stage.offer("a", "b")
    stage.offer("c", node=stage.other)
    assert stage.claim("a")
    assert stage.nodes.were_emptied == []
    assert stage.claim("b")
    assert stage.nodes.were_emptied == [("east", channels.HTTP_REQUEST)]


def test_nobody_is_asked_while_requests_are_claimed() -> None:
    stage = Stage()
    names = list(map(str, range(20)))
    stage.offer(*names)
    for name in names:
        stage.run(0.5)
        stage.claim(name)
    assert stage.node.count() == 0


def test_a_list_that_was_empty_is_not_quiet() -> None:
    stage = Stage()
    stage.offer("a")
    stage.claim("a")
    stage.run(5)
    stage.offer("b")
    stage.run(0.75)
    assert stage.node.count() == 0


def test_while_the_answer_is_no_the_next_is_asked_for_at_once() -> None:
    stage = Stage()
    stage.offer("a", "b", "c", "d")
    stage.pop(2)
    stage.run(1)
    assert stage.node.questions == [b"a", b"b", b"c"]
    stage.run(1.25)
    assert stage.timed_out == []
    stage.run(0.25)
    assert stage.timed_out == ["a", "b"]


def test_one_that_is_not_a_second_old_is_not_asked_for() -> None:
    stage = Stage()
    stage.offer("a")
    stage.run(0.5)
    stage.offer("b")
    stage.pop(2)
    stage.run(0.5)
    assert stage.node.questions == [b"a"]
    stage.run(0.5)
    assert stage.node.questions == [b"a", b"b"]


def test_an_answer_that_is_under_way_is_waited_for() -> None:
    stage = Stage()
    stage.node.late = []
    stage.offer("a", "b")
    stage.run(5)
    assert stage.node.questions == [b"a"]
    stage.node.late.pop().callback(False)
    assert stage.node.questions == [b"a", b"b"]


@pytest.mark.parametrize("what", ["claimed", "left"])
def test_an_answer_that_comes_too_late_to_matter(what: str) -> None:
    stage = Stage()
    stage.node.late = []
    stage.offer("a")
    stage.run(1)
    getattr(stage.offers, what)(stage.attempts["a"])
    stage.node.late.pop().callback(False)
    stage.run(5)
    assert stage.timed_out == []
    assert len(stage.offers) == 0


def test_a_node_that_cannot_be_asked_is_asked_again_a_second_later() -> None:
    stage = Stage()
    stage.offer("a")
    stage.node.late = []
    stage.run(1)
    stage.node.late.pop().errback(NodeUnreachable("gone"))
    stage.run(0.75)
    assert stage.node.count() == 1
    stage.run(0.25)
    assert stage.node.count() == 2
    stage.node.late.pop().callback(False)
    stage.run(1.5)
    assert stage.timed_out == ["a"]


def test_a_bug_in_the_question_is_logged_and_it_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.offer("a")
    answers = [fail(RuntimeError("a bug")), succeed(False)]
    stage.node.holds = lambda *_: answers.pop(0)  # type: ignore[method-assign]
    stage.run(2.75)
    assert "RuntimeError: a bug" in caplog.text
    assert stage.timed_out == ["a"]


def test_a_claim_in_time_is_the_end_of_it() -> None:
    stage = Stage()
    stage.offer("a")
    stage.pop()
    stage.run(1.75)
    # It had stood for so long that its node is no fast one.
    assert stage.claim("a") is False
    stage.run(5)
    assert stage.timed_out == []
    assert stage.timers() == 0


def test_claims_come_in_any_order() -> None:
    stage = Stage()
    names = [str(number) for number in range(6)]
    stage.offer(*names)
    stage.pop(6)
    for name in ("5", "0", "3", "1"):
        stage.claim(name)
    stage.run(1.5)
    assert stage.timed_out == ["2", "4"]
    assert len(stage.offers) == 0


def test_a_claim_of_what_has_vanished_is_nothing() -> None:
    stage = Stage()
    stage.offer("a")
    stage.pop()
    stage.run(2.5)
    assert stage.timed_out == ["a"]
    assert stage.claim("a") is False


def test_the_node_itself_may_say_that_it_is_gone() -> None:
    """A withdrawal that comes too late says so too."""
    stage = Stage()
    stage.offer("a", "b", "c")
    stage.offers.popped(stage.attempts["b"])
    stage.run(1.5)
    assert stage.timed_out == ["a", "b"]


def test_a_server_that_stood_still_first_reads_what_was_claimed_meanwhile() -> None:
    stage = Stage()
    stage.offer("a", "b")
    stage.pop(2)
    stage.claim("b")
    stage.clock.advance(10)
    assert stage.timed_out == []
    stage.claim("a")
    stage.run(3)
    assert stage.timed_out == []


def test_a_server_that_stood_still_waits_another_second() -> None:
    stage = Stage()
    stage.offer("a", "b")
    stage.pop(2)
    stage.claim("b")
    stage.clock.advance(10)
    stage.run(1.5)
    assert stage.timed_out == ["a"]


def test_one_that_is_offered_anew_where_nothing_was_offered_before() -> None:
    stage = Stage()
    stage.offer("a", "b")
    stage.attempts["a"].then = lambda: stage.offer("a", node=stage.other)
    stage.pop(2)
    stage.run(2.5)
    assert stage.timed_out == ["a", "b"]
    stage.run(1)
    assert stage.other.questions == [b"a"]


def test_a_bug_in_one_of_them_does_not_end_the_looking() -> None:
    stage = Stage()

    def broken() -> None:
        raise RuntimeError("a bug")

    stage.offer("a", "b")
    stage.attempts["a"].then = broken
    stage.pop(2)
    with pytest.raises(RuntimeError, match="a bug"):
        stage.run(2.5)
    stage.run(0.25)
    assert stage.timed_out == ["a", "b"]


def test_a_node_is_behind_when_a_request_has_stood_there_for_a_second() -> None:
    stage = Stage()
    stage.offer("a")
    stage.run(0.5)
    stage.offer("b")
    stage.run(0.25)
    assert stage.nodes.were_behind == []
    stage.run(0.25)
    assert stage.nodes.were_behind == ["east"]
    assert stage.attempts["a"].rerouted == 0
    stage.nodes.better = True
    stage.run(0.25)
    assert [stage.attempts[name].rerouted for name in "ab"] == [1, 0]
    stage.run(0.25)
    assert stage.attempts["b"].rerouted == 1


def test_looking_costs_nothing_when_there_is_nothing_to_look_for() -> None:
    stage = Stage()
    stage.offer("a")
    assert stage.timers() == 1
    stage.offers.left(stage.attempts["a"])  # type: ignore[arg-type]
    stage.run(0.25)
    assert stage.timers() == 0
    stage.offer("b")
    assert stage.timers() == 1


def test_after_the_end_nothing_is_left() -> None:
    stage = Stage()
    stage.offer("a", "b")
    stage.node.late = []
    stage.run(1)
    stage.offers.stop()
    stage.node.late.pop().callback(False)
    stage.offers.left(stage.attempts["a"])  # type: ignore[arg-type]
    assert stage.claim("b") is False
    stage.run(5)
    assert stage.timed_out == []
    assert len(stage.offers) == 0
    assert stage.timers() == 0


def test_very_many_that_are_all_gone() -> None:
    """Answers that are there at once must not be asked for from within each other."""
    stage = Stage()
    names = [str(number) for number in range(5000)]
    stage.offer(*names)
    stage.pop(5000)
    stage.run(2.5)
    assert stage.timed_out == names


@pytest.mark.parametrize("order", ["forwards", "backwards", "in batches", "two at once"])
def test_a_claim_costs_the_same_however_many_are_not_claimed(order: str) -> None:
    count = 20_000
    numbers = {
        "forwards": list(range(count)),
        "backwards": list(range(count))[::-1],
        # Each worker takes eight and answers them last to first.
        "in batches": [start + i for start in range(0, count, 8) for i in range(8)[::-1]],
        # One worker has taken the first half and answers as fast as another one who has the second.
        "two at once": [half + i for i in range(count // 2) for half in (count // 2, 0)],
    }[order]
    stage = Stage()
    names = list(map(str, range(count)))
    for name in names:
        attempt = stage.attempts[name] = FakeAttempt(stage, name)
        stage.offers.made(attempt, stage.node, channels.HTTP_REQUEST)
    began = time.process_time()
    for number in numbers:
        assert stage.claim(names[number])
    # Some 20 ms. It would take seconds if a claim looked at each offer before it, or at each that was there once.
    assert time.process_time() - began < 0.5
    assert len(stage.offers) == 0


# With all that belongs to a server.


def lost(world: World) -> int:
    """Somebody takes all requests and dies before anybody knows; how many those were."""
    world.settle()
    return len(world.pull(channels.HTTP_REQUEST) + world.pull(channels.WEBSOCKET_CONNECT))


def tick(world: World, seconds: float) -> None:
    for _ in range(round(seconds * 4)):
        world.advance(0.25)


@pytest.mark.parametrize(
    ("request_", "channel"), [(GET, channels.HTTP_REQUEST), (HANDSHAKE, channels.WEBSOCKET_CONNECT)]
)
def test_a_lost_request_is_offered_once_more_within_three_seconds(request_: bytes, channel: str) -> None:
    world = World()
    client = world.client(request_)
    assert lost(world) == 1
    tick(world, 2.5)
    job = world.worker.job(channel)
    assert job.request.attempt == 1
    job.claim()
    job.respond(body=b"here")
    assert client.received().endswith(b"here")
    assert world.counters.value("retries") == 1
    client.leave()
    world.assert_empty()
    assert len(world.server.exchanges.offers) == 0


@pytest.mark.parametrize("order", [("died", "lost"), ("lost", "died")])
def test_a_lost_worker_and_one_that_is_never_heard_of_cost_an_attempt_each(order: tuple[str, str]) -> None:
    """As where all workers of a machine are killed: one had it, and the next takes it while it dies."""
    world = World(queue_timeout_s=30)
    client = world.client(GET)
    for attempt, how in enumerate(order):
        if how == "died":
            job = world.worker.job()
            job.claim()
            job.release("died")
            world.settle()
        else:
            assert lost(world) == 1
            tick(world, 2.5)
        assert world.counters.value("retries") == attempt + 1
    job = world.worker.job()
    assert job.request.attempt == 2
    job.claim()
    job.release("died")
    assert client.received().startswith(b"HTTP/1.1 502 "), "and no more than that"
    client.leave()
    world.assert_empty()


def test_what_is_offered_again_has_as_much_time_as_at_first() -> None:
    """A worker that takes it later than its deadline drops it, and nobody would answer."""
    world = World(queue_timeout_s=30, response_timeout_s=120)
    world.client(GET)
    first = world.worker.job()
    first.claim()
    world.settle()
    tick(world, 60)
    first.release("died")
    second = world.worker.job()
    assert second.request.attempt == 1
    assert second.request.deadline == world.clock.seconds() + 30


def test_it_is_not_offered_a_third_time() -> None:
    world = World(queue_timeout_s=10)
    client = world.client(GET)
    assert lost(world) == 1
    tick(world, 3)
    assert lost(world) == 1
    # The second attempt was made after two and a half seconds, and has the same time as the first.
    tick(world, 9.25)
    assert client.received() == b""
    assert lost(world) == 0
    tick(world, 0.75)
    assert client.received().startswith(b"HTTP/1.1 504 ")
    client.leave()
    world.assert_empty()


def test_a_post_is_never_offered_again() -> None:
    world = World(queue_timeout_s=10)
    client = world.client(POST)
    assert lost(world) == 1
    tick(world, 9.75)
    assert lost(world) == 0
    assert client.received() == b""
    tick(world, 0.75)
    assert client.received().startswith(b"HTTP/1.1 504 ")
    client.leave()
    world.assert_empty()


def test_a_post_that_was_held_up_is_answered_all_the_same() -> None:
    world = World()
    client = world.client(POST)
    job = world.worker.job()
    tick(world, 5)
    job.respond(body=b"at last")
    assert client.received().endswith(b"at last")
    client.leave()
    world.assert_empty()


def test_who_had_the_first_attempt_is_told_to_let_go() -> None:
    world = World()
    client = world.client(GET)
    first = world.worker.job()
    tick(world, 2.5)
    second = world.worker.job()
    first.claim()
    first.respond(body=b"first")
    gone = m.Release(first.stream, 0, WORKER, "gone")
    assert world.worker.heard() == [gone, gone]
    second.respond(body=b"second")
    assert client.received().endswith(b"second")


def test_one_whose_claim_is_heard_is_not_offered_again(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    tick(world, 1.75)
    job.claim()
    world.settle()
    assert len(world.server.exchanges.offers) == 0
    tick(world, 10)
    assert "defect" not in caplog.text
    assert world.worker.jobs() == []
    job.respond(body=b"slow")
    assert client.received().endswith(b"slow")


def test_one_that_nobody_takes_stays_where_it_is() -> None:
    world = World(queue_timeout_s=30)
    client = world.client(GET)
    tick(world, 29)
    assert world.waiting() == 1
    job = world.worker.job()
    assert job.request.attempt == 0
    job.respond(body=b"taken")
    assert client.received().endswith(b"taken")


@pytest.mark.parametrize("request_", [GET, HANDSHAKE])
def test_one_that_vanishes_while_it_is_withdrawn(request_: bytes, caplog: pytest.LogCaptureFixture) -> None:
    class Slow(Asked):
        withdrawing: Deferred[bool]

        def withdraw(self, channel: str, payload: bytes) -> Deferred[bool]:
            self.withdrawing = Deferred()
            return self.withdrawing

    world = World(node=Slow, queue_timeout_s=1.4)
    client = world.client(request_)
    assert lost(world) == 1
    tick(world, 2.25)
    assert client.received() == b""
    assert isinstance(world.node, Slow)
    world.node.withdrawing.callback(False)
    tick(world, 0.5)
    assert client.received().startswith(b"HTTP/1.1 504 ")
    assert "defect" not in caplog.text
    client.leave()
    world.assert_empty()


def test_a_client_that_leaves_takes_its_offer_along() -> None:
    world = World()
    client = world.client(GET)
    assert len(world.server.exchanges.offers) == 1
    client.leave()
    world.assert_empty()
    assert len(world.server.exchanges.offers) == 0


def test_the_end_of_the_server_is_the_end_of_its_offers() -> None:
    world = World(drain_timeout_s=5)
    world.client(GET)
    lost(world)
    done = world.drain()
    tick(world, 6)
    assert done == [None]
    assert len(world.server.exchanges.offers) == 0
    assert timers(world.clock) == []


def test_an_open_websocket_is_not_left_to_a_node_that_is_gone() -> None:
    stage = Stage()
    stage.offer("resumed", channel=channels.WEBSOCKET_RESUME)
    stage.offer("request")
    stage.node.stop()
    stage.run(0.75)
    assert stage.timed_out == []
    stage.run(0.75)
    assert stage.timed_out == ["resumed"], "somebody may have the request"
    stage.run(5)
    assert stage.timed_out == ["resumed"]


# Who reads, and what is gone.


def test_what_stands_where_nobody_reads_is_moved_at_once() -> None:
    stage = Stage()
    stage.offer("a", "b")
    stage.offer("w", channel=channels.WEBSOCKET_CONNECT)
    stage.offer("c", node=stage.other)
    stage.nodes.unread = {"east"}
    stage.offers.move()
    assert {name: each.taken_back for name, each in stage.attempts.items()} == {"a": 1, "b": 1, "w": 1, "c": 0}
    # As long as they stand there: whatever has failed may have changed.
    stage.run(0.75)
    assert stage.attempts["a"].taken_back == 1
    stage.run(0.25)
    assert stage.attempts["a"].taken_back == 2
    stage.claim("a")
    stage.offers.move()
    assert [stage.attempts[name].taken_back for name in "ab"] == [2, 3]
    stage.nodes.unread.clear()
    stage.offers.move()
    stage.run(2)
    assert stage.attempts["b"].taken_back == 3


def test_what_is_taken_from_a_list_that_nobody_reads_any_more_is_not_moved() -> None:
    stage = Stage()
    stage.offer("a", "b")
    stage.pop(2)
    stage.run(1)
    stage.nodes.unread = {"east"}
    stage.offers.move()
    assert [stage.attempts[name].taken_back for name in "ab"] == [0, 0]
    stage.run(1.5)
    assert stage.timed_out == ["a", "b"]


def test_what_stands_on_a_node_whose_connection_is_lost_is_stranded_once() -> None:
    stage = Stage()
    stage.offer("a", "b")
    stage.nodes.better = True
    stage.node.stop()
    stage.node.losses += 1
    stage.run(0.25)
    assert stage.attempts["a"].nodes_lost == 0, "most are back soon"
    stage.run(1)
    assert [stage.attempts[name].nodes_lost for name in "ab"] == [1, 1]
    stage.node.start()
    stage.offer("c")
    stage.run(0.75)
    assert stage.attempts["c"].nodes_lost == 0
    stage.node.stop()
    stage.node.losses += 1
    stage.nodes.better = False
    stage.run(1)
    assert stage.attempts["c"].nodes_lost == 0, "there is no better place"
    stage.nodes.better = True
    stage.run(0.25)
    assert stage.attempts["c"].nodes_lost == 1


# Requests that wait for a node that can be reached.


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def without_node(**settings: float) -> World:
    """A server whose only node is not there yet."""
    world = World(start=False, **settings)
    world.server.start()
    return world


def test_nobody_waits_unless_it_is_asked_for() -> None:
    client = without_node().client(GET)
    assert client.received().startswith(b"HTTP/1.1 503 ")


def test_a_request_waits_and_is_offered_when_a_node_is_there() -> None:
    world = without_node(broker_wait_s=5)
    first, second = world.client(GET), world.client(GET)
    world.advance(4.9)
    assert first.received() == second.received() == b""
    assert len(world.server.exchanges.broker_wait) == 2
    world.node.start()
    for job in world.worker.jobs():
        job.respond(body=b"late")
    world.settle()
    assert first.received().endswith(b"late")
    assert second.received().endswith(b"late")
    first.leave()
    second.leave()
    world.assert_empty()


def test_it_waits_no_longer_than_that() -> None:
    world = without_node(broker_wait_s=5)
    client = world.client(GET)
    world.advance(5.0)
    assert client.received().startswith(b"HTTP/1.1 503 ")
    assert len(world.server.exchanges.broker_wait) == 0
    world.node.start()
    assert world.worker.jobs() == []
    client.leave()
    world.assert_empty()


def test_a_client_that_leaves_waits_no_more() -> None:
    world = without_node(broker_wait_s=5)
    world.client(GET).leave()
    world.settle()
    assert len(world.server.exchanges.broker_wait) == 0
    world.node.start()
    assert world.worker.jobs() == []
    world.assert_empty()


def test_the_end_of_the_server_ends_the_waiting() -> None:
    world = without_node(broker_wait_s=50, drain_timeout_s=1)
    world.client(GET)
    done = world.drain()
    world.advance(1.0)
    assert done == [None]
    assert len(world.server.exchanges.broker_wait) == 0
