"""One HTTP/1 connection, from the socket to the channel: order, keep-alive, bodies, deadlines, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import error
from twisted.internet.address import UNIXAddress

from ifserver import messages as m
from ifserver.flow_control import WINDOW
from ifserver.front.http1.shared import SILENCE_S
from tests.front.fakes import GET, WORKER, FakeTransport, World, of, split_response

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
KIB = 1024


def post(length: int, body: bytes = b"", *fields: bytes) -> bytes:
    lines = [b"POST /up HTTP/1.1", b"Host: a", b"Content-Length: %d" % length, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


CHUNKED = b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


# Keep-alive.


@pytest.mark.parametrize(
    ("head", "kept", "says"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True, None),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", False, b"close"),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", False, b"close"),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True, b"keep-alive"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", True, None),
    ],
)
def test_who_keeps_the_connection(head: bytes, kept: bool, says: bytes | None) -> None:
    world = World()
    client = world.client(head)
    world.worker.job().respond(body=b"hello")
    world.settle()
    status, headers, body = split_response(client.received())
    assert (status, headers.get(b"connection"), body) == (b"HTTP/1.1 200 OK", says, b"hello")
    assert client.lost is not kept
    if kept:
        client.send(head)
        world.worker.job().respond(body=b"again")
        assert client.received().endswith(b"again")


def test_without_keep_alive_a_connection_serves_one_request() -> None:
    world = World(keep_alive_timeout_s=0)
    client = world.client()
    world.advance(1.0)
    assert not client.lost  # its first request is awaited all the same
    client.send(GET)
    world.worker.job().respond()
    world.settle()
    assert split_response(client.received())[1][b"connection"] == b"close"
    assert client.lost


def test_an_idle_connection_is_closed() -> None:
    world = World(keep_alive_timeout_s=10)
    client = world.client()
    world.advance(9.0)
    client.send(GET)
    world.advance(2.0)
    assert not client.lost
    world.worker.job().respond()
    world.advance(9.9)
    assert not client.lost
    world.advance(0.2)
    assert client.lost
    world.assert_empty()


def test_a_request_may_take_longer_than_an_idle_connection_is_kept() -> None:
    world = World(keep_alive_timeout_s=10)
    client = world.client(b"\r\n", GET + GET)
    world.worker.job().respond()
    job = world.worker.job()
    job.claim()
    world.advance(60.0)
    assert not client.lost
    job.respond(body=b"late")
    assert client.received().endswith(b"late")


def test_empty_lines_are_no_request_and_no_reason_to_stay() -> None:
    world = World(keep_alive_timeout_s=10)
    client = world.client(b"\r\n")
    for _ in range(4):
        world.advance(3.0)
        client.send(b"\r\n\r\n")
    world.settle()
    assert client.lost
    world.assert_empty()


# Pipelining.


def test_pipelined_requests_are_answered_one_after_the_other() -> None:
    world = World()
    requests = [b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % i for i in range(5)]
    client = world.client(b"".join(requests))
    for i in range(5):
        assert client.reading is (i == 4)
        job = world.worker.job()
        assert job.request.path == f"/{i}"
        job.respond(body=b"%d" % i)
        assert client.received().endswith(b"\r\n\r\n%d" % i)
    assert client.reading


def test_a_flood_of_pipelined_requests_is_not_parsed_before_its_time() -> None:
    world = World(max_pipelined=2)
    client = world.client(GET * 5000)
    connection = client.protocol
    most = 0
    for _ in range(5000):
        most = max(most, len(connection.waiting))
        assert not client.reading or not connection.waiting
        world.worker.job().respond()
    world.settle()
    assert client.received().count(b"200 OK") == 5000
    assert most < 1000
    assert client.reading
    client.leave()
    world.assert_empty()


def test_what_is_read_in_spite_of_the_pause_waits_as_well() -> None:
    """As under TLS, where a pause does not hold what has been decrypted."""
    world = World(max_pipelined=1)
    client = world.client(GET * 2000)
    client.protocol.dataReceived(GET[:10])
    client.protocol.dataReceived(GET[10:] + b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n")
    paths = []
    for _ in range(2002):
        job = world.worker.job()
        paths.append(job.request.path)
        job.respond()
    assert paths == ["/"] * 2001 + ["/last"]


def test_the_body_of_a_pipelined_request_is_read_when_its_turn_comes() -> None:
    world = World()
    client = world.client(GET + CHUNKED + chunk(b"abc"))
    first = world.worker.job()
    assert not client.reading
    client.send(chunk(b"def") + b"0\r\n\r\n")
    first.respond()
    second = world.worker.job()
    assert client.reading
    second.claim()
    pieces = of(m.RequestBody, second.heard())
    assert second.request.body + b"".join(each.body for each in pieces) == b"abcdef"
    assert not pieces[-1].more_body


def test_a_pipelined_request_that_breaks_while_it_waits_is_not_offered() -> None:
    world = World()
    client = world.client(GET + CHUNKED + chunk(b"abc"))
    client.protocol.dataReceived(b"nonsense\r\n")
    world.worker.job().respond(body=b"ok")
    assert not world.worker.jobs()
    assert b"HTTP/1.1 400 Bad Request" in client.received()
    world.settle()
    assert client.lost
    world.assert_empty()


# Bodies of requests.


def test_a_small_body_is_pushed_whole() -> None:
    world = World()
    client = world.client(post(6, b"abc"))
    assert world.waiting() == 0
    client.send(b"def")
    request = world.worker.job().request
    assert (request.body, request.more_body) == (b"abcdef", False)


def test_a_large_body_is_pushed_while_it_arrives_and_cut_into_pieces() -> None:
    world = World()
    body = bytes(range(256)) * 800
    client = world.client(post(len(body), body[:1000]))
    job = world.worker.job()
    assert (job.request.body, job.request.more_body) == (body[:1000], True)
    client.send(body[1000:])
    assert job.heard() == []
    job.claim()
    pieces = of(m.RequestBody, job.heard())
    assert b"".join(each.body for each in pieces) == body[1000:]
    assert max(len(each.body) for each in pieces) == 64 * KIB
    assert [each.more_body for each in pieces] == [True] * (len(pieces) - 1) + [False]
    assert [each.seq for each in pieces] == list(range(len(pieces)))
    job.respond(body=b"done")
    assert client.received().endswith(b"done")


def test_a_client_waits_while_its_body_is_unclaimed_and_while_the_window_is_shut() -> None:
    world = World()
    client = world.client(post(2_000_000))
    client.send(b"x")
    job = world.worker.job()
    while client.reading:
        client.send(b"x" * 10_000)
    held = client.protocol.response.exchange.stream.pending_units
    assert 64 * KIB <= held < 80 * KIB
    client.send(b"y" * 500_000)
    assert client.unread() == 500_000
    job.claim()
    world.settle()
    assert client.unread() == 0
    assert not client.reading  # 500,000 are more than the window
    sent = sum(len(each.body) for each in of(m.RequestBody, job.heard()))
    assert WINDOW - 128 * KIB < sent <= WINDOW + 64 * KIB
    job.window(WINDOW)
    more = sum(len(each.body) for each in of(m.RequestBody, job.heard()))
    assert more > 0
    job.window(2 * WINDOW)
    job.heard()
    assert client.reading


def test_continue_is_said_at_once_where_the_request_is_pushed_whole() -> None:
    world = World()
    client = world.client(post(3, b"", b"Expect: 100-continue"))
    assert client.received() == CONTINUE
    client.send(b"abc")
    job = world.worker.job()
    job.claim()
    job.respond()
    assert client.received().startswith(b"HTTP/1.1 200 OK")


def test_continue_is_said_at_the_claim_where_it_is_not() -> None:
    world = World()
    client = world.client(post(100_000, b"", b"Expect: 100-continue"))
    job = world.worker.job()
    assert client.received() == b""
    job.claim()
    job.claim()
    assert client.received() == CONTINUE


def test_continue_is_said_in_turn() -> None:
    world = World()
    client = world.client(GET, post(3, b"", b"Expect: 100-continue"))
    assert client.received() == b""
    world.worker.job().respond(body=b"first")
    assert client.received().endswith(b"first" + CONTINUE)


@pytest.mark.parametrize(
    "head",
    [
        post(3, b"abc", b"Expect: 100-continue"),
        post(0, b"", b"Expect: 100-continue"),
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        b"POST / HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
    ],
)
def test_continue_is_not_said_for_nothing(head: bytes) -> None:
    world = World()
    client = world.client(head)
    job = world.worker.job()
    job.claim()
    assert client.received() == b""


def test_a_client_that_was_told_to_continue_will_send_its_body() -> None:
    world = World()
    client = world.client(post(100_000, b"", b"Expect: 100-continue"))
    job = world.worker.job()
    job.claim()
    assert client.received() == CONTINUE
    job.respond(body=b"early")
    assert b"connection: close" not in client.received()
    client.send(b"x" * 60_000)
    client.send(b"x" * 40_000 + GET)
    world.worker.job().respond(body=b"next")
    assert client.received().endswith(b"next")


def test_an_answer_in_place_of_continue_ends_the_connection() -> None:
    world = World()
    client = world.client(post(100_000, b"", b"Expect: 100-continue"))
    world.worker.job().respond(403, body=b"no")
    status, headers, _ = split_response(client.received())
    assert status == b"HTTP/1.1 403 Forbidden"
    assert headers[b"connection"] == b"close"
    assert client.write_closed
    world.settle()
    assert not client.lost, "its body may be on the way, and it would be reset"
    world.advance(SILENCE_S)
    assert client.lost
    world.assert_empty()


def test_a_response_that_streams_before_the_body_has_come_asks_for_it() -> None:
    world = World()
    client = world.client(post(100_000, b"", b"Expect: 100-continue"))
    world.worker.job().respond(body=b"begin", more_body=True)
    assert client.received().startswith(CONTINUE + b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("answer", [200, 413])
def test_what_made_one_wait_is_not_the_next_ones_affair(answer: int) -> None:
    """Of the first body more has come than its window has room for, and with its end the begin of the next."""
    world = World()
    client = world.client(CHUNKED)
    first = world.worker.job()
    first.claim()
    world.settle()
    for _ in range(4):
        client.send(chunk(b"x" * 64 * KIB))
    client.send(chunk(b"y" * 70 * KIB) + b"0\r\n\r\n" + CHUNKED + chunk(b"be"))
    assert not client.reading
    first.respond(answer)
    second = world.worker.job()
    second.claim()
    world.settle()
    assert client.reading
    client.send(chunk(b"gin") + b"0\r\n\r\n")
    assert second.request.body + b"".join(each.body for each in of(m.RequestBody, second.heard())) == b"begin"
    second.respond(body=b"got it")
    assert client.received().endswith(b"got it")
    client.leave()
    world.assert_empty()


@pytest.mark.parametrize("bad", [b"nonsense\r\n", chunk(b"x" * 3000)])
@pytest.mark.parametrize("begun", [True, False])
def test_a_body_that_goes_wrong(bad: bytes, begun: bool) -> None:
    """What has been sent of a response must not look whole then."""
    world = World(max_body_bytes=2000)
    client = world.client(CHUNKED + chunk(b"abc"))
    job = world.worker.job()
    job.claim()
    if begun:
        job.respond(body=b"partly", more_body=True)
        client.received()
    client.send(bad)
    assert len(of(m.Disconnect, job.heard())) == 1
    world.advance(SILENCE_S)
    assert client.lost
    assert client.aborted is begun
    if not begun:
        assert client.received()[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 413")
    world.assert_empty()


def test_a_body_that_goes_wrong_behind_a_response_that_was_sent_is_refused_like_the_first() -> None:
    world = World()
    client = world.client(GET)
    world.worker.job().respond(body=b"first")
    client.received()
    client.send(CHUNKED + chunk(b"abc"))
    client.send(b"nonsense\r\n")
    world.settle()
    assert client.received().startswith(b"HTTP/1.1 400 ")
    assert not client.aborted


# Deadlines of what the client sends.


def test_a_slow_head_ends_with_408() -> None:
    world = World(header_timeout_s=20)
    client = world.client(b"GET / HTTP/1.1\r\n")
    for _ in range(19):
        world.advance(1.0)
        client.send(b"X: 1\r\n")
    assert client.received() == b""
    world.advance(1.0)
    assert client.received().startswith(b"HTTP/1.1 408 ")
    assert client.lost
    world.assert_empty()


def test_a_slow_head_behind_another_request_ends_with_408_in_turn() -> None:
    world = World(header_timeout_s=20)
    client = world.client(GET + b"GET /")
    job = world.worker.job()
    world.advance(21.0)
    assert client.received() == b""
    job.respond(body=b"first")
    assert b"firstHTTP/1.1 408 " in client.received()
    world.settle()
    assert client.lost


def test_time_in_which_we_do_not_read_does_not_count() -> None:
    world = World(header_timeout_s=20)
    client = world.client(GET + GET + b"GET /last HTTP/1.1\r\nHo")
    client.send(b"st: a\r\n\r\n")
    first = world.worker.job()
    world.advance(21.0)
    first.respond()
    second = world.worker.job()
    world.advance(21.0)
    second.respond()
    assert world.worker.job().request.path == "/last"
    assert not client.lost


def test_a_small_body_that_stops_ends_with_408() -> None:
    world = World(body_timeout_s=20)
    client = world.client(post(5, b"a"))
    for _ in range(3):
        world.advance(19.0)
        client.send(b"b")
    assert client.received() == b""
    world.advance(20.0)
    assert client.received().startswith(b"HTTP/1.1 408 ")
    assert client.lost
    world.assert_empty()


def test_a_large_body_that_stops_ends_with_408() -> None:
    world = World(body_timeout_s=20)
    client = world.client(post(100_000, b"a"))
    job = world.worker.job()
    job.claim()
    for _ in range(3):
        world.advance(19.0)
        client.send(b"b")
    assert client.received() == b""
    world.advance(20.0)
    assert client.received().startswith(b"HTTP/1.1 408 ")
    assert len(of(m.Disconnect, job.heard())) == 1
    assert client.lost
    world.assert_empty()


def test_a_body_that_stops_behind_the_begin_of_its_response_is_cut() -> None:
    """What has been sent must not look whole."""
    world = World(body_timeout_s=20)
    client = world.client(CHUNKED + chunk(b"abc"))
    job = world.worker.job()
    job.respond(body=b"partly", more_body=True)
    client.received()
    world.advance(20.0)
    assert client.aborted
    assert client.received() == b""
    assert len(of(m.Disconnect, job.heard())) == 1
    world.assert_empty()


def test_a_body_that_stops_while_it_waits_for_its_turn() -> None:
    world = World(body_timeout_s=20)
    client = world.client(GET, post(5, b"a"))
    first = world.worker.job()
    world.advance(21.0)
    assert client.received() == b""
    first.respond(body=b"first")
    assert b"firstHTTP/1.1 408 " in client.received()
    assert not world.worker.jobs()
    client.leave()
    world.assert_empty()


def test_a_body_that_we_do_not_read_is_not_late() -> None:
    world = World(body_timeout_s=5)
    client = world.client(post(2_000_000))
    while client.reading:
        client.send(b"x" * 10_000)
    for _ in range(22):
        world.advance(1.0)
    assert client.received() == b""
    job = world.worker.job()
    job.claim()
    for consumed in (1, 2):
        job.heard()
        job.window(consumed * WINDOW)
    job.heard()
    assert client.reading
    # From here on it is the client's turn, for the whole time.
    world.advance(4.9)
    assert client.received() == b""
    world.advance(0.2)
    assert client.received().startswith(b"HTTP/1.1 408 ")


def test_a_body_that_has_not_been_asked_for_is_not_late() -> None:
    world = World(body_timeout_s=5)
    client = world.client(post(100_000, b"", b"Expect: 100-continue"))
    job = world.worker.job()
    for _ in range(22):
        world.advance(1.0)
    assert client.received() == b""
    job.claim()
    assert client.received() == CONTINUE
    world.advance(4.9)
    assert client.received() == b""
    world.advance(0.2)
    assert client.received().startswith(b"HTTP/1.1 408 ")


def test_a_body_that_was_complete_is_never_late() -> None:
    world = World(body_timeout_s=5)
    for request in (post(3, b"abc"), CHUNKED + chunk(b"abc") + b"0\r\n\r\n", CHUNKED + b"0\r\n\r\n"):
        for size in (1, 1000):
            client = world.client(*[request[i : i + size] for i in range(0, len(request), size)])
            job = world.worker.job()
            job.claim()
            assert len(world.server.http1.bodies_due) == 0
            world.advance(20.0)
            job.respond(body=b"ok")
            assert client.received().endswith(b"ok")


def test_a_client_that_does_not_take_the_last_of_its_answer_is_cut() -> None:
    world = World(write_timeout_s=60)
    client = world.client(b"GET / HTTP/1.0\r\n\r\n")
    client.stop_taking()
    world.worker.job().respond(body=b"x" * 1000)
    world.advance(1.0)
    world.advance(59.0)
    assert not client.lost
    world.advance(1.1)
    assert client.lost
    assert client.aborted
    world.assert_empty()


# The client leaves.


def test_a_client_that_leaves_before_the_claim_takes_its_request_along() -> None:
    world = World()
    client = world.client(GET)
    assert world.waiting() == 1
    client.leave(error.ConnectionLost())
    assert world.waiting() == 0
    assert world.counters.value("messages_dropped", "withdrawn") == 1
    world.assert_empty()


def test_a_client_that_leaves_after_the_claim_is_told_of() -> None:
    world = World()
    client = world.client(GET + GET)
    job = world.worker.job()
    job.claim()
    client.leave()
    assert [(each.code, each.reason, each.seq) for each in of(m.Disconnect, job.heard())] == [(0, "", 0)]
    job.respond()
    assert of(m.Release, job.heard()) == [m.Release(job.stream, 0, WORKER, "gone")]
    assert not world.worker.jobs()
    world.assert_empty()


def test_a_client_that_leaves_in_the_middle_of_everything_leaves_nothing_behind() -> None:
    pieces = [
        b"GET /",
        GET,
        GET + GET,
        post(10, b"a"),
        post(100_000, b"x"),
        CHUNKED,
        post(9_999_999, b"", b"Expect: x"),
    ]
    for piece in pieces:
        world = World()
        client = world.client(piece)
        client.leave()
        world.assert_empty()


# Where it comes from.


def request_of(world: World, client: FakeTransport) -> Any:
    return world.worker.job().request


def test_addresses_and_scheme() -> None:
    world = World()
    request = request_of(world, world.client(GET))
    assert (request.scheme, request.client, request.server) == ("http", ("192.0.2.1", 50_000), ("192.0.2.9", 80))


def test_a_unix_socket_has_a_path_and_a_peer_without_address() -> None:
    world = World(trusted_proxies=("10.0.0.0/8",))
    client = world.connect(UNIXAddress(None), UNIXAddress(b"/run/x"), GET)
    request = request_of(world, client)
    assert (request.client, request.server) == (None, ("/run/x", None))
    client = world.connect(
        UNIXAddress(None),
        UNIXAddress(None),
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\r\n",
    )
    request = request_of(world, client)
    assert (request.client, request.server, request.scheme) == (("203.0.113.7", 0), None, "https")


def test_a_unix_socket_whose_path_is_no_utf_8() -> None:
    world = World()
    request = request_of(world, world.connect(UNIXAddress(None), UNIXAddress(b"/run/\xff"), GET))
    assert request.server == ("/run/\\xff", None)


@pytest.mark.parametrize(
    ("trusted", "client", "scheme"),
    [(("192.0.2.0/24",), ("203.0.113.7", 0), "https"), ((), ("192.0.2.1", 50_000), "http")],
)
def test_proxies_are_believed_where_they_are_trusted(trusted: Any, client: Any, scheme: str) -> None:
    world = World(trusted_proxies=trusted)
    transport = world.client(
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\r\n"
    )
    job = world.worker.job()
    assert (job.request.client, job.request.scheme) == (client, scheme)
    job.respond()
    world.settle()
    assert transport.received()
    assert world.access.lines[0][0] == client[0]


def test_root_path_stands_before_every_path() -> None:
    world = World(root_path="/app")
    request = request_of(world, world.client(b"GET /%41?q=1 HTTP/1.1\r\nHost: a\r\n\r\n"))
    assert (request.root_path, request.path, request.raw_path, request.query_string) == (
        "/app",
        "/app/A",
        b"/app/%41",
        b"q=1",
    )
