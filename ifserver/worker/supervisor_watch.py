"""Showing the supervisor that this process's loop turns, and taking nothing more while the supervisor stands still."""

from __future__ import annotations

import logging
from typing import Final, Protocol

from ifserver.clock import Clock, Timer
from ifserver.worker_ledger import Ledger

__all__ = ["SupervisorWatch"]

#: How often this process says that its loop turns.
TURN_S: Final = 0.25
#: How long the supervisor's beat may stand still.
_STILL_S: Final = 1.0

_log = logging.getLogger(__name__)


class _Holdable(Protocol):
    def hold(self) -> None:
        """Take nothing more."""

    def resume(self) -> None:
        """Take requests again."""

    def turned(self) -> None:
        """The loop turns; called every `TURN_S`."""


class SupervisorWatch:
    """Shows this process to its supervisor and watches the supervisor's beat, from `start` to `stop`."""

    def __init__(self, shared: Ledger, puller: _Holdable, clock: Clock) -> None:
        self._shared = shared
        self._puller = puller
        self._clock = clock
        self._beats = -1
        self._beaten_at = clock.seconds()
        self._holding = False
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin."""
        self._tick()

    def stop(self) -> None:
        """Say nothing more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _tick(self) -> None:
        self._timer = self._clock.callLater(TURN_S, self._tick)
        self._shared.turn()
        self._puller.turned()
        now, beats = self._clock.seconds(), self._shared.beats
        # It counts: where it is we who stood still, it has beaten meanwhile.
        if beats != self._beats:
            self._beats, self._beaten_at = beats, now
            if self._holding:
                self._holding = False
                _log.info("the supervisor responds again: taking requests again")
                self._puller.resume()
        elif not self._holding and now - self._beaten_at >= _STILL_S:
            self._holding = True
            _log.warning("the supervisor does not respond: taking no requests until it does")
            self._puller.hold()
