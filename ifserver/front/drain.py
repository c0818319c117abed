"""The end of a server's connections: those without a request, WebSockets one after the other, and what is left.

Clients whose WebSocket is closed come back at once, all that there are; so they are sent off one after the other.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from twisted.internet.defer import Deferred, succeed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Set

    from ifserver.clock import Clock, Timer
    from ifserver.config.settings import FrontSettings
    from ifserver.front.deadlines import Deadlines
    from ifserver.front.proxy_protocol import AnnouncedFactory
    from ifserver.front.server import Connection

__all__ = ["Drain", "DrainPlan", "Spread"]

#: With somebody at the terminal who waits for it, the end takes so long at most, in seconds.
_QUICK_S: Final = 5.0
#: A connection without a request is kept for so long, in seconds: the next one may be on its way, and would be lost.
_IDLE_S: Final = 0.5
#: More than ten a second need not be gentler: a few clients are closed within a second.
_APART_S: Final = 0.1
#: Closing is done in steps of this length at least.
_STEP_S: Final = 0.02

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class DrainPlan(NamedTuple):
    """How the end of a server's connections goes, in seconds from its beginning."""

    #: How long one without a request is kept.
    idle_s: float
    #: Over what time WebSockets are closed, evenly.
    window_s: float
    #: When what is left is cut.
    timeout_s: float

    @classmethod
    def of(cls, timeout_s: float, close_timeout_s: float, websockets: int, quick: bool) -> DrainPlan:
        """The plan for so many `websockets`, whose clients get `close_timeout_s` to answer the close frame.

        Args:
            quick: somebody waits for the end.
        """
        if quick:
            return cls(0.0, 0.0, min(timeout_s, _QUICK_S))
        # The last client must have the time to answer too, but not at the cost of the others.
        longest_s = max(timeout_s - close_timeout_s, timeout_s / 2)
        return cls(min(_IDLE_S, timeout_s), min(websockets * _APART_S, longest_s), timeout_s)


class Spread(Generic[_T]):
    """Calls `each` for every one of `items` in turn, evenly over `window_s` seconds; for the first at once."""

    def __init__(self, clock: Clock, items: Iterable[_T], window_s: float, each: Callable[[_T], object]) -> None:
        self._clock = clock
        self._items = list(items)
        self._window_s = window_s
        self._each = each
        self._began = clock.seconds()
        self._done = 0
        self._timer: Timer | None = None
        self._step()

    def stop(self) -> None:
        """Call it for no more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _step(self) -> None:
        self._timer = None
        count = len(self._items)
        elapsed_s = self._clock.seconds() - self._began
        due = count
        if elapsed_s < self._window_s:
            # The n-th is due at n / count of the window. The small number is what floating point is off by.
            due = min(count, int(elapsed_s * count / self._window_s + 1e-6) + 1)
        while self._done < due:
            self._done += 1
            self._each(self._items[self._done - 1])
        if due < count:
            next_s = due * self._window_s / count - elapsed_s
            self._timer = self._clock.callLater(max(next_s, _STEP_S), self._step)


class Drain:
    """Ends the connections of one server as `DrainPlan` has it.

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

    def begin(self, settings: FrontSettings, quick: bool) -> Deferred[None]:
        """Begin. Fires when there are no connections any more, at once if there are none.

        Args:
            quick: somebody waits for it.
        """
        if self._is_over():
            return succeed(None)
        over = self._over = Deferred()
        websockets = [each for each in self._connections if each.kind == "websocket"]
        plan = DrainPlan.of(settings.drain_timeout_s, settings.close_timeout_s, len(websockets), quick)
        count = len(self._connections)
        _log.info("waiting up to %g s for %d connection%s", plan.timeout_s, count, "" if count == 1 else "s")
        # Each has this time from now on, however long it was idle before, or from the end of its request on: a response
        # that has begun cannot announce any more that the connection ends with it, so that the next may be on its way.
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
        """See whether all connections are closed: to be called when one is."""
        if self._over is not None and self._is_over():
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

    def _is_over(self) -> bool:
        return not self._connections and not len(self._announced.waiting)

    def _cut_unannounced(self) -> None:
        self._announced.stop()
        self.look()

    def _timed_out(self, timeout_s: float) -> None:
        # Where they were given no time, that was wanted.
        level = logging.WARNING if timeout_s else logging.INFO
        _log.log(level, "cutting %d connections that did not end within %g s", len(self._connections), timeout_s)
        self.cut()
