"""Whom a connection leads to, and how: as its transport knows it, or as a proxy has announced it."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from twisted.internet.interfaces import ISSLTransport

from ifserver.net.endpoints import Address

__all__ = ["Addresses", "ProxyHeader", "addresses_of"]

#: Scheme, client and server of a connection: ``http`` or ``https``; None: it has no such address.
Addresses: TypeAlias = tuple[str, tuple[str, int] | None, tuple[str, int | None] | None]


class ProxyHeader(NamedTuple):
    """What a proxy tells of a connection."""

    #: Both of its ends at the proxy; None: those of the connection itself.
    client: Address | None
    server: Address | None
    #: Whether the client speaks TLS with the proxy.
    tls: bool
    #: Bytes of the header.
    length: int


def addresses_of(transport: Any, announced: ProxyHeader | None) -> Addresses:
    """The addresses of a connection.

    Args:
        announced: what a proxy has said of it before its first byte; None: nothing.
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
