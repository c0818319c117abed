"""Responses to bytes: what HTTP/1.0 and 1.1 clients are sent, one response at a time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from ifserver import headers as h
from ifserver.front.access_log import Entry
from ifserver.front.exchanges.routing import is_for_all
from ifserver.front.http1.connection_states import Event
from ifserver.front.http1.file_body import FileBody
from ifserver.front.http1.read_pacing import STREAM
from ifserver.front.http1.response_heads import BadResponse, Framing, plain_answer, server_timing
from ifserver.front.http1.shared import DISCARD_BYTES
from ifserver.front.incoming_request import REQUEST_ID, Incoming, Refused
from ifserver.front.websocket.opening import problem_of_accept
from ifserver.net import sockets
from ifserver.state_machines.effects import Flushed

if TYPE_CHECKING:
    from ifserver import messages as m
    from ifserver.front.exchanges.exchange import Exchange
    from ifserver.front.files import File
    from ifserver.front.http1.connection import Http1Connection
    from ifserver.front.proxy_protocol import Addresses
    from ifserver.front.websocket.prepared import Prepared
    from ifserver.messages import Headers

__all__ = ["CONTINUE", "Http1Response", "opened"]

#: RFC 9110 15.2.1.
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"
# A member of an Enum costs several times as much to look up as a global.
_WRITTEN: Final = Event.WRITTEN
_log = logging.getLogger(__name__)


@implementer(IPushProducer)
class Http1Response:
    """The response that a connection is busy with: the client of its exchange
    (`ifserver.front.exchanges.carry_out.HttpClient`).

    One for each connection, not for each response; the connection decides what becomes of that. What the stream asks
    for may only come while `exchange` is there.
    """

    # A body has no frames.
    write_frame: Final = None

    def __init__(self, connection: Http1Connection) -> None:
        self.connection = connection
        self.http1 = http1 = connection.http1
        #: Where the present request is counted: that of its pool, where there are pools.
        self.tally = http1.tally
        #: The value of Set-Cookie in the response to the present request; empty: none.
        self.cookie = b""
        #: The connection's, from its beginning on.
        self.transport: Any = None
        self.addresses: Addresses = ("", None, None)
        #: The request that is being answered, and its stream; both None between two requests.
        self.incoming: Incoming | None = None
        self.exchange: Exchange | None = None
        # None until the head has been sent.
        self.framing: Framing | None = None
        #: The client does not take what it is sent.
        self.write_paused = False
        self.status = 0
        #: Of its body.
        self.sent_bytes = 0
        #: When the request's head had come, and when the response began; 0: it has not.
        self.began_at = self.first_at = 0.0
        #: When a worker claimed the request, as far as that is known.
        self.claimed_at: float | None = None
        # Payloads of the messages that wait for the client to take them.
        self.unflushed: list[int] = []
        #: The file that is being sent; its exchange is over. None: there is none.
        self.file: FileBody | None = None

    def start(self, incoming: Incoming | None) -> None:
        """The response to `incoming` is due; None: to a request that is refused before it is all there."""
        self.incoming = incoming
        if incoming is not None and (incoming.upgrade or self.connection.settings.keep_alive_timeout_s <= 0):
            incoming.keep_alive = False
        self.framing = None
        self.cookie = b""
        self.status = self.sent_bytes = 0
        self.began_at = self.http1.clock.seconds()
        self.first_at = 0.0
        self.claimed_at = None

    # What the stream asks for.

    def begin(self, message: m.ResponseStart) -> None:
        body, more = message.body, message.more_body
        try:
            head, framing = _head(self, message, None if more else len(body), more)
            if body and not framing.no_body:
                if more:
                    head += framing.framed(body)
                else:  # (`HeadWriter` has seen that it is as long as it should be)
                    head += body
                self.sent_bytes = len(body)
        except BadResponse as error:
            self.framing = None
            _invalid(self, str(error))
            return
        self.http1.tally.http_bytes_out += len(head)
        self.transport.write(head)
        if more:
            self.connection.handle(Event.BEGUN)
            _more_follows(self, framing, len(body))
        else:
            self.finish()

    def begin_file(self, message: m.ResponseFile, file: File) -> None:
        """Send a whole response, whose body is in `file`. Its exchange is over with that."""
        connection, exchange, http1 = self.connection, self.exchange, self.http1
        assert exchange is not None
        try:
            head, framing = _head(self, message, message.count, False)
        except BadResponse as error:
            file.close()
            _invalid(self, str(error))
            return
        http1.tally.http_bytes_out += len(head)
        if framing.no_body or not message.count:
            file.close()
            self.transport.write(head)
            self.finish()
            return
        self.exchange = None
        connection.discarded_bytes = 0
        # Many clients take nothing of it before they have sent their whole body.
        connection.read_pacing.resume(STREAM)
        body = self.file = FileBody(self, file, message, exchange.stream.channel)
        connection.handle(Event.BEGUN)
        body.start(head)

    def body(self, message: m.ResponseBody) -> None:
        framing, body = self.framing, message.body
        assert framing is not None
        if body and not framing.no_body:
            try:
                piece = framing.framed(body)
            except BadResponse as error:
                _invalid(self, str(error))
                return
            self.sent_bytes += len(body)
            self.http1.tally.http_bytes_out += len(piece)
            self.transport.write(piece)
        if message.more_body:
            _more_follows(self, framing, len(body))
        elif framing.remaining:
            _invalid(self, "the body is shorter than its Content-Length")
        else:
            if framing.chunked:
                self.write(_LAST_CHUNK)
            self.finish()

    def broadcast(self, message: Prepared, max_unsent_bytes: int) -> bool | None:
        framing, body = self.framing, message.payload
        if framing is None or framing.no_body or framing.remaining is not None or not body:
            return False
        assert self.incoming is not None
        if self.incoming.upgrade:
            return False  # it denies a handshake
        if self.write_paused and sockets.unsent_bytes(self.transport) + len(body) > max_unsent_bytes:
            return None
        self.sent_bytes += len(body)
        self.write(framing.framed(body))
        return True

    def answer(self, status: int) -> None:
        incoming = self.incoming
        assert incoming is not None
        retry = [(b"retry-after", str(self.connection.settings.retry_after_s).encode())] if status == 503 else None
        self.write_answer(status, retry, incoming.keep_alive and not self.http1.server.draining and incoming.complete)
        self.finish()

    def send_continue(self) -> None:
        assert self.incoming is not None
        if self.incoming.expects_continue:
            self.incoming.expects_continue = False
            self.write(CONTINUE)
            self.http1.bodies_due.add(self.connection)

    def cut(self) -> None:
        """The stream is notified that its client has left."""
        self.connection.abort()

    abort = cut

    def stop_reading(self) -> None:
        self.connection.read_pacing.pause(STREAM)

    def resume_reading(self) -> None:
        self.connection.read_pacing.resume(STREAM)

    def accept(self, message: m.WebSocketAccept) -> None:
        problem = problem_of_accept(message)
        if problem is None:
            self.connection.handle(Event.ACCEPTED, message)
        else:
            _invalid(self, problem)

    # Writing.

    def write(self, data: bytes) -> None:
        """Send `data` as it is."""
        self.http1.tally.http_bytes_out += len(data)
        self.transport.write(data)

    def flush(self) -> None:
        """Report to the stream that the client has taken all."""
        unflushed, self.unflushed = self.unflushed, []
        for length in unflushed:
            if self.exchange is not None:
                self.exchange.handle(Flushed(length))

    def write_answer(self, status: int, extra: Headers | None, keep_alive: bool, more_lines: bytes = b"") -> None:
        """Write a whole response in the server's own name. `more_lines` as for `HeadWriter.write`."""
        incoming = self.incoming
        method, version, request_id = "GET", "1.1", b""
        if incoming is not None:
            method, version, request_id = incoming.method, incoming.http_version, incoming.request_id
        headers, body = plain_answer(status, extra)
        head, framing = self.http1.head_writer.write(
            status, headers, len(body), method, version, keep_alive, request_id, more_lines
        )
        self.status = status
        self.framing = framing
        self.first_at = self.http1.clock.seconds()
        if not framing.no_body:
            head += framing.framed(body)
            self.sent_bytes += len(body)
        self.write(head)

    def finish(self) -> None:
        """The response is complete."""
        framing = self.framing
        assert framing is not None
        self.exchange = None
        self.log_access()
        self.unflushed.clear()
        self.connection.handle(
            Event.WRITTEN_LAST if framing.close else Event.UNTAKEN if self.write_paused else _WRITTEN
        )

    def log_access(self, refused: Refused | None = None) -> None:
        """The present request is over: count it, and write it into the access log.

        Args:
            refused: what it was, where it was refused before it was all there; ignored otherwise.
        """
        http1, incoming = self.http1, self.incoming or refused
        now = http1.clock.seconds()
        self.tally.answered(self.status, self.began_at, self.first_at, now)
        if incoming is not None and http1.server.access_log.enabled:
            http1.server.access_log.write(_entry(self, incoming, now))

    # IPushProducer: the transport calls when its buffer is full, and when it is not any more.

    def pauseProducing(self) -> None:
        self.write_paused = True
        self.http1.server.slow_clients.begin(self.connection)

    def resumeProducing(self) -> None:
        self.write_paused = False
        self.http1.server.slow_clients.end(self.connection)
        self.flush()
        if self.file is not None:
            self.file.resume()
        self.connection.handle(Event.TAKEN)

    def stopProducing(self) -> None:
        """The connection is lost; `Http1Connection.connectionLost` follows."""


def _head(
    response: Http1Response, message: m.ResponseStart | m.ResponseFile, length: int | None, more: bool
) -> tuple[bytes, Framing]:
    """The head of the response, and how its body is framed.

    Args:
        length: of the body, in bytes; None: that is not known yet.
        more: the application may still read the request's body.

    Raises:
        BadResponse: it cannot be sent as the application has it.
    """
    incoming, exchange, http1 = response.incoming, response.exchange, response.http1
    assert incoming is not None
    assert exchange is not None
    now = http1.clock.seconds()
    response.claimed_at = exchange.claimed_at
    head, framing = http1.head_writer.write(
        message.status,
        message.headers,
        length,
        incoming.method,
        incoming.http_version,
        incoming.keep_alive and not http1.server.draining and (incoming.complete or _is_read_on(incoming, more)),
        incoming.request_id,
        _more_lines(response, message, now) if response.cookie or response.connection.settings.server_timing else b"",
    )
    response.framing = framing
    response.status = message.status
    response.first_at = now
    return head, framing


def _is_read_on(incoming: Incoming, more: bool) -> bool:
    """Whether the rest of a body will be read, so that the connection can be kept behind a response that begins now.

    Args:
        more: the response is not complete, so that the application may still read all of the body.
    """
    if incoming.expects_continue:
        return False  # the client may send its body, or not
    left = incoming.left_bytes
    return more or left is None or left <= DISCARD_BYTES


def _more_lines(response: Http1Response, message: m.ResponseStart | m.ResponseFile, now: float) -> bytes:
    """Fields of ours, behind those of the application."""
    lines = b""
    if response.connection.settings.server_timing:
        lines = b"\r\n" + server_timing(_queue_s(response), now - response.began_at)
    if response.cookie and not is_for_all(message.status, message.headers):
        lines += b"\r\nset-cookie: " + response.cookie
    return lines


def _queue_s(response: Http1Response) -> float | None:
    """How long the request was queued; None: that is not known (`Exchange.claimed_at`)."""
    return None if response.claimed_at is None else max(0.0, response.claimed_at - response.began_at)


def _more_follows(response: Http1Response, framing: Framing, length: int) -> None:
    """A piece has been written, but not the last: wait for the kernel to take it."""
    if response.write_paused:
        response.unflushed.append(length)
    elif response.exchange is not None:
        response.exchange.handle(Flushed(length))
    if framing.spent:
        response.connection.handle(Event.ANSWERED)


def _invalid(response: Http1Response, why: str) -> None:
    """The worker should have refused it; what the client gets cannot be mended once its head is out."""
    assert response.exchange is not None
    _log.error("%s: bad reply: %s", response.exchange.stream.channel, why)
    response.connection.handle(Event.INVALID)


def opened(
    response: Http1Response, incoming: Incoming, exchange: Exchange, message: m.WebSocketAccept
) -> tuple[m.WebSocketAccept, Entry | None]:
    """The WebSocket is open: the answer to its handshake with our own fields, and its entry for the access log."""
    http1 = response.http1
    response.exchange = None
    response.status = 101
    response.first_at = now = http1.clock.seconds()
    headers = [*http1.head_writer.default_fields(), *message.headers]
    if incoming.request_id and h.find(message.headers, REQUEST_ID) is None:
        headers.append((REQUEST_ID, incoming.request_id))
    if response.cookie:
        headers.append((b"set-cookie", response.cookie))
    response.claimed_at = exchange.claimed_at
    response.tally.answered(101, response.began_at, now, now)
    entry = _entry(response, incoming, now) if http1.server.access_log.enabled else None
    return replace(message, headers=headers), entry


def _entry(response: Http1Response, incoming: Incoming | Refused, now: float) -> Entry:
    """The access log's entry of a request that is over."""
    scheme, client, _ = response.addresses
    http1 = response.http1
    trusted = http1.server.exchanges.trusted
    if trusted is not None:
        client, _ = h.seen_by_proxies(incoming.headers, client, scheme, trusted)
    return Entry(
        at=http1.wall(),
        client=client[0] if client else "",
        method=incoming.method,
        target=incoming.target,
        http_version=incoming.http_version,
        status=response.status,
        sent_bytes=response.sent_bytes,
        duration_s=now - response.began_at,
        queue_s=_queue_s(response),
        stream=incoming.stream,
        request_id=incoming.request_id.decode("ascii"),
        referer=h.find(incoming.headers, b"referer"),
        user_agent=h.find(incoming.headers, b"user-agent"),
        pool=response.tally.pool,
    )
