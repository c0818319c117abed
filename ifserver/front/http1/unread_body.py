"""The rest of a request's body whose response is complete: it is read and thrown away (RFC 9112 9.3, 9.6)."""

from __future__ import annotations

from typing import Final

from ifserver.clock import Clock
from ifserver.front.http1.connection_states import Event

__all__ = ["DISCARD_BYTES", "SILENCE_S", "TOTAL_S", "UnreadBody"]

#: How much is read so that the connection can be kept. Most clients send the whole body before they look at the
#: response, so reading it costs them nothing, and closing costs them their next request. Common uploads (photos,
#: documents) are smaller than this; of more, the client is told to stop.
DISCARD_BYTES: Final = 16 * 1024 * 1024
#: A client that sends nothing for so long is closed, and so is one that has been sending for `TOTAL_S`; in seconds.
#: The same as nginx's ``lingering_timeout`` and ``lingering_time``.
SILENCE_S: Final = 5.0
TOTAL_S: Final = 30.0


class UnreadBody:
    """Counts what is thrown away of one body, and for how long that goes on."""

    __slots__ = ("_began_at", "_bytes", "_clock")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_at = clock.seconds()
        self._bytes = 0

    def take(self, length: int) -> Event | None:
        """`length` bytes have come, and were thrown away; what has happened by that, if anything has."""
        self._bytes += length
        if self._clock.seconds() - self._began_at >= TOTAL_S:
            return Event.EXPIRED
        return Event.TOO_MUCH if self._bytes > DISCARD_BYTES else None
