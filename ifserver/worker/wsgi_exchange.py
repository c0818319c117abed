"""Calling a WSGI application for one request, and taking its response (PEP 3333), in the request's thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final, Protocol, TypeAlias

from ifserver.asgi_events import as_bytes
from ifserver.errors import ApplicationError
from ifserver.worker.response import Response
from ifserver.worker.wsgi_environ import Environ, FileWrapper

__all__ = ["Exchange"]

_ExcInfo: TypeAlias = "tuple[type[BaseException], BaseException, TracebackType] | None"
_Write: TypeAlias = Callable[[bytes], None]

#: Names of headers -> as they are sent; None: they are not. Bounded, since an application may make names up.
_names: dict[str, bytes | None] = {
    # PEP 3333, "Other HTTP Features": the headers of one connection (RFC 2616 13.5.1) are the server's affair.
    "connection": None,
    "keep-alive": None,
    "proxy-authenticate": None,
    "proxy-authorization": None,
    "te": None,
    "trailers": None,
    "transfer-encoding": None,
    "upgrade": None,
}
_MAX_NAMES: Final = 1000

_log = logging.getLogger(__name__)


class Stream(Protocol):
    """The stream that a request belongs to."""

    def respond(self, status: int, headers: list[tuple[bytes, bytes]]) -> Response:
        """A response, of which nothing is sent.

        Raises:
            ApplicationError: it breaks a rule.
        """

    def put(self, response: Response, piece: bytes, last: bool) -> None:
        """Send some of a response's body, with `last` all that there is. Waits while too much is unsent.

        Raises:
            ApplicationError: the file that a header names in place of the body cannot be read.
            ClientDisconnected: the client has left.
        """

    def put_file(self, response: Response, file: Any) -> bool:
        """Send what is left of an open file as the whole body, after the return. False: it must be read and `put`.

        Raises:
            ClientDisconnected: the client has left.
        """


class Exchange:
    """One call of an application."""

    __slots__ = ("_excess", "_left", "_response", "_started", "_stream", "_whole")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._response: Response | None = None
        #: Bytes of the body that are still to come by the response's Content-Length; None: nobody knows.
        self._left: int | None = None
        self._started = self._whole = self._excess = False

    def run(self, application: Callable[..., Iterable[bytes]], environ: Environ) -> None:
        """Call `application`, and send what it answers.

        Raises:
            ApplicationError: the response breaks a rule, or is shorter than its Content-Length.
            ClientDisconnected: the client has left before its end.
        """
        result = application(environ, self._start_response)
        try:
            # A subclass of list may be iterated in its own way.
            if type(result) is list or type(result) is tuple:
                body = result[0] if len(result) == 1 else b"".join(result)
                if self._left is None:
                    self._left = len(body)
                if body:
                    self._write(body)
            elif type(result) is not FileWrapper or not self._put_file(result.filelike):
                for piece in result:
                    if piece:
                        self._write(piece)
                        if self._excess:
                            break
            if not self._whole:
                if self._left:
                    raise ApplicationError(f"the body is shorter than its Content-Length by {self._left} bytes")
                self._put(b"", last=True)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo = None) -> _Write:
        # PEP 3333, "The start_response() Callable": with `exc_info` it may be called again.
        if exc_info is not None and self._started:
            raise exc_info[1].with_traceback(exc_info[2])
        if exc_info is None and self._response is not None:
            raise ApplicationError("start_response() was called a second time, without exc_info")
        code = status[:3]
        if not (code.isascii() and code.isdigit() and len(code) == 3 and status[3:4] in ("", " ")):
            raise ApplicationError(f"start_response(): a status begins with three digits, got {status[:80]!r}")
        fields = []
        for name, value in headers:
            sent = _names[name] if name in _names else _checked_name(name)
            if sent is not None:
                fields.append((sent, value.encode("latin-1")))
        self._response = response = self._stream.respond(int(code), fields)
        self._left = response.remaining
        return self._write

    def _write(self, piece: Any) -> None:
        if type(piece) is not bytes:
            piece = as_bytes("a WSGI response", "its body", piece)
        left = self._left
        if left is not None:
            if len(piece) > left:
                # What is longer would begin the next response on this connection.
                self._tell_excess(len(piece) - left)
                piece = piece[:left]
            self._left = left = left - len(piece)
        self._put(piece, last=left == 0)

    def _put(self, piece: bytes, last: bool) -> None:
        response = self._response
        if response is None:
            raise ApplicationError("a body was sent before start_response() was called")
        if not self._whole:
            self._started, self._whole = True, last
            self._stream.put(response, piece, last)

    def _put_file(self, file: Any) -> bool:
        response = self._response
        if response is None or self._started or response.file_path is not None:
            return False
        self._whole = self._stream.put_file(response, file)
        return self._whole

    def _tell_excess(self, size: int) -> None:
        if not self._excess:
            self._excess = True
            _log.warning("%s: the body is longer than its Content-Length, by %d bytes or more", self._stream, size)


def _checked_name(name: str) -> bytes | None:
    """The name of a header as it is sent; None: it is not."""
    lowered = name.lower()
    sent = None if _names.get(lowered, b"") is None else lowered.encode("latin-1")
    if len(_names) < _MAX_NAMES:
        _names[name] = sent
    return sent
