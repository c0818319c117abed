"""Looks for what is overdue, again and again, in a process that may have been asleep itself. Pure.

A process that was stopped, swapped out or blocked for a second finds its timers due before it has read what has arrived
meanwhile. What it takes for silence then is its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ifserver.clock import Clock, Timer

__all__ = ["CATCH_UP_S", "Periodic"]

#: How long a process that comes late has to read what has arrived, in seconds.
CATCH_UP_S: Final = 0.1


class Periodic:
    """Looks every `every_s` seconds, and a moment later where it would come late itself.

    Late is a whole round or more. It puts off one look and never two in succession, so a loop that is always late looks
    all the same.

    Args:
        look: returns whether to go on.
    """

    def __init__(self, clock: Clock, every_s: float, look: Callable[[], bool]) -> None:
        self._clock = clock
        self._every_s = every_s
        self._look = look
        self._timer: Timer | None = None
        self.running = False

    def start(self) -> None:
        """Begin, with the first look in `every_s` seconds; nothing if it has begun."""
        if not self.running:
            self.running = True
            self._later()

    def stop(self) -> None:
        """Look no more."""
        self.running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _later(self) -> None:
        self._timer = self._clock.callLater(self._every_s, self._due, self._clock.seconds() + self._every_s)

    def _due(self, due: float) -> None:
        if self._clock.seconds() - due >= self._every_s:
            self._timer = self._clock.callLater(CATCH_UP_S, self._round)
        else:
            self._round()

    def _round(self) -> None:
        # First, so that whatever goes wrong with this look, it goes on.
        self._later()
        if not self._look():
            self.stop()
