"""One HTTP/1 connection on a Twisted protocol: turns bytes and deadlines into the events of `connection_states`, and
carries the effects out.

`parser` parses what the client sends, `response` writes what it is sent. A request that comes while another is being
answered waits here, and reading pauses.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IHalfCloseableProtocol, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ifserver import messages as m
from ifserver.front.addresses import ProxyHeader, addresses_of
from ifserver.front.connection_limits import Key
from ifserver.front.exchanges import factory
from ifserver.front.http1.after_response import AfterResponse
from ifserver.front.http1.connection_states import TABLE, Event, State
from ifserver.front.http1.parser import RequestParser
from ifserver.front.http1.read_pacing import HALF_CLOSED, HANDSHAKE, PIPELINE, SLICE, STREAM, ReadPacing
from ifserver.front.http1.response import CONTINUE, Http1Response
from ifserver.front.http1.shared_services import Http1
from ifserver.front.http1.unread_body import DISCARD_BYTES, UnreadBody
from ifserver.front.http1.websocket_handshake import websocket_problem
from ifserver.front.incoming_request import BadRequest, Incoming
from ifserver.net.endpoints import LoopTransport
from ifserver.state_machines.effects import Answered, BodyReceived, ClientLeft

if TYPE_CHECKING:
    from ifserver.front.exchanges.exchange import Exchange

__all__ = ["Http1Connection"]

#: What is kept of what a client sends before its WebSocket is accepted; beyond, it is not read.
EARLY_BYTES: Final = 64 * 1024

#: What a 426 says beside (RFC 6455 4.4, RFC 9110 7.8).
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
        #: As whose it is counted.
        self.key = key
        self._announced = announced
        self._http1 = http1
        self._server = http1.server
        self._settings = http1.server.settings
        #: What it is busy with; only `handle` changes that.
        self.state = State.IDLE
        self._parser = RequestParser(http1.server.settings, self._complete)
        self._response = Http1Response(self, http1)
        # Requests that wait for the one before them.
        self._waiting: list[Incoming] = []
        self.read_pacing = ReadPacing(self, http1, self._parser, self._waiting)
        # What was thrown away of a body whose response is complete; None: nothing.
        self._leftover: UnreadBody | None = None
        # Exchanges of requests whose responses the client has, and that have not ended; None: there was none.
        self._afterwards: set[Exchange] | None = None
        # How far the response was when the client, which sends nothing more, was last looked at.
        self._progress: object = None

    def handle(self, event: Event, detail: Any = None) -> None:
        """Do what the table says about `event`; its effects are the methods of their names, and see `detail`."""
        step = _STEPS[self.state].get(event)
        assert step is not None, f"{event} cannot happen in {self.state}"
        self.state, effects = step
        for carry_out in effects:
            carry_out(self, detail)

    # What the transport calls.

    def connectionMade(self) -> None:
        transport = self.transport
        announced, self._announced = self._announced, None
        response = self._response
        response.transport = transport
        response.addresses = addresses_of(transport, announced)
        transport.registerProducer(response, True)
        self._server.connected(self)
        self._http1.idle.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.handle(Event.GONE)

    def readConnectionLost(self) -> None:
        """The client sends nothing more. It has left, or waits for what is due to it; nothing tells the two apart.

        So requests that have come whole are answered, if that does not take long (`half_closed`).
        """
        self.handle(Event.HALF_CLOSED)

    def writeConnectionLost(self) -> None:
        """We have told the client that nothing follows."""

    def dataReceived(self, data: bytes) -> None:
        if self.state is _CLOSED:
            return
        self._http1.tally.http_bytes_in += len(data)
        parser = self._parser
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
            self._parser.feed(data)
        else:
            self.read_pacing.feed(data)
        self._look_at_rest()

    def _look_at_rest(self) -> None:
        """See what has come of a request that is not complete."""
        if self.state is _CLOSED:
            return
        parser, http1 = self._parser, self._http1
        incoming = parser.incoming
        if parser.refusal is not None:
            self._refused(parser.refusal)
        elif incoming is None:
            if parser.in_head and self not in http1.heads_due:
                # It goes on in the next bytes, which must not take for ever.
                http1.heads_due.add(self)
        elif incoming is self._response.incoming:
            self.handle(Event.PIECE, incoming.take_body())
        elif incoming.content_length is not None and incoming.content_length <= self._settings.whole_body_bytes:
            # It is pushed whole.
            http1.heads_due.pop(self, None)
            http1.bodies_due.add(self)
            self.handle(Event.PART, incoming)
        elif incoming not in self._waiting:
            http1.heads_due.pop(self, None)
            self.handle(Event.UPLOAD, incoming)

    def _complete(self, incoming: Incoming) -> None:
        """A request has arrived with all of its body."""
        if incoming.chunked or incoming.body_bytes:
            self._http1.bodies_due.pop(self, None)
        if incoming is self._response.incoming:
            self.handle(Event.LAST_PIECE, incoming.take_body())
        elif incoming not in self._waiting:
            self._http1.heads_due.pop(self, None)
            self.handle(Event.HANDSHAKE if incoming.upgrade else _REQUEST, incoming)

    def _refused(self, why: BadRequest) -> None:
        """What the client sends is wrong, or too late; nothing more is parsed."""
        self._parser.refusal = why
        self.handle(Event.TOO_LARGE if why.status == 413 else Event.REFUSED, why)

    def shut_down(self) -> None:
        """The connection was idle for as long as one is kept: begin nothing new."""
        if self._parser.incoming is None and not self._parser.in_head:
            self.handle(Event.UNUSED)

    def abort(self) -> None:
        """Cut the connection at once; what is under way is told."""
        self.handle(Event.CUT)

    # Deadlines.

    def head_too_slow(self) -> None:
        """A request was begun and not ended."""
        if self.read_pacing.reasons:
            self._http1.heads_due.add(self)  # it may be there, and wait for being read
        else:
            self._refused(BadRequest(408, "the request took too long"))

    def body_too_slow(self) -> None:
        """Nothing has come of a body for too long."""
        incoming = self._parser.incoming
        if incoming is None:
            return
        if self.read_pacing.reasons or incoming.expects_continue:
            # It is we who do not read, or have not asked for it.
            self._http1.bodies_due.add(self)
        else:
            self._refused(BadRequest(408, "the body took too long"))

    def half_closed(self) -> None:
        """The client has sent nothing more for a while. Has it left, or does it still take what it is sent?

        What is sent to a client that has left fails with the second write at the latest.
        """
        progress = self._response.progress
        if progress == self._progress:
            self.abort()
        else:
            self._progress = progress
            self._http1.half_closed.add(self)

    # Effects: requests.

    def _start(self, incoming: Incoming) -> None:
        response, server = self._response, self._server
        response.start(incoming)
        if not incoming.complete:
            self._http1.bodies_due.add(self)
        if incoming.upgrade:
            problem = websocket_problem(incoming, self._settings.allowed_origins)
            if problem is not None:
                self._refused(BadRequest(*problem))
                return
            exchange = factory.websocket(server.exchanges, response, incoming, response.addresses)
        else:
            exchange = factory.http(server.exchanges, response, incoming, response.addresses)
        response.exchange = exchange
        exchange.start()

    def _queue(self, incoming: Incoming) -> None:
        self._waiting.append(incoming)
        self.read_pacing.pause(PIPELINE)

    def _next(self, detail: object) -> None:
        parser, waiting, read_pacing = self._parser, self._waiting, self.read_pacing
        self._response.incoming = self._leftover = None
        if read_pacing.reasons:
            read_pacing.resume(STREAM)
        if waiting:
            incoming = waiting.pop(0)
            self.handle(
                Event.HANDSHAKE if incoming.upgrade else _REQUEST if incoming.complete else Event.UPLOAD, incoming
            )
        elif parser.refusal is not None:
            self._refused(parser.refusal)
        elif parser.incoming is not None:
            self._continue(parser.incoming)
        elif not parser.in_head:
            self._http1.idle.add(self)
        if read_pacing.unparsed and len(waiting) < self._settings.max_pipelined and self.state is not _CLOSED:
            read_pacing.parse_rest()
        if read_pacing.reasons:
            read_pacing.resume_behind_pipeline()

    def _continue(self, incoming: Incoming) -> None:
        # A request that is pushed whole cannot be claimed before its body is there.
        if incoming.expects_continue:
            incoming.expects_continue = False
            self._response.write(CONTINUE)

    def _pass_on(self, piece: bytes) -> None:
        response = self._response
        exchange = response.exchange
        if piece and exchange is not None:
            self._http1.bodies_due.add(self)
            exchange.handle(BodyReceived(piece, True))
        elif piece and response.file is not None:
            # Nobody wants it any more. The rest must wait if it is too much: closing would cut the file off.
            self._http1.bodies_due.add(self)
            response.discarded_bytes += len(piece)
            if response.discarded_bytes > DISCARD_BYTES:
                self.read_pacing.pause(STREAM)

    def _pass_on_last(self, piece: bytes) -> None:
        exchange = self._response.exchange
        if exchange is not None:
            exchange.handle(BodyReceived(piece, False))

    def _discard_rest(self, detail: object) -> None:
        http1, incoming = self._http1, self._response.incoming
        self._leftover = UnreadBody(http1.clock)
        http1.discarding.add(self)
        http1.heads_due.pop(self, None)
        http1.bodies_due.pop(self, None)
        self.read_pacing.resume(STREAM)
        if incoming is not None:
            incoming.body.clear()
            if (incoming.left_bytes or 0) > DISCARD_BYTES:
                self.handle(Event.TOO_MUCH)

    def _discard(self, piece: bytes) -> None:
        leftover = self._leftover
        assert leftover is not None
        self._http1.discarding.add(self)
        event = leftover.take(len(piece))
        if event is not None:
            self.handle(event)

    def _count_refusal(self, why: BadRequest) -> None:
        _log.debug("refusing a request of %s with %d: %s", self._response.addresses[1], why.status, why)
        self._server.exchanges.counters.add("requests_refused", label=str(why.status))

    def _refuse(self, why: BadRequest) -> None:
        response = self._response
        self._count_refusal(why)
        if response.incoming is None:
            response.start(None)
        if response.exchange is None:
            response.tally = self._http1.tally  # no pool has had it
        extra, more_lines = _UPGRADE_REQUIRED if why.status == 426 else (None, b"")
        response.write_answer(why.status, extra, keep_alive=False, more_lines=more_lines)
        response.log_access(self._parser.refused())

    def _drop_tail(self, detail: object) -> None:
        if self._waiting and not self._waiting[-1].complete:
            self._waiting.pop()

    # Effects: the response.

    def _look_if_answered(self, detail: object) -> None:
        framing = self._response.framing
        if framing is not None and framing.spent:
            self.handle(Event.ANSWERED)

    def _tell_answered(self, detail: object) -> None:
        exchange = self._response.exchange
        if exchange is not None:
            exchange.handle(Answered())

    def _go_on(self, detail: object) -> None:
        # Neither its client's next request nor the connection's end must wait for it, nor the worker for the client.
        response = self._response
        response.flush()
        exchange, framing = response.exchange, response.framing
        assert exchange is not None
        assert framing is not None
        if self._afterwards is None:
            self._afterwards = set()
        AfterResponse(exchange, framing.no_body, self._afterwards)
        response.finish()

    def _look_if_taken(self, detail: object) -> None:
        self._http1.discarding.pop(self, None)
        framing = self._response.framing
        assert framing is not None
        if not self._response.write_paused:
            self.handle(Event.WRITTEN_LAST if framing.close else Event.WRITTEN)

    def _answer_502(self, detail: object) -> None:
        self._server.exchanges.counters.add("requests_refused", label="502")
        self._response.write_answer(502, None, keep_alive=False)
        self._response.finish()

    def _leave(self, detail: object) -> None:
        self._response.stop_file()
        exchange, self._response.exchange = self._response.exchange, None
        if exchange is not None:
            exchange.handle(ClientLeft())

    def _break_off(self, detail: object) -> None:
        self._leave(detail)
        self._response.log_access()

    def _upgrade(self, message: m.WebSocketAccept) -> None:
        response, server, transport = self._response, self._server, self.transport
        incoming, exchange = response.incoming, response.exchange
        assert incoming is not None
        assert exchange is not None
        message, entry = response.accepted(incoming, exchange, message)
        response.forget_flow()
        self._leave_afterwards()  # nobody would tell them when the client leaves
        websocket = self._http1.websockets.open(exchange, incoming, message, entry)
        websocket.key = self.key
        exchange.opened(websocket)
        self.dataReceived = websocket.dataReceived  # type: ignore[method-assign]
        self.connectionLost = websocket.connectionLost  # type: ignore[method-assign]
        # A WebSocket ends both ways or not at all: a client that closes one way only has left.
        self.readConnectionLost = transport.abortConnection  # type: ignore[method-assign]
        if isinstance(transport, LoopTransport):
            transport.protocol = websocket
        websocket.makeConnection(transport)  # type: ignore[no-untyped-call]
        self._http1.forget(self)
        server.disconnected(self)
        self.read_pacing.resume(HANDSHAKE)
        if self._parser.early:
            websocket.dataReceived(self._parser.early)
        if server.draining:
            websocket.shut_down()

    # Effects: the end.

    def _await_last(self, detail: object) -> None:
        self.read_pacing.reasons |= HALF_CLOSED  # (the transport reads no more by itself)
        self._http1.heads_due.pop(self, None)
        self._http1.bodies_due.pop(self, None)
        if self._waiting:
            self._waiting[-1].keep_alive = False
        else:
            self._response.make_last()
        self._progress = self._response.progress
        self._http1.half_closed.add(self)

    def _end_writing(self, detail: object) -> None:
        # A connection that is closed while its client still sends is reset, and the client might never see its answer
        # (RFC 9112 9.6).
        transport, framing = self.transport, self._response.framing
        # TLS has no half-closed connections here; there the length, or the last chunk, tells that nothing follows.
        half_close = None if ISSLTransport.providedBy(transport) else getattr(transport, "loseWriteConnection", None)
        if half_close is not None:
            half_close()
        elif framing is not None and framing.ends_with_connection:
            self.handle(Event.EXPIRED)

    def _send_away(self, detail: object) -> None:
        # Exchanges that go on are told of clients that leave; this one is sent away.
        self._afterwards = None
        self._close(detail)

    def _close(self, detail: object) -> None:
        self._response.forget_flow()
        self._http1.forget(self)
        self._server.slow_clients.begin(self)
        self.transport.loseConnection()

    def _abort(self, detail: object) -> None:
        if self._response.file is not None:
            self._break_off(detail)
        self.transport.abortConnection()

    def _forget(self, detail: object) -> None:
        if self._response.exchange is not None or self._response.file is not None:
            self._response.log_access()
            self._leave(detail)
        self._leave_afterwards()
        self._parser.close()
        self._http1.forget(self)
        # Last, since the server may have waited for this.
        self._server.disconnected(self)

    def _leave_afterwards(self) -> None:
        for exchange in tuple(self._afterwards or ()):
            exchange.client.leave()


#: The table, with the methods that carry its effects out.
_STEPS: Final = {
    state: {
        event: (after, tuple(getattr(Http1Connection, "_" + each.name.lower()) for each in effects))
        for event, (after, effects) in row.items()
    }
    for state, row in TABLE.items()
}
