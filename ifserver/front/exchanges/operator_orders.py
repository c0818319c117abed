"""What operators order of all servers (`ifserver.layers.operator_order_gossip`), as one server does it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from ifserver import channels
from ifserver.clock import Clock
from ifserver.front.exchanges.pauses import Pauses
from ifserver.front.exchanges.pools import Router
from ifserver.front.request_metrics import RequestMetrics
from ifserver.layers.operator_orders import Fact, Here, Order, Pause, PoolHere, Weights
from ifserver.logs import events

__all__ = ["OperatorOrders"]

_log = logging.getLogger(__name__)


class Exchanges(Protocol):
    """What is needed of `ifserver.front.exchanges.factory.Exchanges`."""

    pauses: Pauses
    router: Router | None
    weights: dict[str, Mapping[str, float]]
    tallies: Mapping[str, RequestMetrics] | None
    clock: Clock


class OperatorOrders:
    """Does it, and answers."""

    def __init__(self, exchanges: Exchanges) -> None:
        self._exchanges = exchanges
        #: Since when the tallies have counted what is told of pools.
        self._marked_at = exchanges.clock.seconds()

    def ordered(self, facts: Sequence[Fact]) -> None:
        """This holds from now on."""
        pauses = [fact for fact in facts if isinstance(fact, Pause)]
        for pause in pauses:
            if pause.left_s:
                self._exchanges.pauses.pause(pause.pool, pause.left_s)
        self._exchanges.pauses.end([pause.pool for pause in pauses if not pause.left_s])
        weights = [fact for fact in facts if isinstance(fact, Weights)]
        if weights:
            self._weigh(weights)

    def _weigh(self, ordered: Sequence[Weights]) -> None:
        exchanges = self._exchanges
        for each in ordered:
            if each.weights:
                exchanges.weights[each.of] = each.weights
            else:
                exchanges.weights.pop(each.of, None)
        router = exchanges.router
        if router is None:
            return
        before = router.weights
        router.weigh(exchanges.weights)
        if router.begins(before):
            self.count_anew()
        for each in ordered:
            if each.of in router.weights:
                shown = ", ".join(f"{name} {weight:g}" for name, weight in router.weights[each.of].items())
                why = "as was ordered" if each.weights else "as the settings say"
                text = "pools share requests, %s: %s"
                events.tell(_log, logging.INFO, events.Mark.WEIGHTS, text, why, shown)

    def here(self, orders: list[Order]) -> Here[Order]:
        """What this server has to say; `orders` are those that it knows."""
        exchanges = self._exchanges
        pauses, counted_s = exchanges.pauses, exchanges.clock.seconds() - self._marked_at
        return Here(orders, pauses.waiting, pauses.under_way(), round(counted_s, 3), self.pools())

    def pools(self) -> list[PoolHere]:
        """The pools of this server, in their order; empty: there are none."""
        exchanges, router = self._exchanges, self._exchanges.router
        if router is None or exchanges.tallies is None:
            return []
        weights = {name: (of, weight) for of, each in router.weights.items() for name, weight in each.items()}
        found = []
        for name in dict.fromkeys(router.channels.values()):
            tally = exchanges.tallies[channels.of_pool(name, channels.HTTP_REQUEST)]
            of, weight = weights.get(name, ("", None))
            found.append(PoolHere(name, "" if of == name else of, weight, of in exchanges.weights, *tally.since()))
        return found

    def count_anew(self) -> None:
        """What is told of pools is what happens from now on: a new version is tried."""
        self._marked_at = self._exchanges.clock.seconds()
        for tally in (self._exchanges.tallies or {}).values():
            tally.mark()
