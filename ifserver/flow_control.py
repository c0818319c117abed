"""Flow control of one direction of one attempt.

The unit is a byte of payload, and each message costs `MESSAGE_OVERHEAD` more, so that a flood of empty ones is bounded
too. A sender may send while its credit is above zero; one message may overdraw it. The receiver tells the *total* that
it has consumed, never an increment, so that a `Window` that is lost is mended by the next.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["MESSAGE_OVERHEAD", "PIECE_BYTES", "WINDOW", "ReceiveWindow", "SendWindow", "message_bytes"]

#: Units that may be under way in one direction of one attempt. Four pieces, so that a piece is always on the way.
WINDOW: Final = 256 * 1024
#: What a message costs beside its payload.
MESSAGE_OVERHEAD: Final = 256
#: The largest piece of an HTTP body in one message, in bytes.
PIECE_BYTES: Final = 64 * 1024


def message_bytes(text: str | None, data: bytes | None) -> int:
    """Payload of a WebSocket message; a text counts its characters, which is near enough and costs nothing."""
    return len(text) if text is not None else len(data or b"")


# Each stream has one of both: structs are made without a call in Python.
class SendWindow(msgspec.Struct, eq=False, gc=False):
    """The credit of a sender."""

    sent: int = 0
    consumed: int = 0

    @property
    def open(self) -> bool:
        """Whether a message may be sent."""
        return self.sent - self.consumed < WINDOW

    def spend(self, payload_bytes: int) -> None:
        """Account for a message of `payload_bytes` that was sent."""
        self.sent += payload_bytes + MESSAGE_OVERHEAD

    def update(self, consumed: int) -> bool:
        """The receiver has consumed `consumed` units in all; True if that has opened the window.

        A total that is lower than one already known comes from a message that was overtaken, and changes nothing; one
        that is higher than what was sent cannot be true, and is cut.
        """
        was_open = self.open
        self.consumed = max(self.consumed, min(consumed, self.sent))
        return self.open and not was_open


class ReceiveWindow(msgspec.Struct, eq=False, gc=False):
    """What a receiver has consumed, and when it should say so."""

    consumed: int = 0
    _told: int = 0

    def consume(self, payload_bytes: int) -> int | None:
        """Account for a consumed message; the total to tell, once a quarter has been consumed since the last."""
        self.consumed += payload_bytes + MESSAGE_OVERHEAD
        if self.consumed - self._told < WINDOW // 4:
            return None
        self._told = self.consumed
        return self.consumed
