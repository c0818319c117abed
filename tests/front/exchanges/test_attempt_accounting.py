"""Requests of which nobody speaks: each is accounted for in the end, whoever has had it."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from ifserver import channels
from ifserver import messages as m
from ifserver.config.settings import FrontSettings
from ifserver.errors import NodeUnreachable, PushInDoubt
from ifserver.layers.embedded.node import MemoryNode
from tests.front.fakes import GET, HANDSHAKE, NODE, SERVER, WORKER, FakeTransport, Job, World

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
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


def world(**settings: Any) -> World:
    return World(node=Doubtful, queue_timeout_s=QUEUE_S, **settings)


def counted(place: World) -> dict[str, int]:
    """What was counted of messages."""
    counts = place.server.exchanges.counters.statistics()
    return {name: count for name, count in counts.items() if name.startswith(("messages_sent", "messages_dropped"))}


def state(place: World, requests: int, inbox: str = f"!{NODE}.{SERVER}") -> None:
    """The worker tells how many requests it has pulled; none of its messages was lost."""
    place.settle()
    messages = place.clusters.accounting.incoming[inbox].of(channels.process_of(WORKER)).count
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
    place = world()
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


@pytest.mark.parametrize("request_", [POST, HANDSHAKE], ids=["POST", "handshake"])
def test_so_is_one_that_is_given_up(request_: bytes) -> None:
    place = world()
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
    place = world()
    ask(place)
    lose(place)
    pass_time(place, 2.5)
    place.worker.job().respond(body=b"ok")
    # He has had both, and was heard of one only.
    state(place, 2)
    pass_time(place, KNOWN_S)
    assert counted(place) == {"messages_sent": 2}
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
    place = world()
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
    place = world()
    ask(place)
    place.worker.job().release("died")
    place.settle()
    assert len(place.server.exchanges.unresolved) == 0
    place.worker.job().respond(body=b"ok")
    place.settle()
    state(place, 2)
    assert place.clusters.accounting.untold == 0


def test_a_client_that_leaves_takes_its_request_along() -> None:
    place = world()
    client = ask(place)
    client.leave()
    place.settle()
    assert counted(place) == {"messages_sent": 1, "messages_dropped{withdrawn}": 1}
    assert len(place.server.exchanges.unresolved) == 0


def test_a_client_that_leaves_before_its_request_is_refused() -> None:
    place = world()
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
@pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST"])
def test_what_is_in_doubt_was_sent_if_anybody_has_had_it(request_: bytes, doubt: str, word: bool) -> None:
    place = world()
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
    place = world()
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
    place = world(drain_timeout_s=1)
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
    place = world()
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
