"""How a supervisor replaces its workers one after another, and how it ends."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred

from ifserver.logs import events
from ifserver.logs.events import Mark
from ifserver.process.workers import cancel

if TYPE_CHECKING:
    from ifserver.clock import Clock, Timer
    from ifserver.process.workers import Pool, Slot, Worker, Workers

__all__ = ["RollingRestart", "Stopping"]

_log = logging.getLogger(__name__)


class RollingRestart:
    """A new worker is started beside each, takes its slot when it is ready, and the old one ends.

    One slot after another, so that the new workers' start leaves the old ones time to work. A new worker that does not
    get ready ends the restart of its pool: those that run go on with what they have.

    Args:
        start: starts a worker for a slot, beside the one that it has; may raise `OSError`.
        restart: lets a slot that has no worker, or none that is ready, have a new one.
        end: asks a worker to end.
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
        #: Whether an operator has asked for all of them, so that the log reports the end.
        self._asked_for = False

    def begin(self, slots: Sequence[Slot[Worker]]) -> None:
        """Replace the workers of all slots. May be called again at any time: then all are replaced once more."""
        self._queue = list(slots)
        count = len(self._queue)
        what = "the worker" if count == 1 else f"the {count} workers, one after another"
        events.report(_log, logging.INFO, Mark.ROLLING, "replacing %s", what)
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
        events.report(
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
                events.report(_log, logging.ERROR, Mark.DEPLOY_FAILED, text, error)
            return
        if self._asked_for:
            self._asked_for = False
            text = "the new workers are ready; the old ones end when their requests and WebSockets have"
            events.report(_log, logging.INFO, Mark.ROLLED, text)


def _pool_of(slot: Slot[Worker]) -> Pool | None:
    return None if slot.current is None else slot.current.pool


#: How long the end of the supervisor waits for the nodes to take the last Releases.
_FLUSH_S: Final = 2.0
_FLUSH_POLL_S: Final = 0.01
#: How long it waits for killed children. One that the kernel cannot end hangs in a device, and we do not hang with it.
_KILL_S: Final = 5.0


class _State(enum.Enum):
    RUNNING = "running"
    #: The workers have been asked to end.
    ENDING = "ending"
    #: They have ended, and the nodes take the last messages.
    FLUSHING = "flushing"
    STOPPED = "stopped"


class Stopping:
    """How far the end of a supervisor has come: its workers end, then the nodes take the last messages.

    Its one timer ends either wait.

    Args:
        waiting: how many messages no node has taken yet.
        stopped: is called once, when nothing is waited for any more.
    """

    def __init__(self, workers: Workers, clock: Clock, waiting: Callable[[], int], stopped: Callable[[], None]) -> None:
        self._workers = workers
        self._clock = clock
        self._waiting = waiting
        self._stopped = stopped
        self._state = _State.RUNNING
        self._timer: Timer | None = None
        self._waiters: list[Deferred[None]] = []

    @property
    def begun(self) -> bool:
        return self._state is not _State.RUNNING

    def begin(self, patience_s: float) -> None:
        """The workers are asked to end, and are killed after `patience_s`. Call `look` when they have been asked."""
        self._state = _State.ENDING
        self._set_timer(patience_s + _KILL_S, self._give_up)

    def hurry(self) -> None:
        """The workers have been killed."""
        if self._state is _State.ENDING:
            self._set_timer(_KILL_S, self._give_up)

    def look(self) -> None:
        """See whether all workers have ended: to be called when one has."""
        if self._state is _State.ENDING and not self._workers:
            self._flush()

    def wait(self) -> Deferred[None]:
        """Fires when the end is reached, at once if it was."""
        stopped: Deferred[None] = Deferred()
        if self._state is _State.STOPPED:
            stopped.callback(None)
        else:
            self._waiters.append(stopped)
        return stopped

    def _give_up(self) -> None:
        left = ", ".join(str(worker.child.pid) for worker in self._workers)
        _log.error("these workers were killed and have not ended: %s", left)
        self._flush()

    def _flush(self) -> None:
        self._state = _State.FLUSHING
        self._look_whether_flushed(self._clock.seconds() + _FLUSH_S)

    def _look_whether_flushed(self, until: float) -> None:
        waiting = self._waiting()
        if waiting and self._clock.seconds() < until:
            self._set_timer(_FLUSH_POLL_S, self._look_whether_flushed, until)
            return
        if waiting:
            _log.error("%d messages are lost: no node has taken them within %.1f s", waiting, _FLUSH_S)
        self._state = _State.STOPPED
        self._stopped()
        cancel(self._timer)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def _set_timer(self, delay_s: float, call: Callable[..., None], *args: object) -> None:
        cancel(self._timer)
        self._timer = self._clock.callLater(delay_s, call, *args)
