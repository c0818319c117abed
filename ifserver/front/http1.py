"""The bytes of HTTP/1.0 and 1.1 to requests.

The client's bytes are parsed once, by llhttp, through httptools, whose only importer this is.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final

import httptools

from ifserver import headers as h
from ifserver.front.requests import BadRequest, Incoming, Refused, is_websocket_upgrade
from ifserver.messages import Headers
from ifserver.settings import FrontSettings

__all__ = ["RequestParser"]

#: What may stand in a Host: a name or an address, and a port; nothing at all too (RFC 9110 7.2, RFC 3986 3.2.2).
_HOST: Final = re.compile(
    rb"""(?: (?!:) [A-Za-z0-9\-._~!$&'()*+,;=]*+ (?:%[0-9A-Fa-f]{2} [A-Za-z0-9\-._~!$&'()*+,;=]*+)*+
           | \[ (?: [0-9A-Fa-f:.]+ | [vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~:]+ ) \] )
         (?: :[0-9]{0,5} )? \Z""",
    re.VERBOSE,
)
#: Where the authority of an absolute-form ends (RFC 3986 3.2).
_END_OF_AUTHORITY: Final = re.compile(rb"[/?#]")
#: The ports that need not be said (RFC 9110 4.2.1, 4.2.2).
_DEFAULT_PORTS: Final = {b"http": b"80", b"https": b"443"}
#: The fields that are looked at one by one.
_TELLING: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
# Numbers, since bytes are searched for them much faster than for bytes.
_SPACE: Final = ord(" ")
_UNDERSCORE: Final = ord("_")
#: A method, or the begin of one (RFC 9110 9.1).
_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?: |\Z)")
#: Ends every head, and every body in chunks (RFC 9112 2.1, 7.1).
_EMPTY_LINE: Final = b"\r\n\r\n"
#: Places in one piece of a body in chunks where its end is looked for; it may be full of empty lines.
_MAX_LOOKS: Final = 64
#: Bytes around a chunk that nobody minds, for each byte of the body: a body may come in chunks of one byte.
_OVERHEAD_PER_BYTE: Final = 16
#: What llhttp says of versions other than 1.0 and 1.1; the preface of HTTP/2 without prior knowledge is one of them.
_OTHER_VERSION: Final = frozenset({"Invalid HTTP version", "Pause on PRI/Upgrade"})

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
        # Of the body: what came beside it (sizes and extensions of chunks, trailers).
        self._overhead = 0
        # A request that offers another protocol than WebSocket, which is declined.
        self._declined: Incoming | None = None
        # The last Host that was right: the next one is the same, as a rule.
        self._host = b""
        # Whether a request line is awaited, and what has come of it; the last bytes of what was not complete.
        self._in_line = True
        self._line = self._tail = b""
        #: Whether a message may begin in the middle of what llhttp is being fed.
        self._unseen = False

    def feed(self, data: bytes) -> None:
        """Parse the next bytes. `refusal` and `early` tell whether that was the last.

        llhttp is fed so that a message only ever begins where a piece does: how it begins is looked at here.
        """
        if self._in_line:
            if not self._line and data.find(_EMPTY_LINE) == len(data) - 4:
                # Nothing but one head: what most clients send. The same as below, in short.
                end = data.find(b"\r\n")
                if data[0] > _SPACE and data.count(_SPACE, 0, end) == 2 and data[end - 9 : end - 3] == b" HTTP/":
                    self._in_line = False
                    self._feed(data)
                    return
            elif self._line:
                data = self._line + data
        self._feed_pieces(data)

    def refused(self) -> Refused:
        """What the log can say of the request that is refused."""
        incoming = self.incoming
        if incoming is not None:
            return Refused(incoming.method, incoming.target, incoming.http_version, incoming.headers)
        if self._in_line:
            method = _METHOD.match(self._line)
            return Refused(method[0].decode("latin-1").rstrip() if method else "", b"", "", [])
        if not self._target:
            return Refused("", b"", "", [])
        version = self._parser.get_http_version()
        method_name = self._parser.get_method().decode("latin-1")
        return Refused(method_name, self._target, "" if version == "0.0" else version, self._headers)

    def _feed_pieces(self, data: bytes) -> None:
        view = memoryview(data)
        start = looks = 0
        tail = self._tail
        while start < len(data):
            if self._in_line:
                start = self._begin(data, start)
                if start < 0:
                    return
            end = self._end_of_piece(data, start, looks)
            self._feed(view[start:end])
            self._unseen = False
            if self.refusal is not None:
                return
            if self.early is not None:
                self.early += data[end:]
                return
            self._tail = b""
            start = end
            looks += 1
        if self.in_head or (self.incoming is not None and self.incoming.chunked):
            self._tail = data[-3:] if len(data) > 2 else (tail + data)[-3:]

    def _end_of_piece(self, data: bytes, start: int, looks: int) -> int:
        """Up to where the present message may reach; none ends before that."""
        incoming = self.incoming
        if incoming is not None:
            if incoming.content_length is not None:
                return min(len(data), start + incoming.content_length - incoming.body_bytes)
            self._unseen = looks > _MAX_LOOKS
            if self._unseen:
                return len(data)
        if self._tail:
            found = (self._tail + data[:3]).find(_EMPTY_LINE)
            if found >= 0:
                return found + 4 - len(self._tail)
        found = data.find(_EMPTY_LINE, start)
        return len(data) if found < 0 else found + 4

    def _begin(self, data: bytes, start: int) -> int:
        """Where the request line begins once all of it is there; -1 until then, and where it is refused.

        llhttp takes more than one space between its parts, the lines of RTSP and ICE (RFC 9112 3), and half an empty
        line before it (RFC 9112 2.2).
        """
        while data.startswith(b"\r\n", start):
            start += 2  # RFC 9112 2.2: a server SHOULD ignore an empty line there
        end = data.find(b"\r\n", start)
        self._line = line = data[start : end if end >= 0 else None]
        if end >= 0:
            if data[start] > _SPACE and line.count(_SPACE) == 2 and line[-9:-3] == b" HTTP/":
                self._in_line = False
                return start
        elif not line or line == b"\r":
            return -1
        elif _METHOD.match(line) and b"\n" not in line and b"\r" not in line[:-1]:
            self.in_head = True
            if len(line) > self._max_header_bytes:
                self.refusal = BadRequest(414, "the request target is too long")
            return -1
        self.refusal = BadRequest(400, "not a request line")
        return -1

    def _feed(self, data: bytes | memoryview) -> None:
        in_head, incoming = self.in_head, self.incoming
        before = incoming.body_bytes if incoming is not None else 0
        length = len(data)
        self._head_bytes = self._head_bytes + length if in_head else length
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                if self.early is not None:
                    self.early = bytes(data)
                    return
                self._decline()
                if data:
                    continue
            except httptools.HttpParserError as error:
                self.refusal = self.refusal or _refusal(error, self._line or bytes(data))
            break
        if self.in_head:
            self._check_head()
        elif incoming is not None and incoming is self.incoming and incoming.content_length is None:
            self._overhead += length - (incoming.body_bytes - before)
            if self._overhead > self._max_header_bytes + _OVERHEAD_PER_BYTE * incoming.body_bytes:
                self.refusal = self.refusal or BadRequest(431, "too much around the chunks of the body")

    def _check_head(self) -> None:
        """Is it too large, as far as it has come? All bytes count: of a field llhttp tells when it has ended."""
        if len(self._headers) > self._max_headers or self._head_bytes > self._max_header_bytes:
            self.refusal = self.refusal or BadRequest(431, "too many or too large header fields")

    # What httptools calls.

    def on_message_begin(self) -> None:
        if self._unseen:
            self.refusal = self.refusal or BadRequest(400, "a request behind a body of too many empty lines in one go")
        self.in_head = True
        self._target = b""
        self._headers = []
        self._overhead = 0

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > self._max_header_bytes:
            self.refusal = self.refusal or BadRequest(414, "the request target is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        # Outside of a head it is a trailer: it must not pass for a header (RFC 9110 6.5.1), and ASGI has none.
        if self.in_head:
            # RFC 9110 5.5: white space behind a value is no part of it; llhttp leaves it there.
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.in_head = False
        if self._declined is not None:
            self.incoming, self._declined = self._declined, None
            return
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
            has_body = self._examine(incoming)
            if parser.should_upgrade():
                incoming.upgrade = True
                incoming.upgrade = is_websocket_upgrade(incoming)
                if not incoming.upgrade:
                    self._declined = incoming
                elif has_body:
                    raise BadRequest(400, "a WebSocket handshake with a body")
        except BadRequest as error:
            self.refusal = error
            return
        self.incoming = incoming

    def on_body(self, body: bytes) -> None:
        incoming = self.incoming
        if incoming is None:
            return
        incoming.body_bytes += len(body)
        limit = self._settings.max_body_bytes
        if limit is not None and incoming.body_bytes > limit:
            self.refusal = self.refusal or BadRequest(413, "the body is too large")
        else:
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
        self._head_bytes = 0
        incoming.complete = True
        # RFC 9110 10.1.1: a server may omit 100 Continue when it has got the body.
        incoming.expects_continue = False
        if incoming.upgrade:
            self.early = b""
        self._arrived(incoming)

    def _decline(self) -> None:
        """Go on as if no other protocol had been offered (RFC 9110 7.8).

        llhttp has left the body unread, and cannot be told to read it: so another one is shown a head that is like the
        one before in what tells where the body ends, and whether the connection does, and in nothing else.
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
        self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")

    # What can be said of a request by its head alone.

    def _examine(self, incoming: Incoming) -> bool:
        """Note how the body is framed, and what the client expects; whether there is a body.

        Raises:
            BadRequest: the request is refused.
        """
        version = incoming.http_version
        if version != "1.1" and version != "1.0":
            raise BadRequest(505, f"HTTP version {version}")
        if incoming.method == "CONNECT":
            # RFC 9110 9.3.6: a server that is no proxy does not know how to tunnel.
            raise BadRequest(501, "CONNECT is not supported")
        hosts = 0
        underscores = False
        for name, value in incoming.headers:
            if name not in _TELLING:
                if _UNDERSCORE in name:
                    underscores = True
            elif name == b"host":
                hosts += 1
                if value != self._host:
                    if not _HOST.match(value):
                        raise BadRequest(400, "not a Host")
                    self._host = value
            elif name == b"content-length":
                incoming.content_length = h.length(value)
                if incoming.content_length is None:
                    raise BadRequest(400, "not a Content-Length")
            elif name == b"transfer-encoding":
                _check_coding(value, version, incoming)
            elif name == b"expect" and version == "1.1":
                if value.lower() != b"100-continue":
                    raise BadRequest(417, "an expectation that cannot be met")
                incoming.expects_continue = True
        if underscores:
            self._treat_underscores(incoming)
        if hosts > 1 or (not hosts and version == "1.1"):
            # RFC 9112 3.2: a server MUST respond with 400 to either.
            raise BadRequest(400, f"{hosts} Host header fields")
        if incoming.target[:1] not in b"/*":
            _take_host_of_target(incoming)
        length, limit = incoming.content_length, self._settings.max_body_bytes
        if length is not None and limit is not None and length > limit:
            raise BadRequest(413, "the body is too large")
        return incoming.chunked or bool(length)

    def _treat_underscores(self, incoming: Incoming) -> None:
        # RFC 3875 4.1.18: in a CGI-like environment (WSGI's too) `X_User` and `X-User` have the same name, so that a
        # client could say what a proxy removes from its requests, or sets.
        how = self._settings.underscores_in_headers
        if how == "refuse":
            raise BadRequest(400, "a header name with '_'")
        if how == "drop":
            incoming.headers = [each for each in incoming.headers if _UNDERSCORE not in each[0]]


def _check_coding(value: bytes, version: str, incoming: Incoming) -> None:
    if version == "1.0":
        raise BadRequest(400, "Transfer-Encoding in HTTP/1.0")  # RFC 9112 6.1: its framing is faulty
    if value.lower() != b"chunked":
        # RFC 9112 6.1: a server that does not understand a transfer coding SHOULD respond with 501.
        raise BadRequest(501, "a transfer coding other than chunked")
    incoming.chunked = True


def _take_host_of_target(incoming: Incoming) -> None:
    """RFC 9112 3.2.2: of a request in absolute-form a server MUST ignore Host, and use the host of the target.

    Where the two disagree, somebody else may have gone by the other one.
    """
    scheme, _, rest = incoming.target.partition(b"://")
    authority = _END_OF_AUTHORITY.split(rest, 1)[0]
    if not _HOST.match(authority):
        raise BadRequest(400, "not a host in the request target")
    host = h.find(incoming.headers, b"host")
    if host is None:
        incoming.headers = [(b"host", authority), *incoming.headers]
    elif _normal(host, scheme) != _normal(authority, scheme):
        raise BadRequest(400, "Host is not that of the request target")


def _normal(authority: bytes, scheme: bytes) -> bytes:
    """`authority` in lower case and without a port that need not be said (RFC 9110 4.2.3)."""
    authority = authority.lower()
    host, colon, port = authority.rpartition(b":")
    if colon and port in (b"", _DEFAULT_PORTS[scheme.lower()]):
        return host
    return authority


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
