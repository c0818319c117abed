"""How many bytes of one client are taken in one turn of the loop."""

from __future__ import annotations

import pytest

from ifserver import messages as m
from ifserver.front.http1.read_pacing import PIECES, SLICE
from tests.front.fakes import GET, World, of
from tests.front.http1.test_connection import CHUNKED, chunk, post

#: What uvloop reads in one go.
READ_BYTES = 256_000


def turns(world: World) -> int:
    """Let everything happen that is due; how many turns of the loop that took."""
    count = 0
    while world._due:
        count += 1
        for _ in range(len(world._due)):
            world._due.popleft()()
    return count


def test_a_body_of_tiny_chunks_is_parsed_in_many_turns() -> None:
    world = World()
    client = world.client(CHUNKED)
    job = world.worker.job()
    job.claim()
    world.settle()
    client.send(b"1\r\nx\r\n" * (READ_BYTES // 6))
    assert not client.reading, "what follows must wait as well"
    heard = [each.body for each in of(m.RequestBody, job.heard())]
    assert max(map(len, heard)) <= PIECES + SLICE // 6 + 1
    assert len(heard) >= READ_BYTES // (PIECES * 6 + SLICE)
    assert b"".join(heard) == b"x" * (READ_BYTES // 6)
    assert client.reading
    client.send(b"0\r\n\r\n" + GET)
    job.respond(body=b"first")
    world.worker.job().respond(body=b"next")
    assert client.received().endswith(b"next")
    client.leave()
    world.assert_empty()


def test_a_turn_is_left_to_others() -> None:
    world = World()
    client = world.client(CHUNKED)
    world.worker.job().claim()
    world.settle()
    client.send(b"1\r\nx\r\n" * (READ_BYTES // 6))
    assert turns(world) >= READ_BYTES // (PIECES * 6 + SLICE)


@pytest.mark.parametrize("request_", [post(READ_BYTES * 2), CHUNKED + chunk(b"x" * SLICE)])
def test_a_body_in_large_pieces_is_not_held_up(request_: bytes) -> None:
    world = World()
    client = world.client(request_)
    job = world.worker.job()
    job.claim()
    world.settle()
    client.send(chunk(b"x" * 4096) * 60 if b"chunked" in request_ else bytes(READ_BYTES))
    assert client.protocol.read_pacing.unparsed == b""


def test_tiny_chunks_that_are_thrown_away_wait_for_their_turn_too() -> None:
    world = World()
    client = world.client(CHUNKED)
    world.worker.job().respond(404, body=b"no")
    for _ in range(4):
        client.send(b"1\r\nx\r\n" * (READ_BYTES // 6))
        assert not client.reading
        assert turns(world) >= READ_BYTES // (PIECES * 6 + SLICE)
        assert client.reading
    client.send(b"0\r\n\r\n" + GET)
    world.worker.job().respond(body=b"next")
    assert client.received().endswith(b"next")


def test_a_request_behind_tiny_chunks_is_begun_in_its_turn() -> None:
    """The same read holds both, and the response comes while the chunks are parsed."""
    world = World()
    client = world.client(CHUNKED + chunk(b"abc"))
    job = world.worker.job()
    job.claim()
    world.settle()
    client.send(b"1\r\nx\r\n" * (READ_BYTES // 6) + b"0\r\n\r\n" + GET + post(3, b"ab"))
    job.respond(404, body=b"no")
    world.worker.job().respond(body=b"second")
    assert client.received().endswith(b"second")
    assert client.reading
    client.send(b"c")
    assert world.worker.job().request.body == b"abc"
    client.leave()
    world.assert_empty()


def test_tiny_chunks_of_a_request_that_waits_for_another_are_parsed_in_turns() -> None:
    """Nobody takes them meanwhile, which must not look as if each turn had brought enough."""
    world = World()
    client = world.client(GET)
    first = world.worker.job()
    client.send(CHUNKED + b"1\r\nx\r\n" * (READ_BYTES // 6) + b"0\r\n\r\n")
    assert turns(world) < 3 * READ_BYTES // SLICE, "it goes on in each turn"
    assert not client.reading
    first.respond()
    second = world.worker.job()
    second.claim()
    second.window(10**9)
    sent = second.request.body + b"".join(each.body for each in of(m.RequestBody, second.heard()))
    assert sent == b"x" * (READ_BYTES // 6)
    second.respond()
    world.settle()
    assert client.reading


def test_a_client_that_leaves_has_no_further_turn() -> None:
    world = World()
    client = world.client(CHUNKED)
    world.worker.job().claim()
    world.settle()
    client.send(b"1\r\nx\r\n" * (READ_BYTES // 6))
    client.leave()
    world.assert_empty()


def test_chunks_that_go_wrong_in_a_later_turn_are_refused() -> None:
    world = World()
    client = world.client(CHUNKED)
    world.worker.job().claim()
    world.settle()
    client.send(b"1\r\nx\r\n" * (READ_BYTES // 6) + b"nonsense\r\n")
    assert client.received() == b""
    world.settle()
    assert client.received().startswith(b"HTTP/1.1 400 ")
    assert client.lost
    world.assert_empty()


def test_many_small_requests_are_parsed_a_slice_at_a_time() -> None:
    world = World()
    client = world.client(GET * (READ_BYTES // len(GET)))
    most = world.server.settings.max_pipelined + SLICE // len(GET) + 1
    for _ in range(READ_BYTES // len(GET)):
        assert len(client.protocol.waiting) <= most
        world.worker.job().respond()
    world.settle()
    assert client.received().count(b"200 OK") == READ_BYTES // len(GET)
    assert client.reading
