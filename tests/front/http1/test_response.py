"""What HTTP/1 clients are sent: framing, flow control, errors in the server's own name, and the access log."""

from __future__ import annotations

from typing import Any

import pytest

from ifserver import headers as h
from ifserver import messages as m
from ifserver.config.settings import FrontSettings
from ifserver.flow_control import WINDOW
from tests.front.fakes import EPOCH_S, GET, WORKER, World, of, split_response, units

HEAD = GET.replace(b"GET", b"HEAD", 1)
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
KIB = 1024


def test_a_whole_response_gets_its_length() -> None:
    world = World(server_header="us")
    client = world.client(GET)
    world.worker.job().respond(200, [(b"x-a", b"1"), (b"x-a", b"2")], b"hello")
    assert client.received() == (
        b"HTTP/1.1 200 OK\r\nx-a: 1\r\nx-a: 2\r\ndate: Sun, 09 Sep 2001 01:46:40 GMT\r\nserver: us\r\n"
        b"content-length: 5\r\n\r\nhello"
    )


def test_a_response_in_pieces_is_chunked() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.respond(body=b"one", more_body=True)
    _, headers, body = split_response(client.received())
    assert headers[b"transfer-encoding"] == b"chunked"
    assert body == b"3\r\none\r\n"
    job.body(b"")
    assert client.received() == b""  # an empty chunk would be the end
    job.body(b"x" * 20)
    assert client.received() == b"14\r\n" + b"x" * 20 + b"\r\n"
    job.body(b"two", more_body=False)
    assert client.received() == b"3\r\ntwo\r\n0\r\n\r\n"
    world.settle()
    assert not client.lost


def test_a_response_without_any_body_is_ended_all_the_same() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.respond(more_body=True)
    job.body(b"", more_body=False)
    assert split_response(client.received())[2] == b"0\r\n\r\n"


def test_content_length_is_kept_where_it_was_given() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.respond(200, [(b"content-length", b"6")], b"one", more_body=True)
    job.body(b"two", more_body=True)
    job.body(b"", more_body=False)
    _, headers, body = split_response(client.received())
    assert (headers[b"content-length"], body) == (b"6", b"onetwo")
    assert b"transfer-encoding" not in headers


def test_http_1_0_gets_no_chunks_but_the_end_of_the_connection() -> None:
    world = World()
    client = world.client(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    job = world.worker.job()
    job.respond(body=b"one", more_body=True)
    job.body(b"two", more_body=False)
    _, headers, body = split_response(client.received())
    assert body == b"onetwo"
    assert headers[b"connection"] == b"close"
    world.settle()
    assert client.lost


@pytest.mark.parametrize(("request_", "status"), [(HEAD, 200), (GET, 204), (GET, 205), (GET, 304), (HEAD, 404)])
@pytest.mark.parametrize("pieces", [1, 2])
def test_what_has_no_body_gets_none(request_: bytes, status: int, pieces: int) -> None:
    world = World()
    client = world.client(request_)
    job = world.worker.job()
    job.respond(status, [(b"content-length", b"10")] if status != 204 else [], b"x" * (10 // pieces), pieces == 2)
    if pieces == 2:
        job.body(b"y" * 5, more_body=False)
    _, headers, body = split_response(client.received())
    assert body == b""
    assert b"transfer-encoding" not in headers
    assert headers.get(b"content-length") == {204: None, 205: b"0"}.get(status, b"10")
    client.send(GET)
    world.worker.job().respond(body=b"next")
    assert client.received().endswith(b"next")


def test_an_application_may_end_the_connection() -> None:
    world = World()
    client = world.client(GET + GET)
    world.worker.job().respond(200, [(b"connection", b"close")])
    world.settle()
    assert split_response(client.received())[1][b"connection"] == b"close"
    assert client.lost
    assert not world.worker.jobs()
    world.assert_empty()


# Flow control.


def test_windows_tell_what_the_client_has_taken() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.claim()
    job.respond(body=b"x" * 60_000, more_body=True)
    assert of(m.Window, job.heard()) == []
    job.body(b"x" * 10_000)
    assert of(m.Window, job.heard()) == [m.Window(job.stream, 0, WORKER, units(60_000) + units(10_000))]
    assert len(client.received()) > 70_000


def test_a_client_that_does_not_read_gives_no_window() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.claim()
    job.respond(more_body=True)
    client.stop_taking()
    for _ in range(4):
        job.body(b"x" * 64 * KIB)
    assert of(m.Window, job.heard()) == []
    client.take_again()
    windows = of(m.Window, job.heard())
    assert windows[-1].consumed == units(0) + 4 * units(64 * KIB)
    assert windows[-1].consumed > WINDOW
    job.body(b"x" * 64 * KIB)
    assert len(of(m.Window, job.heard())) == 1


def test_a_client_that_did_not_read_before_is_known_at_once() -> None:
    world = World()
    client = world.client(GET)
    client.stop_taking()
    job = world.worker.job()
    job.respond(body=b"x" * 64 * KIB, more_body=True)
    assert of(m.Window, job.heard()) == []
    client.take_again()
    assert len(of(m.Window, job.heard())) == 1


def test_the_next_response_waits_until_the_last_was_taken() -> None:
    """Or a client that sends requests and reads nothing would fill the memory, with a page for each line."""
    world = World()
    client = world.client()
    for _ in range(100):
        client.send(GET)
    first = world.worker.job()
    first.respond(body=b"a", more_body=True)
    client.stop_taking()
    first.body(b"x" * 64 * KIB, more_body=False)
    assert world.worker.jobs() == []
    assert not client.reading
    assert client.unread() > 50 * len(GET)
    client.take_again()
    second = world.worker.job()
    # What was not taken of the first is nobody's window.
    assert of(m.Window, first.heard()) == []
    second.respond(body=b"second")
    assert client.received().endswith(b"second")
    client.leave()
    assert world.worker.jobs() == [], "it was taken back behind its push"
    world.assert_empty()


def test_a_body_that_goes_on_behind_its_answer_is_thrown_away_meanwhile() -> None:
    world = World()
    client = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\nx")
    client.stop_taking()
    world.worker.job().respond(413, body=b"no")
    client.send(b"x" * 69_999 + GET)
    assert world.worker.jobs() == []
    client.take_again()
    world.worker.job().respond(body=b"next")
    assert client.received().endswith(b"next")


def test_what_is_wrong_behind_it_is_said_when_it_was_taken() -> None:
    world = World()
    client = world.client(GET)
    client.stop_taking()
    world.worker.job().respond(body=b"first")
    client.send(b"nonsense\r\n")
    assert client.received().endswith(b"first")
    client.take_again()
    world.settle()
    assert client.received().startswith(b"HTTP/1.1 400 ")
    assert client.lost
    world.assert_empty()


def test_a_connection_that_ends_is_closed_though_its_client_takes_nothing() -> None:
    world = World(write_timeout_s=10)
    client = world.client(b"GET / HTTP/1.0\r\n\r\n")
    client.stop_taking()
    world.worker.job().respond(body=b"last")
    assert client.disconnecting
    world.advance(1.0)
    world.advance(10.0)
    assert client.aborted
    world.assert_empty()


def test_a_client_that_has_stopped_reading_is_cut() -> None:
    world = World(write_timeout_s=10)
    client = world.client(GET)
    job = world.worker.job()
    job.claim()
    job.respond(body=b"a", more_body=True)
    client.stop_taking()
    job.body(b"x" * 64 * KIB)
    world.advance(1.0)
    world.advance(9.9)
    assert not client.lost
    world.advance(0.1)
    assert client.aborted
    assert len(of(m.Disconnect, job.heard())) == 1
    assert world.counters.value("connections_cut") == 1
    world.assert_empty()


def test_a_client_that_reads_now_and_then_is_not() -> None:
    world = World(write_timeout_s=10)
    client = world.client(GET)
    job = world.worker.job()
    job.respond(body=b"a", more_body=True)
    for _ in range(5):
        client.stop_taking()
        job.body(b"x" * KIB)
        world.advance(9.0)
        client.take_again()
    world.advance(100.0)
    assert not client.lost


# What goes wrong.


BAD = [
    (99, [], b"", False),
    (600, [], b"", True),
    (200, [(b"x y", b"1")], b"", False),
    (200, [(b"x", b"1\r\nset-cookie: a=b")], b"", True),
    (200, [(b"x", b"1\r\nset-cookie: a=b")], b"", False),
    (200, [(b"x", b"1\x00")], b"", False),
    (200, [(b"content-length", b"x")], b"", True),
    (200, [(b"content-length", b"5")], b"four", False),
    (200, [(b"content-length", b"3")], b"four", False),
    (200, [(b"content-length", b"3")], b"four", True),
]


@pytest.mark.parametrize(("status", "headers", "body", "more"), BAD)
def test_a_bad_reply_is_502_and_not_what_it_says(status: int, headers: Any, body: bytes, more: bool) -> None:
    world = World()
    client = world.client(POST + GET)
    job = world.worker.job()
    job.claim()
    job.respond(status, headers, body, more)
    got = client.received()
    status_line, fields, rest = split_response(got)
    assert status_line == b"HTTP/1.1 502 Bad Gateway"
    assert rest == b"502 Bad Gateway\n"
    assert fields[b"connection"] == b"close"
    assert b"set-cookie" not in got
    world.settle()
    assert client.lost
    assert len(of(m.Disconnect, job.heard())) == (1 if more else 0)
    assert world.counters.value("requests_refused", "502") == 1
    world.assert_empty()


@pytest.mark.parametrize(
    ("headers", "pieces"),
    [
        ([(b"content-length", b"5")], [b"abc", b"def"]),
        ([(b"content-length", b"5")], [b"abc"]),
    ],
)
def test_once_begun_a_bad_reply_cuts_the_connection(headers: Any, pieces: list[bytes]) -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.respond(200, headers, b"", more_body=True)
    for i, piece in enumerate(pieces, 1):
        job.body(piece, more_body=i < len(pieces))
    world.settle()
    assert client.aborted
    assert split_response(client.received())[2] in (b"abc", b"")
    world.assert_empty()


@pytest.mark.parametrize("begun", [True, False])
def test_a_second_start_or_a_body_before_it(begun: bool) -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.claim()
    if begun:
        job.respond(more_body=True)
        job.respond(more_body=True)
    else:
        job.body(b"abc")
    world.settle()
    assert client.aborted is begun
    assert client.received().startswith(b"HTTP/1.1 200 OK" if begun else b"HTTP/1.1 502 Bad Gateway")
    assert [each.reason for each in of(m.Release, job.heard())] == ["broken"]
    client.leave()
    world.assert_empty()


def test_a_gap_cuts_the_connection() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.respond(more_body=True)
    job.seq += 1
    job.body(b"x")
    world.settle()
    assert client.aborted
    assert world.counters.value("messages_dropped", "gap") == 1
    world.assert_empty()


def test_a_lost_worker_is_replaced_once() -> None:
    world = World()
    client = world.client(GET)
    first = world.worker.job()
    first.claim()
    first.release("died")
    second = world.worker.job()
    assert second.request.attempt == 1
    assert world.counters.value("retries") == 1
    first.respond(body=b"ghost")
    assert of(m.Release, first.heard()) == [m.Release(first.stream, 0, WORKER, "gone")]
    assert client.received() == b""
    second.claim()
    second.release("died")
    assert not world.worker.jobs()
    assert client.received().startswith(b"HTTP/1.1 502 ")
    client.leave()
    world.assert_empty()


def test_a_lost_post_is_not_repeated() -> None:
    world = World()
    client = world.client(POST)
    job = world.worker.job()
    job.claim()
    job.release("died")
    assert not world.worker.jobs()
    assert client.received().startswith(b"HTTP/1.1 502 ")
    client.send(GET)
    world.worker.job().respond(body=b"next")
    assert client.received().endswith(b"next")


def test_a_worker_lost_in_the_middle_cuts_the_connection() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    job.respond(body=b"half", more_body=True)
    job.release("died")
    world.settle()
    assert client.aborted
    assert client.received().endswith(b"4\r\nhalf\r\n")
    world.assert_empty()


def test_a_full_channel_is_503_with_retry_after() -> None:
    world = World(request_capacity=1, retry_after_s=7)
    first, second = world.client(GET), world.client(GET)
    status, headers, body = split_response(second.received())
    assert (status, headers[b"retry-after"], body) == (
        b"HTTP/1.1 503 Service Unavailable",
        b"7",
        b"503 Service Unavailable\n",
    )
    assert not second.lost
    assert first.received() == b""
    assert world.waiting() == 1


def test_503_before_the_body_has_come_ends_the_connection_behind_it() -> None:
    world = World(request_capacity=1)
    world.client(GET)
    client = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nx")
    assert split_response(client.received())[1][b"connection"] == b"close"
    assert not client.lost
    client.send(b"x" * 50_000)
    client.send(b"x" * 49_999)
    world.settle()
    assert client.lost


def test_no_node_is_503() -> None:
    world = World()
    world.node.stop()
    client = world.client(GET)
    status, headers, _ = split_response(client.received())
    assert (status, headers[b"retry-after"]) == (b"HTTP/1.1 503 Service Unavailable", b"1")
    client.leave()
    world.assert_empty()


def test_nobody_takes_it() -> None:
    world = World(queue_timeout_s=30)
    client = world.client(GET)
    world.advance(29.9)
    assert client.received() == b""
    world.advance(0.2)
    assert client.received().startswith(b"HTTP/1.1 503 ")
    assert world.waiting() == 0
    client.leave()
    world.assert_empty()


def test_somebody_took_it_and_was_never_heard_of() -> None:
    world = World(queue_timeout_s=30)
    client = world.client(GET)
    job = world.worker.job()
    world.advance(30.1)
    assert client.received() == b""
    world.advance(0.3)
    assert client.received().startswith(b"HTTP/1.1 504 ")
    job.claim()
    assert of(m.Release, job.heard()) == [m.Release(job.stream, 0, WORKER, "gone")]
    client.leave()
    world.assert_empty()


def test_taken_but_not_answered() -> None:
    world = World(queue_timeout_s=30, response_timeout_s=120)
    client = world.client(GET)
    world.advance(29.0)
    job = world.worker.job()
    job.claim()
    world.advance(119.0)
    assert client.received() == b""
    world.advance(1.1)
    assert client.received().startswith(b"HTTP/1.1 504 ")
    assert len(of(m.Disconnect, job.heard())) == 1
    client.leave()
    world.assert_empty()


# The access log.


def test_every_answer_gets_its_line() -> None:
    world = World(queue_timeout_s=30)
    client = world.client(b"GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n", HEAD)
    world.worker.job().respond(body=b"hello")
    world.worker.job().respond(404, [(b"content-length", b"99")])
    client.send(GET)
    job = world.worker.job()
    job.respond(body=b"abc", more_body=True)
    job.body(b"de")
    client.leave()
    client = world.client(GET)
    world.advance(30.1)
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    job = world.worker.job()
    job.respond(200, [(b"content-length", b"9")], b"half", more_body=True)
    job.release()
    world.settle()
    assert world.access.lines == [
        ("192.0.2.1", "GET /a?b HTTP/1.1", 200, 5),
        ("192.0.2.1", "HEAD / HTTP/1.1", 404, 0),
        ("192.0.2.1", "GET / HTTP/1.1", 200, 5),
        ("192.0.2.1", "GET / HTTP/1.1", 503, 24),
        ("192.0.2.1", "GET / HTTP/1.0", 200, 4),
    ]


def test_what_a_line_says_beside_that() -> None:
    world = World()
    client = world.client(b"GET / HTTP/1.1\r\nHost: a\r\nReferer: b\r\nUser-Agent: c\r\n\r\n")
    job = world.worker.job()
    world.advance(0.5)
    job.claim()
    world.advance(2.0)
    job.respond(body=b"x", more_body=True)
    # The wall clock says when it was, and nothing of how long it took.
    world.stepped_s = -7200.0
    world.advance(1.0)
    job.body(b"", more_body=False)
    client.send(GET)
    fast = world.worker.job()
    fast.respond()
    client.send(b"GET nonsense HTTP/1.1\r\n\r\n")
    first, second, _ = world.access.entries
    assert (first.at, first.duration_s, first.queue_s) == (EPOCH_S + 3.5 - 7200, 3.5, 0.5)
    assert (first.referer, first.user_agent, first.stream, first.request_id) == (b"b", b"c", job.stream, "")
    assert (second.duration_s, second.queue_s, second.stream) == (0.0, None, fast.stream)
    assert (first.close_code, second.close_code) == (None, None)


@pytest.mark.parametrize(
    ("sent", "status", "method", "target", "version"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\nContent-Length: x\r\n\r\n", 400, "GET", b"/", "1.1"),
        (b"PUT /a?b HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\nContent-Length: 9999\r\n\r\n", 413, "PUT", b"/a?b", "1.1"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\nX: " + b"x" * 999, 431, "GET", b"/", "1.1"),
        (b"GET /" + b"x" * 999, 414, "GET", b"/" + b"x" * 999, ""),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "GET", b"/", "2.0"),
        (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", 501, "FOO", b"/", "1.1"),
        (b"FOO / HTTP/1.1\r\nHo", 501, "FOO", b"/", "1.1"),
        (b"GET /a  HTTP/1.1\r\nHost: a\r\n\r\n", 400, "GET", b"/a", "1.1"),
        (b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "GET", b"/", ""),
        (b"hunter2\r\n\r\n", 400, "", b"", ""),
        (b"the password is\r\n\r\n", 400, "", b"", ""),
        (b"\x16\x03\x01", 400, "", b"", ""),
    ],
)
@pytest.mark.parametrize("before", [b"", GET])
def test_what_is_refused_has_a_line_as_far_as_it_is_known(
    before: bytes, sent: bytes, status: int, method: str, target: bytes, version: str
) -> None:
    world = World(max_header_bytes=500, max_body_bytes=1000)
    client = world.client(before + sent)
    if before:
        world.worker.job().respond()
    world.settle()
    assert b"HTTP/1.1 %d " % status in client.received()
    entry = world.access.entries[-1]
    assert (entry.status, entry.method, entry.target, entry.http_version) == (status, method, target, version)
    assert (entry.user_agent == b"b") is (b"User-Agent" in sent)
    assert len(world.access.entries) == (2 if before else 1)
    client.leave()
    world.assert_empty()


def test_the_line_of_one_that_is_refused_has_nothing_of_the_one_before() -> None:
    world = World()
    client = world.client(GET)
    job = world.worker.job()
    world.advance(0.3)
    job.claim()
    world.settle()
    job.respond(body=b"x" * 1000)
    client.send(b"GET /second HTTP/1.1\r\n\r\n")
    entry = world.access.entries[-1]
    assert (entry.status, entry.sent_bytes) == (400, len("400 Bad Request\n"))
    assert (entry.queue_s, entry.duration_s, entry.stream) == (None, 0.0, "")
    client.leave()
    world.assert_empty()


def test_a_head_that_does_not_end_has_a_line() -> None:
    world = World(header_timeout_s=5.0)
    client = world.client(b"GET /slow HTTP/1.1\r\nHost: a\r\nUser-")
    world.advance(5.0)
    assert client.received().startswith(b"HTTP/1.1 408 ")
    assert world.access.lines == [("192.0.2.1", "GET /slow HTTP/1.1", 408, 4 + len("Request Timeout\n"))]
    client.leave()
    world.assert_empty()


def test_a_request_that_is_offered_once_more_was_queued_until_then() -> None:
    world = World()
    world.client(GET)
    job = world.worker.job()
    job.claim()
    world.advance(1.0)
    job.release()
    again = world.worker.job()
    world.advance(1.0)
    job.claim()  # of the attempt before: it is not listened to
    world.advance(1.0)
    again.claim()
    again.respond()
    assert world.access.entries[0].queue_s == 3.0


def test_the_log_is_told_of_its_format_and_of_changes() -> None:
    world = World(access_log_queries=False)
    assert world.access.style == ("combined", False)
    world.server.change(FrontSettings(access_log_format="json"))
    assert world.access.style == ("json", True)


# Ids of requests.


def test_a_request_s_id_is_told_to_the_application_and_the_client() -> None:
    world = World(request_id=True)
    client = world.client(GET)
    job = world.worker.job()
    assert job.request.headers == [(b"host", b"a"), (b"x-request-id", job.stream.encode())]
    job.respond(200, [(b"x-a", b"1")], b"x")
    assert split_response(client.received())[1][b"x-request-id"] == job.stream.encode()
    [entry] = world.access.entries
    assert entry.request_id == job.stream


def test_the_application_may_send_another_id() -> None:
    world = World(request_id=True)
    client = world.client(GET)
    world.worker.job().respond(200, [(b"x-request-id", b"mine")])
    assert split_response(client.received())[1][b"x-request-id"] == b"mine"


def test_an_answer_of_our_own_names_the_id_too() -> None:
    world = World(request_id=True, queue_timeout_s=30)
    client = world.client(GET)
    world.advance(30.1)
    status, fields, _ = split_response(client.received())
    assert status.endswith(b"503 Service Unavailable")
    assert fields[b"x-request-id"].decode() == world.access.entries[0].stream


@pytest.mark.parametrize(
    ("trusted", "given", "taken"),
    [
        (("192.0.2.0/24",), b"X-Request-ID: theirs-1\r\n", b"theirs-1"),
        (("192.0.2.0/24",), b"X-Request-ID: a\r\nX-Request-ID: b\r\n", None),
        (("192.0.2.0/24",), b"X-Request-ID: a b\r\n", None),
        (("10.0.0.0/8",), b"X-Request-ID: theirs-1\r\n", None),
        ((), b"X-Request-ID: theirs-1\r\n", None),
    ],
)
def test_only_proxies_that_are_trusted_may_name_a_request(
    trusted: tuple[str, ...], given: bytes, taken: bytes | None
) -> None:
    world = World(request_id=True, trusted_proxies=trusted)
    client = world.client(b"GET / HTTP/1.1\r\nHost: a\r\n" + given + b"\r\n")
    job = world.worker.job()
    job.respond()
    wanted = taken or job.stream.encode()
    assert h.values(job.request.headers, b"x-request-id") == [wanted]
    assert split_response(client.received())[1][b"x-request-id"] == wanted
    assert world.access.entries[0].request_id == wanted.decode()


def test_without_ids_what_the_client_sends_is_a_header_like_any_other() -> None:
    world = World()
    client = world.client(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: x\r\n\r\n")
    job = world.worker.job()
    job.respond()
    assert job.request.headers == [(b"host", b"a"), (b"x-request-id", b"x")]
    assert b"x-request-id" not in client.received()


# X-Request-Start.


def test_the_application_is_told_when_a_request_came() -> None:
    world = World(request_start=True)
    world.client(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Start: t=1\r\n\r\n")
    [(name, value)] = world.worker.job().request.headers[1:]
    assert (name, value) == (b"x-request-start", b"t=%d" % (EPOCH_S * 1_000_000))


def test_by_default_it_is_a_header_like_any_other() -> None:
    world = World()
    world.client(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Start: t=1\r\n\r\n")
    assert world.worker.job().request.headers[1:] == [(b"x-request-start", b"t=1")]


# Server-Timing.


def test_server_timing() -> None:
    world = World(server_timing=True)
    client = world.client(GET)
    job = world.worker.job()
    world.advance(0.25)
    job.claim()
    world.advance(1.0)
    job.respond(200, [(b"server-timing-of-mine", b"x")])
    _, fields, _ = split_response(client.received())
    assert fields[b"server-timing"] == b"queue;dur=250.0, app;dur=1000.0"
    client.send(GET)
    job = world.worker.job()
    world.advance(0.5)
    job.respond()
    _, fields, _ = split_response(client.received())
    assert fields[b"server-timing"] == b'app;dur=500.0;desc="queue included"'


def test_without_the_setting_nothing_is_said_of_time() -> None:
    world = World()
    client = world.client(GET)
    world.worker.job().respond()
    assert b"server-timing" not in client.received()


# Secrets.


def test_the_value_of_a_bad_header_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    client = world.client(GET)
    world.worker.job().respond(200, [(b"set-cookie", b"session=geheim\n")])
    assert client.received().startswith(b"HTTP/1.1 502 ")
    assert "not a header field: b'set-cookie' with a value of 15 bytes and 0x0a at 14 in it" in caplog.text
    assert "geheim" not in caplog.text
