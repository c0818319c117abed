"""The rest of a request's body whose response is complete: it is read and thrown away (RFC 9112 9.3, 9.6)."""

from __future__ import annotations

from typing import Any, Final, Protocol

from twisted.internet.interfaces import ISSLTransport

from ifserver.clock import Clock
from ifserver.front.deadlines import Deadlines

__all__ = ["DISCARD_BYTES", "SILENCE_S", "TOTAL_S", "Leftover"]

#: How much is read so that the connection can be kept. Most clients send the whole body before they look at the
#: response, so reading it costs them nothing, and closing costs them their next request. Common uploads (photos,
#: documents) are smaller than this; of more, the client is told to stop.
DISCARD_BYTES: Final = 16 * 1024 * 1024
#: A client that sends nothing for so long is closed, and so is one that has been sending for `TOTAL_S`; in seconds.
#: The same as nginx's ``lingering_timeout`` and ``lingering_time``.
SILENCE_S: Final = 5.0
TOTAL_S: Final = 30.0


class Reader(Protocol):
    """The connection that reads the body."""

    transport: Any

    def lose(self) -> None:
        """Close the connection behind what was written."""


class Leftover:
    """Reads on until the body is complete, the client closes, or it has taken too long.

    Args:
        discarding: closes connections from which nothing comes.
        left_bytes: how much must still come; None: nobody knows (chunks).
        ends: the connection will not be kept.
        ends_with_connection: only its end tells the client that the response is complete.
    """

    __slots__ = ("_began_at", "_bytes", "_clock", "_connection", "_discarding", "_ends_with_connection", "ends")

    def __init__(
        self,
        connection: Reader,
        discarding: Deadlines[Any],
        clock: Clock,
        left_bytes: int | None = None,
        ends: bool = False,
        ends_with_connection: bool = False,
    ) -> None:
        self._connection = connection
        self._discarding = discarding
        self._clock = clock
        self._bytes = 0
        self._began_at = clock.seconds()
        self._ends_with_connection = ends_with_connection
        #: The connection is closed when all has been read.
        self.ends = False
        discarding.add(connection)
        if ends or (left_bytes is not None and left_bytes > DISCARD_BYTES):
            self._end()

    def take(self, length: int) -> None:
        """`length` bytes have come, and were thrown away."""
        self._bytes += length
        if self._clock.seconds() - self._began_at >= TOTAL_S:
            self._connection.lose()
            return
        self._discarding.add(self._connection)
        if self._bytes > DISCARD_BYTES and not self.ends:
            self._end()

    def _end(self) -> None:
        """Tell the client that nothing follows, and read on.

        A connection that is closed while its client still sends is reset, and the client might never see its answer
        (RFC 9112 9.6).
        """
        self.ends = True
        transport = self._connection.transport
        # TLS has no half-closed connections here; there the length, or the last chunk, tells that nothing follows.
        half_close = None if ISSLTransport.providedBy(transport) else getattr(transport, "loseWriteConnection", None)
        if half_close is not None:
            half_close()
        elif self._ends_with_connection:
            self._connection.lose()
