"""The clusters as one process sees them: where it receives, where a reply goes, and where a request is offered."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Mapping
from typing import TypeAlias

from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from ifserver import channels
from ifserver.clock import Clock, Soon
from ifserver.errors import ChannelNameError, NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.layers.base import Node, Pushed
from ifserver.layers.outbox import Outbox
from ifserver.metrics import Counters

__all__ = ["Clusters", "Refusal", "Refused"]


class Refusal(enum.Enum):
    """Why an offer was not taken."""

    FULL = "full"
    UNREACHABLE = "unreachable"
    #: The connection broke before the answer: somebody may have it.
    IN_DOUBT = "in doubt"


#: Is told that an offer was not taken, and why. Not called for one that was.
Refused: TypeAlias = Callable[[Refusal], None]


class Clusters:
    """All nodes that the configuration names, and this process's place among them.

    Args:
        process: the name under which this process receives (`ifserver.channels.new_process_name`).
        clusters: the nodes of each cluster, by the cluster's name.
        home: name of the cluster where this process receives.
    """

    def __init__(
        self,
        process: str,
        clusters: Mapping[str, list[Node]],
        home: str,
        clock: Clock,
        soon: Soon,
        counters: Counters,
    ) -> None:
        self.process = process
        self.counters = counters
        self.clusters = clusters
        self.nodes = {node.name: node for nodes in clusters.values() for node in nodes}
        #: The nodes of the home cluster; a worker pulls requests from all of them.
        self.home_nodes = clusters[home]
        #: The node where this process's inbox is.
        self.home = random.choice(self.home_nodes)
        #: The only channel of its own that this process reads.
        self.inbox = channels.make_inbox(self.home.name, process)
        self._outboxes = {name: Outbox(node, clock, soon, counters) for name, node in self.nodes.items()}
        self._soon = soon
        self._lengths: dict[tuple[str, str], int] = {}
        self._offers: dict[tuple[str, str], list[tuple[bytes, Refused]]] = {}

    def start(self) -> None:
        """Begin to connect to every node."""
        for node in self.nodes.values():
            node.start()

    def stop(self) -> Deferred[list[None]]:
        """Disconnect from every node."""
        return gatherResults([node.stop() for node in self.nodes.values()])

    def send(self, inbox: str, payload: bytes, taken: Callable[[], None] | None = None) -> None:
        """Send `payload` to an inbox, wherever its home is; `taken` is called when the node has it.

        Raises:
            ChannelNameError: the node in the name is not configured.
        """
        try:
            outbox = self._outboxes[inbox[1 : inbox.index(".")]]
        except (KeyError, ValueError):
            known = ", ".join(sorted(self.nodes))
            raise ChannelNameError(
                f"channel {inbox!r} has its home on no configured node; there are: {known}"
            ) from None
        outbox.send(inbox, payload, taken)

    def waiting(self) -> int:
        """Messages for inboxes that no node has taken yet."""
        return sum(outbox.waiting() for outbox in self._outboxes.values())

    def offer(self, channel: str, payload: bytes, refused: Refused) -> Node:
        """Offer a request on `channel` of a node of the home cluster, at the end of this turn; the node is returned.

        `refused` is called later, and only if the node does not take it.
        """
        node = self._place(channel)
        key = (node.name, channel)
        batch = self._offers.get(key)
        if batch is None:
            batch = self._offers[key] = []
            self._soon(lambda: self._push(node, channel, self._offers.pop(key)))
        batch.append((payload, refused))
        return node

    def _place(self, channel: str) -> Node:
        """Of two random nodes that are connected, the one with the shorter queue (power of two choices)."""
        if len(self.home_nodes) == 1:
            return self.home_nodes[0]
        candidates = [node for node in self.home_nodes if node.connected] or self.home_nodes
        pair = random.sample(candidates, min(2, len(candidates)))
        return min(pair, key=lambda node: self._lengths.get((node.name, channel), 0))

    def _push(self, node: Node, channel: str, batch: list[tuple[bytes, Refused]]) -> None:
        def pushed(result: Pushed) -> None:
            self._lengths[node.name, channel] = result.length
            self.counters.add("messages_sent", result.taken)
            for _, refused in batch[result.taken :]:
                refused(Refusal.FULL)

        def failed(failure: Failure) -> None:
            failure.trap(NodeUnreachable, NodeRefused, PushInDoubt)
            why = Refusal.IN_DOUBT if failure.check(PushInDoubt) else Refusal.UNREACHABLE
            for _, refused in batch:
                refused(why)

        node.push(channel, [payload for payload, _ in batch]).addCallbacks(pushed, failed)
