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
from ifserver.config.pools import PoolWorkers
from ifserver.config.settings import LayerSettings, LogSettings
from ifserver.layers.heartbeat_value import value_of
from ifserver.logs import events
from ifserver.logs.events import Mark
from ifserver.messages import DIED, Release, encode
from ifserver.metrics import Counters, total
from ifserver.process import children
from ifserver.process.children import Child, Launch
from ifserver.process.max_requests import MaxRequests
from ifserver.process.rolling_restart import RollingRestart
from ifserver.process.slots import Pool, RestartPolicy, Slot, Worker
from ifserver.process.slow_starts import SlowStarts
from ifserver.process.stalls import Stalls
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
        pools: what there is to run; all of it that is said of workers in general is the same in each.
        loop: the loop of the reactor; children are heard on it.
        ready: is called once, when the first workers are all ready.
        failed: is called once with the reason if the first workers cannot load the application.
        buried: is told the inbox of every child that has ended.
        readers_changed: is called when `reads` may say something else than before.
    """

    def __init__(
        self,
        pools: Sequence[PoolWorkers],
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
        self._settings = settings = pools[0].settings
        self._layer = layer
        self._clusters = clusters
        self._clock = clock
        self._loop = loop
        self._log = log
        self._announce: Callable[[], None] | None = ready
        self._announce_failure = failed
        #: Whether the first workers of a pool could not load its application.
        self._cannot_start = False
        self._buried = buried
        self._spawn = spawn
        self._readers_changed = readers_changed
        longest_s = settings.max_restart_delay_s
        policy = RestartPolicy(settings.restart_delay_s, longest_s, long_life_s=longest_s, at_once=True)
        self.pools = [Pool(each) for each in pools]
        self._pool_of = {
            Slot(self._start, f"worker{f' of pool {pool.name}' if pool.name else ''}", policy, clock): pool
            for pool in self.pools
            for _ in range(pool.settings.processes or len(os.sched_getaffinity(0)))
        }
        self._slots = list(self._pool_of)
        #: Those whose worker has ended by itself; a deploy has marks of its own.
        self._missing: set[Slot[Worker] | None] = set()
        #: Those that live, oldest first.
        self._workers: dict[Worker, None] = {}
        self._rolling = RollingRestart(self._start, self._restart, lambda worker: self._end(worker, self._patience_s()))
        self._stalls = Stalls(lambda: self._workers, clusters, clock, settings.stall_timeout_s)
        self._aging = MaxRequests(
            lambda: self._workers, self._replace_one, clock, settings.max_requests, settings.max_requests_jitter
        )
        self._starting = SlowStarts(clock)
        self._stopping = Stopping(self._workers.keys(), clock, clusters.waiting, self._stop_looking)
        self._started = self._ended = self._released = 0
        #: What the children have counted that have ended.
        self._ended_counts: dict[str, int] = {}

    def start(self) -> None:
        """Start the workers."""
        for pool in self.pools:
            count = list(self._pool_of.values()).count(pool)
            # Who comes from a server with one process has not asked for several.
            why = ", one for each CPU: they share no state in memory (--workers 1 starts only one)"
            several = why if count > 1 and not pool.settings.processes else ""
            _log.info("%sstarting %d worker%s%s", pool.prefix, count, "" if count == 1 else "s", several)
        for slot in self._slots:
            slot.fill()
        self._stalls.start()
        self._aging.start()

    def restart(self) -> None:
        """Replace every worker: the new ones start at once, and the old ones end when their streams have.

        May be called again at any time: at most one worker of each slot is starting.
        """
        if not self._stopping.begun:
            self._forget_errors()
            successor = self._rolling.stop()
            if successor is not None:
                # What it runs may be older than what the others will.
                successor.slot = None
                self._end(successor, _STARTING_GRACE_S)
            for slot in self._slots:
                self._restart(slot)

    def replace(self) -> None:
        """Replace every worker, one after another: an old one ends when the new one in its slot is ready."""
        if not self._stopping.begun:
            self._forget_errors()
            self._rolling.begin(self._slots)

    def _forget_errors(self) -> None:
        for pool in self.pools:
            pool.error = None

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
        found: set[str] = set()
        for worker in self._workers:
            if worker.ready and worker.timer is None:
                # Workers that show an error take no open WebSockets (`ifserver.worker.load_error_page`).
                names = channels.REQUEST_CHANNELS if worker.child.error is None else channels.REQUEST_CHANNELS[:-1]
                found.update(channels.of_pool(worker.pool.name, name) for name in names)
        return tuple(name for pool in self.pools for name in channels.of_all(pool.name) if name in found)

    @property
    def workers(self) -> Collection[Worker]:
        """Those that live, oldest first."""
        return self._workers.keys()

    @property
    def broken(self) -> bool:
        """Whether workers show an error in place of the application; see the setting ``worker.reload``."""
        return any(pool.error is not None for pool in self.pools)

    def states(self, pool: str | None = None) -> dict[str, int]:
        """How many workers are in which state; `pool`: of that pool."""
        workers = [worker for worker in self._workers if pool in (None, worker.pool.name)]
        current = [worker for worker in workers if worker.slot is not None]
        ready = sum(worker.ready for worker in current)
        return {"ready": ready, "starting": len(current) - ready, "draining": len(workers) - len(current)}

    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics."""
        return {
            **{f"workers_{state}": count for state, count in self.states().items()},
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
        pool = self._pool_of[slot]
        ledger, fd = children.create_ledger(pool.settings.max_streams)
        worker = Worker(slot, ledger, self._clock.seconds(), pool)
        launch = Launch(
            parent=os.getpid(),
            layer=self._layer,
            worker=pool.settings,
            pool=pool.name,
            environment=pool.environment,
            supervisor=self._clusters.process,
            first=not pool.has_loaded,
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
        worker.pool.has_loaded = True
        self._starting.over(worker)
        worker.pool.interface = worker.child.interface
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
            text = "%s is ready after %.1f s", worker, self._clock.seconds() - worker.started_at
            if worker.slot in self._missing:
                self._missing.discard(worker.slot)
                events.tell(_log, logging.INFO, Mark.WORKER_BACK, *text)
            else:
                _log.info(*text)
        elif error != worker.pool.error:
            # Once, for the others of the same restart have found the same.
            worker.pool.error = error
            _log.error("%s\nRequests are answered with this error until a watched file changes.", error)
            events.keep(
                Mark.DEPLOY_FAILED, f"{worker.pool.prefix}the application does not load: {error.splitlines()[-1]}"
            )

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
        _log.warning("%s has not stopped within %.1f s: killing it", worker, patience_s)
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
        what = _ending(worker, released)
        slot, pool = worker.slot, worker.pool
        pool.has_loaded = pool.has_loaded or worker.child.loaded
        can_be_mended = self._settings.reload and worker.child.failure is None
        if not pool.has_loaded and not self._stopping.begun and not can_be_mended:
            self._cannot_load(worker.child, pool)
            return
        if self._rolling.ended(worker):
            return
        if slot is not None and not self._stopping.begun:
            slot.current = None
            self._replace(slot, worker, what)
        else:
            if released and not self._stopping.begun:
                events.tell(_log, logging.WARNING, _mark(worker), "%s", what)
            else:
                # Why it cannot start is told in another way.
                _log.log(logging.DEBUG if self._cannot_start else logging.INFO, "%s", what)
            self._stopping.look()

    def _cannot_load(self, child: Child, pool: Pool) -> None:
        """The first worker that has ended could not load the application: the others could not, either."""
        application = pool.settings.application
        self._cannot_start = True
        self._stopping.begin(0.0)
        for worker in self._workers:
            worker.child.kill()
        self._announce_failure(
            pool.prefix
            + (child.failure or f"application {application!r}: the process that imported it has ended: {child.ending}")
        )
        # It may have been the only one.
        self._stopping.look()

    def _replace(self, slot: Slot[Worker], worker: Worker, what: str) -> None:
        delay = 0.0 if worker.stale else slot.delay_s(worker.ready_for_s(self._clock.seconds()))
        if not worker.stale:
            self._missing.add(slot)
        if delay:
            events.tell(_log, logging.WARNING, _mark(worker), "%s; a new worker starts in %.1f s", what, delay)
            slot.fill_later(delay)
        else:
            if worker.stale:
                _log.info("%s; a new worker starts now", what)
            else:
                events.tell(_log, logging.WARNING, _mark(worker), "%s; a new worker starts now", what)
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
                _log.error("%s: cannot be told that %s has ended: %s", reply_channel, worker, error)
        self._released += len(entries)
        return len(entries)


def _ending(worker: Worker, released: int) -> str:
    """How a worker has ended that still held so many streams, for people."""
    child, told = worker.child, worker.timer is not None
    # Before it has a handler, SIGTERM just ends it.
    if child.status == 0 or (told and child.status == -signal.SIGTERM):
        what = f"{worker} has stopped"
    elif child.status is not None and child.status < 0:
        what = f"{worker} was killed ({child.ending})"
    else:
        what = f"{worker} has ended with {child.ending}"
    if released:
        # Those that must not run twice are answered with 502, which servers log for each of them.
        what += (
            "; its 1 request or WebSocket goes to another worker if possible"
            if released == 1
            else f"; its {released} requests and WebSockets go to other workers where possible"
        )
    return what


def _mark(worker: Worker) -> Mark:
    status = worker.child.status
    return Mark.WORKER_KILLED if status is not None and status < 0 else Mark.WORKER_ENDED


def _cancel(timer: Timer | None) -> None:
    if timer is not None and timer.active():
        timer.cancel()
