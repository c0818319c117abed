"""When which connection of a server that ends is closed. Pure timing.

Clients whose WebSocket is closed come back at once, all that there are; so they are sent off one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Generic, NamedTuple, TypeVar

from ifserver.clock import Clock, Timer

__all__ = ["DrainPlan", "Spread"]

#: With somebody at the terminal who waits for it, the end takes so long at most, in seconds.
_QUICK_S: Final = 5.0
#: A connection without a request is kept for so long, in seconds: the next one may be on its way, and would be lost.
_IDLE_S: Final = 0.5
#: More than ten a second need not be gentler: a few clients are gone within a second.
_APART_S: Final = 0.1
#: Closing is done in steps of this length at least.
_STEP_S: Final = 0.02

_T = TypeVar("_T")


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
