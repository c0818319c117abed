"""The end of a supervisor: its workers end, the nodes take what there is to tell. Neither is waited for for ever."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Set
from typing import Final

from twisted.internet.defer import Deferred

from ifserver.clock import Clock, Timer
from ifserver.process.slots import Worker

__all__ = ["Stopping"]

#: How long the end of the supervisor waits for the nodes to take the last Releases.
_FLUSH_S: Final = 2.0
_FLUSH_POLL_S: Final = 0.01
#: How long it waits for killed children. One that the kernel cannot end hangs in a device, and we do not hang with it.
_KILL_S: Final = 5.0

_log = logging.getLogger(__name__)


class _State(enum.Enum):
    RUNNING = "running"
    #: The workers have been told to end.
    ENDING = "ending"
    #: They are gone, and the nodes are being told.
    FLUSHING = "flushing"
    STOPPED = "stopped"


class Stopping:
    """How far the end has come, which has one timer: when it stops waiting for what it waits for.

    Args:
        workers: those that live, now and later: the supervisor's own set.
        waiting: how many messages no node has taken yet.
        stopped: is called once, when nothing is waited for any more.
    """

    def __init__(
        self, workers: Set[Worker], clock: Clock, waiting: Callable[[], int], stopped: Callable[[], None]
    ) -> None:
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
        """The workers are told to end, and are killed after `patience_s`. Call `look` when they have been told."""
        self._state = _State.ENDING
        self._set_timer(patience_s + _KILL_S, self._give_up)

    def hurry(self) -> None:
        """The workers have been killed."""
        if self._state is _State.ENDING:
            self._set_timer(_KILL_S, self._give_up)

    def look(self) -> None:
        """See whether the workers are gone: to be called when one has ended."""
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
        self._cancel_timer()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def _set_timer(self, delay_s: float, call: Callable[..., None], *args: object) -> None:
        self._cancel_timer()
        self._timer = self._clock.callLater(delay_s, call, *args)

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
