"""Deadlines: many of one length with one timer, and those of clients that do not read what they are sent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final, TypeVar

from ifserver.net import sockets

if TYPE_CHECKING:
    from ifserver.clock import Clock, Timer
    from ifserver.front.server import Connection
    from ifserver.metrics import Counters

__all__ = ["Deadlines", "SlowClients"]

#: What a client has to take on average, as with Apache's mod_reqtimeout (MinRate).
_LEAST_BYTES_PER_S: Final = 500
#: When the first look comes, in seconds.
_FIRST_LOOK_S: Final = 1.0

_log = logging.getLogger(__name__)
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


class SlowClients:
    """Cuts connections whose clients take less than 500 bytes a second of what is due to them, in `seconds` on average,
    within twice that.

    Each look compares what the client's kernel has acknowledged with what it had at the look before. Buffers cannot
    show that: megabytes are taken from them in one go. The first look comes a second late: by then most have taken what
    there was, and the kernel need not be asked. Of a Unix socket's peer, which is a proxy that has limits of its own,
    any byte will do.
    """

    def __init__(self, clock: Clock, seconds: float, counters: Counters) -> None:
        self._counters = counters
        self._least = seconds * _LEAST_BYTES_PER_S
        self._deadlines: Deadlines[Connection] = Deadlines(clock, seconds, self._look)
        self._begun: Deadlines[Connection] = Deadlines(clock, _FIRST_LOOK_S, self._first_look)
        self._taken: dict[Connection, object] = {}

    def __len__(self) -> int:
        return len(self._begun) + len(self._taken)

    def begin(self, connection: Connection) -> None:
        """Bytes are due to the client of `connection`, and wait for it to take them."""
        self.end(connection)
        self._begun.add(connection)

    def end(self, connection: Connection) -> None:
        """It has taken enough of them, or is closed."""
        if self._begun.pop(connection, None) is None and self._taken.pop(connection, self) is not self:
            self._deadlines.pop(connection, None)

    def change(self, seconds: float) -> None:
        """From now on, `seconds` are waited for clients that take too little."""
        self._least = seconds * _LEAST_BYTES_PER_S
        self._deadlines.change(seconds)

    def stop(self) -> None:
        """Forget all."""
        self._begun.stop()
        self._taken.clear()
        self._deadlines.stop()

    def _first_look(self, connection: Connection) -> None:
        self._taken[connection] = sockets.taken_by_peer(connection.transport)
        self._deadlines.add(connection)

    def _look(self, connection: Connection) -> None:
        before = self._taken.pop(connection)
        now = sockets.taken_by_peer(connection.transport)
        if now - before >= self._least if isinstance(now, int) and isinstance(before, int) else now != before:
            self._taken[connection] = now
            self._deadlines.add(connection)
            return
        self._counters.add("connections_cut")
        _log.info("cutting a connection whose client reads nothing, or too slowly (write_timeout)")
        connection.abort()
