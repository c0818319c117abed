"""Clients that close their sending side: some wait for a response, most have left."""

from __future__ import annotations

import pytest

from ifserver import messages as m
from tests.front.fakes import GET, World, of, split_response
from tests.front.http1.test_connection import CHUNKED, KIB, chunk, post

#: As long as an answer is waited for.
PATIENCE_S = 1.0
WEBSOCKET = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize("request_", [GET, post(3, b"abc"), CHUNKED + chunk(b"abc") + b"0\r\n\r\n"])
@pytest.mark.parametrize("claimed", [True, False])
def test_a_whole_request_is_answered(request_: bytes, claimed: bool) -> None:
    world = World()
    client = world.client(request_)
    client.half_close()
    job = world.worker.job()
    if claimed:
        job.claim()
    world.advance(PATIENCE_S - 0.1)
    job.respond(body=b"hello")
    _, headers, body = split_response(client.received())
    assert (headers[b"connection"], body) == (b"close", b"hello")
    world.settle()
    assert client.lost
    assert not client.aborted
    world.assert_empty()


def test_one_whose_response_has_begun_gets_the_rest_of_it() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.respond(body=b"a", more_body=True)
    client.half_close()
    job.body(b"b", more_body=False)
    assert split_response(client.received())[2] == b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"
    world.settle()
    assert client.lost
    assert not client.aborted


def test_pipelined_requests_are_all_answered_and_the_last_says_close() -> None:
    world = World()
    client = world.client(GET * 3)
    client.half_close()
    for i in range(3):
        assert not client.lost
        world.worker.job().respond(body=b"hello")
        assert split_response(client.received())[1].get(b"connection") == (b"close" if i == 2 else None)
    world.settle()
    assert client.lost
    world.assert_empty()


@pytest.mark.parametrize("rest", [b"GET / HTTP", b"\r\n", post(5, b"a"), post(70 * KIB, b"a"), CHUNKED])
def test_the_begin_of_another_is_not_waited_for(rest: bytes) -> None:
    world = World()
    client = world.client(GET)
    client.send(rest)
    client.half_close()
    world.worker.job().respond(body=b"hello")
    world.settle()
    assert client.received().endswith(b"hello")
    assert world.worker.jobs() == []
    assert client.lost
    world.assert_empty()


@pytest.mark.parametrize("rest", [b"", b"\r\n", b"GET / HTTP", post(5, b"a"), post(70 * KIB, b"a"), CHUNKED, WEBSOCKET])
def test_who_has_asked_for_nothing_whole_is_closed(rest: bytes) -> None:
    world = World()
    client = world.client(GET)
    world.worker.job().respond()
    client.received()
    client.send(rest)
    client.half_close()
    assert client.lost
    assert client.received() == b""
    assert not client.aborted
    world.assert_empty()


def test_half_a_body_cuts_the_response_that_has_begun() -> None:
    world = World()
    client = world.client(CHUNKED + chunk(b"a"))
    job = world.worker.job()
    job.respond(body=b"a", more_body=True)
    client.half_close()
    assert client.aborted
    assert len(of(m.Disconnect, job.heard())) == 1
    world.assert_empty()


def test_a_body_that_is_thrown_away_ends_the_connection() -> None:
    world = World()
    client = world.client(post(70 * KIB, b"a"))
    world.worker.job().respond(404)
    client.half_close()
    assert client.lost
    world.assert_empty()


@pytest.mark.parametrize("begun", [True, False])
def test_a_client_that_has_left_is_told_of_when_the_time_is_over(begun: bool) -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.claim()
    if begun:
        job.respond(body=b"event", more_body=True)
    client.half_close()
    world.advance(PATIENCE_S - 0.1)
    assert of(m.Disconnect, job.heard()) == []
    world.advance(0.2)
    assert len(of(m.Disconnect, job.heard())) == 1
    assert client.aborted
    world.assert_empty()


def test_nobody_takes_the_request_of_a_client_that_has_left() -> None:
    world = World()
    client = world.client(GET)
    client.half_close()
    assert world.waiting() == 1
    world.advance(PATIENCE_S)
    assert world.waiting() == 0
    assert client.lost
    world.assert_empty()


def test_a_long_response_is_sent_as_long_as_it_goes_on() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.claim()
    client.half_close()
    job.respond(body=b"a", more_body=True)
    for _ in range(9):
        world.advance(PATIENCE_S - 0.1)
        job.body(b"a")
        world.settle()
    # It need not go on while the client has not taken what there is.
    client.stop_taking()
    world.advance(5 * PATIENCE_S)
    assert not client.lost
    client.take_again()
    job.body(b"a", more_body=False)
    assert client.received().count(b"1\r\na\r\n") == 11
    world.settle()
    assert client.lost
    assert not client.aborted
    world.assert_empty()


def test_a_response_that_the_client_has_not_taken_yet() -> None:
    world = World()
    client = world.client(GET)
    client.stop_taking()
    world.worker.job().respond(body=b"hello")
    client.half_close()
    world.advance(3 * PATIENCE_S)
    assert not client.lost
    client.take_again()
    world.settle()
    assert client.received().endswith(b"hello")
    assert client.lost
    world.assert_empty()


def test_a_websocket_is_over_at_once() -> None:
    """On the loop's transport nobody asks; on Twisted's the connection does that has become one."""
    world = World()
    client = world.client(WEBSOCKET)
    job = world.worker.job("websocket.connect")
    job.accept()
    world.settle()
    client.half_close()
    assert [each.code for each in of(m.Disconnect, job.heard())] == [1006]
    assert client.lost
