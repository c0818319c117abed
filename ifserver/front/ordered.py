"""What operators order of all servers (`ifserver.layers.control`), as one server does it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from ifserver.front.pauses import Pauses
from ifserver.front.pools import Router
from ifserver.layers.orders import Fact, Here, Order, Pause, Weights

__all__ = ["Ordered"]

_log = logging.getLogger(__name__)


class Server(Protocol):
    """What is needed of `ifserver.front.server.InterfaceServer`."""

    pauses: Pauses
    router: Router | None
    weights: dict[str, Mapping[str, float]]


class Ordered:
    """Does it, and answers."""

    def __init__(self, server: Server) -> None:
        self._server = server

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
        router.weigh(server.weights)
        for each in ordered:
            if each.of in router.weights:
                shown = ", ".join(f"{name} {weight:g}" for name, weight in router.weights[each.of].items())
                why = "as was ordered" if each.weights else "as the settings say"
                _log.info("pools share requests, %s: %s", why, shown)

    def here(self, orders: list[Order]) -> Here:
        """What this server has to say; `orders` are those that it knows."""
        pauses = self._server.pauses
        return Here(orders, pauses.waiting, pauses.under_way())
