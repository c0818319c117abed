"""For which pool a request is: the first one whose rules it fits (`ifserver.config.pools`). Pure.

A server without pools has no `Router`, and asks nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import translate
from typing import Final, NamedTuple

from ifserver import channels
from ifserver import headers as h
from ifserver.config.pools import PoolSettings
from ifserver.front.incoming import Incoming

__all__ = ["Router"]

#: The port behind the host in a Host header (RFC 9110 7.2), and the brackets of an IPv6 address.
_PORT: Final = re.compile(r":\d*\Z")

_Match = Callable[[str], object]


class _Rule(NamedTuple):
    """Which requests are offered on one request channel. None: all."""

    methods: frozenset[str] | None
    path: _Match | None
    host: _Match | None
    channel: str


class Router:
    """The pools of one server.

    Args:
        pools: in their order.
    """

    def __init__(self, pools: Sequence[PoolSettings]) -> None:
        self._http = _rules(pools, "http", channels.HTTP_REQUEST)
        self._websocket = _rules(pools, "websocket", channels.WEBSOCKET_CONNECT)
        #: All request channels, in the order of the pools, and the name of the pool of each, for people.
        self.channels = {
            channels.of_pool(pool.name, name): pool.name for pool in pools for name in channels.REQUEST_CHANNELS
        }

    def http(self, incoming: Incoming) -> str:
        """The request channel of a request; empty: no pool takes it."""
        return _first(self._http, incoming)

    def websocket(self, incoming: Incoming) -> str:
        """The same for a WebSocket's handshake."""
        return _first(self._websocket, incoming)


def _first(rules: Sequence[_Rule], incoming: Incoming) -> str:
    method, path, host = incoming.method, incoming.path, None
    for methods, fits_path, fits_host, channel in rules:
        if methods is not None and method not in methods:
            continue
        if fits_path is not None and not fits_path(path):
            continue
        if fits_host is not None:
            if host is None:
                host = _host_of(incoming)
            if not fits_host(host):
                continue
        return channel
    return ""


def _rules(pools: Sequence[PoolSettings], protocol: str, channel: str) -> tuple[_Rule, ...]:
    return tuple(
        _Rule(
            frozenset(pool.methods) or None,
            _matcher(pool.paths),
            _matcher(host.lower() for host in pool.hosts),
            channels.of_pool(pool.name, channel),
        )
        for pool in pools
        if protocol in pool.protocols
    )


def _matcher(patterns: Iterable[str]) -> _Match | None:
    """Whether one of the patterns fits, as one regular expression; None: there are none, so that everything does."""
    found = "|".join(map(translate, patterns))
    return re.compile(found).match if found else None


def _host_of(incoming: Incoming) -> str:
    """The host that a request names, without its port; empty: it names none (HTTP/1.0)."""
    field = h.find(incoming.headers, b"host")
    host = "" if field is None else field.decode("latin-1").lower()
    return _PORT.sub("", host).removeprefix("[").removesuffix("]")
