"""What a server counts of its clients, through the whole front."""

from __future__ import annotations

import pytest

from ifserver import channels
from ifserver.front.request_metrics import RequestMetrics
from ifserver.metrics import Histogram
from tests.front.fakes import GET, HANDSHAKE, TEXT, World, frame


def times(histogram: Histogram) -> tuple[int, float]:
    """How many there were, and their sum."""
    return sum(histogram.counts), pytest.approx(histogram.sum_s)


def test_the_times_of_a_request() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    world.advance(0.2)
    job.claim()
    world.advance(0.3)
    job.respond(body=b"first", more_body=True)
    world.advance(1.0)
    job.body(b"last", more_body=False)
    tally = world.server.exchanges.tally
    assert times(tally.queue_wait) == (1, 0.2)
    assert times(tally.first_byte) == (1, 0.5)
    assert times(tally.duration) == (1, 1.5)
    assert dict(tally.requests) == {200: 1}
    assert tally.http_bytes_in == len(GET)
    assert tally.http_bytes_out == len(client.received())
    client.send(GET)
    world.advance(2.0)
    world.worker.job().respond(404)
    assert times(tally.queue_wait) == (2, 2.2)
    assert times(tally.duration) == (2, 3.5)
    assert dict(tally.requests) == {200: 1, 404: 1}
    assert tally.http_bytes_in == 2 * len(GET)


def test_an_attempt_waits_anew() -> None:
    world = World()
    world.client(GET)
    job = world.worker.job()
    job.claim()
    world.advance(5.0)
    job.release()
    world.advance(0.5)
    world.worker.job().claim()
    assert times(world.server.exchanges.tally.queue_wait) == (2, 0.5)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413),
    ],
)
def test_refusals_are_requests_too(data: bytes, status: int) -> None:
    world = World()
    client = world.client(data)
    assert client.received().startswith(b"HTTP/1.1 %d " % status)
    assert dict(world.server.exchanges.tally.requests) == {status: 1}
    assert times(world.server.exchanges.tally.queue_wait) == (0, 0.0)


def test_clients_that_leave_before_there_is_an_answer() -> None:
    world = World()
    world.client(GET).leave()
    client = world.client(GET)
    world.worker.jobs()[-1].respond(body=b"begun", more_body=True)
    world.settle()
    client.leave()
    world.client().leave()
    tally = world.server.exchanges.tally
    assert dict(tally.requests) == {0: 1, 200: 1}
    assert times(tally.first_byte)[0] == 1
    assert times(tally.duration)[0] == 2


def test_an_answer_of_the_servers_own() -> None:
    world = World(queue_timeout_s=3.0)
    world.client(GET)
    world.advance(3.0)
    tally = world.server.exchanges.tally
    assert dict(tally.requests) == {503: 1}
    assert times(tally.first_byte) == times(tally.duration) == (1, 3.0)
    assert times(tally.queue_wait) == (0, 0.0)


def test_a_websocket() -> None:
    world = World()
    client = world.client(HANDSHAKE)
    world.advance(0.5)
    job = world.worker.job(channels.WEBSOCKET_CONNECT)
    job.accept()
    world.settle()
    head = len(client.received())
    job.send("text")
    client.send(frame(TEXT, b"hello"))
    world.settle()
    tally = world.server.exchanges.tally
    assert dict(tally.requests) == {101: 1}
    assert times(tally.queue_wait) == times(tally.first_byte) == times(tally.duration) == (1, 0.5)
    assert (tally.http_bytes_in, tally.http_bytes_out) == (len(HANDSHAKE), 0)
    assert tally.websocket_bytes_in == len(frame(TEXT, b"hello"))
    assert tally.websocket_bytes_out == head + len(client.received())


def test_interim_responses_are_bytes_too() -> None:
    world = World()
    client = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
    client.send(b"x")
    world.worker.job().respond(body=b"done")
    assert world.server.exchanges.tally.http_bytes_out == len(client.received())


def test_one_that_has_not_begun_has_no_first_byte() -> None:
    tally = RequestMetrics()
    tally.answered(0, 1.0, 0.0, 3.0)
    assert times(tally.first_byte) == (0, 0.0)
    assert times(tally.duration) == (1, 2.0)


def test_what_was_counted_since_a_mark() -> None:
    tally = RequestMetrics()
    buckets = len(tally.first_byte.counts)
    assert tally.since() == (0, 0, [0] * buckets)
    tally.answered(200, 0.0, 0.0015, 0.0015)
    tally.answered(503, 0.0, 0.0015, 0.0015)
    tally.answered(0, 0.0, 0.0, 5.0)
    assert tally.since() == (2, 1, [0, 2] + [0] * (buckets - 2))
    tally.mark()
    assert tally.since() == (0, 0, [0] * buckets)
    tally.answered(500, 0.0, 0.0005, 0.0015)
    assert tally.since() == (1, 1, [1] + [0] * (buckets - 1))
