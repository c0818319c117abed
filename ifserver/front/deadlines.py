"""Many deadlines of one length with one timer: adding and removing one costs a dictionary's entry."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from ifserver.clock import Clock, Timer

__all__ = ["Deadlines"]

_T = TypeVar("_T", bound=Hashable)


class Deadlines(dict[_T, float]):
    """Calls `expired` for every item that was added `seconds` ago and not removed since.

    All have the same length, so the oldest is always the next to expire: no heap and no sweep are needed. A dictionary
    (item -> when it was added): ``pop`` forgets an item's deadline, and costs no call of Python's.
    """

    def __init__(self, clock: Clock, seconds: float, expired: Callable[[_T], None]) -> None:
        super().__init__()
        self._clock = clock
        self._seconds = seconds
        self._expired = expired
        self._timer: Timer | None = None

    def add(self, item: _T) -> None:
        """Begin the deadline of `item`, anew if it has one."""
        self.pop(item, None)
        self[item] = self._clock.seconds()
        if self._timer is None:
            self._timer = self._clock.callLater(self._seconds, self._due)

    def change(self, seconds: float) -> None:
        """From now on a deadline is `seconds` long, also for those that wait already: the oldest is still the next."""
        if seconds != self._seconds:
            self._seconds = seconds
            self._await_oldest()

    def take_all(self) -> list[_T]:
        """Forget all; what there was, oldest first."""
        items = list(self)
        self.clear()
        return items

    def stop(self) -> None:
        """Forget all."""
        self.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        expired = []
        for item, since in self.items():
            if since + self._seconds > now:
                break
            expired.append(item)
        try:
            for item in expired:
                # An item may have been removed, or begun anew, by what the ones before it did.
                began = self.get(item)
                if began is not None and began + self._seconds <= now:
                    del self[item]
                    self._expired(item)
        finally:
            self._await_oldest()

    def _await_oldest(self) -> None:
        if self._timer is not None:
            # Begun by an item that was added just now, which is the youngest.
            self._timer.cancel()
            self._timer = None
        if self:
            oldest = next(iter(self.values()))
            self._timer = self._clock.callLater(max(0.0, oldest + self._seconds - self._clock.seconds()), self._due)
