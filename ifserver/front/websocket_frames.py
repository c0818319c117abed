"""The frames of a client's WebSocket (RFC 6455, 7692), by autobahn, whose only importer this is.

autobahn never sees the client's handshake: `http1` has parsed it, and `websocket` answers it (CVE-2026-44546 was a
second parser that disagreed with the first). It begins where the WebSocket is open.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, TypeVar

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket import protocol as _autobahn
from autobahn.websocket.compress import PerMessageDeflate, PerMessageDeflateOffer, PerMessageDeflateOfferAccept

from ifserver import headers as h
from ifserver.clock import Clock, Timer
from ifserver.messages import Headers
from ifserver.settings import FrontSettings

__all__ = ["BINARY", "TEXT", "Frames", "configured"]

#: Opcodes of data frames (RFC 6455 11.8).
TEXT: Final = 1
BINARY: Final = 2
#: FIN, in the first byte of a frame: this is all of the message (RFC 6455 5.2).
_WHOLE: Final = 0x80
#: RSV1, in the same place: the message is compressed (RFC 7692 6).
_COMPRESSED: Final = 0x40
_WHOLE_TEXT: Final = _WHOLE | TEXT
_WHOLE_BINARY: Final = _WHOLE | BINARY
#: MASK, in the second byte.
_MASKED: Final = 0x80
#: The longest payload whose length is told in one byte.
_SHORT_BYTES: Final = 125
#: What stands before such a payload: two bytes and the mask.
_SHORT_HEAD_BYTES: Final = 6
#: Pieces of a message that are kept beside each other; more are put together.
_MAX_PIECES: Final = 1024

_P = TypeVar("_P", bound="Frames")


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


class _Nobody:
    """Stands where autobahn has a Deferred for whoever waits for a WebSocket to open or close. Fired with the WebSocket
    itself, that would be garbage in a cycle."""

    def callback(self, result: object) -> None:
        """Nothing."""


_NOBODY: Final = _Nobody()


class _Timers:
    """autobahn's own timers ask for the global reactor, and search a list when one is cancelled."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def call_later(self, delay: float, call: Callable[..., Any], *args: Any) -> Timer:
        """Call `call` in `delay` seconds."""
        return self._clock.callLater(delay, call, *args)


def configured(protocol: type[_P], settings: FrontSettings, clock: Any) -> type[_P]:
    """`protocol` with settings for all of its connections; autobahn would copy thirty into each of them."""
    factory = WebSocketServerFactory(reactor=clock)
    factory._batched_timer = _Timers(clock)
    # autobahn's own sizes default to unlimited.
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
    attributes = {
        **{name: getattr(factory, name) for name in protocol.CONFIG_ATTRS},
        "CONFIG_ATTRS": (),  # nothing is left to be copied
        "factory": factory,
        "max_short_bytes": min(_SHORT_BYTES, settings.max_websocket_message_bytes),
        "max_fragments": settings.max_websocket_fragments,
        "compression": settings.websocket_compression,
        "__module__": protocol.__module__,
    }
    return type(protocol.__name__, (protocol,), attributes)


class Frames(WebSocketServerProtocol, ABC):
    """One open WebSocket of a client; made of a class that is `configured`.

    What the client sends is bounded also where autobahn would let it grow.
    """

    log = _QuietLog()
    transport: Any
    factory: Any
    #: Bytes of payload up to which a frame takes the short way; frames of one message; whether to compress.
    max_short_bytes: int
    max_fragments: int
    compression: bool
    # autobahn's, whose types are not told or too narrow.
    autoPingTimeout: float
    autoPingInterval: float | None
    autoPingTimeoutCall: Any
    autoPingPendingCall: Any
    _cancelAutoPingTimeoutCall: Callable[[], None]
    closeHandshakeTimeout: float
    closeHandshakeTimeoutCall: Any
    _perMessageCompress: Any
    _transport_details: Any
    peer: Any

    # autobahn asks for it to tell drafts from RFC 6455.
    websocket_version = 13

    #: Whether the client takes nothing at present.
    write_paused = False
    _fragments = 0
    # The answer to the last ping that has come while the client takes nothing.
    _pong: bytes | None = None

    def begin(self, headers: Headers) -> bytes | None:
        """The WebSocket is open. Of what the client offers in the `headers` of its handshake, compression is taken;
        returned is the Sec-WebSocket-Extensions that tells the client so, or None."""
        self.peer = ""
        self._connectionMade()
        # What autobahn does at the end of a handshake.
        self.state = self.STATE_OPEN
        self.inside_message = False
        self.current_frame: Any = None
        if self.autoPingInterval:
            self.autoPingPendingCall = self.call_later(self.autoPingInterval, self._sendAutoPing)
        # What an open WebSocket has no use for; a queue of what is sent in pieces, which ours never is, has 760 bytes.
        self.send_queue: Any = ()
        self.is_open = self.is_closed = _NOBODY
        del self._transport_details
        offer = _first_offer(headers) if self.compression else None
        if offer is None:
            return None
        accept = PerMessageDeflateOfferAccept(offer)
        self._perMessageCompress = PerMessageDeflate.create_from_offer_accept(True, accept)
        return str(accept.get_extension_string()).encode("ascii")

    def call_later(self, delay: float, call: Callable[..., Any], *args: Any) -> Timer:
        """Call `call` in `delay` seconds."""
        timer: Timer = self.factory._batched_timer.call_later(delay, call, *args)
        return timer

    def set_valid_events(self, valid_events: object = None) -> None:
        """Nobody listens to what autobahn calls events."""

    # What the client sends.

    @abstractmethod
    def message_received(self, text: str | None, data: bytes | None) -> None:
        """A message has come: `text`, or where that is None, `data`."""

    def dataReceived(self, data: bytes) -> None:
        if not self._receive_short(data):
            self._dataReceived(data)  # without the text that autobahn makes for its log

    def _receive_short(self, data: bytes) -> bool:
        """Receive `data` if it is one short message and nothing else, as most are; whether it was."""
        length = len(data) - _SHORT_HEAD_BYTES
        if (
            not 0 <= length <= self.max_short_bytes
            or data[1] != _MASKED | length
            or self.data
            or self.current_frame is not None
            or self.inside_message
            or self.state != self.STATE_OPEN
        ):
            return False
        kind = data[0]
        if kind != _WHOLE_TEXT and kind != _WHOLE_BINARY:
            return False
        # RFC 6455 5.3; Python masks a number faster than bytes.
        mask = (data[2:_SHORT_HEAD_BYTES] * (length // 4 + 1))[:length]
        masked = int.from_bytes(data[_SHORT_HEAD_BYTES:], "big")
        payload = (masked ^ int.from_bytes(mask, "big")).to_bytes(length, "big")
        text = None
        if kind == _WHOLE_TEXT:
            try:
                text = payload.decode("utf-8")
            except UnicodeDecodeError:
                return False
        if self.autoPingTimeoutCall is not None:
            self._cancelAutoPingTimeoutCall()
        if text is None:
            self.message_received(None, payload)
        else:
            self.message_received(text, None)
        return True

    def _onMessageFrameBegin(self, length: int) -> None:
        self._fragments += 1
        if self._fragments > self.max_fragments and not self.failedByMe:
            # RFC 6455 10.4 has frames that are too many under the same limit as bytes that are too many: 1009.
            self._max_message_size_exceeded(self._fragments, self.max_fragments, "too many frames")
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

    def _onMessageEnd(self) -> None:
        # In place of autobahn's, which looks for listeners besides. What comes behind our close frame is of no use.
        if self.state == self.STATE_OPEN:
            self._fragments = 0
            pieces, self.message_data = self.message_data, []
            payload = b"".join(pieces)
            if self.message_is_binary:
                self.message_received(None, payload)
            else:
                self.message_received(payload.decode("utf-8"), None)

    def _onPing(self, payload: bytes) -> None:
        if self.write_paused:
            self._pong = payload  # RFC 6455 5.5.3: one may answer only the most recent ping
        else:
            self.onPing(payload)

    def send_late_pong(self) -> None:
        """The client takes something again."""
        if self._pong is not None:
            payload, self._pong = self._pong, None
            self.onPing(payload)

    # What is sent to it.

    def send_whole(self, opcode: int, payload: bytes) -> None:
        """Send a message in one frame. Not by autobahn's `sendMessage`, whose limit is for what compression has made of
        it, which may be more."""
        deflate = self._perMessageCompress
        if deflate is not None:
            deflate.start_compress_message()
            payload = deflate.compress_message_data(payload) + deflate.end_compress_message()
            opcode |= _COMPRESSED
        self.sendData(_frame_head(opcode, len(payload)) + payload)


def _frame_head(opcode: int, length: int) -> bytes:
    """What stands before a message of a server that is sent in one frame (RFC 6455 5.2)."""
    if length < 126:
        return bytes((_WHOLE | opcode, length))
    if length < 65536:
        return bytes((_WHOLE | opcode, 126)) + length.to_bytes(2, "big")
    return bytes((_WHOLE | opcode, 127)) + length.to_bytes(8, "big")


def _first_offer(headers: Headers) -> Any:
    """The first offer of permessage-deflate that can be taken; None: there is none (RFC 7692 5.1)."""
    for item in h.list_items(headers, b"sec-websocket-extensions"):
        name, *pairs = (part.strip() for part in item.decode("latin-1").split(";"))
        if name.lower() != "permessage-deflate":
            continue
        parameters: dict[str, list[str | bool]] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            parameters.setdefault(key.strip().lower(), []).append(value.strip().strip('"') if equals else True)
        try:
            return PerMessageDeflateOffer.parse(parameters)
        except Exception:  # autobahn raises nothing more special
            continue
    return None
