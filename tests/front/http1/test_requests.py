"""What the head of a request means."""

from __future__ import annotations

import pytest

from ifserver.config.settings import FrontSettings
from ifserver.front.http1.requests import examine
from ifserver.front.incoming_request import BadRequest, Incoming
from ifserver.messages import Headers

# What the head says; the cases one by one are in `test_malformed`, through a whole connection.

HOST = (b"host", b"example.com:8000")


def request(*fields: tuple[bytes, bytes], method: str = "GET", target: bytes = b"/", version: str = "1.1") -> Incoming:
    return Incoming(method, target, version, list(fields), True)


def examined(incoming: Incoming, known_host: bytes = b"", **settings: object) -> Headers:
    """The headers that are passed on."""
    examine(incoming, FrontSettings(**settings), known_host)  # type: ignore[arg-type]
    return incoming.headers


def test_how_the_body_is_framed_and_what_is_expected_is_noted() -> None:
    plain = request(HOST)
    examined(plain)
    assert (plain.content_length, plain.chunked, plain.expects_continue) == (None, False, False)
    sized = request(HOST, (b"content-length", b"70000"), (b"expect", b"100-Continue"))
    examined(sized)
    assert (sized.content_length, sized.chunked, sized.expects_continue) == (70_000, False, True)
    chunked = request(HOST, (b"transfer-encoding", b"Chunked"))
    examined(chunked)
    assert (chunked.content_length, chunked.chunked) == (None, True)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([b"keep-alive"], True),
        ([b"x-close", b"closed"], True),
        ([b"close"], False),
        ([b"keep-alive,\tClose ,"], False),
        ([b"keep-alive", b"upgrade, CLOSE"], False),
    ],
)
def test_close_wins_over_whatever_llhttp_has_made_of_it(values: list[bytes], kept: bool) -> None:
    incoming = request(HOST, *((b"connection", value) for value in values))
    examined(incoming)
    assert incoming.keep_alive is kept


def test_http_1_0_knows_neither_host_nor_expectations() -> None:
    old = request((b"expect", b"what"), version="1.0")
    assert examined(old) == [(b"expect", b"what")]
    assert not old.expects_continue


def test_a_host_that_is_known_is_not_looked_at_again() -> None:
    assert examine(request(HOST), FrontSettings(), b"") == HOST[1]
    # What is no Host shows that: nobody looks.
    assert examine(request((b"host", b"a b")), FrontSettings(), b"a b") == b"a b"
    with pytest.raises(BadRequest, match="not a Host"):
        examine(request((b"host", b"a b")), FrontSettings(), b"b")


@pytest.mark.parametrize(
    ("host", "passed_on"),
    [((), [(b"host", b"Example.com:80")]), ((b"example.com",), [(b"host", b"example.com")])],
)
def test_the_host_of_an_absolute_target(host: tuple[bytes, ...], passed_on: Headers) -> None:
    version = "1.1" if host else "1.0"
    incoming = request(*[(b"host", each) for each in host], target=b"http://Example.com:80/", version=version)
    assert examined(incoming) == passed_on


@pytest.mark.parametrize(
    ("incoming", "status"),
    [
        (request(HOST, version="2.0"), 505),
        (request(HOST, method="CONNECT", target=b"/"), 501),
        (request(), 400),
        (request(HOST, HOST), 400),
        (request(HOST, (b"content-length", b"1x")), 400),
        (request(HOST, (b"content-length", b"0" * 5000)), 400),
        (request(HOST, (b"content-length", b"101")), 413),
        (request(HOST, (b"transfer-encoding", b"gzip")), 501),
        (request((b"transfer-encoding", b"chunked"), version="1.0"), 400),
        (request(HOST, (b"expect", b"200-ok")), 417),
        (request(HOST, target=b"http://other/"), 400),
    ],
)
def test_what_is_refused(incoming: Incoming, status: int) -> None:
    with pytest.raises(BadRequest) as refused:
        examined(incoming, max_body_bytes=100)
    assert refused.value.status == status


def test_underscores() -> None:
    field = (b"x_user", b"admin")
    assert examined(request(HOST, field), underscores_in_headers="allow") == [HOST, field]
    assert examined(request(HOST, field), underscores_in_headers="drop") == [HOST]
    with pytest.raises(BadRequest, match="'_'"):
        examined(request(HOST, field), underscores_in_headers="refuse")
