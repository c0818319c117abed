"""The worker processes: as many as were asked for, replaced when they end; when one has died, its streams are released.

The supervisor runs no application code. Each child keeps a ledger of the streams that it holds, in memory that it
shares with its supervisor. When a child has ended, for whatever reason, a `Release` goes out for every stream that is
still in its ledger, before anything else is done. So servers know of a ``kill -9`` within milliseconds.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from ifserver import channels
from ifserver.logs import events
from ifserver.logs.events import Mark
from ifserver.messages import DIED, Release, encode
from ifserver.process import children
from ifserver.process.children import Launch
from ifserver.process.restarts import RollingRestart, Stopping
from ifserver.process.workers import Pool, RestartPolicy, Slot, Worker, Workers, WorkerWatch

if TYPE_CHECKING:
    import asyncio

    from twisted.internet.defer import Deferred

    from ifserver.clock import Clock
    from ifserver.config.pools import PoolWorkers
    from ifserver.config.settings import LayerSettings, LogSettings
    from ifserver.layers.clusters import Clusters
    from ifserver.process.children import Child

__all__ = ["Spawn", "Supervisor"]

#: What a worker is given beyond the time that its settings allow, before it is killed: for Python's own shutdown.
_GRACE_S: Final = 2.0
#: How long a child that must be replaced before it was ready may take to end: it holds no stream.
_STARTING_GRACE_S: Final = 1.0

_log = logging.getLogger(__name__)


#: `ifserver.process.children.spawn`, or a fork server's.
Spawn: TypeAlias = "Callable[[Launch, asyncio.AbstractEventLoop, Callable[[], None], Callable[[], None]], Child]"


class Supervisor:
    """Keeps worker processes running, from `start` to `stop`.

    Args:
        pools: what there is to run; what holds for workers in general is the same in each.
        loop: the loop of the reactor, on which children report.
        ready: is called once, when the first workers are all ready.
        failed: is called once with the reason if the first workers cannot load the application.
        ended: receives the inbox of every child that has ended.
        readers_changed: is called when `Workers.reads` may be another than before.
    """

    def __init__(
        self,
        pools: Sequence[PoolWorkers],
        layer: LayerSettings,
        clusters: Clusters,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        log: LogSettings,
        ready: Callable[[], None],
        failed: Callable[[str], None],
        ended: Callable[[str], None],
        spawn: Spawn = children.spawn,
        readers_changed: Callable[[], None] = lambda: None,
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
        self._inbox_ended = ended
        self._spawn = spawn
        self._patience_s = settings.drain_timeout_s + settings.shutdown_timeout_s + _GRACE_S
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
        self.workers = Workers(self.pools, clock, readers_changed)
        self._rolling = RollingRestart(
            self._start, self._restart, lambda worker: self.workers.end(worker, self._patience_s)
        )
        self._watch = WorkerWatch(self.workers, clusters, clock, settings, self._replace_one)
        self._stopping = Stopping(self.workers, clock, clusters.waiting, self._watch.stop)
        self._started = self._ended = self._released = 0

    def start(self) -> None:
        """Start the workers."""
        for pool in self.pools:
            count = list(self._pool_of.values()).count(pool)
            # An operator who is used to servers with one process has not asked for several.
            why = ", one for each CPU: they share no state in memory (--workers 1 starts only one)"
            several = why if count > 1 and not pool.settings.processes else ""
            _log.info("%sstarting %d worker%s%s", pool.prefix, count, "" if count == 1 else "s", several)
        for slot in self._slots:
            slot.fill()
        self._watch.start()

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
                self.workers.end(successor, _STARTING_GRACE_S)
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

    def _restart(self, slot: Slot[Worker]) -> None:
        slot.crashes = 0
        worker = slot.current
        if worker is None:
            slot.fill()
        elif worker.ready:
            self.workers.end(worker, self._patience_s)
            worker.slot = None
            slot.fill()
        elif not worker.stale:
            worker.stale = True
            self.workers.end(worker, _STARTING_GRACE_S)

    def stop(self) -> Deferred[None]:
        """Ask all workers to end, and kill those that have not in `drain_timeout_s` + `shutdown_timeout_s` + 2 s.

        Fires when all have ended and the nodes have taken the last messages, or have not within 2 s.
        """
        if not self._stopping.begun:
            self._stopping.begin(self._patience_s)
            self._rolling.stop()
            for slot in self._slots:
                slot.cancel()
            for worker in self.workers:
                if worker.timer is None:
                    self.workers.end(worker, self._patience_s)
            self._stopping.look()
        return self._stopping.wait()

    def stop_now(self) -> Deferred[None]:
        """As `stop`, but kill the workers at once. Also while `stop` waits for them."""
        for worker in self.workers:
            worker.child.kill()
        stopped = self.stop()
        self._stopping.hurry()
        return stopped

    @property
    def broken(self) -> bool:
        """Whether workers show an error in place of the application; see the setting ``worker.reload``."""
        return any(pool.error is not None for pool in self.pools)

    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics."""
        return {
            **{f"workers_{state}": count for state, count in self.workers.states().items()},
            "workers_started": self._started,
            "workers_ended": self._ended,
            "streams_released": self._released,
        }

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
        self.workers.add(worker)
        self._started += 1
        return worker

    def _worker_ready(self, worker: Worker) -> None:
        worker.pool.has_loaded = True
        worker.pool.interface = worker.child.interface
        self.workers.ready(worker)
        self._log_ready(worker)
        if self._stopping.begun or worker.slot is None:
            return
        if self._rolling.ready(worker):
            worker.slot.cancel()
        elif worker.stale:
            # It was ready before it received the signal to end, so it may hold streams and is drained as others are.
            slot, worker.slot = worker.slot, None
            self.workers.set_deadline(worker, self._patience_s)
            slot.fill()
        elif self._announce is not None and all(slot.ready for slot in self._slots):
            announce, self._announce = self._announce, None
            announce()

    def _log_ready(self, worker: Worker) -> None:
        error = worker.child.error
        if error is None:
            text = "%s is ready after %.1f s", worker, self._clock.seconds() - worker.started_at
            if worker.slot in self._missing:
                self._missing.discard(worker.slot)
                events.report(_log, logging.INFO, Mark.WORKER_BACK, *text)
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

    def _worker_ended(self, worker: Worker) -> None:
        released = self._release(worker)
        self.workers.readers_changed()
        self._ended += 1
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
                events.report(_log, logging.WARNING, _mark(worker), "%s", what)
            else:
                # Why it cannot start is reported in another way.
                _log.log(logging.DEBUG if self._cannot_start else logging.INFO, "%s", what)
            self._stopping.look()

    def _cannot_load(self, child: Child, pool: Pool) -> None:
        """The first worker that has ended could not load the application: the others could not, either."""
        application = pool.settings.application
        self._cannot_start = True
        self._stopping.begin(0.0)
        for worker in self.workers:
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
            events.report(_log, logging.WARNING, _mark(worker), "%s; a new worker starts in %.1f s", what, delay)
            slot.fill_later(delay)
        else:
            if worker.stale:
                _log.info("%s; a new worker starts now", what)
            else:
                events.report(_log, logging.WARNING, _mark(worker), "%s; a new worker starts now", what)
            slot.fill()

    def _release(self, worker: Worker) -> int:
        """Release all streams that `worker` still held; how many those were."""
        inbox = worker.inbox
        entries = self.workers.remove(worker)
        if inbox:
            self._inbox_ended(inbox)
        for reply_channel, attempt in entries:
            try:
                stream = channels.identity(channels.check(reply_channel))
                release = Release(stream, attempt, channels.check(inbox), DIED, by=self._clusters.process)
                self._clusters.send(channels.inbox_of(reply_channel), encode(release))
            except (ValueError, OverflowError) as error:
                _log.error("%s: cannot be released, though %s has ended: %s", reply_channel, worker, error)
        self._released += len(entries)
        return len(entries)


def _ending(worker: Worker, released: int) -> str:
    """How a worker has ended that still held so many streams, for people."""
    child, was_asked = worker.child, worker.timer is not None
    # Before it has a handler, SIGTERM just ends it.
    if child.status == 0 or (was_asked and child.status == -signal.SIGTERM):
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
