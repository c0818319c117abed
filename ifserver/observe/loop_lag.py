"""How late an event loop is: a timer that looks, twice a second, how long after its time it was called. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ifserver.clock import Clock, Timer

__all__ = ["LOOK_S", "LoopLag"]

#: How often it looks.
LOOK_S: Final = 0.5


class LoopLag:
    """Looks how late the loop of `clock` is, from `start` to `stop`.

    Args:
        late: is told each time, in seconds.
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
        """Look no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _later(self) -> None:
        due = self._clock.seconds() + LOOK_S
        self._timer = self._clock.callLater(LOOK_S, self._look, due)

    def _look(self, due: float) -> None:
        self._late(self._clock.seconds() - due)
        # First, so that whatever goes wrong with the rest, it goes on.
        self._later()
        self._looked()
