"""Which node a request is offered on: of those that are well, the shorter queue of two random ones. Pure.

A node is *unwell* when it was full, has failed or kept silent, or is *behind*: a request of this server has stood there
unclaimed for too long (see docs/explanation/architecture.rst, Placement). While another is well, an unwell one is
offered nothing but one request now and then, as a *probe*.

A node is *unread*, for one request channel, when it is known that nobody reads that channel there, and somebody does on
another node. It is offered nothing, unless no other node is left at all.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Collection, Mapping, Sequence
from typing import Final

__all__ = ["Placement", "Policy"]

#: The first pause before a node that is unwell gets a probe, and the longest, in seconds; spread by the factors below.
_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 1.0
_JITTER: Final = (0.7, 1.3)

_NONE: Final[frozenset[str]] = frozenset()


class Policy(enum.Enum):
    """Which clusters are preferred."""

    #: The home cluster, as long as any of its nodes is well.
    HOME_FIRST = "home-first"
    #: All alike, by their queues.
    SPREAD = "spread"


class _Health:
    """What is known of one node."""

    __slots__ = ("failures", "next_probe", "why")

    def __init__(self) -> None:
        #: Why it is unwell; None: it is well.
        self.why: str | None = None
        self.failures = 0
        self.next_probe = 0.0


class Placement:
    """The nodes of all clusters as one server knows them.

    Args:
        clusters: names of the nodes of each cluster.
        home: the cluster that `Policy.HOME_FIRST` prefers.
    """

    def __init__(self, clusters: Mapping[str, Sequence[str]], home: str, policy: Policy) -> None:
        self._clusters = {name: tuple(names) for names in clusters.values() for name in names}
        self._home = tuple(clusters[home])
        self._all = tuple(name for names in clusters.values() for name in names)
        self._policy = policy
        self._preferred = self._home if policy is Policy.HOME_FIRST else self._all
        self._only = self._preferred[0] if len(self._preferred) == 1 else None
        #: Which request channels are read on each node; None: that is not known.
        self._read: dict[str, frozenset[str] | None] = dict.fromkeys(self._all)
        #: The nodes where a channel is unread, and those that are preferred for it then. Without channels that are
        #: unread nowhere.
        self._unread: dict[str, frozenset[str]] = {}
        self._preferred_for: dict[str, Sequence[str]] = {}
        self._health = {name: _Health() for name in self._all}
        self._lengths: dict[tuple[str, str], int] = {}
        #: How many nodes are unwell.
        self.unwell_nodes = 0

    def choose(self, channel: str, now: float, excluded: Collection[str] = ()) -> str | None:
        """The node for the next request on `channel`; None: there is none besides those in `excluded`."""
        if not self.unwell_nodes and not excluded:
            if not self._unread:
                return self._only or self._shorter(self._preferred, channel)
            return self._shorter(self._preferred_for.get(channel, self._preferred), channel)
        left = [name for name in self._all if name not in excluded]
        if unread := self._unread.get(channel):
            left = [name for name in left if name not in unread] or left
        well = [name for name in left if self._health[name].why is None]
        preferred = well if self._policy is Policy.SPREAD else [name for name in well if name in self._home]
        # What is offered here since it has waited elsewhere is no probe.
        for name in () if excluded else left:
            if self._is_due(name, now) and (preferred or well):
                self._defer(self._health[name], now)
                return name
        at_home = [] if self._policy is Policy.SPREAD else [name for name in left if name in self._home]
        candidates = preferred or well or at_home or left
        return self._shorter(candidates, channel) if candidates else None

    def has_well(self, channel: str, excluded: Collection[str] = ()) -> bool:
        """Whether any node besides those in `excluded` is well, and `channel` not unread there."""
        unread = self.unread(channel)
        return any(
            health.why is None for name, health in self._health.items() if name not in excluded and name not in unread
        )

    def read(self, readers: Mapping[str, frozenset[str] | None]) -> None:
        """These request channels have living readers on these nodes; None: that is not known."""
        for name, channels in readers.items():
            if channels and not self._read[name] and self._health[name].why == "behind":
                # There is somebody else now.
                self.well(name)
        self._read.update(readers)
        known = {node: read for node, read in self._read.items() if read is not None}
        self._unread.clear()
        self._preferred_for.clear()
        for channel in frozenset().union(*known.values()):
            unread = frozenset(node for node, read in known.items() if channel not in read)
            if unread:
                self._unread[channel] = unread
                preferred = [node for node in self._preferred if node not in unread]
                self._preferred_for[channel] = preferred or [node for node in self._all if node not in unread]

    def unread(self, channel: str) -> frozenset[str]:
        """The nodes where `channel` is unread."""
        return self._unread.get(channel, _NONE)

    def cluster_of(self, name: str) -> frozenset[str]:
        """The nodes of the cluster of `name`."""
        return frozenset(self._clusters[name])

    def idle_nodes(self) -> frozenset[str]:
        """The nodes where nobody reads anything, while somebody reads another one."""
        known = {name: read for name, read in self._read.items() if read is not None}
        return frozenset(name for name, read in known.items() if not read) if any(known.values()) else _NONE

    def is_read(self, channel: str) -> bool | None:
        """Whether anybody reads `channel`, on whatever node; None: that is not known."""
        if any(read is not None and channel in read for read in self._read.values()):
            return True
        return None if None in self._read.values() else False

    def told(self, name: str, channel: str, length: int) -> None:
        """The node has told how long its queue is."""
        self._lengths[name, channel] = length

    def emptied(self, name: str, channel: str) -> None:
        """All that this server has offered on the node has been claimed: what was told of its queue is out of date."""
        self._lengths.pop((name, channel), None)

    def behind(self, name: str, channel: str, now: float) -> bool:
        """A request has stood on the node for too long. True says that it is unwell by that, and was not before.

        Where half of the nodes that share its work are unwell already, it is not: then there is too much for all of
        them, and one more would only crowd those that are left, and be idle itself.
        """
        return not self._is_crowded(name, channel) and self.unwell(name, "behind", now)

    def unwell(self, name: str, why: str, now: float) -> bool:
        """The node is full, has failed, is silent or is behind. True says that this is new."""
        health = self._health[name]
        new = health.why is None
        self.unwell_nodes += new
        if new or now >= health.next_probe:
            self._defer(health, now)
        health.why = why
        return new

    def well(self, name: str) -> bool:
        """Something that was offered on the node has been claimed. True says that this is new."""
        health = self._health[name]
        if health.why is None:
            return False
        self.unwell_nodes -= 1
        health.why = None
        health.failures = 0
        return True

    def statistics(self) -> dict[str, str]:
        """Nodes that are unwell, and why."""
        return {name: health.why for name, health in self._health.items() if health.why is not None}

    def _shorter(self, names: Sequence[str], channel: str) -> str:
        """Of two random ones the one with the shorter queue: nearly as good as the shortest, and nobody herds."""
        if len(names) == 1:
            return names[0]
        pair = random.sample(names, 2)
        return min(pair, key=lambda name: self._lengths.get((name, channel), 0))

    def _is_crowded(self, name: str, channel: str) -> bool:
        health = self._health
        unread = self.unread(channel)
        sharing = [other for other in self._all if other not in unread]
        if self._policy is Policy.HOME_FIRST:
            neighbours = self._clusters[name]
            if any(health[other].why is None for other in sharing if other not in neighbours):
                return False
            sharing = [other for other in sharing if other in neighbours]
        return 2 * sum(health[other].why is not None for other in sharing) >= len(sharing)

    def _is_due(self, name: str, now: float) -> bool:
        health = self._health[name]
        return health.why is not None and now >= health.next_probe

    def _defer(self, health: _Health, now: float) -> None:
        pause: float = min(_PAUSE_S * 2.0 ** min(health.failures, 10), _LONGEST_PAUSE_S)
        health.failures += 1
        health.next_probe = now + pause * random.uniform(*_JITTER)
