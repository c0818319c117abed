"""Who has connected: as the transport has it, or as a proxy announces it that only passes bytes on, by the PROXY
protocol, versions 1 and 2.

"The specification" is HAProxy's ``doc/proxy-protocol.txt``. Not by twisted.protocols.haproxy: that refuses a header
which arrives in two pieces, raises on addresses and ports that are none, sets no time limit, trusts everybody, and
reports the address of the proxy until the header is there, which is when a protocol asks.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, IProtocolNegotiationFactory, ISSLTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from zope.interface import implementer

from ifserver.config.networks import parse_networks, plain_address
from ifserver.front.deadlines import Deadlines
from ifserver.net.endpoints import Address, LoopTransport

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from ifserver.clock import Clock
    from ifserver.front.server import InterfaceServer

__all__ = [
    "Addresses",
    "Announced",
    "AnnouncedFactory",
    "BadProxyHeader",
    "ProxyHeader",
    "addresses_of",
    "parse_header",
]

_BEGIN_V1: Final = b"PROXY "
#: The specification, 2.1: the longest line that there is, CRLF included.
_MAX_V1_BYTES: Final = 107
#: IP versions of the address families.
_FAMILIES_V1: Final = {b"TCP4": 4, b"TCP6": 6}
_BEGIN_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED_V2_BYTES: Final = 16
#: Addresses, and what proxies like to add to them: an AWS endpoint, the name in a TLS certificate. 64 KiB are allowed.
_MAX_V2_BYTES: Final = 4096
_LOCAL: Final = 0x20
_PROXY: Final = 0x21
#: The specification, 2.2.3: the proxy's own client spoke TLS to it, if the lowest bit of the first byte is set.
_TLV_SSL: Final = 0x20
_CLIENT_SSL: Final = 1
#: What must not reach a log or an application.
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")

_log = logging.getLogger(__name__)


#: Scheme, client and server of a connection: ``http`` or ``https``; None: it has no such address.
Addresses: TypeAlias = tuple[str, tuple[str, int] | None, tuple[str, int | None] | None]


class ProxyHeader(NamedTuple):
    """What a proxy announces of a connection."""

    #: Both of its ends at the proxy; None: those of the connection itself.
    client: Address | None
    server: Address | None
    #: Whether the client speaks TLS with the proxy.
    tls: bool
    #: Bytes of the header.
    length: int


class BadProxyHeader(Exception):
    """A header that is none, or not for us."""


def parse_header(data: bytes) -> ProxyHeader | None:
    """The header with which `data` begins; None while it is not complete.

    Raises:
        BadProxyHeader: there is none.
    """
    if data.startswith(_BEGIN_V2[: len(data)]):
        return _parse_v2(data)
    if data.startswith(_BEGIN_V1[: len(data)]):
        return _parse_v1(data)
    raise BadProxyHeader("no PROXY header")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _MAX_V1_BYTES)
    if end < 0:
        if len(data) >= _MAX_V1_BYTES:
            raise BadProxyHeader("a line that is too long")
        return None
    length = end + 2
    parts = data[:end].split(b" ")
    if parts[1] == b"UNKNOWN":
        return ProxyHeader(None, None, False, length)  # 2.1: what follows is ignored
    version = _FAMILIES_V1.get(parts[1])
    if len(parts) != 6 or version is None:
        raise BadProxyHeader(f"not a line of version 1: {data[:end]!r}")
    try:
        hosts = [plain_address(part.decode("ascii")) for part in parts[2:4]]
    except ValueError:
        raise BadProxyHeader(f"not an address: {data[:end]!r}") from None
    if any(host.version != version for host in hosts):
        raise BadProxyHeader(f"an address of another kind: {data[:end]!r}")
    client, server = (_tcp(host, _port(port)) for host, port in zip(hosts, parts[4:6], strict=True))
    return ProxyHeader(client, server, False, length)


def _tcp(host: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> Address:
    if isinstance(host, ipaddress.IPv6Address):
        if host.ipv4_mapped is None:
            return IPv6Address("TCP", str(host), port)
        host = host.ipv4_mapped
    return IPv4Address("TCP", str(host), port)


def _port(text: bytes) -> int:
    # 2.1: decimal, without leading zeros.
    if text.isdigit() and len(text) <= 5 and (text == b"0" or text[:1] != b"0") and int(text) <= 65535:
        return int(text)
    raise BadProxyHeader(f"not a port: {text!r}")


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED_V2_BYTES:
        return None
    command, family, size = struct.unpack_from("!BBH", data, len(_BEGIN_V2))
    if command not in (_LOCAL, _PROXY):
        raise BadProxyHeader(f"version and command 0x{command:02x}")
    length = _FIXED_V2_BYTES + size
    if length > _MAX_V2_BYTES:
        raise BadProxyHeader(f"a header of {length} bytes")
    if len(data) < length:
        return None
    if command == _LOCAL:
        return ProxyHeader(None, None, False, length)  # 2.2: by the proxy itself; what follows is ignored
    rest = data[_FIXED_V2_BYTES:length]
    client, server, used = _addresses_v2(family, rest)
    return ProxyHeader(client, server, _has_tls(rest[used:]), length)


def _addresses_v2(family: int, data: bytes) -> tuple[Address | None, Address | None, int]:
    """Both addresses, and the bytes that they take."""
    try:
        if family == 0x11:
            *packed, port, to_port = struct.unpack_from("!4s4sHH", data)
            client, server = map(ipaddress.IPv4Address, packed)
            return _tcp(client, port), _tcp(server, to_port), 12
        if family == 0x21:
            *packed, port, to_port = struct.unpack_from("!16s16sHH", data)
            client6, server6 = map(ipaddress.IPv6Address, packed)
            return _tcp(client6, port), _tcp(server6, to_port), 36
        if family == 0x31:
            path, to_path = struct.unpack_from("!108s108s", data)
            return _unix(path), _unix(to_path), 216
    except struct.error:
        raise BadProxyHeader("half an address") from None
    if family == 0:
        return None, None, 0  # 2.2: not known
    raise BadProxyHeader(f"address family and protocol 0x{family:02x}")


def _unix(path: bytes) -> UNIXAddress:
    path = path.rstrip(b"\0")
    # A name in Linux's abstract namespace starts with a NUL (unix(7)).
    if _CONTROL.search(path[1:] if path.startswith(b"\0") else path):
        raise BadProxyHeader(f"control characters in a path: {path!r}")
    return UNIXAddress(path or None)


def _has_tls(data: bytes) -> bool:
    """What the rest of a header, type-length-value triples, has on the client's TLS."""
    tls = False
    while data:
        if len(data) < 3:
            raise BadProxyHeader("half a triple")
        kind, length = struct.unpack_from("!BH", data)
        value, data = data[3 : 3 + length], data[3 + length :]
        if len(value) < length:
            raise BadProxyHeader("half a triple")
        if kind == _TLV_SSL and value:
            tls = bool(value[0] & _CLIENT_SSL)
    return tls


def addresses_of(transport: Any, announced: ProxyHeader | None) -> Addresses:
    """The addresses of a connection.

    Args:
        announced: what a proxy has announced of it before its first byte; None: nothing.
    """
    client, server, tls = transport.getPeer(), transport.getHost(), ISSLTransport.providedBy(transport)
    if announced is not None:
        client, server, tls = announced.client or client, announced.server or server, announced.tls or tls
    return "https" if tls else "http", _tcp_address(client), _host_address(server)


def _tcp_address(address: Any) -> tuple[str, int] | None:
    host = getattr(address, "host", None)
    return None if host is None else (host, address.port)


def _host_address(address: Any) -> tuple[str, int | None] | None:
    host = getattr(address, "host", None)
    if host is not None:
        return host, address.port
    name = getattr(address, "name", None)
    if name is None:
        return None
    # What is no UTF-8 could not be sent on.
    return (name.decode(errors="backslashreplace") if isinstance(name, bytes) else name), None


class Announced(Protocol):
    """A connection that waits for its header. Then it is another protocol's."""

    transport: Any

    def __init__(self, factory: AnnouncedFactory) -> None:
        self._factory = factory
        self._data = b""
        self._protocol: Any = None

    def connectionMade(self) -> None:
        problem = self._factory.waits(self)
        if problem is not None:
            self._refuse(problem)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._factory.done(self)
        if self._protocol is not None:
            self._protocol.connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        if self._protocol is not None:
            self._protocol.dataReceived(data)
            return
        if self not in self._factory.waiting:
            return  # refused
        self._data += data
        try:
            header = parse_header(self._data)
        except BadProxyHeader as error:
            self._refuse(str(error))
            return
        if header is not None:
            self._hand_over(header)

    def too_slow(self) -> None:
        """The header has not come in time."""
        self._refuse("no complete PROXY header in time")

    def abort(self) -> None:
        """Cut it."""
        self._factory.done(self)
        self.transport.abortConnection()

    def _refuse(self, why: str) -> None:
        self._factory.refused(self, why)
        self.abort()

    def _hand_over(self, header: ProxyHeader) -> None:
        self._factory.done(self)
        transport = self.transport
        rest, self._data = self._data[header.length :], b""
        protocol = self._protocol = self._factory.server.build(header.client or transport.getPeer(), header)
        if isinstance(transport, LoopTransport):
            transport.protocol = protocol
        protocol.makeConnection(transport)
        if rest:
            protocol.dataReceived(rest)


@implementer(IProtocolNegotiationFactory)
class AnnouncedFactory(Factory):
    """Builds what stands in front of the connections of `server` where a proxy announces them."""

    noisy = False

    def __init__(self, server: InterfaceServer, clock: Clock) -> None:
        self.server = server
        settings = server.settings
        self._networks = parse_networks(settings.proxy_protocol_networks, "front.proxy_protocol_networks")
        #: Those whose headers are not complete.
        self.waiting = Deadlines(clock, settings.proxy_protocol_timeout_s, Announced.too_slow)
        self._waiting: set[Announced] = set()

    def buildProtocol(self, addr: IAddress | None) -> Announced:
        return Announced(self)

    def acceptableProtocols(self) -> list[bytes]:
        """As those of the server (ALPN)."""
        return self.server.acceptableProtocols()

    def waits(self, connection: Announced) -> str | None:
        """`connection` is open; what is wrong with it."""
        host = getattr(connection.transport.getPeer(), "host", None)
        # The specification, 5: anybody that may connect could claim to be anybody.
        if host is not None and host not in self._networks:
            return f"{host} is no proxy that is trusted"
        if self.server.draining or len(self._waiting) >= self.server.settings.max_connections:
            return "too many connections wait for their headers"
        if self.server.admission.lacks_files():
            return "there are too many open files"
        self._waiting.add(connection)
        self.waiting.add(connection)
        return None

    def done(self, connection: Announced) -> None:
        """`connection` waits no longer."""
        self._waiting.discard(connection)
        self.waiting.pop(connection, None)

    def refused(self, connection: Announced, why: str) -> None:
        """`connection` is being closed."""
        self.server.exchanges.counters.add("connections_refused", label="proxy")
        peer: Any = connection.transport.getPeer()
        # A Unix socket's client has no address.
        _log.info("refusing a connection from %s: %s", getattr(peer, "host", "a Unix socket"), why)

    def stop(self) -> None:
        """Cut those that wait."""
        for connection in list(self._waiting):
            connection.abort()
        self.waiting.stop()
