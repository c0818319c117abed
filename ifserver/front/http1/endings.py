"""What is done about the end of a response, and of a connection: effects of `connection_states`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from twisted.internet.interfaces import ISSLTransport

from ifserver.front.http1.connection_states import Event
from ifserver.front.http1.read_pacing import HALF_CLOSED
from ifserver.front.http1.shared import progress_of
from ifserver.state_machines.effects import Answered, ClientLeft, Flushed

if TYPE_CHECKING:
    from ifserver import messages as m
    from ifserver.front.exchanges.exchange import Exchange
    from ifserver.front.http1.connection import Http1Connection
    from ifserver.front.websocket.prepared import Prepared

_log = logging.getLogger(__name__)

# The end of a response.


def look_if_answered(connection: Http1Connection, detail: object) -> None:
    framing = connection.response.framing
    if framing is not None and framing.spent:
        connection.handle(Event.ANSWERED)


def notify_answered(connection: Http1Connection, detail: object) -> None:
    exchange = connection.response.exchange
    if exchange is not None:
        exchange.handle(Answered())


def go_on(connection: Http1Connection, detail: object) -> None:
    # Neither its client's next request nor the connection's end must wait for it, nor the worker for the client.
    response = connection.response
    response.flush()
    exchange, framing = response.exchange, response.framing
    assert exchange is not None
    assert framing is not None
    if connection.afterwards is None:
        connection.afterwards = set()
    AfterResponse(exchange, framing.no_body, connection.afterwards)
    response.finish()


def look_if_taken(connection: Http1Connection, detail: object) -> None:
    connection.http1.discarding.pop(connection, None)
    framing = connection.response.framing
    assert framing is not None
    if not connection.response.write_paused:
        connection.handle(Event.WRITTEN_LAST if framing.close else Event.WRITTEN)


def answer_502(connection: Http1Connection, detail: object) -> None:
    connection.server.exchanges.counters.add("requests_refused", label="502")
    connection.response.write_answer(502, None, keep_alive=False)
    connection.response.finish()


def leave(connection: Http1Connection, detail: object) -> None:
    response = connection.response
    file, response.file = response.file, None
    if file is not None:
        file.stop()  # what has not been sent of it never will be
    exchange, response.exchange = response.exchange, None
    if exchange is not None:
        exchange.handle(ClientLeft())


def break_off(connection: Http1Connection, detail: object) -> None:
    leave(connection, detail)
    connection.response.log_access()


# The end of the connection.


def await_last(connection: Http1Connection, detail: object) -> None:
    connection.read_pacing.reasons |= HALF_CLOSED  # (the transport reads no more by itself)
    connection.http1.heads_due.pop(connection, None)
    connection.http1.bodies_due.pop(connection, None)
    response = connection.response
    if connection.waiting:
        connection.waiting[-1].keep_alive = False
    else:
        # The connection ends behind the present response.
        if response.framing is not None:
            response.framing.close = True
        if response.incoming is not None:
            response.incoming.keep_alive = False
    connection.progress = progress_of(connection)
    connection.http1.half_closed.add(connection)


def end_writing(connection: Http1Connection, detail: object) -> None:
    # A connection that is closed while its client still sends is reset, and the client might never see its answer
    # (RFC 9112 9.6).
    transport, framing = connection.transport, connection.response.framing
    # TLS has no half-closed connections here; there the length, or the last chunk, shows that nothing follows.
    half_close = None if ISSLTransport.providedBy(transport) else getattr(transport, "loseWriteConnection", None)
    if half_close is not None:
        half_close()
    elif framing is not None and framing.ends_with_connection:
        connection.handle(Event.EXPIRED)


def send_away(connection: Http1Connection, detail: object) -> None:
    # Exchanges that go on are notified of clients that leave; this one is sent away.
    connection.afterwards = None
    close(connection, detail)


def close(connection: Http1Connection, detail: object) -> None:
    forget_flow(connection)
    connection.http1.forget(connection)
    connection.server.slow_clients.begin(connection)
    connection.transport.loseConnection()


def forget_flow(connection: Http1Connection) -> None:
    """The connection ends, or becomes a WebSocket. (With a producer, some transports would never close.)"""
    connection.response.write_paused = False
    connection.server.slow_clients.end(connection)
    connection.transport.unregisterProducer()


def abort(connection: Http1Connection, detail: object) -> None:
    if connection.response.file is not None:
        break_off(connection, detail)
    connection.transport.abortConnection()


def forget(connection: Http1Connection, detail: object) -> None:
    if connection.response.exchange is not None or connection.response.file is not None:
        connection.response.log_access()
        leave(connection, detail)
    leave_afterwards(connection)
    connection.parser.close()
    connection.http1.forget(connection)
    # Last, since the server may have waited for this.
    connection.server.disconnected(connection)


def leave_afterwards(connection: Http1Connection) -> None:
    for exchange in tuple(connection.afterwards or ()):
        exchange.client.leave()


class AfterResponse:
    """The client of an exchange whose client has its whole response, while the application has not ended it yet: the
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
        """The client has left: the application is notified."""
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
