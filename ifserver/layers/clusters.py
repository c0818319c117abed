"""The clusters as one process sees them: where it receives, where a reply goes, and where a request is offered."""

from __future__ import annotations

import enum
import logging
import random
from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple, Protocol

from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from ifserver import channels
from ifserver.clock import Clock, Soon, Timer
from ifserver.errors import ChannelNameError, NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.layers.base import Node, Pushed
from ifserver.layers.outbox import Outbox
from ifserver.layers.placement import Placement, Policy
from ifserver.metrics import Counters

__all__ = ["Clusters", "Offering", "Refusal"]

#: How long a push may be unanswered before its node is unwell, in seconds.
_SILENCE_S: Final = 1.0

_log = logging.getLogger(__name__)


class Refusal(enum.Enum):
    """Why an offer was not taken."""

    FULL = "full"
    UNREACHABLE = "unreachable"
    #: The connection broke before the answer: somebody may have it.
    IN_DOUBT = "in doubt"


class Offering(Protocol):
    """Whoever offers a request."""

    def placed(self, node: Node) -> None:
        """It is offered on `node` now; if on another one before, that has not taken it."""

    def refused(self, why: Refusal) -> None:
        """No node has taken it; the last one that was tried says why."""


class _Entry(NamedTuple):
    payload: bytes
    offering: Offering
    tried: frozenset[str]


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
        policy: Policy = Policy.HOME_FIRST,
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
        self._clock = clock
        names = {name: [node.name for node in nodes] for name, nodes in clusters.items()}
        self._placement = Placement(names, home, policy)
        self._offers: dict[tuple[str, str], list[_Entry]] = {}
        #: When the pushes began that a node has not answered, oldest first.
        self._pushing: dict[str, dict[int, float]] = {}
        self._watch: Timer | None = None

    def start(self) -> None:
        """Begin to connect to every node."""
        for node in self.nodes.values():
            node.start()

    def stop(self) -> Deferred[list[None]]:
        """Disconnect from every node."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
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

    def offer(self, channel: str, payload: bytes, offering: Offering, but: Collection[str] = ()) -> None:
        """Offer a request on `channel` of some node, at the end of this turn.

        A node that does not take it is unwell, and the next is tried. `offering` is told which, and of refusals.

        Args:
            but: names of nodes that are out of the question.
        """
        node = self._choose(channel, but)
        offering.placed(node)
        key = (node.name, channel)
        batch = self._offers.get(key)
        if batch is None:
            batch = self._offers[key] = []
            self._soon(lambda: self._push(node, channel, self._offers.pop(key)))
        batch.append(_Entry(payload, offering, frozenset(but)))

    def _choose(self, channel: str, but: Collection[str]) -> Node:
        while True:
            name = self._placement.choose(channel, self._clock.seconds(), but)
            assert name is not None, "every node is out of the question"
            node = self.nodes[name]
            if node.connected:
                return node
            self._unwell(node, "unreachable")
            if not self._placement.has_well(but):
                return node

    def claimed(self, node: Node) -> None:
        """Somebody has claimed what was offered on `node`."""
        if self._placement.well(node.name):
            _log.info("node %s is well again: requests are offered there", node.name)

    def behind(self, node: Node) -> bool:
        """A request has stood on `node` for too long. True says that another node is well."""
        self._unwell(node, "behind")
        return self._placement.has_well((node.name,))

    def _unwell(self, node: Node, why: str) -> None:
        if self._placement.unwell(node.name, why, self._clock.seconds()):
            _log.warning("node %s is %s: requests are offered elsewhere, if there is anywhere", node.name, why)

    def _push(self, node: Node, channel: str, batch: list[_Entry]) -> None:
        began_at = self._clock.seconds()
        self._pushing.setdefault(node.name, {})[id(batch)] = began_at
        if self._watch is None:
            self._watch = self._clock.callLater(_SILENCE_S / 4, self._look_for_silence)
        pushing = node.push(channel, [entry.payload for entry in batch])
        pushing.addCallbacks(self._pushed, self._failed, (node, channel, batch), errbackArgs=(node, channel, batch))

    def _pushed(self, result: Pushed, node: Node, channel: str, batch: list[_Entry]) -> None:
        del self._pushing[node.name][id(batch)]
        self._placement.told(node.name, channel, result.length)
        self.counters.add("messages_sent", result.taken)
        if result.taken < len(batch):
            self._unwell(node, "full")
            self._elsewhere(node, channel, batch[result.taken :], Refusal.FULL)

    def _failed(self, failure: Failure, node: Node, channel: str, batch: list[_Entry]) -> None:
        del self._pushing[node.name][id(batch)]
        failure.trap(NodeUnreachable, NodeRefused, PushInDoubt)
        self._unwell(node, "unreachable")
        if failure.check(PushInDoubt):
            for entry in batch:
                entry.offering.refused(Refusal.IN_DOUBT)
        else:
            self._elsewhere(node, channel, batch, Refusal.UNREACHABLE)

    def _elsewhere(self, node: Node, channel: str, batch: list[_Entry], why: Refusal) -> None:
        """Offer what `node` has not taken on another one that has not refused it."""
        for entry in batch:
            tried = entry.tried | {node.name}
            if len(tried) < len(self.nodes):
                self.offer(channel, entry.payload, entry.offering, tried)
            else:
                entry.offering.refused(why)

    def _look_for_silence(self) -> None:
        now = self._clock.seconds()
        for name, pushing in self._pushing.items():
            # Oldest first.
            if pushing and now - next(iter(pushing.values())) >= _SILENCE_S:
                self._unwell(self.nodes[name], "silent")
        flying = any(self._pushing.values())
        self._watch = self._clock.callLater(_SILENCE_S / 4, self._look_for_silence) if flying else None
