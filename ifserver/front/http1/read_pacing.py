"""How fast one client's bytes are taken: when they are read at all, and how many are parsed in one turn of the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ifserver.front.http1.connection_states import State

if TYPE_CHECKING:
    from ifserver.front.http1.connection import Http1Connection

__all__ = ["HALF_CLOSED", "HANDSHAKE", "PIECES", "PIPELINE", "SLICE", "STREAM", "TURN", "ReadPacing"]

# Why a connection is not read; plain bits, since they change with every request.
#: The stream has more than it can send on.
STREAM: Final = 1
#: A pipelined request waits.
PIPELINE: Final = 2
#: What came before a WebSocket was accepted is enough.
HANDSHAKE: Final = 4
#: The client sends nothing more.
HALF_CLOSED: Final = 8
#: What has been read is parsed in several turns of the loop, so that other connections have theirs.
TURN: Final = 16

#: Bytes that are parsed in one go. A slice can hold hundreds of small requests, which are counted behind it.
SLICE: Final = 16 * 1024
#: Pieces of a body (chunks, as a rule) that are parsed in one turn, and a slice more. Each takes about a microsecond:
#: a client with chunks of one byte holds the loop for a few milliseconds, and a body in large pieces is not held up.
PIECES: Final = 1000


class ReadPacing:
    """Takes what the client of `connection` sends, and leaves the rest in the kernel's buffers."""

    __slots__ = ("_connection", "_turn_due", "reasons", "unparsed")

    def __init__(self, connection: Http1Connection) -> None:
        self._connection = connection
        #: Why nothing is read; 0: it is.
        self.reasons = 0
        #: What has been read and is not parsed yet, since requests wait, or other connections.
        self.unparsed = b""
        self._turn_due = False

    def pause(self, why: int) -> None:
        """Leave what the client sends in the kernel's buffers."""
        if not self.reasons:
            self._connection.transport.pauseProducing()
        self.reasons |= why

    def resume(self, why: int) -> None:
        """Read it again, unless there is another reason not to."""
        if self.reasons:
            self.reasons &= ~why
            if not self.reasons:
                connection = self._connection
                bodies_due = connection.http1.bodies_due
                connection.transport.resumeProducing()
                if connection in bodies_due:
                    bodies_due.add(connection)  # until now the client had no chance

    def feed(self, data: bytes) -> None:
        """Parse what is longer than a slice, until it is enough; the rest is `unparsed` then."""
        connection = self._connection
        parser, waiting = connection.parser, connection.waiting
        max_pipelined = connection.server.settings.max_pipelined
        for start in range(0, len(data), SLICE):
            incoming = parser.incoming
            enough = len(waiting) >= max_pipelined  # it goes on when one of them has begun
            if not enough and start and incoming is not None and len(incoming.body) >= PIECES:
                enough = True
                if not self._turn_due:
                    self._turn_due = True
                    self.pause(TURN)
                    connection.http1.soon(self._go_on)
            if enough:
                self.unparsed = data[start:]
                return
            parser.feed(data[start : start + SLICE])
            if parser.refusal is not None or connection.state is State.CLOSED:
                return
            if parser.early is not None:
                parser.early += data[start + SLICE :]
                return

    def _go_on(self) -> None:
        """It is this connection's turn again."""
        self._turn_due = False
        connection = self._connection
        if connection.state is State.CLOSED or connection.parser.refusal is not None:
            return
        self.parse_rest()
        if not self._turn_due:
            self.resume(TURN)
            self.resume_behind_pipeline()

    def parse_rest(self) -> None:
        """Parse what is `unparsed`, as far as it should be parsed now."""
        unparsed, self.unparsed = self.unparsed, b""
        if unparsed:
            self._connection.parse(unparsed)

    def resume_behind_pipeline(self) -> None:
        """Read again if no request waits: what comes now may be the rest of the present one."""
        if not self._connection.waiting and not self.unparsed:
            self.resume(PIPELINE)
