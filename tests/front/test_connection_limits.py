"""Connections that are too many are turned away, with an answer; and whose they are is counted right."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock

from ifserver import channels
from ifserver.config.settings import FrontSettings
from ifserver.front.connection_limits import ConnectionLimits
from ifserver.metrics import Counters
from ifserver.net import sockets
from tests.front.fakes import GET, HANDSHAKE, FakeTransport, World, split_response


def peer(host: str) -> Any:
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, 50_000)


def turned_away(client: FakeTransport) -> bool:
    """Whether it got a 503 for nothing; its end of the connection is over then."""
    got = client.received()
    if not got:
        return False
    status, headers, body = split_response(got)
    assert status == b"HTTP/1.1 503 Service Unavailable"
    assert headers[b"retry-after"] == b"1"
    assert headers[b"connection"] == b"close"
    assert int(headers[b"content-length"]) == len(body)
    assert client.write_closed
    return True


def test_one_too_many_in_all(caplog: pytest.LogCaptureFixture) -> None:
    world = World(max_connections=2, retry_after_s=1)
    clients = [world.client(), world.client(GET)]
    assert turned_away(world.client())
    assert turned_away(world.client(GET))
    world.worker.job().respond()
    clients[0].leave()
    assert not turned_away(world.client())
    assert world.counters.value("connections_refused", "all") == 2
    # Told once: a log that grew with an attack would be another one.
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "turning clients away with 503: there are 2 connections (max_connections)"
    ]
    world.advance(61.0)
    for _ in range(3):
        world.client()
    assert len([record for record in caplog.records if "turning clients away" in record.getMessage()]) == 2


def test_one_too_many_of_one_client() -> None:
    world = World(max_connections_per_client=2)
    clients = [world.connect(peer("192.0.2.1")) for _ in range(2)]
    assert turned_away(world.connect(peer("192.0.2.1"), None, GET))
    assert not turned_away(world.connect(peer("192.0.2.2")))
    clients[0].leave()
    assert not turned_away(world.connect(peer("192.0.2.1")))
    assert turned_away(world.connect(peer("192.0.2.1")))
    assert world.counters.value("connections_refused", "client") == 2


@contextmanager
def files(left: int) -> Iterator[int]:
    """Only so many more files may be opened; how many may be open in all."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = before[0] - sockets.files_left()[0] + left
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_clients_take_no_more_than_most_of_the_files(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    with files(left=4) as limit:
        answered = [turned_away(world.client()) for _ in range(3)]
        # Those who get an answer have a file meanwhile, too.
        assert answered == [True, True, False]
        assert [record.getMessage() for record in caplog.records] == [
            f"turning clients away with 503: this process may have no more than {limit} files and sockets open, and 4 "
            "are left (raise the limit, LimitNOFILE= of systemd or ulimit -n, or lower max_connections)"
        ]
        assert world.counters.value("connections_refused", "files") == 3
        connection = world.server.announced.buildProtocol(None)
        connection.makeConnection(FakeTransport(world, peer("127.0.0.1"), peer("127.0.0.1")))
        assert len(world.server.announced.waiting) == 0
    assert not turned_away(world.client())


@pytest.mark.parametrize("left", [0, 1])
def test_nor_the_last_one(left: int) -> None:
    world = World()
    with files(left):
        client = world.client()
        assert client.aborted
        assert client.received() == b""


def test_a_websocket_counts_once() -> None:
    world = World(max_connections_per_client=2, max_connections=3)
    client = world.connect(peer("192.0.2.1"), None, HANDSHAKE)
    world.worker.job(channels.WEBSOCKET_CONNECT).accept()
    world.settle()
    assert not turned_away(world.connect(peer("192.0.2.1")))
    assert turned_away(world.connect(peer("192.0.2.1")))
    client.leave()
    assert not turned_away(world.connect(peer("192.0.2.1")))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
    ],
)
def test_an_ipv6_client_has_a_whole_network(one: str, other: str, same: bool) -> None:
    """RFC 4291 2.5.4: it may choose among 2 to the 64 addresses."""
    world = World(max_connections_per_client=1)
    world.connect(peer(one))
    assert turned_away(world.connect(peer(other))) is same


@pytest.mark.parametrize(
    "address",
    [UNIXAddress(None), peer("127.0.0.1"), peer("::1"), peer("10.1.2.3"), peer("::ffff:10.1.2.3"), None],
)
def test_who_may_speak_for_many_is_not_counted(address: Any) -> None:
    world = World(max_connections_per_client=1, trusted_proxies=("10.0.0.0/8",))
    for _ in range(3):
        if address is None:
            protocol = world.server.buildProtocol(None)
            assert type(protocol).__name__ == "Http1Connection"
        else:
            assert not turned_away(world.connect(address, UNIXAddress(None)))
    assert world.server.admission._by_key == {}


def test_this_machine_counts_where_the_operator_says_so() -> None:
    world = World(max_connections_per_client=1, uncounted_networks=())
    world.connect(peer("127.0.0.1"))
    assert turned_away(world.connect(peer("127.0.0.1")))


# How one goes.


def test_it_may_still_send_its_request_so_that_it_gets_its_answer() -> None:
    world = World(max_connections=1)
    world.client()
    client = world.client()
    client.send(GET)
    assert turned_away(client)
    assert not client.lost
    client.leave()
    assert world.server.admission.turned_away == set()
    assert len(world.server.admission.lingering) == 0


def test_but_not_for_long() -> None:
    world = World(max_connections=1)
    world.client()
    client = world.client()
    world.advance(1.9)
    assert not client.lost
    world.advance(0.2)
    assert client.aborted


def test_nor_much_of_it() -> None:
    world = World(max_connections=1)
    world.client()
    client = world.client()
    sent = 0
    while not client.lost and sent < 1_000_000:
        client.send(b"x" * 1000)
        world.settle()
        sent += 1000
    assert sent == 66_000


def test_those_that_are_turned_away_are_bounded_too() -> None:
    world = World(max_connections=1)
    world.client()
    clients = [world.client() for _ in range(300)]
    answered = [client for client in clients if turned_away(client)]
    assert len(answered) == 256
    assert all(client.aborted for client in clients if client not in answered)
    assert len(world.server.admission.turned_away) == 256


def test_a_transport_that_cannot_be_closed_by_half_is_closed() -> None:
    """Twisted's TLS."""
    world = World(max_connections=1)
    world.client()
    protocol = world.server.buildProtocol(peer("192.0.2.1"))

    class Whole(FakeTransport):
        loseWriteConnection = property()  # type: ignore[assignment]

    transport = Whole(world, peer("192.0.2.1"), peer("192.0.2.9"))
    transport.protocol = protocol
    protocol.makeConnection(transport)
    world.settle()
    assert transport.received().startswith(b"HTTP/1.1 503 ")
    assert transport.lost
    assert not transport.aborted


def test_the_end_of_the_server_does_not_wait_for_them() -> None:
    world = World(max_connections=1)
    first = world.client()
    client = world.client()
    done = world.drain()
    world.advance(0.6)
    assert first.lost
    assert client.aborted
    assert done == [None]
    world.assert_empty()


def test_the_limits_can_be_changed_meanwhile() -> None:
    clock = Clock()
    admission = ConnectionLimits(FrontSettings(max_connections_per_client=2), clock, Counters())
    address = IPv4Address("TCP", "192.0.2.1", 1)
    key = admission.key(address)
    admission.enter(key)
    assert not admission.refuses(key, 1)
    admission.change(FrontSettings(max_connections_per_client=1, uncounted_networks=("198.51.100.0/24",)))
    assert admission.refuses(key, 1)
    admission.leave(key)
    assert not admission.refuses(key, 1)
    assert admission.key(IPv4Address("TCP", "198.51.100.1", 1)) is None
    admission.change(FrontSettings(max_connections=5))
    assert admission.refuses(None, 5)
