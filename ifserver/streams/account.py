"""How far a stream is, and when its other side is due a report of it in a `Sync`.

See docs/explanation/architecture.rst, Order and loss.
"""

from __future__ import annotations

from typing import Final

__all__ = ["EVERYTHING_S", "SYNC_ENTRIES", "SYNC_S", "Account"]

#: How often two processes that share streams tell each other, in seconds; a younger stream costs nothing.
SYNC_S: Final = 1.0
#: How often they tell of all that they share, whether or not it moves.
EVERYTHING_S: Final = 60.0
#: Streams in one message.
SYNC_ENTRIES: Final = 1000
#: A stream is old enough for a `Sync` at this age: a second, give or take what timers are early by.
_OLD_S: Final = 0.9
#: How often the same account is reported: one or two may be lost.
_REPORTS: Final = 3


class Account:
    """What was last reported about one stream."""

    __slots__ = ("_reports", "_since", "consumed", "sent")

    def __init__(self, now: float) -> None:
        self._since = now
        self._reports = 0
        self.sent = self.consumed = 0

    def is_due(self, now: float, sent: int, consumed: int, in_any_case: bool) -> bool:
        """Whether to report now that `sent` messages were sent and `consumed` units consumed.

        Args:
            in_any_case: the stream waits for something, or it is time to report everything.
        """
        if now - self._since < _OLD_S:
            return False
        if sent != self.sent or consumed != self.consumed:
            self.sent, self.consumed, self._reports = sent, consumed, 0
        elif self._reports >= _REPORTS and not in_any_case:
            return False
        self._reports += 1
        return True
