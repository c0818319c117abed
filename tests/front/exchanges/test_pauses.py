"""Pools that are paused: what waits, what goes on, and in which order."""

from __future__ import annotations

import pytest

from ifserver import channels
from ifserver import messages as m
from ifserver.config.pools import PoolSettings
from ifserver.front.exchanges.routing import Router
from tests.front.fakes import GET, HANDSHAKE, TEXT, FakeTransport, Job, World, close_frame, frame, of
from tests.kept_bytes import LETTERS, kept_at_most, wide

REPORT = b"GET /reports/1 HTTP/1.1\r\nHost: a\r\n\r\n"
RESUME = channels.WEBSOCKET_RESUME
REPORTS = "http.request.reports"


def opened(world: World) -> tuple[FakeTransport, Job]:
    client = world.client(HANDSHAKE)
    job = world.worker.job(channels.WEBSOCKET_CONNECT)
    job.accept()
    client.received()
    return client, job


def texts(job: Job) -> list[str | None]:
    return [each.text for each in of(m.WebSocketReceive, job.heard())]


def test_requests_wait_and_go_on_in_their_order_with_a_deadline_of_their_own() -> None:
    world = World(queue_timeout_s=30)
    world.server.exchanges.pauses.pause("", 50)
    clients = [world.client(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number) for number in range(3)]
    # Longer than the queue's timeout, which is for what waits for a worker.
    world.advance(40)
    assert world.waiting() == 0
    assert world.server.exchanges.pauses.waiting == 3
    assert world.server.exchanges.pauses.under_way() == 0
    world.server.exchanges.pauses.resume("")
    assert world.server.exchanges.paused is None
    world.advance(20)
    jobs = world.worker.jobs()
    assert [job.request.path for job in jobs] == ["/0", "/1", "/2"]
    assert all(job.request.deadline > world.node.clock() for job in jobs)
    for job, client in zip(jobs, clients, strict=True):
        job.respond(body=b"done")
        world.settle()
        assert client.received().endswith(b"done")
        client.leave()
    world.assert_empty()


def test_a_request_that_goes_on_waits_for_a_worker_no_longer_than_others() -> None:
    world = World(queue_timeout_s=30)
    world.server.exchanges.pauses.pause("", 50)
    client = world.client(GET)
    world.advance(50)
    world.advance(29.9)
    assert client.received() == b""
    world.advance(0.2)
    assert client.received().startswith(b"HTTP/1.1 503 ")
    client.leave()
    world.assert_empty()


def test_a_pause_ends_by_itself_and_the_latest_order_counts() -> None:
    world = World()
    pauses = world.server.exchanges.pauses
    pauses.pause("", 5)
    world.advance(4)
    pauses.pause("", 10)
    client = world.client(GET)
    world.advance(9.9)
    assert pauses.left_s() == {"": pytest.approx(0.1, abs=0.01)}
    assert world.waiting() == 0
    world.advance(0.2)
    assert pauses.left_s() == {}
    world.worker.job().respond()
    client.leave()
    world.assert_empty()


def test_a_request_waits_for_pause_timeout_at_most() -> None:
    world = World(pause_timeout_s=5)
    world.server.exchanges.pauses.pause("", 50)
    client = world.client(GET)
    world.advance(5)
    head = client.received()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in head.lower()
    client.leave()
    world.server.exchanges.pauses.resume("")
    assert world.worker.jobs() == []
    world.assert_empty()


def test_a_client_that_leaves_waits_no_more() -> None:
    world = World()
    world.server.exchanges.pauses.pause("", 50)
    for request in (GET, HANDSHAKE):
        world.client(request).leave()
    world.settle()
    assert world.server.exchanges.pauses.waiting == 0
    world.server.exchanges.pauses.resume("")
    assert world.worker.jobs() == world.worker.jobs(channels.WEBSOCKET_CONNECT) == []
    world.assert_empty()


def test_what_is_under_way_goes_on_and_its_next_attempt_waits() -> None:
    world = World()
    first, second = world.client(GET), world.client(GET)
    one, other = world.worker.jobs()
    world.server.exchanges.pauses.pause("", 50)
    assert world.server.exchanges.pauses.under_way() == 2
    one.respond(body=b"done")
    world.settle()
    assert first.received().endswith(b"done")
    other.claim()
    other.release("died")
    assert world.worker.jobs() == []
    assert (world.server.exchanges.pauses.under_way(), world.server.exchanges.pauses.waiting) == (0, 1)
    world.server.exchanges.pauses.resume("")
    world.worker.job().respond(body=b"again")
    world.settle()
    assert second.received().endswith(b"again")
    first.leave()
    second.leave()
    world.assert_empty()


def test_one_pool_is_paused_and_others_are_not() -> None:
    world = World()
    reports = PoolSettings(name="reports", application="a:b", paths=("/reports/*",))
    world.server.exchanges.route(Router([reports, PoolSettings(name="default", application="a:b")]))
    pauses = world.server.exchanges.pauses
    pauses.pause("reports", 50)
    report, other = world.client(REPORT), world.client(GET)
    assert world.worker.jobs(REPORTS) == []
    world.worker.job().respond()
    # All of them, and then all but that pool.
    pauses.pause("", 10)
    second = world.client(GET)
    assert world.worker.jobs() == []
    world.advance(10)
    world.worker.job().respond()
    assert world.worker.jobs(REPORTS) == []
    pauses.resume("reports")
    world.worker.job(REPORTS).respond()
    for client in (report, other, second):
        client.leave()
    world.assert_empty()


def test_messages_of_open_websockets_wait_and_their_pings_are_answered() -> None:
    world = World()
    client, job = opened(world)
    world.server.exchanges.pauses.pause("", 50)
    assert world.server.exchanges.pauses.under_way() == 0
    for text in (b"one", b"two"):
        client.send(frame(TEXT, text))
    client.send(frame(9, b"there?"))
    world.settle()
    assert texts(job) == []
    assert b"there?" in client.received()
    # The application may still speak.
    job.send("news")
    world.settle()
    assert b"news" in client.received()
    world.server.exchanges.pauses.resume("")
    client.send(frame(TEXT, b"three"))
    world.settle()
    assert texts(job) == ["one", "two", "three"]
    client.leave()
    world.settle()
    world.assert_empty()


def test_a_websocket_that_says_much_is_not_read_for_a_while() -> None:
    world = World()
    client, job = opened(world)
    world.server.exchanges.pauses.pause("", 50)
    for _ in range(9):
        client.send(frame(TEXT, b"x" * 8000))
    world.settle()
    assert client.unread() > 0
    assert texts(job) == []
    world.server.exchanges.pauses.resume("")
    world.settle()
    assert len(texts(job)) == 9
    assert client.unread() == 0
    client.leave()
    world.settle()
    world.assert_empty()


def test_what_waits_needs_no_more_memory_than_the_client_sent() -> None:
    world = World()
    client, job = opened(world)
    world.server.exchanges.pauses.pause("", 50)
    text = wide("z")
    data = frame(TEXT, text.encode())
    with kept_at_most(2 * LETTERS):
        client.send(data)
        world.settle()
    world.server.exchanges.pauses.resume("")
    world.settle()
    assert texts(job) == [text]
    client.leave()
    world.settle()
    world.assert_empty()


@pytest.mark.parametrize("leave", [FakeTransport.leave, lambda client: client.send(close_frame(1000))])
def test_that_a_client_has_left_is_told_behind_what_it_said(leave: object) -> None:
    world = World()
    client, job = opened(world)
    world.server.exchanges.pauses.pause("", 50)
    client.send(frame(TEXT, b"bye"))
    leave(client)  # type: ignore[operator]
    world.settle()
    assert job.heard() == []
    world.server.exchanges.pauses.resume("")
    world.settle()
    assert [type(each) for each in job.heard()] == [m.WebSocketReceive, m.Disconnect]
    world.assert_empty()


@pytest.mark.parametrize("gone", [False, True])
def test_a_websocket_that_its_worker_closes_ends_at_once(gone: bool) -> None:
    """A worker that has ended is not asked for until the end of the pause."""
    world = World()
    client, job = opened(world)
    world.server.exchanges.pauses.pause("", 50)
    client.send(frame(TEXT, b"too late"))
    if gone:
        client.leave()
    job.say(m.WebSocketClose, 1012, "")
    world.settle()
    if not gone:
        client.send(close_frame(1012))
        client.leave()
    assert texts(job) == []
    assert world.server.exchanges.workers.watched() == {}
    world.assert_empty()
    world.server.exchanges.pauses.resume("")


def test_a_websocket_that_opens_during_a_pause_is_paused() -> None:
    world = World()
    client = world.client(HANDSHAKE)
    job = world.worker.job(channels.WEBSOCKET_CONNECT)
    world.server.exchanges.pauses.pause("", 50)
    job.accept()
    client.send(frame(TEXT, b"one"))
    world.settle()
    assert texts(job) == []
    world.server.exchanges.pauses.resume("")
    world.settle()
    assert texts(job) == ["one"]
    client.leave()
    world.settle()
    world.assert_empty()


def test_a_websocket_whose_worker_dies_gets_another_one_behind_the_pause() -> None:
    world = World(resumable_paths=("/chat",), resume_timeout_s=10, ping_interval_s=0.0)
    client, job = opened(world)
    world.server.exchanges.pauses.pause("", 50)
    client.send(frame(TEXT, b"one"))
    job.release("died")
    assert world.worker.jobs(RESUME) == []
    world.advance(40)
    assert world.server.exchanges.pauses.waiting == 1
    world.server.exchanges.pauses.resume("")
    world.advance(5)
    job = world.worker.job(RESUME)
    job.accept()
    world.settle()
    assert texts(job) == ["one"]
    client.leave()
    world.settle()
    world.assert_empty()


def test_a_server_that_ends_during_a_pause_holds_nothing() -> None:
    world = World(drain_timeout_s=5)
    open_one = opened(world)
    world.server.exchanges.pauses.pause("", 50)
    client = world.client(GET)
    other, job = open_one
    other.send(frame(TEXT, b"bye"))
    ended = world.drain()
    world.settle()
    other.leave()
    world.advance(5)
    world.advance(5)
    assert ended == [None]
    assert texts(job) == ["bye"]
    assert client.lost
    assert world.server.exchanges.pauses.waiting == 0
    assert world.server.exchanges.paused is None
