"""What processes that share streams tell each other once a second (see docs/explanation/architecture.rst, Order and
loss), as far as both ends do so alike. Which streams are due, and what is told of them, is
`ifserver.streams.account`."""

from __future__ import annotations

import logging

from msgspec.structs import replace

from ifserver import channels
from ifserver.errors import ChannelNameError
from ifserver.layers.clusters import Clusters
from ifserver.messages import Sync, SyncEntry, encode
from ifserver.streams.account import EVERYTHING_S, SYNC_ENTRIES

__all__ = ["Correspondent", "epoch_of"]

_log = logging.getLogger(__name__)


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
            # The node has not taken the last one. It never will if there was no more room for it to wait for the node,
            # so this lasts for a minute at most.
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
        elsewhere = clusters.elsewhere(inbox)
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
        """The node has the last of what was under way."""
        self.telling = False
