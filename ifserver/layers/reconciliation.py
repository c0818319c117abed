"""What processes that share streams tell each other once a second: which streams are due, and where it is told.

So whatever was lost between them is noticed (see docs/explanation/architecture.rst, Order and loss).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from ifserver import channels
from ifserver.errors import ChannelNameError
from ifserver.messages import Sync, SyncEntry, encode

if TYPE_CHECKING:
    from ifserver.layers.clusters import Clusters

__all__ = ["EVERYTHING_S", "SYNC_ENTRIES", "SYNC_S", "Account", "Correspondent", "epoch_of"]

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

_log = logging.getLogger(__name__)


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


def epoch_of(clusters: Clusters, inbox: str) -> str | None:
    """Changes when what was sent to `inbox`, or from there to here, may be lost. None: its node is not configured."""
    node = clusters.nodes.get(channels.node_of(inbox))
    return f"{clusters.home.node.epoch} {node.epoch}" if node is not None else None


class Correspondent:
    """A process that shares streams with this one."""

    __slots__ = ("_epoch", "_everything_at", "telling")

    def __init__(self, now: float, epoch: str | None) -> None:
        self._everything_at = now + EVERYTHING_S
        self._epoch = epoch
        #: Whether something is under way to it.
        self.telling = False

    def begin(self, now: float, epoch: str | None) -> bool | None:
        """Another second has passed: whether it is to be told of all that it shares with us; None: of nothing."""
        if self.telling and now < self._everything_at:
            # The node has not taken the last one. It never will if that could not even be sent, so this lasts for a
            # minute at most.
            return None
        everything = now >= self._everything_at or epoch != self._epoch
        if everything:
            self._everything_at, self._epoch = now + EVERYTHING_S, epoch
        return everything

    def tell_everything(self) -> None:
        """Tell it of all at the next opportunity."""
        self._everything_at = 0.0

    def tell(self, clusters: Clusters, inbox: str, sender: str, supervisor: str, entries: list[SyncEntry]) -> None:
        """Tell it `entries` at `inbox`, or wherever it may be found when that is gone; it answers to `sender`."""
        elsewhere = clusters.outages.elsewhere(inbox)
        if elsewhere:
            # This overtakes what waits for it at its old address, so it must not speak of that.
            entries = [replace(entry, sent=0) for entry in entries]
        for where in elsewhere or [inbox]:
            for start in range(0, len(entries), SYNC_ENTRIES):
                sync = Sync(sender, supervisor, entries[start : start + SYNC_ENTRIES], clusters.home.moves)
                is_last = start + SYNC_ENTRIES >= len(entries)
                self.telling = True
                try:
                    clusters.send(where, encode(sync), self._told if is_last else None)
                except ChannelNameError as error:
                    _log.error("cannot tell a process how far its streams are: %s", error)

    def _told(self) -> None:
        """The node has the last of what was under way, or that was dropped."""
        self.telling = False
