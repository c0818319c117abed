"""The frames of a client's WebSocket (RFC 6455, 7692), by autobahn, whose only importer this is.

autobahn never sees the client's handshake: `http1` has parsed it, and `websocket` answers it (CVE-2026-44546 was a
second parser that disagreed with the first). It begins where the WebSocket is open.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, TypeVar

from ifserver.clock import Clock, Timer
from ifserver.config.settings import FrontSettings
from ifserver.front.websocket import deflate
from ifserver.front.websocket.inflow import STEP_UNITS, Inflow
from ifserver.front.websocket.prepared import (
    BINARY,
    COMPRESSED,
    MAX_COMPRESSED_BYTES,
    TEXT,
    WHOLE,
    Prepared,
    head_of,
)
from ifserver.net.lean_imports import not_importable, stand_ins

# Without TLS of Twisted's, WAMP, clients and colours: a third of the CPU, and 14 MB less.
with (
    not_importable("OpenSSL"),
    not_importable("click"),
    stand_ins({"autobahn.twisted.wamp": ["ApplicationSession"], "twisted.internet.endpoints": []}),
):
    from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
    from autobahn.websocket import protocol as _autobahn

__all__ = ["BINARY", "TEXT", "Frames", "configured"]

_WHOLE_TEXT: Final = WHOLE | TEXT
_WHOLE_BINARY: Final = WHOLE | BINARY
#: MASK, in the second byte.
_MASKED: Final = 0x80
#: The longest payload whose length fits in one byte.
_SHORT_BYTES: Final = 125
#: What stands before such a payload: two bytes and the mask.
_SHORT_HEAD_BYTES: Final = 6
#: Pieces of a message that are kept beside each other; more are put together.
_MAX_PIECES: Final = 1024
#: How often to look for an idle compressor, in seconds. It is dropped at the second look.
_IDLE_S: Final = 10.0

_P = TypeVar("_P", bound="Frames")


def _as_it_is(value: object) -> object:
    return value


# What autobahn formats for debug lines of each connection, all of its settings among it, whether or not anybody reads
# them: a fifth of what a connection costs. There is no setting and no method for it.
for _name in ("pformat", "hltype", "hlval"):
    setattr(_autobahn, _name, _as_it_is)


class _QuietLog:
    """autobahn formats a text for each message that it logs; they are not read, and they cost a third of an echo."""

    def debug(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    info = warn = error = trace = debug


class _NoWaiter:
    """Stands where autobahn has a Deferred for those that wait for a WebSocket to open or close. Fired with the
    WebSocket itself, that would be garbage in a cycle."""

    def callback(self, result: object) -> None:
        """Nothing."""


_NO_WAITER: Final = _NoWaiter()


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
    # Its sizes are left alone, which default to unlimited: `Frames` looks at ours before it does.
    factory.setProtocolOptions(
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
        "max_message_bytes": settings.max_websocket_message_bytes,
        "max_fragments": settings.max_websocket_fragments,
        "memory_level": settings.websocket_compression_memory_level,
        "__module__": protocol.__module__,
    }
    return type(protocol.__name__, (protocol,), attributes)


class _Compression:
    """The extension of one WebSocket, as autobahn asks for it."""

    EXTENSION_NAME: Final = deflate.NAME
    __slots__ = ("_max_bytes", "compressor", "decompressor")

    def __init__(self, agreement: deflate.Agreement, memory_level: int, max_bytes: int) -> None:
        server_bits, server_takeover, client_bits, client_takeover, _ = agreement
        self.compressor = deflate.Compressor(server_bits, memory_level, server_takeover)
        self.decompressor = deflate.Decompressor(client_bits, client_takeover)
        self._max_bytes = max_bytes

    def start_decompress_message(self) -> None:
        """A compressed message begins."""
        self.decompressor.begin(self._max_bytes)


class Frames(Inflow, WebSocketServerProtocol, ABC):
    """One open WebSocket of a client; made of a class that is `configured`.

    What the client sends is bounded also where autobahn would let it grow.
    """

    #: What is looked at for each message, and for each of thousands of members of a group. In the large dict of an
    #: instance, each would miss the processor's caches twice.
    __slots__ = ("_perMessageCompress", "_state", "transport", "write_frame", "write_paused")

    log = _QuietLog()
    factory: Any
    #: Bytes of payload up to which a frame takes the short way; bytes and frames of one message.
    max_short_bytes: int
    max_message_bytes: int
    max_fragments: int
    #: Of compressors.
    memory_level: int
    # autobahn's, whose types are missing or too narrow.
    autoPingTimeout: float
    autoPingInterval: float | None
    autoPingTimeoutCall: Any
    autoPingPendingCall: Any
    _cancelAutoPingTimeoutCall: Callable[[], None]
    closeHandshakeTimeout: float
    closeHandshakeTimeoutCall: Any
    _perMessageCompress: Any  # a _Compression, or None
    _state: int
    transport: Any
    #: Writes a frame, if nothing else is to be done for that: the WebSocket is open and does not compress, and its
    #: client takes what is written. None: it is not so. What ends the transport, or is notified of its end, forgets
    #: this: it may be a method of the loop's own transport, which raises then.
    write_frame: Callable[[bytes], None] | None
    #: Whether the client takes nothing at present.
    write_paused: bool
    _isMessageCompressed: bool
    _transport_details: Any
    peer: Any

    # autobahn asks for it to distinguish drafts from RFC 6455.
    websocket_version = 13

    _fragments = 0
    # The answer to the last ping that has come while the client takes nothing.
    _pong: bytes | None = None
    # When to look whether the compressor is idle.
    _idle_timer: Timer | None = None

    def __init__(self) -> None:
        self.transport = None
        self.write_paused = False
        super().__init__()

    def begin(self, agreement: deflate.Agreement | None) -> None:
        """The WebSocket is open. Messages are compressed as the `agreement` has it; None: they are not."""
        self.peer = ""
        self._connectionMade()
        if agreement is not None:
            self._perMessageCompress = _Compression(agreement, self.memory_level, self.max_message_bytes)
        # What autobahn does at the end of a handshake.
        self.state = self.STATE_OPEN
        self.inside_message = False
        self.current_frame: Any = None
        if self.autoPingInterval:
            self.autoPingPendingCall = self.call_later(self.autoPingInterval, self._sendAutoPing)
        # What an open WebSocket has no use for; a queue of what is sent in pieces, which ours never is, has 760 bytes.
        self.send_queue: Any = ()
        self.is_open = self.is_closed = _NO_WAITER
        del self._transport_details

    @property
    def state(self) -> int:
        """Of autobahn's ``STATE_...``; it changes this itself."""
        return self._state

    @state.setter
    def state(self, state: int) -> None:
        self._state = state
        self.choose_write()

    def choose_write(self) -> None:
        """What `write_frame` depends on has changed."""
        is_direct = self._state == self.STATE_OPEN and self._perMessageCompress is None and not self.write_paused
        self.write_frame = self.transport.write if is_direct else None

    def call_later(self, delay: float, call: Callable[..., Any], *args: Any) -> Timer:
        """Call `call` in `delay` seconds."""
        timer: Timer = self.factory._batched_timer.call_later(delay, call, *args)
        return timer

    def set_valid_events(self, valid_events: object = None) -> None:
        """Nothing listens to what autobahn calls events."""

    # What the client sends.

    @abstractmethod
    def message_received(self, text: str | None, data: bytes | None) -> None:
        """A message has come: `text`, or where that is None, `data`."""

    def receive_short(self, data: bytes) -> bool:
        """Receive `data` if it is one short message and nothing else, as most are; whether it was."""
        length = len(data) - _SHORT_HEAD_BYTES
        if (
            not 0 <= length <= self.max_short_bytes
            or data[1] != _MASKED | length
            or self.data
            or self._held
            or self.current_frame is not None
            or self.inside_message
            or self._state != self.STATE_OPEN
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

    # The parser (`Inflow`) is autobahn; what it finds is judged here.

    def parse_step(self) -> bool:
        return self.processData()

    def ended(self) -> bool:
        return bool(self.state == self.STATE_CLOSED)

    def _onMessageFrameBegin(self, length: int) -> None:
        if self.state != self.STATE_OPEN:
            return
        self._fragments += 1
        if self._fragments > self.max_fragments:
            # RFC 6455 10.4 has frames that are too many under the same limit as bytes that are too many: 1009.
            self._max_message_size_exceeded(self._fragments, self.max_fragments, "too many frames")
        elif not self._isMessageCompressed:
            # The frames of a compressed message do not show what it comes to.
            self.message_data_total_length += length
            if self.message_data_total_length > self.max_message_bytes:
                self._too_large()

    def _too_large(self) -> None:
        limit = self.max_message_bytes
        self._max_message_size_exceeded(limit + 1, limit, f"a message may have {limit} bytes")

    def onFrameData(self, payload: bytes) -> None:
        if self.current_frame.opcode > 7:
            self.control_frame_data.append(payload)
        elif self.state == self.STATE_OPEN:  # what comes behind our close frame is of no use
            if self._isMessageCompressed:
                self._receive_compressed(payload)
            else:
                self._receive_plain(payload)

    def _receive_compressed(self, payload: bytes | None) -> None:
        """The next piece of a compressed message has come, or its end (None)."""
        decompressor = self._perMessageCompress.decompressor
        try:
            plain = decompressor.end() if payload is None else decompressor.decompress(payload)
        except deflate.MessageTooLarge:
            self._too_large()
        except deflate.CorruptMessage as error:
            self._invalid_payload(str(error))
        else:
            self.spend(len(plain))
            if plain:
                self._receive_plain(plain)

    def _receive_plain(self, payload: bytes) -> None:
        if self.utf8validateIncomingCurrentMessage:
            self.utf8validateLast = self.utf8validator.validate(payload)
            if not self.utf8validateLast[0]:
                self._invalid_payload("a text that is not UTF-8")
                return
        pieces = self.message_data
        pieces.append(payload)
        if len(pieces) > _MAX_PIECES:
            # They may be of one byte each, around which Python needs forty.
            self.message_data = [b"".join(pieces)]

    def onFrameEnd(self) -> None:
        frame = self.current_frame
        if frame.opcode > 7:
            self.processControlFrame()
        else:
            if self.autoPingTimeoutCall is not None:
                self._cancelAutoPingTimeoutCall()
            if frame.fin:
                if self.state == self.STATE_OPEN:
                    self._onMessageEnd()
                self.inside_message = False
        self.current_frame = None

    def _onMessageEnd(self) -> None:
        if self._isMessageCompressed:
            self._receive_compressed(None)
            self.spend(self._perMessageCompress.decompressor.final_blocks * STEP_UNITS)
        text = not self.message_is_binary
        if text and self.state == self.STATE_OPEN and not self.utf8validateLast[1]:
            self._invalid_payload("a text that ends within a character")
        if self.state != self.STATE_OPEN:
            return
        self._fragments = 0
        payload = b"".join(self.message_data)
        self.message_data = []  # now: with its pieces, a large message would be there once more
        if not text:
            self.message_received(None, payload)
            return
        message = payload.decode("utf-8")
        del payload
        self.message_received(message, None)

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
        """Send a message in one frame (RFC 6455 5.2).

        Not by autobahn's `sendMessage`, whose limit is for what compression has made of it, which may be more.
        """
        compression = self._perMessageCompress
        if compression is not None and len(payload) <= MAX_COMPRESSED_BYTES:
            compressor = compression.compressor
            payload = compressor.compress(payload)
            opcode |= COMPRESSED
            if self._idle_timer is None and compressor.holds_context:
                self._idle_timer = self.call_later(_IDLE_S, self._check_idle, compressor)
        self.sendData(head_of(opcode, len(payload)) + payload)

    def compressed_frame_of(self, message: Prepared) -> bytes:
        """The frame for this WebSocket, which compresses, of a message that goes to many. To be sent at once."""
        return message.compressed(self._perMessageCompress.compressor.forget(), self.memory_level)

    def _check_idle(self, compressor: deflate.Compressor) -> None:
        """Drop the compressor's context if nothing was sent since the last look, or else look again later."""
        self._idle_timer = None if compressor.drop_if_idle() else self.call_later(_IDLE_S, self._check_idle, compressor)

    def forget_timers(self) -> None:
        """Cancel what autobahn does not know of: the connection is lost."""
        self.forget_turn()
        timer, self._idle_timer = self._idle_timer, None
        if timer is not None:
            timer.cancel()
