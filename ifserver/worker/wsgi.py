"""Running a WSGI application (PEP 3333) as an ASGI application: each request in a thread.

What is sent from a thread waits there until it has been taken, so a slow client slows its own thread. A request's body
is read from the client as the application reads it, from its first bytes on: until they are there, no thread is used. A
thread that is in use is a slot that is in use, also while it waits for its client, or sends a response that has begun.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeAlias, TypeVar
from wsgiref.util import FileWrapper, is_hop_by_hop

from msgspec.structs import replace

from ifserver.errors import ApplicationError, ClientDisconnected
from ifserver.messages import HttpRequest
from ifserver.settings import WorkerSettings
from ifserver.worker.application import ASGIApplication, Event, Receive, Scope, Send
from ifserver.worker.asgi import DONE, Phase
from ifserver.worker.asgi_http import HttpStream
from ifserver.worker.line import Host

__all__ = ["ThreadedStream", "WSGIAdapter", "adapted", "is_wsgi"]

_T = TypeVar("_T")
_ExcInfo: TypeAlias = "tuple[type[BaseException], BaseException, TracebackType] | None"
_Write: TypeAlias = Callable[[bytes], None]
Environ: TypeAlias = dict[str, Any]


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
        # In most requests the body is whole, and then no thread need ask for it.
        first = await receive()
        while _is_empty(first):
            first = await receive()
        if first["type"] != "http.request":
            return
        loop = asyncio.get_running_loop()
        exchange = _Exchange(loop, receive, send, first)
        await loop.run_in_executor(self._threads, exchange.run, self._application, environ_of(scope))


class ThreadedStream(HttpStream):
    """One request of a `WSGIAdapter`. Its slot is its thread, which it holds until the application has returned.

    So it never counts as `answering`: a worker all of whose threads send responses takes no more requests.
    """

    __slots__ = ("_in_thread",)

    def __init__(self, host: Host, request: HttpRequest, slot: int) -> None:
        super().__init__(host, request, slot)
        self._in_thread = False

    @property
    def _may_lend_slot(self) -> bool:
        return not self._in_thread

    def _take(self) -> Event:
        event = super()._take()
        if not _is_empty(event):
            self._in_thread = True
        return event

    def _move(self, phase: Phase) -> None:
        self.phase = phase
        if phase is DONE:
            self._wake()


def _is_empty(event: Event) -> bool:
    """Whether an event of ``receive()`` brings nothing of a body of which more is to come."""
    return bool(event.get("more_body")) and not event.get("body")


class _Exchange:
    """One request. All but the constructor runs in a thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Receive, send: Send, first: Event) -> None:
        self._loop = loop
        self._receive = receive
        self._send = send
        self._first = first
        self._start: Event | None = None
        #: Bytes of the body that are still to come by the response's Content-Length; None: nobody knows.
        self._left: int | None = None
        self._started = self._ended = False

    def run(self, application: Callable[..., Iterable[bytes]], environ: Environ) -> None:
        """Call the application, and send what it answers."""
        more = self._first.get("more_body", False)
        body = self._first.get("body", b"")
        environ["wsgi.input"] = io.BufferedReader(_Body(self._read, body)) if more else io.BytesIO(body)
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
        self._wait_for(self._send_both(start, {"type": "http.response.body", "body": body, "more_body": more}))

    async def _send_both(self, start: Event | None, body: Event) -> None:
        if start is not None:
            await self._send(start)
        await self._send(body)

    def _read(self) -> tuple[bytes, bool]:
        """The next piece of the request's body, and whether another follows."""
        event = self._wait_for(self._receive())
        if event["type"] != "http.request":
            # Never the end of the body: what was cut off must not look whole.
            raise ClientDisconnected("the client has left in the middle of its request's body")
        return event.get("body", b""), event.get("more_body", False)

    def _wait_for(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class _Body(io.RawIOBase):
    """A request's body as it arrives; `io.BufferedReader` makes ``wsgi.input`` of it."""

    def __init__(self, read: Callable[[], tuple[bytes, bool]], first: bytes) -> None:
        self._read_more = read
        self._piece = memoryview(first)
        self._more = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._piece and self._more:
            piece, self._more = self._read_more()
            self._piece = memoryview(piece)
        count = min(len(self._piece), len(buffer))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count


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
