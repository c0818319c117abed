"""Open WebSockets that wait for their next worker: how many are offered, when, and what becomes of failures."""

from __future__ import annotations

from ifserver import channels
from ifserver.front.exchanges import resumption
from ifserver.front.exchanges.resumption import LONGEST_PAUSE_S, MOST_OFFERED
from tests.front.fakes import HANDSHAKE, TEXT, FakeTransport, Job, World, close_frame, frame, frames

RESUME = channels.WEBSOCKET_RESUME


def opened(world: World, count: int = 1) -> list[tuple[FakeTransport, Job]]:
    """So many open WebSockets, and their jobs."""
    found = []
    for _ in range(count):
        client = world.client(HANDSHAKE)
        job = world.worker.job(channels.WEBSOCKET_CONNECT)
        job.accept()
        client.received()
        found.append((client, job))
    return found


def resumable(**settings: float) -> World:
    return World(resumable_paths=("/chat",), ping_interval_s=0.0, **settings)


def waiting(world: World) -> int:
    return len(world.server.exchanges.resumptions)


def test_no_more_are_offered_at_a_time_than_workers_take_and_all_are_in_the_end() -> None:
    world = resumable()
    count = MOST_OFFERED + 50
    for _, job in opened(world, count):
        job.release("died")
    first = world.worker.jobs(RESUME)
    assert len(first) == MOST_OFFERED
    assert world.worker.jobs(RESUME) == []
    assert waiting(world) == count
    for job in first[:30]:
        job.claim()
    following = world.worker.jobs(RESUME)
    assert len(following) == 30
    for job in (*first[30:], *following):
        job.accept()
    last = world.worker.jobs(RESUME)
    assert len(last) == 20
    for job in last:
        job.accept()
    world.settle()
    assert waiting(world) == 0


def test_one_that_leaves_makes_room_for_the_next() -> None:
    world = resumable()
    clients = opened(world, MOST_OFFERED + 1)
    for _, job in clients:
        job.release("died")
    world.worker.jobs(RESUME)
    clients[0][0].send(close_frame(1000))
    assert len(world.worker.jobs(RESUME)) == 1


def test_nothing_is_offered_while_the_server_cannot_be_reached() -> None:
    world = resumable(broker_wait_s=0.0)
    [(client, job)] = opened(world)
    job.release("died")
    world.worker.jobs(RESUME)
    world.node.stop()
    # What stood there is as good as lost.
    world.advance(1.0)
    for _ in range(40):
        world.advance(0.5)
    assert frames(client.received()) == []
    assert waiting(world) == 1
    world.node.start()
    world.advance(LONGEST_PAUSE_S)
    # The attempt before may have survived there.
    again = world.worker.jobs(RESUME)[-1]
    again.accept()
    again.send("here I am")
    assert [each.payload for each in frames(client.received())] == [b"here I am"]


def test_the_pause_grows_with_each_failure() -> None:
    world = resumable(resume_timeout_s=3600.0)
    [(client, job)] = opened(world)
    job.release("died")
    waited = []
    job = world.worker.job(RESUME)
    for _ in range(10):
        job.claim()
        job.release("died")
        steps = 0
        while not (jobs := world.worker.jobs(RESUME)):
            world.advance(0.05)
            steps += 1
        waited.append(steps * 0.05)
        [job] = jobs
    lowest, highest = resumption._JITTER
    for tries, pause in enumerate(waited):
        expected = min(resumption.PAUSE_S * 2**tries, LONGEST_PAUSE_S)
        assert expected * lowest - 0.1 <= pause <= expected * highest + 0.1
    assert waited[-1] > 10 * waited[0]
    client.send(frame(TEXT, b"x"))
    assert not client.lost


def test_a_full_channel_is_tried_again() -> None:
    world = World(resumable_paths=("/chat",), ping_interval_s=0.0, request_capacity=3)
    clients = opened(world, 10)
    for _, job in clients:
        job.release("died")
    taken = 0
    for _ in range(100):
        jobs = world.worker.jobs(RESUME)
        for job in jobs:
            job.claim()
            job.accept()
        taken += len(jobs)
        world.advance(1.0)
    assert taken == 10
    assert all(frames(client.received()) == [] for client, _ in clients)


def test_it_is_closed_when_nobody_takes_it_in_time_and_nothing_stays_behind() -> None:
    world = resumable(resume_timeout_s=60.0, queue_timeout_s=1.0, websocket_connect_timeout_s=1.0)
    [(client, job)] = opened(world)
    job.release("died")
    world.advance(59.0)
    assert frames(client.received()) == []
    world.advance(1.0)
    assert frames(client.received())[-1].payload == (1012).to_bytes(2, "big")
    assert world.worker.jobs(RESUME) == [], "it is taken back"
    client.send(close_frame(1012))
    client.leave()
    world.assert_empty()


def test_the_end_of_the_server_ends_the_waiting() -> None:
    world = resumable(drain_timeout_s=1.0, close_timeout_s=0.5)
    [(client, job)] = opened(world)
    job.release("died")
    world.worker.jobs(RESUME)
    done = world.drain()
    client.send(close_frame(1001))
    client.leave()
    for _ in range(50):
        world.advance(0.1)
    assert done == [None]
    assert waiting(world) == 0
