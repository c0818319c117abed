"""One message for many WebSockets: framed once, and compressed once for all that compress alike. Pure."""

from __future__ import annotations

from typing import Final

from ifserver.front.websocket.deflate import Compressor

__all__ = ["BINARY", "COMPRESSED", "MAX_COMPRESSED_BYTES", "TEXT", "WHOLE", "Prepared", "head_of"]

#: Opcodes of data frames (RFC 6455 11.8).
TEXT: Final = 1
BINARY: Final = 2
#: FIN, in the first byte of a frame: this is all of the message (RFC 6455 5.2).
WHOLE: Final = 0x80
#: RSV1, in the same place: the message is compressed (RFC 7692 6).
COMPRESSED: Final = 0x40
#: Larger messages are sent uncompressed: compressing one would block the event loop for more than 30 ms.
MAX_COMPRESSED_BYTES: Final = 4 * 1024 * 1024
#: The longest payload whose length fits in one byte.
_SHORT_BYTES: Final = 125


def head_of(opcode: int, length: int) -> bytes:
    """What stands before the payload of a frame that is a whole message (RFC 6455 5.2). `opcode` may hold
    `COMPRESSED`."""
    if length <= _SHORT_BYTES:
        return bytes((WHOLE | opcode, length))
    if length < 65536:
        return bytes((WHOLE | opcode, 126)) + length.to_bytes(2, "big")
    return bytes((WHOLE | opcode, 127)) + length.to_bytes(8, "big")


class Prepared:
    """A message: `text`, or where that is None, `data`."""

    __slots__ = ("_compressed", "_opcode", "payload", "plain")

    def __init__(self, text: str | None, data: bytes | None) -> None:
        #: The message, a text in UTF-8.
        self.payload = (data or b"") if text is None else text.encode()
        self._opcode = BINARY if text is None else TEXT
        #: Its frame for WebSockets that do not compress.
        self.plain = head_of(self._opcode, len(self.payload)) + self.payload
        self._compressed: dict[tuple[int, int], bytes] = {}

    def compressed(self, window_bits: int, memory_level: int) -> bytes:
        """Its frame for WebSockets that compress so. It refers to no earlier message."""
        if len(self.payload) > MAX_COMPRESSED_BYTES:
            return self.plain
        frame = self._compressed.get((window_bits, memory_level))
        if frame is None:
            payload = Compressor(window_bits, memory_level, takeover=False).compress(self.payload)
            frame = head_of(self._opcode | COMPRESSED, len(payload)) + payload
            self._compressed[window_bits, memory_level] = frame
        return frame
