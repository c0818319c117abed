"""Many deadlines of one length with one timer: adding and removing one costs a dictionary's entry."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from ifserver.clock import Clock, Timer

__all__ = ["Deadlines"]

_T = TypeVar("_T", bound=Hashable)


class Deadlines(Generic[_T]):
    """Calls `expired` for every item that was added `seconds` ago and not removed since.

    All have the same length, so the oldest is always the next to expire: no heap and no sweep are needed.
    """

    def __init__(self, clock: Clock, seconds: float, expired: Callable[[_T], None]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._expired = expired
        self._times: dict[_T, float] = {}
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._times)

    def __contains__(self, item: _T) -> bool:
        return item in self._times

    def add(self, item: _T) -> None:
        """Begin the deadline of `item`, anew if it has one."""
        self._times.pop(item, None)
        self._times[item] = self._clock.seconds()
        if self._timer is None:
            self._timer = self._clock.callLater(self._seconds, self._due)

    def discard(self, item: _T) -> None:
        """Forget the deadline of `item`, if it has one."""
        self._times.pop(item, None)

    def take_all(self) -> list[_T]:
        """Forget all; what there was, oldest first."""
        items = list(self._times)
        self._times.clear()
        return items

    def stop(self) -> None:
        """Forget all."""
        self._times.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        expired = []
        for item, since in self._times.items():
            if since + self._seconds > now:
                break
            expired.append(item)
        try:
            for item in expired:
                # An item may have been removed, or begun anew, by what the ones before it did.
                began = self._times.get(item)
                if began is not None and began + self._seconds <= now:
                    del self._times[item]
                    self._expired(item)
        finally:
            self._await_oldest()

    def _await_oldest(self) -> None:
        if self._timer is not None:
            # Begun by an item that was added just now, which is the youngest.
            self._timer.cancel()
            self._timer = None
        if self._times:
            oldest = next(iter(self._times.values()))
            self._timer = self._clock.callLater(max(0.0, oldest + self._seconds - self._clock.seconds()), self._due)
