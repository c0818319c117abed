"""What the HTTP/1 connections of one server share: their deadlines, and who writes the heads of their responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ifserver.front.deadlines import Deadlines
from ifserver.front.http1.connection_states import Event
from ifserver.front.http1.response_heads import HeadWriter, plain_answer
from ifserver.front.incoming_request import BadRequest

if TYPE_CHECKING:
    from ifserver.clock import Clock, Soon, WallClock
    from ifserver.config.settings import FrontSettings
    from ifserver.front.http1.connection import Http1Connection
    from ifserver.front.server import InterfaceServer

__all__ = ["DISCARD_BYTES", "SILENCE_S", "TOTAL_S", "Http1", "progress_of"]

# The rest of a request's body whose response is complete is read and thrown away (RFC 9112 9.3, 9.6).
#: How much is read so that the connection can be kept. Most clients send the whole body before they look at the
#: response, so reading it costs them nothing, and closing costs them their next request. Common uploads (photos,
#: documents) are smaller than this; of more, the client is made to stop.
DISCARD_BYTES: Final = 16 * 1024 * 1024
#: A client that sends nothing for so long is closed, and so is one that has been sending for `TOTAL_S`; in seconds.
#: The same as nginx's ``lingering_timeout`` and ``lingering_time``.
SILENCE_S: Final = 5.0
TOTAL_S: Final = 30.0

#: How long a client that has closed its sending side may wait for a response, in seconds. So much later an application
#: is notified of a client that has left.
_HALF_CLOSED_S: Final = 1.0


class Http1:
    """What the HTTP/1 connections of `server` share."""

    def __init__(self, server: InterfaceServer, clock: Clock, wall: WallClock, soon: Soon) -> None:
        self.server = server
        self.clock = clock
        self.wall = wall
        self.soon = soon
        self.tally = server.exchanges.tally
        settings = server.settings
        self.head_writer = HeadWriter(wall, settings.server_header)
        #: Connections without a request.
        self.idle = Deadlines(clock, _idle_s(settings), _idle_too_long)
        #: Those whose request's head is not complete, and those whose request's body is not.
        self.heads_due = Deadlines(clock, settings.header_timeout_s, _head_too_slow)
        self.bodies_due = Deadlines(clock, settings.body_timeout_s, _body_too_slow)
        #: Those that discard the rest of a body.
        self.discarding = Deadlines(clock, SILENCE_S, _discarded_too_long)
        #: Those whose clients have closed their sending side, and may wait for a response.
        self.half_closed = Deadlines(clock, _HALF_CLOSED_S, _half_closed)
        self._all = self.idle, self.heads_due, self.bodies_due, self.discarding, self.half_closed

    def change(self, settings: FrontSettings) -> None:
        """Take over new settings, also for those that wait already. While draining, the idle timeout is the drain's."""
        self.head_writer = HeadWriter(self.wall, settings.server_header)
        if not self.server.draining:
            self.idle.change(_idle_s(settings))
        self.heads_due.change(settings.header_timeout_s)
        self.bodies_due.change(settings.body_timeout_s)

    def too_many(self) -> bytes:
        """The answer to a client whose connection is one too many."""
        headers, body = plain_answer(503, [(b"retry-after", str(self.server.settings.retry_after_s).encode())])
        head, _ = self.head_writer.write(503, headers, len(body), "GET", "1.1", keep_alive=False)
        return head + body

    def forget(self, connection: Http1Connection) -> None:
        """`connection` waits for nothing any more."""
        for each in self._all:
            each.pop(connection, None)

    def stop(self) -> None:
        """Forget all."""
        for each in self._all:
            each.stop()


def _idle_s(settings: FrontSettings) -> float:
    """How long a connection may have no request; before its first one also where none is kept alive."""
    return settings.keep_alive_timeout_s or settings.header_timeout_s


def progress_of(connection: Http1Connection) -> object:
    """Differs from the last time if the client has been sent more, or must take what it was sent."""
    response = connection.response
    # (`SlowClients` handles clients that take nothing.)
    return object() if response.write_paused else (response.incoming, response.framing, response.sent_bytes)


# Deadlines are over.


def _idle_too_long(connection: Http1Connection) -> None:
    connection.shut_down()


def _head_too_slow(connection: Http1Connection) -> None:
    """A request was begun and not ended."""
    if connection.read_pacing.reasons:
        connection.http1.heads_due.add(connection)  # it may be there, and wait for being read
    else:
        connection.refuse(BadRequest(408, "the request took too long"))


def _body_too_slow(connection: Http1Connection) -> None:
    """Nothing has come of a body for too long."""
    incoming = connection.parser.incoming
    if incoming is None:
        return
    if connection.read_pacing.reasons or incoming.expects_continue:
        # It is we who do not read, or have not asked for it.
        connection.http1.bodies_due.add(connection)
    else:
        connection.refuse(BadRequest(408, "the body took too long"))


def _discarded_too_long(connection: Http1Connection) -> None:
    connection.handle(Event.EXPIRED)


def _half_closed(connection: Http1Connection) -> None:
    """The client has sent nothing more for a while. Has it left, or does it still take what it is sent?

    What is sent to a client that has left fails with the second write at the latest.
    """
    progress = progress_of(connection)
    if progress == connection.progress:
        connection.abort()
    else:
        connection.progress = progress
        connection.http1.half_closed.add(connection)
