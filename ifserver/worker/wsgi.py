"""Running a WSGI application (PEP 3333) as an ASGI application: each request in a thread.

A request's body is read before a thread is used, as Django's own ASGI handler does it, so clients that send slowly hold
no threads. What is sent from a thread waits there until it has been taken, so a client that reads slowly slows its own
thread. A thread that is in use is a slot that is in use, also while it sends a response that has begun.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import IO, Any, Final, TypeAlias, TypeVar
from wsgiref.util import FileWrapper, is_hop_by_hop

from msgspec.structs import replace

from ifserver.config.settings import WorkerSettings
from ifserver.errors import ApplicationError
from ifserver.messages import HttpRequest
from ifserver.worker.application import ASGIApplication, Event, Receive, Scope, Send
from ifserver.worker.asgi import DONE, Host, Phase
from ifserver.worker.asgi_http import HttpStream

__all__ = ["ThreadedStream", "WSGIAdapter", "adapted", "is_wsgi"]

_T = TypeVar("_T")
_ExcInfo: TypeAlias = "tuple[type[BaseException], BaseException, TracebackType] | None"
_Write: TypeAlias = Callable[[bytes], None]
Environ: TypeAlias = dict[str, Any]

#: A body that is longer goes on in a temporary file.
_IN_MEMORY_BYTES: Final = 65_536


def is_wsgi(application: Any) -> bool:
    """Whether a callable takes two arguments, as WSGI's do, and not the three of ASGI; when in doubt, it does not."""
    try:
        signature = inspect.signature(application)
    except (TypeError, ValueError):
        return False
    if inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(type(application).__call__):
        return False
    try:
        signature.bind(None, None)
    except TypeError:
        return False
    try:
        signature.bind(None, None, None)
    except TypeError:
        return True
    return False


def interface_of(settings: WorkerSettings, application: Any) -> str:
    """How `application` is run: as ``asgi`` or ``wsgi``."""
    if settings.interface == "auto":
        return "wsgi" if is_wsgi(application) else "asgi"
    return settings.interface


def adapted(settings: WorkerSettings, application: Any) -> tuple[WorkerSettings, ASGIApplication]:
    """`application` as an ASGI application; and the settings, which for WSGI allow no more requests than threads."""
    if interface_of(settings, application) == "asgi":
        return settings, application
    concurrency = min(settings.concurrency, settings.threads)
    return replace(settings, concurrency=concurrency), WSGIAdapter(application, settings.threads)


class WSGIAdapter:
    """The ASGI application that runs `application` in up to `threads` threads."""

    def __init__(self, application: Callable[..., Iterable[bytes]], threads: int) -> None:
        self._application = application
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="wsgi")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._serve(scope, receive, send)
        elif kind == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self._threads.shutdown(wait=False, cancel_futures=True)
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await receive()
            await send({"type": "websocket.close"})  # before the accept: 403

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _whole_body(receive)
        if body is None:
            return
        environ = environ_of(scope)
        environ["wsgi.input"] = body
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, _Exchange(loop, send).run, self._application, environ)


async def _whole_body(receive: Receive) -> IO[bytes] | None:
    """A request's body, once all of it is there; None: the client has left before."""
    event = await receive()
    if event["type"] == "http.request" and not event.get("more_body"):
        return io.BytesIO(event.get("body", b""))  # as in most requests
    body = SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 (the thread closes it)
    while event["type"] == "http.request":
        body.write(event.get("body", b""))
        if not event.get("more_body"):
            body.seek(0)
            return body
        event = await receive()
    # What was cut off must not look whole, so the application gets nothing of it.
    body.close()
    return None


class ThreadedStream(HttpStream):
    """One request of a `WSGIAdapter`. Its slot is its thread, which it holds until the application has returned.

    So it never counts as `answering`: a worker all of whose threads send responses takes no more requests.
    """

    __slots__ = ("_in_thread",)

    def __init__(self, host: Host, request: HttpRequest, server: str, identity: str, slot: int) -> None:
        super().__init__(host, request, server, identity, slot)
        self._in_thread = False

    @property
    def _may_lend_slot(self) -> bool:
        return not self._in_thread

    def _take(self) -> Event:
        event = super()._take()
        self._in_thread = not event["more_body"]
        return event

    def move(self, phase: Phase) -> None:
        self.phase = phase
        if phase is DONE:
            self.wake()


class _Exchange:
    """One request. All but the constructor runs in a thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, send: Send) -> None:
        self._loop = loop
        self._send = send
        self._start: Event | None = None
        #: Bytes of the body that are still to come by the response's Content-Length; None: nobody knows.
        self._left: int | None = None
        self._started = self._ended = False

    def run(self, application: Callable[..., Iterable[bytes]], environ: Environ) -> None:
        """Call the application, and send what it answers."""
        with environ["wsgi.input"]:
            self._run(application, environ)

    def _run(self, application: Callable[..., Iterable[bytes]], environ: Environ) -> None:
        result = application(environ, self._start_response)
        try:
            if isinstance(result, list | tuple):
                result = [b"".join(result)]
                if self._left is None:
                    self._left = len(result[0])
            for piece in result:
                if piece:
                    self._write(piece)
            if not self._ended:
                self._say(b"", more=False)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo = None) -> _Write:
        # PEP 3333, "The start_response() Callable": with `exc_info` it may be called again.
        if exc_info is not None and self._started:
            raise exc_info[1].with_traceback(exc_info[2])
        if exc_info is None and self._start is not None:
            raise ApplicationError("start_response() was called a second time, without exc_info")
        code = status.split(" ", 1)[0]
        if not (code.isascii() and code.isdigit() and len(code) == 3):
            raise ApplicationError(f"start_response(): a status begins with three digits, got {status[:80]!r}")
        self._left = None
        fields = []
        for name, value in headers:
            if is_hop_by_hop(name):
                raise ApplicationError(f"start_response(): {name} is the server's affair (PEP 3333)")
            if name.lower() == "content-length" and value.strip().isdigit():
                self._left = int(value)
            fields.append((name.lower().encode("latin-1"), value.encode("latin-1")))
        self._start = {"type": "http.response.start", "status": int(code), "headers": fields}
        return self._write

    def _write(self, piece: bytes) -> None:
        if self._left is not None:
            self._left -= len(piece)
        self._say(piece, more=self._left is None or self._left > 0)

    def _say(self, body: bytes, more: bool) -> None:
        if self._start is None:
            raise ApplicationError("a body was sent before start_response() was called")
        start, self._started, self._ended = None if self._started else self._start, True, not more
        both = self._send_both(start, {"type": "http.response.body", "body": body, "more_body": more})
        asyncio.run_coroutine_threadsafe(both, self._loop).result()

    async def _send_both(self, start: Event | None, body: Event) -> None:
        if start is not None:
            await self._send(start)
        await self._send(body)


def environ_of(scope: Scope) -> Environ:
    """The environment of a request, but for its input (PEP 3333, "environ Variables")."""
    root, path = scope.get("root_path", ""), scope["path"]
    server, client = scope.get("server") or ("localhost", None), scope.get("client")
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": _native(root),
        "PATH_INFO": _native(path.removeprefix(root)),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "RAW_URI": scope["raw_path"].decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": str(server[0]),
        "SERVER_PORT": str(server[1] or (443 if scope["scheme"] == "https" else 80)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        # It ends where the body does, with or without a Content-Length.
        "wsgi.input_terminated": True,
    }
    if client is not None:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client[0], str(client[1])
    for name, value in scope["headers"]:
        key = name.decode("latin-1").upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        text = value.decode("latin-1")
        # RFC 9110 5.3; RFC 6265 5.4 for cookies.
        separator = "; " if key == "HTTP_COOKIE" else ","
        environ[key] = f"{environ[key]}{separator}{text}" if key in environ else text
    return environ


def _native(text: str) -> str:
    """PEP 3333, "A Note On String Types": the bytes of a text, each as one character."""
    return text.encode().decode("latin-1")
