"""Responses to bytes: what HTTP/1.0 and 1.1 clients are sent, one response at a time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec.structs import replace
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from ifserver import headers as h
from ifserver import messages as m
from ifserver.front.access_log import Entry
from ifserver.front.addresses import Addresses
from ifserver.front.exchanges.routing import is_for_all
from ifserver.front.files import File
from ifserver.front.http1.connection_states import Event
from ifserver.front.http1.file_body import FileBody
from ifserver.front.http1.read_pacing import STREAM, ReadPacing
from ifserver.front.http1.response_heads import BadResponse, Framing, plain_answer, server_timing
from ifserver.front.http1.shared_services import Http1, Waiting
from ifserver.front.http1.unread_body import DISCARD_BYTES
from ifserver.front.http1.websocket_handshake import problem_of_accept
from ifserver.front.incoming_request import REQUEST_ID, Incoming, Refused
from ifserver.front.websocket.prepared import Prepared
from ifserver.messages import Headers
from ifserver.net import sockets
from ifserver.state_machines.effects import Flushed

if TYPE_CHECKING:
    from ifserver.front.exchanges.exchange import Exchange

__all__ = ["CONTINUE", "Http1Response"]

#: RFC 9110 15.2.1.
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"
# A member of an Enum costs several times as much to look up as a global.
_WRITTEN: Final = Event.WRITTEN
_log = logging.getLogger(__name__)


class Owner(Waiting, Protocol):
    """The connection of a response."""

    read_pacing: ReadPacing


@implementer(IPushProducer)
class Http1Response:
    """The response that a connection is busy with: the client of its exchange
    (`ifserver.front.exchanges.carry_out.HttpClient`).

    One for each connection, not for each response; what becomes of that is the connection's to say. What it is told by
    its stream may only come while `exchange` is there.
    """

    # A body has no frames.
    write_frame: Final = None

    def __init__(self, connection: Owner, http1: Http1) -> None:
        self._connection = connection
        self._http1 = http1
        self._server = http1.server
        self._settings = http1.server.settings
        #: Where the present request is counted: that of its pool, where there are pools.
        self.tally = http1.tally
        #: What Set-Cookie tells the client of the present request; empty: nothing.
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
        self._status = 0
        self._sent_bytes = 0
        #: When its head had come, and when the response began; 0: it has not.
        self._began_at = self._first_at = 0.0
        #: How long the request was queued, in seconds, as far as that is known.
        self._claimed_at: float | None = None
        # Payloads of the messages that wait for the client to take them.
        self._unflushed: list[int] = []
        #: The file that is being sent; its exchange is over. None: there is none.
        self.file: FileBody | None = None
        #: What was thrown away of the request's body meanwhile.
        self.discarded_bytes = 0
        # The channel of its stream and its path, for the log.
        self._file_of = ("", b"")

    def start(self, incoming: Incoming | None) -> None:
        """The response to `incoming` is due; None: to a request that is refused before it is all there."""
        self.incoming = incoming
        if incoming is not None and (incoming.upgrade or self._settings.keep_alive_timeout_s <= 0):
            incoming.keep_alive = False
        self.framing = None
        self.cookie = b""
        self._status = self._sent_bytes = 0
        self._began_at = self._http1.clock.seconds()
        self._first_at = 0.0
        self._claimed_at = None

    @property
    def progress(self) -> object:
        """Something that differs from the last time if the client has been sent more, or must take what it was sent."""
        # (`SlowClients` looks after clients that take nothing.)
        return object() if self.write_paused else (self.incoming, self.framing, self._sent_bytes)

    def make_last(self) -> None:
        """The connection ends behind this response."""
        if self.framing is not None:
            self.framing.close = True
        if self.incoming is not None:
            self.incoming.keep_alive = False

    # What the stream asks for.

    def begin(self, message: m.ResponseStart) -> None:
        body, more = message.body, message.more_body
        try:
            head, framing = self._head(message, None if more else len(body), more)
            if body and not framing.no_body:
                if more:
                    head += self._framed(framing, body)
                else:  # (`HeadWriter` has seen that it is as long as it should be)
                    head += body
                    self._sent_bytes = len(body)
        except BadResponse as error:
            self.framing = None
            self._invalid(str(error))
            return
        self._http1.tally.http_bytes_out += len(head)
        self.transport.write(head)
        if more:
            self._connection.handle(Event.BEGUN)
            self._more_follows(framing, len(body))
        else:
            self.finish()

    def begin_file(self, message: m.ResponseFile, file: File) -> None:
        """Send a whole response, whose body is in `file`. Its exchange is over with that."""
        exchange, http1 = self.exchange, self._http1
        assert exchange is not None
        try:
            head, framing = self._head(message, message.count, False)
        except BadResponse as error:
            file.close()
            self._invalid(str(error))
            return
        http1.tally.http_bytes_out += len(head)
        if framing.no_body or not message.count:
            file.close()
            self.transport.write(head)
            self.finish()
            return
        self._file_of, self.exchange = (exchange.stream.channel, message.path), None
        self.discarded_bytes = 0
        # Many clients take nothing of it before they have sent their whole body.
        self._connection.read_pacing.resume(STREAM)
        disk = self._server.exchanges.files.disk
        body = self.file = FileBody(self, file, message.offset, message.count, disk, http1.soon)
        self._connection.handle(Event.BEGUN)
        body.start(head)

    def _head(self, message: m.ResponseStart | m.ResponseFile, length: int | None, more: bool) -> tuple[bytes, Framing]:
        """The head of the response, and how its body is framed.

        Args:
            length: of the body, in bytes; None: nobody knows yet.
            more: the application may still read the request's body.

        Raises:
            BadResponse: it cannot be sent as the application has it.
        """
        incoming, exchange, http1 = self.incoming, self.exchange, self._http1
        assert incoming is not None
        assert exchange is not None
        now = http1.clock.seconds()
        self._claimed_at = exchange.claimed_at
        head, framing = http1.head_writer.write(
            message.status,
            message.headers,
            length,
            incoming.method,
            incoming.http_version,
            incoming.keep_alive and not self._server.draining and (incoming.complete or _is_read_on(incoming, more)),
            incoming.request_id,
            self._more_lines(message, now) if self.cookie or self._settings.server_timing else b"",
        )
        self.framing = framing
        self._status = message.status
        self._first_at = now
        return head, framing

    def _more_lines(self, message: m.ResponseStart | m.ResponseFile, now: float) -> bytes:
        """Fields of ours, behind those of the application."""
        lines = b""
        if self._settings.server_timing:
            lines = b"\r\n" + server_timing(self._queue_s(), now - self._began_at)
        if self.cookie and not is_for_all(message.status, message.headers):
            lines += b"\r\nset-cookie: " + self.cookie
        return lines

    # What becomes of a file (`ifserver.front.http1.file_body.Owner`).

    def file_sent(self, count: int) -> None:
        self._sent_bytes += count
        self._http1.tally.http_bytes_out += count

    def file_waits(self, full: bool) -> None:
        self.write_paused = full
        if full:
            self._server.slow_clients.begin(self._connection)
        else:
            self._server.slow_clients.end(self._connection)

    def file_ended(self, why: str) -> None:
        if why:
            _log.error("%s: cutting the connection: the file %r cannot be sent: %s", *self._file_of, why)
            self._connection.handle(Event.INVALID)
        else:
            self.file = None
            self.finish()

    def file_lost(self) -> None:
        self._connection.abort()

    def stop_file(self) -> None:
        """The connection ends: what has not been sent of a file never will."""
        file, self.file = self.file, None
        if file is not None:
            file.stop()

    def body(self, message: m.ResponseBody) -> None:
        framing, body = self.framing, message.body
        assert framing is not None
        if body and not framing.no_body:
            try:
                piece = self._framed(framing, body)
            except BadResponse as error:
                self._invalid(str(error))
                return
            self._http1.tally.http_bytes_out += len(piece)
            self.transport.write(piece)
        if message.more_body:
            self._more_follows(framing, len(body))
        elif framing.remaining:
            self._invalid("the body is shorter than its Content-Length")
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
        self.write(self._framed(framing, body))
        return True

    def answer(self, status: int) -> None:
        incoming = self.incoming
        assert incoming is not None
        retry = [(b"retry-after", str(self._settings.retry_after_s).encode())] if status == 503 else None
        self.write_answer(status, retry, incoming.keep_alive and not self._server.draining and incoming.complete)
        self.finish()

    def send_continue(self) -> None:
        """Tell the client to send the body."""
        assert self.incoming is not None
        if self.incoming.expects_continue:
            self.incoming.expects_continue = False
            self.write(CONTINUE)
            self._http1.bodies_due.add(self._connection)

    def cut(self) -> None:
        """Cut the connection; the stream is told that its client has left."""
        self._connection.abort()

    abort = cut

    def stop_reading(self) -> None:
        self._connection.read_pacing.pause(STREAM)

    def resume_reading(self) -> None:
        self._connection.read_pacing.resume(STREAM)

    def accept(self, message: m.WebSocketAccept) -> None:
        problem = problem_of_accept(message)
        if problem is None:
            self._connection.handle(Event.ACCEPTED, message)
        else:
            self._invalid(problem)

    def accepted(
        self, incoming: Incoming, exchange: Exchange, message: m.WebSocketAccept
    ) -> tuple[m.WebSocketAccept, Entry | None]:
        """The WebSocket is open; the message that says so to the client, and what the access log will say of it."""
        self.exchange = None
        self._status = 101
        self._first_at = now = self._http1.clock.seconds()
        headers = [*self._http1.head_writer.default_fields(), *message.headers]
        if incoming.request_id and h.find(message.headers, REQUEST_ID) is None:
            headers.append((REQUEST_ID, incoming.request_id))
        if self.cookie:
            headers.append((b"set-cookie", self.cookie))
        message = replace(message, headers=headers)
        self._claimed_at = exchange.claimed_at
        self.tally.answered(101, self._began_at, now, now)
        return message, self._entry(incoming, now) if self._server.access_log.enabled else None

    def _queue_s(self) -> float | None:
        """How long the request was queued; None: nobody can tell (`Exchange.claimed_at`)."""
        return None if self._claimed_at is None else max(0.0, self._claimed_at - self._began_at)

    # Writing.

    def write(self, data: bytes) -> None:
        """Send `data` as it is."""
        self._http1.tally.http_bytes_out += len(data)
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

    def _more_follows(self, framing: Framing, length: int) -> None:
        """A piece has been written, but not the last: wait for the kernel to take it."""
        if self.write_paused:
            self._unflushed.append(length)
        elif self.exchange is not None:
            self.exchange.handle(Flushed(length))
        if framing.spent:
            self._connection.handle(Event.ANSWERED)

    def flush(self) -> None:
        """Tell the stream that all has been taken."""
        unflushed, self._unflushed = self._unflushed, []
        for length in unflushed:
            if self.exchange is not None:
                self.exchange.handle(Flushed(length))

    def _invalid(self, why: str) -> None:
        """The worker should have refused it; what the client gets cannot be mended once its head is out."""
        assert self.exchange is not None
        _log.error("%s: bad reply: %s", self.exchange.stream.channel, why)
        self._connection.handle(Event.INVALID)

    def write_answer(self, status: int, extra: Headers | None, keep_alive: bool, more_lines: bytes = b"") -> None:
        """Write a whole response in the server's own name. `more_lines` as for `HeadWriter.write`."""
        incoming = self.incoming
        method, version, request_id = "GET", "1.1", b""
        if incoming is not None:
            method, version, request_id = incoming.method, incoming.http_version, incoming.request_id
        headers, body = plain_answer(status, extra)
        head, framing = self._http1.head_writer.write(
            status, headers, len(body), method, version, keep_alive, request_id, more_lines
        )
        self._status = status
        self.framing = framing
        self._first_at = self._http1.clock.seconds()
        self.write(head if framing.no_body else head + self._framed(framing, body))

    def finish(self) -> None:
        """The response is complete."""
        framing = self.framing
        assert framing is not None
        self.exchange = None
        self.log_access()
        self._unflushed.clear()
        self._connection.handle(
            Event.WRITTEN_LAST if framing.close else Event.UNTAKEN if self.write_paused else _WRITTEN
        )

    def forget_flow(self) -> None:
        """The connection ends, or becomes another's. (With a producer, some transports would never close.)"""
        self.write_paused = False
        self._server.slow_clients.end(self._connection)
        self.transport.unregisterProducer()

    def log_access(self, refused: Refused | None = None) -> None:
        """The present request is over: count it, and write it into the access log.

        Args:
            refused: what it was, where it was refused before it was all there; ignored otherwise.
        """
        server, incoming = self._server, self.incoming or refused
        now = self._http1.clock.seconds()
        self.tally.answered(self._status, self._began_at, self._first_at, now)
        if incoming is not None and server.access_log.enabled:
            server.access_log.write(self._entry(incoming, now))

    def _entry(self, incoming: Incoming | Refused, now: float) -> Entry:
        """What the access log has to say of a request that is over."""
        scheme, client, _ = self.addresses
        trusted = self._server.exchanges.trusted
        if trusted is not None:
            client, _ = h.seen_by_proxies(incoming.headers, client, scheme, trusted)
        return Entry(
            at=self._http1.wall(),
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
            pool=self.tally.pool,
        )

    # IPushProducer: the transport calls when its buffer is full, and when it is not any more.

    def pauseProducing(self) -> None:
        self.write_paused = True
        self._server.slow_clients.begin(self._connection)

    def resumeProducing(self) -> None:
        self.write_paused = False
        self._server.slow_clients.end(self._connection)
        self.flush()
        if self.file is not None:
            self.file.resume()
        self._connection.handle(Event.TAKEN)

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
