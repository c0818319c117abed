"""What clients send: any split of the same bytes gives the same requests, and what is wrong is refused."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifserver import channels
from ifserver import messages as m
from ifserver.config.settings import FrontSettings
from ifserver.front.http1.parser import RequestParser
from ifserver.front.http1.shared import SILENCE_S
from ifserver.front.incoming_request import Incoming
from tests.front.fakes import GET, FakeTransport, Job, World, of, split_response

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Seen(NamedTuple):
    """A request as the application would see it."""

    method: str
    path: str
    raw_path: bytes
    query_string: bytes
    http_version: str
    headers: list[tuple[bytes, bytes]]
    body: bytes


def serve(world: World, client: FakeTransport, jobs: dict[str, Job], seen: dict[str, Any]) -> None:
    """Take what waits, and echo every body that is complete."""
    while True:
        for job in world.worker.jobs():
            jobs[job.stream] = job
            request = job.request
            seen[job.stream] = [request, request.body, request.more_body]
            job.claim()
        moved = False
        for stream, job in list(jobs.items()):
            state = seen[stream]
            for piece in of(m.RequestBody, job.heard()):
                state[1] += piece.body
                state[2] = piece.more_body
                moved = True
            if not state[2]:
                del jobs[stream]
                # In two pieces, so that it is chunked.
                job.respond(200, [(b"x-path", state[0].raw_path)], state[1], more_body=True)
                job.body(b"!", more_body=False)
                moved = True
        world.settle()
        if not moved and not world.waiting():
            return


def exchange(pieces: list[bytes]) -> tuple[list[Seen], bytes, bool]:
    """Requests, all that the client got, and whether the connection was closed."""
    world = World()
    client = world.client()
    jobs: dict[str, Job] = {}
    seen: dict[str, Any] = {}
    got = b""
    for piece in pieces:
        client.send(piece)
        serve(world, client, jobs, seen)
        got += client.received()
    requests = [
        Seen(r.method, r.path, r.raw_path, r.query_string, r.http_version, r.headers, body)
        for r, body, _ in seen.values()
    ]
    lost = client.lost
    client.leave()
    world.assert_empty()
    return requests, got.replace(CONTINUE, b""), lost


targets = st.sampled_from(
    [b"/", b"/a/b?c=d", b"/%C3%A4%2F?%41=%20", b"http://A.example:80/x?y", b"/long" + b"x" * 300, b"//a//b?"]
)
fields = st.lists(
    st.sampled_from(
        [b"X-One: 1", b"Cookie: a=b", b"Cookie: c=d", b"X-Empty:", b"X-Obs: \xe4 \t ", b"accept:*/*", b"X-One: 2"]
    ),
    max_size=5,
)


@st.composite
def one_request(draw: st.DrawFn) -> bytes:
    method = draw(st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS"]))
    lines = [method + b" " + draw(targets) + b" HTTP/1.1", b"Host: a.example", *draw(fields)]
    body = draw(st.binary(max_size=60))
    framing = draw(st.sampled_from(["none", "length", "chunked", "upgrade"])) if method in (b"POST", b"PUT") else "none"
    if framing == "none":
        return b"\r\n".join(lines) + b"\r\n\r\n"
    if draw(st.booleans()):
        lines.append(b"Expect: 100-continue")
    if framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        at = draw(st.integers(0, len(body)))
        extension = draw(st.sampled_from([b"", b";ext=1", b' ; a = "\\";\xe4" ; b']))
        chunks = [b"%x%b\r\n%b\r\n" % (len(each), extension, each) for each in (body[:at], body[at:]) if each]
        trailer = draw(st.sampled_from([b"", b"X-Trailer: 1\r\nHost: evil\r\n", b"Connection: close\r\n"]))
        body = b"".join(chunks) + b"0\r\n" + trailer + b"\r\n"
    else:
        lines.append(b"Content-Length: %d" % len(body))
    if framing == "upgrade":
        lines += [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@st.composite
def split(draw: st.DrawFn, data: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


@settings(max_examples=120, deadline=None)
@given(st.data(), st.lists(one_request(), min_size=1, max_size=4), st.sampled_from([b"", b"nonsense\r\n\r\n"]))
def test_any_split_gives_the_same(data: st.DataObject, requests: list[bytes], end: bytes) -> None:
    stream = b"".join(requests) + end
    whole = exchange([stream])
    assert len(whole[0]) == len(requests)
    assert whole[2] is bool(end)
    assert exchange(data.draw(split(stream))) == whole
    # and one by one: pipelining changes nothing
    assert exchange([*requests, end] if end else requests) == whole


def test_byte_by_byte() -> None:
    stream = (
        b"POST /%41?q HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    requests, got, lost = exchange([stream[i : i + 1] for i in range(len(stream))])
    assert [(each.method, each.path, each.raw_path, each.body) for each in requests] == [
        ("POST", "/A", b"/%41", b"abc"),
        ("HEAD", "/", b"/", b""),
    ]
    assert lost
    assert got.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert b"3\r\nabc\r\n1\r\n!\r\n0\r\n\r\n" in got
    assert got.endswith(b"connection: close\r\n\r\n")


def head_of(request: bytes, **options: Any) -> Any:
    world = World(**options)
    client = world.client(request)
    request_ = world.worker.job().request
    client.leave()
    return request_


def test_headers_keep_their_order_and_doubles_and_lose_white_space() -> None:
    request = head_of(b"GET / HTTP/1.1\r\nHOST: a\r\nX-B: 1 \t\r\nX-A: \t2\r\nX-b: 3\r\n\r\n")
    assert request.headers == [(b"host", b"a"), (b"x-b", b"1"), (b"x-a", b"2"), (b"x-b", b"3")]


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"http://b.example/x", b"b.example"),
        (b"HTTP://B.example/x", b"b.EXAMPLE"),
        (b"http://b.example:80/x", b"b.example"),
        (b"http://b.example/x", b"b.example:80"),
        (b"http://b.example:/x", b"b.example"),
        (b"https://b.example/x", b"b.example:443"),
        (b"http://b.example:81/x", b"b.example:81"),
        (b"http://[::1]:80/x", b"[::1]"),
    ],
)
def test_an_absolute_target_that_agrees_with_host_changes_nothing(target: bytes, host: bytes) -> None:
    request = head_of(b"GET " + target + b" HTTP/1.1\r\nX: 1\r\nHost: " + host + b"\r\n\r\n")
    assert request.headers == [(b"x", b"1"), (b"host", host)]
    assert (request.path, request.raw_path) == ("/x", b"/x")


def test_an_absolute_target_gives_a_host_where_there_is_none() -> None:
    request = head_of(b"GET http://b.example:81/x HTTP/1.0\r\nX: 1\r\n\r\n")
    assert request.headers == [(b"host", b"b.example:81"), (b"x", b"1")]


def test_options_of_the_server_as_a_whole() -> None:
    assert head_of(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").path == "*"


def test_trailers_do_not_pass_for_headers() -> None:
    request = head_of(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nHost: evil\r\nX: 1\r\n\r\n"
    )
    assert request.body == b"x"
    assert request.headers == [(b"host", b"a"), (b"transfer-encoding", b"chunked")]


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("field", "body"),
    [
        (b"Content-Length: %d" % len(SMUGGLED), SMUGGLED),
        (b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_the_body_of_a_request_that_offers_another_protocol_is_no_request(field: bytes, body: bytes, size: int) -> None:
    """As Java's client does with every request; llhttp takes the body for the other protocol's bytes."""
    complete: list[Incoming] = []
    parser = RequestParser(FrontSettings(), complete.append)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + field
    data = head + b"\r\n\r\n" + body + GET
    for start in range(0, len(data), size):
        parser.feed(data[start : start + size])
    assert parser.refusal is None
    assert [(each.method, each.path, each.take_body()) for each in complete] == [
        ("POST", "/", SMUGGLED),
        ("GET", "/", b""),
    ]
    assert [each.keep_alive for each in complete] == [True, True]


REFUSED = [
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    (b"GET http://user@b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc", 400),
    (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 3\r\n\r\n", 417),
    (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    (b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    (b"GET /\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"GET /" + b"x" * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 11 + b"\r\n", 431),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5001\r\n\r\n", 413),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1389\r\n" + b"x" * 5001 + b"\r\n0\r\n\r\n", 413),
    (b"\x16\x03\x01\x02\x00", 400),
]


@pytest.mark.parametrize(("request_", "status"), REFUSED, ids=lambda value: str(value)[:60])
def test_a_bad_request_is_refused_behind_those_before_it(request_: bytes, status: int) -> None:
    world = World(max_header_bytes=1000, max_headers=10, max_body_bytes=5000)
    client = world.client(GET, GET, request_, GET)
    job = world.worker.job()
    assert client.received() == b""
    job.respond(body=b"one")
    world.worker.job().respond(body=b"two")
    world.settle()
    status_line, _, rest = split_response(client.received())
    assert status_line == b"HTTP/1.1 200 OK"
    status_line, _, rest = split_response(rest.removeprefix(b"one"))
    assert status_line == b"HTTP/1.1 200 OK"
    status_line, headers, rest = split_response(rest.removeprefix(b"two"))
    assert status_line.startswith(b"HTTP/1.1 %d " % status)
    assert headers[b"connection"] == b"close"
    assert len(rest) == int(headers[b"content-length"])
    world.advance(SILENCE_S)
    assert client.lost
    assert world.counters.value("requests_refused", str(status)) == 1
    assert not world.worker.jobs()
    world.assert_empty()


@pytest.mark.parametrize(("request_", "status"), REFUSED, ids=lambda value: str(value)[:60])
def test_it_is_refused_alone_and_byte_by_byte_as_well(request_: bytes, status: int) -> None:
    world = World(max_header_bytes=1000, max_headers=10, max_body_bytes=5000)
    client = world.client()
    jobs: list[Job] = []
    for i in range(len(request_)):
        client.send(request_[i : i + 1])
        for job in world.worker.jobs():
            jobs.append(job)
            job.claim()
        if i % 100 == 0:
            world.settle()
            for job in jobs:
                job.window(1_000_000)
    assert client.received().startswith(b"HTTP/1.1 %d " % status)
    assert all(job.request.more_body for job in jobs)
    client.leave()
    world.assert_empty()


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 200])
def test_a_head_may_have_so_many_bytes_and_fields_however_it_comes(padding: int, in_pieces: bool) -> None:
    def answered(fields: int, size: int) -> bool:
        world = World(max_header_bytes=300, max_headers=4)
        lines = [b"Host: a", *[b"X:"] * (fields - 2), b"Y:" + b" " * padding]
        head = b"GET / HTTP/1.1\r\n" + b"\r\n".join(lines)
        head = head.ljust(size - 4, b"y") + b"\r\n\r\n"
        client = world.client(*([head[i : i + 7] for i in range(0, len(head), 7)] if in_pieces else [head]))
        if world.worker.jobs():
            return True
        assert client.received().startswith(b"HTTP/1.1 431 ")
        return False

    assert answered(4, 300)
    assert not answered(4, 301)
    assert not answered(5, 250)


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close, upgrade\r\nUpgrade: h2c\r\n",
    ],
)
def test_another_protocol_is_declined_also_where_the_connection_ends(head: bytes) -> None:
    world = World()
    client = world.client(head + b"Content-Length: 5\r\n\r\nhel")
    client.send(b"lo")
    job = world.worker.job()
    assert job.request.body == b"hello"
    job.respond(body=b"answer")
    status_line, headers, rest = split_response(client.received())
    assert (status_line, headers[b"connection"], rest) == (b"HTTP/1.1 200 OK", b"close", b"answer")
    world.settle()
    assert client.lost
    world.assert_empty()


def test_a_large_head_does_not_count_for_the_one_behind_it() -> None:
    world = World(max_header_bytes=1000)
    client = world.client(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 900 + b"\r\n\r\n")
    world.worker.job().respond()
    client.received()
    for piece in (b"GET / HT", b"TP/1.1\r\nHost: a\r\n", b"X: " + b"x" * 500, b"\r\n", b"\r\n"):
        client.send(piece)
    assert client.received() == b""
    world.worker.job().respond()
    assert client.received().startswith(b"HTTP/1.1 200 OK")


def test_a_head_without_an_end_is_refused_before_it_fills_the_memory() -> None:
    world = World(max_header_bytes=1000)
    client = world.client(b"GET / HTTP/1.1\r\nX: ")
    sent = 0
    while not client.lost and sent < 10_000:
        client.send(b"x" * 100)
        world.settle()
        sent += 100
    assert client.received().startswith(b"HTTP/1.1 431 ")
    assert sent <= 1100


@pytest.mark.parametrize(("endless", "status"), [(b"0\r\nX-Trailer: ", b"431"), (b"1;ext=", b"400")])
def test_what_stands_around_chunks_is_bounded(endless: bytes, status: bytes) -> None:
    world = World(max_header_bytes=1000)
    client = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", endless)
    sent = 0
    while not client.lost and sent < 10_000:
        client.send(b"x" * 100)
        world.settle()
        sent += 100
    assert client.received().startswith(b"HTTP/1.1 " + status)
    assert sent <= 1100


def test_a_body_in_chunks_of_one_byte_is_no_reason_to_complain() -> None:
    world = World(max_header_bytes=300)
    client = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(1000):
        client.send(b"1\r\nx\r\n")
    client.send(b"0\r\n\r\n")
    job = world.worker.job()
    job.claim()
    assert len(job.request.body) + sum(len(each.body) for each in of(m.RequestBody, job.heard())) <= 1000
    assert not client.lost


def test_a_large_body_does_not_count_for_the_head_behind_it() -> None:
    world = World(max_header_bytes=1000)
    body = b"x" * 200_000
    client = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body + b"GET / HT")
    client.send(b"TP/1.1\r\nHost: a\r\n\r\n")
    assert len(world.worker.job().request.body) == len(body)
    assert client.received() == b""


def test_a_defect_of_ours_is_answered_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken(incoming: Incoming) -> None:
        raise ZeroDivisionError

    parser = RequestParser(FrontSettings(), broken)
    parser.feed(GET)
    assert parser.refusal is not None
    assert parser.refusal.status == 500
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("size", [1, 10, 100])
def test_a_websocket_handshake_ends_parsing(size: int) -> None:
    complete: list[Incoming] = []
    parser = RequestParser(FrontSettings(), complete.append)
    data = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nFRAMES"
    while data and parser.early is None:
        parser.feed(data[:size])
        data = data[size:]
    assert parser.early is not None
    assert parser.early + data == b"FRAMES"
    assert [each.upgrade for each in complete] == [True]


def test_requests_go_to_the_channel_of_requests() -> None:
    world = World()
    world.client(GET)
    assert world.waiting(channels.HTTP_REQUEST) == 1
    assert world.waiting(channels.WEBSOCKET_CONNECT) == 0


UPLOAD = b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"


@pytest.mark.parametrize("pipeline", [[UPLOAD] * 200, [*[GET] * 65, UPLOAD, GET], [*[UPLOAD, GET] * 100]])
def test_a_pipeline_may_be_long(pipeline: list[bytes]) -> None:
    complete: list[Incoming] = []
    parser = RequestParser(FrontSettings(), complete.append)
    parser.feed(b"".join(pipeline))
    assert parser.refusal is None
    assert [each.take_body() for each in complete] == [b"abc" if each is UPLOAD else b"" for each in pipeline]


@pytest.mark.parametrize("pieces", [[UPLOAD * 34], [UPLOAD[:-2], UPLOAD[-2:] + UPLOAD * 33]])
def test_a_pipeline_of_bodies_in_chunks_is_answered(pieces: list[bytes]) -> None:
    requests, got, lost = exchange(pieces)
    assert [each.body for each in requests] == [b"abc"] * 34
    assert got.count(b"HTTP/1.1 200 OK\r\n") == 34
    assert not lost


def test_a_body_of_empty_lines_hides_no_request() -> None:
    """Nothing of a body is looked at as if it were a head, and what is behind it is, in the same bytes too."""
    body = b"\r\n\r\n" * 1000
    upload = UPLOAD.replace(b"3\r\nabc", b"%x\r\n%b" % (len(body), body))
    complete: list[Incoming] = []
    parser = RequestParser(FrontSettings(), complete.append)
    parser.feed(upload + GET + upload + b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
    assert [each.take_body() for each in complete] == [body, b"", body]
    assert parser.refusal is not None
    assert parser.refusal.status == 400


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_empty_lines_before_each_request_are_ignored_and_do_not_add_up(size: int) -> None:
    complete: list[Incoming] = []
    parser = RequestParser(FrontSettings(), complete.append)
    data = (b"\r\n" + GET + b"\r\n\r\n\r\n" + UPLOAD) * 10
    for start in range(0, len(data), size):
        parser.feed(data[start : start + size])
    assert parser.refusal is None
    assert len(complete) == 20
    for _ in range(4):
        parser.feed(b"\r\n")
    parser.feed(GET)
    assert len(complete) == 21
    for _ in range(4):
        parser.feed(b"\r\n")
    assert parser.refusal is None
    parser.feed(b"\r\n")
    assert parser.refusal is not None
    assert parser.refusal.status == 400


def test_a_cr_within_a_request_line_is_refused_when_it_ends_a_piece() -> None:
    """Two parsers that disagree on where the line ends are a hole (RFC 9112 2.2)."""
    client = World().client(b"GET /a\r", b"b HTTP/1.1")
    assert client.received().startswith(b"HTTP/1.1 400 ")


def test_many_empty_lines_are_refused_at_once() -> None:
    world = World()
    client = world.client(b"\r\n" * 1_000_000)
    assert client.received().startswith(b"HTTP/1.1 400 ")
    world.settle()
    assert client.lost
    world.assert_empty()


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
        (b"1.0", b"Connection: Keep-Alive , Foo\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
        (b"1.0", b"Connection: close, keep-alive\r\n", False),
        (b"1.0", b"Connection: keep-alive\r\nX: y\r\nConnection: Foo,\tCLOSE\r\n", False),
        (b"1.0", b"Connection: Close\r\nConnection: keep-alive\r\n", False),
        (b"1.1", b"", True),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.1", b"Connection: foo\r\n", True),
        (b"1.1", b"Connection: keep-alive, close\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\nConnection: CLOSE\r\n", False),
    ],
)
def test_close_wins_wherever_it_stands(version: bytes, connection: bytes, kept: bool) -> None:
    """RFC 9112 9.3."""
    world = World()
    client = world.client(b"GET / HTTP/" + version + b"\r\nHost: a\r\n" + connection + b"\r\n")
    world.worker.job().respond(body=b"x")
    _, headers, _ = split_response(client.received())
    assert headers.get(b"connection") == (b"keep-alive" if kept and version == b"1.0" else None if kept else b"close")
    world.settle()
    assert client.lost is not kept
    client.leave()
    world.assert_empty()


@pytest.mark.parametrize("half", [b"GET /", b"GET / HTTP/1.1\r\nHost: a\r\nX: "])
def test_nothing_is_left_of_half_a_head_whose_client_has_gone(half: bytes) -> None:
    """Also without a garbage collection, which may be hours away."""
    world = World()
    world.client(half).leave()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        client = world.client()
        before = tracemalloc.get_traced_memory()[0]
        for piece in (half, *[b"x" * 1000] * 60):
            client.send(piece)
        assert tracemalloc.get_traced_memory()[0] - before > 60_000
        client.leave()
        world.assert_empty()
        assert tracemalloc.get_traced_memory()[0] - before < 10_000
    finally:
        tracemalloc.stop()
        gc.enable()
