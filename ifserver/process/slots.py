"""Slots for children: what the supervisors of workers and of servers have in common.

A `Slot` is where one child is wanted. It has one, or a timer that will start one. One that has ended is replaced after
a delay, which grows with each crash in a row.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar

from ifserver import channels
from ifserver.clock import Clock, Timer
from ifserver.config.pools import PoolWorkers
from ifserver.errors import ChannelNameError
from ifserver.logs import events
from ifserver.process.children import Child
from ifserver.worker_ledger import Ledger

__all__ = ["Pool", "RestartPolicy", "Slot", "SlotChild", "Worker"]

#: Delays are spread by this much, so that many children that crash together do not all start together.
_JITTER: Final = (0.7, 1.3)

_log = logging.getLogger(__name__)

_C = TypeVar("_C", bound="SlotChild")


class SlotChild:
    """A child in a slot, from its start until it has been waited for."""

    __slots__ = ("child", "ready_at", "slot", "started_at")

    child: Child

    def __init__(self, slot: Slot[Any], now: float) -> None:
        #: The slot that it fills; None once it was told to end and another fills that slot.
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

    __slots__ = ("claimed", "ledger", "pool", "stale", "timer", "turned_at", "turns")

    slot: Slot[Worker] | None

    def __init__(self, slot: Slot[Worker], ledger: Ledger, now: float, pool: Pool) -> None:
        super().__init__(slot, now)
        self.ledger = ledger
        self.pool = pool
        #: Whether it was told to end before it was ready, and its slot waits for it.
        self.stale = False
        #: How often its loop had turned, when that was seen to change, and the streams that were claimed for it.
        self.turns = 0
        self.turned_at = now
        self.claimed: set[tuple[str, int]] = set()
        #: When it will be killed; None until it is told to end.
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
            # As text: whoever keeps the record would keep the traceback, and with it the memory of the child.
            text = "cannot start a %s: %s; trying again in %.1f s"
            events.tell(_log, logging.ERROR, events.Mark.NO_PROCESS, text, self._name, str(error), delay_s)
            self.fill_later(delay_s)

    def fill_later(self, delay_s: float) -> None:
        """Start a child in `delay_s`."""
        self._timer = self._clock.callLater(delay_s, self.fill)

    def cancel(self) -> None:
        """Do not start the child that was to be started later."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

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
