"""What waits in this process for whoever receives it: bounded, and taken from any thread and any event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from threading import RLock

__all__ = ["Queue", "QueueClosed"]


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
        clock: tells the time in seconds.
        expired: is told how many messages have waited for too long.
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
