"""Recognising a WSGI application (PEP 3333), and the threads that it runs in.

Its requests are `ifserver.worker.wsgi_stream.ThreadedStream`, which are no coroutines.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from msgspec.structs import replace

from ifserver.asgi_events import ASGIApplication, Receive, Scope, Send
from ifserver.config.settings import WorkerSettings
from ifserver.worker.files import EXTENTS
from ifserver.worker.wsgi_threads import Threads

__all__ = ["WSGIAdapter", "adapted", "interface_of", "is_wsgi"]


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
    """`application` as a worker takes it; and the settings, which for WSGI allow no more requests than threads."""
    if interface_of(settings, application) == "asgi":
        return settings, application
    concurrency = min(settings.concurrency, settings.threads)
    adapter = WSGIAdapter(application, settings.threads, settings.stream_uploads)
    return replace(settings, concurrency=concurrency), adapter


class WSGIAdapter:
    """`application` and up to `threads` threads for it; and, called as an ASGI application, what WSGI does not know.

    That is the lifespan, and an open WebSocket that looks for its next worker, which finds none here.

    Args:
        stream_uploads: ``worker.stream_uploads``.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]], threads: int, stream_uploads: bool = False) -> None:
        self.application = application
        self.stream_uploads = stream_uploads
        self.threads = Threads(threads)
        #: How long a thread waits for its client, in all during a response, before the rest goes into a file; seconds.
        self.patience_s = 1.0
        #: What the files of all responses may take (`ifserver.worker.files.Overflow`).
        self.extents = threading.Semaphore(EXTENTS)
        #: What a thread enters for a stream while the application runs; None: nothing.
        self.around: Callable[[Any], AbstractContextManager[None]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.threads.stop()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await send({"type": "websocket.close"})
