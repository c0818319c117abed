"""A rolling restart: a new worker is started beside each, takes its place when it is ready, and the old one ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ifserver.process.slots import Place, Worker

__all__ = ["Roll"]

_log = logging.getLogger(__name__)


class Roll:
    """One place after another, so that the new workers' start leaves the old ones time to work.

    A new worker that does not get ready ends the restart: those that run go on with what they have.

    Args:
        start: starts a worker for a place, beside the one that it has; may raise `OSError`.
        restart: lets a place that has no worker, or none that is ready, have a new one.
        end: tells a worker to end.
    """

    def __init__(
        self, start: Callable[[Place], Worker], restart: Callable[[Place], None], end: Callable[[Worker], None]
    ) -> None:
        self._start = start
        self._restart = restart
        self._end = end
        self._queue: list[Place] = []
        self._successor: Worker | None = None

    def begin(self, places: Sequence[Place]) -> None:
        """Replace the workers of all places. May be called again at any time: then all are replaced once more."""
        self._queue = list(places)
        count = len(self._queue)
        _log.info("replacing %s", "the worker" if count == 1 else f"the {count} workers, one after another")
        if self._successor is None:
            self._next()

    def add(self, place: Place) -> None:
        """Replace the worker of one place, behind those that are being replaced."""
        if place not in self._queue and (self._successor is None or self._successor.place is not place):
            self._queue.append(place)
        if self._successor is None:
            self._next()

    def stop(self) -> None:
        """Replace no more."""
        self._queue.clear()
        self._successor = None

    def ready(self, worker: Worker) -> bool:
        """A worker is ready. True: it is a new one of this restart, and has taken its place."""
        if worker is not self._successor or worker.place is None:
            return False
        place, self._successor = worker.place, None
        old, place.worker = place.worker, worker
        if old is not None:
            old.place = None
            self._end(old)
        self._next()
        return True

    def ended(self, worker: Worker) -> bool:
        """A worker has ended. True: it is a new one of this restart, and had not taken its place."""
        if worker is not self._successor:
            return False
        self._successor = None
        self._queue.clear()
        _log.error(
            "worker %d has ended before it was ready (%s): the old workers go on",
            worker.child.pid,
            worker.child.ending,
        )
        return True

    def _next(self) -> None:
        while self._queue:
            place = self._queue.pop(0)
            if place.worker is None or not place.worker.ready:
                self._restart(place)
                continue
            try:
                self._successor = self._start(place)
            except OSError as error:
                self._queue.clear()
                _log.error("cannot start a new worker: %s; the old workers go on", error)
            return
