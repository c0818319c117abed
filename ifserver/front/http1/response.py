"""Responses to bytes: what HTTP/1.0 and 1.1 clients are sent, one response at a time."""

from __future__ import annotations

import logging
from typing import Any, Final, Protocol

from msgspec.structs import replace
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from ifserver import headers as h
from ifserver import messages as m
from ifserver.front.access import Entry
from ifserver.front.driver import Exchange
from ifserver.front.http1.intake import STREAM, Intake
from ifserver.front.http1.requests import REQUEST_ID, Incoming, Refused
from ifserver.front.http1.response_heads import BadResponse, Framing, bad_field, plain_answer, server_timing
from ifserver.front.http1.unread_body import DISCARD_BYTES
from ifserver.front.http1.waits import Waiting
from ifserver.front.interface import Addresses, Connection, Server
from ifserver.front.websocket.prepared import Prepared
from ifserver.messages import Headers
from ifserver.net import sockets
from ifserver.streams.effects import Answered, ClientGone, Flushed

__all__ = ["CONTINUE", "Http1Response"]

#: RFC 9110 15.2.1.
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"
#: What of a handshake's answer is ours to say (RFC 6455 4.2.2), or would change its framing.
_OURS_IN_HANDSHAKE: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"transfer-encoding",
        b"upgrade",
    }
)

_log = logging.getLogger(__name__)


class Owner(Connection, Waiting, Protocol):
    """The connection of a response."""

    intake: Intake

    def response_finished(self, framing: Framing) -> None:
        """The response has been written completely, and the client takes it."""

    def discard_body(self, framing: Framing) -> None:
        """The response has been written completely, and its request's body is still on the way."""

    def goes_on(self, exchange: Exchange, framing: Framing) -> None:
        """`exchange` goes on though its client has the whole response; it is told when the client leaves."""

    def become_websocket(self, exchange: Exchange, message: m.WebSocketAccept, entry: Entry | None) -> None:
        """The handshake is complete: hand the connection on, and what the access log will say of it."""


@implementer(IPushProducer)
class Http1Response:
    """The response that a connection is busy with: the client of its exchange (`ifserver.front.driver.HttpClient`).

    One for each connection, not for each response. What it is told by its stream may only come while `exchange` is
    there.
    """

    def __init__(self, connection: Owner, server: Server) -> None:
        self._connection = connection
        self._server = server
        self._settings = server.settings
        #: The connection's, from its beginning on.
        self.transport: Any = None
        self.addresses: Addresses = ("", None, None)
        #: The request that is being answered, and its stream; both None between two requests, and without a stream
        #: a body is read for nothing.
        self.incoming: Incoming | None = None
        self.exchange: Exchange | None = None
        #: None until the head has been sent.
        self.framing: Framing | None = None
        self._status = 0
        self._sent_bytes = 0
        #: When its head had come, and when the response began; 0: it has not.
        self._began_at = self._first_at = 0.0
        #: How long the request was queued, in seconds, as far as that is known.
        self._claimed_at: float | None = None
        #: The response is complete, but its end waits for the client to take what was written: or requests that are
        #: sent and answers that are not read would pile up here.
        self.postponed: Framing | None = None
        # Payloads of the messages that wait for the client to take them.
        self._unflushed: list[int] = []
        self._write_paused = False

    def start(self, incoming: Incoming | None) -> None:
        """The response to `incoming` is due; None: to a request that is refused before it is all there."""
        self.incoming = incoming
        if incoming is not None and (incoming.upgrade or self._settings.keep_alive_timeout_s <= 0):
            incoming.keep_alive = False
        self._status = self._sent_bytes = 0
        self._began_at = self._server.clock.seconds()
        self._first_at = 0.0
        self._claimed_at = None

    @property
    def progress(self) -> object:
        """Something that differs from the last time if the client has been sent more, or must take what it was sent."""
        # (`Unsent` looks after clients that take nothing.)
        return object() if self._write_paused else (self.incoming, self.framing, self._sent_bytes)

    def make_last(self) -> None:
        """The connection ends behind this response."""
        framing = self.framing or self.postponed
        if framing is not None:
            framing.close = True
        if self.incoming is not None:
            self.incoming.keep_alive = False

    # What the stream asks for.

    def begin(self, message: m.ResponseStart) -> None:
        incoming, exchange = self.incoming, self.exchange
        assert incoming is not None
        assert exchange is not None
        body, more = message.body, message.more_body
        now = self._server.clock.seconds()
        self._claimed_at = exchange.claimed_at
        try:
            head, framing = self._server.head_writer.write(
                message.status,
                message.headers,
                None if more else len(body),
                incoming.method,
                incoming.http_version,
                incoming.keep_alive
                and not self._server.draining
                and (incoming.complete or _is_read_on(incoming, more)),
                incoming.request_id,
                self._timing(now) if self._settings.server_timing else b"",
            )
            piece = b"" if framing.no_body or not body else self._framed(framing, body)
        except BadResponse as error:
            self._bad_response(str(error))
            return
        self.framing = framing
        self._status = message.status
        self._first_at = now
        if piece:
            head += piece
        self._server.tally.http_bytes_out += len(head)
        self.transport.write(head)
        self._written(framing, len(body), more)

    def _timing(self, now: float) -> bytes:
        return b"\r\n" + server_timing(self._queue_s(), now - self._began_at)

    def body(self, message: m.ResponseBody) -> None:
        framing, body = self.framing, message.body
        assert framing is not None
        if body and not framing.no_body:
            try:
                self.write(self._framed(framing, body))
            except BadResponse as error:
                self._bad_response(str(error))
                return
        self._written(framing, len(body), message.more_body)

    def broadcast(self, message: Prepared, max_unsent_bytes: int) -> bool | None:
        framing, body = self.framing, message.payload
        if framing is None or framing.no_body or framing.remaining is not None or not body:
            return False
        assert self.incoming is not None
        if self.incoming.upgrade:
            return False  # it denies a handshake
        if self._write_paused and sockets.unsent_bytes(self.transport) + len(body) > max_unsent_bytes:
            return None
        self.write(self._framed(framing, body))
        return True

    def answer(self, status: int) -> None:
        incoming = self.incoming
        assert incoming is not None
        retry = [(b"retry-after", str(self._settings.retry_after_s).encode())] if status == 503 else None
        self.write_answer(status, retry, incoming.keep_alive and not self._server.draining and incoming.complete)
        self.finish()

    def abort(self) -> None:
        self.exchange = None
        self.log_access()
        self._connection.abort()

    def send_continue(self) -> None:
        """Tell the client to send the body."""
        assert self.incoming is not None
        if self.incoming.expects_continue:
            self.incoming.expects_continue = False
            self.write(CONTINUE)
            self._server.waits.bodies_due.add(self._connection)

    def cut(self) -> None:
        """Cut the connection; the stream is told that its client has left."""
        self._connection.abort()

    def stop_reading(self) -> None:
        self._connection.intake.pause(STREAM)

    def resume_reading(self) -> None:
        self._connection.intake.resume(STREAM)

    def accept(self, message: m.WebSocketAccept) -> None:
        problem = _problem_of_accept(message)
        if problem is not None:
            self._bad_response(problem)
            return
        exchange = self.exchange
        assert exchange is not None
        self.exchange = None
        self._status = 101
        self._first_at = self._server.clock.seconds()
        incoming = self.incoming
        assert incoming is not None
        if incoming.request_id and h.find(message.headers, REQUEST_ID) is None:
            message = replace(message, headers=[*message.headers, (REQUEST_ID, incoming.request_id)])
        self._claimed_at = exchange.claimed_at
        server, now = self._server, self._first_at
        server.tally.answered(101, self._began_at, now, now)
        entry = self._entry(incoming, now) if server.access_log.enabled else None
        self._connection.become_websocket(exchange, message, entry)

    def _queue_s(self) -> float | None:
        """How long the request was queued; None: nobody can tell (`Offered.claimed_at`)."""
        return None if self._claimed_at is None else max(0.0, self._claimed_at - self._began_at)

    # Writing.

    def write(self, data: bytes) -> None:
        """Send `data` as it is."""
        self._server.tally.http_bytes_out += len(data)
        self.transport.write(data)

    def _framed(self, framing: Framing, body: bytes) -> bytes:
        """A piece of the body as it is sent.

        Raises:
            BadResponse: it is more than Content-Length promised.
        """
        if framing.chunked:
            self._sent_bytes += len(body)
            return b"%x\r\n%b\r\n" % (len(body), body)
        if framing.remaining is not None:
            if len(body) > framing.remaining:
                raise BadResponse("the body is longer than its Content-Length")
            framing.remaining -= len(body)
        self._sent_bytes += len(body)
        return body

    def _written(self, framing: Framing, length: int, more: bool) -> None:
        """A piece has been written: wait for the kernel to take it, or end the response."""
        if more:
            self._wait_for_client(length)
            if framing.no_body or framing.remaining == 0:
                self._answered(framing)
        elif framing.remaining:
            self._bad_response("the body is shorter than its Content-Length")
        else:
            if framing.chunked:
                self.write(_LAST_CHUNK)
            self.finish()

    def _wait_for_client(self, length: int) -> None:
        if self._write_paused:
            self._unflushed.append(length)
        elif self.exchange is not None:
            self.exchange.handle(Flushed(length))

    def _answered(self, framing: Framing) -> None:
        """The client has its whole response, and the worker says that more will follow."""
        exchange, incoming = self.exchange, self.incoming
        if exchange is None or incoming is None or incoming.upgrade:
            return  # (what denies a WebSocket is the last on its connection)
        exchange.handle(Answered())
        if incoming.complete:
            self._go_on()

    def body_complete(self) -> None:
        """All of the request's body has come and was handed to the stream, behind the begin of the response or not."""
        framing = self.framing
        if self.exchange is not None and framing is not None and framing.spent:
            self._go_on()

    def _go_on(self) -> None:
        """The exchange goes on without the client, whose next request, or connection's end, must not wait for it."""
        exchange, self.exchange = self.exchange, None
        framing = self.framing
        assert exchange is not None
        assert framing is not None
        # Its last pieces are the server's own affair now: the worker need not wait for the client to take them.
        unflushed, self._unflushed = self._unflushed, []
        for length in unflushed:
            exchange.handle(Flushed(length))
        self._connection.goes_on(exchange, framing)
        self.finish()

    def _bad_response(self, why: str) -> None:
        """The worker should have refused it; what the client gets cannot be mended once its head is out."""
        exchange, self.exchange = self.exchange, None
        assert exchange is not None
        _log.error("%s: bad reply: %s", exchange.stream.channel, why)
        exchange.handle(ClientGone())
        if self.framing is None:
            self._server.counters.add("requests_refused", label="502")
            self.write_answer(502, None, keep_alive=False)
            self.finish()
        else:
            self.abort()

    def write_answer(self, status: int, extra: Headers | None, keep_alive: bool, more_lines: bytes = b"") -> None:
        """Write a whole response in the server's own name. `more_lines` as for `HeadWriter.write`."""
        incoming = self.incoming
        method, version, request_id = "GET", "1.1", b""
        if incoming is not None:
            method, version, request_id = incoming.method, incoming.http_version, incoming.request_id
        headers, body = plain_answer(status, extra)
        head, framing = self._server.head_writer.write(
            status, headers, len(body), method, version, keep_alive, request_id, more_lines
        )
        self._status = status
        self.framing = framing
        self._first_at = self._server.clock.seconds()
        self.write(head if framing.no_body else head + self._framed(framing, body))

    def finish(self) -> None:
        """The response is complete."""
        framing = self.framing
        assert framing is not None
        self.exchange = None
        self.framing = None
        self.log_access()
        if self._write_paused:
            self._unflushed.clear()
            if not framing.close:
                self.postponed = framing
                incoming = self.incoming
                if incoming is not None and not incoming.complete:
                    # At once: many clients take nothing of the response before they have sent their whole body.
                    self._connection.discard_body(framing)
                return
        self._connection.response_finished(framing)

    def forget_flow(self) -> None:
        """The connection ends, or becomes another's. (With a producer, some transports would never close.)"""
        self._write_paused = False
        self._server.unsent.end(self._connection)
        self.transport.unregisterProducer()

    def log_access(self, refused: Refused | None = None) -> None:
        """The present request is over: count it, and write it into the access log.

        Args:
            refused: what it was, where it was refused before it was all there; ignored otherwise.
        """
        server, incoming = self._server, self.incoming or refused
        now = server.clock.seconds()
        server.tally.answered(self._status, self._began_at, self._first_at, now)
        if incoming is not None and server.access_log.enabled:
            server.access_log.write(self._entry(incoming, now))

    def _entry(self, incoming: Incoming | Refused, now: float) -> Entry:
        """What the access log has to say of a request that is over."""
        server = self._server
        scheme, client, _ = self.addresses
        if server.trusted is not None:
            client, _ = h.seen_by_proxies(incoming.headers, client, scheme, server.trusted)
        return Entry(
            at=server.wall(),
            client=client[0] if client else "",
            method=incoming.method,
            target=incoming.target,
            http_version=incoming.http_version,
            status=self._status,
            sent_bytes=self._sent_bytes,
            duration_s=now - self._began_at,
            queue_s=self._queue_s(),
            stream=incoming.stream,
            request_id=incoming.request_id.decode("ascii"),
            referer=h.find(incoming.headers, b"referer"),
            user_agent=h.find(incoming.headers, b"user-agent"),
        )

    # IPushProducer: the transport calls when its buffer is full, and when it is not any more.

    def pauseProducing(self) -> None:
        self._write_paused = True
        self._server.unsent.begin(self._connection)

    def resumeProducing(self) -> None:
        self._write_paused = False
        self._server.unsent.end(self._connection)
        unflushed, self._unflushed = self._unflushed, []
        for length in unflushed:
            if self.exchange is not None:
                self.exchange.handle(Flushed(length))
        framing, self.postponed = self.postponed, None
        if framing is not None:
            self._connection.response_finished(framing)

    def stopProducing(self) -> None:
        """The connection is lost; `Http1Connection.connectionLost` tells."""


def _is_read_on(incoming: Incoming, more: bool) -> bool:
    """Whether the rest of a body will be read, so that the connection can be kept behind a response that begins now.

    Args:
        more: the response is not complete, so that the application may still read all of the body.
    """
    if incoming.expects_continue:
        return False  # the client may send its body, or not
    left = incoming.left_bytes
    return more or left is None or left <= DISCARD_BYTES


def _problem_of_accept(message: m.WebSocketAccept) -> str | None:
    """What is wrong with the answer to a handshake; None: nothing, so that it can be written as it is."""
    subprotocol = message.subprotocol or ""
    try:
        subprotocol_fits = h.is_value(subprotocol.encode("latin-1"))
    except UnicodeEncodeError:
        subprotocol_fits = False
    if not subprotocol_fits:
        return f"not a subprotocol: {subprotocol[:80]!r}"
    for name, value in message.headers:
        if not h.is_token(name) or not h.is_value(value):
            return bad_field(name, value)
        if name.lower() in _OURS_IN_HANDSHAKE:
            return f"{name!r} is not for the application to say"
    return None
