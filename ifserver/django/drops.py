"""What was dropped: counted, and told in the log once for each burst."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Final

from ifserver.metrics import Counters

__all__ = ["EXPIRED", "FULL", "LOST", "UNDECODABLE", "UNTAKEN", "Drops"]

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
#: How many of them are told of at a time, for each reason.
_MAX_LINES: Final = 10

_log = logging.getLogger(__name__)


class Drops:
    """Counts what is dropped, from any thread; told on `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, counters: Counters) -> None:
        self._loop = loop
        self._counters = counters
        self._lock = threading.Lock()
        #: By whose messages they were and why: how many, and whether there may have been more.
        self._untold: dict[tuple[str, str], tuple[int, bool]] = {}

    def add(self, whose: str, why: str, count: int | None = 1) -> None:
        """`count` messages of a group or channel were dropped; None: nobody knows how many."""
        with self._lock:
            first = not self._untold
            key = whose, why
            if key not in self._untold and len(self._untold) >= _MAX_NAMES:
                key = "others", why
            before, more = self._untold.get(key, (0, False))
            self._untold[key] = before + (count or 0), more or count is None
        if first:
            try:
                self._loop.call_soon_threadsafe(self._loop.call_later, _WAIT_S, self.tell)
            except RuntimeError:
                self.tell()  # the loop is closed

    def tell(self) -> None:
        """Tell of all that is untold."""
        with self._lock:
            untold, self._untold = self._untold, {}
        by_reason: dict[str, list[str]] = {}
        for (whose, why), (count, more) in untold.items():
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
