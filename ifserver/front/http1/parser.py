"""The bytes of HTTP/1.0 and 1.1 to requests.

The client's bytes are parsed once: by llhttp, through httptools, whose only importer this is; bodies in chunks by
`chunked`, from the end of the head on.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import httptools

from ifserver import headers as h
from ifserver.front.http1.chunked import ChunkedBody
from ifserver.front.incoming_request import BadRequest, Incoming, Refused, examine

if TYPE_CHECKING:
    from ifserver.config.settings import FrontSettings
    from ifserver.messages import Headers

__all__ = ["RequestParser", "is_websocket_upgrade"]

# A number, since bytes are searched for it much faster than for bytes.
_SPACE: Final = ord(" ")
#: A method, or the begin of one (RFC 9110 9.1).
_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?: |\Z)")
#: What a log shows of a request line that llhttp does not take. Anything else may be the rest of a body that was longer
#: than its client has announced, and is not to be read.
_LINE: Final = re.compile(rb"([A-Z-]{1,20}) ([!-~]{0,1000})[!-~]*(?: +HTTP/([0-9.]{1,9})\Z)?")
#: Ends every head (RFC 9112 2.1).
_EMPTY_LINE: Final = b"\r\n\r\n"
#: Empty lines that are ignored before a request. RFC 9112 2.2 asks for at least one, since some clients send one behind
#: a body; without a limit, a client could keep the server busy with nothing else.
_MAX_EMPTY_LINES: Final = 4
#: An empty body in chunks. It shows llhttp that a body which it has not seen has ended.
_NO_CHUNKS: Final = b"0\r\n\r\n"
#: llhttp's errors for versions other than 1.0 and 1.1; the preface of HTTP/2 without prior knowledge is one of them.
_OTHER_VERSION: Final = frozenset({"Invalid HTTP version", "Pause on PRI/Upgrade"})

#: What llhttp raises where it does not go on: at an error, or where another protocol may begin.
_STOPS: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade)
#: Takes the place of a parser that is not needed any more. It is never fed.
_UNUSED: Final = httptools.HttpRequestParser(None)

_log = logging.getLogger(__name__)


class RequestParser:
    """Parses what one client sends.

    Args:
        arrived: is called with every request that has arrived completely, its body included.
    """

    def __init__(self, settings: FrontSettings, arrived: Callable[[Incoming], None]) -> None:
        self._settings = settings
        self._max_headers, self._max_header_bytes = settings.max_headers, settings.max_header_bytes
        self._arrived = arrived
        self._parser = httptools.HttpRequestParser(self)
        #: Whether a head has begun and not ended.
        self.in_head = False
        #: The request whose body is being read.
        self.incoming: Incoming | None = None
        #: What is wrong with what has come; nothing is parsed any more.
        self.refusal: BadRequest | None = None
        #: What came behind a WebSocket's handshake; from there on nothing is parsed.
        self.early: bytes | None = None
        self._target = b""
        self._headers: Headers = []
        # Bytes of the pieces that the head has come in so far.
        self._head_bytes = 0
        # Reads the body of `incoming`, if that comes in chunks.
        self._chunks: ChunkedBody | None = None
        # A request that offers another protocol than WebSocket, which is declined.
        self._declined: Incoming | None = None
        # The last Host that was right: the next one is the same, as a rule.
        self._host = b""
        # Whether a request line is awaited, what has come of it, and how many empty lines before it; the last bytes of
        # a head that was not complete.
        self._in_line = True
        self._line = self._tail = b""
        self._empty_lines = 0

    def feed(self, data: bytes) -> None:
        """Parse the next bytes. `refusal` and `early` show whether that was the last.

        llhttp is fed so that a message only ever begins where a piece does: how it begins is looked at here.
        """
        if self._in_line:
            if not self._line and data.find(_EMPTY_LINE) == len(data) - 4:
                # Nothing but one head: what most clients send. The same as below, in short.
                end = data.find(b"\r\n")
                if data[0] > _SPACE and data.count(_SPACE, 0, end) == 2 and data[end - 9 : end - 3] == b" HTTP/":
                    self._in_line, self.in_head = False, True
                    self._target, self._headers, self._head_bytes = b"", [], len(data)
                    try:
                        self._parser.feed_data(data)
                    except _STOPS as error:
                        self._stopped(error, data)
                    if self.refusal is not None:
                        self._line = data[:end]
                    return
            elif self._line:
                if self._goes_on(data):
                    return
                data = self._line + data
        self._feed_pieces(data)

    def _goes_on(self, data: bytes) -> bool:
        """Whether `data` is nothing but more of the request line. What has come of that is not looked at again, since
        it may come byte by byte."""
        if (
            b"\r" in data
            or b"\n" in data
            or self._line.endswith(b"\r")
            or (self._line.find(b" ", 0, 32) < 0 and not _METHOD.match(data))
        ):
            return False
        self._line += data
        self._limit_line(self._line)
        return True

    def close(self) -> None:
        """Parse no more, and free what is held of the client's bytes: the connection has ended.

        This object and llhttp's parser refer to each other. Without this, they and up to `max_header_bytes` of an
        incomplete head stay until the next full garbage collection, which may be hours away.
        """
        self.refusal = self.refusal or BadRequest(400, "the connection has ended")
        self._parser = _UNUSED
        self._target = self._line = self._tail = b""
        self._headers = []
        self._chunks = self._declined = self.incoming = self.early = None

    def refused(self) -> Refused:
        """What the log can show of the request that is refused."""
        incoming = self.incoming
        if incoming is not None:
            return Refused(incoming.method, incoming.target, incoming.http_version, incoming.headers)
        if self._target and not self._in_line:
            version = self._parser.get_http_version()
            method = self._parser.get_method().decode("latin-1")
            return Refused(method, self._target, "" if version == "0.0" else version, self._headers)
        line = _LINE.match(self._line)
        if line is None:
            return Refused("", b"", "", [])
        return Refused(line[1].decode("ascii"), line[2], line[3].decode("ascii") if line[3] else "", [])

    def _feed_pieces(self, data: bytes) -> None:
        view = memoryview(data)
        start = 0
        while start < len(data):
            if self._in_line:
                start = self._begin(data, start)
                if start < 0:
                    return
            if self._chunks is not None:
                start = self._feed_chunks(self._chunks, data, start)
            else:
                end = self._end_of_piece(data, start)
                self._feed(view[start:end])
                start = end
            if self.refusal is not None:
                return
            if self.early is not None:
                self.early += data[start:]
                return

    def _feed_chunks(self, chunks: ChunkedBody, data: bytes, start: int) -> int:
        """Decode more of a body in chunks, and return where it ends in `data`, or the length of that."""
        try:
            end = chunks.feed(data, start)
        except BadRequest as error:
            self.refusal = error
            return start
        if chunks.complete:
            self._chunks = None
            self._feed(_NO_CHUNKS)
        return end

    def _end_of_piece(self, data: bytes, start: int) -> int:
        """How far the current head or body may reach; it does not end before that."""
        incoming = self.incoming
        if incoming is not None and incoming.content_length is not None:
            return min(len(data), start + incoming.content_length - incoming.body_bytes)
        tail, self._tail = self._tail, b""
        if tail:
            found = (tail + data[:3]).find(_EMPTY_LINE)
            if found >= 0:
                return found + 4 - len(tail)
        found = data.find(_EMPTY_LINE, start)
        if found >= 0:
            return found + 4
        self._tail = data[-3:] if len(data) - start > 2 else (tail + data[start:])[-3:]
        return len(data)

    def _begin(self, data: bytes, start: int) -> int:
        """Where the request line begins once all of it is there; -1 until then, and where it is refused.

        llhttp takes more than one space between its parts, the lines of RTSP and ICE (RFC 9112 3), and half an empty
        line before it (RFC 9112 2.2).
        """
        while data.startswith(b"\r\n", start):
            start += 2
            self._empty_lines += 1
            if self._empty_lines > _MAX_EMPTY_LINES:
                self.refusal = BadRequest(400, "too many empty lines before a request")
                return -1
        end = data.find(b"\r\n", start)
        self._line = line = data[start : end if end >= 0 else None]
        if end >= 0:
            if data[start] > _SPACE and line.count(_SPACE) == 2 and line[-9:-3] == b" HTTP/":
                self._in_line, self.in_head = False, True
                self._target, self._headers, self._head_bytes = b"", [], 0
                return start
        elif not line or line == b"\r":
            return -1
        elif _METHOD.match(line) and b"\n" not in line and b"\r" not in line[:-1]:
            self.in_head = True
            self._limit_line(line)
            return -1
        self.refusal = BadRequest(400, "not a request line")
        return -1

    def _feed(self, data: bytes | memoryview) -> None:
        if self.in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except _STOPS as error:
            self._stopped(error, data)
        if self.in_head:
            self._check_head()

    def _stopped(self, error: Exception, data: bytes | memoryview) -> None:
        """llhttp has not taken all of `data`."""
        if isinstance(error, httptools.HttpParserError):
            self.refusal = self.refusal or _refusal(error, self._line or bytes(data))
            return
        rest = data[error.args[0] :]
        if self.early is not None:
            self.early = bytes(rest)
            return
        self._decline()
        if rest:
            self._feed(rest)

    def _check_head(self) -> None:
        """Is it too large, as far as it has come? All bytes count: llhttp reports a field when it has ended."""
        if len(self._headers) > self._max_headers or self._head_bytes > self._max_header_bytes:
            self.refusal = self.refusal or BadRequest(431, "too many or too large header fields")

    def _limit_line(self, line: bytes) -> None:
        """Is a request line, or its target, too long?"""
        if len(line) > self._max_header_bytes:
            self.refusal = self.refusal or BadRequest(414, "the request target is too long")

    # What httptools calls.

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > self._max_header_bytes:
            self._limit_line(self._target)

    def on_header(self, name: bytes, value: bytes) -> None:
        # RFC 9110 5.5: white space behind a value is no part of it; llhttp leaves it there.
        self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.in_head = False
        if self._declined is not None:
            self.incoming, self._declined = self._declined, None
            return
        if len(self._headers) > self._max_headers or self._head_bytes > self._max_header_bytes:
            self._check_head()
        if self.refusal is not None:
            return
        parser = self._parser
        try:
            incoming = Incoming(
                parser.get_method().decode("latin-1"),
                self._target,
                parser.get_http_version(),
                self._headers,
                parser.should_keep_alive(),
            )
            self._host = examine(incoming, self._settings, self._host)
            if parser.should_upgrade():
                incoming.upgrade = True
                incoming.upgrade = is_websocket_upgrade(incoming)
                if not incoming.upgrade:
                    self._declined = incoming
                elif incoming.chunked or incoming.content_length:
                    raise BadRequest(400, "a WebSocket handshake with a body")
        except BadRequest as error:
            self.refusal = error
            return
        self.incoming = incoming
        if incoming.chunked:
            self._chunks = ChunkedBody(incoming, self._settings)

    def on_body(self, body: bytes) -> None:
        incoming = self.incoming
        if incoming is not None:
            incoming.body_bytes += len(body)
            incoming.body.append(body)

    def on_message_complete(self) -> None:
        incoming = self.incoming
        if incoming is None or self.refusal is not None:
            return
        if self._declined is not None:
            if incoming.chunked or incoming.content_length:
                return  # llhttp takes its body for bytes of the other protocol
            self._declined = None
        self.incoming = None
        self._in_line = True
        self._line = b""
        self._head_bytes = self._empty_lines = 0
        incoming.complete = True
        # RFC 9110 10.1.1: a server may omit 100 Continue when it has got the body.
        incoming.expects_continue = False
        if incoming.upgrade:
            self.early = b""
        self._arrived(incoming)

    def _decline(self) -> None:
        """Go on as if no other protocol had been offered (RFC 9110 7.8).

        llhttp has left the body unread, and cannot be made to read it: so another one is shown a head that is like the
        one before in what defines where the body ends, and whether the connection does, and in nothing else.
        """
        incoming = self._declined
        if incoming is None:
            return
        if incoming.chunked:
            framing = b"transfer-encoding: chunked"
        else:
            framing = b"content-length: %d" % (incoming.content_length or 0)
        if not incoming.keep_alive:
            framing += b"\r\nconnection: close"
        self._parser = httptools.HttpRequestParser(self)
        self._target, self._headers = b"", []
        self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")


def is_websocket_upgrade(incoming: Incoming) -> bool:
    """Whether the client asks for a WebSocket, rightly or not (RFC 6455 4.1).

    What is offered in HTTP/1.0 must be ignored (RFC 9110 7.8).
    """
    if not incoming.upgrade or incoming.method != "GET" or incoming.http_version != "1.1":
        return False
    return b"websocket" in (item.lower() for item in h.list_items(incoming.headers, b"upgrade"))


def _refusal(error: httptools.HttpParserError, line: bytes) -> BadRequest:
    """What is answered to what llhttp does not take; `line` has come of the request line."""
    if isinstance(error, httptools.HttpParserCallbackError):
        _log.error("this is a defect of ifserver", exc_info=error.__context__)
        return BadRequest(500, "internal error")
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        if not _METHOD.match(line):
            return BadRequest(400, "not a request line")
        return BadRequest(501, "a method that is not known")  # RFC 9110 9.1
    why = str(error)
    return BadRequest(505 if why in _OTHER_VERSION else 400, why)
