"""What comes to the inbox: every message reaches its stream, and whatever is wrong with one concerns nobody else."""

from __future__ import annotations

import pytest

from ifserver import messages as m
from tests.front.fakes import GET, SERVER, WORKER, Job, World, of

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
