"""Workers that have served so many requests that they are replaced: ``worker.max_requests``."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection
from typing import Final

from ifserver.clock import Clock, Timer
from ifserver.metrics import Counters
from ifserver.process.slots import Slot, Worker

__all__ = ["MaxRequests"]

#: How often the supervisor looks, in seconds. Workers count in memory that it shares, so they are not asked.
_LOOK_S: Final = 1.0

_log = logging.getLogger(__name__)


class MaxRequests:
    """Looks after the age of `workers`, from `start` to `stop`.

    Args:
        replace: replaces the worker of a slot, once a new one is ready.
        most: ``worker.max_requests``; 0: nothing is done.
        jitter: ``worker.max_requests_jitter``.
    """

    def __init__(
        self,
        workers: Callable[[], Collection[Worker]],
        replace: Callable[[Slot[Worker]], None],
        clock: Clock,
        most: int,
        jitter: int,
    ) -> None:
        self._workers = workers
        self._replace = replace
        self._clock = clock
        self._most = most
        self._jitter = jitter
        #: After how many streams each is replaced.
        self._limits: dict[Worker, int] = {}
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin."""
        if self._most:
            self._timer = self._clock.callLater(_LOOK_S, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._clock.callLater(_LOOK_S, self._look)
        before, self._limits = self._limits, {}
        for worker in list(self._workers()):
            if worker.slot is None or not worker.ready:
                continue
            limit = before.get(worker) or self._most + random.randint(0, self._jitter)
            counters = Counters(worker.ledger.cells)
            taken = counters.value("streams_opened", "http") + counters.value("streams_opened", "websocket")
            if taken >= limit:
                # Where the new worker does not get ready, the old one goes on, and is replaced after as many again.
                limit = taken + self._most
                _log.info("%s has taken %d requests: replacing it", worker, taken)
                self._replace(worker.slot)
            self._limits[worker] = limit
