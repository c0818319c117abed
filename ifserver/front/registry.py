"""Which stream of this server a message is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ifserver.front.driver import Exchange

__all__ = ["Registry"]


class Registry:
    """The streams of this server, by identity."""

    def __init__(self, inbox: str) -> None:
        self._prefix = inbox + "."
        self._count = 0
        self._exchanges: dict[str, Exchange] = {}

    def __len__(self) -> int:
        return len(self._exchanges)

    def new_channel(self) -> str:
        """A reply channel that no stream has had."""
        self._count += 1
        return f"{self._prefix}{self._count:x}"

    def move(self, inbox: str) -> None:
        """New reply channels belong to `inbox` from now on."""
        self._prefix = inbox + "."

    def add(self, exchange: Exchange) -> None:
        """From now on `exchange` gets what is sent to its reply channel."""
        self._exchanges[exchange.stream.identity] = exchange

    def get(self, identity: str) -> Exchange | None:
        """Whose reply channel this is; None: nobody's any more."""
        return self._exchanges.get(identity)

    def remove(self, exchange: Exchange) -> None:
        """`exchange` has ended."""
        self._exchanges.pop(exchange.stream.identity, None)

    def all(self) -> list[Exchange]:
        """Every exchange that is open."""
        return list(self._exchanges.values())
