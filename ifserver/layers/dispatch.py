"""Offers requests on the nodes: on one that is well, and on another where that does not take them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol, TypeAlias

from twisted.python.failure import Failure

from ifserver import channels
from ifserver.clock import Clock, Soon
from ifserver.errors import NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.layers.node import UNREACHABLE_S, Node, Pushed, Refusal
from ifserver.layers.placement import Placement, Policy
from ifserver.layers.reconnection import Periodic
from ifserver.layers.workers import FreeWorkers, Readers, ReadersLog, WorkerPresence
from ifserver.logs import events
from ifserver.logs.events import Mark
from ifserver.metrics import SENT, Counters

__all__ = ["Dispatch", "NodeChoice", "Offering"]

#: No nodes.
_NONE: Final[frozenset[str]] = frozenset()

#: How long a push may be unanswered before its node is unwell, in seconds.
_SILENCE_S: Final = 1.0

#: What becomes of requests where the only node is unwell.
_ALONE: Final = {
    "full": "clients are answered 503 until workers catch up",
    "silent": "requests wait until it answers",
    "unreachable": "clients are answered 503 until it is back (broker_wait)",
}
#: What it is for operators.
_MARKS: Final = {"full": Mark.QUEUE_FULL, "behind": Mark.BEHIND}

_log = logging.getLogger(__name__)


class Offering(Protocol):
    """A request that is offered."""

    def placed(self, node: Node) -> None:
        """It is offered on `node` now; if on another one before, that has not taken it."""

    def wants(self, payload: bytes) -> bool:
        """Whether this is still to be offered."""

    def refused(self, payload: bytes, why: Refusal) -> None:
        """No node has taken this; the last one that was tried says why."""


#: A request's payload, what it is of, and the names of the nodes that were tried.
_Entry: TypeAlias = tuple[bytes, Offering, frozenset[str]]


class NodeChoice:
    """Which nodes are well, and where a request is offered by that; in the log, too.

    What one pool's workers are too slow for is no affair of the others, so there is a `Placement` for each pool.
    """

    def __init__(self, clusters: Mapping[str, Sequence[Node]], home: str, policy: Policy, clock: Clock) -> None:
        self.nodes = {node.name: node for nodes in clusters.values() for node in nodes}
        self._clock = clock
        names = {name: [node.name for node in nodes] for name, nodes in clusters.items()}
        #: By request channel, one for all channels of a pool.
        self.placements = _Placements(partial(Placement, names, home, policy))
        self._free_workers = FreeWorkers(clock, self._has_free_workers)
        #: Who reads which request channels where. Who offers requests starts it.
        self.readership = WorkerPresence(self.nodes.values(), clock, self._readers_changed)
        #: Is called when other nodes are unread than before.
        self.unread_changed: Callable[[], None] = lambda: None
        self._readers_log = ReadersLog()
        #: Whether any worker has claimed a request of this process in time.
        self._has_workers = False
        #: How it is logged that requests wait for the workers of the only node.
        self.log_waiting_at = logging.WARNING

    def claimed(self, node: Node, channel: str) -> None:
        """A worker has claimed what was offered on `channel` of `node`."""
        self._has_workers = True
        placement = self.placements[channel]
        if placement.unwell_nodes and placement.well(node.name):
            if len(self.nodes) > 1:
                text = "node %s is well again: %s are offered there"
                events.report(_log, logging.INFO, Mark.NODE_WELL, text, node.name, _requests(channel))
            else:
                events.report(_log, logging.INFO, Mark.IN_TIME, "%s are taken in time again", _requests(channel))

    def _has_free_workers(self, node: Node, pool: str) -> None:
        self.claimed(node, channels.of_pool(pool, channels.HTTP_REQUEST))

    def behind(self, node: Node, channel: str) -> bool:
        """A request has stood on `channel` of `node` for too long. True says that another node is well."""
        placement = self.placements[channel]
        if self.is_unread(node, channel):
            return False  # it is taken back anyway
        if placement.is_read(channel) is False:
            self._readers_log.nobody(channel, self._has_workers)
            return False
        self._log_unwell(node, "behind", placement.behind(node.name, channel, self._clock.seconds()), channel)
        if self.has_better(node, channel):
            return True
        others = [each for each in self.nodes.values() if each is not node]
        self._free_workers.seek(others, channels.pool_of(channel))
        return False

    def emptied(self, node: Node, channel: str) -> None:
        """All that was offered on `channel` of `node` has been claimed."""
        self.placements[channel].emptied(node.name, channel)

    def is_unread(self, node: Node, channel: str) -> bool:
        """Whether nobody reads `channel` on `node`, as far as is known, and somebody does elsewhere."""
        return node.name in self.placements[channel].unread(channel)

    def has_better(self, node: Node, channel: str) -> bool:
        """Whether any other node is there and well, and `channel` not unread."""
        return self._has_well(channel, frozenset((node.name,)))

    def _has_well(self, channel: str, excluded: frozenset[str]) -> bool:
        return self.placements[channel].has_well(channel, excluded | self._unconnected())

    def _unconnected(self) -> frozenset[str]:
        """The nodes that have no connection; they need not be unwell yet."""
        return frozenset(node.name for node in self.nodes.values() if not node.connected)

    def except_for(self, excluded: frozenset[str]) -> frozenset[str]:
        """`excluded`, if any other node is there; else no node is: what was taken back must not get lost by that."""
        return _NONE if self.nodes.keys() <= excluded | self._unconnected() else excluded

    def not_again_on(self, node: Node, channel: str, stood: frozenset[str]) -> frozenset[str] | None:
        """The nodes on which a request is not to be offered again that has stood on `node` for too long, and on all
        `stood`. None: there is no better place.

        Rather than on another node of the same cluster, which the same workers read, it is offered in another one.
        """
        neighbours = stood | self.placements[channel].cluster_of(node.name)
        if self._has_well(channel, neighbours):
            return neighbours
        return stood if self._has_well(channel, stood) else None

    def workers_are_free_beside(self, node: Node, channel: str) -> bool:
        """Whether another node is known to have workers that would take a request on `channel` now."""
        pool = channels.pool_of(channel)
        return any(self._free_workers.are_on(name, pool) for name in self.nodes if name != node.name)

    def _readers_changed(self, readers: Readers) -> None:
        """Nodes have other readers than before."""
        before = self.placements.idle_nodes()
        self.placements.read(readers)
        self._readers_log.changed(readers, before, self.placements.idle_nodes())
        self.unread_changed()

    def unreachable(self, node: Node) -> None:
        """There is no connection. The first one is still being made at a start, and a lost one is often back at once:
        the node is not unwell by that."""
        if node.unreachable_s() >= UNREACHABLE_S:
            self.unwell(node, "unreachable")

    def full(self, node: Node, channel: str) -> None:
        """The node has no room for more on `channel`."""
        self._log_unwell(
            node, "full", self.placements[channel].unwell(node.name, "full", self._clock.seconds()), channel
        )

    def unwell(self, node: Node, why: str) -> None:
        """The node is silent or unreachable, for all pools."""
        now = self._clock.seconds()
        new = [placement.unwell(node.name, why, now) for placement in self.placements.all()]
        self._log_unwell(node, why, any(new), channels.HTTP_REQUEST)

    def _log_unwell(self, node: Node, why: str, new: bool, channel: str) -> None:
        if not new:
            return
        requests, mark = _requests(channel), _MARKS.get(why, Mark.NODE_UNWELL)
        if why == "behind" and not self._has_workers:
            where = f" on node {node.name}" if len(self.nodes) > 1 else ""
            _log.info("waiting for the first worker%s: %s wait until it is ready", where, requests)
        elif len(self.nodes) > 1:
            text = "node %s is %s: %s are offered elsewhere"
            events.report(_log, logging.WARNING, mark, text, node.name, why, requests)
        elif why == "behind":
            text = "%s have waited for more than 1 s: all workers are busy, or gone"
            events.report(_log, self.log_waiting_at, mark, text, requests)
        else:
            text = "node %s is %s, and there is no other: %s"
            events.report(_log, logging.WARNING, mark, text, node.name, why, _ALONE[why])


class _Placements(dict[str, Placement]):
    """By request channel, one for all channels of a pool. Made when one is needed."""

    def __init__(self, new: Callable[[], Placement]) -> None:
        super().__init__()
        self._new = new
        self._by_pool = {channels.DEFAULT_POOL: new()}
        self._readers: dict[str, frozenset[str] | None] = {}

    def __missing__(self, channel: str) -> Placement:
        pool = channels.pool_of(channel)
        found = self._by_pool.get(pool)
        if found is None:
            found = self._by_pool[pool] = self._new()
            found.read(self._readers)
        self[channel] = found
        return found

    def read(self, readers: Readers) -> None:
        """These request channels have living readers on these nodes (`Placement.read`)."""
        self._readers.update(readers)
        for placement in self.all():
            placement.read(readers)

    def idle_nodes(self) -> frozenset[str]:
        """The nodes where nobody reads anything, while somebody reads another one."""
        return self._by_pool[channels.DEFAULT_POOL].idle_nodes()

    def all(self) -> Iterable[Placement]:
        """Those of all pools."""
        return self._by_pool.values()


class Dispatch:
    """Offers requests, those of one turn on one channel of one node with one push."""

    def __init__(self, choice: NodeChoice, clock: Clock, soon: Soon, counters: Counters) -> None:
        self._choice = choice
        self._placements = choice.placements
        self._nodes = choice.nodes
        self._clock = clock
        self._soon = soon
        self._counters = counters
        self._offers: dict[tuple[str, str], list[_Entry]] = {}
        #: When the pushes began that a node has not answered, oldest first.
        self._pushing: dict[str, dict[int, float]] = {}
        self._periodic = Periodic(clock, _SILENCE_S / 4, self._look_for_silence)

    def stop(self) -> None:
        """Look no more after pushes that are not answered."""
        self._periodic.stop()

    def offer(self, channel: str, payload: bytes, offering: Offering, excluded: frozenset[str] = _NONE) -> None:
        """Offer a request on `channel` of some node, at the end of this turn.

        A node that does not take it is unwell, and the next is tried. `offering` is notified of which, and of refusals.

        Args:
            excluded: names of nodes on which it is not to be offered.
        """
        tried = excluded
        # A node with a connection, or any one where there is none.
        while (name := self._placements[channel].choose(channel, self._clock.seconds(), tried)) is not None:
            node = self._nodes[name]
            if node.connected:
                break
            self._choice.unreachable(node)
            tried |= {name}
        offering.placed(node)
        key = (node.name, channel)
        batch = self._offers.get(key)
        if batch is None:
            batch = self._offers[key] = []
            self._soon(partial(self._push, node, channel))
        batch.append((payload, offering, excluded))

    def _push(self, node: Node, channel: str) -> None:
        batch = self._offers.pop((node.name, channel))
        self._pushing.setdefault(node.name, {})[id(batch)] = self._clock.seconds()
        if not self._periodic.running:
            self._periodic.start()
        pushing = node.push(channel, [payload for payload, _, _ in batch])
        pushing.addCallbacks(self._pushed, self._failed, (node, channel, batch), errbackArgs=(node, channel, batch))

    def _pushed(self, result: Pushed, node: Node, channel: str, batch: list[_Entry]) -> None:
        del self._pushing[node.name][id(batch)]
        self._placements[channel].told(node.name, channel, result.length)
        self._counters.cells[SENT] += result.taken
        if result.taken < len(batch):
            self._choice.full(node, channel)
            self._elsewhere(node, channel, batch[result.taken :], Refusal.FULL)

    def _failed(self, failure: Failure, node: Node, channel: str, batch: list[_Entry]) -> None:
        del self._pushing[node.name][id(batch)]
        failure.trap(NodeUnreachable, NodeRefused, PushInDoubt)
        if failure.check(NodeUnreachable):
            self._choice.unreachable(node)
        else:
            self._choice.unwell(node, "unreachable")
        if failure.check(PushInDoubt):
            self._counters.add("messages_in_doubt", len(batch))
            for payload, offering, _ in batch:
                offering.refused(payload, Refusal.IN_DOUBT)
        else:
            self._elsewhere(node, channel, batch, Refusal.UNREACHABLE)

    def _elsewhere(self, node: Node, channel: str, batch: list[_Entry], why: Refusal) -> None:
        """Offer what `node` has not taken on another one that has not refused it."""
        # Where nobody takes it, a request waits for a node that is unreachable, but not for room on one that is full.
        unread = self._placements[channel].unread(channel) if why is Refusal.FULL else _NONE
        for payload, offering, before in batch:
            tried = before | {node.name} | unread
            if len(tried) < len(self._nodes) and offering.wants(payload):
                self.offer(channel, payload, offering, tried)
            else:
                offering.refused(payload, why)

    def _look_for_silence(self) -> bool:
        now = self._clock.seconds()
        for name, pushing in self._pushing.items():
            # Oldest first.
            if pushing and now - next(iter(pushing.values())) >= _SILENCE_S:
                self._choice.unwell(self._nodes[name], "silent")
        return any(self._pushing.values())


def _requests(channel: str) -> str:
    """What is offered on `channel`, for people."""
    pool = channels.pool_of(channel)
    return "requests" if pool == channels.DEFAULT_POOL else f"requests of pool {pool}"
