"""permessage-deflate (RFC 7692): what client and server agree on, and both directions of one WebSocket. Pure.

With its own defaults zlib needs 256 KiB for a compressor and 40 KiB for a decompressor: most of what a WebSocket costs.
So neither is kept for longer than necessary. An idle compressor is dropped at any time, since the output of a new one
does not refer to earlier messages. A decompressor is made for each message, and given the last plain text as its
dictionary: that is all that a message may refer to.
"""

from __future__ import annotations

import re
import zlib
from typing import Any, Final, NamedTuple

from ifserver import headers as h
from ifserver.messages import Headers

__all__ = ["NAME", "Agreement", "Compressor", "CorruptMessage", "Decompressor", "MessageTooLarge", "agree"]

#: The extension's name (RFC 7692 7).
NAME: Final = "permessage-deflate"
#: What a flush leaves at the end of a message. The sender cuts it off, and the receiver puts it back (RFC 7692 7.2).
_TRAILER: Final = b"\x00\x00\xff\xff"
#: An empty message. zlib gives nothing at all for it, which is not the same (RFC 7692 7.2.3.6).
_EMPTY: Final = b"\x00"
#: The window of a peer that has not agreed to a smaller one (RFC 7692 7.1.2), and the smallest that zlib has.
_MAX_WINDOW_BITS: Final = 15
_MIN_WINDOW_BITS: Final = 9
#: Messages from this size on are compressed at zlib's fastest level: a MiB of JSON takes 8 ms instead of 18, in which
#: no other client is served, and becomes 4.5 times smaller instead of 5.5.
_LARGE_BYTES: Final = 256 * 1024
#: Final blocks in one message. Each ends a stream of zlib's and begins another, and an empty one has two bytes.
_MAX_FINAL_BLOCKS: Final = 1000

#: One parameter of an offer. A value may be quoted, and is a token then as well (RFC 6455 9.1).
_PARAMETER: Final = re.compile(r'([a-z_]+)(?:=(?:"([0-9a-z]+)"|([0-9a-z]+)))?\Z', re.ASCII)
#: RFC 7692 7.1.2: a decimal integer from 8 to 15, without leading zeros.
_WINDOW_BITS: Final = re.compile(r"(?:[89]|1[0-5])\Z")
_WINDOWS: Final = frozenset({"server_max_window_bits", "client_max_window_bits"})
_WITHOUT_VALUE: Final = frozenset(
    {"server_no_context_takeover", "client_no_context_takeover", "client_max_window_bits"}
)


class CorruptMessage(Exception):
    """What a peer has sent is no compressed data."""


class MessageTooLarge(Exception):
    """A message is larger than its receiver allows."""


class Agreement(NamedTuple):
    """What the two sides do, in each direction: the bits of the window, and whether a message may refer to the ones
    before it (context takeover)."""

    server_window_bits: int
    server_takeover: bool
    client_window_bits: int
    client_takeover: bool
    #: The ``Sec-WebSocket-Extensions`` that announces it to the client.
    answer: bytes


def agree(headers: Headers, window_bits: int) -> Agreement | None:
    """What is agreed on the first offer in a handshake's `headers` that can be accepted; None: there is no such offer.

    Args:
        window_bits: the largest window to be used. A client that leaves the size of its own window to the server is
            asked for this one, too.
    """
    for item in h.list_items(headers, b"sec-websocket-extensions"):
        # There are four parameters. A fifth one is none, or given twice.
        name, *parameters = (part.strip(" \t").lower() for part in item.decode("latin-1").split(";", 5))
        if name == NAME:
            offer = _parsed(parameters)
            if offer is not None:
                return _accepted(offer, window_bits)
    return None


def _parsed(parameters: list[str]) -> dict[str, int | None] | None:
    """The parameters of an offer by name; None: it must be declined (RFC 7692 7.1)."""
    found: dict[str, int | None] = {}
    for parameter in parameters:
        match = _PARAMETER.match(parameter)
        if match is None or match[1] in found:
            return None
        name, value = match[1], match[2] or match[3]
        if value is None:
            if name not in _WITHOUT_VALUE:
                return None
            found[name] = None
        else:
            if name not in _WINDOWS or _WINDOW_BITS.match(value) is None:
                return None
            found[name] = int(value)
    # zlib cannot compress with the smallest window that there is (8 bits).
    wanted = found.get("server_max_window_bits")
    return None if wanted is not None and wanted < _MIN_WINDOW_BITS else found


def _accepted(offer: dict[str, int | None], window_bits: int) -> Agreement:
    answer = [NAME]
    server_takeover = "server_no_context_takeover" not in offer
    if not server_takeover:
        answer.append("server_no_context_takeover")
    client_takeover = "client_no_context_takeover" not in offer
    if not client_takeover:
        # RFC 7692 7.1.1.2: in an offer it is a hint. In the answer it binds the client, and no context need be kept.
        answer.append("client_no_context_takeover")
    server_bits = window_bits
    wanted = offer.get("server_max_window_bits")
    if wanted is not None:
        server_bits = min(wanted, window_bits)
        # Where it has not asked, nothing need be announced: any client can read what a smaller window has made.
        answer.append(f"server_max_window_bits={server_bits}")
    client_bits = _MAX_WINDOW_BITS
    if "client_max_window_bits" in offer:
        client_bits = min(offer["client_max_window_bits"] or _MAX_WINDOW_BITS, window_bits)
        answer.append(f"client_max_window_bits={client_bits}")
    return Agreement(server_bits, server_takeover, client_bits, client_takeover, "; ".join(answer).encode("ascii"))


class Compressor:
    """Compresses messages.

    Args:
        window_bits: 9 to 15.
        memory_level: 1 to 9, as for zlib.
        takeover: whether a message may refer to those before it.
    """

    __slots__ = ("_deflater", "_memory_level", "_takeover", "_used", "_window_bits")

    def __init__(self, window_bits: int, memory_level: int, takeover: bool) -> None:
        self._window_bits = window_bits
        self._memory_level = memory_level
        self._takeover = takeover
        self._deflater: Any = None
        self._used = False

    def compress(self, message: bytes) -> bytes:
        """The payload that stands for `message` (RFC 7692 7.2.1)."""
        if not message:
            return _EMPTY
        if len(message) >= _LARGE_BYTES:
            # The receiver's context is then this message, of which the compressor at hand knows nothing.
            self._deflater = None
            deflater = self._new(zlib.Z_BEST_SPEED)
        else:
            deflater = self._deflater or self._new(zlib.Z_DEFAULT_COMPRESSION)
            if self._takeover:
                self._deflater, self._used = deflater, True
        compressed: bytes = deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH)
        return compressed[: -len(_TRAILER)]

    def forget(self) -> int:
        """A message is sent that was compressed elsewhere, of which the context at hand knows nothing. Returns the
        bits of the window."""
        self._deflater = None
        return self._window_bits

    def _new(self, level: int) -> Any:
        return zlib.compressobj(level, zlib.DEFLATED, -self._window_bits, self._memory_level)

    @property
    def holds_context(self) -> bool:
        """Whether there is a context that `drop_if_idle` could free."""
        return self._deflater is not None

    def drop_if_idle(self) -> bool:
        """Free the context unless it was used since the last call. Returns whether there is none any more."""
        if not self._used:
            self._deflater = None
        self._used = False
        return self._deflater is None


class Decompressor:
    """Decompresses messages, each of them in pieces, and never more than a message may have.

    Args:
        window_bits: how far back the sender refers at most, 8 to 15.
        takeover: whether a message may refer to those before it.
    """

    __slots__ = ("_at_start", "_inflater", "_recent", "_room", "_takeover", "_window_bits", "final_blocks")

    def __init__(self, window_bits: int, takeover: bool) -> None:
        self._window_bits = max(window_bits, _MIN_WINDOW_BITS)
        self._takeover = takeover
        self._inflater: Any = None
        #: The last plain text, as much as the next block may refer to.
        self._recent = b""
        #: Bytes that may still come of this message, and one more, by which it is seen to be too large.
        self._room = 0
        #: Blocks of this message that were marked as the last.
        self.final_blocks = 0
        #: Whether nothing has come behind a final block.
        self._at_start = False

    def begin(self, max_bytes: int) -> None:
        """A message begins, of `max_bytes` at most."""
        self._room = max_bytes + 1
        self.final_blocks = 0
        self._begin_stream()
        self._at_start = False

    def decompress(self, data: bytes) -> bytes:
        """The plain text in the next piece of the message.

        Raises:
            CorruptMessage: it is no compressed data.
            MessageTooLarge: there is more than may be, or an absurd number of blocks that are marked as the last.
        """
        pieces = []
        while data:
            inflater = self._inflater
            try:
                piece = inflater.decompress(data, self._room)
            except zlib.error as error:
                raise CorruptMessage(f"not compressed data ({error})") from None
            # With room left zlib has put out all that it could, so nothing is left inside of it.
            self._room -= len(piece)
            if self._room <= 0:
                raise MessageTooLarge
            if piece:
                pieces.append(piece)
                self._remember(piece)
            self._at_start = inflater.eof
            if not self._at_start:
                break
            # RFC 7692 7.2.3.4: a block that is marked as the last one ends nothing but zlib's stream.
            self.final_blocks += 1
            if self.final_blocks > _MAX_FINAL_BLOCKS:
                raise MessageTooLarge
            data = inflater.unused_data
            self._begin_stream()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def end(self) -> bytes:
        """The message has ended: what is left of its plain text. Raises as `decompress` does."""
        # Some leave out the empty block behind a final one, to which the trailer belongs.
        rest = b"" if self._at_start else self.decompress(_TRAILER)
        self._inflater = None
        if not self._takeover:
            self._recent = b""
        return rest

    def _begin_stream(self) -> None:
        recent = self._recent
        self._inflater = (
            zlib.decompressobj(-self._window_bits, zdict=recent) if recent else zlib.decompressobj(-self._window_bits)
        )

    def _remember(self, piece: bytes) -> None:
        window = 1 << self._window_bits
        self._recent = piece[-window:] if len(piece) >= window else (self._recent + piece)[-window:]
