"""Requests of a server that cannot be reached for their answers: they wait a little (``broker_wait_s``)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from ifserver.clock import Clock
from ifserver.front.deadlines import Deadlines
from ifserver.layers.clusters import Clusters

__all__ = ["BrokerWait"]


class Offered(Hashable, Protocol):
    """A request that can be offered nowhere now."""

    #: Whether it waits, or has waited.
    has_waited: bool

    def offer_anew(self) -> None:
        """This server can be reached again."""

    def give_up_waiting(self) -> None:
        """It could not in time."""


class BrokerWait:
    """Holds requests until this server can be reached again, or they have waited for `wait_s`; 0: nobody waits."""

    def __init__(self, clusters: Clusters, clock: Clock, wait_s: float) -> None:
        self._clusters = clusters
        self._wait_s = wait_s
        self._waiting: Deadlines[Offered] = Deadlines(clock, wait_s, lambda offered: offered.give_up_waiting())
        self._asking: Deferred[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, offered: Offered) -> bool:
        """Let `offered` wait; False: it has done so already, or nobody may."""
        if self._wait_s <= 0 or offered.has_waited:
            return False
        offered.has_waited = True
        self._waiting.add(offered)
        if self._asking is None:
            asking = self._asking = self._clusters.home.ready()
            asking.addCallbacks(self._connected, self._not_asking)
        return True

    def left(self, offered: Offered) -> None:
        """The exchange has ended."""
        self._waiting.pop(offered, None)

    def stop(self) -> None:
        """Nobody waits any more."""
        self._waiting.stop()
        self._stop_asking()

    def _connected(self, _: None) -> None:
        self._stop_asking()
        for offered in self._waiting.take_all():
            offered.offer_anew()

    def _not_asking(self, failure: Failure) -> None:
        failure.trap(CancelledError)

    def _stop_asking(self) -> None:
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
