"""Attempts that are over for us and of which nobody has spoken: kept, so that the accounting balances.

Either somebody has had them, and is heard of late, or their node has lost them.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Protocol

from ifserver.clock import Clock
from ifserver.front.deadlines import Deadlines
from ifserver.layers.accounting import Accounting
from ifserver.metrics import Counters

__all__ = ["UnresolvedAttempts"]

#: How long after its own deadline a request may still be pulled and told of, in seconds.
_MARGIN_S: Final = 5.0


class Attempt(Hashable, Protocol):
    """An attempt at a request (`ifserver.front.exchanges.attempt.Attempt`)."""

    #: The identity of its stream, and which of the stream's attempts it is.
    identity: str
    number: int
    #: Whether it is not known where it is; and whether a node has it at all. What is in doubt was not counted as sent.
    unresolved: bool
    in_doubt: bool

    def resolve(self) -> None:
        """It is known now where it is."""


class UnresolvedAttempts:
    """Keeps those attempts that are over for us, until somebody speaks of them or it is too late for that.

    Args:
        queue_timeout_s: how long a request may be pulled after it was offered.
    """

    def __init__(self, accounting: Accounting, counters: Counters, clock: Clock, queue_timeout_s: float) -> None:
        self._accounting = accounting
        self._counters = counters
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._queue_timeout_s = queue_timeout_s
        self._late: Deadlines[Attempt] = Deadlines(clock, queue_timeout_s + _MARGIN_S, self._nobody)

    def __len__(self) -> int:
        return len(self._attempts)

    def change(self, queue_timeout_s: float) -> None:
        """From now on a request may be pulled so long; what was offered before keeps its time, if that is longer."""
        self._queue_timeout_s = max(self._queue_timeout_s, queue_timeout_s)
        self._late.change(self._queue_timeout_s + _MARGIN_S)

    def stop(self) -> None:
        """Wait no longer."""
        late = self._late.take_all()
        self._late.stop()
        for attempt in late:
            self._nobody(attempt)

    def add(self, attempt: Attempt) -> None:
        """It is over for us, and nobody has spoken of it."""
        self._attempts[attempt.identity, attempt.number] = attempt
        self._late.add(attempt)

    def forget(self, attempt: Attempt) -> None:
        """It is known where it is, or that no node has it."""
        if self._attempts.pop((attempt.identity, attempt.number), None) is not None:
            self._late.pop(attempt, None)

    def heard(self, identity: str, number: int) -> bool:
        """Somebody has had this attempt. Whether that was not known before."""
        attempt = self._attempts.get((identity, number))
        if attempt is None:
            return False
        attempt.resolve()
        return True

    def _nobody(self, attempt: Attempt) -> None:
        """Either somebody has had it, and all that he said was lost, or nobody has."""
        del self._attempts[attempt.identity, attempt.number]
        attempt.unresolved = False
        was_pulled = self._accounting.untold > 0
        if was_pulled:
            self._accounting.untold -= 1
        if was_pulled and attempt.in_doubt:
            self._counters.add("messages_sent")
        elif not was_pulled and not attempt.in_doubt:
            self._counters.add("messages_dropped", label="broker")
