"""For which pool a request is: the first one whose rules it fits, or a canary of that (`ifserver.config.pools`). Pure.

A server without pools has no `Router`, and asks nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import translate
from typing import Final, NamedTuple

from ifserver import channels
from ifserver import headers as h
from ifserver.config.canaries import weights_of
from ifserver.config.pools import PoolSettings
from ifserver.front.exchanges.canaries import layout
from ifserver.front.incoming_request import Incoming

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
        takers = [pool for pool in pools if pool.canary_of is None]
        self._http = _rules(takers, "http", channels.HTTP_REQUEST)
        self._websocket = _rules(takers, "websocket", channels.WEBSOCKET_CONNECT)
        self._in_settings = weights_of(pools)
        #: The weights that hold, by the pool whose requests are shared, and by pool.
        self.weights: dict[str, dict[str, float]] = {}
        #: The request channels whose requests are shared, and that of each position (see `canaries`).
        self.shared: dict[str, list[str]] = {}
        self.weigh({})
        #: All request channels, in the order of the pools, and the name of the pool of each, for people.
        self.channels = {
            channels.of_pool(pool.name, name): pool.name for pool in pools for name in channels.REQUEST_CHANNELS
        }

    def weigh(self, ordered: Mapping[str, Mapping[str, float]]) -> None:
        """Let requests that begin now be shared as was `ordered`, by the pool whose requests they are; where nothing
        was, as the settings say."""
        self.weights, self.shared = {}, {}
        for of, settings in self._in_settings.items():
            given = ordered.get(of, settings)
            weights = {name: given.get(name, 0.0) for name in settings}
            if not any(weights.values()):
                weights = settings  # it was for pools that are not here
            self.weights[of] = weights
            if any(weights[name] for name in weights if name != of):
                line = layout(weights)
                for channel in (channels.HTTP_REQUEST, channels.WEBSOCKET_CONNECT):
                    by_pool = {name: channels.of_pool(name, channel) for name in weights}
                    self.shared[by_pool[of]] = [by_pool[name] for name in line]

    def begins(self, before: Mapping[str, Mapping[str, float]]) -> bool:
        """Whether a canary has a share that had none `before`."""
        return any(
            weight and name != of and not before.get(of, {}).get(name)
            for of, weights in self.weights.items()
            for name, weight in weights.items()
        )

    def http(self, incoming: Incoming) -> str:
        """The request channel of a request; empty: no pool takes it. Where it is in `shared`, that says which."""
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
