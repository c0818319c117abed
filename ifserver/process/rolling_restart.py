"""A rolling restart: a new worker is started beside each, takes its slot when it is ready, and the old one ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ifserver.logs import events
from ifserver.logs.events import Mark
from ifserver.process.slots import Pool, Slot, Worker

__all__ = ["RollingRestart"]

_log = logging.getLogger(__name__)


class RollingRestart:
    """One slot after another, so that the new workers' start leaves the old ones time to work.

    A new worker that does not get ready ends the restart of its pool: those that run go on with what they have.

    Args:
        start: starts a worker for a slot, beside the one that it has; may raise `OSError`.
        restart: lets a slot that has no worker, or none that is ready, have a new one.
        end: tells a worker to end.
    """

    def __init__(
        self,
        start: Callable[[Slot[Worker]], Worker],
        restart: Callable[[Slot[Worker]], None],
        end: Callable[[Worker], None],
    ) -> None:
        self._start = start
        self._restart = restart
        self._end = end
        self._queue: list[Slot[Worker]] = []
        self._successor: Worker | None = None
        #: Whether an operator has asked for all of them, and waits to hear that it is done.
        self._asked_for = False

    def begin(self, slots: Sequence[Slot[Worker]]) -> None:
        """Replace the workers of all slots. May be called again at any time: then all are replaced once more."""
        self._queue = list(slots)
        count = len(self._queue)
        what = "the worker" if count == 1 else f"the {count} workers, one after another"
        events.tell(_log, logging.INFO, Mark.ROLLING, "replacing %s", what)
        self._asked_for = True
        if self._successor is None:
            self._next()

    def add(self, slot: Slot[Worker]) -> None:
        """Replace the worker of one slot, behind those that are being replaced."""
        if slot not in self._queue and (self._successor is None or self._successor.slot is not slot):
            self._queue.append(slot)
        if self._successor is None:
            self._next()

    def stop(self) -> Worker | None:
        """Replace no more. Returns the new worker that has not taken its slot, if there is one."""
        self._queue.clear()
        successor, self._successor = self._successor, None
        self._asked_for = False
        return successor

    def ready(self, worker: Worker) -> bool:
        """A worker is ready. True: it is a new one of this restart, and has taken its slot."""
        if worker is not self._successor or worker.slot is None:
            return False
        slot, self._successor = worker.slot, None
        old, slot.current = slot.current, worker
        if old is not None:
            old.slot = None
            self._end(old)
        self._next()
        return True

    def ended(self, worker: Worker) -> bool:
        """A worker has ended. True: it is a new one of this restart, and had not taken its slot."""
        if worker is not self._successor:
            return False
        self._successor = None
        # The other pools' workers run something else, which may well get ready.
        self._queue = [slot for slot in self._queue if _pool_of(slot) is not worker.pool]
        self._asked_for = False
        events.tell(
            _log,
            logging.ERROR,
            Mark.DEPLOY_FAILED,
            "%s has ended before it was ready (%s): the old workers go on",
            worker,
            worker.child.ending,
        )
        self._next()
        return True

    def _next(self) -> None:
        while self._queue:
            slot = self._queue.pop(0)
            if not slot.ready:
                self._restart(slot)
                continue
            try:
                self._successor = self._start(slot)
            except OSError as error:
                self._queue.clear()
                self._asked_for = False
                text = "cannot start a new worker: %s; the old workers go on"
                events.tell(_log, logging.ERROR, Mark.DEPLOY_FAILED, text, error)
            return
        if self._asked_for:
            self._asked_for = False
            text = "the new workers are ready; the old ones end when their requests and WebSockets have"
            events.tell(_log, logging.INFO, Mark.ROLLED, text)


def _pool_of(slot: Slot[Worker]) -> Pool | None:
    return None if slot.current is None else slot.current.pool
