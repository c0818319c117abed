"""Empties the inboxes of processes that have ended, so that nothing is left on the nodes, and all of it is counted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred

from ifserver import channels
from ifserver.clock import Clock, Timer
from ifserver.errors import NodeError
from ifserver.layers.node import Node
from ifserver.messages import is_counted

if TYPE_CHECKING:
    from ifserver.layers.clusters import Clusters

__all__ = ["InboxCleanup"]

#: When to look, in seconds after the end: those who were told of it by then send nothing more; the others have asked
#: the node for it 10 s later.
_LOOKS_S: Final = (1.0, 12.0)
#: Messages taken at once.
_COUNT: Final = 1000

_log = logging.getLogger(__name__)


class InboxCleanup:
    """Whatever was sent to processes that are no more."""

    def __init__(self, clusters: Clusters, clock: Clock) -> None:
        self._clusters = clusters
        self._clock = clock
        self._pending: dict[Timer, tuple[Node, str]] = {}

    def ended(self, inbox: str) -> None:
        """The process that received at `inbox` has ended, for certain."""
        node = self._clusters.nodes.get(channels.node_of(inbox))
        if node is not None:
            for seconds in _LOOKS_S:
                self._look_later(seconds, node, inbox)

    async def stop(self) -> None:
        """Look a last time, at once. What is sent still later expires."""
        pending, self._pending = self._pending, {}
        for timer in pending:
            timer.cancel()
        for node, inbox in set(pending.values()):
            await self._empty(node, inbox)

    def _look_later(self, seconds: float, node: Node, inbox: str) -> None:
        def look() -> None:
            del self._pending[timer]
            Deferred.fromCoroutine(self._empty(node, inbox))

        timer = self._clock.callLater(seconds, look)
        self._pending[timer] = node, inbox

    async def _empty(self, node: Node, inbox: str) -> None:
        try:
            while (pulled := await node.pull((inbox,), _COUNT, 0.0)) is not None:
                self._clusters.counters.add("messages_dropped", sum(map(is_counted, pulled.payloads)), "gone")
        except NodeError as error:
            _log.info("the inbox %s of a process that has ended is left to expire: %s", inbox, error)
