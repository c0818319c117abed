"""Calling a WSGI application for one request, in the request's thread: its environment, and its response (PEP 3333)."""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ifserver.asgi_events import as_bytes
from ifserver.errors import ApplicationError
from ifserver.flow_control import PIECE_BYTES
from ifserver.headers import percent_decoded
from ifserver.messages import HttpRequest, WebSocketConnect
from ifserver.worker.files import source_of
from ifserver.worker.response import Response

if TYPE_CHECKING:
    from ifserver.worker.wsgi_stream import ThreadedStream

__all__ = ["Environ", "Exchange", "FileWrapper", "as_get", "environ_of"]

Environ: TypeAlias = dict[str, Any]
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


class FileWrapper:
    """A file as the body of a response (PEP 3333, "Optional Platform-Specific File Handling").

    Args:
        filelike: has ``read(size)``, which returns bytes; closed with the response if it has ``close()``.
        blksize: how much is read at once. Of files on a disk it is more, since nothing there is worth waiting for.
    """

    def __init__(self, filelike: Any, blksize: int = 8192) -> None:
        self.filelike = filelike
        self.blksize = blksize
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        read = self.filelike.read
        size = max(self.blksize, PIECE_BYTES) if _is_on_disk(self.filelike) else self.blksize
        while data := read(size):
            yield data


def _is_on_disk(filelike: Any) -> bool:
    try:
        return stat.S_ISREG(os.fstat(filelike.fileno()).st_mode)
    except (AttributeError, OSError, TypeError, ValueError):
        return False


#: The part of an environment that does not depend on the request.
_COMMON: Final[Environ] = {
    "wsgi.version": (1, 0),
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
    "wsgi.file_wrapper": FileWrapper,
    # It ends where the body does, with or without a Content-Length.
    "wsgi.input_terminated": True,
}
#: Names of headers -> their keys. Bounded, since clients make names up.
_keys: dict[bytes, str] = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}
_MAX_KEYS: Final = 1000


def environ_of(request: HttpRequest) -> Environ:
    """The environment of `request`, but for ``wsgi.input``."""
    scheme, client = request.scheme, request.client
    host, port = request.server or ("", None)
    script, path = request.root_path, request.raw_path
    if script:
        path = path.removeprefix(script.encode())
        script = script.encode().decode("latin-1")
    # PEP 3333, "A Note On String Types": the bytes themselves, each as one character; they need not be UTF-8.
    if b"%" in path:
        path = percent_decoded(path)
    environ = _COMMON.copy()
    environ["REQUEST_METHOD"] = request.method
    environ["SCRIPT_NAME"] = script
    environ["PATH_INFO"] = path.decode("latin-1")
    environ["QUERY_STRING"] = request.query_string.decode("latin-1")
    environ["RAW_URI"] = request.raw_path.decode("latin-1")
    environ["SERVER_PROTOCOL"] = f"HTTP/{request.http_version}"
    environ["wsgi.url_scheme"] = scheme
    environ["wsgi.errors"] = sys.stderr
    for name, value in request.headers:
        key = _keys.get(name) or _key_of(name)
        text = value.decode("latin-1")
        if key in environ:
            # RFC 9110 5.3; RFC 6265 5.4 for cookies.
            environ[key] += f"; {text}" if key == "HTTP_COOKIE" else f",{text}"
        else:
            environ[key] = text
    # RFC 3875 4.1.18 makes this of a field Proxy, which nobody needs; but many libraries and the commands that an
    # application starts would send their requests to whom it names (CVE-2016-5385 and others, "httpoxy").
    environ.pop("HTTP_PROXY", None)
    if port is None:
        # A Unix socket has no name for clients. PEP 3333 demands one, and a port: those that the client has used.
        host, port = _authority(environ.get("HTTP_HOST", ""))
    environ["SERVER_NAME"] = host
    environ["SERVER_PORT"] = str(port or (443 if scheme == "https" else 80))
    if client is None:
        # So does CGI (RFC 3875 4.1.8), and applications look it up. Of a Unix socket there is none.
        environ["REMOTE_ADDR"] = ""
    else:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client[0], str(client[1])
    return environ


def as_get(connect: WebSocketConnect) -> HttpRequest:
    """A WebSocket handshake as the GET request that it is (RFC 6455 4.1). Every response to it denies the handshake."""
    return HttpRequest(
        connect.reply_channel,
        connect.attempt,
        connect.deadline,
        connect.http_version,
        "GET",
        "https" if connect.scheme == "wss" else "http",
        connect.path,
        connect.raw_path,
        connect.query_string,
        connect.root_path,
        connect.headers,
        connect.client,
        connect.server,
        b"",
        False,
    )


def _authority(text: str) -> tuple[str, int | None]:
    """Name and port in a Host header; ``localhost`` where there is none."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal():
        host, port = text, ""
    return host or "localhost", int(port) if port else None


def _key_of(name: bytes) -> str:
    key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
    if len(_keys) < _MAX_KEYS:
        _keys[name] = key
    return key


class Exchange:
    """One call of an application."""

    __slots__ = ("_excess", "_left", "_response", "_started", "_stream", "_whole")

    def __init__(self, stream: ThreadedStream) -> None:
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
        stream = self._stream
        event = {"type": "start_response()", "status": int(code), "headers": fields}
        self._response = response = Response(stream, event, stream.host.file_header, stream.request.method == "HEAD")
        self._left = response.remaining
        return self._write

    def _write(self, piece: Any) -> None:
        if type(piece) is not bytes:
            piece = as_bytes("a WSGI response", "its body", piece)
        left = self._left
        if left is not None:
            if len(piece) > left:
                # What is longer would begin the next response on this connection.
                self._log_excess(len(piece) - left)
                piece = piece[:left]
            self._left = left = left - len(piece)
        self._put(piece, last=left == 0)

    def _put(self, piece: bytes, last: bool) -> None:
        """Send some of the body, with `last` all that there is. Waits while too much is unsent."""
        response, stream = self._response, self._stream
        if response is None:
            raise ApplicationError("a body was sent before start_response() was called")
        if self._whole:
            return
        self._started, self._whole = True, last
        stream.check_client()
        if response.file_path is None:
            stream.response = response
            if not response.bodyless:
                stream.output.put(piece)
            stream.output.whole = last
            stream.notify()
        elif last and (name := stream.host.file_header) is not None:
            # What the application sends beside the path of a file is for nobody.
            stream.hand_over(response, name.decode(), response.open_named(name))

    def _put_file(self, file: Any) -> bool:
        """Send what is left of an open file as the whole body, after the return. False: it must be read and `_put`."""
        response, stream = self._response, self._stream
        if response is None or self._started or response.file_path is not None:
            return False
        stream.check_client()
        source = source_of(file)
        if source is None:
            return False
        count = source.count if response.remaining is None else response.remaining
        # What is one message in any case is read here, where nobody else waits for the disk.
        if count <= PIECE_BYTES and not response.bodyless:
            source.close()
            return False
        stream.hand_over(response, "wsgi.file_wrapper", source)
        self._whole = True
        return True

    def _log_excess(self, size: int) -> None:
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
