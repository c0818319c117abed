"""Which client gets which of the pools that share requests (`ifserver.config.canaries`). Pure, but for chance.

Every client has a position, one of `POSITIONS` on a line, and keeps it. A pool with weight 5 of 100 has a twentieth of
the line. A canary's part begins at a point of its own and grows from there, so that with more weight it gets more
clients and keeps those that it had; whoever moves, moves to a pool whose weight has grown, or away from one whose
weight has become less, until parts of several canaries meet.

Every server computes the same, and positions are the same for all pools: a page and its WebSocket, which may be for
two pools, get the canaries of both, or of neither.
"""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from ifserver import headers as h
from ifserver.config.networks import plain_address
from ifserver.messages import Headers

__all__ = ["COOKIE", "POSITIONS", "Positions", "is_for_all", "layout", "share"]

#: So fine is a share: 0.01 %.
POSITIONS: Final = 10_000
#: The cookie that holds a client's position. It names nobody: one client in ten thousand has the same.
COOKIE: Final = b"ifserver_canary"
#: How long the cookie is kept, in seconds: for a week. Who comes later gets a new position, so that it is not always
#: the same people on whom new versions are tried.
_MAX_AGE_S: Final = 7 * 86_400
_COOKIE_START: Final = COOKIE + b"="
_ATTRIBUTES: Final = b"; Path=/; Max-Age=%d; HttpOnly; SameSite=Lax" % _MAX_AGE_S
#: A cookie of that name, as the server has set it (RFC 6265 4.2.1), behind the start of a Cookie or another cookie.
_OWN: Final = re.compile(rb"(?:\A|;)[ \t]*" + COOKIE + rb"=([0-9]{1,4})[ \t]*(?:;|\Z)").search
#: What says that a response may be given to other clients, and what says that it may not (RFC 9111 5.2.2, RFC 8246).
_FOR_ALL: Final = re.compile(
    rb"(?:\A|[,\s])(?:(?:public|immutable|s-maxage)(?:\Z|[,=\s])|max-age[ \t]*=[ \t]*\"?0*[1-9])", re.IGNORECASE
).search
_FOR_ONE: Final = re.compile(rb"(?:\A|[,\s])(?:private|no-store)(?:\Z|[,\s])", re.IGNORECASE).search
#: Other fields by which a cache decides that it may store a response (RFC 9111 4.2, RFC 9213).
_STORABLE: Final = frozenset({b"expires", b"last-modified", b"cdn-cache-control", b"surrogate-control"})


def share(weights: Sequence[float]) -> list[int]:
    """How many positions each of some weights has, of which one is more than 0. What is more than 0 has one at least.

    The first one has what the others leave.
    """
    total = sum(weights)
    counts = [max(1, round(POSITIONS * weight / total)) if weight else 0 for weight in weights]
    # Rounding is the affair of the greatest.
    counts[max(range(len(weights)), key=weights.__getitem__)] += POSITIONS - sum(counts)
    return counts


def layout(weights: Mapping[str, float]) -> list[str]:
    """Who has which position; `weights` of a pool and, behind it, of its canaries."""
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
        """The position of a client, and the Set-Cookie that tells it to a new one; empty: it need not be told.

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
