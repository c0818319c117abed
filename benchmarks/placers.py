"""Who says where a request goes: the product's policy, driven as `ifserver.layers.clusters` does, and others."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count
from random import Random
from typing import Final, Protocol

from ifserver.layers.placement import Placement, Policy

__all__ = ["Blind", "Ours", "Placer", "Placing", "make_placer"]

#: From a push until the server is told the queue's length, in seconds: a round trip within one site.
ROUND_TRIP_S: Final = 0.001

_CHANNEL: Final = "http.request"


class Placing(enum.Enum):
    """The policies that are compared."""

    OURS = "ifserver"
    #: The same without beats that say who reads.
    SUSPICION = "without beats"
    RANDOM = "random"
    ROUND_ROBIN = "round robin"


class Placer(Protocol):
    """Places the requests of one server."""

    #: Whether it looks for requests that stand for too long.
    watches: bool
    #: Whether it asks who reads.
    asks: bool

    def choose(self, now: float, but: Collection[str] = ()) -> str:
        """The name of the node for the next request."""

    def told(self, name: str, length: int, now: float) -> None:
        """The answer to a push at `now` is on its way."""

    def claimed(self, name: str) -> None:
        """A request has been claimed soon enough."""

    def behind(self, name: str, now: float) -> bool:
        """A request has stood for too long. True says that another node is well."""

    def emptied(self, name: str) -> None:
        """All that this server has offered on the node has been claimed."""

    def read(self, read: Mapping[str, bool]) -> Collection[str]:
        """Whether anybody reads each node, as it is known now. Returns those that what stands there is to leave."""


class Ours:
    """The product's policy."""

    watches = True

    def __init__(self, clusters: dict[str, list[str]], home: str, policy: Policy, asks: bool) -> None:
        self.asks = asks
        self._placement = Placement(clusters, home, policy)
        #: Due time, node and length of what is on its way.
        self._answers: deque[tuple[float, str, int]] = deque()

    def choose(self, now: float, but: Collection[str] = ()) -> str:
        answers = self._answers
        while answers and answers[0][0] <= now:
            _, name, length = answers.popleft()
            self._placement.told(name, _CHANNEL, length)
        chosen = self._placement.choose(_CHANNEL, now, but)
        assert chosen is not None, "every node is out of the question"
        return chosen

    def told(self, name: str, length: int, now: float) -> None:
        self._answers.append((now + ROUND_TRIP_S, name, length))

    def claimed(self, name: str) -> None:
        self._placement.well(name)

    def behind(self, name: str, now: float) -> bool:
        if name in self._placement.unread(_CHANNEL) or self._placement.is_read(_CHANNEL) is False:
            return False
        self._placement.behind(name, _CHANNEL, now)
        return self._placement.has_well(_CHANNEL, (name,))

    def emptied(self, name: str) -> None:
        self._placement.emptied(name, _CHANNEL)

    def read(self, read: Mapping[str, bool]) -> Collection[str]:
        self._placement.read({name: frozenset([_CHANNEL] * anybody) for name, anybody in read.items()})
        return self._placement.unread(_CHANNEL)


class Blind:
    """Places without looking; what it is told is of no use to it."""

    watches = asks = False

    def __init__(self, following: Callable[[], str]) -> None:
        self._following = following

    def choose(self, now: float, but: Collection[str] = ()) -> str:
        return self._following()

    def told(self, name: str, length: int, now: float) -> None:
        pass

    def claimed(self, name: str) -> None:
        pass

    def behind(self, name: str, now: float) -> bool:
        return False

    def emptied(self, name: str) -> None:
        pass

    def read(self, read: Mapping[str, bool]) -> Collection[str]:
        return ()


def make_placer(placing: Placing, names: Sequence[str], apart: bool, server: int, servers: int, seed: str) -> Placer:
    """The placer of the given one of `servers`; `apart` says whether each node is a cluster of its own."""
    if placing in (Placing.OURS, Placing.SUSPICION):
        asks = placing is Placing.OURS
        if apart:
            return Ours({name: [name] for name in names}, names[server % len(names)], Policy.SPREAD, asks)
        return Ours({"main": list(names)}, "main", Policy.HOME_FIRST, asks)
    if placing is Placing.RANDOM:
        chance = Random(f"{seed} {server}")
        return Blind(lambda: chance.choice(names))
    turns = count(server * len(names) // servers)
    return Blind(lambda: names[next(turns) % len(names)])
