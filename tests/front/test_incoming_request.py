"""A request while it arrives: its target, what its head means, its id, and when it came."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifserver.config.networks import parse_networks
from ifserver.config.settings import FrontSettings
from ifserver.front.incoming_request import BadRequest, Incoming, examine, identify, parse_target, stamp
from ifserver.messages import Headers


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/", ("/", b"/", b"")),
        (b"/a/b?c=d?e", ("/a/b", b"/a/b", b"c=d?e")),
        (b"/?", ("/", b"/", b"")),
        (b"/%C3%A4%2fb?%41", ("/ä/b", b"/%C3%A4%2fb", b"%41")),
        (b"/%ff%", ("/\ufffd%", b"/%ff%", b"")),
        (b"/a+b", ("/a+b", b"/a+b", b"")),
        (b"//host/x", ("//host/x", b"//host/x", b"")),
        (b"/../x", ("/../x", b"/../x", b"")),
        (b"/?\xff", ("/", b"/", b"\xff")),
        (b"http://host", ("/", b"/", b"")),
        (b"http://host/a?b", ("/a", b"/a", b"b")),
        (b"HTTPS://host:1?b", ("/", b"/", b"b")),
        (b"http://me@[::1]:80/a", ("/a", b"/a", b"")),
    ],
)
def test_a_target_is_taken_apart(target: bytes, expected: tuple[str, bytes, bytes]) -> None:
    assert parse_target("GET", target) == expected


def test_options_may_ask_about_the_whole_server() -> None:
    assert parse_target("OPTIONS", b"*") == ("*", b"*", b"")


@pytest.mark.parametrize(
    ("method", "target", "status", "why"),
    [
        ("GET", b"", 400, "not a request target"),
        ("GET", b"*", 400, "not a request target"),
        ("GET", b"a/b", 400, "not a request target"),
        ("GET", b"host:80", 400, "not a request target"),
        ("GET", b"ftp://host/", 400, "not a request target"),
        ("GET", b"http://", 400, "without a host"),
        ("GET", b"http:///a", 400, "without a host"),
        ("GET", b"http://?a", 400, "without a host"),
        ("GET", b"/a#b", 400, "fragment"),
        ("GET", b"/a?b#c", 400, "fragment"),
        ("GET", b"http://host#c", 400, "fragment"),
        ("GET", b"/\xc3\xa4", 400, "outside ASCII"),
        ("CONNECT", b"host:80", 501, "CONNECT"),
    ],
)
def test_a_target_that_is_none_is_refused(method: str, target: bytes, status: int, why: str) -> None:
    with pytest.raises(BadRequest, match=why) as caught:
        parse_target(method, target)
    assert caught.value.status == status
    with pytest.raises(BadRequest):
        Incoming(method, target, "1.1", [], True)


@given(st.binary(max_size=40), st.sampled_from(["GET", "OPTIONS", "CONNECT"]))
def test_no_target_raises_anything_else(target: bytes, method: str) -> None:
    for each in (target, b"/" + target, b"http://h/" + target):
        try:
            path, raw_path, query = parse_target(method, each)
        except BadRequest:
            continue
        assert path
        assert raw_path in each + b"/"
        assert query in each


def test_the_body_is_taken_piece_by_piece_and_once() -> None:
    incoming = Incoming("POST", b"/", "1.1", [], True)
    assert incoming.take_body() == b""
    incoming.body += [b"ab", b"c"]
    assert incoming.take_body() == b"abc"
    assert incoming.take_body() == b""
    incoming.body.append(b"d")
    assert incoming.take_body() == b"d"


# Ids.


PROXIES = parse_networks(["10.0.0.0/8"], "x")


def identified(value: list[bytes], peer: tuple[str, int] | None = ("10.0.0.1", 1), trusted: Any = PROXIES) -> Incoming:
    headers = [(b"a", b"1"), *((b"x-request-id", each) for each in value), (b"b", b"2")]
    incoming = Incoming("GET", b"/", "1.1", headers, True)
    identify(incoming, b"made", peer, trusted)
    return incoming


@pytest.mark.parametrize("value", [b"x", b"x" * 128, b"!#~", b"00-4bf92f3577b34da6a3ce929d0e0e4736-01"])
def test_a_sane_id_of_somebody_who_is_trusted_is_kept(value: bytes) -> None:
    incoming = identified([value])
    assert incoming.request_id == value
    assert incoming.headers == [(b"a", b"1"), (b"x-request-id", value), (b"b", b"2")]


@pytest.mark.parametrize(
    "values", [[], [b""], [b"x" * 129], [b"a b"], [b"a\tb"], [b"\xe4"], [b"a\x7f"], [b"x\n"], [b"x", b"x"]]
)
def test_any_other_id_is_replaced(values: list[bytes]) -> None:
    incoming = identified(values)
    assert incoming.request_id == b"made"
    assert incoming.headers == [(b"a", b"1"), (b"b", b"2"), (b"x-request-id", b"made")]


@pytest.mark.parametrize(
    ("peer", "trusted", "kept"),
    [
        (("192.0.2.1", 1), PROXIES, False),
        (("10.0.0.1", 1), (), False),
        (None, (), False),
        (None, PROXIES, True),  # a Unix socket
    ],
)
def test_who_may_name_a_request(peer: tuple[str, int] | None, trusted: Any, kept: bool) -> None:
    assert identified([b"x"], peer, trusted).request_id == (b"x" if kept else b"made")


# When they came.


def stamped(values: list[bytes], peer: tuple[str, int] | None = ("10.0.0.1", 1), trusted: Any = PROXIES) -> list[bytes]:
    headers = [(b"a", b"1"), *((b"x-request-start", each) for each in values), (b"b", b"2")]
    incoming = Incoming("GET", b"/", "1.1", headers, True)
    stamp(incoming, 1_700_000_000.25, peer, trusted)
    assert [name for name, _ in incoming.headers if name != b"x-request-start"] == [b"a", b"b"]
    return [value for name, value in incoming.headers if name == b"x-request-start"]


MADE = [b"t=1700000000250000"]


@pytest.mark.parametrize("value", [b"t=1700000000250000", b"t=1700000000.250", b"1700000000250"])
def test_a_time_of_somebody_who_is_trusted_is_kept(value: bytes) -> None:
    assert stamped([value]) == [value]
    assert stamped([value], None) == [value]  # a Unix socket
    assert stamped([value], ("192.0.2.1", 1)) == MADE
    assert stamped([value], trusted=None) == stamped([value], None, None) == MADE


@pytest.mark.parametrize(
    "values", [[], [b""], [b"t="], [b"t=-1"], [b"t=1e9"], [b"t=1\n"], [b"t=" + b"1" * 21], [b"1", b"2"]]
)
def test_what_is_no_time_is_replaced(values: list[bytes]) -> None:
    assert stamped(values) == MADE


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
