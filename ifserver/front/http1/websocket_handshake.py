"""The handshake of a WebSocket: what the client may ask (RFC 6455 4.2.1), and what the application may answer. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Final

from ifserver import headers as h
from ifserver import messages as m
from ifserver.front.http1.response_heads import bad_field
from ifserver.front.incoming_request import Incoming

__all__ = ["is_websocket_upgrade", "problem_of_accept", "websocket_problem"]

#: RFC 6455 4.2.1: a key is 16 bytes in base64.
_KEY_BYTES: Final = 16


def is_websocket_upgrade(incoming: Incoming) -> bool:
    """Whether the client asks for a WebSocket, rightly or not (RFC 6455 4.1).

    What is offered in HTTP/1.0 must be ignored (RFC 9110 7.8).
    """
    if not incoming.upgrade or incoming.method != "GET" or incoming.http_version != "1.1":
        return False
    return b"websocket" in (item.lower() for item in h.list_items(incoming.headers, b"upgrade"))


def websocket_problem(incoming: Incoming, allowed_origins: Sequence[str] = ()) -> tuple[int, str] | None:
    """What is wrong with a WebSocket handshake: the status to answer and why; None if it is right (RFC 6455 4.2.1)."""
    # RFC 6455 4.2.1: one value, 13. Another one beside it may be what the client means.
    if h.values(incoming.headers, b"sec-websocket-version") != [b"13"]:
        return 426, "only version 13 of the WebSocket protocol is spoken here"
    keys = h.values(incoming.headers, b"sec-websocket-key")
    try:
        valid = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == _KEY_BYTES
    except binascii.Error:
        valid = False
    if not valid:
        return 400, "not a Sec-WebSocket-Key"
    origins = h.values(incoming.headers, b"origin")
    if allowed_origins and origins and (len(origins) > 1 or origins[0].decode("latin-1") not in allowed_origins):
        return 403, "pages of this origin may not open WebSockets"  # RFC 6455 4.2.2
    return None


def problem_of_accept(message: m.WebSocketAccept) -> str | None:
    """What is wrong with the answer to a handshake; None: nothing, so that it can be written as it is."""
    subprotocol = message.subprotocol or ""
    try:
        subprotocol_fits = h.is_value(subprotocol.encode("latin-1"))
    except UnicodeEncodeError:
        subprotocol_fits = False
    if not subprotocol_fits:
        return f"not a subprotocol: {subprotocol[:80]!r}"
    for name, value in message.headers:
        if not h.is_token(name) or not h.is_value(value):
            return bad_field(name, value)
        if name.lower() in h.OURS_IN_HANDSHAKE:
            return f"{name!r} is not for the application to say"
    return None
