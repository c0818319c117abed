"""Nodes that are gone for long: where those who receive there are looked for, and when they are taken for dead.

Nobody is asked: a process whose node is gone names another one of its cluster (`ifserver.layers.inbox_home`), if any is
left. Where none is, nobody can have moved, and nothing is known of anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ifserver import channels
from ifserver.clock import Clock
from ifserver.layers.inbox_home import UNREACHABLE_S
from ifserver.layers.node import Node

__all__ = ["NodeOutages", "cluster_of"]

#: How long a process whose node is gone may take, beyond `NodeOutages.grace_s`, to say where it receives.
_MISSING_S: Final = 5.0


class NodeOutages:
    """What follows for other processes from the nodes that this one cannot reach.

    Args:
        nodes: all of them, by name.
        clusters: those of each cluster.
        grace_s: ``broker_grace_s``.
    """

    def __init__(
        self, nodes: Mapping[str, Node], clusters: Mapping[str, list[Node]], clock: Clock, grace_s: float
    ) -> None:
        self._nodes = nodes
        self._clusters = clusters
        self._clock = clock
        #: How long a node may be gone before the processes that receive there are looked for elsewhere.
        self.grace_s = grace_s
        #: Since when a node has been gone while another one of its cluster was there, and when that was seen last.
        self._alone_gone: dict[str, tuple[float, float]] = {}

    def is_there(self, inbox: str) -> bool:
        """Whether the node of `inbox` can be reached, and gives signs of life."""
        node = self._nodes.get(channels.node_of(inbox))
        return node is not None and _is_there(node)

    def is_gone(self, inbox: str) -> bool:
        """Whether the node of `inbox` has been gone for `grace_s`."""
        node = self._nodes.get(channels.node_of(inbox))
        return node is not None and node.unreachable_s() >= self.grace_s

    def elsewhere(self, inbox: str) -> list[str]:
        """Where a process may be found that has named `inbox`, whose node has been gone for `grace_s`: on the other
        nodes of that cluster. Empty while it is not to be looked for."""
        if not self.is_gone(inbox):
            return []
        node, process = self._nodes[channels.node_of(inbox)], channels.process_of(inbox)
        return [channels.make_inbox(each.name, process) for each in self._others(node) if each.connected]

    def is_missing(self, inbox: str) -> bool:
        """Whether the process that has named `inbox` must be dead: its node has been gone, and another one of that
        cluster was there, for so long that it would have named that one. To be asked every second or so."""
        node, now = self._nodes.get(channels.node_of(inbox)), self._clock.seconds()
        if node is None:
            return False
        if _is_there(node) or not any(map(_is_there, self._others(node))):
            self._alone_gone.pop(node.name, None)
            return False
        since, seen = self._alone_gone.get(node.name, (now, now))
        since = now if now - seen > _MISSING_S else since
        self._alone_gone[node.name] = since, now
        return min(node.unreachable_s(), now - since) >= self.grace_s + _MISSING_S

    def _others(self, node: Node) -> list[Node]:
        return [each for each in cluster_of(node, self._clusters) if each is not node]


def cluster_of(node: Node, clusters: Mapping[str, list[Node]]) -> list[Node]:
    """The nodes of its cluster, `node` among them."""
    return next(nodes for nodes in clusters.values() if node in nodes)


def _is_there(node: Node) -> bool:
    """Whether it can be reached, and gives signs of life."""
    return node.connected and node.unreachable_s() < UNREACHABLE_S
