"""Workers that take long to start: the log says so, and what each of them waits for."""

from __future__ import annotations

import logging
from typing import Final

from ifserver.clock import Clock, Timer
from ifserver.process.slots import Worker

__all__ = ["SlowStarts"]

#: How long a worker may start before the log says so, and how often it says so from then on, in seconds.
_FIRST_S: Final = 10.0
_AGAIN_S: Final = 60.0

_log = logging.getLogger(__name__)


class SlowStarts:
    """The workers that start."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timers: dict[Worker, Timer] = {}

    def begun(self, worker: Worker) -> None:
        """`worker` was started."""
        self._timers[worker] = self._clock.callLater(_FIRST_S, self._look, worker, logging.INFO)

    def over(self, worker: Worker) -> None:
        """It is ready, or has ended."""
        timer = self._timers.pop(worker, None)
        if timer is not None and timer.active():
            timer.cancel()

    def _look(self, worker: Worker, level: int) -> None:
        # Many applications need a while, so that the first line is no warning.
        self._timers[worker] = self._clock.callLater(_AGAIN_S, self._look, worker, logging.WARNING)
        child, seconds = worker.child, self._clock.seconds() - worker.started_at
        application = worker.pool.settings.application
        what = (
            f"{application} has not answered lifespan.startup (with lifespan.startup.complete)"
            if child.loaded
            else f"it is still importing {application}"
        )
        _log.log(level, "%s is not ready after %.0f s: %s", worker, seconds, what)
