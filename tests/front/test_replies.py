"""The reader of the inbox: every message reaches its stream, and whatever is wrong with one concerns nobody else."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from ifserver import messages as m
from ifserver.errors import NodeRefused
from ifserver.front.replies import Replies
from ifserver.layers.base import Limits, Pulled
from ifserver.layers.memory import MemoryNode
from tests.front.fakes import GET, NODE, SERVER, WORKER, Job, World, of

NOBODY = f"{SERVER}.zzz"


class Refusing(MemoryNode):
    """A node that answers the first pulls with errors."""

    refusals = 0
    error: type[Exception] = NodeRefused

    def pull(self, names, count, wait_s):  # type: ignore[no-untyped-def]
        if self.refusals:
            self.refusals -= 1
            failed: Deferred[Pulled | None] = fail(self.error("out of memory"))
            return failed
        return super().pull(names, count, wait_s)


def refusing(world: World, refusals: int, error: type[Exception] = NodeRefused) -> tuple[Refusing, Replies]:
    """A reader of its own, on a node that refuses."""
    clock = Clock()
    node = Refusing(NODE, Limits(10, 90.0), Limits(10, 600.0), clock, "epoch")
    node.refusals, node.error = refusals, error
    node.start()
    world.clusters.home = node
    return node, Replies(world.clusters, world.server.registry, clock)


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
    world.node.push(world.clusters.inbox, [m.encode(each) for each in batch])
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
    world.node.push(world.clusters.inbox, [payload])
    assert world.counters.value("messages_dropped", "undecodable") == 1
    assert f"dropped a message in the inbox {world.clusters.inbox}" in caplog.text
    assert served(world)


@pytest.mark.parametrize("worker", ["", "nonsense", "!west.worker0000", "!east"])
def test_a_message_from_nowhere_stops_nothing(worker: str, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.worker.push(m.Claim(NOBODY, 0, worker, "s"))
    assert "came from nowhere" in caplog.text
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


def test_a_server_can_end_while_its_node_is_gone() -> None:
    world = World()
    world.node.stop()
    assert world.drain() == [None]


def test_a_node_that_refuses_is_asked_again() -> None:
    world = World(start=False)
    node, replies = refusing(world, 2)
    replies.start()
    assert node.statistics()["pulls"] == 0
    node._clock.advance(1.0)  # type: ignore[attr-defined]
    node._clock.advance(1.0)  # type: ignore[attr-defined]
    assert node.statistics()["pulls"] == 1
    done: list[None] = []
    replies.stop().addCallback(done.append)
    assert done == [None]


def test_a_server_can_end_while_its_node_refuses() -> None:
    world = World(start=False)
    node, replies = refusing(world, 1)
    replies.start()
    done: list[None] = []
    replies.stop().addCallback(done.append)
    assert done == [None]
    assert node._clock.getDelayedCalls() == []  # type: ignore[attr-defined]


def test_a_reader_that_was_never_started_has_ended() -> None:
    world = World(start=False)
    assert world.drain() == [None]


def test_a_defect_is_told_and_not_left_to_the_garbage_collector(caplog: pytest.LogCaptureFixture) -> None:
    world = World(start=False)
    _, replies = refusing(world, 1, ZeroDivisionError)
    replies.start()
    assert "hears no replies any more" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_the_last_read_is_still_delivered() -> None:
    world = World()
    client = world.client(GET)
    job: Job = world.worker.job()
    world.drain()
    job.respond(body=b"last")
    assert client.received().endswith(b"last")
    assert of(m.Release, job.heard()) == []
