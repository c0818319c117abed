"""The header by which a proxy announces its client: what it may be, who may send it, and what is behind it."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from ifserver import channels
from ifserver.front.http1.connection import Http1Connection
from ifserver.front.proxy_protocol import BadProxyHeader, ProxyHeader, parse_header
from ifserver.net.endpoints import LoopTransport
from tests.front.fakes import BINARY, GET, HANDSHAKE, FakeLoopTransport, FakeTransport, World, frame

BEGIN = b"\r\n\r\n\0\r\nQUIT\n"
FOUR = b"PROXY TCP4 203.0.113.7 198.51.100.1 40000 443\r\n"


def four(host: str, port: int) -> IPv4Address:
    return IPv4Address("TCP", host, port)


def six(host: str, port: int) -> IPv6Address:
    return IPv6Address("TCP", host, port)


def v2(command: int, family: int, data: bytes, length: int | None = None) -> bytes:
    return BEGIN + struct.pack("!BBH", command, family, len(data) if length is None else length) + data


def addresses(client: str, server: str, port: int, to_port: int) -> bytes:
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    return socket.inet_pton(family, client) + socket.inet_pton(family, server) + struct.pack("!HH", port, to_port)


def triple(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


A4 = addresses("203.0.113.7", "198.51.100.1", 40000, 443)
A6 = addresses("2001:db8::7", "2001:db8::1", 40000, 443)
UNIX = b"/run/client".ljust(108, b"\0") + b"/run/server".ljust(108, b"\0")
TLS = triple(0x20, b"\x01\0\0\0\0" + triple(0x21, b"TLSv1.3"))
NOT_TLS = triple(0x20, b"\0\0\0\0\0")

GOOD: list[tuple[bytes, Any, Any, bool]] = [
    (FOUR, four("203.0.113.7", 40000), four("198.51.100.1", 443), False),
    (b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", four("0.0.0.0", 0), four("255.255.255.255", 65535), False),
    (b"PROXY TCP6 2001:db8::7 2001:DB8::1 1 2\r\n", six("2001:db8::7", 1), six("2001:db8::1", 2), False),
    (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n", four("203.0.113.7", 1), six("::1", 2), False),
    (b"PROXY UNKNOWN\r\n", None, None, False),
    (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None, None, False),
    (b"PROXY UNKNOWN nonsense\r\n", None, None, False),
    (v2(0x21, 0x11, A4), four("203.0.113.7", 40000), four("198.51.100.1", 443), False),
    (v2(0x21, 0x21, A6), six("2001:db8::7", 40000), six("2001:db8::1", 443), False),
    (v2(0x21, 0x31, UNIX), UNIXAddress(b"/run/client"), UNIXAddress(b"/run/server"), False),
    (v2(0x21, 0x31, bytes(216)), UNIXAddress(None), UNIXAddress(None), False),
    (v2(0x21, 0x00, b""), None, None, False),
    (v2(0x21, 0x00, TLS), None, None, True),
    (v2(0x20, 0x00, b""), None, None, False),
    (v2(0x20, 0x11, A4), None, None, False),
    (v2(0x20, 0xFF, b"anything"), None, None, False),
    (v2(0x21, 0x11, A4 + TLS), four("203.0.113.7", 40000), four("198.51.100.1", 443), True),
    (v2(0x21, 0x11, A4 + NOT_TLS), four("203.0.113.7", 40000), four("198.51.100.1", 443), False),
    (v2(0x21, 0x21, A6 + triple(4, bytes(3000)) + TLS), six("2001:db8::7", 40000), six("2001:db8::1", 443), True),
]

BAD = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x16\x03\x01",
    b"PROXYTCP4",
    b"proxy TCP4",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP5 203.0.113.7 198.51.100.1 1 2\r\n",
    b"PROXY tcp4 203.0.113.7 198.51.100.1 1 2\r\n",
    b"PROXY TCP4 203.0.113.7 198.51.100.1 1\r\n",
    b"PROXY TCP4 203.0.113.7 198.51.100.1 1 2 3\r\n",
    b"PROXY TCP4  203.0.113.7 198.51.100.1 1 2\r\n",
    b"PROXY TCP4 203.0.113.7 198.51.100.1 1 2 \r\n",
    b"PROXY TCP4 203.0.113.7 198.51.100.1 1 2\n\r\n",
    b"PROXY TCP4 203.0.113 198.51.100.1 1 2\r\n",
    b"PROXY TCP4 203.0.113.256 198.51.100.1 1 2\r\n",
    b"PROXY TCP4 203.0.113.07 198.51.100.1 1 2\r\n",
    b"PROXY TCP4 2001:db8::1 198.51.100.1 1 2\r\n",
    b"PROXY TCP6 203.0.113.7 2001:db8::1 1 2\r\n",
    b"PROXY TCP6 2001:db8::g 2001:db8::1 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 2001:db8::1 1 2\r\n",
    b"PROXY TCP6 fe80::1%x\nforged 2001:db8::1 1 2\r\n",
    b"PROXY TCP6 2001:db8::1 fe80::1% 1 2\r\n",
    b"PROXY TCP4 203.0.113.7 198.51.100.1 65536 2\r\n",
    b"PROXY TCP4 203.0.113.7 198.51.100.1 -1 2\r\n",
    b"PROXY TCP4 203.0.113.7 198.51.100.1 +1 2\r\n",
    b"PROXY TCP4 203.0.113.7 198.51.100.1 01 2\r\n",
    b"PROXY TCP4 203.0.113.7 198.51.100.1 1_0 2\r\n",
    b"PROXY TCP4 203.0.113.7 198.51.100.1 x 2\r\n",
    b"PROXY TCP4 203.0.113.7 198.51.100.1 1 \r\n",
    b"PROXY TCP4 a\xff.b c 1 2\r\n",
    b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n",
    b"PROXY UNKNOWN " + b"x" * 93,
    v2(0x21, 0x31, UNIX.replace(b"client", b"cli\nnt")),
    v2(0x21, 0x31, UNIX.replace(b"server", b"s\0rver")),
    v2(0x21, 0x31, UNIX.replace(b"server", b"serve\x7f")),
    v2(0x22, 0x11, A4),
    v2(0x11, 0x11, A4),
    v2(0x31, 0x11, A4),
    v2(0x21, 0x12, A4),
    v2(0x21, 0x41, A4),
    v2(0x21, 0x13, A4),
    v2(0x21, 0x01, A4),
    v2(0x21, 0x11, A4[:11]),
    v2(0x21, 0x21, A6[:35]),
    v2(0x21, 0x31, UNIX[:-1]),
    v2(0x21, 0x11, A4 + b"\x20\0"),
    v2(0x21, 0x11, A4 + b"\x20\0\x02\x01"),
    v2(0x21, 0x11, b"", 4081),
    v2(0x20, 0x11, b"", 65535),
    BEGIN[:-1] + b"\r" + b"\x21\x11\0\0",
]


@pytest.mark.parametrize(("data", "client", "server", "tls"), GOOD)
def test_a_header(data: bytes, client: Any, server: Any, tls: bool) -> None:
    assert parse_header(data) == ProxyHeader(client, server, tls, len(data))
    assert parse_header(data + GET) == ProxyHeader(client, server, tls, len(data))
    for end in range(len(data)):
        assert parse_header(data[:end]) is None


@pytest.mark.parametrize("data", BAD)
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(BadProxyHeader):
        parse_header(data)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=300).map(b"PROXY ".__add__),
        st.binary(max_size=300).map(BEGIN.__add__),
        st.binary(max_size=300).map(lambda data: BEGIN + b"\x21\x11" + struct.pack("!H", len(data)) + data),
        st.tuples(st.sampled_from(GOOD), st.integers(0, 60), st.integers(0, 255)).map(
            lambda drawn: drawn[0][0][: drawn[1]] + bytes([drawn[2]]) + drawn[0][0][drawn[1] + 1 :]
        ),
    )
)
def test_nothing_else_is_raised_and_nothing_is_awaited_for_ever(data: bytes) -> None:
    try:
        header = parse_header(data)
    except BadProxyHeader:
        return
    if header is None:
        assert len(data) < 4096
    else:
        assert 0 < header.length <= len(data)


# The connection.


def announced(world: World, *data: bytes, peer: Any = None) -> FakeTransport:
    """A connection from a proxy, by default one of this machine, that has sent `data`."""
    peer = peer or four("127.0.0.1", 50_000)
    transport = FakeTransport(world, peer, four("127.0.0.1", 80))
    transport.protocol = world.server.announced.buildProtocol(peer)
    transport.protocol.makeConnection(transport)
    for piece in data:
        transport.send(piece)
    world.settle()
    return transport


@pytest.mark.parametrize(
    ("header", "client", "server", "scheme"),
    [
        (FOUR, ("203.0.113.7", 40000), ("198.51.100.1", 443), "http"),
        (v2(0x21, 0x21, A6 + TLS), ("2001:db8::7", 40000), ("2001:db8::1", 443), "https"),
        (v2(0x21, 0x31, UNIX), None, ("/run/server", None), "http"),
        (b"PROXY UNKNOWN\r\n", ("127.0.0.1", 50_000), ("127.0.0.1", 80), "http"),
        (v2(0x20, 0x00, b""), ("127.0.0.1", 50_000), ("127.0.0.1", 80), "http"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_application_sees_whom_the_proxy_announces(
    header: bytes, client: Any, server: Any, scheme: str, size: int
) -> None:
    world = World()
    data = header + GET
    transport = announced(world, *[data[i : i + size] for i in range(0, len(data), size)])
    job = world.worker.job()
    assert (job.request.client, job.request.server, job.request.scheme) == (client, server, scheme)
    job.respond(body=b"ok")
    assert transport.received().endswith(b"ok")
    transport.send(GET)
    assert world.worker.job().request.client == client
    assert world.access.lines[0][0] == (client[0] if client else "")
    assert len(world.server.announced.waiting) == 0
    transport.leave()
    world.assert_empty()


def test_a_websocket_behind_a_header() -> None:
    world = World()
    transport = announced(world, v2(0x21, 0x11, A4 + TLS) + HANDSHAKE + frame(BINARY, b"early"))
    job = world.worker.job(channels.WEBSOCKET_CONNECT)
    assert (job.request.client, job.request.scheme) == (("203.0.113.7", 40000), "wss")
    job.accept()
    world.settle()
    transport.send(frame(BINARY, b"late"))
    assert [each.data for each in job.heard()] == [b"early", b"late"]
    transport.leave()
    world.assert_empty()


def test_behind_the_header_it_costs_nothing() -> None:
    """The transport of the loop hands all further bytes to the connection itself."""
    world = World(proxy_protocol_networks=("192.0.2.1",))
    transport = LoopTransport(world.server.announced)
    transport.connection_made(FakeLoopTransport())  # type: ignore[arg-type]
    transport.data_received(FOUR)
    assert type(transport.protocol) is Http1Connection
    assert transport.data_received == transport.protocol.dataReceived
    transport.data_received(GET)
    assert world.worker.job().request.client == ("203.0.113.7", 40000)
    transport.connection_lost(None)
    world.worker.heard()
    world.assert_empty()


@pytest.mark.parametrize("bad", [GET, b"\r\n\r\nGET", b"PROXY TCP4 1 2 3 4\r\n", v2(0x22, 0x11, A4)])
def test_a_connection_without_a_header_is_refused(bad: bytes) -> None:
    world = World()
    transport = announced(world, bad, GET)
    assert transport.lost
    assert transport.received() == b""
    assert not world.worker.jobs()
    assert world.counters.value("connections_refused", "proxy") == 1
    assert len(world.server.announced.waiting) == 0


@pytest.mark.parametrize("peer", [four("192.0.2.1", 1), six("2001:db8::1", 1)])
def test_a_connection_from_elsewhere_is_refused(peer: Any) -> None:
    world = World()
    transport = announced(world, FOUR + GET, peer=peer)
    assert transport.lost
    assert not world.worker.jobs()


@pytest.mark.parametrize(
    ("peer", "named"), [(four("192.0.2.1", 1), "192.0.2.1"), (UNIXAddress("/run/x"), "a Unix socket")]
)
def test_the_log_names_the_address_of_who_is_refused(peer: Any, named: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ifserver.front.proxy_protocol")
    announced(World(), GET, peer=peer)
    assert [each.getMessage().partition(": ")[0] for each in caplog.records] == [f"refusing a connection from {named}"]


@pytest.mark.parametrize("peer", [four("192.0.2.1", 1), UNIXAddress(None), six("::ffff:192.0.2.1", 1)])
def test_who_is_trusted_is_the_operators_affair(peer: Any) -> None:
    world = World(proxy_protocol_networks=("192.0.2.0/24",))
    assert announced(world, FOUR + GET, peer=peer).lost is False
    assert world.worker.job().request.client == ("203.0.113.7", 40000)
    assert announced(world, FOUR + GET).lost


@pytest.mark.parametrize("begun", [(), (b"PROXY TC",), (BEGIN,), (v2(0x21, 0x11, A4[:5], 12),)])
def test_a_header_that_does_not_come_in_time(begun: tuple[bytes, ...]) -> None:
    world = World(proxy_protocol_timeout_s=5)
    transport = announced(world, *begun)
    world.advance(4.9)
    assert not transport.lost
    world.advance(0.2)
    assert transport.lost
    assert world.counters.value("connections_refused", "proxy") == 1


def test_a_proxy_that_leaves_before_its_header() -> None:
    world = World()
    announced(world, b"PROXY").leave()
    assert len(world.server.announced.waiting) == 0


def test_limits_are_the_clients_and_not_the_proxys() -> None:
    world = World(max_connections_per_client=1)
    first = announced(world, FOUR)
    second = announced(world, FOUR)
    assert second.received().startswith(b"HTTP/1.1 503 ")
    other = announced(world, v2(0x21, 0x21, A6))
    assert other.received() == b""
    first.leave()
    assert announced(world, FOUR).received() == b""


def test_those_that_wait_are_bounded() -> None:
    world = World(max_connections=2)
    waiting = [announced(world) for _ in range(2)]
    assert announced(world).lost
    assert not any(each.lost for each in waiting)


def test_the_end_of_the_server_waits_for_headers_for_a_moment_only() -> None:
    world = World()
    waiting = announced(world, b"PROXY")
    done = world.drain()
    assert done == []
    world.advance(0.6)
    assert done == [None]
    assert waiting.lost
    assert announced(world, FOUR).lost


def test_headers_of_http_are_believed_by_the_client_that_is_announced() -> None:
    """A proxy that only passes bytes on does not clean what its client claims."""
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.99\r\n\r\n"
    world = World(trusted_proxies=("127.0.0.0/8", "10.0.0.0/8"))
    announced(world, FOUR + request)
    assert world.worker.job().request.client == ("203.0.113.7", 40000)
    announced(world, b"PROXY TCP4 10.0.0.1 198.51.100.1 40000 443\r\n" + request)
    assert world.worker.job().request.client == ("192.0.2.99", 0)


def test_tls_clients_may_choose_http_1() -> None:
    server = World().server
    assert server.announced.acceptableProtocols() == server.acceptableProtocols()


def test_a_name_in_the_abstract_namespace_begins_with_a_nul() -> None:
    header = parse_header(v2(0x21, 0x31, b"\0client".ljust(108, b"\0") + b"\0server".ljust(108, b"\0")))
    assert header is not None
    assert isinstance(header.server, UNIXAddress)
    assert header.server.name == b"\0server"
    with pytest.raises(BadProxyHeader, match="control characters"):
        parse_header(v2(0x21, 0x31, b"\0\0client".ljust(216, b"\0")))
