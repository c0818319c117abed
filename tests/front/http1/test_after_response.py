"""A response that is complete for its client, while its application has not ended it."""

from __future__ import annotations

from typing import Any

import pytest

from ifserver import messages as m
from ifserver.flow_control import WINDOW
from tests.front.fakes import GET, FakeTransport, Job, World, of, split_response, units
from tests.front.http1.test_connection import CHUNKED, chunk, post

HEAD = GET.replace(b"GET", b"HEAD", 1)
LENGTH: m.Headers = [(b"content-length", b"6")]
#: Requests whose responses are complete with the first piece though more is promised, with that piece.
WHOLE = pytest.mark.parametrize(
    ("request_", "status", "headers", "body"),
    [
        (GET, 200, LENGTH, b"onetwo"),
        (GET, 200, [(b"content-length", b"0")], b""),
        (HEAD, 200, LENGTH, b""),
        (GET, 204, [], b""),
        (GET, 304, LENGTH, b""),
        (post(3, b"abc"), 200, LENGTH, b"onetwo"),
    ],
)


def begun(request: bytes = GET, status: int = 200, headers: Any = LENGTH, body: bytes = b"onetwo") -> tuple[Any, ...]:
    world = World()
    client = world.client(request)
    job = world.worker.job()
    job.claim()
    job.respond(status, headers, body, more_body=True)
    world.settle()
    return world, client, job


def assert_goes_on(world: World, client: FakeTransport) -> None:
    """The connection takes the next request, and its response arrives."""
    client.received()
    client.send(GET)
    world.worker.job().respond(body=b"next")
    assert client.received().endswith(b"\r\n\r\nnext")


@WHOLE
def test_the_next_request_need_not_wait(request_: bytes, status: int, headers: Any, body: bytes) -> None:
    world, client, job = begun(request_, status, headers, body)
    assert split_response(client.received())[2] == body
    assert_goes_on(world, client)
    job.body(b"", more_body=False)
    assert of(m.Release | m.Disconnect, job.heard()) == [], "its end is expected, and no error"
    assert_goes_on(world, client)
    client.leave()
    assert of(m.Release | m.Disconnect, job.heard()) == [], "it has ended"
    world.assert_empty()


def test_one_that_came_with_the_last_need_not_either() -> None:
    world, client, job = begun(GET + GET)
    world.worker.job().respond(body=b"next")
    first, second = client.received().split(b"HTTP/1.1 200 OK")[1:]
    assert (first.endswith(b"\r\n\r\nonetwo"), second.endswith(b"\r\n\r\nnext")) == (True, True)
    job.body(b"", more_body=False)
    world.settle()
    client.leave()
    world.assert_empty()


@WHOLE
def test_a_worker_that_dies_harms_nobody_then(request_: bytes, status: int, headers: Any, body: bytes) -> None:
    world, client, job = begun(request_, status, headers, body)
    client.send(GET)
    second = world.worker.job()
    job.release("died")
    world.settle()
    assert not client.lost
    second.respond(body=b"next")
    assert client.received().endswith(b"\r\n\r\nnext")
    client.leave()
    world.assert_empty()


def test_pieces_that_reach_the_length_are_the_end_as_well() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.respond(200, LENGTH, b"one", more_body=True)
    client.send(GET)
    assert world.worker.jobs() == []
    job.body(b"two")
    world.worker.job().respond(body=b"next")
    assert client.received().endswith(b"next")


def test_what_comes_beyond_the_length_is_a_bad_reply_and_cuts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    world, client, job = begun()
    job.body(b"x")
    assert len(of(m.Disconnect, job.heard())) == 1
    assert "bad reply: the body is longer than its Content-Length" in caplog.text
    assert_goes_on(world, client)
    client.leave()
    world.assert_empty()


def test_a_second_response_or_a_gap_is_told_to_the_worker_and_cuts_nobody() -> None:
    for wrong in ("start", "gap"):
        world, client, job = begun()
        if wrong == "start":
            job.respond()
        else:
            job.seq += 1
            job.body(b"", more_body=False)
        assert [each.reason for each in of(m.Release, job.heard())] == ["broken"]
        assert_goes_on(world, client)
        client.leave()
        world.assert_empty()


def test_an_application_hears_of_a_client_that_leaves_then() -> None:
    world, client, job = begun()
    client.leave()
    assert len(of(m.Disconnect, job.heard())) == 1
    world.assert_empty()


def test_so_it_does_when_the_connection_becomes_a_websocket() -> None:
    world, client, job = begun()
    client.send(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    world.worker.job("websocket.connect").accept()
    assert len(of(m.Disconnect, job.heard())) == 1


def test_a_client_that_takes_nothing_does_not_keep_the_worker_waiting() -> None:
    """Its last piece, which is empty, needs credit as any other."""
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.claim()
    client.stop_taking()
    size = WINDOW // 4
    job.respond(200, [(b"content-length", b"%d" % (2 * size))], b"x" * size, more_body=True)
    assert of(m.Window, job.heard()) == []
    job.body(b"x" * size)
    assert of(m.Window, job.heard())[-1].consumed == 2 * units(size)
    client.send(GET)
    assert world.worker.jobs() == [], "the client has not taken the first response"
    job.body(b"", more_body=False)
    client.take_again()
    world.worker.job().respond(body=b"next")
    assert client.received().endswith(b"next")
    client.leave()
    world.assert_empty()


def test_bodies_of_a_response_without_one_are_taken_for_nothing() -> None:
    world, client, job = begun(HEAD, 200, LENGTH, b"")
    for _ in range(4):
        job.body(b"x" * (WINDOW // 4))
    assert of(m.Window, job.heard())[-1].consumed > WINDOW // 2
    job.body(b"x", more_body=False)
    assert client.received().endswith(b"\r\n\r\n")
    client.leave()
    world.assert_empty()


def test_an_application_that_answers_first_reads_the_body_to_its_end() -> None:
    world, client, job = begun(CHUNKED + chunk(b"a"))
    client.send(chunk(b"b"))
    client.send(chunk(b"c") + b"0\r\n\r\n")
    assert b"".join(each.body for each in of(m.RequestBody, job.heard())) == b"bc"
    assert_goes_on(world, client)
    job.body(b"", more_body=False)
    client.leave()
    world.assert_empty()


@pytest.mark.parametrize("ended", [True, False])
def test_what_it_does_not_read_is_thrown_away(ended: bool) -> None:
    world, client, job = begun(CHUNKED + chunk(b"a"))
    if ended:
        job.body(b"", more_body=False)
    else:
        job.release("died")
    world.settle()
    client.send(chunk(b"b" * 1_000_000) + b"0\r\n\r\n")
    assert not client.lost
    assert_goes_on(world, client)
    client.leave()
    world.assert_empty()


@pytest.mark.parametrize("ended", [True, False])
def test_where_the_connection_ends_too_the_application_does_not_hear_of_it(ended: bool) -> None:
    """It must not hear of a client that has left because we close."""
    world, client, job = begun(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert client.lost
    assert not client.aborted, "the client has it all"
    if ended:
        job.body(b"", more_body=False)
    else:
        job.release("died")
    world.settle()
    assert of(m.Release | m.Disconnect, job.heard()) == []
    world.assert_empty()


def test_each_response_is_logged_when_its_last_byte_was_sent() -> None:
    world, client, job = begun()
    world.advance(5.0)
    (entry,) = world.access.entries
    assert (entry.status, entry.sent_bytes, entry.duration_s) == (200, 6, 0.0)
    job.body(b"", more_body=False)
    world.settle()
    client.leave()
    assert len(world.access.entries) == 1


def test_many_on_one_connection_leave_nothing_behind() -> None:
    world = World()
    client = world.client()
    jobs: list[Job] = []
    for _ in range(10):
        client.send(GET)
        jobs.append(world.worker.job())
        jobs[-1].respond(200, LENGTH, b"onetwo", more_body=True)
    for job in jobs[::2]:
        job.body(b"", more_body=False)
    world.settle()
    assert len(client.protocol.afterwards) == 5
    client.leave()
    assert [len(of(m.Disconnect, job.heard())) for job in jobs] == [0, 1] * 5
    world.assert_empty()


def test_a_denied_handshake_ends_as_its_application_says() -> None:
    world = World()
    client = world.client(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    job = world.worker.job("websocket.connect")
    job.respond(403, LENGTH, b"onetwo", more_body=True)
    job.body(b"", more_body=False)
    assert split_response(client.received())[2] == b"onetwo"
    world.settle()
    assert client.lost
    assert of(m.Release, job.heard()) == []
    world.assert_empty()
