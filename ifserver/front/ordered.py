"""What operators order of all servers (`ifserver.layers.control`), as one server does it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from ifserver import channels
from ifserver.clock import Clock
from ifserver.front.pauses import Pauses
from ifserver.front.pools import Router
from ifserver.front.tally import Tally
from ifserver.layers.orders import Fact, Here, Order, Pause, PoolHere, Weights
from ifserver.logs import events

__all__ = ["Ordered"]

_log = logging.getLogger(__name__)


class Server(Protocol):
    """What is needed of `ifserver.front.server.InterfaceServer`."""

    pauses: Pauses
    router: Router | None
    weights: dict[str, Mapping[str, float]]
    tallies: Mapping[str, Tally] | None
    clock: Clock


class Ordered:
    """Does it, and answers."""

    def __init__(self, server: Server) -> None:
        self._server = server
        #: Since when the tallies have counted what is told of pools.
        self._marked_at = server.clock.seconds()

    def ordered(self, facts: Sequence[Fact]) -> None:
        """This holds from now on."""
        pauses = [fact for fact in facts if isinstance(fact, Pause)]
        for pause in pauses:
            if pause.left_s:
                self._server.pauses.pause(pause.pool, pause.left_s)
        self._server.pauses.end([pause.pool for pause in pauses if not pause.left_s])
        weights = [fact for fact in facts if isinstance(fact, Weights)]
        if weights:
            self._weigh(weights)

    def _weigh(self, ordered: Sequence[Weights]) -> None:
        server = self._server
        for each in ordered:
            if each.weights:
                server.weights[each.of] = each.weights
            else:
                server.weights.pop(each.of, None)
        router = server.router
        if router is None:
            return
        before = router.weights
        router.weigh(server.weights)
        if router.begins(before):
            self.count_anew()
        for each in ordered:
            if each.of in router.weights:
                shown = ", ".join(f"{name} {weight:g}" for name, weight in router.weights[each.of].items())
                why = "as was ordered" if each.weights else "as the settings say"
                text = "pools share requests, %s: %s"
                events.tell(_log, logging.INFO, events.Mark.WEIGHTS, text, why, shown)

    def here(self, orders: list[Order]) -> Here:
        """What this server has to say; `orders` are those that it knows."""
        server = self._server
        pauses, counted_s = server.pauses, server.clock.seconds() - self._marked_at
        return Here(orders, pauses.waiting, pauses.under_way(), round(counted_s, 3), self.pools())

    def pools(self) -> list[PoolHere]:
        """The pools of this server, in their order; empty: there are none."""
        server, router = self._server, self._server.router
        if router is None or server.tallies is None:
            return []
        weights = {name: (of, weight) for of, each in router.weights.items() for name, weight in each.items()}
        found = []
        for name in dict.fromkeys(router.channels.values()):
            tally = server.tallies[channels.of_pool(name, channels.HTTP_REQUEST)]
            of, weight = weights.get(name, ("", None))
            found.append(PoolHere(name, "" if of == name else of, weight, of in server.weights, *tally.since()))
        return found

    def count_anew(self) -> None:
        """What is told of pools is what happens from now on: a new version is tried."""
        self._marked_at = self._server.clock.seconds()
        for tally in (self._server.tallies or {}).values():
            tally.mark()
