"""What operators order of all servers (`ifserver.layers.control`), as one server does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ifserver.front.pauses import Pauses
from ifserver.layers.orders import Fact, Here, Order, Pause

__all__ = ["Ordered"]


class Server(Protocol):
    """What is needed of `ifserver.front.server.InterfaceServer`."""

    pauses: Pauses


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

    def here(self, orders: list[Order]) -> Here:
        """What this server has to say; `orders` are those that it knows."""
        pauses = self._server.pauses
        return Here(orders, pauses.waiting, pauses.under_way())
