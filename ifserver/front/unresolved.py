"""Attempts that are over for us and of which nobody has spoken: kept, so that the accounting balances.

Either somebody has had them, and is heard of late, or their node has lost them.
"""

from __future__ import annotations

from typing import Final

from ifserver.clock import Clock
from ifserver.front.deadlines import Deadlines
from ifserver.layers.accounting import Accounting
from ifserver.metrics import Counters

__all__ = ["Unheard"]

#: How long after its own deadline a request may still be pulled and told of, in seconds.
_MARGIN_S: Final = 5.0


class _Attempt:
    """One offer of a request."""

    __slots__ = ("in_doubt", "key")

    def __init__(self, key: tuple[str, int], in_doubt: bool) -> None:
        self.key = key
        #: Whether it is not known to have been taken by the node, and so was not counted as sent.
        self.in_doubt = in_doubt


class Unheard:
    """Keeps those attempts that are over for us, until somebody speaks of them or it is too late for that.

    Args:
        queue_timeout_s: how long a request may be pulled after it was offered.
    """

    def __init__(self, accounting: Accounting, counters: Counters, clock: Clock, queue_timeout_s: float) -> None:
        self._accounting = accounting
        self._counters = counters
        self._attempts: dict[tuple[str, int], _Attempt] = {}
        self._queue_timeout_s = queue_timeout_s
        self._late: Deadlines[_Attempt] = Deadlines(clock, queue_timeout_s + _MARGIN_S, self._nobody)

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

    def add(self, stream: str, attempt: int, in_doubt: bool) -> None:
        """The attempt is over for us, and nobody has spoken of it."""
        key = stream, attempt
        known = self._attempts[key] = _Attempt(key, in_doubt)
        self._late.add(known)

    def refused(self, stream: str, attempt: int, in_doubt: bool) -> bool:
        """The node has not taken the attempt, or it is not known whether it has. Whether the attempt is one of ours."""
        known = self._attempts.get((stream, attempt))
        if known is None:
            return False
        if in_doubt:
            known.in_doubt = True
        else:
            del self._attempts[known.key]
            self._late.pop(known, None)
        return True

    def heard(self, stream: str, attempt: int) -> bool:
        """It is known now where the attempt is. Whether it was not before."""
        known = self._attempts.pop((stream, attempt), None)
        if known is None:
            return False
        self._late.pop(known, None)
        if known.in_doubt:
            self._counters.add("messages_sent")
        return True

    def _nobody(self, attempt: _Attempt) -> None:
        """Either somebody has had it, and all that he said was lost, or nobody has."""
        del self._attempts[attempt.key]
        was_pulled = self._accounting.untold > 0
        if was_pulled:
            self._accounting.untold -= 1
        if was_pulled and attempt.in_doubt:
            self._counters.add("messages_sent")
        elif not was_pulled and not attempt.in_doubt:
            self._counters.add("messages_dropped", label="broker")
