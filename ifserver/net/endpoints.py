"""Twisted endpoints whose connections are the event loop's own transports.

A Twisted protocol costs a third of the CPU when uvloop's transport is under it instead of Twisted's, on the same
reactor. So plain TCP, Unix and inherited sockets are listened to and connected by the endpoints below. Protocols use
nothing but Twisted's interfaces, so that they work on every other endpoint (TLS, ``haproxy:``, ``systemd:``) as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from typing import Any, ClassVar, Final, TypeAlias

from twisted.internet import error
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ifserver.config.networks import unix_address
from ifserver.config.node_urls import TlsSettings
from ifserver.errors import ConfigurationError

#: How long a connection to a Unix socket waits before it tries a full backlog again.
_BACKLOG_PAUSE_S: Final = 0.02

#: Bytes towards one client that the kernel takes and has not sent. Without a limit it takes megabytes for a client that
#: does not read, and a few hundred such clients make its memory for all connections short: then everybody is slow.
UNSENT_BYTES: Final = 128 * 1024

Address: TypeAlias = IPv4Address | IPv6Address | UNIXAddress

#: For SO_LINGER: close at once. What was not sent is thrown away, and the peer gets a reset.
_RESET: Final = struct.pack("ii", 1, 0)

__all__ = [
    "Address",
    "LoopTransport",
    "Port",
    "SocketEndpoint",
    "StreamClientEndpoint",
    "address_of",
    "tls_context",
    "unix_address",
]


def address_of(name: Any) -> Address:
    """Twisted's address for what the socket module calls one; its form tells of which family it is."""
    if isinstance(name, tuple):
        kind = IPv4Address if len(name) == 2 else IPv6Address
        return kind("TCP", name[0], name[1])
    return UNIXAddress(name or None)


#: The same where few are asked for, again and again.
_known_address_of = lru_cache(256)(address_of)


class _Socket:
    """What a transport tells of the socket under it (ITransport, ITCPTransport)."""

    _loop_transport: asyncio.Transport

    def getHost(self) -> Address:
        return _known_address_of(self._loop_transport.get_extra_info("sockname"))

    def getTcpNoDelay(self) -> bool:
        return bool(self.getHandle().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.getHandle().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, bool(enabled))

    def getTcpKeepAlive(self) -> bool:
        return bool(self.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, bool(enabled))

    def getHandle(self) -> Any:
        """The socket; only for its options and names."""
        return self._loop_transport.get_extra_info("socket")


def _discard(data: bytes) -> None:
    """Write nothing: the connection is not open."""


@implementer(ITransport, IPushProducer)
class LoopTransport(_Socket, asyncio.Protocol):
    """The transport that a Twisted protocol sees, and the protocol that the loop's transport sees.

    Assigning `protocol` hands all further bytes to another Twisted protocol, as with Twisted's own transports.
    """

    #: Takes the bytes that go to the peer. While the connection is open, it is the method of the loop's transport: a
    #: frame in between would cost. Before and after that, what is written is discarded. A slot, since a broadcast looks
    #: at thousands.
    __slots__ = ("write",)

    write: Callable[[bytes], None]
    disconnecting = False
    #: Whom a loss is told until there is a protocol.
    _protocol = Protocol()
    _peer: Address
    _producer: Any = None
    _full = False
    _aborted = _lost = False
    #: Bytes of files that the kernel has sent by itself (`ifserver.net.sendfile`).
    sent_past = 0

    def __init__(self, factory: IProtocolFactory, connected: Deferred[IProtocol] | None = None) -> None:
        self.write = _discard
        self._factory: Any = factory
        self._connected = connected

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._loop_transport = transport  # type: ignore[assignment]  # uvloop's is no subclass of asyncio's
        self._open()
        factory, connected = self._factory, self._connected
        del self._factory, self._connected
        if connected is not None and connected.called:
            self.abortConnection()  # cancelled meanwhile
            return
        # Asked for once: of a connection that the peer has reset the kernel does not know.
        name = transport.get_extra_info("peername")
        if name is None:
            # It was reset before we came to it, as health checks and port scans do.
            self.abortConnection()
            if connected is not None:
                connected.errback(Failure(error.ConnectionLost()))
            return
        self._peer = address_of(name)
        try:
            protocol = factory.buildProtocol(self._peer)
        except Exception:
            self.abortConnection()
            if connected is None:
                raise
            connected.errback(Failure())
            return
        if protocol is None:
            self.abortConnection()
            if connected is not None:
                connected.errback(Failure(error.NoProtocol()))
            return
        self.protocol = protocol
        protocol.makeConnection(self)
        if connected is not None:
            connected.callback(protocol)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            reason = Failure(error.ConnectionAborted()) if self._aborted else connectionDone
        else:
            reason = Failure(error.ConnectionLost(str(exc)))
        self._end()
        self._lost = True
        self._producer = None
        self._protocol.connectionLost(reason)

    def eof_received(self) -> bool:
        """The peer sends nothing more, and may still read. Whether the connection stays open for that, as it does if
        the protocol is an `IHalfCloseableProtocol`."""
        protocol: Any = self._protocol
        if not IHalfCloseableProtocol.providedBy(protocol):
            return False
        protocol.readConnectionLost()
        return True

    def pause_writing(self) -> None:
        self._full = True
        if self._producer is not None:
            self._producer.pauseProducing()

    def resume_writing(self) -> None:
        self._full = False
        if self._producer is not None:
            self._producer.resumeProducing()

    # What the Twisted protocol calls (ITransport, ITCPTransport, IPushProducer, IConsumer).

    def getPeer(self) -> Address:
        return self._peer

    @property
    def protocol(self) -> Protocol:
        """The protocol that receives the bytes."""
        return self._protocol

    @protocol.setter
    def protocol(self, protocol: Protocol) -> None:
        self._protocol = protocol
        # The loop's transport looks `data_received` up once, when it is given its protocol: no frame in between.
        self.data_received = protocol.dataReceived  # type: ignore[method-assign]
        self._loop_transport.set_protocol(self)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        if not self.disconnecting:
            self._loop_transport.writelines(data)

    def loseConnection(self) -> None:
        if not self.disconnecting:
            self._end()
            self._loop_transport.close()

    def abortConnection(self) -> None:
        self._end()
        self._aborted = True
        sock = self.getHandle()
        # The loop may have closed it already, without having told us yet.
        if not self._lost and sock is not None and sock.fileno() >= 0:
            # A reset and not an end in good order, which to an HTTP/1.0 client would make half a response look whole.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._loop_transport.abort()

    def loseWriteConnection(self) -> None:
        if self._loop_transport.can_write_eof():
            self._loop_transport.write_eof()

    def pauseProducing(self) -> None:
        if not self.disconnecting:
            self._loop_transport.pause_reading()

    def resumeProducing(self) -> None:
        if not self.disconnecting:
            self._loop_transport.resume_reading()

    def stopProducing(self) -> None:
        self.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError(f"a producer is registered already: {self._producer!r}")
        if not streaming:
            raise ValueError("only push producers are served")
        self._producer = producer
        if self.disconnecting:
            producer.stopProducing()
        elif self._full:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def _open(self) -> None:
        self.write = self._loop_transport.write

    def _end(self) -> None:
        self.disconnecting = True
        self.write = _discard

    def buffered(self) -> int:
        """Bytes that were written and that the kernel has not taken yet."""
        return self._loop_transport.get_write_buffer_size()

    def is_free(self) -> bool:
        """Whether the kernel has taken all that was written, and the connection goes on."""
        return not self.disconnecting and not self._loop_transport.is_closing() and not self.buffered()


@implementer(IListeningPort)
class Port:
    """A socket that listens, until it is told to stop: as with Twisted's own ports, nobody need hold on to it."""

    #: uvloop closes the socket of a server that is garbage.
    _listening: ClassVar[set[Port]] = set()

    def __init__(self, server: asyncio.Server, sock: socket.socket) -> None:
        self._server = server
        self._address = address_of(sock.getsockname())
        self._listening.add(self)

    def startListening(self) -> None:
        """It does so from the first."""

    def stopListening(self) -> Deferred[None]:
        self._listening.discard(self)
        self._server.close()
        # Not `wait_closed`: from Python 3.12 that waits for the connections as well.
        return succeed(None)

    def getHost(self) -> Address:
        return self._address


@implementer(IStreamServerEndpoint)
class SocketEndpoint:
    """Listens on a TCP or Unix socket that is already bound: made here, or inherited.

    Args:
        transport: makes what a connection's protocol sees.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        backlog: int = 2048,
        transport: Callable[[IProtocolFactory], LoopTransport] = LoopTransport,
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._backlog = backlog
        self._transport = transport

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return Deferred.fromFuture(asyncio.ensure_future(self._listen(protocolFactory), loop=self._loop))

    async def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        sock = self._socket
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # Connections inherit it.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        create: Callable[..., Awaitable[asyncio.Server]] = self._loop.create_server
        keep_file: dict[str, bool] = {}
        if sock.family == socket.AF_UNIX:
            create = self._loop.create_unix_server
            if sys.version_info >= (3, 13):
                # Else the loop would remove the file when it closes the socket, though it may be the successor's by
                # then. Whoever has made it removes it.
                keep_file = {"cleanup_socket": False}
        server = await create(lambda: self._transport(factory), sock=sock, backlog=self._backlog, **keep_file)
        factory.doStart()
        return Port(server, sock)


async def _unix_socket(address: str) -> socket.socket:
    """Connect, which is done at once or not at all. (``loop.sock_connect`` takes a full backlog for "under way".)"""
    with contextlib.ExitStack() as unless_connected:
        sock = unless_connected.enter_context(socket.socket(socket.AF_UNIX))
        sock.setblocking(False)
        while True:
            try:
                sock.connect(address)
                break
            except BlockingIOError:
                # The backlog is full, and nothing tells when there is room.
                await asyncio.sleep(_BACKLOG_PAUSE_S)
        unless_connected.pop_all()
    return sock


def _connect_error(cause: BaseException | None) -> Failure:
    """Twisted's error for the loop's."""
    if isinstance(cause, ssl.SSLError):
        # Of a certificate that is not believed only this says what is wrong with it.
        why = getattr(cause, "verify_message", None) or str(cause)
        translated: Exception = error.ConnectError(string=f"TLS: {why.rstrip('.')}")
    elif isinstance(cause, TimeoutError) and cause.errno is None:
        translated = error.TimeoutError()
    elif isinstance(cause, OSError) and len(cause.args) == 2:
        translated = error.getConnectError(cause)
    else:
        # Several addresses that all fail give one error without a number.
        translated = error.ConnectError(string=str(cause) or repr(cause))
    translated.__cause__ = cause
    return Failure(translated)


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """How a client speaks TLS: 1.2 or later; certificate and host name of the other side are verified.

    Raises:
        ConfigurationError: a file cannot be read, or is not what it should be.
    """
    if settings.ca is None:
        context = ssl.create_default_context()  # reads the system's authorities, for 20 ms
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load(lambda: context.load_verify_locations(settings.ca), f"ca={settings.ca!r}")
    # Not every build of Python says so itself; what the system's policy asks for beyond that stays.
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    if settings.cert is not None:
        cert, key = settings.cert, settings.key
        # Without a password a key that is encrypted is an error; without the argument OpenSSL would ask a terminal.
        _load(lambda: context.load_cert_chain(cert, key, password=""), f"cert={cert!r}, key={key!r}")
    return context


def _load(load: Callable[[], None], what: str) -> None:
    try:
        load()
    except OSError as problem:
        # OpenSSL's own errors are numbers and names of functions.
        why = "not what is expected, in PEM" if isinstance(problem, ssl.SSLError) else problem.strerror
        raise ConfigurationError(f"TLS: {what}: {why}") from problem


@implementer(IStreamClientEndpoint)
class StreamClientEndpoint:
    """Connects to a TCP address, with TLS if there is a context for it, or to a Unix socket.

    Fails when that takes longer than `timeout_s`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: tuple[str, int] | None = None,
        path: str | None = None,
        timeout_s: float = 5.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._loop = loop
        self._address = address
        self._path = path
        self._timeout_s = timeout_s
        self._tls = tls

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        connected: Deferred[IProtocol] = Deferred(lambda _: attempt.cancel())
        connecting = self._connect(lambda: LoopTransport(protocolFactory, connected))
        attempt: Deferred[None] = Deferred.fromFuture(asyncio.ensure_future(connecting, loop=self._loop))

        def too_late() -> None:
            # Not `asyncio.timeout`: where the loop has stood still, the time may be over in the very turn in which the
            # protocol has got its connection, and uvloop would close that without telling the protocol.
            if not connected.called:
                connected.errback(_connect_error(TimeoutError()))
                attempt.cancel()

        def failed(failure: Failure) -> None:
            if not connected.called:
                connected.errback(_connect_error(failure.value))

        limit = self._loop.call_later(self._timeout_s, too_late)
        # The protocol is delivered by `connection_made`; only a failure comes this way.
        attempt.addErrback(failed).addCallback(lambda _: limit.cancel())
        return connected

    async def _connect(self, build: Callable[[], asyncio.Protocol]) -> None:
        if self._path is None:
            assert self._address is not None
            # With TLS the host's name is what the certificate must be for.
            await self._loop.create_connection(build, *self._address, ssl=self._tls)
            return
        sock = await _unix_socket(unix_address(self._path))
        has_ended = True
        try:
            transport, _ = await self._loop.create_unix_connection(build, sock=sock)
            has_ended = transport.is_closing()
        finally:
            if has_ended and not isinstance(self._loop, asyncio.BaseEventLoop):
                # uvloop has closed the descriptor, whose number may be another socket's by now.
                sock.detach()
