"""Networks in CIDR notation (RFC 4632), and which addresses are in them; how addresses are written. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final, TypeAlias

from ifserver.errors import ConfigurationError

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Addresses that are remembered, with whether they belong.
_REMEMBERED: Final = 4096
#: No address is longer (the longest has 45 characters, and the name of an interface behind it).
_MAX_CHARACTERS: Final = 100

#: What all IPv4 addresses have in common that are written as IPv6 (RFC 4291 2.5.5.2).
_MAPPED_BITS: Final = 96


class Networks:
    """Some networks. ``host in networks``: whether one of them has this address, however it is written.

    A server behind a proxy asks for each request, and nearly always for the same addresses: they are remembered.
    """

    __slots__ = ("_networks", "_remembered")

    def __init__(self, networks: Iterable[_Network] = ()) -> None:
        self._networks = tuple(networks)
        self._remembered = lru_cache(_REMEMBERED)(self._look_up)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __iter__(self) -> Iterator[_Network]:
        return iter(self._networks)

    def __contains__(self, host: str) -> bool:
        return len(host) <= _MAX_CHARACTERS and self._remembered(host)

    def _look_up(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def plain_address(text: str) -> _Address:
    """The address that another host has sent as `text`.

    A zone (``fe80::1%eth0``) is refused: it names an interface of the other host and means nothing here (RFC 4007
    11.2), and `ipaddress` allows any characters in it, line feeds included.

    Raises:
        ValueError: not an address, or one with a zone.
    """
    if "%" in text:
        raise ValueError(f"an address with a zone: {text!r}")
    return ipaddress.ip_address(text)


def address_text(address: _Address) -> str:
    """`address` in the form in which the socket module writes it.

    It differs from ``str()`` in IPv4-mapped addresses: these are ``::ffff:192.0.2.1`` (RFC 5952 5) on every version of
    Python, not ``::ffff:c000:201``, as ``str()`` has it before Python 3.13.
    """
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(address) if mapped is None else f"::ffff:{mapped}"


def parse_networks(texts: Iterable[str], path: str) -> Networks:
    """The networks in CIDR notation (a bare address is a network of one).

    Raises:
        ConfigurationError: one of them is none; it names the setting at `path`.
    """
    networks: list[_Network] = []
    for text in texts:
        try:
            network: _Network = ipaddress.ip_network(text)
        except ValueError as error:
            raise ConfigurationError(f"{path}: {error}") from error
        # As `Networks` has the addresses.
        mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
        if mapped is not None and network.prefixlen >= _MAPPED_BITS:
            network = ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
        networks.append(network)
    return Networks(networks)


def unix_address(path: str) -> str:
    """The address of the Unix socket `path`; a leading ``@`` stands for Linux's abstract namespace."""
    return "\0" + path[1:] if path.startswith("@") else path
