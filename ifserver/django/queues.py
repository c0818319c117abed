"""What waits in this process for a receiver, bounded, and taken from any thread and event loop; and what is dropped."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from threading import RLock
from typing import Final

from ifserver.metrics import Counters

__all__ = ["EXPIRED", "FULL", "LOST", "UNDECODABLE", "UNTAKEN", "Drops", "Queue", "QueueClosed"]

FULL: Final = "full"
EXPIRED: Final = "expired"
LOST: Final = "lost"
UNDECODABLE: Final = "undecodable"
UNTAKEN: Final = "untaken"
_WORDS: Final = {
    FULL: "found a full queue (capacity)",
    EXPIRED: "expired before anybody received them",
    LOST: "got lost on the way to this process",
    UNDECODABLE: "could not be decoded",
    UNTAKEN: "found no node to take them",
}
#: How long more of the same is waited for after the first, in seconds.
_WAIT_S: Final = 0.25
#: How many names are counted at a time; the others together.
_MAX_NAMES: Final = 1000
#: How many of them are logged at a time, for each reason.
_MAX_LINES: Final = 10

_log = logging.getLogger(__name__)


class QueueClosed(Exception):
    """The channel has ended."""


class Queue:
    """The messages of one channel, oldest first.

    A message stays here until a receiver takes it, in one step with its return. So none is lost when a receiver is
    cancelled, and a receiver that comes later finds it at its old place.

    Args:
        lock: guards the queue; several may share one.
        capacity: how many messages wait at most.
        expiry_s: how long a message waits at most, in seconds.
        clock: the time in seconds.
        expired: is called with the number of messages that have waited for too long.
    """

    __slots__ = ("_clock", "_expired", "_lock", "_messages", "_waiters", "capacity", "expiry_s", "is_closed", "used_at")

    def __init__(
        self, lock: RLock, capacity: int, expiry_s: float, clock: Callable[[], float], expired: Callable[[int], None]
    ) -> None:
        self._lock = lock
        self.capacity = capacity
        self.expiry_s = expiry_s
        self._clock = clock
        self._expired = expired
        #: When it was made, or was last received from.
        self.used_at = clock()
        #: When each expires, and its bytes.
        self._messages: deque[tuple[float, bytes]] = deque()
        # Hardly ever more than one.
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        #: Whether the channel has ended.
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for a message."""
        return bool(self._waiters)

    @property
    def oldest_life_s(self) -> float | None:
        """How much longer the oldest message may wait, in seconds; None: there is none."""
        with self._lock:
            return self._messages[0][0] - self._clock() if self._messages else None

    def put(self, message: bytes) -> bool:
        """Append a message, unless the queue is full. Whether that was done."""
        now = self._clock()
        with self._lock:
            if len(self._messages) >= self.capacity:
                self._expire(now)
                if len(self._messages) >= self.capacity:
                    return False
            self._messages.append((now + self.expiry_s, message))
            if self._waiters:
                self._wake()
        return True

    def keep(self, message: bytes, life_s: float) -> None:
        """Append a message that was taken from a node for this queue, whatever its capacity."""
        with self._lock:
            self._messages.append((self._clock() + life_s, message))
            self._wake()

    async def get(self) -> bytes:
        """The oldest message; waits for one.

        Raises:
            QueueClosed: the channel has ended.
        """
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                if self.is_closed:
                    raise QueueClosed
                if self._messages:
                    self.used_at = self._clock()
                    self._expire(self.used_at)
                    if self._messages:
                        return self._messages.popleft()[1]
                waiter = loop, loop.create_future()
                self._waiters.append(waiter)
            try:
                await waiter[1]
            except asyncio.CancelledError:
                with self._lock:
                    if waiter in self._waiters:
                        self._waiters.remove(waiter)
                    elif self._messages:
                        self._wake()  # in its place
                raise

    def tidy(self) -> None:
        """Drop what has expired, though nobody asks."""
        with self._lock:
            self._expire(self._clock())

    def clear(self) -> None:
        """Forget all messages."""
        with self._lock:
            self._messages.clear()

    def close(self) -> None:
        """Let all who wait go."""
        with self._lock:
            self.is_closed = True
            while self._waiters:
                self._wake()

    def _expire(self, now: float) -> None:
        count = 0
        while self._messages and self._messages[0][0] <= now:
            self._messages.popleft()
            count += 1
        if count:
            self._expired(count)

    def _wake(self) -> None:
        """Let the first who waits look again; one on a loop that was closed never will."""
        while self._waiters:
            loop, future = self._waiters.pop(0)
            if asyncio._get_running_loop() is loop:
                if not future.done():
                    future.set_result(None)
                    return
                continue
            try:
                loop.call_soon_threadsafe(_set, future)
            except RuntimeError:
                continue
            return


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Drops:
    """Counts what is dropped, from any thread; logged on `loop`, once for each burst."""

    def __init__(self, loop: asyncio.AbstractEventLoop, counters: Counters) -> None:
        self._loop = loop
        self._counters = counters
        self._lock = threading.Lock()
        #: By whose messages they were and why: how many, and whether there may have been more.
        self._unlogged: dict[tuple[str, str], tuple[int, bool]] = {}

    def add(self, whose: str, why: str, count: int | None = 1) -> None:
        """`count` messages of a group or channel were dropped; None: nobody knows how many."""
        with self._lock:
            first = not self._unlogged
            key = whose, why
            if key not in self._unlogged and len(self._unlogged) >= _MAX_NAMES:
                key = "others", why
            before, more = self._unlogged.get(key, (0, False))
            self._unlogged[key] = before + (count or 0), more or count is None
        if first:
            try:
                self._loop.call_soon_threadsafe(self._loop.call_later, _WAIT_S, self.log)
            except RuntimeError:
                self.log()  # the loop is closed

    def log(self) -> None:
        """Log all that has not been logged."""
        with self._lock:
            unlogged, self._unlogged = self._unlogged, {}
        by_reason: dict[str, list[str]] = {}
        for (whose, why), (count, more) in unlogged.items():
            self._counters.add("channel_layer_drops", count or 1, label=why)
            by_reason.setdefault(why, []).append(f"{whose}: {_number(count, more)} {_WORDS[why]}")
        for lines in by_reason.values():
            # A node that was away for a while concerns all groups.
            for line in lines[:_MAX_LINES]:
                _log.warning("%s", line)
            if len(lines) > _MAX_LINES:
                _log.warning("... and so for %d more groups or channels", len(lines) - _MAX_LINES)


def _number(count: int, more: bool) -> str:
    if more and not count:
        return "an unknown number of messages"
    return f"{count} or more messages" if more else f"{count} message{'s' * (count != 1)}"
