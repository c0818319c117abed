"""Time as an argument: the part of Twisted's ``IReactorTime`` that is used here, as types; and how late a loop is.

The reactor is a `Clock`, and so is ``twisted.internet.task.Clock``, which tests use. There are two kinds of time, and
never one in place of the other:

* A `Clock` goes on evenly. All waits, durations, ages and judgements of who is alive are by it.
* A `WallClock` has the date, and may be set forward and back at any moment: by NTP, an operator, or what wakes a
  virtual machine. It is for what people and other programs read as a time of day: ``Date``, logs, when a process
  was started, and the time of a Redis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias

__all__ = ["LOOK_S", "Clock", "LoopLag", "Soon", "Timer", "WallClock"]


class Timer(Protocol):
    """A call that will be made later (``IDelayedCall``)."""

    def cancel(self) -> None:
        """Do not make it. Raises if it was made or cancelled."""

    def active(self) -> bool:
        """Whether it is still to be made."""


class Clock(Protocol):
    """Has the time and calls later (``IReactorTime``)."""

    def seconds(self) -> float:
        """Seconds since some time in the past, which nobody sets (``time.monotonic``); no date can be made of them, and
        those of two machines have nothing to do with each other."""

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> Timer:
        """Call `callable` in `delay` seconds."""


#: The time of day, in seconds since the epoch (``time.time``).
WallClock: TypeAlias = Callable[[], float]

#: Runs a function at the end of this turn of the event loop.
Soon: TypeAlias = Callable[[Callable[[], None]], object]

#: How often a loop's lag is measured, in seconds.
LOOK_S: Final = 0.5


class LoopLag:
    """Measures from `start` to `stop` how late the loop of `clock` is: how long after its time a timer is called.

    Args:
        late: receives each measurement, in seconds.
        looked: is called each time, for what else is to be noted twice a second.
    """

    def __init__(self, clock: Clock, late: Callable[[float], None], looked: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._late = late
        self._looked = looked
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin."""
        self._looked()
        self._later()

    def stop(self) -> None:
        """Measure no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _later(self) -> None:
        due = self._clock.seconds() + LOOK_S
        self._timer = self._clock.callLater(LOOK_S, self._look, due)

    def _look(self, due: float) -> None:
        self._late(self._clock.seconds() - due)
        # First, so that whatever fails in the rest, it goes on.
        self._later()
        self._looked()
