"""What time it is at a Redis, by which deadlines are set and judged. Pure.

Redis tells the time by the wall clock of its machine; it has no command for a clock that nobody sets. We measure how
far it is ahead of our own monotonic clock (its *lead*), and count on from there by our own clock. So the wall clocks of
servers and workers do not matter. But that of Redis may be set too, and then every process has the old lead until it
measures again: with each of its beats (0.5 s), or after 5 s. Suppose that it is set by an hour:

* Forward. A server that has the old lead sets a deadline which a worker with the new one takes for long past. So a
  request is dropped only if it is too late by the smallest lead of the last ten minutes. A server cannot have set its
  deadline by a smaller one: it measures again within seconds, and the request waits for ``queue_timeout`` at most.
* Back. A worker that has the old lead takes the deadline of a server with the new one for long past. So a worker
  measures again before it drops anything.

For ten minutes after a step forward hardly any request is found to be too late. That does no harm: deadlines are a
backstop, for requests that their server could not take back because it is gone or could not reach the node.

One case is left: a worker that has connected after a step forward, and pulls what was offered before it, drops that.
Then the server offers it once more, or answers 504, as with any request that is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["REMEMBERED_S", "Leads", "lead_of"]

#: How long a lead counts after it was last measured: longer than requests wait for a worker, with much to spare.
REMEMBERED_S: Final = 600.0
#: Leads that differ by less are one, or each would be remembered that a clock passes through while it is adjusted.
_STEP_S: Final = 1.0


def lead_of(reply: Sequence[bytes], asked: float, now: float) -> float:
    """The lead in seconds by an answer to ``TIME`` that was asked at `asked` and has come `now`, by our clock: wrong by
    half of the time between at most."""
    seconds, microseconds = map(int, reply)
    return seconds + microseconds / 1e6 - (asked + now) / 2


class Leads:
    """How far the clock of a Redis is ahead of ours, in seconds: now, and before."""

    __slots__ = ("_known", "now_s")

    def __init__(self) -> None:
        #: As it was measured last; 0: it never was.
        self.now_s = 0.0
        #: Each lead that differs from the one before, and when it was last measured; oldest first.
        self._known: list[tuple[float, float]] = []

    def measured(self, lead_s: float, now: float) -> None:
        """Its lead is `lead_s` at `now`, by our clock."""
        self.now_s = lead_s
        known = self._known
        if known and abs(known[-1][0] - lead_s) < _STEP_S:
            lead_s = min(known.pop()[0], lead_s)
        known.append((lead_s, now))
        while known[0][1] < now - REMEMBERED_S:
            del known[0]

    def least_s(self, now: float) -> float:
        """The smallest lead of the last ten minutes; the last one of all, where there is none so young."""
        return min((lead_s for lead_s, at in self._known if at >= now - REMEMBERED_S), default=self.now_s)
