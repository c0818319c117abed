"""Attempts: where they are offered, and that each is accounted for in the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from ifserver import channels
from ifserver import messages as m
from ifserver.config.settings import FrontSettings
from ifserver.errors import NodeUnreachable, PushInDoubt
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Pushed
from tests.front.fakes import GET, HANDSHAKE, NODE, SERVER, WORKER, FakeTransport, Job, World

POST = b"POST /pay HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"


class Slow(MemoryNode):
    """A node that answers about requests when the test says so."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.is_slow = False
        #: Whether it has taken what was pushed, whatever it answers.
        self.takes = False
        self.pushes: list[Deferred[Pushed]] = []
        self.withdrawals: list[Deferred[bool]] = []

    def push(self, channel: str, payloads: Sequence[bytes]) -> Deferred[Pushed]:
        if channels.is_inbox(channel) or not self.is_slow:
            return super().push(channel, payloads)
        if self.takes:
            super().push(channel, payloads)
        self.pushes.append(Deferred())
        return self.pushes[-1]

    def withdraw(self, channel: str, payload: bytes) -> Deferred[bool]:
        if not self.is_slow:
            return super().withdraw(channel, payload)
        self.withdrawals.append(Deferred())
        return self.withdrawals[-1]

    def is_full(self) -> None:
        """It answers that it takes nothing more."""
        self.pushes.pop().callback(Pushed(0, 10_000))


@pytest.fixture
def world() -> World:
    """A world with two nodes, of which the first is chosen, and slow."""
    world = World(node=Slow, others=("other",), queue_timeout_s=30.0)
    world.clusters.choice.placements[channels.HTTP_REQUEST].told("other", channels.HTTP_REQUEST, 5)
    slow(world).is_slow = True
    return world


def slow(world: World) -> Slow:
    assert isinstance(world.node, Slow)
    return world.node


def test_what_a_full_node_has_not_taken_is_offered_on_another(world: World) -> None:
    client = world.client(POST)
    slow(world).is_full()
    world.worker.job().respond(body=b"paid")
    assert client.received().endswith(b"paid")
    client.leave()
    world.assert_empty()


def test_a_late_answer_about_a_node_that_has_refused_it_says_nothing_about_the_next(world: World) -> None:
    client = world.client(POST)
    [exchange] = world.server.exchanges.registry.values()
    exchange.attempt.take_back()
    world.settle()
    slow(world).is_full()
    assert exchange.attempt.node is world.others[0]
    slow(world).withdrawals.pop().callback(False)
    assert exchange.attempt.list is not None
    assert list(exchange.attempt.list.standing) == [exchange.attempt], "nobody has taken it there"
    world.worker.job().respond(body=b"paid")
    assert client.received().endswith(b"paid")
    client.leave()
    world.assert_empty()


def test_a_request_whose_client_has_left_is_offered_nowhere_else(world: World) -> None:
    client = world.client(POST)
    client.leave()
    world.settle()
    slow(world).is_full()
    assert world.worker.jobs() == []
    assert len(world.server.exchanges.unresolved) == len(world.server.exchanges.offers) == 0
    slow(world).withdrawals.pop().callback(False)
    world.assert_empty()


def test_a_request_that_is_being_taken_back_is_offered_nowhere_else(world: World) -> None:
    client = world.client(POST)
    world.advance(30.0)
    world.settle()
    assert len(slow(world).withdrawals) == 1
    slow(world).is_full()
    assert client.received().startswith(b"HTTP/1.1 503 ")
    slow(world).withdrawals.pop().callback(False)
    assert world.worker.jobs() == []
    client.leave()
    world.assert_empty()


def test_one_that_was_taken_back_to_be_offered_elsewhere_was_never_started(world: World) -> None:
    """Its time is over while the node is asked, and asked once more it has it no longer."""
    client = world.client(POST)
    slow(world).pushes.pop().callback(Pushed(1, 1))
    [exchange] = world.server.exchanges.registry.values()
    exchange.attempt.take_back()
    world.settle()
    world.advance(30.0)
    world.settle()
    first, second = slow(world).withdrawals
    first.callback(True)
    assert client.received().startswith(b"HTTP/1.1 503 ")
    second.callback(False)
    assert world.worker.jobs() == []
    client.leave()
    world.assert_empty()


def test_a_request_that_stands_where_nobody_reads_is_moved_to_the_first_reader(world: World) -> None:
    slow(world).is_slow = False
    client = world.client(POST)
    world.advance(5.0)
    assert world.node.statistics()["messages"] == 1
    [other] = world.others
    other.beat("ssssssssss", b"", 3.0, [channels.HTTP_REQUEST])
    world.advance(0.2)
    assert (world.node.statistics()["messages"], other.statistics()["messages"]) == (0, 1)
    world.worker.job().respond(body=b"paid")
    assert client.received().endswith(b"paid")
    # The next one goes there from the beginning.
    client.send(POST)
    world.settle()
    assert (world.node.statistics()["messages"], other.statistics()["messages"]) == (0, 1)
    client.leave()
    world.assert_empty()


def test_a_request_that_somebody_may_have_is_not_moved(world: World) -> None:
    slow(world).takes = True
    client = world.client(POST)
    slow(world).pushes.pop().callback(Pushed(1, 1))
    job = world.worker.job()
    [other] = world.others
    other.beat("ssssssssss", b"", 3.0, [channels.HTTP_REQUEST])
    world.advance(0.2)
    slow(world).withdrawals.pop().callback(False)
    assert world.worker.jobs() == []
    job.respond(body=b"paid")
    assert client.received().endswith(b"paid")
    client.leave()
    world.assert_empty()


@pytest.mark.parametrize(("request_", "again"), [(GET, True), (POST, False)])
def test_on_a_node_that_is_gone_only_what_must_not_run_twice_is_left(request_: bytes, again: bool) -> None:
    world = World(others=("other",))
    [other] = world.others
    world.clusters.choice.placements[channels.HTTP_REQUEST].told(world.node.name, channels.HTTP_REQUEST, 5)
    client = world.client(request_)
    assert other.statistics()["messages"] == 1
    other.stop()
    other.losses += 1
    world.advance(0.25)
    assert world.worker.jobs() == []
    for _ in range(3):
        world.advance(0.25)
    assert world.counters.value("messages_vanished") == world.counters.value("retries") == again
    jobs = world.worker.jobs()
    assert len(jobs) == again
    for job in jobs:
        job.respond(body=b"done")
        assert client.received().endswith(b"done")
    client.leave()
    world.settle()
    assert len(world.server.exchanges.registry) == 0


def test_a_client_that_leaves_at_once_takes_its_request_with_it() -> None:
    world = World()
    client = world.client()
    client.send(GET)
    client.leave()
    assert world.worker.jobs() == [], "it was taken back behind the push, and not before it"
    assert world.counters.value("messages_dropped", "withdrawn") == 1
    world.assert_empty()


def test_a_late_doubt_about_an_attempt_is_none_about_the_next(world: World) -> None:
    slow(world).takes = True
    client = world.client(GET)
    world.worker.job().release("stopped")
    slow(world).is_slow = False
    world.settle()
    slow(world).pushes.pop().errback(PushInDoubt("the connection broke"))
    job = world.worker.job()
    assert job.request.attempt == 1
    job.respond(body=b"answer")
    assert client.received().endswith(b"answer")
    assert world.counters.value("retries") == 1
    assert world.counters.value("messages_sent") == 2, "both attempts were taken, since both were spoken of"
    client.leave()
    world.assert_empty()


def test_a_late_doubt_about_an_attempt_of_which_nobody_has_spoken_is_noted(world: World) -> None:
    client = world.client(GET)
    client.leave()
    world.settle()
    slow(world).pushes.pop().errback(PushInDoubt("the connection broke"))
    assert len(world.server.exchanges.unresolved) == 1
    slow(world).withdrawals.pop().callback(True)
    assert len(world.server.exchanges.unresolved) == 0
    sent, dropped = world.counters.value("messages_sent"), world.counters.value("messages_dropped", "withdrawn")
    assert (sent, dropped) == (1, 1), "so it was there"
    world.assert_empty()


# Attempts that are over for us, and were not claimed.


ONE_BYTE = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
QUEUE_S = 3.0
#: By when all is known.
KNOWN_S = QUEUE_S + 6.0


class Doubtful(MemoryNode):
    """A node whose answers to pushes of requests may be lost, behind the push or before it."""

    doubt: str | None = None

    def push(self, channel, payloads):  # type: ignore[no-untyped-def]
        if self.doubt is None or channel.startswith("!"):
            return super().push(channel, payloads)
        if self.doubt == "taken":
            super().push(channel, payloads)
        elif self.doubt == "late":
            super().push(channel, payloads)
            self.answer: Deferred[Any] = Deferred()
            return self.answer
        elif self.doubt == "refused":
            return fail(NodeUnreachable("gone"))
        return fail(PushInDoubt("the connection broke"))


def doubtful(**settings: Any) -> World:
    return World(node=Doubtful, queue_timeout_s=QUEUE_S, **settings)


def counted(place: World) -> dict[str, int]:
    """What was counted of messages."""
    counts = place.server.exchanges.counters.statistics()
    return {name: count for name, count in counts.items() if name.startswith(("messages_sent", "messages_dropped"))}


def state(place: World, requests: int, inbox: str = f"!{NODE}.{SERVER}") -> None:
    """The worker tells how many requests it has pulled; none of its messages was lost."""
    place.settle()
    messages = place.clusters.accounting.incoming[inbox][channels.process_of(WORKER)].count
    place.worker.push(m.Receipt(inbox, WORKER, (0, 0), (messages, requests), None, False))
    place.settle()


def lose(place: World, channel: str = channels.HTTP_REQUEST) -> None:
    """The node loses the request that waits."""
    place.settle()
    assert len(place.pull(channel)) == 1


def pass_time(place: World, seconds: float) -> None:
    for _ in range(round(seconds * 4)):
        place.advance(0.25)


def ask(place: World, request: bytes = GET) -> FakeTransport:
    client = place.client(request)
    place.settle()
    return client


def test_a_request_that_the_node_has_lost_is_counted_in_the_end() -> None:
    place = doubtful()
    client = ask(place)
    lose(place)
    pass_time(place, 2.5)
    # It was offered once more.
    place.worker.job().respond(body=b"ok")
    place.settle()
    assert client.received().endswith(b"ok")
    assert counted(place) == {"messages_sent": 2}
    assert len(place.server.exchanges.unresolved) == 1
    pass_time(place, KNOWN_S)
    assert counted(place) == {"messages_sent": 2, "messages_dropped{broker}": 1}
    assert len(place.server.exchanges.unresolved) == 0


@pytest.mark.parametrize("request_", [ONE_BYTE, HANDSHAKE], ids=["ONE_BYTE", "handshake"])
def test_so_is_one_that_is_given_up(request_: bytes) -> None:
    place = doubtful()
    client = ask(place, request_)
    channel = channels.WEBSOCKET_CONNECT if request_ is HANDSHAKE else channels.HTTP_REQUEST
    lose(place, channel)
    while not client.received():
        pass_time(place, 1.0)
        place.pull(channel)
    pass_time(place, KNOWN_S)
    counts = counted(place)
    assert counts["messages_sent"] == counts["messages_dropped{broker}"] > 0


def test_one_that_was_pulled_by_somebody_whose_every_word_was_lost_is_not_lost() -> None:
    place = doubtful()
    ask(place)
    lose(place)
    pass_time(place, 2.5)
    place.worker.job().respond(body=b"ok")
    # He has had both, and was heard of one only.
    state(place, 2)
    pass_time(place, KNOWN_S)
    assert counted(place) == {"messages_sent": 2}
    assert place.clusters.accounting.untold == 0


def test_so_is_one_whose_receipt_comes_too_late() -> None:
    place = doubtful()
    ask(place)
    lose(place)
    pass_time(place, 2.5)
    place.worker.job().respond(body=b"ok")
    pass_time(place, KNOWN_S)
    assert counted(place) == {"messages_sent": 2, "messages_dropped{broker}": 1}
    # The worker was busy, or the node has lost its receipts: another one comes when the request was given up.
    state(place, 2)
    assert counted(place) == {"messages_sent": 3, "messages_dropped{broker}": 1}
    assert place.clusters.accounting.untold == 0


def late_word(job: Job, how: str) -> None:
    if how == "claim":
        job.claim()
    elif how == "sync":
        job._worker.push(m.Sync(WORKER, "s", [m.SyncEntry(job.stream, job.request.attempt, 0, 0)]))
    else:
        job.release()


@pytest.mark.parametrize("how", ["claim", "sync", "release"])
@pytest.mark.parametrize("over", [True, False], ids=["over", "running"])
def test_a_late_word_of_whoever_has_it_is_enough(over: bool, how: str) -> None:
    place = doubtful()
    ask(place)
    frozen = place.worker.job()
    pass_time(place, 2.5)
    second = place.worker.job()
    second.claim()
    if over:
        second.respond(body=b"ok")
    place.settle()
    assert len(place.server.exchanges.unresolved) == 1
    late_word(frozen, how)
    place.settle()
    assert len(place.server.exchanges.unresolved) == 0
    state(place, 2)
    pass_time(place, KNOWN_S)
    assert "messages_dropped{broker}" not in counted(place)
    assert place.clusters.accounting.untold == 0


def test_who_tells_that_the_first_to_have_it_is_dead_is_a_word_of_it() -> None:
    place = doubtful()
    ask(place)
    place.worker.job().release("died")
    place.settle()
    assert len(place.server.exchanges.unresolved) == 0
    place.worker.job().respond(body=b"ok")
    place.settle()
    state(place, 2)
    assert place.clusters.accounting.untold == 0


def test_a_client_that_leaves_takes_its_request_along() -> None:
    place = doubtful()
    client = ask(place)
    client.leave()
    place.settle()
    assert counted(place) == {"messages_sent": 1, "messages_dropped{withdrawn}": 1}
    assert len(place.server.exchanges.unresolved) == 0


def test_a_client_that_leaves_before_its_request_is_refused() -> None:
    place = doubtful()
    assert isinstance(place.node, Doubtful)
    place.node.doubt = "refused"
    client = place.client(GET)
    client.leave()
    place.settle()
    pass_time(place, KNOWN_S)
    assert counted(place) == {}
    assert len(place.server.exchanges.unresolved) == 0


@pytest.mark.parametrize("word", [True, False])
@pytest.mark.parametrize("doubt", ["taken", "lost"])
@pytest.mark.parametrize("request_", [GET, ONE_BYTE], ids=["GET", "POST"])
def test_what_is_in_doubt_was_sent_if_anybody_has_had_it(request_: bytes, doubt: str, word: bool) -> None:
    place = doubtful()
    assert isinstance(place.node, Doubtful)
    place.node.doubt = doubt
    client = ask(place, request_)
    place.node.doubt = None
    place.settle()
    jobs = place.worker.jobs()
    for job in jobs:
        if job.request.attempt or word:
            job.respond(body=b"ok")
    state(place, len(jobs))
    pass_time(place, KNOWN_S + QUEUE_S)
    client.leave()
    pass_time(place, KNOWN_S + QUEUE_S)
    counts = counted(place)
    # Every job was counted by the worker that has it.
    dropped = sum(count for name, count in counts.items() if "dropped" in name)
    assert counts.get("messages_sent", 0) - dropped - len(jobs) == 0


@pytest.mark.parametrize("ended", [True, False])
def test_there_is_no_doubt_about_what_was_answered_before_the_connection_broke(ended: bool) -> None:
    place = doubtful()
    assert isinstance(place.node, Doubtful)
    place.node.doubt = "late"
    client = ask(place)
    job = place.worker.job()
    if ended:
        job.respond(body=b"ok")
        place.settle()
        assert client.received().endswith(b"ok")
    else:
        job.claim()
        place.settle()
    place.node.answer.errback(PushInDoubt("the connection broke"))
    place.settle()
    assert counted(place) == {"messages_sent": 1}
    assert len(place.server.exchanges.unresolved) == 0


def test_the_end_of_the_server_is_the_end_of_the_wait() -> None:
    place = doubtful(drain_timeout_s=1)
    ask(place)
    lose(place)
    pass_time(place, 2.5)
    place.worker.job().respond(body=b"ok")
    place.settle()
    done: list[None] = place.drain()
    for _ in range(5):
        pass_time(place, 1.0)
    assert done == [None]
    assert counted(place)["messages_dropped{broker}"] == 1
    assert len(place.server.exchanges.unresolved) == 0


@pytest.mark.parametrize(("changed_s", "known_s"), [(QUEUE_S + 4.0, KNOWN_S + 4.0), (0.5, KNOWN_S)])
def test_a_changed_queue_timeout_is_only_ever_waited_for_longer(changed_s: float, known_s: float) -> None:
    place = doubtful()
    ask(place)
    lose(place)
    pass_time(place, 2.5)
    place.worker.job().respond(body=b"ok")
    place.settle()
    place.server.change(FrontSettings(queue_timeout_s=changed_s))
    pass_time(place, known_s - 3.0)
    assert len(place.server.exchanges.unresolved) == 1
    pass_time(place, 3.0)
    assert len(place.server.exchanges.unresolved) == 0
