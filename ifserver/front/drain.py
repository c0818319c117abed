"""The end of a server's connections: those without a request, WebSockets one after the other, and what is left."""

from __future__ import annotations

import logging
from collections.abc import Set
from typing import Any

from twisted.internet.defer import Deferred, succeed

from ifserver.clock import Clock, Timer
from ifserver.config.settings import FrontSettings
from ifserver.front.deadlines import Deadlines
from ifserver.front.drain_plan import DrainPlan, Spread
from ifserver.front.http1.connection import Http1Connection
from ifserver.front.interface import Connection
from ifserver.front.proxy_protocol import AnnouncedFactory

__all__ = ["Drain"]

_log = logging.getLogger(__name__)


class Drain:
    """Ends the connections of one server as `DrainPlan` says.

    Args:
        connections: those that are open, now and later: the server's own set.
        idle: ends those that have no request for too long.
        announced: has those that a proxy has not announced yet.
    """

    def __init__(
        self,
        connections: Set[Connection],
        idle: Deadlines[Any],
        announced: AnnouncedFactory,
        clock: Clock,
    ) -> None:
        self._connections = connections
        self._idle = idle
        self._announced = announced
        self._clock = clock
        self._over: Deferred[None] | None = None
        self._timers: list[Timer] = []
        self._websockets: Spread[Connection] | None = None

    def say(self, settings: FrontSettings, quick: bool) -> Deferred[None]:
        """Begin. Fires when there are no connections any more, at once if there are none.

        Args:
            quick: somebody waits for it.
        """
        if self._gone():
            return succeed(None)
        over = self._over = Deferred()
        websockets = [each for each in self._connections if not isinstance(each, Http1Connection)]
        plan = DrainPlan.of(settings.drain_timeout_s, settings.close_timeout_s, len(websockets), quick)
        count = len(self._connections)
        _log.info("waiting up to %g s for %d connection%s", plan.timeout_s, count, "" if count == 1 else "s")
        # Each has this time from now on, however long it was idle before, or from the end of its request on: a response
        # that has begun cannot say any more that the connection ends with it, so that the next may be on its way.
        for each in self._idle.take_all():
            self._idle.add(each)
        self._idle.change(plan.idle_s)
        self._timers = [
            self._clock.callLater(plan.idle_s, self._cut_unannounced),
            self._clock.callLater(plan.timeout_s, self._timed_out, plan.timeout_s),
        ]
        self._websockets = Spread(self._clock, websockets, plan.window_s, lambda each: each.shut_down())
        return over

    def look(self) -> None:
        """See whether the connections are gone: to be called when one is."""
        if self._over is not None and self._gone():
            over, self._over = self._over, None
            for timer in self._timers:
                if timer.active():
                    timer.cancel()
            over.callback(None)

    def cut(self) -> None:
        """Wait no longer for what is under way."""
        self._announced.stop()
        for connection in list(self._connections):
            connection.abort()
        self.look()

    def stop(self) -> None:
        """Close no more."""
        self._announced.stop()
        if self._websockets is not None:
            self._websockets.stop()

    def _gone(self) -> bool:
        return not self._connections and not len(self._announced.waiting)

    def _cut_unannounced(self) -> None:
        self._announced.stop()
        self.look()

    def _timed_out(self, timeout_s: float) -> None:
        # Where they were given no time, that was wanted.
        level = logging.WARNING if timeout_s else logging.INFO
        _log.log(level, "cutting %d connections that did not end within %g s", len(self._connections), timeout_s)
        self.cut()
