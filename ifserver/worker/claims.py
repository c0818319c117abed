"""Claiming requests that are not answered soon.

A whole answer says as well as a claim who has the request. Whatever waits for a database, or for a thread, needs a
moment for it. Nobody misses a claim that comes a tenth of a second late: servers ask for requests that are unclaimed
after a second (docs/explanation/architecture.rst, "Lost offers"), and a supervisor claims for a worker that is blocked.
Each claim costs both sides a message, and the worker a turn of its loop, which has to wait for the threads that run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ifserver.clock import Clock, Timer
from ifserver.worker.asgi_stream import Stream
from ifserver.worker.stream_phases import OVER

__all__ = ["GRACE_S", "Claims"]

#: How long a claim waits for the answer at least, in seconds; at most it is twice as long. One timer is enough for all.
GRACE_S: Final = 0.05


class Claims:
    """Streams that are claimed soon, unless they are answered before.

    Args:
        claimed: is called with the servers of streams which have been claimed, or answered, and how many were claimed.
    """

    def __init__(self, clock: Clock, claimed: Callable[[list[str], int], None]) -> None:
        self._clock = clock
        self._claimed = claimed
        #: Those that were added since the timer was set, and those before them.
        self._young: list[tuple[Stream, str]] = []
        self._old: list[tuple[Stream, str]] = []
        self._timer: Timer | None = None

    def add(self, stream: Stream, server: str) -> None:
        """Claim `stream`, which was pulled of `server`, soon, unless its answer is complete by then."""
        self._young.append((stream, server))
        if self._timer is None:
            self._timer = self._clock.callLater(GRACE_S, self._due)

    def stop(self) -> None:
        """Claim at once what is not answered, and nothing later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due, self._old, self._young = [*self._old, *self._young], [], []
        self._claim(due)

    def _due(self) -> None:
        # Those that are over need not be looked at a second time. Where all are, the loop need not turn once more.
        due, self._old = self._old, []
        for each in self._young:
            (due if each[0].phase in OVER else self._old).append(each)
        self._young = []
        self._timer = self._clock.callLater(GRACE_S, self._due) if self._old else None
        self._claim(due)

    def _claim(self, due: list[tuple[Stream, str]]) -> None:
        if not due:
            return
        count = 0
        for stream, _ in due:
            # Also one that has begun to answer: a claim alone says who watches over this worker.
            if stream.phase not in OVER:
                stream.claim()
                count += 1
        self._claimed([server for _, server in due], count)
