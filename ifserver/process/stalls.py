"""Workers whose event loop stands still: the supervisor speaks for them, and in the end kills them.

A child says in its ledger that its loop turns, and its supervisor says there that it is alive itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from ifserver import channels
from ifserver.clock import Clock, Timer
from ifserver.logs import events
from ifserver.messages import Claim, encode
from ifserver.worker_ledger import Ledger

__all__ = ["Sender", "Stalls", "Watched"]

#: How often the supervisor looks, and beats. So often that a blocked loop's streams are claimed within 0.8 s: a server
#: that knows a request to have been taken offers it once more after 1 s.
LOOK_S: Final = 0.1
#: How long a loop may stand still before its supervisor claims the streams that it holds.
BLOCKED_S: Final = 0.5
#: A supervisor that looks so late has stood still itself, and knows nothing of the time between.
_LATE_S: Final = 1.0

_log = logging.getLogger(__name__)


class Sender(Protocol):
    """What is needed of `ifserver.layers.clusters.Clusters`."""

    process: str

    def send(self, inbox: str, payload: bytes) -> None:
        """Send to an inbox; raises `ChannelNameError` for a node that is not configured."""


class _Child(Protocol):
    @property
    def pid(self) -> int: ...

    def kill(self) -> None: ...


class Watched(Protocol):
    """One child."""

    @property
    def child(self) -> _Child: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def ready(self) -> bool: ...

    turns: int
    turned_at: float
    claimed: set[tuple[str, int]]


class Stalls:
    """Looks after the loops of `children`, from `start` to `stop`."""

    def __init__(
        self, children: Callable[[], Iterable[Watched]], clusters: Sender, clock: Clock, stall_timeout_s: float
    ) -> None:
        self._children = children
        self._clusters = clusters
        self._clock = clock
        self._stall_timeout_s = stall_timeout_s
        self._looked_at = clock.seconds()
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin."""
        self._look()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._clock.callLater(LOOK_S, self._look)
        now = self._clock.seconds()
        late, self._looked_at = now - self._looked_at > _LATE_S, now
        for worker in list(self._children()):
            worker.ledger.beat()
            turns = worker.ledger.turns
            if turns != worker.turns or late or not worker.ready:
                worker.turns, worker.turned_at = turns, now
            elif now - worker.turned_at >= self._stall_timeout_s:
                events.tell(
                    _log,
                    logging.ERROR,
                    events.Mark.WORKER_STALLED,
                    "the event loop of worker %d has been blocked for %.0f s (stall_timeout): killing it",
                    worker.child.pid,
                    now - worker.turned_at,
                )
                worker.turned_at = now
                worker.child.kill()
            elif now - worker.turned_at >= BLOCKED_S:
                self._claim(worker)

    def _claim(self, worker: Watched) -> None:
        inbox, entries = worker.ledger.inbox, worker.ledger.entries()
        # Once each, however often its loop stands still: ten thousand open WebSockets are in the ledger as well.
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
