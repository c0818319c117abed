"""Attempts: where they are offered, and that none is offered anywhere when its time is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from ifserver import channels
from ifserver.errors import PushInDoubt
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Pushed
from tests.front.fakes import GET, World

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
    world.clusters._placements[channels.HTTP_REQUEST].told("other", channels.HTTP_REQUEST, 5)
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
    exchange.attempt.move()
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
    exchange.attempt.readdress()
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
    world.clusters._placements[channels.HTTP_REQUEST].told(world.node.name, channels.HTTP_REQUEST, 5)
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
