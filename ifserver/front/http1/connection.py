"""One HTTP/1 connection on a Twisted protocol: requests in the order in which they came, and what lies between them.

`http1` parses what the client sends, `http1_response` writes what it is sent. A request that comes while another is
being answered waits here, and reading pauses.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from twisted.internet.interfaces import IHalfCloseableProtocol, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ifserver import messages as m
from ifserver.front.access import Entry
from ifserver.front.admission import Key
from ifserver.front.driver import Exchange
from ifserver.front.http1.completed import Afterwards
from ifserver.front.http1.intake import HALF_CLOSED, HANDSHAKE, PIPELINE, SLICE, STREAM, Intake
from ifserver.front.http1.parser import RequestParser
from ifserver.front.http1.requests import BadRequest, Incoming, websocket_problem
from ifserver.front.http1.response import CONTINUE, Http1Response
from ifserver.front.http1.response_heads import Framing
from ifserver.front.http1.unread_body import Leftover
from ifserver.front.interface import Server
from ifserver.front.proxy_protocol import Header
from ifserver.net.endpoints import LoopTransport
from ifserver.streams.effects import BodyReceived, ClientGone

__all__ = ["Http1Connection"]

#: What is kept of what a client sends before its WebSocket is accepted; beyond, it is not read.
EARLY_BYTES: Final = 64 * 1024

#: What a 426 says beside (RFC 6455 4.4, RFC 9110 7.8).
_UPGRADE_REQUIRED: Final = (
    [(b"sec-websocket-version", b"13"), (b"upgrade", b"websocket")],
    b"\r\nconnection: upgrade",
)

_log = logging.getLogger(__name__)


@implementer(IHalfCloseableProtocol)
class Http1Connection(Protocol):
    """One client's connection."""

    #: Any transport that is an ITransport, an IPushProducer and an IConsumer: Twisted's own, or the loop's.
    transport: Any

    def __init__(self, server: Server, key: Key = None, announced: Header | None = None) -> None:
        #: As whose it is counted.
        self.key = key
        self._announced = announced
        self._server = server
        self._waits = server.waits
        self._settings = server.settings
        self._parser = RequestParser(server.settings, self._complete)
        self._response = Http1Response(self, server)
        # Requests that wait for the one before them.
        self._waiting: list[Incoming] = []
        self.intake = Intake(self, server, self._parser, self._waiting)
        #: The connection ends when what was written has been sent; nothing is answered any more.
        self.closing = False
        # What is left of a body whose response is complete; None: nothing.
        self._leftover: Leftover | None = None
        # Exchanges of requests whose responses the client has, and that have not ended; None: there was none.
        self._afterwards: set[Exchange] | None = None
        # How far the response was when the client, which sends nothing more, was last looked at.
        self._progress: object = None

    # What the transport calls.

    def connectionMade(self) -> None:
        transport = self.transport
        announced, self._announced = self._announced, None
        peer, host, tls = transport.getPeer(), transport.getHost(), ISSLTransport.providedBy(transport)
        if announced is not None:
            peer, host, tls = announced.client or peer, announced.server or host, announced.tls or tls
        response = self._response
        response.transport = transport
        response.addresses = "https" if tls else "http", _tcp_address(peer), _host_address(host)
        transport.registerProducer(response, True)
        self._server.connected(self)
        self._waits.idle.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closing = True
        response = self._response
        exchange, response.exchange = response.exchange, None
        if exchange is not None:
            response.log_access()
            exchange.handle(ClientGone())
        self._leave_afterwards()
        self._parser.close()
        self._waits.forget(self)
        # Last, since the server may have waited for this.
        self._server.disconnected(self)

    def readConnectionLost(self) -> None:
        """The client sends nothing more. It has left, or waits for what is due to it; nothing tells the two apart.

        So requests that have come whole are answered, if that does not take long (`half_closed`).
        """
        if self.closing:
            return
        response, waiting = self._response, self._waiting
        if waiting and not waiting[-1].complete:
            waiting.pop()
        incoming = response.incoming
        if (response.exchange is None and response.postponed is None) or incoming is None or incoming.upgrade:
            self.lose()
        elif not incoming.complete:
            if response.framing is None:
                self.lose()
            else:
                self.abort()  # what has been sent of its response must not look whole
        else:
            self.intake.reasons |= HALF_CLOSED  # (the transport reads no more by itself)
            self._waits.heads_due.pop(self, None)
            self._waits.bodies_due.pop(self, None)
            if waiting:
                waiting[-1].keep_alive = False
            else:
                response.make_last()
            self._progress = response.progress
            self._waits.half_closed.add(self)

    def writeConnectionLost(self) -> None:
        """We have told the client that nothing follows."""

    def half_closed(self) -> None:
        """The client has sent nothing more for a while. Has it left, or does it still take what it is sent?

        What is sent to a client that has left fails with the second write at the latest.
        """
        progress = self._response.progress
        if progress == self._progress:
            self.abort()
        else:
            self._progress = progress
            self._waits.half_closed.add(self)

    def dataReceived(self, data: bytes) -> None:
        if self.closing:
            return
        self._server.tally.http_bytes_in += len(data)
        parser = self._parser
        if parser.refusal is not None:
            if self._leftover is not None:
                self._leftover.take(len(data))
        elif parser.early is not None:
            parser.early += data
            if len(parser.early) > EARLY_BYTES:
                self.intake.pause(HANDSHAKE)
        elif self.intake.unparsed:
            self.intake.unparsed += data
        elif len(data) <= SLICE:
            parser.feed(data)
            if parser.incoming is not None or parser.in_head or parser.refusal is not None:
                self._look_at_rest()
        else:
            self.parse(data)

    # Requests.

    def parse(self, data: bytes) -> None:
        """Parse the next bytes; of more than a slice, as many as are due now."""
        if len(data) <= SLICE:
            self._parser.feed(data)
        else:
            self.intake.feed(data)
        self._look_at_rest()

    def _look_at_rest(self) -> None:
        """See what has come of a request that is not complete."""
        if self.closing:
            return
        parser = self._parser
        incoming = parser.incoming
        if parser.refusal is not None:
            self._refuse()
        elif incoming is not None:
            self._body_incomplete(incoming)
        elif parser.in_head and self not in self._waits.heads_due:
            # It goes on in the next bytes, which must not take for ever.
            self._waits.heads_due.add(self)

    def _body_incomplete(self, incoming: Incoming) -> None:
        """A body goes on in the next bytes: send on what has come, unless the request is pushed whole."""
        response = self._response
        if incoming is response.incoming:
            if self._leftover is not None:
                self._leftover.take(len(incoming.take_body()))
            elif incoming.body and response.exchange is not None:
                self._waits.bodies_due.add(self)
                response.exchange.handle(BodyReceived(incoming.take_body(), True))
        elif incoming.content_length is not None and incoming.content_length <= self._settings.whole_body_bytes:
            self._waits.heads_due.pop(self, None)
            self._waits.bodies_due.add(self)
            if response.incoming is None:
                self._continue(incoming)
        elif incoming not in self._waiting:
            self._arrived(incoming)

    def _complete(self, incoming: Incoming) -> None:
        """A request has arrived with all of its body."""
        response = self._response
        if incoming.chunked or incoming.body_bytes:
            self._waits.bodies_due.pop(self, None)
        if response.incoming is None:
            self._waits.heads_due.pop(self, None)
            self._start(incoming)
        elif incoming is not response.incoming:
            if incoming not in self._waiting:
                self._arrived(incoming)
        elif response.exchange is not None:
            response.exchange.handle(BodyReceived(incoming.take_body(), False))
            response.body_complete()
        elif response.postponed is not None:
            return  # it ends when the client has taken it
        elif self._leftover is not None and self._leftover.ends:
            self.lose()
        else:
            self._next()

    def _continue(self, incoming: Incoming) -> None:
        """A request that is pushed whole cannot be claimed before its body is there: the client is told to go on."""
        if incoming.expects_continue:
            incoming.expects_continue = False
            self._response.write(CONTINUE)

    def _arrived(self, incoming: Incoming) -> None:
        """A request can be offered; if another is being answered, it waits."""
        self._waits.heads_due.pop(self, None)
        if self._response.incoming is None:
            self._start(incoming)
        else:
            self._waiting.append(incoming)
            self.intake.pause(PIPELINE)

    def _start(self, incoming: Incoming) -> None:
        response = self._response
        response.start(incoming)
        if not incoming.complete:
            self._waits.bodies_due.add(self)
        if incoming.upgrade:
            problem = websocket_problem(incoming, self._settings.allowed_origins)
            if problem is not None:
                self._parser.refusal = BadRequest(*problem)
                self._refuse()
                return
            exchange = self._server.websocket_exchange(response, incoming, response.addresses)
        else:
            exchange = self._server.http_exchange(response, incoming, response.addresses)
        response.exchange = exchange
        exchange.start()

    def _refuse(self) -> None:
        """Answer a request that is wrong, behind those before it, and end the connection."""
        why, response = self._parser.refusal, self._response
        assert why is not None
        exchange, incoming = response.exchange, response.incoming
        busy = exchange is not None or response.postponed is not None
        if busy and incoming is not None and incoming.complete:
            # Said when the requests before it have been answered.
            if self._waiting and not self._waiting[-1].complete:
                self._waiting.pop()
            return
        _log.debug("refusing a request of %s with %d: %s", response.addresses[1], why.status, why)
        self._server.counters.add("requests_refused", label=str(why.status))
        if exchange is not None:
            # Its own body is what is wrong.
            response.exchange = None
            exchange.handle(ClientGone())
            if response.framing is not None:
                # What has been sent of its response must not look whole.
                response.abort()
                return
        elif incoming is not None and not incoming.complete:
            self.lose()  # it has been answered, and this is what was to be thrown away
            return
        if incoming is None:
            response.start(None)
        extra, more_lines = _UPGRADE_REQUIRED if why.status == 426 else (None, b"")
        response.write_answer(why.status, extra, keep_alive=False, more_lines=more_lines)
        response.log_access(self._parser.refused())
        if why.status == 413:
            # Its body is on the way.
            self._read_rest(Leftover(self, self._waits.discarding, self._server.clock, ends=True))
        else:
            self.lose()

    # Between two requests, and what the response asks for (`ifserver.front.http1.response.Owner`).

    def response_finished(self, framing: Framing) -> None:
        incoming, leftover = self._response.incoming, self._leftover
        assert incoming is not None
        if not incoming.complete:
            if leftover is None:
                self.discard_body(framing)
        elif framing.close or (leftover is not None and leftover.ends):
            # Exchanges that go on are told of clients that leave; this one is sent away.
            self._afterwards = None
            self.lose()
        else:
            self._next()

    def goes_on(self, exchange: Exchange, framing: Framing) -> None:
        if self._afterwards is None:
            self._afterwards = set()
        Afterwards(exchange, framing.no_body, self._afterwards)

    def _leave_afterwards(self) -> None:
        for exchange in tuple(self._afterwards or ()):
            exchange.client.leave()

    def discard_body(self, framing: Framing) -> None:
        incoming = self._response.incoming
        assert incoming is not None
        incoming.body.clear()
        discarding, clock = self._waits.discarding, self._server.clock
        self._read_rest(
            Leftover(self, discarding, clock, incoming.left_bytes, framing.close, framing.ends_with_connection)
        )

    def _read_rest(self, leftover: Leftover) -> None:
        self._leftover = leftover
        self._waits.heads_due.pop(self, None)
        self._waits.bodies_due.pop(self, None)
        self.intake.resume(STREAM)

    def _next(self) -> None:
        """Begin with the next request, or wait for one."""
        parser, waiting = self._parser, self._waiting
        self._response.incoming = self._leftover = None
        self._waits.discarding.pop(self, None)
        intake = self.intake
        if intake.reasons:
            intake.resume(STREAM)
        if waiting:
            self._start(waiting.pop(0))
        elif parser.refusal is not None:
            self._refuse()
        elif parser.incoming is not None:
            self._continue(parser.incoming)
        elif not parser.in_head:
            self._waits.idle.add(self)
        if intake.unparsed and len(waiting) < self._settings.max_pipelined and not self.closing:
            intake.parse_rest()
        if intake.reasons:
            intake.resume_behind_pipeline()

    def become_websocket(self, exchange: Exchange, message: m.WebSocketAccept, entry: Entry | None) -> None:
        incoming, server, transport = self._response.incoming, self._server, self.transport
        assert incoming is not None
        self.closing = True
        self._response.forget_flow()
        self._leave_afterwards()  # nobody would tell them when the client leaves
        websocket = server.open_websocket(exchange, incoming, message, entry)
        websocket.key = self.key
        exchange.opened(websocket)
        self.dataReceived = websocket.dataReceived  # type: ignore[method-assign]
        self.connectionLost = websocket.connectionLost  # type: ignore[method-assign]
        # A WebSocket ends both ways or not at all: a client that closes one way only has left.
        self.readConnectionLost = transport.abortConnection  # type: ignore[method-assign]
        if isinstance(transport, LoopTransport):
            transport.protocol = websocket
        websocket.makeConnection(transport)
        self._waits.forget(self)
        server.disconnected(self)
        self.intake.resume(HANDSHAKE)
        if self._parser.early:
            websocket.dataReceived(self._parser.early)
        if server.draining:
            websocket.shut_down()

    def shut_down(self) -> None:
        """The server ends, or the connection was idle for as long as one is kept: begin nothing new."""
        if self._response.incoming is None and self._parser.incoming is None and not self._parser.in_head:
            self.lose()

    def lose(self) -> None:
        """Close the connection behind what was written."""
        if not self.closing:
            self.closing = True
            self._response.forget_flow()
            self._waits.forget(self)
            self._server.unsent.begin(self)
            self.transport.loseConnection()

    def abort(self) -> None:
        """Cut the connection at once; what is under way is told."""
        self.closing = True
        self.transport.abortConnection()

    # Deadlines.

    def head_too_slow(self) -> None:
        """A request was begun and not ended."""
        if self.intake.reasons:
            self._waits.heads_due.add(self)  # it may be there, and wait for being read
            return
        self._parser.refusal = BadRequest(408, "the request took too long")
        if self._response.incoming is None:
            self._refuse()

    def body_too_slow(self) -> None:
        """Nothing has come of a body for too long."""
        response, incoming = self._response, self._parser.incoming
        if incoming is None:
            return
        if self.intake.reasons or incoming.expects_continue:
            # It is we who do not read, or have not asked for it.
            self._waits.bodies_due.add(self)
        else:
            self._parser.refusal = BadRequest(408, "the body took too long")
            if response.incoming is None or response.incoming is incoming:
                self._refuse()


def _tcp_address(address: Any) -> tuple[str, int] | None:
    host = getattr(address, "host", None)
    return None if host is None else (host, address.port)


def _host_address(address: Any) -> tuple[str, int | None] | None:
    host = getattr(address, "host", None)
    if host is not None:
        return host, address.port
    name = getattr(address, "name", None)
    if name is None:
        return None
    # What is no UTF-8 could not be sent on.
    return (name.decode(errors="backslashreplace") if isinstance(name, bytes) else name), None
