"""Connections on the event loop's own transports: every kind of address, and everything that a protocol may do."""

from __future__ import annotations

import gc
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import error
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IListeningPort, IPushProducer, ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import globalLogPublisher
from zope.interface import implementer
from zope.interface.verify import verifyObject

from ifserver.net.endpoints import (
    UNSENT_BYTES,
    LoopTransport,
    Port,
    SocketEndpoint,
    StreamClientEndpoint,
    address_of,
    unix_address,
)
from tests.layers.helpers import LOOP, async_test, error_of, eventually, turn, within

MIB = 1024 * 1024


class Recorder(Protocol):
    """Keeps what it is told."""

    transport: Any

    def __init__(self) -> None:
        self.data = b""
        self.reason: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Any = None) -> None:
        assert self.reason is None, "it is lost once"
        self.reason = reason


class Recorders(Factory):
    """Makes them, and keeps them."""

    noisy = False

    def __init__(self, build: Callable[[], Any] = Recorder) -> None:
        self.build = build
        self.built: list[Any] = []
        self.peers: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        self.peers.append(addr)
        protocol = self.build()
        if protocol is not None:
            self.built.append(protocol)
        return protocol


class Place:
    """Sockets that listen, and their clients; all are closed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.served = Recorders()
        self.ports: list[Any] = []
        self.clients = Recorders()

    def bind(self, kind: str) -> tuple[socket.socket, StreamClientEndpoint]:
        """A socket of that kind, and the endpoint that reaches it."""
        if kind in ("tcp4", "tcp6"):
            family, host = (socket.AF_INET, "127.0.0.1") if kind == "tcp4" else (socket.AF_INET6, "::1")
            sock = socket.socket(family)
            sock.bind((host, 0))
            return sock, StreamClientEndpoint(LOOP, address=(host, sock.getsockname()[1]))
        path = str(self.folder / "s") if kind == "unix" else f"@ifserver-endpoints-{os.getpid()}"
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(unix_address(path))
        return sock, StreamClientEndpoint(LOOP, path=path)

    async def listen(self, kind: str = "tcp4") -> StreamClientEndpoint:
        sock, endpoint = self.bind(kind)
        self.ports.append(await within(SocketEndpoint(LOOP, sock).listen(self.served)))
        return endpoint

    async def connect(self, endpoint: StreamClientEndpoint) -> tuple[Any, Any]:
        """Both ends of a new connection."""
        client = await within(endpoint.connect(self.clients))
        await eventually(lambda: len(self.served.built) == len(self.clients.built), "the other end")
        return client, self.served.built[-1]

    async def pair(self, kind: str = "tcp4") -> tuple[Any, Any]:
        """Both ends of a connection of that kind."""
        return await self.connect(await self.listen(kind))

    async def close(self) -> None:
        for port in self.ports:
            await within(port.stopListening())
        protocols = [*self.served.built, *self.clients.built]
        for protocol in protocols:
            protocol.transport.abortConnection()
        await eventually(lambda: all(protocol.reason is not None for protocol in protocols), "the end of connections")


@pytest_twisted.async_yield_fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    seen: list[Any] = []
    LOOP.set_exception_handler(lambda loop, context: seen.append(context))
    place = Place(tmp_path)
    yield place
    await place.close()
    gc.collect(0)
    LOOP.set_exception_handler(None)
    assert seen == []


KINDS = ["tcp4", "tcp6", "unix", "abstract"]


@pytest.mark.parametrize("kind", KINDS)
@async_test
async def test_bytes_go_both_ways(place: Place, kind: str) -> None:
    client, server = await place.pair(kind)
    client.transport.write(b"to the ")
    client.transport.writeSequence([b"ser", b"ver"])
    await eventually(lambda: server.data == b"to the server")
    server.transport.write(bytes(range(256)) * 4096)
    await eventually(lambda: client.data == bytes(range(256)) * 4096)


@pytest.mark.parametrize("kind", KINDS)
@async_test
async def test_a_socket_listens_though_nobody_holds_its_port(place: Place, kind: str) -> None:
    endpoint = await place.listen(kind)
    kept = [id(port) for port in Port._listening]
    place.ports.clear()
    gc.collect()
    await place.connect(endpoint)
    (port,) = (port for port in Port._listening if id(port) in kept)
    place.ports.append(port)


@pytest.mark.parametrize("kind", KINDS)
@async_test
async def test_addresses_are_twisteds(place: Place, kind: str, tmp_path: Path) -> None:
    client, server = await place.pair(kind)
    host = place.ports[0].getHost()
    assert client.transport.getPeer() == host
    assert server.transport.getHost() == host
    assert place.clients.peers == [host]
    if kind == "tcp4":
        assert host == IPv4Address("TCP", "127.0.0.1", host.port)
        assert host.port > 0
    elif kind == "tcp6":
        assert host == IPv6Address("TCP", "::1", host.port)
    elif kind == "unix":
        assert host == UNIXAddress(str(tmp_path / "s"))
    else:
        assert host.name == f"\0ifserver-endpoints-{os.getpid()}".encode()
    # A Unix client has no name.
    expected = client.transport.getHost() if kind.startswith("tcp") else UNIXAddress(None)
    assert server.transport.getPeer() == expected
    assert place.served.peers == [expected]


@pytest.mark.parametrize("kind", ["tcp4", "tcp6"])
@async_test
async def test_a_connection_that_was_reset_before_it_was_accepted_is_nobodys(place: Place, kind: str) -> None:
    """As health checks and port scans do; the kernel does not know any more from where it came."""
    sock, endpoint = place.bind(kind)
    sock.listen()
    with socket.create_connection(sock.getsockname()[:2]) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    place.ports.append(await within(SocketEndpoint(LOOP, sock).listen(place.served)))
    await place.connect(endpoint)
    assert len(place.served.built) == 1


@async_test
async def test_the_address_of_a_peer_that_has_gone_is_still_told(place: Place) -> None:
    client, server = await place.pair()
    peer = client.transport.getHost()
    client.transport.abortConnection()
    await eventually(lambda: server.reason is not None, "the loss")
    assert server.transport.getPeer() == peer


def test_addresses_of_names() -> None:
    assert address_of(("::1", 80, 0, 0)) == IPv6Address("TCP", "::1", 80)
    assert address_of("") == UNIXAddress(None)
    assert unix_address("@name") == "\0name"
    assert unix_address("/run/@name") == "/run/@name"


@async_test
async def test_it_is_what_its_interfaces_say(place: Place) -> None:
    client, _ = await place.pair()
    assert isinstance(client.transport, LoopTransport)
    verifyObject(ITransport, client.transport)
    verifyObject(IPushProducer, client.transport)
    assert isinstance(place.ports[0], Port)
    verifyObject(IListeningPort, place.ports[0])
    place.ports[0].startListening()


@async_test
async def test_socket_options(place: Place) -> None:
    client, _ = await place.pair()
    for enabled in (True, False, True):
        client.transport.setTcpNoDelay(enabled)
        assert client.transport.getTcpNoDelay() is enabled
        client.transport.setTcpKeepAlive(enabled)
        assert client.transport.getTcpKeepAlive() is enabled
    assert client.transport.getHandle().getpeername()[1] == place.ports[0].getHost().port


@async_test
async def test_the_kernel_takes_only_so_much_for_a_client_that_does_not_read(place: Place) -> None:
    client, server = await place.pair()
    client.transport.pauseProducing()
    option = socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT
    assert server.transport.getHandle().getsockopt(*option) == UNSENT_BYTES


# Ends.


@async_test
async def test_a_clean_close_sends_everything_first(place: Place) -> None:
    client, server = await place.pair()
    client.transport.write(b"x" * 4 * MIB)
    client.transport.loseConnection()
    client.transport.write(b"too late")
    client.transport.writeSequence([b"too late"])
    await eventually(lambda: server.reason is not None and client.reason is not None)
    assert server.data == b"x" * 4 * MIB
    assert server.reason.check(error.ConnectionDone)
    assert client.reason.check(error.ConnectionDone)
    for call in ("loseConnection", "abortConnection", "pauseProducing", "resumeProducing", "stopProducing"):
        getattr(client.transport, call)()
    client.transport.write(b"nobody")


@async_test
async def test_an_abort_drops_what_waits(place: Place) -> None:
    client, server = await place.pair("unix")
    server.transport.pauseProducing()
    client.transport.write(b"x" * 8 * MIB)
    await turn()
    client.transport.abortConnection()
    await eventually(lambda: client.reason is not None)
    assert client.reason.check(error.ConnectionAborted)
    server.transport.resumeProducing()
    await eventually(lambda: server.reason is not None)
    assert len(server.data) < 8 * MIB


@pytest.mark.parametrize("closed_before", [False, True])
@async_test
async def test_an_abort_is_no_end_in_good_order(place: Place, closed_before: bool) -> None:
    client, server = await place.pair()
    server.transport.pauseProducing()
    client.transport.write(b"x" * 16 * MIB)
    await turn()
    if closed_before:
        client.transport.loseConnection()
        await turn()
    client.transport.abortConnection()
    client.transport.abortConnection()
    await eventually(lambda: client.reason is not None)
    client.transport.abortConnection()
    server.transport.resumeProducing()
    await eventually(lambda: server.reason is not None)
    assert server.reason.check(error.ConnectionLost)
    assert len(server.data) < 16 * MIB


@async_test
async def test_a_reset_is_told(place: Place) -> None:
    sock, _ = place.bind("tcp4")
    sock.listen()
    sock.setblocking(True)
    endpoint = StreamClientEndpoint(LOOP, address=sock.getsockname())
    client = await within(endpoint.connect(place.clients))
    other, _ = sock.accept()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    other.close()
    sock.close()
    await eventually(lambda: client.reason is not None)
    assert client.reason.check(error.ConnectionLost)


@async_test
async def test_half_a_close(place: Place) -> None:
    client, server = await place.pair()
    client.transport.write(b"question")
    client.transport.loseWriteConnection()
    await eventually(lambda: server.reason is not None)
    assert server.data == b"question"


@implementer(IHalfCloseableProtocol)
class Answering(Recorder):
    """Says something when the other side has said all."""

    def readConnectionLost(self) -> None:
        self.transport.write(b"answer to " + self.data)
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        raise AssertionError("nobody has closed that")


@async_test
@pytest.mark.parametrize("kind", ["tcp4", "unix"])
async def test_who_knows_of_half_a_close_may_still_answer(place: Place, kind: str) -> None:
    place.served.build = Answering
    client, server = await place.pair(kind)
    client.transport.write(b"question")
    client.transport.loseWriteConnection()
    await eventually(lambda: client.reason is not None)
    assert client.data == b"answer to question"
    await eventually(lambda: server.reason is not None)
    assert server.reason.check(error.ConnectionDone)


# Flow.


class Producer:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


@async_test
async def test_a_producer_is_paused_while_the_other_end_does_not_read(place: Place) -> None:
    client, server = await place.pair()
    server.transport.pauseProducing()
    producer = Producer()
    client.transport.registerProducer(producer, True)
    with pytest.raises(RuntimeError, match="registered already"):
        client.transport.registerProducer(Producer(), True)
    client.transport.write(b"x" * 16 * MIB)
    await eventually(lambda: producer.told)
    assert producer.told == ["pause"]
    assert server.data == b""
    server.transport.resumeProducing()
    await eventually(lambda: len(server.data) == 16 * MIB, "all bytes")
    assert producer.told == ["pause", "resume"]
    client.transport.unregisterProducer()
    server.transport.pauseProducing()
    client.transport.write(b"x" * 16 * MIB)
    await turn()
    assert producer.told == ["pause", "resume"]
    # One that comes while there is no room is told at once.
    late = Producer()
    client.transport.registerProducer(late, True)
    assert late.told == ["pause"]
    client.transport.unregisterProducer()


@async_test
async def test_only_push_producers_are_served_and_none_on_a_lost_connection(place: Place) -> None:
    client, _ = await place.pair()
    with pytest.raises(ValueError, match="push producers"):
        client.transport.registerProducer(Producer(), False)
    client.transport.abortConnection()
    producer = Producer()
    client.transport.registerProducer(producer, True)
    assert producer.told == ["stop"]


@async_test
async def test_pausing_holds_the_bytes_back(place: Place) -> None:
    client, server = await place.pair()
    for _ in range(2):
        server.transport.pauseProducing()
    client.transport.write(b"1")
    for _ in range(10):
        await turn()
    assert server.data == b""
    for _ in range(2):
        server.transport.resumeProducing()
    await eventually(lambda: server.data == b"1")


@async_test
async def test_another_protocol_may_take_over(place: Place) -> None:
    client, server = await place.pair()
    client.transport.write(b"1")
    await eventually(lambda: server.data == b"1")
    heir = Recorder()
    heir.makeConnection(server.transport)
    server.transport.protocol = heir
    assert server.transport.protocol is heir
    client.transport.write(b"2")
    await eventually(lambda: heir.data == b"2")
    assert server.data == b"1"
    client.transport.loseConnection()
    await eventually(lambda: heir.reason is not None)
    assert server.reason is None
    server.reason = "it has an heir"


# Connecting.


@pytest.mark.parametrize("kind", KINDS)
@async_test
async def test_nobody_listens(place: Place, kind: str) -> None:
    sock, endpoint = place.bind(kind)
    sock.close()
    found = await error_of(endpoint.connect(place.clients))
    assert isinstance(found, error.ConnectionRefusedError)
    assert isinstance(found.__cause__, OSError)
    assert place.clients.built == []


@async_test
async def test_there_is_no_such_socket_or_host(place: Place, tmp_path: Path) -> None:
    found = await error_of(StreamClientEndpoint(LOOP, path=str(tmp_path / "none")).connect(place.clients))
    assert isinstance(found, error.ConnectError)
    assert "No such file" in str(found)
    found = await error_of(StreamClientEndpoint(LOOP, address=("no.such.host.invalid", 1)).connect(place.clients))
    assert isinstance(found, error.UnknownHostError)


@async_test
async def test_it_takes_too_long(place: Place) -> None:
    # A Unix socket whose backlog is full lets nobody in until somebody is accepted.
    path = str(place.folder / "s")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(0)
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(path)
    found = await error_of(StreamClientEndpoint(LOOP, path=path, timeout_s=0.05).connect(place.clients))
    assert isinstance(found, error.TimeoutError)
    attempt = StreamClientEndpoint(LOOP, path=path, timeout_s=20.0).connect(place.clients)
    await turn()
    attempt.cancel()
    assert isinstance(await error_of(attempt), CancelledError)
    assert place.clients.built == []
    # One that still tries comes in as soon as there is room.
    attempt = StreamClientEndpoint(LOOP, path=path, timeout_s=20.0).connect(place.clients)
    await turn()
    sock.accept()[0].close()
    client = await within(attempt)
    accepted, _ = sock.accept()
    accepted.sendall(b"welcome")
    accepted.close()
    await eventually(lambda: client.reason is not None)
    assert client.data == b"welcome"
    waiting.close()
    sock.close()


@pytest.mark.parametrize("kind", ["tcp4", "unix"])
@async_test
async def test_a_loop_that_stands_still_while_a_connection_is_made_keeps_it(place: Place, kind: str) -> None:
    endpoint = await place.listen(kind)
    endpoint._timeout_s = 0.2

    class Blocking(Recorder):
        def connectionMade(self) -> None:
            time.sleep(0.5)

    place.clients.build = Blocking
    client, server = await place.connect(endpoint)
    for _ in range(10):
        await turn()  # in one of these the time is over
    server.transport.write(b"welcome")
    await eventually(lambda: client.data == b"welcome")
    server.transport.loseConnection()
    await eventually(lambda: client.reason is not None, "the end is told")
    client.transport.abortConnection()  # as whoever has given it up may do


@pytest.mark.parametrize("kind", ["tcp4", "unix"])
@async_test
async def test_a_loop_that_stands_still_before_it_is_made_has_taken_too_long(place: Place, kind: str) -> None:
    endpoint = await place.listen(kind)
    endpoint._timeout_s = 0.2
    attempt = endpoint.connect(place.clients)
    await turn()
    assert not attempt.called
    time.sleep(0.5)
    assert isinstance(await error_of(attempt), error.TimeoutError)
    endpoint._timeout_s = 5.0
    client: Any = await within(endpoint.connect(place.clients))
    client.transport.write(b"works")
    await eventually(lambda: any(each.data == b"works" for each in place.served.built))


@async_test
async def test_an_attempt_may_be_cancelled_at_any_moment(place: Place) -> None:
    endpoint = await place.listen()
    for turns in range(8):
        attempt = endpoint.connect(place.clients)
        for _ in range(turns):
            await turn()
        connected = attempt.called
        attempt.cancel()
        try:
            protocol: Any = await within(attempt)
        except CancelledError:
            assert not connected
        else:
            assert connected
            protocol.transport.abortConnection()
    await eventually(lambda: all(server.reason is not None for server in place.served.built), "the end of them all")


@async_test
async def test_a_factory_may_refuse(place: Place) -> None:
    endpoint = await place.listen()
    assert isinstance(await error_of(endpoint.connect(Recorders(lambda: None))), error.NoProtocol)

    def fail() -> None:
        raise ValueError("a bad factory")

    found = await error_of(endpoint.connect(Recorders(fail)))
    assert isinstance(found, ValueError)
    place.served.build = lambda: None
    client = await within(endpoint.connect(place.clients))
    await eventually(lambda: client.reason is not None, "the end of who was not wanted")
    await eventually(lambda: all(server.reason is not None for server in place.served.built))


@async_test
async def test_a_listening_factory_that_fails_costs_that_connection_alone(place: Place) -> None:
    endpoint = await place.listen()
    seen: list[Any] = []

    def fail() -> None:
        raise ValueError("a bad factory")

    place.served.build = fail
    LOOP.set_exception_handler(lambda loop, context: seen.append(context["exception"]))
    client = await within(endpoint.connect(place.clients))
    await eventually(lambda: client.reason is not None, "the end of the connection")
    assert [type(exception) for exception in seen] == [ValueError]
    LOOP.set_exception_handler(None)
    place.clients.built.clear()
    place.served.build = Recorder
    client, server = await place.connect(endpoint)
    client.transport.write(b"works")
    await eventually(lambda: server.data == b"works")


@async_test
async def test_a_port_that_is_closed_takes_no_more_and_keeps_what_it_has(place: Place) -> None:
    endpoint = await place.listen()
    client, server = await place.connect(endpoint)
    await within(place.ports[0].stopListening())
    await eventually(lambda: isinstance(_tried(place), ConnectionRefusedError), "the end of the listening")
    client.transport.write(b"still here")
    await eventually(lambda: server.data == b"still here")
    await within(place.ports[0].stopListening())


def _tried(place: Place) -> Exception | None:
    """How an attempt from outside ends."""
    host = place.ports[0].getHost()
    try:
        socket.create_connection((host.host, host.port), timeout=5).close()
    except OSError as error:
        return error
    return None


@async_test
async def test_a_connection_that_nobody_waits_for_does_not_disturb(place: Place) -> None:
    """The Deferred's own callback may already write, and close."""
    endpoint = await place.listen()
    seen: list[Any] = []
    globalLogPublisher.addObserver(seen.append)
    connecting: Deferred[Any] = endpoint.connect(place.clients)

    def use(protocol: Any) -> None:
        protocol.transport.write(b"at once")
        protocol.transport.loseConnection()

    connecting.addCallback(use)
    await within(connecting)
    await eventually(lambda: place.served.built and place.served.built[0].reason is not None)
    globalLogPublisher.removeObserver(seen.append)
    assert place.served.built[0].data == b"at once"
    assert [event for event in seen if event.get("log_failure")] == []
