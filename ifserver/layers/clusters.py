"""The clusters as one process sees them: where it receives, where a reply goes, and where a request is offered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final, Protocol, TypeAlias

from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from ifserver import channels
from ifserver.clock import Clock, Soon
from ifserver.errors import ChannelNameError, NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.layers.accounting import Accounting
from ifserver.layers.free_workers import FreeWorkers
from ifserver.layers.groups import Groups
from ifserver.layers.inbox_home import UNREACHABLE_S, InboxHome
from ifserver.layers.membership import Membership
from ifserver.layers.node import Node, Pushed, Refusal
from ifserver.layers.node_outages import NodeOutages, cluster_of
from ifserver.layers.outbox import Outbox
from ifserver.layers.periodic import Periodic
from ifserver.layers.placement import Placement, Policy
from ifserver.layers.worker_presence import Readers, ReadersLog, WorkerPresence
from ifserver.logs import events
from ifserver.logs.events import Mark
from ifserver.messages import Message, encode
from ifserver.metrics import SENT, Counters

__all__ = ["Clusters", "Offering"]

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
    """Whoever offers a request."""

    def placed(self, node: Node) -> None:
        """It is offered on `node` now; if on another one before, that has not taken it."""

    def wants(self, payload: bytes) -> bool:
        """Whether this is still to be offered."""

    def refused(self, payload: bytes, why: Refusal) -> None:
        """No node has taken this; the last one that was tried says why."""


#: A request's payload, who offers it, and the names of the nodes that were tried.
_Entry: TypeAlias = tuple[bytes, Offering, frozenset[str]]


class Clusters:
    """All nodes that the configuration names, and this process's place among them.

    Args:
        process: the name under which this process receives (`ifserver.channels.new_process_name`).
        clusters: the nodes of each cluster, by the cluster's name.
        home: name of the cluster where this process receives.
        broker_grace_s: how long a node may be gone before the processes that receive there are looked for elsewhere.
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
        broker_grace_s: float = 30.0,
    ) -> None:
        self.process = process
        self.counters = counters
        self.clusters = clusters
        self.nodes = {node.name: node for nodes in clusters.values() for node in nodes}
        for node in self.nodes.values():
            node.soon = soon
        #: The nodes of the home cluster; a worker pulls requests from all of them.
        self.home_nodes = clusters[home]
        #: Where this process receives.
        self.home = InboxHome(process, self.home_nodes, clock, broker_grace_s, self._silent)
        #: Where others receive whose nodes are gone, and whether they are dead.
        self.outages = NodeOutages(self.nodes, clusters, clock, broker_grace_s)
        #: What this process sends to groups, and hears of them.
        self.groups = Groups(process, list(self.nodes.values()), self.home.node, clock, counters)
        self.home.followers.append(self.groups.moved)
        #: Who is in a group, on all servers.
        self.membership = Membership(self.groups, process, clock)
        #: What was sent to other processes, and came from them.
        self.accounting = Accounting(self, lambda: self.home.inbox, lambda: self.home.reads, clock, counters)
        self._outbox = Outbox(self.nodes, clock, soon, counters, self.accounting)
        # Every message goes this way: no frame in between.
        #: Sends a payload to an inbox, wherever its home is (`Outbox.send`).
        self.send = self._outbox.send
        #: `Outbox.flush_soon`.
        self.flush_soon = self._outbox.flush_soon
        #: Messages for an inbox that its node has not taken yet, and for all of them.
        self.ahead, self.waiting = self._outbox.ahead, self._outbox.waiting
        #: Calls at the end of this turn.
        self.soon = soon
        self._clock = clock
        names = {name: [node.name for node in nodes] for name, nodes in clusters.items()}
        #: Where requests are offered, as those of each pool see it: what one pool's workers are too slow for is no
        #: affair of the others.
        self._placements = _Placements(names, home, policy)
        self._free_workers = FreeWorkers(clock, self._has_free_workers)
        #: Who reads which request channels where. Whoever offers requests starts it.
        self.readership = WorkerPresence(self.nodes.values(), clock, self._read)
        #: Is called when other nodes are unread than before.
        self.unread_changed: Callable[[], None] = _nothing
        self._readers_log = ReadersLog()
        #: Whether any worker has claimed a request of this process in time.
        self._has_workers = False
        #: How it is logged that requests wait for the workers of the only node.
        self.log_waiting_at = logging.WARNING
        self._offers: dict[tuple[str, str], list[_Entry]] = {}
        #: When the pushes began that a node has not answered, oldest first.
        self._pushing: dict[str, dict[int, float]] = {}
        self._periodic = Periodic(clock, _SILENCE_S / 4, self._look_for_silence)

    def start(self) -> None:
        """Begin to connect to every node."""
        for node in self.nodes.values():
            node.start()

    def stop(self) -> Deferred[list[None]]:
        """Disconnect from every node."""
        self._periodic.stop()
        self.readership.stop()
        self.accounting.stop()
        self.groups.stop()
        return gatherResults([node.stop() for node in self.nodes.values()])

    def send_uncounted(self, inbox: str, message: Message, done: Callable[[], None]) -> None:
        """Send what the accounting says of messages."""
        try:
            self.send(inbox, encode(message), done, counted=False)
        except ChannelNameError:
            _log.debug("no receipt can be sent to %s", inbox)

    def clock_of(self, channel: str) -> float:
        """The clock of the node that an inbox or reply channel names (`Node.clock`); that of our own where it is not
        known here."""
        return self._node_of(channel).clock()

    def least_clock_of(self, channel: str) -> Deferred[float]:
        """The same, as `Node.least_clock`."""
        return self._node_of(channel).least_clock()

    def _node_of(self, channel: str) -> Node:
        return self.nodes.get(channels.node_of(channel), self.home.node)

    def redirect(self, old: str, new: str) -> None:
        """What still waits for the inbox `old` is sent to `new`, where the same process receives from now on.

        It stays where it is if that is on a node that is not configured here.
        """
        if channels.node_of(new) in self.nodes:
            for payload, done, counted in self._outbox.take(old):
                # What the accounting says is of the old way.
                if counted:
                    self.send(new, payload, done)
                elif done is not None:
                    done()

    def follow(self, inbox: str) -> bool:
        """A process says that it receives at `inbox`: what waits for it at nodes that have been gone for
        ``broker_grace_s`` is sent there. Returns whether more waits for it at others that cannot be reached now.
        """
        if channels.node_of(inbox) not in self.nodes:
            return False
        process, more = channels.process_of(inbox), False
        for old in self._outbox.unsent():
            if old != inbox and channels.process_of(old) == process:
                if self.outages.is_gone(old):
                    self.redirect(old, inbox)
                elif not self.outages.is_there(old):
                    more = True
        return more

    @property
    def may_follow(self) -> bool:
        """Whether something waits for inboxes on nodes that cannot be reached, and whoever receives there can tell us
        where else."""
        home = self.home
        is_reachable = home.node.connected and not home.silent
        return is_reachable and not all(map(self.outages.is_there, self._outbox.unsent()))

    def forget_missing(self) -> None:
        """Who waits until something is sent to a process that must be dead does so no longer."""
        for inbox in self._outbox.unsent():
            if self.outages.is_missing(inbox):
                self._outbox.stop_waiting(inbox)

    def offer(self, channel: str, payload: bytes, offering: Offering, excluded: frozenset[str] = _NONE) -> None:
        """Offer a request on `channel` of some node, at the end of this turn.

        A node that does not take it is unwell, and the next is tried. `offering` is told which, and of refusals.

        Args:
            excluded: names of nodes on which it is not to be offered.
        """
        tried = excluded
        # A node with a connection, or any one where there is none.
        while (name := self._placements[channel].choose(channel, self._clock.seconds(), tried)) is not None:
            node = self.nodes[name]
            if node.connected:
                break
            self._unreachable(node)
            tried |= {name}
        offering.placed(node)
        key = (node.name, channel)
        batch = self._offers.get(key)
        if batch is None:
            batch = self._offers[key] = []
            self.soon(partial(self._push, node, channel))
        batch.append((payload, offering, excluded))

    def claimed(self, node: Node, channel: str) -> None:
        """Somebody has claimed what was offered on `channel` of `node`."""
        self._has_workers = True
        placement = self._placements[channel]
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
        placement = self._placements[channel]
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
        self._placements[channel].emptied(node.name, channel)

    def is_unread(self, node: Node, channel: str) -> bool:
        """Whether nobody reads `channel` on `node`, as far as is known, and somebody does elsewhere."""
        return node.name in self._placements[channel].unread(channel)

    def has_better(self, node: Node, channel: str) -> bool:
        """Whether any other node is there and well, and `channel` not unread."""
        return self._has_well(channel, frozenset((node.name,)))

    def _has_well(self, channel: str, excluded: frozenset[str]) -> bool:
        return self._placements[channel].has_well(channel, excluded | self._gone())

    def _gone(self) -> frozenset[str]:
        """The nodes that have no connection; they need not be unwell yet."""
        return frozenset(node.name for node in self.nodes.values() if not node.connected)

    def except_for(self, excluded: frozenset[str]) -> frozenset[str]:
        """`excluded`, if any other node is there; else no node is: what was taken back must not get lost by that."""
        return _NONE if self.nodes.keys() <= excluded | self._gone() else excluded

    def spill_from(self, node: Node, channel: str, stood: frozenset[str]) -> frozenset[str] | None:
        """The nodes on which a request is not to be offered again that has stood on `node` for too long, and on all
        `stood`. None: there is no better place.

        Rather than on another node of the same cluster, which the same workers read, it is offered in another one.
        """
        neighbours = stood | {each.name for each in cluster_of(node, self.clusters)}
        if self._has_well(channel, neighbours):
            return neighbours
        return stood if self._has_well(channel, stood) else None

    def workers_are_free_beside(self, node: Node, channel: str) -> bool:
        """Whether another node is known to have workers that would take a request on `channel` now."""
        pool = channels.pool_of(channel)
        return any(self._free_workers.are_on(name, pool) for name in self.nodes if name != node.name)

    def _read(self, readers: Readers) -> None:
        """Nodes have other readers than before."""
        before = self._placements.idle_nodes()
        self._placements.read(readers)
        self._readers_log.changed(readers, before, self._placements.idle_nodes())
        self.unread_changed()

    def _unreachable(self, node: Node) -> None:
        """There is no connection. The first one is still being made at a start, and a lost one is often back at once:
        the node is not unwell by that."""
        if node.unreachable_s() >= UNREACHABLE_S:
            self._unwell(node, "unreachable")

    def _silent(self, node: Node) -> None:
        self._unwell(node, "silent")

    def _unwell(self, node: Node, why: str) -> None:
        now = self._clock.seconds()
        new = [placement.unwell(node.name, why, now) for placement in self._placements.all()]
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
        self.counters.cells[SENT] += result.taken
        if result.taken < len(batch):
            new = self._placements[channel].unwell(node.name, "full", self._clock.seconds())
            self._log_unwell(node, "full", new, channel)
            self._elsewhere(node, channel, batch[result.taken :], Refusal.FULL)

    def _failed(self, failure: Failure, node: Node, channel: str, batch: list[_Entry]) -> None:
        del self._pushing[node.name][id(batch)]
        failure.trap(NodeUnreachable, NodeRefused, PushInDoubt)
        if failure.check(NodeUnreachable):
            self._unreachable(node)
        else:
            self._unwell(node, "unreachable")
        if failure.check(PushInDoubt):
            self.counters.add("messages_in_doubt", len(batch))
            for payload, offering, _ in batch:
                offering.refused(payload, Refusal.IN_DOUBT)
        else:
            self._elsewhere(node, channel, batch, Refusal.UNREACHABLE)

    def _elsewhere(self, node: Node, channel: str, batch: list[_Entry], why: Refusal) -> None:
        """Offer what `node` has not taken on another one that has not refused it."""
        # Where nobody takes it, a request waits for a node that is gone, but not for room on one that is full.
        unread = self._placements[channel].unread(channel) if why is Refusal.FULL else _NONE
        for payload, offering, before in batch:
            tried = before | {node.name} | unread
            if len(tried) < len(self.nodes) and offering.wants(payload):
                self.offer(channel, payload, offering, tried)
            else:
                offering.refused(payload, why)

    def _look_for_silence(self) -> bool:
        now = self._clock.seconds()
        for name, pushing in self._pushing.items():
            # Oldest first.
            if pushing and now - next(iter(pushing.values())) >= _SILENCE_S:
                self._unwell(self.nodes[name], "silent")
        return any(self._pushing.values())


class _Placements(dict[str, Placement]):
    """By request channel, one for all channels of a pool. Made when one is needed."""

    def __init__(self, clusters: Mapping[str, list[str]], home: str, policy: Policy) -> None:
        super().__init__()
        self._new = partial(Placement, clusters, home, policy)
        self._by_pool = {channels.DEFAULT_POOL: self._new()}
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


def _requests(channel: str) -> str:
    """What is offered on `channel`, for people."""
    pool = channels.pool_of(channel)
    return "requests" if pool == channels.DEFAULT_POOL else f"requests of pool {pool}"


def _nothing() -> None:
    """Nobody wants to know."""
