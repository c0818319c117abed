"""The environment of a WSGI request (PEP 3333, "environ Variables"), that of a WebSocket handshake included."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from ifserver.flow_control import PIECE_BYTES
from ifserver.headers import percent_decoded
from ifserver.messages import HttpRequest, WebSocketConnect

__all__ = ["Environ", "FileWrapper", "as_get", "environ_of"]

Environ: TypeAlias = dict[str, Any]


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
