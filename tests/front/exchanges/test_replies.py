"""What comes to a server's inboxes, and the worker processes that hold its streams."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from ifserver import channels
from ifserver import messages as m
from ifserver.layers.accounting import SYNC_ENTRIES
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Pushed
from ifserver.status import value_of
from tests.front.fakes import (
    CLOSE,
    GET,
    HANDSHAKE,
    NODE,
    SERVER,
    SUPERVISOR,
    TEXT,
    WORKER,
    FakeTransport,
    FakeWorker,
    Job,
    World,
    frame,
    frames,
    of,
    units,
)

NOBODY = f"{SERVER}.zzz"


def served(world: World) -> bool:
    """Whether replies are heard."""
    client = world.client(GET)
    world.worker.job().respond(body=b"heard")
    heard = client.received().endswith(b"heard")
    client.leave()
    return heard


def test_a_message_for_nobody_is_counted_and_answered_once() -> None:
    world = World()
    world.worker.push(m.Claim(NOBODY, 0, WORKER, "s"))
    assert world.worker.heard() == [m.Release(NOBODY, 0, WORKER, "gone")]
    assert world.counters.value("messages_dropped", "gone") == 1
    world.worker.push(m.Claim(NOBODY, 0, WORKER, "s"))
    assert world.worker.heard() == [m.Release(NOBODY, 0, WORKER, "gone")]


def test_what_comes_together_is_answered_once() -> None:
    world = World()
    batch = [m.ResponseBody(NOBODY, attempt, WORKER, seq, b"x", True) for attempt in (0, 1) for seq in range(5)]
    batch += [m.ResponseBody(NOBODY, 0, "!east.other00000", 0, b"x", True)]
    world.node.push(world.clusters.home.inbox, [m.encode(each) for each in batch])
    assert world.worker.heard() == [m.Release(NOBODY, attempt, WORKER, "gone") for attempt in (0, 1)]
    assert len(world.pull("!east.other00000")) == 1
    assert world.counters.value("messages_dropped", "gone") == len(batch)


@pytest.mark.parametrize("message", [m.Release(NOBODY, 0, WORKER, "died"), m.Window(NOBODY, 0, WORKER, 5)])
def test_some_are_never_answered(message: m.Message) -> None:
    world = World()
    world.worker.push(message)
    assert world.worker.heard() == []
    assert world.counters.value("messages_dropped", "gone") == 1


@pytest.mark.parametrize("payload", [b"", b"\x02abc", b"\x01nonsense", m.encode(m.Disconnect("a.b", 0, 0, 0, ""))])
def test_what_cannot_be_decoded_is_dropped(payload: bytes, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.node.push(world.clusters.home.inbox, [payload])
    assert world.counters.value("messages_dropped", "undecodable") == 1
    assert "dropped a message to !" in caplog.text
    assert served(world)


@pytest.mark.parametrize("worker", ["", "nonsense", "!west.worker0000", "!east"])
def test_a_message_from_nowhere_stops_nothing(worker: str, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.worker.push(m.Claim(NOBODY, 0, worker, "s"))
    assert "cannot be answered" in caplog.text
    world.client(GET)
    world.worker.job()
    world.worker.push(m.Claim(f"{SERVER}.1", 0, worker, "s"))
    world.worker.push(m.Claim(f"{SERVER}.1", 0, worker + "x", "s"))
    assert served(world)


def test_a_sync_concerns_every_stream_in_it() -> None:
    world = World()
    clients = [world.client(GET) for _ in range(2)]
    jobs = world.worker.jobs()
    entries = [m.SyncEntry(job.stream, 0, sent, 0) for job, sent in zip(jobs, (0, 3), strict=True)]
    world.worker.push(m.Sync(WORKER, "s", [*entries, m.SyncEntry(NOBODY, 2, 0, 0)]))
    assert clients[0].received() == b""  # claimed by this
    assert clients[1].received().startswith(b"HTTP/1.1 502 ")  # three messages were lost
    heard = world.worker.heard()
    assert m.Release(NOBODY, 2, WORKER, "gone") in heard
    assert m.Release(jobs[1].stream, 0, WORKER, "broken") in heard
    assert len(heard) == 2
    assert world.counters.value("messages_delivered") == 1


def test_a_node_that_goes_and_comes_back() -> None:
    world = World()
    world.node.stop()
    world.settle()
    client = world.client(GET)
    assert client.received().startswith(b"HTTP/1.1 503 ")
    world.node.start()
    assert served(world)
    client.leave()
    world.assert_empty()


def test_a_server_that_was_never_started_can_end() -> None:
    world = World(start=False)
    assert world.drain() == [None]


def test_the_last_read_is_still_delivered() -> None:
    world = World()
    client = world.client(GET)
    job: Job = world.worker.job()
    world.drain()
    job.respond(body=b"last")
    assert client.received().endswith(b"last")
    assert of(m.Release, job.heard()) == []


def test_a_server_can_end_while_its_node_is_gone() -> None:
    world = World()
    world.node.stop()
    assert world.drain() == [None]


# Worker processes.


POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n"
OTHER = "!east.worker1111"
INBOX = f"!{NODE}.{SERVER}"


def tick(world: World, seconds: float) -> None:
    for _ in range(round(seconds * 4)):
        world.advance(0.25)


def told(world: World, worker: FakeWorker | None = None) -> list[list[m.SyncEntry]]:
    """What each `Sync` to the worker since the last call has said."""
    worker = worker or world.worker
    worker._heard = worker.heard()
    syncs, worker.syncs = worker.syncs, []
    assert {(sync.sender, sync.supervisor) for sync in syncs} <= {(INBOX, "")}
    return [sync.entries for sync in syncs]


def entry(job: Job, sent: int = 0, consumed: int = 0) -> m.SyncEntry:
    return m.SyncEntry(job.stream, job.request.attempt, sent, consumed)


def sync(world: World, *entries: m.SyncEntry, worker: str = WORKER, supervisor: str = SUPERVISOR) -> None:
    """A worker tells how far it is."""
    world.worker.push(m.Sync(worker, supervisor, list(entries)))
    world.settle()


def claimed(world: World, request: bytes = GET) -> tuple[FakeTransport, Job]:
    """A client whose request the worker has claimed."""
    client = world.client(request)
    job = world.worker.job(channels.WEBSOCKET_CONNECT if request is HANDSHAKE else channels.HTTP_REQUEST)
    job.claim()
    world.settle()
    return client, job


def responding(world: World) -> tuple[FakeTransport, Job]:
    """A client that has got the beginning of a response."""
    client, job = claimed(world)
    job.respond(body=b"begun", more_body=True)
    assert client.received().endswith(b"5\r\nbegun\r\n")
    return client, job


def opened(world: World) -> tuple[FakeTransport, Job]:
    """A client whose WebSocket is open."""
    client, job = claimed(world, HANDSHAKE)
    job.accept()
    assert client.received().startswith(b"HTTP/1.1 101 ")
    return client, job


def living(world: World, *workers: str) -> None:
    """The supervisor beats, and names these workers."""
    world.node.beat(SUPERVISOR, value_of([channels.process_of(worker) for worker in workers]), 1e9)


def die(world: World) -> None:
    """The supervisor and its workers beat no more."""
    del world.node._beats[SUPERVISOR]


# What they are told.


def test_a_stream_that_has_not_moved_for_three_tellings_costs_nothing() -> None:
    world = World(ping_interval_s=0)
    _, job = opened(world)
    tick(world, 10)
    assert told(world) == [[entry(job)]] * 3
    tick(world, 45)
    assert told(world) == []


def test_what_was_sent_and_consumed_is_told_three_times() -> None:
    world = World()
    client, job = opened(world)
    tick(world, 10)
    told(world)
    client.send(frame(TEXT, b"hello"))
    job.send("hi")
    job.send("there")
    tick(world, 10)
    assert told(world) == [[entry(job, 1, units(2) + units(5))]] * 3
    assert [message.seq for message in job.heard()] == [0]


def test_one_that_waits_for_its_response_is_told_of_every_second() -> None:
    world = World(response_timeout_s=100)
    _, job = claimed(world)
    tick(world, 20)
    assert told(world) == [[entry(job)]] * 20


def test_one_whose_body_is_held_up_is_told_of_every_second() -> None:
    world = World(response_timeout_s=100, whole_body_bytes=0)
    client, job = claimed(world, UPLOAD.replace(b"200000", b"400000"))
    client.send(bytes(400_000))
    job.respond(more_body=True)
    tick(world, 20)
    sent = len(job.heard())
    assert told(world)[-10:] == [[entry(job, sent, units(0))]] * 10


def test_short_streams_cost_nothing() -> None:
    world = World()
    for _ in range(10):
        client, job = claimed(world)
        world.advance(0.7)
        job.respond(body=b"x")
        assert client.received().endswith(b"x")
        client.leave()
    tick(world, 5)
    assert told(world) == []
    world.assert_empty()


def test_all_streams_of_a_worker_are_told_of_in_one_message_and_those_of_another_in_another() -> None:
    world = World()
    jobs = [opened(world)[1] for _ in range(3)]
    world.worker, other = FakeWorker(world, OTHER), world.worker
    living(world, WORKER, OTHER)
    _, elsewhere = opened(world)
    world.advance(1)
    assert told(world) == [[entry(elsewhere)]]
    assert told(world, other) == [[entry(job) for job in jobs]]


def test_once_a_minute_all_is_told() -> None:
    world = World(ping_interval_s=0)
    _, job = opened(world)
    tick(world, 10)
    told(world)
    tick(world, 51)
    assert told(world) == [[entry(job)]]
    tick(world, 58)
    assert told(world) == []
    tick(world, 1)
    assert told(world) == [[entry(job)]]


def test_after_a_new_epoch_all_is_told() -> None:
    world = World()
    _, job = opened(world)
    tick(world, 10)
    told(world)
    world.node.epoch = "another"
    tick(world, 5)
    assert told(world) == [[entry(job)]]


def test_a_message_speaks_of_a_thousand_streams() -> None:
    world = World()
    jobs = [opened(world)[1] for _ in range(SYNC_ENTRIES + 1)]
    world.advance(1)
    assert told(world) == [[entry(job) for job in jobs[:-1]], [entry(jobs[-1])]]


class Late(MemoryNode):
    """A node that answers pushes of messages to the worker when the test says so."""

    late: list[tuple[list[bytes], Deferred[Pushed]]] | None = None

    def push(self, channel, payloads):  # type: ignore[no-untyped-def]
        if self.late is None or channel != WORKER or not any(map(m.is_counted, payloads)):
            return super().push(channel, payloads)
        self.late.append((list(payloads), Deferred()))
        return self.late[-1][1]

    def take(self) -> None:
        """The oldest push is taken."""
        assert self.late is not None
        payloads, pushing = self.late.pop(0)
        super().push(WORKER, payloads).chainDeferred(pushing)


def test_nothing_more_is_told_while_the_node_has_not_taken_the_last() -> None:
    world = World(node=Late, response_timeout_s=100)
    _, job = claimed(world)
    assert isinstance(world.node, Late)
    world.node.late = []
    tick(world, 10)
    assert len(world.node.late) == 1
    world.node.take()
    tick(world, 10)
    world.node.take()
    assert told(world) == [[entry(job)]] * 2
    assert len(world.node.late) == 0


def test_of_several_messages_the_last_must_be_taken() -> None:
    world = World(node=Late, response_timeout_s=100)
    jobs = [claimed(world)[1] for _ in range(SYNC_ENTRIES + 1)]
    assert isinstance(world.node, Late)
    world.node.late = []
    tick(world, 5)
    [(payloads, _)] = world.node.late
    assert len(payloads) == 2
    world.node.take()
    assert told(world) == [[entry(job) for job in jobs[:-1]], [entry(jobs[-1])]]


def test_one_that_was_never_taken_holds_the_next_back_for_a_minute() -> None:
    """The outbox may have had no room for it, and then nobody says so."""
    world = World(node=Late, response_timeout_s=1000)
    claimed(world)
    assert isinstance(world.node, Late)
    world.node.late = []
    tick(world, 1)
    (peer,) = world.server.exchanges.workers._workers.values()
    world.node.take()
    peer.telling = True
    tick(world, 58)
    assert world.node.late == []
    tick(world, 1)
    assert len(world.node.late) == 1


def test_an_account_begins_anew_with_each_attempt() -> None:
    world = World()
    client, job = opened(world)
    client.send(frame(TEXT, b"hello"))
    tick(world, 2)
    assert told(world)[-1] == [entry(job, 1)]
    _, first = claimed(world)
    tick(world, 2)
    first.release("died")
    second = world.worker.job()
    second.claim()
    world.settle()
    told(world)
    world.advance(0.5)
    assert told(world) == []
    tick(world, 2)
    assert told(world)[-1] == [entry(second)]
    assert second.request.attempt == 1


def test_nobody_is_told_anything_about_streams_that_have_ended() -> None:
    world = World()
    client, job = opened(world)
    tick(world, 1.5)
    client.leave()
    told(world)
    tick(world, 3)
    assert told(world) == []
    assert of(m.Disconnect, job.heard()) != []
    assert len(world.server.exchanges.workers) == 0


# What they tell.


def test_a_sync_claims_and_names_the_supervisor() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    sync(world, entry(job))
    assert world.server.exchanges.workers.watched() == {NODE: {channels.process_of(WORKER): SUPERVISOR}}
    tick(world, 5)
    assert world.worker.jobs() == []
    job.respond(body=b"ok")
    assert client.received().endswith(b"ok")


@pytest.mark.parametrize("request_", [GET, POST])
def test_a_response_that_was_lost_is_missed(request_: bytes) -> None:
    world = World()
    client, job = claimed(world, request_)
    sync(world, entry(job, sent=1))
    assert client.received().startswith(b"HTTP/1.1 502 ")
    assert job.heard() == [m.Release(job.stream, 0, WORKER, "broken")]
    client.leave()
    world.assert_empty()


def test_the_end_of_a_response_that_was_lost_is_missed() -> None:
    world = World()
    client, job = responding(world)
    sync(world, entry(job, sent=1))
    assert not client.aborted
    sync(world, entry(job, sent=2))
    assert client.aborted
    world.assert_empty()


def test_a_websocket_message_that_was_lost_is_missed() -> None:
    world = World()
    client, job = opened(world)
    sync(world, entry(job, sent=2))
    [close] = frames(client.received())
    assert (close.opcode, close.payload[:2]) == (CLOSE, (1011).to_bytes(2, "big"))
    assert of(m.Release, job.heard()) == [m.Release(job.stream, 0, WORKER, "broken")]


def test_credit_that_was_lost_is_given_again() -> None:
    world = World(whole_body_bytes=0)
    client, job = claimed(world, UPLOAD.replace(b"200000", b"400000"))
    client.send(bytes(400_000))
    before = sum(len(each.body) for each in of(m.RequestBody, job.heard()))
    assert before < 400_000
    sync(world, entry(job, consumed=200_000))
    assert sum(len(each.body) for each in of(m.RequestBody, job.heard())) > 0


def test_a_sync_is_answered_with_release_for_what_is_not_held() -> None:
    world = World()
    _, job = opened(world)
    nobody = m.SyncEntry(f"{SERVER}.zzz", 3, 0, 0)
    sync(world, nobody, entry(job, 1), nobody)
    assert world.worker.heard() == [m.Release(nobody.stream, 3, WORKER, "gone")]


@pytest.mark.parametrize(("attempt", "worker"), [(1, WORKER), (0, OTHER)])
def test_one_who_may_not_speak_is_told_so(attempt: int, worker: str) -> None:
    world = World()
    client, job = opened(world)
    sync(world, m.SyncEntry(job.stream, attempt, 5, 0), worker=worker)
    assert FakeWorker(world, worker).heard() == [m.Release(job.stream, attempt, worker, "gone")]
    job.send("still open")
    [message] = frames(client.received())
    assert message.payload == b"still open"


def test_what_is_wrong_with_one_stream_of_a_sync_concerns_no_other(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    broken, first = opened(world)
    client, second = opened(world)
    exchange: Any = world.server.exchanges.registry.get(first.stream)
    exchange.stream.worker = 7
    sync(world, entry(first, 1), entry(second, 2))
    assert "this is a defect of ifserver" in caplog.text
    assert frames(client.received())[0].opcode == CLOSE
    assert (broken.received(), broken.aborted) == (b"", True)


# Their death.


def test_the_dead_are_asked_for_where_they_receive() -> None:
    world = World()
    assert world.server.exchanges.workers.watched() == {}
    client, job = opened(world)
    assert world.server.exchanges.workers.watched() == {NODE: {channels.process_of(WORKER): SUPERVISOR}}
    client.leave()
    assert world.server.exchanges.workers.watched() == {}
    assert of(m.Disconnect, job.heard()) != []


def test_one_whose_supervisor_is_not_known_yet_is_not_asked_for() -> None:
    world = World()
    world.client(GET)
    world.worker.job().respond(more_body=True)
    world.settle()
    assert world.server.exchanges.workers.watched() == {}


def test_a_dead_worker_has_lost_its_streams_within_five_seconds() -> None:
    world = World()
    again, first = claimed(world)
    refused, second = claimed(world, POST)
    cut, third = responding(world)
    closed, fourth = opened(world)
    handshake, fifth = claimed(world, HANDSHAKE)
    tick(world, 10)
    assert (again.received(), refused.received(), cut.aborted, closed.received()) == (b"", b"", False, b"")
    world.worker.heard()
    die(world)
    tick(world, 2.25)
    assert refused.received().startswith(b"HTTP/1.1 502 ")
    assert cut.aborted
    [close] = frames(closed.received())
    assert (close.opcode, close.payload[:2]) == (CLOSE, (1012).to_bytes(2, "big"))
    # One that was only frozen lets go when it wakes.
    released = {each.stream: each for each in of(m.Release, world.worker.heard())}
    assert released == {
        job.stream: m.Release(job.stream, 0, WORKER, "died") for job in (first, second, third, fourth, fifth)
    }
    world.worker = FakeWorker(world, OTHER)
    living(world, OTHER)
    for client, channel in ((again, channels.HTTP_REQUEST), (handshake, channels.WEBSOCKET_CONNECT)):
        job = world.worker.job(channel)
        assert job.request.attempt == 1
        job.claim()
        job.respond(body=b"another")
        assert client.received().endswith(b"another")


def test_one_that_never_says_who_watches_over_it_is_dead_in_the_end() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.respond(body=b"begun", more_body=True)
    assert client.received().endswith(b"5\r\nbegun\r\n")
    tick(world, 39.0)
    assert not client.aborted
    tick(world, 3.0)
    assert client.aborted
    assert m.Release(job.stream, 0, WORKER, m.DIED) in world.worker.heard()


def test_while_it_cannot_say_so_it_is_not_dead() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.respond(body=b"begun", more_body=True)
    tick(world, 30.0)
    world.node.stop()
    tick(world, 60.0)
    world.node.start()
    tick(world, 30.0)
    living(world, WORKER)
    sync(world, entry(job, 1))
    tick(world, 60.0)
    assert not client.aborted


def test_one_whose_streams_are_all_too_young_to_say_so_is_not_dead() -> None:
    world = World()
    client = world.client(GET)
    world.worker.job().respond(body=b"begun", more_body=True)
    for _ in range(60):
        world.advance(0.5)
        before, client = client, world.client(GET)
        world.worker.job().respond(body=b"begun", more_body=True)
        world.advance(0.5)
        assert not before.aborted
        before.leave()


def test_a_worker_that_its_supervisor_names_no_more_is_dead() -> None:
    world = World()
    client, _ = opened(world)
    tick(world, 1)
    living(world, OTHER)
    tick(world, 2.25)
    assert frames(client.received())[0].opcode == CLOSE


def test_a_thawed_worker_mixes_nothing_in_and_is_told_to_let_go() -> None:
    world = World()
    client, first = claimed(world)
    frozen = world.worker
    tick(world, 1)
    living(world, OTHER)
    tick(world, 2.25)
    world.worker = FakeWorker(world, OTHER)
    second = world.worker.job()
    second.claim()
    second.respond(body=b"second, ", more_body=True)
    world.settle()
    frozen.heard()
    first.respond(body=b"first", more_body=True)
    first.body(b"first", more_body=False)
    sync(world, entry(first, 2))
    second.body(b"to the end", more_body=False)
    received = client.received()
    assert b"first" not in received
    assert received.endswith(b"8\r\nsecond, \r\na\r\nto the end\r\n0\r\n\r\n")
    assert frozen.heard() == [m.Release(first.stream, 0, WORKER, "gone")] * 3
    client.leave()
    world.assert_empty()


def test_a_thawed_worker_is_told_to_let_go_of_a_websocket_that_is_being_closed() -> None:
    world = World(close_timeout_s=60)
    client, job = opened(world)
    tick(world, 1)
    living(world, OTHER)
    tick(world, 2.25)
    world.worker.heard()
    assert [each.opcode for each in frames(client.received())] == [CLOSE]
    job.send("I am back")
    sync(world, entry(job, 1))
    assert client.received() == b""
    assert world.worker.heard() == [m.Release(job.stream, 0, WORKER, "gone")] * 2
    assert world.server.exchanges.workers.watched() == {}


def test_a_bug_in_one_stream_leaves_no_other_with_a_dead_worker(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    _, job = opened(world)
    client, _ = opened(world)
    exchange: Any = world.server.exchanges.registry.get(job.stream)
    exchange.websocket = object()
    die(world)
    tick(world, 2.25)
    assert "this is a defect of ifserver" in caplog.text
    assert frames(client.received())[0].opcode == CLOSE


def test_the_death_of_one_who_has_nothing_of_ours_is_nothing() -> None:
    world = World()
    client, _ = opened(world)
    world.server.exchanges.workers.lost("nobody0000")
    assert client.received() == b""


def test_the_end_of_the_server_is_the_end_of_it() -> None:
    world = World(drain_timeout_s=1)
    opened(world)
    done = world.drain()
    tick(world, 5)
    assert done == [None]
    assert len(world.server.exchanges.workers) == 0
    world.clusters.stop()
    calls: Any = world.clock.getDelayedCalls()
    assert [call for call in calls if not isinstance(call.func.__self__, MemoryNode)] == []


def test_what_is_delivered_twice_and_a_sync_behind_it_breaks_nothing() -> None:
    """A push in doubt is repeated, and the `Sync` comes behind it."""
    world = World()
    client, job = opened(world)
    job.send("once")
    job.seq -= 1
    job.send("once")
    sync(world, entry(job, 2))
    assert [each.payload for each in frames(client.received())] == [b"once"]


# Moving house.


WEST_INBOX = f"!west.{SERVER}"


def two_nodes() -> tuple[World, MemoryNode]:
    """A world with a second node in its home cluster."""
    world = World(others=["west"], ping_interval_s=0)
    return world, world.others[0]


def gone_for(node: MemoryNode, seconds: float) -> None:
    """The node says that it has been unreachable for so long, and works all the same."""
    node.unreachable_s = lambda: seconds  # type: ignore[method-assign]


def address(world: World, job: Job) -> str:
    exchange = world.server.exchanges.registry.get(job.stream)
    assert exchange is not None
    return exchange.stream.channel


def test_a_server_that_moves_names_its_new_address_for_new_streams_and_those_that_nobody_has_taken() -> None:
    world, other = two_nodes()
    waiting = world.client(GET)
    _, old = opened(world)
    gone_for(world.node, 1.0)
    tick(world, 0.5)
    assert world.clusters.home.inbox == WEST_INBOX
    job = world.worker.job()
    assert (job.request.reply_channel, job.request.attempt) == (f"{WEST_INBOX}.1", 0)
    world.client(GET)
    assert world.worker.job().request.reply_channel == f"{WEST_INBOX}.3"
    assert address(world, old) == f"{INBOX}.2", "who is claimed keeps the old one"
    other.push(WEST_INBOX, [m.encode(m.ResponseStart(job.stream, 0, WORKER, 0, 200, [], b"ok", False))])
    world.settle()
    assert waiting.received().endswith(b"ok")


def test_after_the_grace_the_workers_are_told_where_it_is_now() -> None:
    world, _ = two_nodes()
    _, job = opened(world)
    tick(world, 4)
    told(world)
    gone_for(world.node, 30.0)
    tick(world, 7)
    assert address(world, job) == f"{WEST_INBOX}.1"
    said = map(m.decode_for_worker, world.pull(f"!west.{channels.process_of(WORKER)}"))
    syncs = [message for message in said if isinstance(message, m.Sync)]
    said_last = m.Sync(WEST_INBOX, "", [entry(job)], moves=1)
    assert syncs[-1] == said_last, "where the worker is, if it has moved as well"


def test_a_worker_that_is_gone_with_its_node_and_names_no_other_is_dead() -> None:
    world, _ = two_nodes()
    client, _ = opened(world)
    world.node.stop()
    tick(world, 34.0)
    assert client.received() == b""
    tick(world, 5.0)
    assert [(each.opcode, each.payload) for each in frames(client.received())] == [(CLOSE, b"\x03\xf4")]


def test_what_waits_for_a_worker_follows_it_when_it_names_another_node() -> None:
    world, other = two_nodes()
    client, job = opened(world)
    world.node.stop()
    client.send(frame(TEXT, b"hello"))
    tick(world, 1.5)
    moved = f"!west.{channels.process_of(WORKER)}"
    other.push(world.clusters.home.inbox, [m.encode(m.Sync(moved, SUPERVISOR, [entry(job)]))])
    world.settle()
    heard = map(m.decode_for_worker, world.pull(moved))
    assert m.WebSocketReceive(job.stream, 0, 0, "hello", None) in heard


def test_what_a_client_said_last_follows_the_worker_although_the_stream_has_ended_here() -> None:
    world, other = two_nodes()
    client, job = opened(world)
    world.node.stop()
    client.send(frame(TEXT, b"hello"))
    client.leave()
    moved = f"!west.{channels.process_of(WORKER)}"

    def heard() -> list[m.Message]:
        for message in (m.Sync(moved, SUPERVISOR, [entry(job)]), m.Claim(job.stream, 0, moved, SUPERVISOR)):
            other.push(world.clusters.home.inbox, [m.encode(message)])
            world.settle()
        return [m.decode_for_worker(payload) for payload in world.pull(moved)]

    tick(world, 29.0)
    assert heard() == [], "a Release would overtake what waits"
    tick(world, 2.0)
    received, left, *releases = heard()
    assert received == m.WebSocketReceive(job.stream, 0, 0, "hello", None)
    assert type(left) is m.Disconnect
    assert releases == [m.Release(job.stream, 0, moved, "gone")] * 2


def test_a_worker_that_has_moved_is_not_dead_because_some_streams_have_not_heard_of_it() -> None:
    world, other = two_nodes()
    (client, job), (late_client, late_job) = opened(world), opened(world)
    world.node.stop()
    other.beat(SUPERVISOR, value_of([channels.process_of(WORKER)]), 1e9)
    tick(world, 1.5)
    moved = f"!west.{channels.process_of(WORKER)}"
    for sender, which in ((moved, job), (WORKER, late_job)):
        other.push(world.clusters.home.inbox, [m.encode(m.Sync(sender, "", [entry(which)]))])
    tick(world, 60.0)
    assert (client.received(), late_client.received()) == (b"", b"")


def test_what_a_worker_said_before_it_moved_and_comes_late_does_not_move_it_back() -> None:
    world, other = two_nodes()
    client, job = opened(world)
    world.node.stop()
    tick(world, 1.5)
    moved = f"!west.{channels.process_of(WORKER)}"
    late = m.Sync(WORKER, SUPERVISOR, [entry(job)])
    syncs = [m.Sync(moved, SUPERVISOR, [entry(job)], moves=1), late]
    other.push(world.clusters.home.inbox, [m.encode(each) for each in syncs])
    world.settle()
    client.send(frame(TEXT, b"hello"))
    world.settle()
    heard = map(m.decode_for_worker, world.pull(moved))
    assert m.WebSocketReceive(job.stream, 0, 0, "hello", None) in heard
    assert world.server.exchanges.workers.watched() == {"west": {channels.process_of(WORKER): SUPERVISOR}}
