"""For which pool a request is: the first one whose rules it fits, or a canary of that (`ifserver.config.pools`). Pure,
but for chance. A server without pools has no `Router`, and asks nothing.

Every client has a position, one of `POSITIONS` on a line, and keeps it. A pool with weight 5 of 100 has a twentieth of
the line. A canary's part begins at a point of its own and grows from there, so that with more weight it gets more
clients and keeps those that it had; a client that moves goes to a pool whose weight has grown, or away from one whose
weight has become less, until parts of several canaries meet.

Every server computes the same, and positions are the same for all pools: a page and its WebSocket, which may be for
two pools, get the canaries of both, or of neither.
"""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import translate
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from ifserver import channels
from ifserver import headers as h
from ifserver.config.networks import plain_address
from ifserver.config.pools import weights_of

if TYPE_CHECKING:
    from ifserver.config.pools import PoolSettings
    from ifserver.front.incoming_request import Incoming
    from ifserver.messages import Headers

__all__ = ["COOKIE", "POSITIONS", "Positions", "Router", "is_for_all", "layout", "share"]

#: So fine is a share: 0.01 %.
POSITIONS: Final = 10_000
#: The cookie that holds a client's position. It identifies no client: one in ten thousand has the same.
COOKIE: Final = b"ifserver_canary"
#: How long the cookie is kept, in seconds: for a week. Later a client gets a new position, so that it is not always
#: the same people on whom new versions are tried.
_MAX_AGE_S: Final = 7 * 86_400
_COOKIE_START: Final = COOKIE + b"="
_ATTRIBUTES: Final = b"; Path=/; Max-Age=%d; HttpOnly; SameSite=Lax" % _MAX_AGE_S
#: A cookie of that name, as the server has set it (RFC 6265 4.2.1), behind the start of a Cookie or another cookie.
_OWN: Final = re.compile(rb"(?:\A|;)[ \t]*" + COOKIE + rb"=([0-9]{1,4})[ \t]*(?:;|\Z)").search
#: What lets a response be given to other clients, and what forbids it (RFC 9111 5.2.2, RFC 8246).
_FOR_ALL: Final = re.compile(
    rb"(?:\A|[,\s])(?:(?:public|immutable|s-maxage)(?:\Z|[,=\s])|max-age[ \t]*=[ \t]*\"?0*[1-9])", re.IGNORECASE
).search
_FOR_ONE: Final = re.compile(rb"(?:\A|[,\s])(?:private|no-store)(?:\Z|[,\s])", re.IGNORECASE).search
#: Other fields by which a cache decides that it may store a response (RFC 9111 4.2, RFC 9213).
_STORABLE: Final = frozenset({b"expires", b"last-modified", b"cdn-cache-control", b"surrogate-control"})
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
        was, as in the settings."""
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
        """The request channel of a request; empty: no pool takes it. Where it is in `shared`, that decides which."""
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


# Canaries.


def share(weights: Sequence[float]) -> list[int]:
    """How many positions each of some weights has, of which one is more than 0. What is more than 0 has one at least.

    The first one has what the others leave.
    """
    total = sum(weights)
    counts = [max(1, round(POSITIONS * weight / total)) if weight else 0 for weight in weights]
    # The greatest takes what rounding leaves.
    counts[max(range(len(weights)), key=weights.__getitem__)] += POSITIONS - sum(counts)
    return counts


def layout(weights: Mapping[str, float]) -> list[str]:
    """Which pool has which position; `weights` of a pool and, behind it, of its canaries."""
    of, *canaries = weights
    _, *counts = share(list(weights.values()))
    line = [of] * POSITIONS
    for place, (canary, count) in enumerate(zip(canaries, counts, strict=True)):
        position = int(_start(place) * POSITIONS)
        while count:
            if line[position] == of:
                line[position] = canary
                count -= 1
            position = (position + 1) % POSITIONS
    return line


def _start(place: int) -> float:
    """Where the part of the canary at that place begins: 0, 1/2, 1/4, 3/4, 1/8, ... (van der Corput). So they are far
    apart, and a further one moves none of those before it."""
    start, part = 0.0, 0.5
    while place:
        start += part * (place % 2)
        place, part = place // 2, part / 2
    return start


class Positions:
    """The positions of clients.

    Args:
        by: ``front.canary_by``.
    """

    def __init__(self, by: str) -> None:
        self._by, _, name = by.partition(":")
        self._header = name.lower().encode() if self._by == "header" else b""
        named = re.compile(rb"(?:\A|;)[ \t]*" + re.escape(name.encode()) + rb"=([^;]*)").search
        self._start = name.encode() + b"="
        #: Finds the application's cookie; None: it does not matter.
        self._cookie = named if self._by == "cookie" and name else None

    def of(self, headers: Headers, peer: tuple[str, int] | None, secure: bool) -> tuple[int, bytes]:
        """The position of a client, and the Set-Cookie of a new one; empty: it needs none.

        Args:
            peer: its address.
            secure: whether it came by HTTPS.
        """
        if self._header:
            value = h.find(headers, self._header)
            if value:
                return _position(value), b""
        elif self._by == "address" and peer is not None:
            return _position_of_address(peer[0]), b""
        theirs = self._cookie
        own = None
        for name, value in headers:
            if name == b"cookie":
                if theirs is not None and (found := _cookie(value, self._start, theirs)) is not None:
                    return _position(found[1]), b""
                own = own or _cookie(value, _COOKIE_START, _OWN)
        if own is not None:
            return int(own[1]), b""
        position = int(random.random() * POSITIONS)
        return position, b"%b%d%b%b" % (_COOKIE_START, position, _ATTRIBUTES, b"; Secure" if secure else b"")


def _cookie(value: bytes, start: bytes, search: Callable[..., re.Match[bytes] | None]) -> re.Match[bytes] | None:
    """What `search` finds in a Cookie, where it finds nothing without `start`."""
    # Bytes are found in a tenth of the time that an expression takes from the beginning.
    at = value.find(start)
    return None if at < 0 else search(value, max(0, at - 2)) or search(value)


def is_for_all(status: int, headers: Headers) -> bool:
    """Whether caches may give a response to others: a cookie in it would be given to them too.

    The fields of a 304 replace those of what a cache has stored (RFC 9111 4.3.4).
    """
    if status == 304:
        return True
    found = False
    for name, value in headers:
        lower = name.lower()
        if lower == b"cache-control":
            if _FOR_ONE(value):
                return False
            found = found or _FOR_ALL(value) is not None
        elif lower in _STORABLE:
            found = True
    return found


def _position(value: bytes) -> int:
    return int.from_bytes(blake2b(value, digest_size=8).digest()) % POSITIONS


@lru_cache(4096)
def _position_of_address(host: str) -> int:
    try:
        address = plain_address(host.partition("%")[0])
    except ValueError:
        return _position(host.encode())
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            # A client has all addresses of a /64, and browsers change theirs (RFC 4291 2.5.4, RFC 8981).
            return _position(address.packed[:8])
        address = address.ipv4_mapped
    return _position(address.packed)
