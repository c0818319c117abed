"""Clients that leave what they were sent unread, or read it so slowly that it will never end."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import Any, Final, Protocol

from ifserver.clock import Clock
from ifserver.front.deadlines import Deadlines
from ifserver.metrics import Counters
from ifserver.net import sockets

__all__ = ["SlowClients"]

#: What a client has to take on average, as with Apache's mod_reqtimeout (MinRate).
_LEAST_BYTES_PER_S: Final = 500
#: When the first look comes, in seconds.
_FIRST_LOOK_S: Final = 1.0

_log = logging.getLogger(__name__)


class _Connection(Hashable, Protocol):
    transport: Any

    def abort(self) -> None:
        """Cut it."""


class SlowClients:
    """Cuts connections whose clients take less than 500 bytes a second of what is due to them, in `seconds` on average,
    within twice that.

    Each look compares what the client's kernel has acknowledged with what it had at the look before. Buffers cannot
    tell that: megabytes are taken from them in one go. The first look comes a second late: by then most have taken what
    there was, and the kernel need not be asked. Of a Unix socket's peer, which is a proxy that has limits of its own,
    any byte will do.
    """

    def __init__(self, clock: Clock, seconds: float, counters: Counters) -> None:
        self._counters = counters
        self._least = seconds * _LEAST_BYTES_PER_S
        self._deadlines: Deadlines[_Connection] = Deadlines(clock, seconds, self._look)
        self._begun: Deadlines[_Connection] = Deadlines(clock, _FIRST_LOOK_S, self._first_look)
        self._taken: dict[_Connection, object] = {}

    def __len__(self) -> int:
        return len(self._begun) + len(self._taken)

    def begin(self, connection: _Connection) -> None:
        """Bytes are due to the client of `connection`, and wait for it to take them."""
        self.end(connection)
        self._begun.add(connection)

    def end(self, connection: _Connection) -> None:
        """It has taken enough of them, or is gone."""
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

    def _first_look(self, connection: _Connection) -> None:
        self._taken[connection] = sockets.taken_by_peer(connection.transport)
        self._deadlines.add(connection)

    def _look(self, connection: _Connection) -> None:
        before = self._taken.pop(connection)
        now = sockets.taken_by_peer(connection.transport)
        if now - before >= self._least if isinstance(now, int) and isinstance(before, int) else now != before:
            self._taken[connection] = now
            self._deadlines.add(connection)
            return
        self._counters.add("connections_cut")
        _log.info("cutting a connection whose client reads nothing, or too slowly (write_timeout)")
        connection.abort()
