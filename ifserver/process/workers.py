"""Children in their slots, and what decides about one worker: when it is started, replaced or killed.

A `Slot` is where one child is wanted, a worker or one of several servers. It has one, or a timer that will start one.
One that has ended is replaced after a delay, which grows with each crash in a row. `WorkerWatch` finds workers that
start slowly, whose event loop is blocked, or that have taken ``worker.max_requests``.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from ifserver import channels
from ifserver.errors import ChannelNameError
from ifserver.logs import events
from ifserver.messages import Claim, encode
from ifserver.metrics import STREAMS_OPENED, Counters, total
from ifserver.status import value_of

if TYPE_CHECKING:
    from ifserver.clock import Clock, Timer
    from ifserver.config.pools import PoolWorkers
    from ifserver.config.settings import WorkerSettings
    from ifserver.layers.clusters import Clusters
    from ifserver.process.children import Child
    from ifserver.worker_ledger import Ledger

__all__ = ["Pool", "RestartPolicy", "Slot", "SlotChild", "Worker", "WorkerWatch", "Workers"]

#: Delays are spread by this much, so that many children that crash together do not all start together.
_JITTER: Final = (0.7, 1.3)
#: How often workers are looked at, in seconds: so that the streams of a blocked loop are claimed within 0.8 s. A server
#: that knows a request to have been taken offers it once more after 1 s.
LOOK_S: Final = 0.1
#: How long a loop may be blocked before its supervisor claims the streams that it holds.
BLOCKED_S: Final = 0.5
#: A supervisor that looks so late was blocked or frozen itself, and knows nothing of the time between.
_LATE_S: Final = 1.0
#: How long a worker may start before the log reports it, and how often from then on, in seconds.
_SLOW_START_S: Final = 10.0
_SLOW_START_AGAIN_S: Final = 60.0

_log = logging.getLogger(__name__)

_C = TypeVar("_C", bound="SlotChild")


class SlotChild:
    """A child in a slot, from its start until it has been waited for."""

    __slots__ = ("child", "ready_at", "slot", "started_at")

    child: Child

    def __init__(self, slot: Slot[Any], now: float) -> None:
        #: The slot that it fills; None once it was asked to end and another fills that slot.
        self.slot: Slot[Any] | None = slot
        self.started_at = now
        #: When it reported that it is ready; None before that.
        self.ready_at: float | None = None

    @property
    def ready(self) -> bool:
        return self.ready_at is not None

    def ready_for_s(self, now: float) -> float:
        """For how long it has been ready."""
        return 0.0 if self.ready_at is None else now - self.ready_at


class RestartPolicy(NamedTuple):
    """How long a slot stays empty when its child has ended."""

    #: The delay after one crash. It doubles with each crash in a row, up to the longest.
    first_s: float
    longest_s: float
    #: A child that was ready for so long ends the row.
    long_life_s: float
    #: Whether such a child is replaced without a delay.
    at_once: bool


class Slot(Generic[_C]):
    """Where one child is wanted.

    Args:
        start: starts a child for this slot; may raise `OSError`.
        name: what its children are called in the log.
    """

    __slots__ = ("_clock", "_name", "_policy", "_start", "_timer", "crashes", "current", "number")

    def __init__(
        self, start: Callable[[Slot[_C]], _C], name: str, policy: RestartPolicy, clock: Clock, number: int = 0
    ) -> None:
        self._start = start
        self._name = name
        self._policy = policy
        self._clock = clock
        self._timer: Timer | None = None
        self.number = number
        self.current: _C | None = None
        self.crashes = 0

    @property
    def ready(self) -> bool:
        """Whether it has a child that is ready."""
        return self.current is not None and self.current.ready

    def fill(self) -> None:
        """Start a child, or try again later."""
        self.cancel()
        self.current = None
        try:
            self.current = self._start(self)
        except OSError as error:
            delay_s = self.delay_s()
            # As text: a record that is kept would keep the traceback, and with it the memory of the child.
            text = "cannot start a %s: %s; trying again in %.1f s"
            events.report(_log, logging.ERROR, events.Mark.NO_PROCESS, text, self._name, str(error), delay_s)
            self.fill_later(delay_s)

    def fill_later(self, delay_s: float) -> None:
        """Start a child in `delay_s`."""
        self._timer = self._clock.callLater(delay_s, self.fill)

    def cancel(self) -> None:
        """Do not start the child that was to be started later."""
        timer, self._timer = self._timer, None
        cancel(timer)

    def delay_s(self, ready_for_s: float = 0.0) -> float:
        """How long to wait before the next start, after a child that was ready for so long. Counts a crash."""
        policy = self._policy
        if ready_for_s >= policy.long_life_s:
            self.crashes = 0
            if policy.at_once:
                return 0.0
        delay_s = min(policy.first_s * 2.0 ** min(self.crashes, 60), policy.longest_s)
        self.crashes += 1
        return delay_s * random.uniform(*_JITTER)


def cancel(timer: Timer | None) -> None:
    """Do not make the call, if it is still to be made."""
    if timer is not None and timer.active():
        timer.cancel()


class Pool:
    """What the workers of one pool run, and what is known of it."""

    __slots__ = ("environment", "error", "has_loaded", "interface", "name", "settings")

    def __init__(self, workers: PoolWorkers) -> None:
        #: Empty: there are no pools.
        self.name = workers.pool
        self.settings = workers.settings
        self.environment = workers.environment
        #: Whether any worker has loaded the application, and of which kind it is, ``asgi`` or ``wsgi``.
        self.has_loaded = False
        self.interface = ""
        #: The error that the newest workers show in place of the application, and that was logged.
        self.error: str | None = None

    @property
    def prefix(self) -> str:
        """What stands in front of lines of the log that are about this pool."""
        return f"pool {self.name}: " if self.name else ""


class Worker(SlotChild):
    """A worker process, and the memory that it shares with its supervisor."""

    __slots__ = ("claimed", "ledger", "limit", "pool", "slow_at", "stale", "timer", "turned_at", "turns")

    slot: Slot[Worker] | None

    def __init__(self, slot: Slot[Worker], ledger: Ledger, now: float, pool: Pool) -> None:
        super().__init__(slot, now)
        self.ledger = ledger
        self.pool = pool
        #: Whether it was asked to end before it was ready, and its slot waits for it.
        self.stale = False
        #: How often its loop had turned, when that was seen to change, and the streams that were claimed for it.
        self.turns = 0
        self.turned_at = now
        self.claimed: set[tuple[str, int]] = set()
        #: When the log reports next that it is not ready.
        self.slow_at = now + _SLOW_START_S
        #: After how many requests it is replaced; None: that is not decided yet.
        self.limit: int | None = None
        #: When it will be killed; None until it is asked to end.
        self.timer: Timer | None = None

    def __str__(self) -> str:
        of = f" of pool {self.pool.name}" if self.pool.name else ""
        return f"worker {self.child.pid}{of}"

    @property
    def inbox(self) -> str:
        """Where it receives; empty before it has an inbox, or if it has overwritten the memory."""
        inbox = self.ledger.inbox
        try:
            return inbox if channels.is_inbox(channels.check(inbox)) else ""
        except ChannelNameError:
            return ""

    @property
    def process(self) -> str:
        """Its process name; empty where `inbox` is."""
        inbox = self.inbox
        return channels.process_of(inbox) if inbox else ""

    @property
    def taken(self) -> int:
        """Requests and WebSockets that it has begun with."""
        cells = self.ledger.cells
        return sum(cells[cell] for cell in STREAMS_OPENED.values())


class Workers:
    """The workers that live, oldest first.

    Args:
        readers_changed: is called when `reads` may be another than before.
    """

    def __init__(self, pools: Sequence[Pool], clock: Clock, readers_changed: Callable[[], None]) -> None:
        self._pools = pools
        self._clock = clock
        self.readers_changed = readers_changed
        self._living: dict[Worker, None] = {}
        self._ended_counts: dict[str, int] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._living))

    def __len__(self) -> int:
        return len(self._living)

    def add(self, worker: Worker) -> None:
        """It was started."""
        self._living[worker] = None

    def ready(self, worker: Worker) -> None:
        """It has reported that it is ready."""
        worker.ready_at = self._clock.seconds()
        self.readers_changed()

    def end(self, worker: Worker, patience_s: float) -> None:
        """Ask it to end, and kill it after `patience_s`."""
        worker.child.terminate()
        self.set_deadline(worker, patience_s)

    def set_deadline(self, worker: Worker, patience_s: float) -> None:
        """Kill it, which was asked to end, after `patience_s`."""
        cancel(worker.timer)
        worker.timer = self._clock.callLater(patience_s, self._kill, worker, patience_s)
        self.readers_changed()

    def _kill(self, worker: Worker, patience_s: float) -> None:
        _log.warning("%s has not stopped within %.1f s: killing it", worker, patience_s)
        worker.child.kill()

    def remove(self, worker: Worker) -> list[tuple[str, int]]:
        """It has ended. Returns the streams that it still held, and unmaps its memory."""
        del self._living[worker]
        cancel(worker.timer)
        entries = worker.ledger.entries()
        self._ended_counts = total((self._ended_counts, Counters(worker.ledger.cells).legacy()))
        del worker.ledger
        return entries

    def living(self) -> bytes:
        """What the beats of the supervisor carry: the children that live."""
        return value_of([worker.process for worker in self._living if worker.process])

    def reads(self) -> Sequence[str]:
        """The request channels that any child reads: those that are ready and not about to end."""
        found: set[str] = set()
        for worker in self._living:
            if worker.ready and worker.timer is None:
                # Workers that show an error take no open WebSockets (`ifserver.worker.application`).
                names = channels.REQUEST_CHANNELS if worker.child.error is None else channels.REQUEST_CHANNELS[:-1]
                found.update(channels.of_pool(worker.pool.name, name) for name in names)
        return tuple(name for pool in self._pools for name in channels.of_all(pool.name) if name in found)

    def states(self, pool: str | None = None) -> dict[str, int]:
        """How many workers are in which state; `pool`: of that pool."""
        workers = [worker for worker in self._living if pool in (None, worker.pool.name)]
        current = [worker for worker in workers if worker.slot is not None]
        ready = sum(worker.ready for worker in current)
        return {"ready": ready, "starting": len(current) - ready, "draining": len(workers) - len(current)}

    def counts(self) -> dict[str, int]:
        """What all children have counted, also those that have ended (`ifserver.metrics.Counters.statistics`)."""
        living = (Counters(worker.ledger.cells).statistics() for worker in self._living)
        return total((self._ended_counts, *living))


class WorkerWatch:
    """Looks after workers from `start` to `stop`, ten times a second. It asks them nothing: it reads their ledgers.

    A child notes in its ledger that its loop turns, and its supervisor notes there that it is alive itself. Streams of
    a blocked loop are claimed in the name of the child; when it is blocked for ``stall_timeout_s``, it is killed.

    Args:
        settings: those that are the same for all workers.
        replace: replaces the worker of a slot, once a new one is ready.
    """

    def __init__(
        self,
        workers: Iterable[Worker],
        clusters: Clusters,
        clock: Clock,
        settings: WorkerSettings,
        replace: Callable[[Slot[Worker]], None],
    ) -> None:
        self._workers = workers
        self._clusters = clusters
        self._clock = clock
        self._settings = settings
        self._replace = replace
        self._looked_at = clock.seconds()
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin."""
        self._look()

    def stop(self) -> None:
        """Look no more."""
        cancel(self._timer)

    def _look(self) -> None:
        self._timer = self._clock.callLater(LOOK_S, self._look)
        now = self._clock.seconds()
        late, self._looked_at = now - self._looked_at > _LATE_S, now
        for worker in list(self._workers):
            worker.ledger.beat()
            turns = worker.ledger.turns
            if not worker.ready and now >= worker.slow_at:
                self._starts_slowly(worker, now)
            if turns != worker.turns or late or not worker.ready:
                worker.turns, worker.turned_at = turns, now
            elif now - worker.turned_at >= self._settings.stall_timeout_s:
                self._kill(worker, now)
            elif now - worker.turned_at >= BLOCKED_S:
                self._claim(worker)
            if self._settings.max_requests and worker.slot is not None and worker.ready:
                self._count(worker, worker.slot)

    def _starts_slowly(self, worker: Worker, now: float) -> None:
        # Many applications need a while, so that the first line is no warning.
        level = logging.WARNING if worker.slow_at > worker.started_at + _SLOW_START_S else logging.INFO
        worker.slow_at += _SLOW_START_AGAIN_S
        application = worker.pool.settings.application
        what = (
            f"{application} has not answered lifespan.startup (with lifespan.startup.complete)"
            if worker.child.loaded
            else f"it is still importing {application}"
        )
        _log.log(level, "%s is not ready after %.0f s: %s", worker, now - worker.started_at, what)

    def _kill(self, worker: Worker, now: float) -> None:
        text = "the event loop of worker %d has been blocked for %.0f s (stall_timeout): killing it"
        blocked_s = now - worker.turned_at
        events.report(_log, logging.ERROR, events.Mark.WORKER_STALLED, text, worker.child.pid, blocked_s)
        worker.turned_at = now
        worker.child.kill()

    def _claim(self, worker: Worker) -> None:
        inbox, entries = worker.ledger.inbox, worker.ledger.entries()
        # Once each, however often its loop is blocked: ten thousand open WebSockets are in the ledger as well.
        worker.claimed.intersection_update(entries)
        for entry in entries:
            if entry in worker.claimed:
                continue
            worker.claimed.add(entry)
            reply_channel, attempt = entry
            try:
                stream = channels.identity(channels.check(reply_channel))
                process = self._clusters.process
                claim = Claim(stream, attempt, channels.check(inbox), process, process)
                self._clusters.send(channels.inbox_of(reply_channel), encode(claim))
            except (ValueError, OverflowError) as error:
                _log.error("%s: cannot be claimed for worker %d: %s", reply_channel, worker.child.pid, error)

    def _count(self, worker: Worker, slot: Slot[Worker]) -> None:
        most, taken = self._settings.max_requests, worker.taken
        if worker.limit is None:
            worker.limit = most + random.randint(0, self._settings.max_requests_jitter)
        if taken >= worker.limit:
            # Where the new worker does not get ready, the old one goes on, and is replaced after as many again.
            worker.limit = taken + most
            _log.info("%s has taken %d requests: replacing it", worker, taken)
            self._replace(slot)
