"""Header rules, and what proxies say of the client."""

from __future__ import annotations

import time
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifserver import headers as h
from ifserver.config.networks import parse_networks

PROXY = ("10.0.0.1", 4000)
CLIENT = ("203.0.113.9", 0)
TRUSTED = parse_networks(["10.0.0.0/8", "::1", "2001:db8:1::/48"], "test")
HEADERS = [(b"a", b"1, 2"), (b"b", b"x"), (b"a", b" ,3,\t, 4 ")]


@pytest.mark.parametrize("name", [b"a", b"X-Y", b"!#$%&'*+-.^_`|~09azAZ"])
def test_a_token(name: bytes) -> None:
    assert h.is_token(name)


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\n", b"\xe4", b"a\0", b"(", b'"', b"a/b", b"\n"])
def test_no_token(name: bytes) -> None:
    assert not h.is_token(name)


@given(st.integers(0, 255))
def test_a_value_may_hold_every_byte_but_controls_and_of_these_the_tab(byte: int) -> None:
    allowed = byte == 9 or (byte >= 32 and byte != 127)
    for value in (bytes([byte]), b"a%cb" % byte, b"a%c" % byte):
        assert h.is_value(value) is allowed


def test_an_empty_value_is_one() -> None:
    assert h.is_value(b"")


def test_values_keep_their_order_and_their_doubles() -> None:
    assert h.find(HEADERS, b"a") == b"1, 2"
    assert h.find(HEADERS, b"c") is None
    assert h.values(HEADERS, b"a") == [b"1, 2", b" ,3,\t, 4 "]
    assert h.list_items(HEADERS, b"a") == [b"1", b"2", b"3", b"4"]
    assert h.list_items(HEADERS, b"c") == h.values(HEADERS, b"c") == []
    assert h.list_items([(b"a", b", a,\tB ,")], b"a") == [b"a", b"B"]


def test_of_a_list_that_is_too_long_one_end_is_looked_at() -> None:
    lists = [(b"a", b",".join(b"%d" % i for i in range(150))), (b"a", b"x,y")]
    assert h.list_items(lists, b"a") == [b"%d" % i for i in range(100)]
    assert h.list_items(lists, b"a", last=True) == [*(b"%d" % i for i in range(52, 150)), b"x", b"y"]


@given(
    st.lists(st.sampled_from([b"%", b"4", b"1", b"c3", b"%e4", b"\\", b"x", b"u0041", b"N{", b"/", b"g"])).map(b"".join)
)
def test_escapes_are_decoded_as_urllib_does(path: bytes) -> None:
    assert h.percent_decoded(path) == unquote_to_bytes(path)


def seen(*headers: tuple[str, str], peer: tuple[str, int] | None = PROXY) -> tuple[tuple[str, int] | None, str]:
    return h.seen_by_proxies(
        [(name.encode(), value.encode("latin-1")) for name, value in headers], peer, "http", TRUSTED
    )


@pytest.mark.parametrize("header", ["forwarded", "x-forwarded-for"])
def test_whom_nobody_trusts_says_nothing_about_himself(header: str) -> None:
    value = "for=198.51.100.1;proto=https" if header == "forwarded" else "198.51.100.1"
    peer = ("203.0.113.9", 1)
    assert seen((header, value), ("x-forwarded-proto", "https"), peer=peer) == (peer, "http")


def test_without_these_headers_the_peer_is_the_client() -> None:
    assert seen(("host", "x")) == (PROXY, "http")
    assert seen(peer=None) == (None, "http")


@pytest.mark.parametrize(
    ("fors", "client"),
    [
        (["203.0.113.9"], CLIENT),
        (["203.0.113.9:77"], ("203.0.113.9", 77)),
        (["[2001:db8::9]:77"], ("2001:db8::9", 77)),
        (["2001:db8::9"], ("2001:db8::9", 0)),
        # Written by the client itself: whatever stands left of the first who is not trusted.
        (["6.6.6.6, 203.0.113.9"], CLIENT),
        (["6.6.6.6", "203.0.113.9, 10.0.0.2"], CLIENT),
        (["203.0.113.9, ::ffff:10.0.0.2, 2001:db8:1::7, ::1"], CLIENT),
        (["10.0.0.3, 10.0.0.2"], ("10.0.0.3", 0)),
        # What is no address ends the chain: the last who was known it is.
        (["6.6.6.6, unknown, 10.0.0.2"], ("10.0.0.2", 0)),
        (["rubbish"], PROXY),
        (["203.0.113.9:x"], CLIENT),
        (["203.0.113.9:65535"], ("203.0.113.9", 65535)),
        (["203.0.113.9:65536"], CLIENT),
        # In the form of the socket module, on every version of Python.
        (["::ffff:203.0.113.9"], ("::ffff:203.0.113.9", 0)),
        (["::FFFF:cb00:7109"], ("::ffff:203.0.113.9", 0)),
        (["[::ffff:203.0.113.9]:77"], ("::ffff:203.0.113.9", 77)),
        # A zone names an interface of another host, and may contain any characters.
        (["fe80::1%eth0"], PROXY),
        (["[fe80::1%25eth0]:77"], PROXY),
        (["fe80::1%x\tforged, 10.0.0.2"], ("10.0.0.2", 0)),
        (["203.0.113.9%x"], PROXY),
        (["203.0.113.9:" + "9" * 5000], PROXY),
        ([" , "], PROXY),
    ],
)
def test_x_forwarded_for_is_read_from_the_right(fors: list[str], client: tuple[str, int]) -> None:
    assert seen(*(("x-forwarded-for", each) for each in fors)) == (client, "http")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["for=203.0.113.9"], (CLIENT, "http")),
        (["For=203.0.113.9;Proto=HTTPS;by=10.0.0.1"], (CLIENT, "https")),
        (['proto=https; for="203.0.113.9:77"'], (("203.0.113.9", 77), "https")),
        (['for="[2001:db8::9]:77"'], (("2001:db8::9", 77), "http")),
        (["for=6.6.6.6;proto=http, for=203.0.113.9;proto=https", "for=10.0.0.2"], (CLIENT, "https")),
        (["for=_hidden;proto=https"], (PROXY, "http")),
        (["for=unknown"], (PROXY, "http")),
        (['for="[fe80::1%eth0]:77";proto=https'], (PROXY, "http")),
        (['for="[::ffff:203.0.113.9]"'], (("::ffff:203.0.113.9", 0), "http")),
        (["by=10.0.0.1"], (PROXY, "http")),
        (["rubbish"], (PROXY, "http")),
        # A quote that the client leaves open swallows nothing of what the proxy adds.
        (['for=6.6.6.6;x=", for=203.0.113.9;proto=https'], (CLIENT, "https")),
        (['for=6.6.6.6;x=", for=203.0.113.9;proto=https;by="_p"'], (CLIENT, "https")),
        (['for=6.6.6.6;x="\\', 'for=203.0.113.9;by="_p"'], (CLIENT, "http")),
    ],
)
def test_forwarded_is_read_from_the_right(values: list[str], expected: tuple[tuple[str, int], str]) -> None:
    assert seen(*(("forwarded", each) for each in values)) == expected


def test_a_forwarded_that_the_client_wrote_and_the_proxy_passed_on_is_not_believed() -> None:
    headers = (("forwarded", "for=6.6.6.6;proto=https"), ("x-forwarded-for", "203.0.113.9"))
    assert seen(*headers) == (CLIENT, "http")


@pytest.mark.parametrize(
    ("fors", "protos", "scheme"),
    [
        ("203.0.113.9", "https", "https"),
        ("203.0.113.9", "WSS", "https"),
        ("203.0.113.9", "ws", "http"),
        ("203.0.113.9", "gopher", "http"),
        # One for each hop: that of the client's.
        ("6.6.6.6, 203.0.113.9, 10.0.0.2", "http, https, http", "https"),
        # One for many hops was passed on by all of them.
        ("203.0.113.9, 10.0.0.2", "https", "https"),
        ("", "https", "https"),
    ],
)
def test_the_scheme_is_that_of_the_same_hop(fors: str, protos: str, scheme: str) -> None:
    assert seen(("x-forwarded-for", fors), ("x-forwarded-proto", protos))[1] == scheme


def test_a_peer_on_a_unix_socket_is_trusted() -> None:
    assert seen(("x-forwarded-for", "203.0.113.9"), peer=None) == (CLIENT, "http")


def test_a_peer_with_a_zone_is_trusted_by_its_address() -> None:
    trusted = parse_networks(["fe80::/10"], "test")
    headers = [(b"x-forwarded-for", b"203.0.113.9")]
    assert h.seen_by_proxies(headers, ("fe80::1%eth0", 1), "http", trusted) == (CLIENT, "http")


@given(st.text(st.sampled_from('for=;," \\10.29:[]x'), max_size=60), st.sampled_from(["forwarded", "x-forwarded-for"]))
def test_whatever_the_client_writes_the_address_that_the_proxy_adds_is_the_one(noise: str, header: str) -> None:
    added = "for=203.0.113.9;proto=https" if header == "forwarded" else "203.0.113.9"
    for headers in ([(header, f"{noise}, {added}")], [(header, noise), (header, added)]):
        assert seen(*headers)[0] == CLIENT


@pytest.mark.parametrize(
    "value", ["a" * 60_000, ";" * 60_000, 'a="' + ',x"' * 20_000, ";a=" * 15_000, 'a="' + "\\" * 60_000]
)
@pytest.mark.parametrize("header", ["forwarded", "x-forwarded-for"])
def test_a_long_value_takes_no_more_than_its_length(value: str, header: str) -> None:
    began = time.process_time()
    assert seen((header, value)) == (PROXY, "http")
    # Some milliseconds. What grows with the square of the length takes ten seconds.
    assert time.process_time() - began < 2
