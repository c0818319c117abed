"""The heads of responses, as a client's parser reads them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from ifserver.front.http1.response_heads import (
    BadResponse,
    Framing,
    HeadWriter,
    plain_answer,
    reason_phrase,
    server_timing,
)
from ifserver.messages import Headers

DATE = b"date: Thu, 01 Jan 1970 00:00:00 GMT"
SERVER = b"server: us"


def write(
    status: int = 200,
    headers: Headers | None = None,
    whole_body: int | None = 0,
    method: str = "GET",
    version: str = "1.1",
    keep_alive: bool = True,
    server: str | None = "us",
) -> tuple[list[bytes], Framing]:
    """The lines of a head, and the framing."""
    writer = HeadWriter(Clock().seconds, server)
    head, framing = writer.write(status, headers or [], whole_body, method, version, keep_alive)
    assert head.endswith(b"\r\n\r\n")
    lines = head[:-4].split(b"\r\n")
    assert b"" not in lines
    return lines, framing


def test_a_head_has_its_fields_in_order_and_ours_behind_them() -> None:
    lines, _ = write(404, [(b"b", b"1"), (b"a", b""), (b"b", b"\xff")], 3)
    assert lines == [b"HTTP/1.1 404 Not Found", b"b: 1", b"a: ", b"b: \xff", DATE, SERVER, b"content-length: 3"]


@pytest.mark.parametrize(
    ("headers", "server", "lines"),
    [
        ([], None, [DATE]),
        ([(b"date", b"x")], "us", [b"date: x", SERVER]),
        ([(b"date", b"x")], None, [b"date: x"]),
        ([(b"server", b"x")], "us", [b"server: x", DATE]),
        ([(b"server", b"x"), (b"date", b"y")], "us", [b"server: x", b"date: y"]),
    ],
)
def test_date_and_server_are_the_applications_where_it_gives_them(
    headers: Headers, server: Any, lines: list[bytes]
) -> None:
    assert write(headers=headers, server=server)[0][1:-1] == lines


def test_the_date_goes_on() -> None:
    clock = Clock()
    writer = HeadWriter(clock.seconds, None)
    date = [(b"date", b"Thu, 01 Jan 1970 00:00:00 GMT")]
    assert writer.default_fields() == date
    clock.advance(0.9)
    assert writer.default_fields() == date
    clock.advance(0.1)
    later = [(b"date", b"Thu, 01 Jan 1970 00:00:01 GMT")]
    assert writer.default_fields() == later
    assert HeadWriter(clock.seconds, "us").default_fields() == [*later, (b"server", b"us")]


LENGTH = [(b"content-length", b"5")]


@pytest.mark.parametrize(
    ("case", "last", "chunked", "remaining", "close"),
    [
        # All of the body is there.
        ({"whole_body": 5}, b"content-length: 5", False, 5, False),
        ({"whole_body": 0}, b"content-length: 0", False, 0, False),
        ({"whole_body": 5, "headers": LENGTH}, SERVER, False, 5, False),
        ({"whole_body": 5, "headers": [(b"content-length", b"005")]}, SERVER, False, 5, False),
        # More will come: how long it is has been said, or is told by chunks, or by the end of the connection.
        ({"whole_body": None, "headers": LENGTH}, SERVER, False, 5, False),
        ({"whole_body": None}, b"transfer-encoding: chunked", True, None, False),
        ({"whole_body": None, "version": "1.0"}, b"connection: close", False, None, True),
        ({"whole_body": None, "version": "1.0", "headers": LENGTH}, b"connection: keep-alive", False, 5, False),
        # There is none, whatever is said of it.
        ({"whole_body": None, "method": "HEAD"}, SERVER, False, None, False),
        ({"whole_body": 0, "method": "HEAD", "headers": LENGTH}, SERVER, False, None, False),
        ({"whole_body": None, "status": 204}, SERVER, False, None, False),
        ({"whole_body": 0, "status": 304, "headers": LENGTH}, SERVER, False, None, False),
        # The connection.
        ({"keep_alive": False}, b"connection: close", False, 0, True),
        ({"version": "1.0"}, b"connection: keep-alive", False, 0, False),
        ({"version": "1.0", "keep_alive": False}, b"connection: close", False, 0, True),
        ({"headers": [(b"connection", b"Close")]}, b"connection: close", False, 0, True),
        ({"headers": [(b"connection", b"keep-alive")]}, b"content-length: 0", False, 0, False),
    ],
)
def test_how_the_end_of_a_body_is_told(
    case: dict[str, Any], last: bytes, chunked: bool, remaining: int | None, close: bool
) -> None:
    lines, framing = write(**case)
    assert lines[-1] == last
    assert (framing.chunked, framing.remaining, framing.close) == (chunked, remaining, close)
    names = [line.partition(b":")[0] for line in lines]
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
    assert names.count(b"connection") <= 1
    given = dict(case.get("headers", ())).get(b"content-length")
    assert given is None or b"content-length: " + given in lines


@pytest.mark.parametrize("coding", [b"chunked", b"gzip, chunked", b"identity"])
def test_the_transfer_encoding_is_ours_to_choose(coding: bytes) -> None:
    lines, _ = write(headers=[(b"transfer-encoding", coding)], whole_body=2)
    assert lines[1:] == [DATE, SERVER, b"content-length: 2"]


def test_a_204_has_no_content_length() -> None:
    """RFC 9110 8.6: a server MUST NOT send one."""
    for body in (0, None):
        assert write(204, [(b"content-length", b"0")], body)[0] == [b"HTTP/1.1 204 No Content", DATE, SERVER]


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"5")], [(b"transfer-encoding", b"chunked")]])
@pytest.mark.parametrize("body", [5, 0, None])
def test_a_205_says_that_it_has_no_content(headers: Headers, body: int | None) -> None:
    """RFC 9110 15.3.6: it has none; RFC 9112 6.3: its client does not know."""
    lines, framing = write(205, headers, body)
    assert sorted(lines[1:]) == sorted([DATE, SERVER, b"content-length: 0"])
    assert (framing.no_body, framing.spent, framing.chunked) == (True, True, False)


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ({"status": 100}, "status 100"),
        ({"status": 199}, "status 199"),
        ({"status": 600}, "status 600"),
        ({"headers": [(b"a b", b"")]}, "not a header field"),
        ({"headers": [(b"", b"x")]}, "not a header field"),
        ({"headers": [(b"a", b"x\r\nb: y")]}, "not a header field"),
        ({"headers": [(b"a\r\nb", b"y")]}, "not a header field"),
        ({"headers": [(b"date", b"\0")]}, "not a header field"),
        ({"headers": [(b"content-length", b"-1")]}, "Content-Length"),
        ({"headers": [(b"content-length", b"")]}, "Content-Length"),
        ({"headers": [(b"content-length", b"5, 5")]}, "Content-Length"),
        ({"headers": [(b"content-length", "٣".encode())]}, "Content-Length"),
        ({"headers": [(b"content-length", b"9" * 5000)]}, "Content-Length"),
        ({"headers": LENGTH * 2, "whole_body": 5}, "two Content-Lengths"),
        ({"headers": LENGTH, "whole_body": 4}, "Content-Length is 5, the body has 4 bytes"),
        ({"headers": LENGTH, "whole_body": 6}, "Content-Length is 5, the body has 6 bytes"),
    ],
)
def test_what_cannot_be_sent_is_refused(case: dict[str, Any], why: str) -> None:
    with pytest.raises(BadResponse, match=why) as caught:
        write(**case)
    assert len(str(caught.value)) < 200


@given(
    st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=4),
    st.one_of(st.none(), st.integers(0, 9)),
    st.sampled_from(["GET", "HEAD"]),
    st.sampled_from(["1.0", "1.1"]),
)
def test_no_header_can_make_another_line(headers: Headers, whole: int | None, method: str, version: str) -> None:
    try:
        lines, _ = write(headers=headers, whole_body=whole, method=method, version=version)
    except BadResponse:
        return
    given_lines = [name + b": " + value for name, value in headers if name not in (b"connection", b"transfer-encoding")]
    assert lines[1 : 1 + len(given_lines)] == given_lines
    assert len(lines) <= len(given_lines) + 5


@pytest.mark.parametrize(("status", "phrase"), [(200, "OK"), (404, "Not Found"), (299, ""), (599, "")])
def test_a_status_line_has_its_registered_phrase(status: int, phrase: str) -> None:
    assert reason_phrase(status) == phrase
    assert write(status)[0][0] == f"HTTP/1.1 {status} {phrase}".encode()


@pytest.mark.parametrize(
    ("method", "status", "none"),
    [("GET", 200, False), ("HEAD", 200, True), ("GET", 204, True), ("POST", 304, True), ("GET", 205, True)],
)
def test_which_responses_have_no_body(method: str, status: int, none: bool) -> None:
    assert write(status, method=method)[1].no_body is none


def test_an_answer_in_the_servers_own_name() -> None:
    headers, body = plain_answer(503, [(b"retry-after", b"1")])
    assert body == b"503 Service Unavailable\n"
    assert dict(headers) == {
        b"content-type": b"text/plain; charset=utf-8",
        b"content-length": b"%d" % len(body),
        b"retry-after": b"1",
    }
    assert plain_answer(404)[0] == [headers[0], (b"content-length", b"14")]


@pytest.mark.parametrize(
    ("queue_s", "until_start_s", "line"),
    [
        (0.0012, 0.0137, b"server-timing: queue;dur=1.2, app;dur=12.5"),
        (0.0, 0.0, b"server-timing: queue;dur=0.0, app;dur=0.0"),
        (2.0, 1.0, b"server-timing: queue;dur=2000.0, app;dur=0.0"),
        (None, 0.0004, b'server-timing: app;dur=0.4;desc="queue included"'),
    ],
)
def test_server_timing_is_in_milliseconds(queue_s: float | None, until_start_s: float, line: bytes) -> None:
    assert server_timing(queue_s, until_start_s) == line
