"""What is read and thrown away of a body whose response is complete, and when the connection ends instead."""

from __future__ import annotations

import pytest
from twisted.internet.interfaces import ISSLTransport
from zope.interface import directlyProvides

from ifserver.front.http1.shared import DISCARD_BYTES, SILENCE_S, TOTAL_S
from tests.front.fakes import GET, World, split_response
from tests.front.http1.test_connection import CHUNKED, chunk, post

MIB = 1024 * 1024


@pytest.mark.parametrize("length", [100_000, 3_000_000, DISCARD_BYTES + 50_000])
def test_what_is_left_of_a_body_is_thrown_away(length: int) -> None:
    world = World()
    client = world.client(post(length, b"x" * 50_000))
    world.worker.job().respond(413, body=b"no")
    assert b"connection: close" not in client.received()
    for _ in range(length // 50_000 - 1):
        client.send(b"x" * 50_000)
    assert not client.write_closed
    client.send(b"x" * (length % 50_000) + GET)
    world.worker.job().respond(body=b"next")
    assert client.received().endswith(b"next")
    assert len(world.server.http1.discarding) == 0
    client.leave()
    world.assert_empty()


def test_a_body_in_chunks_is_thrown_away_as_well() -> None:
    world = World()
    client = world.client(CHUNKED + chunk(b"x" * 50_000))
    world.worker.job().respond(404, body=b"no")
    assert b"connection: close" not in client.received()
    for _ in range(100):
        client.send(chunk(b"x" * 50_000))
    client.send(b"0\r\n\r\n" + GET)
    world.worker.job().respond(body=b"next")
    assert client.received().endswith(b"next")


def test_what_is_left_is_read_before_the_client_has_taken_its_answer() -> None:
    """Many clients read nothing before they have sent all."""
    world = World()
    client = world.client(post(3_000_000))
    while client.reading:
        client.send(b"x" * 10_000)
    client.stop_taking()
    world.worker.job().respond(404, body=b"x" * 1_000_000)
    world.settle()
    assert client.reading
    client.send(b"x" * 1_000_000)
    assert client.unread() == 0


def test_a_body_that_has_been_thrown_away_is_not_waited_for() -> None:
    """The client may take its answer later."""
    world = World()
    client = world.client(post(70_000, b"x"))
    client.stop_taking()
    world.worker.job().respond(404, body=b"no")
    client.send(b"x" * 69_999)
    world.advance(2 * SILENCE_S)
    assert not client.lost
    client.take_again()
    client.send(GET)
    world.worker.job().respond(body=b"next")
    assert client.received().endswith(b"next")


def test_what_is_left_is_read_though_the_client_was_made_to_wait() -> None:
    world = World()
    client = world.client(post(100_000))
    while client.reading:
        client.send(b"x" * 10_000)
    client.send(b"x" * (100_000 - 70_000))
    assert client.unread()
    world.worker.job().respond(413, body=b"no")
    world.settle()
    assert client.unread() == 0
    assert not client.lost
    client.send(GET)
    world.worker.job().respond(body=b"next")
    assert client.received().endswith(b"next")


def test_a_body_that_is_too_long_is_not_waited_for_and_the_head_says_so() -> None:
    world = World()
    client = world.client(post(DISCARD_BYTES + 2, b"x"))
    world.worker.job().respond(413, body=b"no")
    assert split_response(client.received())[1][b"connection"] == b"close"
    assert client.write_closed
    client.send(b"x" * 1_000_000)
    world.settle()
    assert not client.lost, "it would be reset, and may not have read its answer"
    world.advance(SILENCE_S)
    assert client.lost
    world.assert_empty()


def test_a_response_that_goes_on_may_come_from_somebody_who_reads_it_all() -> None:
    world = World()
    client = world.client(post(DISCARD_BYTES + 2, b"x"))
    job = world.worker.job()
    job.respond(body=b"so far", more_body=True)
    assert b"connection: close" not in client.received()
    job.body(b"no", more_body=False)
    world.settle()
    assert client.write_closed, "it has not, and the head is out"
    client.leave()
    world.assert_empty()


def test_in_chunks_too_much_is_seen_when_it_has_come() -> None:
    world = World()
    client = world.client(CHUNKED + chunk(b"x"))
    world.worker.job().respond(413, body=b"no")
    sent = 0
    while not client.write_closed and sent < 2 * DISCARD_BYTES:
        client.send(chunk(b"x" * 100_000))
        sent += 100_000
    assert sent - 100_000 <= DISCARD_BYTES < sent
    client.send(chunk(b"x" * 100_000) + b"0\r\n\r\n" + GET)
    world.settle()
    assert world.worker.jobs() == [], "it was told that nothing follows"
    assert client.lost
    world.assert_empty()


def test_behind_what_was_too_much_no_request_is_taken() -> None:
    """It was told that nothing follows, while it did not take its answer; now it has, and its body is complete."""
    world = World()
    client = world.client(CHUNKED + chunk(b"a" * 100))
    job = world.worker.job()
    job.claim()
    world.settle()
    client.stop_taking()
    job.respond(body=b"answer")
    for _ in range(DISCARD_BYTES // MIB + 1):
        client.send(chunk(b"z" * MIB))
    assert client.write_closed
    client.take_again()
    client.send(b"0\r\n\r\n" + GET)
    assert world.worker.jobs() == []
    world.settle()
    assert client.lost
    world.assert_empty()


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("head", [post(DISCARD_BYTES + 2, b"x"), b"POST / HTTP/1.0\r\nContent-Length: 100000\r\n\r\nx"])
def test_a_transport_that_cannot_close_one_way(head: bytes, tls: bool) -> None:
    """It is closed where only that tells the client that the response is complete."""
    world = World()
    client = world.client(head)
    if tls:
        directlyProvides(client, ISSLTransport)
    else:
        client.loseWriteConnection = None  # type: ignore[assignment, method-assign]
    job = world.worker.job()
    job.respond(413, body=b"no", more_body=True)
    job.body(b"", more_body=False)
    world.settle()
    assert not client.write_closed
    assert client.lost is (b"HTTP/1.0" in head)
    world.advance(SILENCE_S)
    assert client.lost
    world.assert_empty()


@pytest.mark.parametrize("fields", [(), (b"Connection: close",)])
def test_nobody_is_silent_for_long_whose_body_is_thrown_away(fields: tuple[bytes, ...]) -> None:
    world = World()
    client = world.client(post(100_000, b"x", *fields))
    world.worker.job().respond(413, body=b"no")
    for _ in range(3):
        world.advance(SILENCE_S - 0.1)
        client.send(b"x")
    assert not client.lost
    world.advance(SILENCE_S - 0.1)
    assert not client.lost
    world.advance(0.2)
    assert client.lost
    world.assert_empty()


@pytest.mark.parametrize("fields", [(), (b"Connection: close",)])
def test_nor_slow_for_ever(fields: tuple[bytes, ...]) -> None:
    world = World()
    client = world.client(post(100_000, b"x", *fields))
    world.worker.job().respond(413, body=b"no")
    seconds = 0
    while not client.lost and seconds < 100:
        world.advance(1.0)
        client.send(b"x")
        seconds += 1
        world.settle()
    assert seconds == TOTAL_S
    world.assert_empty()


def test_a_connection_that_ends_is_closed_when_the_rest_has_come() -> None:
    world = World()
    client = world.client(post(70_000, b"x", b"Connection: close"))
    world.worker.job().respond(413, body=b"no")
    assert client.write_closed
    client.send(b"x" * 69_998)
    world.settle()
    assert not client.lost
    client.send(b"x")
    world.settle()
    assert client.lost


def test_where_the_end_tells_the_end_it_is_told_at_once() -> None:
    world = World()
    client = world.client(b"POST / HTTP/1.0\r\nContent-Length: 100000\r\n\r\nx")
    job = world.worker.job()
    job.respond(body=b"a", more_body=True)
    job.body(b"b", more_body=False)
    world.settle()
    assert split_response(client.received())[2] == b"ab"
    assert client.write_closed
    client.send(b"x" * 99_999)
    world.settle()
    assert client.lost


def test_a_large_body_that_is_refused_is_read_so_that_the_answer_arrives() -> None:
    world = World(max_body_bytes=1000)
    client = world.client(post(50_000, b"x"))
    assert client.received().startswith(b"HTTP/1.1 413 ")
    assert client.write_closed
    for _ in range(5):
        client.send(b"x" * 10_000)
        world.advance(SILENCE_S - 0.1)
    assert not client.lost
    world.advance(0.2)
    assert client.lost
    world.assert_empty()


def test_a_connection_that_was_idle_before_is_not_closed_earlier() -> None:
    world = World(max_body_bytes=1000, keep_alive_timeout_s=10)
    client = world.client(GET)
    world.worker.job().respond()
    world.advance(9.0)
    client.send(post(50_000, b"x"))
    world.advance(SILENCE_S - 0.1)
    assert not client.lost
    world.advance(0.2)
    assert client.lost
    world.assert_empty()
