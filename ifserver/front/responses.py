"""The bytes of a response's head (RFC 9112 4, 6). Pure."""

from __future__ import annotations

import http
from collections.abc import Callable
from email.utils import formatdate
from typing import Final

from ifserver import headers as h
from ifserver.messages import Headers

__all__ = ["BadResponse", "Framing", "HeadWriter", "bad_field", "has_no_body", "plain_answer", "reason_phrase"]

_STATUS_LINES: Final[dict[int, bytes]] = {}
#: More digits than any body has; ``int()`` raises where there are thousands.
_LENGTH_DIGITS: Final = 18


class BadResponse(Exception):
    """A response that cannot be sent as it is."""


def bad_field(name: bytes, value: bytes) -> str:
    """What is wrong with a header field, for the log: without its value, which may be a cookie."""
    bad = next(
        (f"{byte:#04x} at {i}" for i, byte in enumerate(value) if not h.is_value(bytes([byte]))), "nothing wrong"
    )
    return f"not a header field: {name[:80]!r} with a value of {len(value)} bytes and {bad} in it"


class Framing:
    """How the end of one response's body is told (RFC 9112 6.3)."""

    __slots__ = ("chunked", "close", "no_body", "remaining")

    def __init__(self, no_body: bool) -> None:
        #: HEAD, 204, 304: nothing follows the head, whatever its fields say.
        self.no_body = no_body
        self.chunked = False
        #: Bytes that Content-Length still promises; None: it promises nothing.
        self.remaining: int | None = None
        #: The connection ends behind this response.
        self.close = False

    @property
    def ends_with_connection(self) -> bool:
        """Whether nothing but the end of the connection tells the end of the body."""
        return not self.no_body and not self.chunked and self.remaining is None


def reason_phrase(status: int) -> str:
    """The registered reason phrase, or an empty one."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""


def has_no_body(method: str, status: int) -> bool:
    """Whether a response never has a body (RFC 9110 6.4.1)."""
    return method == "HEAD" or status == 204 or status == 304


def plain_answer(status: int, extra: Headers | None = None) -> tuple[Headers, bytes]:
    """Headers and body of an answer in the server's own name."""
    body = f"{status} {reason_phrase(status)}\n".encode()
    fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    return fields + (extra or []), body


#: Names of fields that are remembered.
_MAX_NAMES: Final = 1000


class HeadWriter:
    """Writes heads; `seconds` tells the time for Date, `server_header` is what Server says."""

    def __init__(self, seconds: Callable[[], float], server_header: str | None) -> None:
        self._seconds = seconds
        self._server = b"" if server_header is None else b"server: " + server_header.encode("latin-1") + b"\r\n"
        self._second = -1
        self._defaults = b""
        #: Names that were checked, and how their lines begin: applications use few, and again and again.
        self._names: dict[bytes, bytes] = {}

    def write(
        self,
        status: int,
        headers: Headers,
        whole_body: int | None,
        method: str,
        http_version: str,
        keep_alive: bool,
        more_lines: bytes = b"",
    ) -> tuple[bytes, Framing]:
        """The head of a response and the framing of its body.

        Args:
            whole_body: bytes of the body if all of it is there; None if more will come.
            keep_alive: whether the client, and we, would keep the connection.
            more_lines: fields of ours, each with the end of its line.

        Raises:
            BadResponse: a field cannot be sent, or Content-Length is not what the body has.
        """
        framing = Framing(has_no_body(method, status))
        framing.close = not keep_alive
        head = [_status_line(status)]
        has_date = has_server = False
        for name, value in headers:
            if name == b"content-length":
                framing.remaining = _length(value, framing.remaining)
                if status == 204:
                    continue  # RFC 9110 8.6: a server MUST NOT send it
            elif name == b"transfer-encoding":
                continue  # ours to choose, ASGI www.rst "Response Start"
            elif name == b"connection":
                framing.close = framing.close or b"close" in value.lower()
                continue
            elif name == b"date":
                has_date = True
            elif name == b"server":
                has_server = True
            if not h.is_value(value):
                raise BadResponse(bad_field(name, value))
            head.append((self._names.get(name) or self._checked(name, value)) + value + b"\r\n")
        if has_date or has_server:
            if not has_date:
                head.append(self._date() + b"\r\n")
            if not has_server:
                head.append(self._server)
        else:
            head.append(self._date_and_server())
        self._frame(framing, head, status, whole_body, method, http_version)
        if framing.close:
            head.append(b"connection: close\r\n")
        elif http_version == "1.0":
            head.append(b"connection: keep-alive\r\n")
        head.append(more_lines + b"\r\n")
        return b"".join(head), framing

    def _checked(self, name: bytes, value: bytes) -> bytes:
        """How the line of a field begins."""
        if not h.is_token(name):
            raise BadResponse(bad_field(name, value))
        start = name + b": "
        if len(self._names) < _MAX_NAMES:
            self._names[name] = start
        return start

    def default_lines(self) -> list[bytes]:
        """The lines of the fields that every response has: Date, and Server unless it is switched off."""
        return self._date_and_server().removesuffix(b"\r\n").split(b"\r\n")

    def _frame(
        self, framing: Framing, head: list[bytes], status: int, whole_body: int | None, method: str, http_version: str
    ) -> None:
        """Choose how the end of the body is told, where the application has not (RFC 9112 6.1 to 6.3)."""
        if framing.no_body:
            framing.remaining = None
            return
        if framing.remaining is not None:
            if whole_body is not None and whole_body != framing.remaining:
                raise BadResponse(f"Content-Length is {framing.remaining}, the body has {whole_body} bytes")
            return
        if whole_body is not None:
            head.append(b"content-length: %d\r\n" % whole_body)
            framing.remaining = whole_body
        elif http_version == "1.1":
            framing.chunked = True
            head.append(b"transfer-encoding: chunked\r\n")
        else:
            framing.close = True

    def _date(self) -> bytes:
        return b"date: " + formatdate(self._seconds(), usegmt=True).encode()

    def _date_and_server(self) -> bytes:
        second = int(self._seconds())
        if second != self._second:
            self._second = second
            self._defaults = self._date() + b"\r\n" + self._server
        return self._defaults


def _status_line(status: int) -> bytes:
    line = _STATUS_LINES.get(status)
    if line is None:
        if not 200 <= status <= 599:
            raise BadResponse(f"status {status}")
        line = _STATUS_LINES[status] = f"HTTP/1.1 {status} {reason_phrase(status)}\r\n".encode()
    return line


def _length(value: bytes, before: int | None) -> int:
    """The number in a Content-Length (RFC 9110 8.6), of which there is one."""
    if not value.isdigit() or len(value) > _LENGTH_DIGITS:
        raise BadResponse(f"Content-Length: {value[:80]!r}")
    if before is not None:
        raise BadResponse("two Content-Lengths")
    return int(value)
