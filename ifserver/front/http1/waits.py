"""What HTTP/1 connections wait for, and how long."""

from __future__ import annotations

from operator import methodcaller
from typing import Any, Final

from ifserver.clock import Clock
from ifserver.config.settings import FrontSettings
from ifserver.front.deadlines import Deadlines
from ifserver.front.http1.unread_body import SILENCE_S

__all__ = ["Waits"]

#: How long a client that has closed its sending side may wait for a response, in seconds. By so much later does an
#: application hear of a client that has left.
_HALF_CLOSED_S: Final = 1.0


class Waits:
    """The deadlines of all HTTP/1 connections of a server."""

    def __init__(self, settings: FrontSettings, clock: Clock) -> None:
        #: Without a request; whose request's head is not complete.
        self.idle: Deadlines[Any] = Deadlines(clock, _idle_s(settings), methodcaller("shut_down"))
        self.heads_due: Deadlines[Any] = Deadlines(clock, settings.header_timeout_s, methodcaller("head_too_slow"))
        #: Of whose request's body more must come; that read for nothing.
        self.bodies_due: Deadlines[Any] = Deadlines(clock, settings.body_timeout_s, methodcaller("body_too_slow"))
        self.discarding: Deadlines[Any] = Deadlines(clock, SILENCE_S, methodcaller("lose"))
        #: Whose clients send nothing more, and may wait for a response.
        self.half_closed: Deadlines[Any] = Deadlines(clock, _HALF_CLOSED_S, methodcaller("half_closed"))
        self._all = self.idle, self.heads_due, self.bodies_due, self.discarding, self.half_closed

    def change(self, settings: FrontSettings, draining: bool) -> None:
        """A wait has its new length for those too that wait already; a server that ends keeps how long one is idle."""
        if not draining:
            self.idle.change(_idle_s(settings))
        self.heads_due.change(settings.header_timeout_s)
        self.bodies_due.change(settings.body_timeout_s)

    def forget(self, connection: object) -> None:
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
