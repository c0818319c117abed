"""Exchanges whose clients have their whole responses, while the applications have not ended them yet."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ifserver import messages as m
from ifserver.front.websocket.prepared import Prepared
from ifserver.state_machines.effects import ClientLeft, Flushed

if TYPE_CHECKING:
    from ifserver.front.exchanges.exchange import Exchange

__all__ = ["AfterResponse"]

_log = logging.getLogger(__name__)


class AfterResponse:
    """Takes the place of the client of such an exchange (`ifserver.front.exchanges.carry_out.HttpClient`): the
    connection goes on with the next request, and nothing that happens to the exchange concerns it any more.

    Args:
        no_body: it was a response without a body, whatever the worker sends (RFC 9110 6.4.1).
        exchanges: those of this connection; `exchange` is in it until it has ended.
    """

    __slots__ = ("_exchange", "_exchanges", "_no_body")
    # Nothing is written to its client.
    write_frame: Final = None

    def __init__(self, exchange: Exchange, no_body: bool, exchanges: set[Exchange]) -> None:
        self._exchange = exchange
        self._no_body = no_body
        self._exchanges = exchanges
        exchange.client = self
        exchanges.add(exchange)

    def body(self, message: m.ResponseBody) -> None:
        """The worker ends the response, as a rule with an empty last piece."""
        exchange = self._exchange
        if message.body and not self._no_body:
            # The client has nothing of it, and may be busy with the next request: there is nothing to cut.
            _log.error("%s: bad reply: the body is longer than its Content-Length", exchange.stream.channel)
            self.leave()
        elif message.more_body:
            exchange.handle(Flushed(len(message.body)))
        else:
            self.finish()

    def leave(self) -> None:
        """The client has left: the application is told."""
        self.finish()
        self._exchange.handle(ClientLeft())

    def finish(self) -> None:
        """The exchange is over."""
        self._exchanges.discard(self._exchange)

    abort = cut = finish

    def broadcast(self, message: Prepared, max_unsent_bytes: int) -> bool:
        """Its client has the whole response."""
        return False

    def stop_reading(self) -> None:
        """There is nothing to read."""

    resume_reading = stop_reading
