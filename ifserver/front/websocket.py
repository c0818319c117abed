"""A client's WebSocket, on autobahn, whose only importer this is.

autobahn never sees the client's handshake: `http1` has parsed it. It is handed a canonical one that is written here,
and the answer that it would give is replaced by ours, so that nothing of what it read comes back (CVE-2026-44546 was a
second parser that disagreed with the first). It decides about permessage-deflate (RFC 7692), and from then on frames.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket import protocol as _autobahn
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ifserver import headers as h
from ifserver import messages as m
from ifserver.clock import Clock, Timer
from ifserver.front.admission import Key
from ifserver.front.requests import Incoming
from ifserver.settings import FrontSettings
from ifserver.streams.effects import ClientFailed, ClientGone, Flushed, MessageReceived
from ifserver.streams.window import message_bytes

if TYPE_CHECKING:
    from ifserver.front.driver import Exchange
    from ifserver.front.server import InterfaceServer

__all__ = ["WebSocketConnection", "make_factory"]

#: RFC 6455 1.3.
_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: RFC 6455 7.4.1: no code was given; the server goes away; a message too big; an unexpected condition.
_NO_STATUS: Final = 1005
_GOING_AWAY: Final = 1001
_TOO_BIG: Final = 1009
_INTERNAL_ERROR: Final = 1011
#: Codes that stand for what never was in a close frame (RFC 6455 7.4.1).
_NEVER_SENT: Final = frozenset({1004, 1005, 1006, 1015})
#: RFC 6455 5.5: a control frame holds 125 bytes, of which the code takes two.
_MAX_REASON_BYTES: Final = 123
_TEXT: Final = 1
_BINARY: Final = 2
#: Pieces of a message that are kept beside each other; more are put together.
_MAX_PIECES: Final = 1024
#: RSV1, in the first byte of a frame: the message is compressed (RFC 7692 6).
_COMPRESSED: Final = 0x40
#: FIN, in the same place: this is all of the message (RFC 6455 5.2).
_WHOLE: Final = 0x80

_log = logging.getLogger(__name__)


def _as_it_is(value: object) -> object:
    return value


# What autobahn formats for debug lines of each connection, all of its settings among it, whether or not anybody reads
# them: a fifth of what a connection costs. There is no setting and no method for it.
for _name in ("pformat", "hltype", "hlval"):
    setattr(_autobahn, _name, _as_it_is)


class _QuietLog:
    """autobahn formats a text for each message that it logs; nobody reads them, and they cost a third of an echo."""

    def debug(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    info = warn = error = trace = debug


class _Timers:
    """autobahn's own timers ask for the global reactor, and search a list when one is cancelled."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def call_later(self, delay: float, call: Callable[..., Any], *args: Any) -> Timer:
        """Call `call` in `delay` seconds."""
        return self._clock.callLater(delay, call, *args)


def make_factory(settings: FrontSettings, reactor: Any) -> WebSocketServerFactory:
    """What autobahn needs to know, once for all connections. Its own sizes default to unlimited."""
    factory = WebSocketServerFactory(reactor=reactor)
    factory._batched_timer = _Timers(reactor)
    factory.setProtocolOptions(
        maxFramePayloadSize=settings.max_websocket_message_bytes,
        maxMessagePayloadSize=settings.max_websocket_message_bytes,
        utf8validateIncoming=True,
        requireMaskedClientFrames=True,
        failByDrop=False,
        echoCloseCodeReason=True,
        openHandshakeTimeout=0,  # ours has ended when autobahn's begins
        closeHandshakeTimeout=settings.close_timeout_s,
        autoPingInterval=settings.ping_interval_s or None,
        autoPingTimeout=settings.ping_timeout_s if settings.ping_interval_s else None,
        autoPingSize=12,
        autoPingRestartOnAnyTraffic=True,
    )
    return factory


def _frame_head(opcode: int, length: int) -> bytes:
    """What stands before a message of a server that is sent in one frame (RFC 6455 5.2)."""
    if length < 126:
        return bytes((_WHOLE | opcode, length))
    if length < 65536:
        return bytes((_WHOLE | opcode, 126)) + length.to_bytes(2, "big")
    return bytes((_WHOLE | opcode, 127)) + length.to_bytes(8, "big")


class _Bounded(WebSocketServerProtocol):
    """autobahn, where it would let what a client sends grow."""

    transport: Any
    _max_fragments: int
    _fragments = 0
    _write_paused = False
    # What the client has done wrong, as close code and text, while that is not told it.
    _failure: tuple[int, str] | None = None
    # The answer to the last ping that has come while the client takes nothing.
    _pong: bytes | None = None

    def _onMessageFrameBegin(self, length: int) -> None:
        self._fragments += 1
        if self._fragments > self._max_fragments and not self.failedByMe:
            # RFC 6455 10.4 has frames that are too many under the same limit as bytes that are too many: 1009.
            self._max_message_size_exceeded(self._fragments, self._max_fragments, "too many frames")
        self.onMessageFrameBegin(length)

    def _onMessageFrameData(self, payload: bytes) -> None:
        if not self.failedByMe:
            pieces = self.message_data
            pieces.append(payload)
            if len(pieces) > _MAX_PIECES:
                # They may be of one byte each, around which Python needs forty.
                self.message_data = [b"".join(pieces)]

    def _onMessageFrameEnd(self) -> None:
        """The message has all of it already."""

    def _onPing(self, payload: bytes) -> None:
        if self._write_paused:
            self._pong = payload  # RFC 6455 5.5.3: one may answer only the most recent ping
        else:
            self.onPing(payload)

    def _send_late_pong(self) -> None:
        if self._pong is not None:
            payload, self._pong = self._pong, None
            self.onPing(payload)


@implementer(IPushProducer)
class WebSocketConnection(_Bounded):
    """One client's WebSocket, from the accepted handshake on."""

    log = _QuietLog()
    #: As whose connection it is counted.
    key: Key = None
    # autobahn's, whose types are not told or too narrow.
    autoPingTimeout: float
    autoPingTimeoutCall: Any
    closeHandshakeTimeout: float
    closeHandshakeTimeoutCall: Any

    def __init__(
        self, server: InterfaceServer, exchange: Exchange, incoming: Incoming, accept: m.WebSocketAccept
    ) -> None:
        super().__init__()
        self.factory = server.websocket_factory
        self._server = server
        self._exchange: Exchange | None = exchange
        self._extensions = b""
        self._handshake = (incoming, accept)
        self._max_fragments = server.settings.max_websocket_fragments
        self._unflushed: list[int] = []
        self._reading = True

    # Opening.

    def connectionMade(self) -> None:
        self.peer = ""
        self._connectionMade()
        incoming, _ = self._handshake
        self._dataReceived(_canonical_handshake(incoming, self._server.settings.websocket_compression))
        del self._handshake
        # A kilobyte and a half that an open WebSocket has no use for: what was said in the handshake, and a queue (760
        # bytes while it is empty) for bytes that are sent in pieces, which ours never are.
        del self.http_headers, self.http_request_data, self.http_request_params, self.http_response_data
        self.send_queue: Any = ()
        self._server.connected(self)
        self.transport.registerProducer(self, True)

    def perMessageCompressionAccept(self, offers: list[Any]) -> Any:
        """Which of the client's offers to compress is taken: the first of permessage-deflate (RFC 7692 5)."""
        for offer in offers:
            if isinstance(offer, PerMessageDeflateOffer):
                accept = PerMessageDeflateOfferAccept(offer)
                self._extensions = accept.get_extension_string().encode("ascii")
                return accept
        return None

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        if self.state == self.STATE_CONNECTING:
            data = self._head(*self._handshake)
        self._server.tally.websocket_bytes_out += len(data)
        self.transport.write(data)

    def _head(self, incoming: Incoming, accept: m.WebSocketAccept) -> bytes:
        """The answer to the handshake (RFC 6455 4.2.2)."""
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
        if self._extensions:
            lines.append(b"sec-websocket-extensions: " + self._extensions)
        lines += self._server.head_writer.default_lines()
        lines += [name + b": " + value for name, value in accept.headers]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    # What the client sends.

    def dataReceived(self, data: bytes) -> None:
        self._server.tally.websocket_bytes_in += len(data)
        self._dataReceived(data)  # without the text that autobahn makes for its log

    def _onMessageEnd(self) -> None:
        # In place of autobahn's, which looks for listeners besides. What comes behind our close frame is of no use.
        if self._exchange is not None and self.state == self.STATE_OPEN:
            self._fragments = 0
            pieces, self.message_data = self.message_data, []
            payload = b"".join(pieces)
            if self.message_is_binary:
                self._exchange.handle(MessageReceived(None, payload))
            else:
                self._exchange.handle(MessageReceived(payload.decode("utf-8"), None))

    def _fail_connection(self, code: int = _GOING_AWAY, reason: str = "") -> None:
        """The client has broken the protocol. What it sent before is answered first; `fail` ends that."""
        if self._failure is not None:
            return  # more of the same
        if self._exchange is None or self.state != self.STATE_OPEN:
            super()._fail_connection(code, reason)
            return
        self._failure = code, reason
        # So that autobahn discards what comes, as it does behind a close frame.
        self.failedByMe = True
        self.state = self.STATE_CLOSING
        self._exchange.handle(ClientFailed(code, reason))

    def onAutoPingTimeout(self) -> None:
        if self._reading:
            super().onAutoPingTimeout()
        else:
            # The pong may well be there: it is we who do not read.
            self._await_pong()

    def _await_pong(self) -> None:
        self.autoPingTimeoutCall = self.factory._batched_timer.call_later(self.autoPingTimeout, self.onAutoPingTimeout)

    def _closeConnection(self, abort: bool = False) -> None:
        if self._failure is not None:
            self.fail()  # the client closes, too
            self.state = self.STATE_CLOSED
        if abort and not self.wasClean:
            self.transport.abortConnection()
            return
        # Behind a complete closing handshake autobahn would cut too, and our close frame might be lost.
        self.transport.loseConnection()
        # A client that does not take what was written must not keep the connection for ever.
        self._stop_waiting_for_close()
        self.closeHandshakeTimeoutCall = self.factory._batched_timer.call_later(
            self.closeHandshakeTimeout, self.transport.abortConnection
        )

    def _stop_waiting_for_close(self) -> None:
        timer, self.closeHandshakeTimeoutCall = self.closeHandshakeTimeoutCall, None
        if timer is not None and timer.active():
            timer.cancel()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._stop_waiting_for_close()
        if self._failure is not None:
            code, reason = self._failure
        elif self.failedByMe:
            # What the client did wrong says more than what it answered to that.
            mine: Any = self.localCloseReason
            code, reason = self.localCloseCode, mine.decode("utf-8")
        elif not wasClean:
            reason = ""  # autobahn's own words
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.handle(ClientGone(_NO_STATUS if code is None else code, reason or ""))
        # Last, since the server may have waited for this.
        self._server.disconnected(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._connectionLost(reason)  # type: ignore[arg-type]

    # What the stream asks for (`ifserver.front.driver.WebSocketClient`).

    def send_message(self, message: m.WebSocketSend) -> None:
        if self.state != self.STATE_OPEN and self._failure is None:
            return
        text = message.text
        payload = (message.data or b"") if text is None else text.encode("utf-8")
        if len(payload) > self._server.settings.max_websocket_message_bytes:
            self._too_big(len(payload))
            return
        opcode = _BINARY if text is None else _TEXT
        # Not by autobahn's `sendMessage`, whose limit is for what compression has made of it, which may be more.
        deflate: Any = self._perMessageCompress
        if deflate is not None:
            deflate.start_compress_message()
            payload = deflate.compress_message_data(payload) + deflate.end_compress_message()
            opcode |= _COMPRESSED
        self.sendData(_frame_head(opcode, len(payload)) + payload)
        length = message_bytes(text, message.data)
        if self._write_paused:
            self._unflushed.append(length)
        elif self._exchange is not None:
            self._exchange.handle(Flushed(length))

    def _too_big(self, length: int) -> None:
        """The worker allows more than we do."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            _log.error("%s: bad reply: a message of %d bytes", exchange.stream.channel, length)
            exchange.handle(ClientGone(_TOO_BIG))
        self.close(_TOO_BIG, "")

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake. Not by autobahn's `sendClose`, which allows two ranges of codes only."""
        if self._failure is not None:
            self.fail()
        elif self.state == self.STATE_OPEN:
            text = reason.encode("utf-8")
            if not 1000 <= code <= 4999 or code in _NEVER_SENT or len(text) > _MAX_REASON_BYTES:
                _log.error("bad reply: closing with %d and a reason of %d bytes", code, len(text))
                code, text = _INTERNAL_ERROR, b""
            self.sendCloseFrame(code=code, reasonUtf8=text, isReply=False)
            self.resume_reading()  # the client's answer must be seen

    def fail(self) -> None:
        """Begin the closing handshake with what the client has done wrong, if that has not been told."""
        failure, self._failure = self._failure, None
        if failure is not None:
            self.state = self.STATE_OPEN
            super()._fail_connection(*failure)

    def abort(self) -> None:
        """Cut the connection; `onClose` tells."""
        self.transport.abortConnection()

    def stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self.transport.pauseProducing()

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self.transport.resumeProducing()
            if self.autoPingTimeoutCall is not None:
                # The client has had no chance until now.
                self.autoPingTimeoutCall.cancel()
                self._await_pong()

    def shut_down(self) -> None:
        """The server ends, or ``websocket_timeout_s`` is over."""
        self.close(_GOING_AWAY, "")

    # What the transport asks for (IPushProducer).

    def pauseProducing(self) -> None:
        self._write_paused = True
        self._server.unsent.begin(self)

    def resumeProducing(self) -> None:
        self._write_paused = False
        self._server.unsent.end(self)
        self._send_late_pong()
        unflushed, self._unflushed = self._unflushed, []
        for length in unflushed:
            if self._exchange is not None:
                self._exchange.handle(Flushed(length))

    def stopProducing(self) -> None:
        """The connection is lost; `onClose` tells."""


def _canonical_handshake(incoming: Incoming, compression: bool) -> bytes:
    """The handshake that autobahn is shown: nothing of the client's but what it offers of compression."""
    lines = [
        b"GET / HTTP/1.1",
        b"Host: ifserver",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]
    offer = _first_offer(incoming) if compression else None
    if offer is not None:
        lines.append(b"Sec-WebSocket-Extensions: " + offer)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _first_offer(incoming: Incoming) -> bytes | None:
    """The first offer of permessage-deflate that can be taken, as autobahn writes it. Others are declined
    (RFC 7692 5.1), of which one that is not well formed would make autobahn refuse the handshake."""
    for item in h.list_items(incoming.headers, b"sec-websocket-extensions"):
        name, *pairs = (part.strip() for part in item.decode("latin-1").split(";"))
        if name.lower() != "permessage-deflate":
            continue
        parameters: dict[str, list[str | bool]] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            parameters.setdefault(key.strip().lower(), []).append(value.strip().strip('"') if equals else True)
        try:
            offer = PerMessageDeflateOffer.parse(parameters)
        except Exception:  # autobahn raises nothing more special
            continue
        return str(offer.get_extension_string()).encode("ascii")
    return None
