"""Requests that no node can be reached for: they wait a little, in case one comes back (``broker_wait_s``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from ifserver.clock import Clock
from ifserver.front.deadlines import Deadlines
from ifserver.layers.clusters import Clusters

if TYPE_CHECKING:
    from ifserver.front.driver import Exchange

__all__ = ["WaitingRoom"]


class WaitingRoom:
    """Holds exchanges until any node is connected again, or they have waited for `wait_s`; 0: nobody waits."""

    def __init__(self, clusters: Clusters, clock: Clock, wait_s: float) -> None:
        self._clusters = clusters
        self._wait_s = wait_s
        self._waiting: Deadlines[Exchange] = Deadlines(clock, wait_s, self._expired)
        #: Questions to the nodes whether they are connected.
        self._asking: list[Deferred[None]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, exchange: Exchange) -> bool:
        """Let `exchange` wait; False: it has done so already, or nobody may."""
        if self._wait_s <= 0 or exchange.has_waited:
            return False
        exchange.has_waited = True
        self._waiting.add(exchange)
        if not self._asking:
            self._asking = [node.ready() for node in self._clusters.nodes.values()]
            for asking in list(self._asking):
                asking.addCallbacks(self._connected, self._not_asking)
        return True

    def left(self, exchange: Exchange) -> None:
        """The exchange has ended."""
        if exchange.has_waited:
            self._waiting.discard(exchange)

    def stop(self) -> None:
        """Nobody waits any more."""
        self._waiting.stop()
        self._stop_asking()

    def _expired(self, exchange: Exchange) -> None:
        exchange.give_up_waiting()

    def _connected(self, _: None) -> None:
        self._stop_asking()
        for exchange in self._waiting.take_all():
            exchange.offer_anew()

    def _not_asking(self, failure: Failure) -> None:
        failure.trap(CancelledError)

    def _stop_asking(self) -> None:
        asking, self._asking = self._asking, []
        for each in asking:
            each.cancel()
