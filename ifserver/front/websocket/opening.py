"""How WebSockets are opened: what the client may ask in its handshake (RFC 6455 4.2), what the application may answer,
and when they have to end.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING, Final

from ifserver import headers as h
from ifserver.front.deadlines import Deadlines
from ifserver.front.websocket import deflate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ifserver import messages as m
    from ifserver.clock import Clock
    from ifserver.config.settings import FrontSettings
    from ifserver.front.access_log import Entry
    from ifserver.front.exchanges.exchange import Exchange
    from ifserver.front.incoming_request import Incoming
    from ifserver.front.server import Connection, InterfaceServer
    from ifserver.front.websocket.connection import WebSocketConnection

__all__ = ["WebSockets", "problem_of_accept", "websocket_problem"]

#: RFC 6455 4.2.1: a key is 16 bytes in base64.
_KEY_BYTES: Final = 16
#: RFC 6455 1.3.
_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


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
            return h.bad_field(name, value)
        if name.lower() in h.OURS_IN_HANDSHAKE:
            return f"{name!r} is not for the application to set"
    return None


def _answer(incoming: Incoming, accept: m.WebSocketAccept, agreement: deflate.Agreement | None) -> bytes:
    """The bytes of the answer to the handshake (RFC 6455 4.2.2)."""
    key = h.find(incoming.headers, b"sec-websocket-key") or b""
    digest = base64.b64encode(hashlib.sha1(key + _ACCEPT_GUID).digest())
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"upgrade: websocket",
        b"connection: Upgrade",
        b"sec-websocket-accept: " + digest,
    ]
    if accept.subprotocol is not None:
        lines.append(b"sec-websocket-protocol: " + accept.subprotocol.encode("latin-1"))
    if agreement is not None:
        lines.append(b"sec-websocket-extensions: " + agreement.answer)
    lines += [name + b": " + value for name, value in accept.headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class WebSockets:
    """Opens the WebSockets of `server`, and ends those that are open for too long."""

    def __init__(self, server: InterfaceServer, clock: Clock) -> None:
        self._server = server
        self._clock = clock
        #: Ends them; empty while websocket_timeout_s is none.
        self.lifetimes: Deadlines[Connection] = Deadlines(
            clock, server.settings.websocket_timeout_s or 0.0, lambda each: each.shut_down()
        )
        #: Made when it is needed.
        self._protocol: type[WebSocketConnection] | None = None

    def change(self, settings: FrontSettings) -> None:
        """Open them with `settings` from now on; a longest life has its new length also for those that are open."""
        self._protocol = None
        if settings.websocket_timeout_s is None:
            self.lifetimes.take_all()
        else:
            self.lifetimes.change(settings.websocket_timeout_s)

    def open(
        self, exchange: Exchange, incoming: Incoming, accept: m.WebSocketAccept, entry: Entry | None
    ) -> WebSocketConnection:
        """The connection of a WebSocket that the application has accepted; `entry` will be logged at its end."""
        settings = self._server.settings
        agreement = None
        if settings.websocket_compression:
            agreement = deflate.agree(incoming.headers, settings.websocket_compression_window_bits)
        answer = _answer(incoming, accept, agreement)
        websocket = self.protocol()(self._server, exchange, answer, agreement, entry)
        if settings.websocket_timeout_s is not None:
            self.lifetimes.add(websocket)
        return websocket

    def protocol(self) -> type[WebSocketConnection]:
        """The protocol of WebSockets. Importing autobahn takes 50 ms of CPU and 6 MB, so that is done when the first
        one is accepted, or before, by a caller that knows that one will be."""
        if self._protocol is None:
            from ifserver.front.websocket.connection import WebSocketConnection
            from ifserver.front.websocket.frames import configured

            self._protocol = configured(WebSocketConnection, self._server.settings, self._clock)
        return self._protocol
