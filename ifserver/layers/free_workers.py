"""Which nodes have workers that are free, by the beats of their supervisors.

A server learns that a node keeps up from what is claimed there. Where it takes all nodes for behind, it offers nothing
on most of them, and would never learn that workers have come. So it asks: once a second, and only while requests stand
and no node is well.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ifserver.channels import DEFAULT_POOL
from ifserver.clock import Clock
from ifserver.errors import NodeError, NodeRefused
from ifserver.layers.heartbeat_value import facts_of
from ifserver.layers.node import Node
from ifserver.status import decode_facts

__all__ = ["FreeWorkers"]

#: How often is asked, and how long an answer holds, in seconds.
_ASK_S: Final = 1.0
_HOLDS_S: Final = 2.0

_log = logging.getLogger(__name__)


class FreeWorkers:
    """Asks nodes for workers that would take a request now.

    Args:
        found: is told of each node that has some, and of which pool.
    """

    def __init__(self, clock: Clock, found: Callable[[Node, str], None]) -> None:
        self._clock = clock
        self._found = found
        #: When may be asked again, for each pool.
        self._ask_at: dict[str, float] = {}
        #: When free workers were last seen, by the name of the node and the pool.
        self._seen: dict[tuple[str, str], float] = {}
        #: Nodes that have refused to answer, which is logged once.
        self._refused: set[str] = set()

    def seek(self, nodes: Iterable[Node], pool: str) -> None:
        """Ask `nodes` for workers of a pool, unless they were asked less than a second ago."""
        now = self._clock.seconds()
        if now < self._ask_at.get(pool, 0.0):
            return
        self._ask_at[pool] = now + _ASK_S
        for node in nodes:
            if node.connected:
                Deferred.fromCoroutine(self._ask(node, pool)).addErrback(_defect)

    def are_on(self, name: str, pool: str) -> bool:
        """Whether the node `name` had free workers of that pool just now."""
        seen = self._seen.get((name, pool))
        return seen is not None and self._clock.seconds() - seen < _HOLDS_S

    async def _ask(self, node: Node, pool: str) -> None:
        try:
            values = await node.census()
        except NodeError as error:
            if isinstance(error, NodeRefused) and node.name not in self._refused:
                self._refused.add(node.name)
                _log.warning(
                    "node %s does not say whether it has free workers: %s; see `ifserver check` for the rights it asks",
                    node.name,
                    error,
                )
            return
        if any(_has_free_workers(value, pool) for value in values.values()):
            self._seen[node.name, pool] = self._clock.seconds()
            self._found(node, pool)


def _has_free_workers(beat: bytes, pool: str) -> bool:
    facts = decode_facts(facts_of(beat))
    return facts is not None and any(
        child.ready and child.free > 0 and (child.pool or DEFAULT_POOL) == pool for child in facts.children
    )


def _defect(failure: Failure) -> None:
    _log.error("looking for free workers failed:\n%s", failure.getTraceback())
