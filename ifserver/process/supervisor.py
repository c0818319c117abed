"""The worker processes: as many as were asked for, replaced when they end, and spoken for when they have died.

The supervisor runs no application code. Each child keeps a ledger of the streams that it holds, in memory that it
shares with its supervisor. When a child has ended, for whatever reason, a `Release` goes out for every stream that is
still in its ledger, before anything else is done. So a ``kill -9`` is told in milliseconds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from twisted.internet.defer import Deferred

from ifserver import channels
from ifserver.clock import Clock, Timer
from ifserver.config.settings import LayerSettings, LogSettings, WorkerSettings
from ifserver.layers.beats import value_of
from ifserver.messages import DIED, Release, encode
from ifserver.metrics import Counters, total
from ifserver.process import children
from ifserver.process.aging import Aging
from ifserver.process.children import Child, Launch
from ifserver.process.rolling import RollingRestart
from ifserver.process.slots import RestartPolicy, Slot, Worker
from ifserver.process.stalls import Stalls
from ifserver.process.starting import Starting
from ifserver.process.stopping import Stopping

__all__ = ["Sender", "Spawn", "Supervisor"]

#: What a worker is given beyond the time that its settings allow, before it is killed: for Python's own shutdown.
_GRACE_S: Final = 2.0
#: How long a child that must be replaced before it was ready may take to end: it holds no stream.
_STARTING_GRACE_S: Final = 1.0

_log = logging.getLogger(__name__)


def _nobody_cares() -> None:
    """Who reads what is told with the next beat."""


class Sender(Protocol):
    """What is needed of `ifserver.layers.clusters.Clusters`."""

    process: str

    def send(self, inbox: str, payload: bytes) -> None:
        """Send to an inbox, wherever its home is; raises `ChannelNameError` for a node that is not configured."""

    def waiting(self) -> int:
        """Messages that no node has taken yet."""


class Spawn(Protocol):
    """`ifserver.process.children.spawn`, or what tests put in its place."""

    def __call__(
        self, launch: Launch, loop: asyncio.AbstractEventLoop, ready: Callable[[], None], ended: Callable[[], None], /
    ) -> Child: ...


class Supervisor:
    """Keeps worker processes running, from `start` to `stop`.

    Args:
        loop: the loop of the reactor; children are heard on it.
        ready: is called once, when the first workers are all ready.
        failed: is called once with the reason if the first workers cannot load the application.
        buried: is told the inbox of every child that has ended.
        readers_changed: is called when `reads` may say something else than before.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        layer: LayerSettings,
        clusters: Sender,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        log: LogSettings,
        ready: Callable[[], None],
        failed: Callable[[str], None],
        buried: Callable[[str], None],
        spawn: Spawn = children.spawn,
        readers_changed: Callable[[], None] = _nobody_cares,
    ) -> None:
        self._settings = settings
        self._layer = layer
        self._clusters = clusters
        self._clock = clock
        self._loop = loop
        self._log = log
        self._announce: Callable[[], None] | None = ready
        self._announce_failure = failed
        #: Whether any worker has loaded the application, and whether the first of them could not.
        self._has_loaded = self._cannot_start = False
        #: The error that the newest workers show in place of the application, and that was logged.
        self._error: str | None = None
        self._buried = buried
        self._spawn = spawn
        self._readers_changed = readers_changed
        longest_s = settings.max_restart_delay_s
        policy = RestartPolicy(settings.restart_delay_s, longest_s, long_life_s=longest_s, at_once=True)
        count = settings.processes or len(os.sched_getaffinity(0))
        self._slots = [Slot(self._start, "worker", policy, clock) for _ in range(count)]
        #: Those that live, oldest first.
        self._workers: dict[Worker, None] = {}
        self._rolling = RollingRestart(self._start, self._restart, lambda worker: self._end(worker, self._patience_s()))
        self._stalls = Stalls(lambda: self._workers, clusters, clock, settings.stall_timeout_s)
        self._aging = Aging(
            lambda: self._workers, self._replace_one, clock, settings.max_requests, settings.max_requests_jitter
        )
        self._starting = Starting(clock, settings.application)
        #: What the workers run: ``asgi`` or ``wsgi``; empty until one has loaded it.
        self.interface = ""
        self._stopping = Stopping(self._workers.keys(), clock, clusters.waiting, self._stop_looking)
        self._started = self._ended = self._released = 0
        #: What the children have counted that have ended.
        self._ended_counts: dict[str, int] = {}

    def start(self) -> None:
        """Start the workers."""
        count = len(self._slots)
        # Who comes from a server with one process has not asked for several.
        why = ", one for each CPU: they share no state in memory (--workers 1 starts only one)"
        several = why if count > 1 and not self._settings.processes else ""
        _log.info("starting %d worker%s%s", count, "" if count == 1 else "s", several)
        for slot in self._slots:
            slot.fill()
        self._stalls.start()
        self._aging.start()

    def restart(self) -> None:
        """Replace every worker: the new ones start at once, and the old ones end when their streams have.

        May be called again at any time: at most one worker of each slot is starting.
        """
        if not self._stopping.begun:
            self._error = None
            for slot in self._slots:
                self._restart(slot)

    def replace(self) -> None:
        """Replace every worker, one after another: an old one ends when the new one in its slot is ready."""
        if not self._stopping.begun:
            self._error = None
            self._rolling.begin(self._slots)

    def _replace_one(self, slot: Slot[Worker]) -> None:
        if not self._stopping.begun:
            self._rolling.add(slot)

    def _stop_looking(self) -> None:
        self._stalls.stop()
        self._aging.stop()

    def _restart(self, slot: Slot[Worker]) -> None:
        slot.crashes = 0
        worker = slot.current
        if worker is None:
            slot.fill()
        elif worker.ready:
            self._end(worker, self._patience_s())
            self._retire(worker, slot)
        elif not worker.stale:
            worker.stale = True
            self._end(worker, _STARTING_GRACE_S)

    def stop(self) -> Deferred[None]:
        """Tell all workers to end, and kill those that have not in `drain_timeout_s` + `shutdown_timeout_s` + 2 s.

        Fires when all are gone and the nodes have taken what there was to tell, or have not within 2 s.
        """
        if not self._stopping.begun:
            self._stopping.begin(self._patience_s())
            self._rolling.stop()
            for slot in self._slots:
                slot.cancel()
            for worker in self._workers:
                if worker.timer is None:
                    self._end(worker, self._patience_s())
            self._stopping.look()
        return self._stopping.wait()

    def stop_now(self) -> Deferred[None]:
        """As `stop`, but kill the workers at once. Also while `stop` waits for them."""
        for worker in self._workers:
            worker.child.kill()
        stopped = self.stop()
        self._stopping.hurry()
        return stopped

    def living(self) -> bytes:
        """What the beat of this supervisor says: the children that live."""
        return value_of([worker.process for worker in self._workers if worker.process])

    def reads(self) -> Sequence[str]:
        """The request channels that any child reads: those that are ready and not about to end."""
        readers = [worker.child for worker in self._workers if worker.ready and worker.timer is None]
        if any(child.error is None for child in readers):
            return channels.REQUEST_CHANNELS
        # Workers that show an error take no open WebSockets (`ifserver.worker.broken`).
        return tuple(name for name in channels.REQUEST_CHANNELS if readers and name != channels.WEBSOCKET_RESUME)

    @property
    def workers(self) -> Collection[Worker]:
        """Those that live, oldest first."""
        return self._workers.keys()

    @property
    def broken(self) -> bool:
        """Whether workers show an error in place of the application; see the setting ``worker.reload``."""
        return self._error is not None

    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics."""
        current = [worker for worker in self._workers if worker.slot is not None]
        return {
            "workers_ready": sum(worker.ready for worker in current),
            "workers_starting": sum(not worker.ready for worker in current),
            "workers_draining": len(self._workers) - len(current),
            "workers_started": self._started,
            "workers_ended": self._ended,
            "streams_released": self._released,
        }

    def counts(self) -> dict[str, int]:
        """What all children have counted, also those that have ended (`ifserver.metrics.Counters.statistics`)."""
        living = (Counters(worker.ledger.cells).statistics() for worker in self._workers)
        return total((self._ended_counts, *living))

    # Starting.

    def _start(self, slot: Slot[Worker]) -> Worker:
        ledger, fd = children.create_ledger(self._settings.max_streams)
        worker = Worker(slot, ledger, self._clock.seconds())
        launch = Launch(
            parent=os.getpid(),
            layer=self._layer,
            worker=self._settings,
            supervisor=self._clusters.process,
            first=not self._has_loaded,
            ledger_fd=fd,
            log=self._log,
        )
        try:
            worker.child = self._spawn(
                launch, self._loop, lambda: self._worker_ready(worker), lambda: self._worker_ended(worker)
            )
        finally:
            os.close(fd)
        self._workers[worker] = None
        self._starting.begun(worker)
        self._started += 1
        return worker

    def _worker_ready(self, worker: Worker) -> None:
        self._has_loaded = True
        self._starting.over(worker)
        self.interface = worker.child.interface
        worker.ready_at = self._clock.seconds()
        self._readers_changed()
        self._log_ready(worker)
        if self._stopping.begun or worker.slot is None:
            return
        if self._rolling.ready(worker):
            worker.slot.cancel()
        elif worker.stale:
            # It was ready before it heard that it must end, so it may hold streams and is drained as others are.
            self._set_deadline(worker, self._patience_s())
            self._retire(worker, worker.slot)
        elif self._announce is not None and all(slot.ready for slot in self._slots):
            announce, self._announce = self._announce, None
            announce()

    def _log_ready(self, worker: Worker) -> None:
        error = worker.child.error
        if error is None:
            _log.info("worker %d is ready after %.1f s", worker.child.pid, self._clock.seconds() - worker.started_at)
        elif error != self._error:
            # Once, for the others of the same restart have found the same.
            self._error = error
            _log.error("%s\nRequests are answered with this error until a watched file changes.", error)

    # Ending.

    def _retire(self, worker: Worker, slot: Slot[Worker]) -> None:
        """Fill the slot of `worker`, which has been told to end."""
        worker.slot = None
        slot.fill()

    def _end(self, worker: Worker, patience_s: float) -> None:
        worker.child.terminate()
        self._set_deadline(worker, patience_s)

    def _set_deadline(self, worker: Worker, patience_s: float) -> None:
        _cancel(worker.timer)
        worker.timer = self._clock.callLater(patience_s, self._kill, worker, patience_s)
        self._readers_changed()

    def _kill(self, worker: Worker, patience_s: float) -> None:
        _log.warning("worker %d has not stopped within %.1f s: killing it", worker.child.pid, patience_s)
        worker.child.kill()

    def _patience_s(self) -> float:
        return self._settings.drain_timeout_s + self._settings.shutdown_timeout_s + _GRACE_S

    def _worker_ended(self, worker: Worker) -> None:
        del self._workers[worker]
        released = self._release(worker)
        self._readers_changed()
        self._starting.over(worker)
        self._ended += 1
        _cancel(worker.timer)
        what = _ending(worker.child, released, told=worker.timer is not None)
        slot = worker.slot
        self._has_loaded = self._has_loaded or worker.child.loaded
        can_be_mended = self._settings.reload and worker.child.failure is None
        if not self._has_loaded and not self._stopping.begun and not can_be_mended:
            self._cannot_load(worker.child)
            return
        if self._rolling.ended(worker):
            return
        if slot is not None and not self._stopping.begun:
            slot.current = None
            self._replace(slot, worker, what)
        else:
            level = logging.INFO
            if self._cannot_start:
                level = logging.DEBUG  # why is told in another way
            elif released and not self._stopping.begun:
                level = logging.WARNING
            _log.log(level, "%s", what)
            self._stopping.look()

    def _cannot_load(self, child: Child) -> None:
        """The first worker that has ended could not load the application: the others could not, either."""
        application = self._settings.application
        self._cannot_start = True
        self._stopping.begin(0.0)
        for worker in self._workers:
            worker.child.kill()
        self._announce_failure(
            child.failure or f"application {application!r}: the process that imported it has ended: {child.ending}"
        )
        # It may have been the only one.
        self._stopping.look()

    def _replace(self, slot: Slot[Worker], worker: Worker, what: str) -> None:
        delay = 0.0 if worker.stale else slot.delay_s(worker.ready_for_s(self._clock.seconds()))
        if delay:
            _log.warning("%s; a new worker starts in %.1f s", what, delay)
            slot.fill_later(delay)
        else:
            _log.log(logging.INFO if worker.stale else logging.WARNING, "%s; a new worker starts now", what)
            slot.fill()

    def _release(self, worker: Worker) -> int:
        """Tell the servers of all streams that `worker` still held; how many those were."""
        inbox, entries = worker.inbox, worker.ledger.entries()
        if inbox:
            self._buried(inbox)
        self._ended_counts = total((self._ended_counts, Counters(worker.ledger.cells).legacy()))
        # Unmaps its memory and closes its descriptor.
        del worker.ledger
        for reply_channel, attempt in entries:
            try:
                stream = channels.identity(channels.check(reply_channel))
                release = Release(stream, attempt, channels.check(inbox), DIED, by=self._clusters.process)
                self._clusters.send(channels.inbox_of(reply_channel), encode(release))
            except (ValueError, OverflowError) as error:
                _log.error("%s: cannot be told that worker %d has ended: %s", reply_channel, worker.child.pid, error)
        self._released += len(entries)
        return len(entries)


def _ending(child: Child, released: int, told: bool) -> str:
    """How a worker has ended that still held so many streams, for people. It may have been `told` to end."""
    # Before it has a handler, SIGTERM just ends it.
    if child.status == 0 or (told and child.status == -signal.SIGTERM):
        what = f"worker {child.pid} has stopped"
    elif child.status is not None and child.status < 0:
        what = f"worker {child.pid} was killed ({child.ending})"
    else:
        what = f"worker {child.pid} has ended with {child.ending}"
    if released:
        # Those that must not run twice are answered with 502, which servers log for each of them.
        what += (
            "; its 1 request or WebSocket goes to another worker if possible"
            if released == 1
            else f"; its {released} requests and WebSockets go to other workers where possible"
        )
    return what


def _cancel(timer: Timer | None) -> None:
    if timer is not None and timer.active():
        timer.cancel()
