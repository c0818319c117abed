"""The bytes of a response's head (RFC 9112 4, 6). Pure."""

from __future__ import annotations

import http
from email.utils import formatdate
from typing import Final

from msgspec import Struct

from ifserver import headers as h
from ifserver.clock import WallClock
from ifserver.front.incoming_request import REQUEST_ID
from ifserver.headers import bad_field, bad_in_value
from ifserver.messages import Headers

__all__ = ["BadResponse", "Framing", "HeadWriter", "plain_answer", "reason_phrase", "server_timing"]

_STATUS_LINES: Final[dict[int, bytes]] = {}


class BadResponse(Exception):
    """A response that cannot be sent as it is."""


class Framing(Struct, eq=False, gc=False):
    """How the end of one response's body is marked (RFC 9112 6.3)."""

    #: HEAD, 204, 205, 304: nothing follows the head, whatever is in its fields.
    no_body: bool
    #: The connection ends behind this response.
    close: bool = False
    chunked: bool = False
    #: Bytes that Content-Length still promises; None: it promises nothing.
    remaining: int | None = None

    @property
    def ends_with_connection(self) -> bool:
        """Whether nothing but the end of the connection marks the end of the body."""
        return not self.no_body and not self.chunked and self.remaining is None

    @property
    def spent(self) -> bool:
        """Whether the client has all that the head has promised: it takes the response for complete."""
        return self.no_body or self.remaining == 0

    def framed(self, body: bytes) -> bytes:
        """A piece of the body as it is sent.

        Raises:
            BadResponse: it is more than Content-Length promised.
        """
        if self.chunked:
            return b"%x\r\n%b\r\n" % (len(body), body)
        if self.remaining is not None:
            if len(body) > self.remaining:
                raise BadResponse("the body is longer than its Content-Length")
            self.remaining -= len(body)
        return body


def reason_phrase(status: int) -> str:
    """The registered reason phrase, or an empty one."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""


def plain_answer(status: int, extra: Headers | None = None) -> tuple[Headers, bytes]:
    """Headers and body of an answer in the server's own name."""
    body = f"{status} {reason_phrase(status)}\n".encode()
    fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    return fields + (extra or []), body


def server_timing(queue_s: float | None, until_start_s: float) -> bytes:
    """The field Server-Timing (W3C, https://www.w3.org/TR/server-timing/), whose times are in milliseconds.

    Args:
        until_start_s: from the request's head until the response began.
    """
    if queue_s is None:
        return b'server-timing: app;dur=%.1f;desc="queue included"' % (until_start_s * 1000)
    return b"server-timing: queue;dur=%.1f, app;dur=%.1f" % (
        queue_s * 1000,
        max(0.0, until_start_s - queue_s) * 1000,
    )


#: Names of fields that are remembered.
_MAX_NAMES: Final = 1000
#: Names of fields that define how the response ends, and of those in whose place ours would be written.
_OF_FRAMING: Final = frozenset({b"connection", b"content-length", b"transfer-encoding"})
_IN_PLACE_OF_OURS: Final = frozenset({b"date", b"server", REQUEST_ID})
_LENGTH_START: Final = b"\r\ncontent-length: "
_REQUEST_ID_START: Final = b"\r\n" + REQUEST_ID + b": "


class HeadWriter:
    """Writes heads; `wall` has the time for Date, `server_header` is the value of Server.

    Each line is written behind the end of the one before.
    """

    def __init__(self, wall: WallClock, server_header: str | None) -> None:
        self._wall = wall
        self._server = b"" if server_header is None else b"\r\nserver: " + server_header.encode("latin-1")
        self._second = -1
        #: Date of that second, and Server.
        self._defaults = b""
        #: Names that were checked and mean nothing to us, and how their lines begin: applications use few, and again
        #: and again.
        self._starts: dict[bytes, bytes] = {}

    def write(
        self,
        status: int,
        headers: Headers,
        whole_body: int | None,
        method: str,
        http_version: str,
        keep_alive: bool,
        request_id: bytes = b"",
        more_lines: bytes = b"",
    ) -> tuple[bytes, Framing]:
        """The head of a response and the framing of its body.

        Args:
            whole_body: bytes of the body if all of it is there; None if more will come.
            keep_alive: whether the client, and we, would keep the connection.
            request_id: the value of X-Request-ID unless the application sends one; empty: none.
            more_lines: fields of ours, each behind the end of the line before.

        Raises:
            BadResponse: a field cannot be sent, or Content-Length is not what the body has.
        """
        # RFC 9110 6.4.1, and 15.3.6 for 205.
        framing = Framing(method == "HEAD" or status in (204, 205, 304), not keep_alive)
        head = [_STATUS_LINES.get(status) or _status_line(status)]
        starts = self._starts
        # What Content-Length should be, where it may be sent.
        whole_length = None if whole_body is None or status in (204, 205) else b"%d" % whole_body
        has_date = has_server = False
        for name, value in headers:
            start = starts.get(name)
            if start is None:
                if name in _OF_FRAMING:
                    if name == b"content-length" and framing.remaining is None and value == whole_length:
                        # As a rule; the same as below, in short.
                        framing.remaining = whole_body
                        head.append(_LENGTH_START + value)
                    else:
                        head.append(_framing_line(framing, status, name, value))
                    continue
                if name == b"date":
                    has_date = True
                elif name == b"server":
                    has_server = True
                elif name == REQUEST_ID:
                    request_id = b""
                start = self._start(name, value)
            if bad_in_value(value) is not None:
                raise BadResponse(bad_field(name, value))
            head.append(start + value)
        if has_date or has_server:
            head += (b"" if has_date else self._date(), b"" if has_server else self._server)
        else:
            if int(self._wall()) != self._second:
                self._date_and_server()
            head.append(self._defaults)
        if framing.no_body:
            framing.remaining = None
            if status == 205:
                # A client does not know that it has no body (RFC 9112 6.3).
                head.append(_LENGTH_START + b"0")
        elif whole_body is None or framing.remaining != whole_body:
            _frame(framing, head, whole_body, http_version)
        if framing.close:
            head.append(b"\r\nconnection: close")
        elif http_version == "1.0":
            head.append(b"\r\nconnection: keep-alive")
        if request_id:
            head.append(_REQUEST_ID_START + request_id)
        head.append(more_lines + b"\r\n\r\n")
        return b"".join(head), framing

    def _start(self, name: bytes, value: bytes) -> bytes:
        """How the line of a field begins."""
        if not h.is_token(name):
            raise BadResponse(bad_field(name, value))
        start = b"\r\n" + name + b": "
        if name not in _IN_PLACE_OF_OURS and len(self._starts) < _MAX_NAMES:
            self._starts[name] = start
        return start

    def default_fields(self) -> Headers:
        """The fields that every response has: Date, and Server unless it is switched off."""
        lines = self._date_and_server().split(b"\r\n")[1:]
        return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]

    def _date(self) -> bytes:
        return b"\r\ndate: " + formatdate(self._wall(), usegmt=True).encode()

    def _date_and_server(self) -> bytes:
        second = int(self._wall())
        if second != self._second:
            self._second = second
            self._defaults = self._date() + self._server
        return self._defaults


def _framing_line(framing: Framing, status: int, name: bytes, value: bytes) -> bytes:
    """Note what one of the application's fields means for the framing; its line, empty if it is not sent."""
    if name == b"content-length":
        length = h.length(value)
        if length is None:
            raise BadResponse(f"Content-Length: {value[:80]!r}")
        if framing.remaining is not None:
            raise BadResponse("two Content-Lengths")
        framing.remaining = length
        # RFC 9110 8.6: with 204 a server MUST NOT send it. With 205 it is 0, whatever the application sends.
        return b"" if status in (204, 205) else _LENGTH_START + value
    if name == b"connection":
        framing.close = framing.close or b"close" in value.lower()
    # Like Connection, Transfer-Encoding is ours to choose (ASGI www.rst "Response Start").
    return b""


def _frame(framing: Framing, head: list[bytes], whole_body: int | None, http_version: str) -> None:
    """Choose how the end of the body is marked, where the application has not (RFC 9112 6.1 to 6.3)."""
    if framing.remaining is not None:
        if whole_body is not None and whole_body != framing.remaining:
            raise BadResponse(f"Content-Length is {framing.remaining}, the body has {whole_body} bytes")
    elif whole_body is not None:
        head.append(_LENGTH_START + b"%d" % whole_body)
        framing.remaining = whole_body
    elif http_version == "1.1":
        framing.chunked = True
        head.append(b"\r\ntransfer-encoding: chunked")
    else:
        framing.close = True


def _status_line(status: int) -> bytes:
    """The line of a status that has not been written before."""
    if not 200 <= status <= 599:
        raise BadResponse(f"status {status}")
    line = _STATUS_LINES[status] = f"HTTP/1.1 {status} {reason_phrase(status)}".encode()
    return line
