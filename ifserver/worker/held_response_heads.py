"""Sending the heads of responses whose bodies do not follow at once.

A response whose body is there in the same step of its application is one message. Many others have it a moment later,
when another task, or a thread, has had its turn: of Starlette's ``BaseHTTPMiddleware`` one or two turns of the loop, of
files and of generators that are not asynchronous one to ten milliseconds. For them it is worth waiting. An event source
may have nothing to tell for minutes, and its client must learn at once that it is there.
"""

from __future__ import annotations

from typing import Final

from ifserver.clock import Clock, Timer
from ifserver.worker.asgi_stream import Stream
from ifserver.worker.stream_phases import HELD

__all__ = ["GRACE_S", "HeldResponseHeads"]

#: How long a head waits for its body at least, in seconds; at most it is twice as long. One timer is enough for all.
GRACE_S: Final = 0.01


class HeldResponseHeads:
    """Streams that hold the start of a response."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Those that were added since the timer was set, and those before them.
        self._young: list[Stream] = []
        self._old: list[Stream] = []
        self._timer: Timer | None = None

    def add(self, stream: Stream) -> None:
        """Send the head of `stream` soon, unless the first of its body has gone by then."""
        self._young.append(stream)
        if self._timer is None:
            self._timer = self._clock.callLater(GRACE_S, self._due)

    def stop(self) -> None:
        """Send no more."""
        self._young.clear()
        self._old.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        # Nearly all have their bodies by now. Where all have, the loop need not turn once more.
        due, self._old, self._young = self._old, [each for each in self._young if each.phase is HELD], []
        self._timer = self._clock.callLater(GRACE_S, self._due) if self._old else None
        for stream in due:
            if stream.phase is HELD:
                stream.send_head()
