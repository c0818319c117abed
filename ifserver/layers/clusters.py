"""The clusters as one process sees them: where it receives, where a reply goes, and where a request is offered."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import Deferred, gatherResults

from ifserver import channels
from ifserver.clock import Clock, Soon
from ifserver.layers.accounting import Accounting
from ifserver.layers.dispatch import Dispatch, NodeChoice
from ifserver.layers.groups import Groups
from ifserver.layers.inbox import InboxHome
from ifserver.layers.membership import Membership
from ifserver.layers.node import Node
from ifserver.layers.outbox import Outbox
from ifserver.layers.placement import Policy
from ifserver.layers.presence import NodeOutages
from ifserver.metrics import Counters

__all__ = ["Clusters"]


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
        #: Which nodes are well, and have workers.
        self.choice = NodeChoice(clusters, home, policy, clock)
        self._dispatch = Dispatch(self.choice, clock, soon, counters)
        #: Where this process receives.
        self.home = InboxHome(
            process, self.home_nodes, clock, broker_grace_s, lambda node: self.choice.unwell(node, "silent")
        )
        #: Where others receive whose nodes are gone, and whether they are dead.
        self.outages = NodeOutages(self.nodes, clusters, clock, broker_grace_s)
        #: What this process publishes in groups, and receives from them.
        self.groups = Groups(process, list(self.nodes.values()), self.home.node, clock, counters)
        self.home.followers.append(self.groups.moved)
        #: Who is in a group, on all servers.
        self.membership = Membership(self.groups, process, clock)
        #: What was sent to other processes, and came from them.
        self.accounting = Accounting(self, clock, counters)
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
        #: Offers a request on a node that is well (`Dispatch.offer`).
        self.offer = self._dispatch.offer

    def start(self) -> None:
        """Begin to connect to every node."""
        for node in self.nodes.values():
            node.start()

    def stop(self) -> Deferred[list[None]]:
        """Disconnect from every node."""
        self._dispatch.stop()
        self.choice.readership.stop()
        self.accounting.stop()
        self.groups.stop()
        return gatherResults([node.stop() for node in self.nodes.values()])

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
        """A process has reported that it receives at `inbox`: what waits for it at nodes that were unreachable for
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
        """Whether something waits for inboxes on nodes that cannot be reached, and their processes can report to us
        where else they receive."""
        home = self.home
        is_reachable = home.node.connected and not home.silent
        return is_reachable and not all(map(self.outages.is_there, self._outbox.unsent()))

    def forget_missing(self) -> None:
        """Stop waiting until something is sent to processes that must be dead."""
        for inbox in self._outbox.unsent():
            if self.outages.is_missing(inbox):
                self._outbox.stop_waiting(inbox)
