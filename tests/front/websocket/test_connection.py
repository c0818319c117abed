"""WebSockets, from the handshake to the close, between a client that speaks bytes and a worker that speaks messages."""

from __future__ import annotations

import os
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifserver import channels
from ifserver import messages as m
from ifserver.flow_control import WINDOW
from ifserver.net.endpoints import LoopTransport
from ifserver.observe.admin.subject import unsent_bytes
from tests.front.fakes import (
    BINARY,
    CLOSE,
    CONTINUATION,
    EPOCH_S,
    GET,
    HANDSHAKE,
    PING,
    PONG,
    SUPERVISOR,
    TEXT,
    WORKER,
    FakeLoopTransport,
    FakeTransport,
    Frame,
    Job,
    World,
    close_frame,
    frame,
    frames,
    leave_with_last_words,
    of,
    split_response,
    units,
)

KIB = 1024


def handshake(*fields: bytes, without: bytes = b"\0") -> bytes:
    lines = [line for line in HANDSHAKE.rstrip().split(b"\r\n") if not line.startswith(without)]
    return b"\r\n".join([*lines, *fields]) + b"\r\n\r\n"


def offer(world: World, *pieces: bytes) -> tuple[FakeTransport, Job]:
    client = world.client(*(pieces or (HANDSHAKE,)))
    return client, world.worker.job(channels.WEBSOCKET_CONNECT)


def opened(world: World, *pieces: bytes) -> tuple[FakeTransport, Job]:
    """A WebSocket that is open."""
    client, job = offer(world, *pieces)
    job.accept()
    assert client.received().startswith(b"HTTP/1.1 101 ")
    return client, job


def disconnects(job: Job) -> list[tuple[int, str]]:
    return [(each.code, each.reason) for each in of(m.Disconnect, job.heard())]


def closes(data: bytes) -> list[tuple[int, bytes]]:
    return [
        (int.from_bytes(each.payload[:2], "big"), each.payload[2:]) for each in frames(data) if each.opcode == CLOSE
    ]


# The access log.


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda client, job: client.send(close_frame(4001)), 4001),
        (lambda client, job: client.send(close_frame()), 1005),
        (lambda client, job: (client.send(frame(TEXT, b"\xff")), job.release()), 1007),
        (lambda client, job: job.close(3000), 3000),
        (lambda client, job: client.leave(), 1006),
        (lambda client, job: job.release(), 1012),
    ],
)
def test_a_websocket_is_logged_at_its_end_with_its_code(end: Callable[[FakeTransport, Job], object], code: int) -> None:
    world = World()
    client, job = offer(world)
    world.advance(0.5)
    job.claim()
    world.advance(9.5)
    job.accept()
    world.advance(1.0)
    world.stepped_s = 3600.0
    assert world.access.lines == []
    end(client, job)
    world.settle()
    client.leave()
    [entry] = world.access.entries
    assert world.access.lines == [("192.0.2.1", "GET /chat?x HTTP/1.1", 101, 0)]
    assert (entry.close_code, entry.queue_s, entry.duration_s) == (code, 0.5, 11.0)
    assert entry.at == EPOCH_S + 3600 + 11
    world.assert_empty()


def test_the_id_of_a_websocket_s_request_is_told_to_both_sides() -> None:
    world = World(request_id=True)
    client, job = offer(world)
    assert job.request.headers[-1] == (b"x-request-id", job.stream.encode())
    job.accept(headers=[(b"x-a", b"b")])
    _, fields, _ = split_response(client.received())
    assert (fields[b"x-a"], fields[b"x-request-id"]) == (b"b", job.stream.encode())


def test_the_application_s_own_id_is_left_alone() -> None:
    world = World(request_id=True)
    client, job = offer(world)
    job.accept(headers=[(b"x-request-id", b"mine")])
    assert split_response(client.received())[1][b"x-request-id"] == b"mine"


# The handshake.


def test_the_handshake_is_answered_when_the_application_accepts() -> None:
    world = World(server_header="us")
    client, job = offer(world)
    request = job.request
    assert (request.scheme, request.path, request.raw_path, request.query_string) == ("ws", "/chat", b"/chat", b"x")
    assert (request.http_version, request.subprotocols) == ("1.1", [])
    assert (request.client, request.server) == (("192.0.2.1", 50_000), ("192.0.2.9", 80))
    job.claim()
    world.advance(10.0)
    assert client.received() == b""
    job.accept()
    assert client.received() == (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"date: Sun, 09 Sep 2001 01:46:50 GMT\r\nserver: us\r\n\r\n"
    )
    world.settle()
    assert world.server.statistics()["connections"] == 1


def test_subprotocol_and_headers_of_the_application() -> None:
    world = World()
    client, job = offer(world, handshake(b"Sec-WebSocket-Protocol: one, two", b"Sec-WebSocket-Protocol: three"))
    assert job.request.subprotocols == ["one", "two", "three"]
    job.accept("two", [(b"x-a", b"1"), (b"set-cookie", b"c=\xe4")])
    _, headers, rest = split_response(client.received())
    assert headers[b"sec-websocket-protocol"] == b"two"
    assert (headers[b"x-a"], headers[b"set-cookie"], rest) == (b"1", b"c=\xe4", b"")


@pytest.mark.parametrize(
    ("subprotocol", "headers"),
    [
        ("one\r\nset-cookie: a=b", []),
        ("\N{EURO SIGN}", []),
        (None, [(b"x\r\nset-cookie: a=b", b"1")]),
        (None, [(b"x", b"1\r\nset-cookie: a=b")]),
        (None, [(b"x", b"\x0b1")]),
        (None, [(b"", b"1")]),
        (None, [(b"sec-websocket-protocol", b"one")]),
        (None, [(b"Sec-WebSocket-Accept", b"x")]),
        (None, [(b"sec-websocket-extensions", b"permessage-deflate")]),
        (None, [(b"upgrade", b"h2c")]),
        (None, [(b"content-length", b"5")]),
    ],
)
def test_a_bad_accept_is_502_and_not_what_it_says(subprotocol: str | None, headers: m.Headers) -> None:
    world = World()
    client, job = offer(world)
    job.accept(subprotocol, headers)
    got = client.received()
    assert got.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"set-cookie" not in got
    world.settle()
    assert client.lost
    assert disconnects(job) == [(1006, "")]
    assert world.counters.value("requests_refused", "502") == 1
    world.assert_empty()


@pytest.mark.parametrize("more", [True, False])
def test_an_application_may_deny_with_a_response_of_its_own(more: bool) -> None:
    world = World()
    client, job = offer(world, HANDSHAKE + frame(TEXT, b"early"))
    if more:
        job.respond(401, [(b"x-a", b"1")], b"one", more_body=True)
        job.body(b"two", more_body=False)
    else:
        job.respond(403)
    status, headers, body = split_response(client.received())
    assert status == (b"HTTP/1.1 401 Unauthorized" if more else b"HTTP/1.1 403 Forbidden")
    assert headers[b"connection"] == b"close"
    assert body == (b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n" if more else b"")
    world.settle()
    assert client.lost
    assert world.counters.value("streams_closed", "websocket") == 1
    world.assert_empty()


def test_a_worker_lost_in_the_middle_of_a_denial_cuts_the_connection() -> None:
    world = World()
    client, job = offer(world)
    job.respond(401, [], b"one", more_body=True)
    job.release("died")
    world.settle()
    assert client.aborted
    world.assert_empty()


def test_in_http_1_0_a_handshake_is_a_get() -> None:
    """RFC 9110 7.8: what an HTTP/1.0 request offers MUST be ignored."""
    world = World()
    client = world.client(HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"))
    world.worker.job().respond(body=b"page")
    status_line, _, body = split_response(client.received())
    assert (status_line, body) == (b"HTTP/1.1 200 OK", b"page")
    client.leave()
    world.assert_empty()


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (handshake(without=b"Sec-WebSocket-Version"), 426),
        (handshake(b"Sec-WebSocket-Version: 8", without=b"Sec-WebSocket-Version"), 426),
        (handshake(b"Sec-WebSocket-Version: 8"), 426),
        (handshake(b"Sec-WebSocket-Version: 13"), 426),
        (handshake(b"Sec-WebSocket-Version: 13, 8", without=b"Sec-WebSocket-Version"), 426),
        (handshake(without=b"Sec-WebSocket-Key"), 400),
        (handshake(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400),
        (handshake(b"Sec-WebSocket-Key: short", without=b"Sec-WebSocket-Key"), 400),
        (handshake(b"Content-Length: 3"), 400),
        (handshake(b"Transfer-Encoding: chunked"), 400),
    ],
)
@pytest.mark.parametrize("before", [b"", GET])
def test_a_bad_handshake_is_refused(bad: bytes, status: int, before: bytes) -> None:
    world = World()
    client = world.client(before + bad + b"frames?")
    if before:
        world.worker.job().respond(200, [(b"content-length", b"0")])
    first, _, rest = client.received().partition(b"\r\n\r\n")
    if before:
        assert first.startswith(b"HTTP/1.1 200 OK\r\n")
        first, _, _ = rest.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 %d " % status)
    assert (b"\r\nsec-websocket-version: 13\r\nupgrade: websocket\r\n" in first) is (status == 426)
    assert first.endswith(b"\r\nconnection: upgrade") is (status == 426)
    world.settle()
    assert client.lost
    assert not world.worker.jobs(channels.WEBSOCKET_CONNECT)
    assert world.counters.value("requests_refused", str(status)) == 1
    world.assert_empty()


def test_a_post_that_wants_a_websocket_is_a_post() -> None:
    world = World()
    world.client(handshake(b"Content-Length: 3").replace(b"GET", b"POST") + b"abc")
    request = world.worker.job().request
    assert (request.method, request.body) == ("POST", b"abc")


@pytest.mark.parametrize("first", [HANDSHAKE, GET + HANDSHAKE])
def test_what_comes_before_the_answer_is_kept(first: bytes) -> None:
    world = World()
    client = world.client(first + frame(TEXT, b"one")[:3], frame(TEXT, b"one")[3:])
    if first != HANDSHAKE:
        client.send(frame(TEXT, b"two"))
        world.worker.job().respond()
        client.received()
    job = world.worker.job(channels.WEBSOCKET_CONNECT)
    job.accept()
    if first == HANDSHAKE:
        client.send(frame(TEXT, b"two"))
    assert [each.text for each in of(m.WebSocketReceive, job.heard())] == ["one", "two"]


def test_but_not_without_a_bound() -> None:
    world = World()
    client, job = offer(world)
    sent = 0
    while client.reading and sent < 1_000_000:
        client.send(frame(BINARY, b"x" * 1000))
        sent += 1000
    assert 64_000 < sent < 68_000
    client.send(frame(TEXT, b"last"))
    assert client.unread() > 0
    job.accept()
    messages = of(m.WebSocketReceive, job.heard())
    assert len(messages) == sent // 1000 + 1
    assert messages[-1].text == "last"


def test_a_client_that_leaves_before_the_claim_takes_its_handshake_along() -> None:
    world = World()
    client = world.client(HANDSHAKE)
    assert world.waiting(channels.WEBSOCKET_CONNECT) == 1
    assert client.reading  # or else its leaving would not be seen
    client.leave()
    assert world.waiting(channels.WEBSOCKET_CONNECT) == 0
    world.assert_empty()


def test_a_client_that_leaves_before_the_answer_is_told_of() -> None:
    world = World()
    client, job = offer(world)
    job.claim()
    client.leave()
    assert disconnects(job) == [(1006, "")]
    job.accept()
    assert [each.reason for each in of(m.Release, job.heard())] == ["gone"]
    world.assert_empty()


def test_handshakes_have_deadlines() -> None:
    world = World(queue_timeout_s=30, websocket_connect_timeout_s=20)
    client = world.client(HANDSHAKE)
    world.advance(30.1)
    status, headers, _ = split_response(client.received())
    assert status == b"HTTP/1.1 503 Service Unavailable"
    assert headers[b"retry-after"] == b"1"
    client, job = offer(world)
    job.claim()
    world.advance(19.9)
    assert client.received() == b""
    world.advance(0.2)
    assert client.received().startswith(b"HTTP/1.1 504 ")
    assert disconnects(job) == [(1006, "")]
    assert client.lost
    world.assert_empty()


def test_a_handshake_is_offered_once_more() -> None:
    world = World()
    client, first = offer(world)
    first.claim()
    first.release("stopped")
    second = world.worker.job(channels.WEBSOCKET_CONNECT)
    assert second.request.attempt == 1
    second.accept()
    assert client.received().startswith(b"HTTP/1.1 101 ")
    client.leave()
    world.assert_empty()


# Messages.


def test_texts_and_bytes_both_ways() -> None:
    world = World()
    client, job = opened(world)
    client.send(frame(TEXT, "ä".encode()) + frame(BINARY, b"\x00\xff") + frame(TEXT) + frame(BINARY))
    received = of(m.WebSocketReceive, job.heard())
    assert [(each.text, each.data) for each in received] == [("ä", None), (None, b"\x00\xff"), ("", None), (None, b"")]
    assert [each.seq for each in received] == [0, 1, 2, 3]
    job.send("ä")
    job.send(data=b"\x00\xff")
    job.send("")
    job.send(data=b"x" * 70_000)
    assert frames(client.received()) == [
        Frame(TEXT, "ä".encode()),
        Frame(BINARY, b"\x00\xff"),
        Frame(TEXT, b""),
        Frame(BINARY, b"x" * 70_000),
    ]


@pytest.mark.parametrize("size", [125, 126, 127, 65535, 65536])
def test_the_three_ways_to_tell_a_length(size: int) -> None:
    """RFC 6455 5.2: in the shortest of them."""
    world = World()
    client, job = opened(world)
    job.send(data=b"x" * size)
    sent = client.received()
    assert frames(sent) == [Frame(BINARY, b"x" * size)]
    assert len(sent) == size + (2 if size < 126 else 4 if size < 65536 else 10)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.lists(st.one_of(st.text(max_size=30), st.binary(max_size=300)), min_size=1, max_size=6))
def test_any_split_gives_the_same_messages(data: st.DataObject, messages: list[str | bytes]) -> None:
    stream = HANDSHAKE
    for message in messages:
        payload, opcode = (message.encode(), TEXT) if isinstance(message, str) else (message, BINARY)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        for i, part in enumerate(parts):
            stream += frame(opcode if i == 0 else CONTINUATION, part, fin=i == len(parts) - 1)
            if data.draw(st.booleans()):
                stream += frame(PING, b"p")
    world = World()
    client = world.client()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    jobs: list[Job] = []
    for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        client.send(stream[a:b])
        for job in world.worker.jobs(channels.WEBSOCKET_CONNECT):
            job.accept()
            jobs.append(job)
    received = of(m.WebSocketReceive, jobs[0].heard())
    assert [each.data if each.text is None else each.text for each in received] == messages
    client.leave()
    assert disconnects(jobs[0]) == [(1006, "")]
    world.assert_empty()


def test_what_looks_like_a_whole_message_inside_of_another_is_a_part_of_it() -> None:
    world = World()
    client, job = opened(world)
    inner = frame(TEXT, b"inner")
    whole = frame(BINARY, b"<" + inner + b">", mask=bytes(4))
    at = whole.index(inner)
    for piece in (whole[:at], inner, whole[at + len(inner) :], inner):
        client.send(piece)
    received = of(m.WebSocketReceive, job.heard())
    assert [(each.text, each.data) for each in received] == [(None, b"<" + inner + b">"), ("inner", None)]


def test_a_whole_message_between_fragments_is_refused() -> None:
    """RFC 6455 5.4: fragments of one message are not interleaved with those of another."""
    world = World()
    client, job = opened(world)
    client.send(frame(TEXT, b"begun", fin=False))
    client.send(frame(TEXT, b"whole"))
    job.release()
    assert [each[0] for each in closes(client.received())] == [1002]
    assert of(m.WebSocketReceive, job.heard()) == []


def test_a_limit_may_be_lower_than_what_is_short() -> None:
    world = World(max_websocket_message_bytes=10)
    client, job = opened(world)
    client.send(frame(TEXT, b"x" * 10))
    client.send(frame(TEXT, b"x" * 11))
    job.release()
    assert [each[0] for each in closes(client.received())] == [1009]
    assert [each.text for each in of(m.WebSocketReceive, job.heard())] == ["x" * 10]


def test_pings_of_the_client_are_answered() -> None:
    world = World()
    client, job = opened(world)
    client.send(frame(PING, b"abc") + frame(PONG, b"unasked"))
    assert frames(client.received()) == [Frame(PONG, b"abc")]
    assert job.heard() == []


# permessage-deflate.


def inflate(payload: bytes) -> bytes:
    return zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")


def deflate(payload: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        (b"permessage-deflate", b"permessage-deflate"),
        (b"permessage-deflate; client_max_window_bits", b"permessage-deflate; client_max_window_bits=12"),
        (
            b"x-unknown, permessage-deflate; server_no_context_takeover",
            b"permessage-deflate; server_no_context_takeover",
        ),
        (b"permessage-deflate; client_max_window_bits=99, permessage-deflate", b"permessage-deflate"),
        (b"permessage-deflate; nonsense=1, Permessage-Deflate", b"permessage-deflate"),
        (b'permessage-deflate; server_max_window_bits="10"', b"permessage-deflate; server_max_window_bits=10"),
        (b"permessage-deflate; client_max_window_bits=99", None),
        (b"permessage-deflate; server_max_window_bits=+9", None),
        (b"permessage-deflate; nonsense", None),
        (b"permessage-bzip2", None),
        (b"x\x85y, \xe4", None),
        (b";;=,,", None),
    ],
)
def test_what_is_taken_of_the_offers_to_compress(offers: bytes, answer: bytes | None) -> None:
    world = World()
    client, job = offer(world, handshake(b"Sec-WebSocket-Extensions: " + offers))
    job.accept()
    status, headers, _ = split_response(client.received())
    assert status == b"HTTP/1.1 101 Switching Protocols"
    assert headers.get(b"sec-websocket-extensions") == answer
    client.send(frame(TEXT, b"plain"))
    assert of(m.WebSocketReceive, job.heard())[0].text == "plain"
    assert not client.lost


def test_compressed_messages() -> None:
    world = World()
    client, job = opened(world, handshake(b"Sec-WebSocket-Extensions: permessage-deflate"))
    text = b"hello " * 1000
    client.send(frame(TEXT, deflate(text), rsv=4))
    assert of(m.WebSocketReceive, job.heard())[0].text == text.decode()
    job.send(text.decode())
    (sent,) = frames(client.received())
    assert (sent.opcode, sent.rsv) == (TEXT, 4)
    assert len(sent.payload) < 100
    assert inflate(sent.payload) == text


def test_a_final_block_does_not_end_compression() -> None:
    """RFC 7692 7.2.3.4: it ends what zlib calls a stream, which then takes no more."""
    world = World()
    client, job = opened(world, handshake(b"Sec-WebSocket-Extensions: permessage-deflate"))
    for payload in ("f348cdc9c9070000", "f248cdc9c90700", "f348cdc9c90700f248cdc9c90700"):
        client.send(frame(TEXT, bytes.fromhex(payload), rsv=4))
    assert [each.text for each in of(m.WebSocketReceive, job.heard())] == ["Hello", "Hello", "HelloHello"]


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("over", [0, 1, 10, 50, 100])
def test_a_compressed_message_is_never_cut_to_the_limit(over: int, pieces: int) -> None:
    world = World(max_websocket_message_bytes=1000)
    client, job = opened(world, handshake(b"Sec-WebSocket-Extensions: permessage-deflate"))
    payload = deflate(bytes(1000 + over))
    size = -(-len(payload) // pieces)
    for start in range(0, len(payload), size):
        opcode, rsv = (BINARY, 4) if start == 0 else (CONTINUATION, 0)
        client.send(frame(opcode, payload[start : start + size], fin=start + size >= len(payload), rsv=rsv))
    received = of(m.WebSocketReceive, job.heard())
    job.release()
    if over:
        assert received == []
        assert closes(client.received()) == [(1009, b"a message may have 1000 bytes")]
    else:
        assert [each.data for each in received] == [bytes(1000)]


@pytest.mark.parametrize("broken", [deflate(bytes(100_000)), b"\xff" * 100], ids=["too large", "corrupt"])
def test_the_answer_of_a_client_to_our_close_is_found_behind_what_was_wrong(broken: bytes) -> None:
    world = World(max_websocket_message_bytes=1000)
    client, job = opened(world, handshake(b"Sec-WebSocket-Extensions: permessage-deflate"))
    client.send(frame(TEXT, broken, fin=False, rsv=4) + frame(CONTINUATION, broken))
    job.release()
    [[code, _]] = closes(client.received())
    assert code in (1007, 1009)
    client.send(close_frame(code))
    world.settle()
    assert client.lost
    assert not client.aborted
    world.assert_empty()


def test_what_compression_makes_longer_is_received_all_the_same() -> None:
    world = World(max_websocket_message_bytes=1000)
    client, job = opened(world, handshake(b"Sec-WebSocket-Extensions: permessage-deflate"))
    noise = os.urandom(1000)
    assert len(deflate(noise)) > 1000
    client.send(frame(BINARY, deflate(noise), rsv=4))
    assert [each.data for each in of(m.WebSocketReceive, job.heard())] == [noise]


def test_a_very_large_message_is_sent_as_it_is() -> None:
    """Compressing it would keep everybody else waiting."""
    world = World()
    client, job = opened(world, handshake(b"Sec-WebSocket-Extensions: permessage-deflate"))
    for size in (4 * 1024 * KIB, 4 * 1024 * KIB + 1):
        job.send(data=bytes(size))
    first, second = frames(client.received())
    assert (first.rsv, inflate(first.payload)) == (4, bytes(4 * 1024 * KIB))
    assert (second.rsv, second.payload) == (0, bytes(4 * 1024 * KIB + 1))


def test_the_context_of_a_websocket_to_which_nothing_is_sent_is_freed() -> None:
    world = World(ping_interval_s=0)
    client, job = opened(world, handshake(b"Sec-WebSocket-Extensions: permessage-deflate"))
    text = "the quick brown fox jumps over the lazy dog"

    def sent() -> int:
        job.send(text)
        return len(frames(client.received())[0].payload)

    alone, following = sent(), sent()
    assert following < alone / 3
    for _ in range(5):
        world.advance(9.0)
        assert sent() <= following
    world.advance(10.0)
    world.advance(10.0)
    assert sent() == alone
    client.leave()
    world.assert_empty()


def test_compression_can_be_switched_off() -> None:
    world = World(websocket_compression=False)
    client, job = offer(world, handshake(b"Sec-WebSocket-Extensions: permessage-deflate"))
    job.accept()
    assert b"sec-websocket-extensions" not in client.received()
    job.send("hello " * 1000)
    assert frames(client.received())[0].rsv == 0


def test_what_compression_makes_longer_is_sent_all_the_same() -> None:
    world = World(max_websocket_message_bytes=1000)
    client, job = opened(world, handshake(b"Sec-WebSocket-Extensions: permessage-deflate"))
    noise = os.urandom(1000)
    job.send(data=noise)
    (sent,) = frames(client.received())
    assert len(sent.payload) > 1000
    assert inflate(sent.payload) == noise


@pytest.mark.parametrize("size", [100, 10_000, 1_000_000])
def test_a_bomb_is_stopped_at_the_limit(size: int) -> None:
    """A hundred MiB in a hundred KiB: what is refused must not have been inflated first."""
    world = World(max_websocket_message_bytes=1024 * KIB)
    client, job = opened(world, handshake(b"Sec-WebSocket-Extensions: permessage-deflate"))
    deflate = zlib.compressobj(9, wbits=-15)
    bomb = b"".join(deflate.compress(bytes(1024 * KIB)) for _ in range(100))
    bomb += deflate.flush(zlib.Z_SYNC_FLUSH).removesuffix(b"\0\0\xff\xff")
    assert len(bomb) < 110 * KIB
    sent = frame(BINARY, bomb, rsv=4)
    tracemalloc.start()
    try:
        for start in range(0, len(sent), size):
            client.send(sent[start : start + size])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 1024 * KIB
    job.release()
    assert closes(client.received())[0][0] == 1009
    assert of(m.WebSocketReceive, job.heard()) == []


@pytest.mark.parametrize("compressed", [True, False])
def test_frames_of_one_message_are_bounded(compressed: bool) -> None:
    world = World(max_websocket_fragments=10)
    client, job = opened(world, handshake(b"Sec-WebSocket-Extensions: permessage-deflate") if compressed else HANDSHAKE)
    for _ in range(3):
        client.send(frame(TEXT, b"", fin=False))
        for i in range(9):
            client.send(frame(PING, b"") + frame(CONTINUATION, b"a", fin=i == 8))
    assert [each.text for each in of(m.WebSocketReceive, job.heard())] == ["a" * 9] * 3
    assert closes(client.received()) == []
    client.send(frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 9)
    assert client.received() == b""
    client.send(frame(CONTINUATION, b"", fin=True))
    # RFC 6455 10.4, 7.4.1
    job.release()
    assert closes(client.received()) == [(1009, b"too many frames")]
    world.advance(6.0)
    assert [each.code for each in of(m.Disconnect, job.heard())] == [1009]


def test_a_message_in_tiny_pieces_does_not_grow() -> None:
    """Around each piece Python needs forty bytes, or more."""
    world = World()
    client, job = opened(world)
    whole = frame(BINARY, bytes(60 * KIB))
    client.send(whole[:20])
    tracemalloc.start()
    try:
        for start in range(20, len(whole), 2):
            client.send(whole[start : start + 2])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 600 * KIB
    assert [len(each.data) for each in of(m.WebSocketReceive, job.heard())] == [60 * KIB]


def test_pings_of_a_client_that_takes_nothing_do_not_pile_up() -> None:
    """RFC 6455 5.5.3: one may answer only the most recent one."""
    world = World()
    client, _ = opened(world)
    client.stop_taking()
    for i in range(1000):
        client.send(frame(PING, b"%d" % i))
    assert client.received() == b""
    client.take_again()
    assert frames(client.received()) == [Frame(PONG, b"999")]
    client.send(frame(PING, b"again"))
    assert frames(client.received()) == [Frame(PONG, b"again")]


def test_a_client_that_has_stopped_reading_is_cut() -> None:
    world = World(write_timeout_s=10, ping_interval_s=0)
    client, job = opened(world)
    client.stop_taking()
    job.send("x" * 64 * KIB)
    world.advance(1.0)
    world.advance(9.9)
    assert not client.lost
    world.advance(0.2)
    assert client.aborted
    assert disconnects(job) == [(1006, "")]
    world.assert_empty()


ORIGINS = ("https://www.example.com", "http://localhost:8080")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ((), 101),
        ((b"Origin: https://www.example.com",), 101),
        ((b"Origin: http://localhost:8080",), 101),
        ((b"Origin: https://evil.example",), 403),
        ((b"Origin: https://www.example.com.evil.example",), 403),
        ((b"Origin: http://www.example.com",), 403),
        ((b"Origin: https://www.example.com:444",), 403),
        ((b"Origin: null",), 403),
        ((b"Origin:",), 403),
        ((b"Origin: https://www.example.com", b"Origin: https://evil.example"), 403),
        ((b"Origin: \xff",), 403),
    ],
)
def test_whose_pages_may_open_websockets(fields: tuple[bytes, ...], status: int) -> None:
    """RFC 6455 4.2.2, 10.2"""
    world = World(allowed_origins=ORIGINS)
    client = world.client(handshake(*fields))
    if status == 101:
        world.worker.job(channels.WEBSOCKET_CONNECT).accept()
    assert client.received().startswith(b"HTTP/1.1 %d " % status)
    assert world.waiting(channels.WEBSOCKET_CONNECT) == 0
    client.leave()
    world.assert_empty()


def test_by_default_all_pages_may() -> None:
    opened(World(), handshake(b"Origin: https://evil.example"))


def test_what_compression_hides_counts() -> None:
    world = World(max_websocket_message_bytes=1000)
    client, job = opened(world, handshake(b"Sec-WebSocket-Extensions: permessage-deflate"))
    client.send(frame(TEXT, deflate(b"x" * 100_000), rsv=4))
    job.release()
    assert closes(client.received())[0][0] == 1009
    assert of(m.WebSocketReceive, job.heard()) == []


# Turns: what one client sends keeps nobody else waiting.


def floods() -> list[Any]:
    empty = frame(CONTINUATION, b"", fin=False) * 10_000
    return [
        pytest.param(frame(PING, b"p") * 10_000, id="pings"),
        pytest.param(frame(TEXT, b"", fin=False) + empty + frame(CONTINUATION, b"a"), id="empty fragments"),
        pytest.param(b"".join(frame(TEXT, b"%d" % number) for number in range(1000)), id="short messages"),
    ]


@pytest.mark.parametrize("flood", floods())
def test_what_one_client_sends_is_parsed_in_many_turns(flood: bytes) -> None:
    world = World()
    client, job = opened(world)
    [websocket] = world.server.connections
    steps = 0
    step = websocket.processData  # type: ignore[union-attr]

    def counted() -> Any:
        nonlocal steps
        steps += 1
        return step()

    websocket.processData = counted  # type: ignore[union-attr,method-assign]
    client.send(flood + frame(TEXT, b"last"))
    turns = 0
    while websocket.will_go_on:  # type: ignore[union-attr]
        assert 0 < steps <= 256
        assert not client.reading
        steps = 0
        # One call only: `Clock.advance` would make those as well that this one asks for.
        call: Any = world.clock.calls.pop(0)
        call.called = 1
        call.func(*call.args)
        turns += 1
    assert turns >= 5
    assert client.reading
    received = of(m.WebSocketReceive, job.heard())
    if len(received) > 2:
        assert [each.text for each in received[:-1]] == [str(number) for number in range(1000)]
    assert received[-1].text == "last"
    pongs = frames(client.received())
    assert pongs == [Frame(PONG, b"p")] * (10_000 if flood.startswith(frame(PING, b"p")) else 0)


def test_what_was_read_is_inflated_only_as_the_worker_takes_it() -> None:
    """Two hundred MB in two hundred KB, which are read at once."""
    world = World()
    client, job = opened(world, handshake(b"Sec-WebSocket-Extensions: permessage-deflate"))
    sent = b"".join(frame(BINARY, deflate(bytes([number]) * 1_000_000), rsv=4) for number in range(200))
    assert len(sent) < 300_000
    tracemalloc.start()
    try:
        client.send(sent)
        world.settle()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
    received: list[bytes] = []
    while len(received) < 200:
        assert not client.reading
        more = [each.data for each in of(m.WebSocketReceive, job.heard())]
        assert 0 < len(more) <= 2
        received += more
        job.window(sum(units(len(each)) for each in received))
    assert [each[:1] for each in received] == [bytes([number]) for number in range(200)]
    assert {len(each) for each in received} == {1_000_000}
    world.settle()
    assert client.reading


@pytest.mark.parametrize("compressed", [True, False])
def test_a_loss_is_told_behind_what_was_read_before_it(compressed: bool) -> None:
    world = World()
    client, job = opened(world, handshake(b"Sec-WebSocket-Extensions: permessage-deflate") if compressed else HANDSHAKE)
    data = b"".join(
        frame(TEXT, deflate(b"%d" % i), rsv=4) if compressed else frame(TEXT, b"%d" % i) for i in range(900)
    )
    client.send(data)
    client.leave()
    heard = job.heard()
    assert [each.text for each in heard[:-1]] == [str(i) for i in range(900)]
    assert (type(heard[-1]), heard[-1].code) == (m.Disconnect, 1006)
    world.assert_empty()


def test_a_loss_while_the_worker_takes_nothing_is_told_at_once() -> None:
    world = World()
    client, job = opened(world)
    client.send(frame(BINARY, bytes(60 * KIB)) * 10)
    world.settle()
    assert not client.reading
    client.leave()
    assert [each.code for each in of(m.Disconnect, job.heard())] == [1006]
    world.assert_empty()


def test_a_close_behind_a_flood_is_answered() -> None:
    world = World()
    client, job = opened(world)
    client.send(frame(PING) * 5000 + close_frame(4001))
    assert not closes(client.received())
    world.settle()
    assert closes(client.received()) == [(4001, b"")]
    assert client.lost
    assert not client.aborted
    assert disconnects(job) == [(4001, "")]
    world.assert_empty()


def test_our_close_is_answered_within_what_was_read_and_is_not_parsed() -> None:
    world = World()
    client, job = opened(world)
    client.send(frame(BINARY, bytes(60 * KIB)) * 10 + close_frame(4000))
    world.settle()
    assert not client.reading
    job.close(4000)
    world.settle()
    assert client.lost
    assert not client.aborted
    world.assert_empty()


def test_a_connection_that_we_cut_is_not_parsed_any_further() -> None:
    world = World()
    client, job = opened(world)
    client.send(frame(PING) * 5000)
    [websocket] = world.server.connections
    websocket.abort()
    world.settle()
    assert client.lost
    assert disconnects(job) == [(1006, "")]
    world.assert_empty()


def test_a_pong_that_was_read_and_is_not_parsed_is_no_silence() -> None:
    world = World(ping_interval_s=20, ping_timeout_s=30)
    client, job = opened(world)
    world.advance(20.0)
    (ping,) = frames(client.received())
    client.send(frame(BINARY, bytes(60 * KIB)) * 5 + frame(TEXT, b"held") * 400 + frame(PONG, ping.payload))
    assert not client.reading
    world.advance(200.0)
    assert not client.lost
    job.window(WINDOW * 2)
    world.settle()
    assert client.reading
    world.advance(19.0)
    assert not client.lost
    client.leave()
    world.assert_empty()


# Errors of the client.


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(TEXT, b"x" * 1001), 1009),
        (frame(TEXT, b"x" * 600, fin=False) + frame(CONTINUATION, b"x" * 600), 1009),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xc3"), 1007),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (frame(TEXT, b"a", mask=b""), 1002),
        (frame(3, b"a"), 1002),
        (frame(TEXT, b"a", rsv=1), 1002),
        (frame(CONTINUATION, b"a"), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(PING, b"x", fin=False), 1002),
        (frame(CLOSE, b"x"), 1002),
        (close_frame(999), 1002),
        (close_frame(1005), 1002),
        (close_frame(1006), 1002),
        (close_frame(2999), 1002),
        (close_frame(5000), 1002),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("worker", ["ends", "closes", "goes on"])
def test_what_is_wrong_is_told_to_both_sides(bad: bytes, code: int, worker: str, answers: bool) -> None:
    world = World(max_websocket_message_bytes=1000)
    client, job = opened(world)
    client.send(frame(TEXT, b"good"))
    client.send(bad)
    client.send(frame(TEXT, b"later") + frame(PING, b"late"))
    received = client.received()
    if not closes(received):
        # An end in order of what was sent before (RFC 6455 7.1.7).
        assert received == b""
        job.send("answer")
        if worker == "ends":
            job.release()
        elif worker == "closes":
            job.close(4000)
        else:
            world.advance(0.9)
            job.send("and another")
            world.advance(0.2)
            job.send("which comes too late")
        received = client.received()
        answered = [each.payload for each in frames(received) if each.opcode == TEXT]
        assert answered == [b"answer", *([b"and another"] if worker == "goes on" else [])]
    assert [each[0] for each in closes(received)] == [code]
    client.send(frame(TEXT, b"later"))
    if answers:
        client.send(close_frame(code))
    world.advance(5.1)
    assert client.lost
    heard = job.heard()
    assert [each.text for each in of(m.WebSocketReceive, heard)] == ["good"]
    assert [each.code for each in of(m.Disconnect, heard)] == [code]
    world.assert_empty()


# Closing.


@pytest.mark.parametrize(
    ("code", "reason", "told"),
    [
        (1000, "", 1000),
        (1001, "bye ä", 1001),
        (1011, "", 1011),
        (1012, "", 1012),
        (3000, "x", 3000),
        (4999, "y" * 123, 4999),
        (None, "", 1005),
    ],
)
def test_the_client_closes(code: int | None, reason: str, told: int) -> None:
    world = World()
    client, job = opened(world)
    client.send(frame(TEXT, b"last words") + close_frame(code, reason) + frame(TEXT, b"too late"))
    (answer,) = frames(client.received())
    assert answer == Frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason.encode())
    world.settle()
    assert client.lost
    assert not client.aborted
    heard = job.heard()
    assert [each.text for each in of(m.WebSocketReceive, heard)] == ["last words"]
    assert [(each.code, each.reason) for each in of(m.Disconnect, heard)] == [(told, reason)]
    world.assert_empty()


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "r"), (1011, ""), (1013, ""), (3000, ""), (4999, "ä")])
def test_the_application_closes(code: int, reason: str) -> None:
    world = World()
    client, job = opened(world)
    job.send("last words")
    job.close(code, reason)
    words, close = frames(client.received())
    assert words.payload == b"last words"
    assert close == Frame(CLOSE, code.to_bytes(2, "big") + reason.encode())
    world.settle()
    assert not client.lost
    client.send(frame(TEXT, b"crossed") + close_frame(code))
    world.settle()
    assert client.lost
    assert not client.aborted
    assert of(m.WebSocketReceive, job.heard()) == []
    world.assert_empty()


def test_a_client_that_does_not_answer_a_close_is_cut() -> None:
    world = World(close_timeout_s=5)
    client, job = opened(world)
    job.close()
    world.advance(4.9)
    assert not client.lost
    world.advance(0.2)
    assert client.aborted
    assert client.lost
    world.assert_empty()


def test_a_client_that_closes_and_takes_nothing_is_cut() -> None:
    world = World(close_timeout_s=5)
    client, job = opened(world)
    client.stop_taking()
    client.send(close_frame(1000))
    world.advance(4.9)
    assert not client.lost
    world.advance(0.2)
    assert client.aborted
    assert disconnects(job) == [(1000, "")]
    world.assert_empty()


def test_frames_reach_the_websocket_over_the_transports_of_the_loop() -> None:
    world = World()
    loop_transport = FakeLoopTransport()
    transport = LoopTransport(world.server)
    transport.connection_made(loop_transport)  # type: ignore[arg-type]
    transport.data_received(HANDSHAKE)
    job = world.worker.job(channels.WEBSOCKET_CONNECT)
    job.accept()
    transport.data_received(frame(TEXT, b"a"))
    assert of(m.WebSocketReceive, job.heard())[0].text == "a"
    job.send("b")
    assert loop_transport.written.endswith(b"\r\n\r\n\x81\x01b")
    transport.connection_lost(None)
    assert disconnects(job) == [(1006, "")]
    world.assert_empty()


@pytest.mark.parametrize(("code", "reason"), [(999, ""), (1005, ""), (1006, ""), (70_000, ""), (1000, "x" * 124)])
def test_a_close_that_cannot_be_sent_is_1011(code: int, reason: str) -> None:
    world = World()
    client, job = opened(world)
    job.close(code, reason)
    assert closes(client.received()) == [(1011, b"")]


@pytest.mark.parametrize(("reason", "code"), [("died", 1012), ("stopped", 1012), ("raised", 1011)])
def test_a_lost_worker_closes(reason: str, code: int) -> None:
    world = World()
    client, job = opened(world)
    client.send(frame(TEXT, b"a"))
    job.heard()
    job.release(reason)
    assert closes(client.received()) == [(code, b"")]
    client.send(close_frame(code))
    assert job.heard() == []
    world.settle()
    assert client.lost
    world.assert_empty()


@pytest.mark.parametrize("what", ["gap", "accept", "start"])
def test_a_bad_reply_closes_with_1011(what: str) -> None:
    world = World()
    client, job = opened(world)
    if what == "gap":
        job.seq += 1
        job.send("b")
    elif what == "accept":
        job.accept()
    else:
        job.respond()
    assert closes(client.received()) == [(1011, b"")]
    assert [each.reason for each in of(m.Release, job.heard())] == ["broken"]
    client.send(close_frame(1011))
    world.assert_empty()


def test_the_limit_on_messages_is_for_clients_and_not_for_the_application() -> None:
    world = World(max_websocket_message_bytes=1000)
    client, job = opened(world)
    job.send("ä" * 501)
    job.send(data=bytes(3_000_000))
    assert frames(client.received()) == [Frame(TEXT, "ä".encode() * 501), Frame(BINARY, bytes(3_000_000))]
    client.send(frame(TEXT, b"x" * 1001))
    job.release()
    assert [each[0] for each in closes(client.received())] == [1009]


def test_a_client_that_vanishes_is_1006() -> None:
    world = World()
    client, job = opened(world)
    client.leave()
    assert disconnects(job) == [(1006, "")]
    job.send("a")
    assert [each.reason for each in of(m.Release, job.heard())] == ["gone"]
    world.assert_empty()


def test_the_longest_life() -> None:
    world = World(websocket_timeout_s=100, ping_interval_s=0)
    client, job = opened(world)
    world.advance(99.9)
    assert client.received() == b""
    world.advance(0.2)
    assert closes(client.received()) == [(1001, b"")]
    client.send(close_frame(1001))
    assert disconnects(job) == [(1001, "")]
    world.assert_empty()


# Pings of ours.


def test_a_silent_client_is_pinged_and_dropped() -> None:
    world = World(ping_interval_s=20, ping_timeout_s=30)
    client, job = opened(world)
    world.advance(20.0)
    (ping,) = frames(client.received())
    assert ping.opcode == PING
    client.send(frame(PONG, ping.payload))
    world.advance(19.9)
    assert client.received() == b""
    world.advance(0.2)
    assert [each.opcode for each in frames(client.received())] == [PING]
    world.advance(29.8)
    assert not client.lost
    world.advance(0.2)
    assert client.aborted
    assert disconnects(job) == [(1006, "")]
    world.assert_empty()


def test_any_message_stands_for_a_pong() -> None:
    world = World(ping_interval_s=20, ping_timeout_s=30)
    client, _ = opened(world)
    for _ in range(5):
        world.advance(20.0)
        client.send(frame(TEXT, b"a"))
        world.advance(20.0)
    assert not client.lost


def test_a_client_that_we_do_not_read_is_not_dropped_for_its_silence() -> None:
    world = World(ping_interval_s=20, ping_timeout_s=30)
    client, job = opened(world)
    while client.reading:
        client.send(frame(BINARY, b"x" * 60 * KIB))
    world.advance(20.0)
    (ping,) = frames(client.received())
    client.send(frame(PONG, ping.payload))
    assert client.unread() > 0
    world.advance(200.0)
    assert not client.lost
    job.window(WINDOW * 2)
    assert client.reading
    world.advance(29.0)
    assert not client.lost
    client.leave()
    world.assert_empty()


def test_pings_can_be_switched_off() -> None:
    world = World(ping_interval_s=0)
    client, _ = opened(world)
    world.advance(1000.0)
    assert client.received() == b""


# Windows.


def test_windows_tell_what_the_client_has_taken() -> None:
    world = World()
    client, job = opened(world)
    job.send("x" * 60_000)
    assert of(m.Window, job.heard()) == []
    job.send(data=b"x" * 10_000)
    assert of(m.Window, job.heard()) == [m.Window(job.stream, 0, WORKER, units(60_000) + units(10_000))]
    client.stop_taking()
    for _ in range(4):
        job.send(data=b"x" * 64 * KIB)
    assert of(m.Window, job.heard()) == []
    client.take_again()
    assert of(m.Window, job.heard())[-1].consumed == units(60_000) + units(10_000) + 4 * units(64 * KIB)


def test_a_flood_of_empty_messages_is_bounded_too() -> None:
    world = World()
    client, job = opened(world)
    sent = 0
    while client.reading and sent < 10_000:
        client.send(frame(TEXT))
        sent += 1
    world.settle()
    received = len(of(m.WebSocketReceive, job.heard()))
    assert received == WINDOW // 256
    assert sent - received == 256
    job.window(units(0) * received)
    assert len(of(m.WebSocketReceive, job.heard())) == 256
    assert client.reading


def test_what_was_held_is_handed_over_when_the_client_leaves() -> None:
    world = World()
    client, job = opened(world)
    while client.reading:
        client.send(frame(BINARY, b"x" * 30 * KIB))
    before = len(of(m.WebSocketReceive, job.heard()))
    client.leave()
    heard = job.heard()
    assert of(m.WebSocketReceive, heard)
    assert type(heard[-1]) is m.Disconnect
    assert heard[-1].seq == before + len(heard) - 1
    world.assert_empty()


def test_our_close_is_answered_though_the_client_was_not_read() -> None:
    world = World()
    client, job = opened(world)
    while client.reading:
        client.send(frame(BINARY, b"x" * 30 * KIB))
    client.send(close_frame(1000))
    assert client.unread()
    job.close(4000)
    world.settle()
    assert client.lost
    assert not client.aborted
    world.assert_empty()


# The end of the server.


def test_a_server_that_ends_closes_with_1001() -> None:
    world = World()
    client, job = opened(world)
    while client.reading:
        client.send(frame(BINARY, b"x" * 30 * KIB))
    handshaking, late = offer(world)
    done = world.drain()
    assert closes(client.received()) == [(1001, b"")]
    client.send(close_frame(1001))
    assert disconnects(job) == [(1001, "")]
    assert done == []
    late.accept()
    assert closes(handshaking.received().partition(b"\r\n\r\n")[2]) == [(1001, b"")]
    handshaking.send(close_frame(1001))
    world.settle()
    assert done == [None]
    world.assert_empty()


def test_what_does_not_end_in_time_is_cut() -> None:
    world = World(drain_timeout_s=3, close_timeout_s=60)
    client, job = opened(world)
    done = world.drain()
    world.advance(3.1)
    assert client.aborted
    assert done == [None]
    assert disconnects(job) == [(1006, "")]
    world.assert_empty()


def test_the_claim_may_come_late() -> None:
    world = World()
    client, job = opened(world)
    job.tell(m.Claim, SUPERVISOR)
    job.window(0)
    job.send("a")
    assert frames(client.received()) == [Frame(TEXT, b"a")]


def test_a_client_that_was_never_answered_leaves_nothing_behind() -> None:
    pieces: Any = [HANDSHAKE, GET + HANDSHAKE, HANDSHAKE + b"x" * 100_000]
    for piece in pieces:
        world = World()
        client = world.client(piece)
        client.leave()
        world.assert_empty()


def test_a_bad_word_of_the_next_worker_leaves_it_to_another(caplog: pytest.LogCaptureFixture) -> None:
    world = World(resumable_paths=("/chat",), close_timeout_s=60.0)
    client, job = offer(world)
    job.accept()
    client.received()
    job.release("died")
    world.settle()
    following = world.worker.job(channels.WEBSOCKET_RESUME)
    following.claim()
    following.send("hello")  # it has not accepted
    world.advance(1.0)
    another = world.worker.job(channels.WEBSOCKET_RESUME)
    another.accept()
    another.send("hello")
    assert [each.opcode for each in frames(client.received())] == [TEXT]
    assert "defect" not in caplog.text
    client.leave()
    world.assert_empty()


def test_the_last_words_of_a_client_without_a_worker_reach_the_next(caplog: pytest.LogCaptureFixture) -> None:
    world = World(resumable_paths=("/chat",))
    client, _ = leave_with_last_words(world)
    assert client.lost
    [exchange] = world.server.exchanges.registry.values()
    assert unsent_bytes(exchange) == 0
    following = world.worker.job(channels.WEBSOCKET_RESUME)
    following.claim()
    following.accept()
    received, disconnect = following.heard()
    assert (received.text, disconnect.code) == ("save this", 1000)
    assert caplog.messages == []
    world.assert_empty()


def test_where_there_is_none_in_time_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    world = World(resumable_paths=("/chat",), resume_timeout_s=30.0)
    _, job = leave_with_last_words(world)
    world.advance(30.0)
    told = "1 messages of a client that has left are lost: no worker has accepted it in time"
    assert caplog.messages[-1] == f"!east.{job.stream}: {told}"
    assert world.worker.jobs(channels.WEBSOCKET_RESUME) == []
    world.assert_empty()
