"""What the HTTP/1 connections of one server share: their deadlines, and who writes the heads of their responses."""

from __future__ import annotations

from typing import Any, Final, Protocol

from ifserver.clock import Clock, Soon, WallClock
from ifserver.config.settings import FrontSettings
from ifserver.front.deadlines import Deadlines
from ifserver.front.http1.connection_states import Event, State
from ifserver.front.http1.response_heads import HeadWriter, plain_answer
from ifserver.front.http1.unread_body import SILENCE_S
from ifserver.front.interface import Connection, Server
from ifserver.front.websocket.opening import WebSockets

__all__ = ["Http1", "Waiting"]

#: How long a client that has closed its sending side may wait for a response, in seconds. By so much later does an
#: application hear of a client that has left.
_HALF_CLOSED_S: Final = 1.0


class Waiting(Connection, Protocol):
    """An HTTP/1 connection. One that had no request for too long is told to `shut_down`."""

    state: State

    def handle(self, event: Event, detail: Any = None) -> None:
        """Do what is to be done about `event` (`ifserver.front.http1.connection_states`)."""

    # It has waited for too long.

    def head_too_slow(self) -> None:
        """The head of its request is not complete."""

    def body_too_slow(self) -> None:
        """The body of its request is not complete."""

    def half_closed(self) -> None:
        """Its client has closed its sending side."""


class Http1:
    """What the HTTP/1 connections of `server` share. `websockets` opens those that clients ask for."""

    def __init__(self, server: Server, clock: Clock, wall: WallClock, soon: Soon, websockets: WebSockets) -> None:
        self.server = server
        self.clock = clock
        self.wall = wall
        self.soon = soon
        self.websockets = websockets
        self.tally = server.exchanges.tally
        settings = server.settings
        self.head_writer = HeadWriter(wall, settings.server_header)
        #: Connections without a request.
        self.idle: Deadlines[Waiting] = Deadlines(clock, _idle_s(settings), lambda each: each.shut_down())
        #: Those whose request's head is not complete.
        self.heads_due: Deadlines[Waiting] = Deadlines(
            clock, settings.header_timeout_s, lambda each: each.head_too_slow()
        )
        #: Those whose request's body is not complete.
        self.bodies_due: Deadlines[Waiting] = Deadlines(
            clock, settings.body_timeout_s, lambda each: each.body_too_slow()
        )
        #: Those that discard the rest of a body.
        self.discarding: Deadlines[Waiting] = Deadlines(clock, SILENCE_S, lambda each: each.handle(Event.EXPIRED))
        #: Those whose clients have closed their sending side, and may wait for a response.
        self.half_closed: Deadlines[Waiting] = Deadlines(clock, _HALF_CLOSED_S, lambda each: each.half_closed())
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

    def forget(self, connection: Waiting) -> None:
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
