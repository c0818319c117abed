"""One HTTP/1 connection on a Twisted protocol: turns bytes and deadlines into the events of `connection_states`, and
carries the effects out.

`parser` parses what the client sends, `response` writes what it is sent. A request that comes while another is being
answered waits here, and reading pauses.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from zope.interface import implementer

from ifserver.front.exchanges import factory
from ifserver.front.http1 import endings
from ifserver.front.http1.connection_states import TABLE, Effect, Event, State
from ifserver.front.http1.parser import RequestParser
from ifserver.front.http1.read_pacing import HANDSHAKE, PIPELINE, SLICE, STREAM, ReadPacing
from ifserver.front.http1.response import CONTINUE, Http1Response, opened
from ifserver.front.http1.shared import DISCARD_BYTES, TOTAL_S
from ifserver.front.incoming_request import BadRequest
from ifserver.front.proxy_protocol import addresses_of
from ifserver.front.websocket.opening import websocket_problem
from ifserver.net.endpoints import LoopTransport
from ifserver.state_machines.effects import BodyReceived

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from ifserver import messages as m
    from ifserver.front.connection_limits import Key
    from ifserver.front.exchanges.exchange import Exchange
    from ifserver.front.http1.shared import Http1
    from ifserver.front.incoming_request import Incoming
    from ifserver.front.proxy_protocol import ProxyHeader
    from ifserver.front.websocket.connection import WebSocketConnection

__all__ = ["Http1Connection"]

#: What is kept of what a client sends before its WebSocket is accepted; beyond, it is not read.
EARLY_BYTES: Final = 64 * 1024

#: What a 426 has beside its body (RFC 6455 4.4, RFC 9110 7.8).
_UPGRADE_REQUIRED: Final = (
    [(b"sec-websocket-version", b"13"), (b"upgrade", b"websocket")],
    b"\r\nconnection: upgrade",
)

# A member of an Enum costs several times as much to look up as a global, and these are looked up for every request.
_CLOSED: Final = State.CLOSED
_REQUEST: Final = Event.REQUEST

_log = logging.getLogger(__name__)


@implementer(IHalfCloseableProtocol)
class Http1Connection(Protocol):
    """One client's connection."""

    kind = "http"
    #: Any transport that is an ITransport, an IPushProducer and an IConsumer: Twisted's own, or the loop's.
    transport: Any

    def __init__(self, http1: Http1, key: Key = None, announced: ProxyHeader | None = None) -> None:
        #: Connections with the same key are counted together.
        self.key = key
        self._announced = announced
        self.http1 = http1
        self.server = http1.server
        self.settings = http1.server.settings
        #: What it is busy with; only `handle` changes that.
        self.state = State.IDLE
        self.parser = RequestParser(http1.server.settings, self._complete)
        self.response = Http1Response(self)
        #: Requests that wait for the one before them.
        self.waiting: list[Incoming] = []
        self.read_pacing = ReadPacing(self)
        #: What was thrown away of the request's body, and since when that is done where the response is complete.
        self.discarded_bytes = 0
        self.discarding_since = 0.0
        #: Exchanges of requests whose responses the client has, and that have not ended; None: there was none.
        self.afterwards: set[Exchange] | None = None
        #: How far the response was when the client, which sends nothing more, was last looked at.
        self.progress: object = None
        #: What has become of it; it handles all that comes.
        self.websocket: WebSocketConnection | None = None

    def handle(self, event: Event, detail: Any = None) -> None:
        """Do what the table has for `event`; its effects get `detail`."""
        step = _STEPS[self.state].get(event)
        assert step is not None, f"{event} cannot happen in {self.state}"
        self.state, effects = step
        for carry_out in effects:
            carry_out(self, detail)

    # What the transport calls.

    def connectionMade(self) -> None:
        transport = self.transport
        announced, self._announced = self._announced, None
        response = self.response
        response.transport = transport
        response.addresses = addresses_of(transport, announced)
        transport.registerProducer(response, True)
        self.server.connected(self)
        self.http1.idle.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.websocket is None:
            self.handle(Event.LOST)
        else:
            self.websocket.connectionLost(reason)

    def readConnectionLost(self) -> None:
        """The client sends nothing more. It has left, or waits for what is due to it, which looks the same.

        So requests that have come whole are answered, if that does not take long (`Http1.half_closed`).
        """
        if self.websocket is None:
            self.handle(Event.HALF_CLOSED)
        else:
            # A WebSocket ends both ways or not at all: a client that closes one way only has left.
            self.transport.abortConnection()

    def writeConnectionLost(self) -> None:
        """We have closed our sending side."""

    def dataReceived(self, data: bytes) -> None:
        if self.state is _CLOSED:
            # (`LoopTransport` has a protocol that can be changed; some of Twisted's transports have none.)
            if self.websocket is not None:
                self.websocket.dataReceived(data)
            return
        self.http1.tally.http_bytes_in += len(data)
        parser = self.parser
        if parser.refusal is not None:
            self.handle(Event.UNPARSED, data)
        elif parser.early is not None:
            parser.early += data
            if len(parser.early) > EARLY_BYTES:
                self.read_pacing.pause(HANDSHAKE)
        elif self.read_pacing.unparsed:
            self.read_pacing.unparsed += data
        elif len(data) <= SLICE:
            parser.feed(data)
            if parser.incoming is not None or parser.in_head or parser.refusal is not None:
                self._look_at_rest()
        else:
            self.parse(data)

    # What it means.

    def parse(self, data: bytes) -> None:
        """Parse the next bytes; of more than a slice, as many as are due now."""
        if len(data) <= SLICE:
            self.parser.feed(data)
        else:
            self.read_pacing.feed(data)
        self._look_at_rest()

    def _look_at_rest(self) -> None:
        """See what has come of a request that is not complete."""
        if self.state is _CLOSED:
            return
        parser, http1 = self.parser, self.http1
        incoming = parser.incoming
        if parser.refusal is not None:
            self.refuse(parser.refusal)
        elif incoming is None:
            if parser.in_head and self not in http1.heads_due:
                # It goes on in the next bytes, which must not take for ever.
                http1.heads_due.add(self)
        elif incoming is self.response.incoming:
            self.handle(Event.PIECE, incoming.take_body())
        elif incoming.content_length is not None and incoming.content_length <= self.settings.whole_body_bytes:
            # It is pushed whole.
            http1.heads_due.pop(self, None)
            http1.bodies_due.add(self)
            self.handle(Event.PART, incoming)
        elif incoming not in self.waiting:
            http1.heads_due.pop(self, None)
            self.handle(Event.UPLOAD, incoming)

    def _complete(self, incoming: Incoming) -> None:
        """A request has arrived with all of its body."""
        if incoming.chunked or incoming.body_bytes:
            self.http1.bodies_due.pop(self, None)
        if incoming is self.response.incoming:
            self.handle(Event.LAST_PIECE, incoming.take_body())
        elif incoming not in self.waiting:
            self.http1.heads_due.pop(self, None)
            self.handle(Event.HANDSHAKE if incoming.upgrade else _REQUEST, incoming)

    def refuse(self, why: BadRequest) -> None:
        """What the client sends is wrong, or too late; nothing more is parsed."""
        self.parser.refusal = why
        self.handle(Event.TOO_LARGE if why.status == 413 else Event.REFUSED, why)

    def shut_down(self) -> None:
        """The connection was idle for as long as one is kept: begin nothing new."""
        if self.parser.incoming is None and not self.parser.in_head:
            self.handle(Event.UNUSED)

    def abort(self) -> None:
        """Cut the connection at once; exchanges that are under way are notified."""
        self.handle(Event.CUT)


# Effects: requests.


def _start(connection: Http1Connection, incoming: Incoming) -> None:
    response, server = connection.response, connection.server
    response.start(incoming)
    if not incoming.complete:
        connection.http1.bodies_due.add(connection)
    if incoming.upgrade:
        problem = websocket_problem(incoming, connection.settings.allowed_origins)
        if problem is not None:
            connection.refuse(BadRequest(*problem))
            return
        exchange = factory.websocket(server.exchanges, response, incoming, response.addresses)
    else:
        exchange = factory.http(server.exchanges, response, incoming, response.addresses)
    response.exchange = exchange
    exchange.start()


def _queue(connection: Http1Connection, incoming: Incoming) -> None:
    connection.waiting.append(incoming)
    connection.read_pacing.pause(PIPELINE)


def _next(connection: Http1Connection, detail: object) -> None:
    parser, waiting, read_pacing = connection.parser, connection.waiting, connection.read_pacing
    connection.response.incoming = None
    if read_pacing.reasons:
        read_pacing.resume(STREAM)
    if waiting:
        incoming = waiting.pop(0)
        connection.handle(
            Event.HANDSHAKE if incoming.upgrade else _REQUEST if incoming.complete else Event.UPLOAD, incoming
        )
    elif parser.refusal is not None:
        connection.refuse(parser.refusal)
    elif parser.incoming is not None:
        _continue(connection, parser.incoming)
    elif not parser.in_head:
        connection.http1.idle.add(connection)
    if read_pacing.unparsed and len(waiting) < connection.settings.max_pipelined and connection.state is not _CLOSED:
        read_pacing.parse_rest()
    if read_pacing.reasons:
        read_pacing.resume_behind_pipeline()


def _continue(connection: Http1Connection, incoming: Incoming) -> None:
    # A request that is pushed whole cannot be claimed before its body is there.
    if incoming.expects_continue:
        incoming.expects_continue = False
        connection.response.write(CONTINUE)


def _pass_on(connection: Http1Connection, piece: bytes) -> None:
    response = connection.response
    exchange = response.exchange
    if piece and exchange is not None:
        connection.http1.bodies_due.add(connection)
        exchange.handle(BodyReceived(piece, True))
    elif piece and response.file is not None:
        # It is of no use any more. The rest must wait if it is too much: closing would cut the file off.
        connection.http1.bodies_due.add(connection)
        connection.discarded_bytes += len(piece)
        if connection.discarded_bytes > DISCARD_BYTES:
            connection.read_pacing.pause(STREAM)


def _pass_on_last(connection: Http1Connection, piece: bytes) -> None:
    exchange = connection.response.exchange
    if exchange is not None:
        exchange.handle(BodyReceived(piece, False))


def _discard_rest(connection: Http1Connection, detail: object) -> None:
    http1, incoming = connection.http1, connection.response.incoming
    connection.discarded_bytes, connection.discarding_since = 0, http1.clock.seconds()
    http1.discarding.add(connection)
    http1.heads_due.pop(connection, None)
    http1.bodies_due.pop(connection, None)
    connection.read_pacing.resume(STREAM)
    if incoming is not None:
        incoming.body.clear()
        if (incoming.left_bytes or 0) > DISCARD_BYTES:
            connection.handle(Event.TOO_MUCH)


def _discard(connection: Http1Connection, piece: bytes) -> None:
    http1 = connection.http1
    http1.discarding.add(connection)
    connection.discarded_bytes += len(piece)
    if http1.clock.seconds() - connection.discarding_since >= TOTAL_S:
        connection.handle(Event.EXPIRED)
    elif connection.discarded_bytes > DISCARD_BYTES:
        connection.handle(Event.TOO_MUCH)


def _count_refusal(connection: Http1Connection, why: BadRequest) -> None:
    _log.debug("refusing a request of %s with %d: %s", connection.response.addresses[1], why.status, why)
    connection.server.exchanges.counters.add("requests_refused", label=str(why.status))


def _refuse(connection: Http1Connection, why: BadRequest) -> None:
    response = connection.response
    _count_refusal(connection, why)
    if response.incoming is None:
        response.start(None)
    if response.exchange is None:
        response.tally = connection.http1.tally  # no pool has had it
    extra, more_lines = _UPGRADE_REQUIRED if why.status == 426 else (None, b"")
    response.write_answer(why.status, extra, keep_alive=False, more_lines=more_lines)
    response.log_access(connection.parser.refused())


def _drop_tail(connection: Http1Connection, detail: object) -> None:
    if connection.waiting and not connection.waiting[-1].complete:
        connection.waiting.pop()


# Effects: a WebSocket.


def _upgrade(connection: Http1Connection, message: m.WebSocketAccept) -> None:
    response, server, transport = connection.response, connection.server, connection.transport
    incoming, exchange = response.incoming, response.exchange
    assert incoming is not None
    assert exchange is not None
    message, entry = opened(response, incoming, exchange, message)
    endings.forget_flow(connection)
    endings.leave_afterwards(connection)  # they would not be notified when the client leaves
    websocket = connection.websocket = server.websockets.open(exchange, incoming, message, entry)
    websocket.key = connection.key
    exchange.opened(websocket)
    if isinstance(transport, LoopTransport):
        transport.protocol = websocket
    websocket.makeConnection(transport)  # type: ignore[no-untyped-call]
    connection.http1.forget(connection)
    server.disconnected(connection)
    connection.read_pacing.resume(HANDSHAKE)
    if connection.parser.early:
        websocket.dataReceived(connection.parser.early)
    if server.draining:
        websocket.shut_down()


_EFFECTS: Final[Mapping[Effect, Callable[[Http1Connection, Any], None]]] = {
    Effect.START: _start,
    Effect.QUEUE: _queue,
    Effect.NEXT: _next,
    Effect.CONTINUE: _continue,
    Effect.PASS_ON: _pass_on,
    Effect.PASS_ON_LAST: _pass_on_last,
    Effect.DISCARD_REST: _discard_rest,
    Effect.DISCARD: _discard,
    Effect.END_WRITING: endings.end_writing,
    Effect.COUNT_REFUSAL: _count_refusal,
    Effect.REFUSE: _refuse,
    Effect.DROP_TAIL: _drop_tail,
    Effect.AWAIT_LAST: endings.await_last,
    Effect.NOTIFY_ANSWERED: endings.notify_answered,
    Effect.GO_ON: endings.go_on,
    Effect.LOOK_IF_ANSWERED: endings.look_if_answered,
    Effect.LOOK_IF_TAKEN: endings.look_if_taken,
    Effect.LEAVE: endings.leave,
    Effect.BREAK_OFF: endings.break_off,
    Effect.ANSWER_502: endings.answer_502,
    Effect.UPGRADE: _upgrade,
    Effect.CLOSE: endings.close,
    Effect.SEND_AWAY: endings.send_away,
    Effect.ABORT: endings.abort,
    Effect.FORGET: endings.forget,
}
#: The table, with what carries its effects out: an event costs no look-up for each effect.
_STEPS: Final = {
    state: {event: (after, tuple(_EFFECTS[each] for each in effects)) for event, (after, effects) in row.items()}
    for state, row in TABLE.items()
}
