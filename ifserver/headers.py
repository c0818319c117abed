"""Header rules, pure: what a name and a value may be, what proxies say of the client, and what a path's escapes mean.

Names are lower-case bytes throughout; order and duplicates are kept.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from ifserver.config.networks import Networks, address_text, plain_address
from ifserver.messages import Headers

__all__ = [
    "LENGTH_DIGITS",
    "OURS_IN_HANDSHAKE",
    "bad_field",
    "bad_in_value",
    "find",
    "is_token",
    "is_value",
    "length",
    "list_items",
    "percent_decoded",
    "seen_by_proxies",
    "values",
]

#: What of a handshake's answer is ours to say (RFC 6455 4.2.2), or would change its framing.
OURS_IN_HANDSHAKE: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"transfer-encoding",
        b"upgrade",
    }
)
#: RFC 9110 5.6.2.
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
#: RFC 9110 5.5: what may stand in a value; obs-text is let through.
#: The first character that may not, or None: `is_value` for those who ask for every field of every response.
bad_in_value: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
#: One ``key=value`` of a Forwarded element, the value bare or quoted (RFC 7239 4).
_FORWARDED_PAIR: Final = re.compile(
    r"""(?:\A|;)\s*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^\s;"]*)\s*(?=;|\Z)"""
)

#: A percent sign that begins no escape (RFC 3986 2.1).
_LONE_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")

#: What proxies may say of the scheme, WebSockets' included, and what it comes to.
_SCHEMES: Final = {"https": "https", "wss": "https", "http": "http", "ws": "http"}
#: More digits than any body has; ``int()`` takes long over very many, and raises where there are thousands.
LENGTH_DIGITS: Final = 18
#: Items of a list that are looked at: more than anybody means. There is room for tens of thousands in a header.
_MAX_ITEMS: Final = 100
#: More characters than an address and a port have, and than an element of Forwarded.
_MAX_NODE: Final = 100
_MAX_ELEMENT: Final = 1000
_MAX_PORT: Final = 65535


def is_token(name: bytes) -> bool:
    """Whether `name` may be a header's name or a method (RFC 9110 5.6.2)."""
    return _TOKEN.match(name) is not None


def is_value(value: bytes) -> bool:
    """Whether `value` may be a header's value: no CR, LF, NUL or other control but the tab (RFC 9110 5.5)."""
    return bad_in_value(value) is None


def bad_field(name: bytes, value: bytes) -> str:
    """What is wrong with a header field, for the log: without its value, which may be a cookie."""
    bad = next((f"{byte:#04x} at {i}" for i, byte in enumerate(value) if not is_value(bytes([byte]))), "nothing wrong")
    return f"not a header field: {name[:80]!r} with a value of {len(value)} bytes and {bad} in it"


def length(value: bytes) -> int | None:
    """The number in a Content-Length (RFC 9110 8.6); None: it is none, or one that no body has."""
    return int(value) if value.isdigit() and len(value) <= LENGTH_DIGITS else None


def percent_decoded(path: bytes) -> bytes:
    """What the escapes in a path mean (RFC 3986 2.1). A percent sign that begins none stays, as with ``unquote``.

    ``urllib`` takes a step of Python for each escape, and three times as long; a client may send tens of thousands.
    """
    # As text: to join so many bytes takes 80 bytes of memory for each.
    escaped = _LONE_PERCENT.sub("%25", path.decode("latin-1")).replace("\\", r"\\").replace("%", r"\x")
    return escaped.encode("latin-1").decode("unicode_escape").encode("latin-1")


def find(headers: Headers, name: bytes) -> bytes | None:
    """The first value of `name`."""
    for key, value in headers:
        if key == name:
            return value
    return None


def values(headers: Headers, name: bytes) -> list[bytes]:
    """All values of `name`, in order."""
    return [value for key, value in headers if key == name]


def list_items(headers: Headers, name: bytes, last: bool = False) -> list[bytes]:
    """The items of all the comma-separated lists of `name`, in order, without empty ones (RFC 9110 5.6.1).

    Args:
        last: which of more than there should be, the last ones or the first.
    """
    whole = b",".join(values(headers, name))
    parts = whole.rsplit(b",", _MAX_ITEMS)[-_MAX_ITEMS:] if last else whole.split(b",", _MAX_ITEMS)[:_MAX_ITEMS]
    return [item for part in parts if (item := part.strip(b" \t"))]


def seen_by_proxies(
    headers: Headers, peer: tuple[str, int] | None, scheme: str, trusted: Networks
) -> tuple[tuple[str, int] | None, str]:
    """The client's address and scheme as trusted proxies saw them.

    The address is the rightmost one of ``X-Forwarded-For`` or else ``Forwarded`` (RFC 7239) that is not itself in a
    trusted network; what stands further left was written by somebody who is not trusted. The scheme is that of the
    same hop. From an untrusted peer nothing changes. A peer without an address (a Unix socket) is trusted.

    ``X-Forwarded-For`` goes first because most proxies add to it, and pass on a ``Forwarded`` as the client wrote it.
    """
    if peer is not None and peer[0] not in trusted:
        return peer, scheme
    protos = [item.decode("latin-1").lower() for item in list_items(headers, b"x-forwarded-proto", True)]
    fors = [item.decode("latin-1") for item in list_items(headers, b"x-forwarded-for", True)]
    # A comma between quotes is not minded: no address or scheme has one, and a quote that the client has left open
    # must not swallow what a proxy has added behind it.
    hops = [] if fors else [_forwarded_hop(item.decode("latin-1")) for item in list_items(headers, b"forwarded", True)]
    if fors:
        # With one scheme for many hops, it is that of the outermost proxy, which all others passed on.
        hops = [
            (node, protos[i] if len(protos) == len(fors) else protos[-1] if protos else "")
            for i, node in enumerate(fors)
        ]
    elif not hops:
        return peer, _SCHEMES.get(protos[-1] if protos else "", scheme)
    client = peer
    for node, proto in reversed(hops):
        address = _address(node)
        if address is None:
            break
        client, scheme = address, _SCHEMES.get(proto, scheme)
        if address[0] not in trusted:
            break
    return client, scheme


def _address(node: str) -> tuple[str, int] | None:
    """Host and port (0: unknown) of a node name of RFC 7239 6, with or without brackets; None if it is no address."""
    node = node.strip()
    return _parsed_address(node) if len(node) <= _MAX_NODE else None


# A client sends many requests.
@lru_cache(4096)
def _parsed_address(node: str) -> tuple[str, int] | None:
    host, port = node, ""
    if node.startswith("["):
        host, _, rest = node[1:].partition("]")
        port = rest.removeprefix(":")
    elif node.count(":") == 1:
        host, _, port = node.partition(":")
    try:
        address = plain_address(host)
    except ValueError:
        return None
    number = int(port) if port.isascii() and port.isdigit() else 0
    return address_text(address), number if number <= _MAX_PORT else 0


def _forwarded_hop(element: str) -> tuple[str, str]:
    """``for`` and ``proto`` of one element of Forwarded."""
    if len(element) > _MAX_ELEMENT:
        return "", ""
    pairs = {key.lower(): value for key, value in _FORWARDED_PAIR.findall(element)}
    return _unquoted(pairs.get("for", "")), _unquoted(pairs.get("proto", "")).lower()


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
