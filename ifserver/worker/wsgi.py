"""Recognising a WSGI application (PEP 3333), and the threads that it runs in.

Its requests are `ifserver.worker.wsgi_stream.ThreadedStream`, which are no coroutines.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from ifserver.asgi_events import ASGIApplication, Receive, Scope, Send
from ifserver.config.settings import WorkerSettings
from ifserver.worker.wsgi_bodies import EXTENTS

if TYPE_CHECKING:
    from ifserver.worker.wsgi_stream import ThreadedStream

__all__ = ["Threads", "WSGIAdapter", "adapted", "interface_of", "is_wsgi"]

_log = logging.getLogger(__name__)


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
        #: What the files of all responses may take (`ifserver.worker.wsgi_bodies.Overflow`).
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


class Threads:
    """Up to `count` threads, started when they are needed. The methods are for the event loop but for `notify`.

    Why no ``concurrent.futures`` executor: its threads hold up the end of the process, whatever the application does,
    it wakes a thread for each job, and the loop for each result.

    A thread that has done its job takes the next one without sleeping. Others are woken one after another, each by the
    one before it when that has begun a job: to wake more of them than can run makes them wait for the interpreter's
    lock, which costs more than a short request does.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._started = 0
        self._starting = threading.Lock()
        self._jobs: deque[ThreadedStream] = deque()
        #: The locks on which idle threads sleep; the one that went to sleep last is woken first.
        self._idle: list[threading.Lock] = []
        #: Whether a thread was woken, or started, that does not run yet. It will look for jobs, so no other need.
        self._waking = False
        self._stopped = False
        self._has_warned = False
        #: Jobs that the loop is to look at, and whether it will.
        self._due: deque[ThreadedStream] = deque()
        self._notified = False

    def submit(self, job: ThreadedStream) -> None:
        """Call `job.work` in the next thread that is free.

        Raises:
            RuntimeError: there is no thread, and the system lets none be started.
        """
        self._jobs.append(job)
        if not self._waking:
            try:
                self._wake_one()
            except RuntimeError:
                self._jobs.remove(job)
                raise

    def notify(self, job: ThreadedStream, loop: asyncio.AbstractEventLoop) -> None:
        """Call `job.look` in `loop`, one time or more. Called by threads: the loop is woken once for all of them."""
        self._due.append(job)
        if not self._notified:
            self._notified = True
            try:
                loop.call_soon_threadsafe(self._look)
            except RuntimeError:
                pass  # the process ends, and the loop is closed

    def stop(self) -> None:
        """Drop the jobs that have not begun, and let the threads end when they have done theirs."""
        self._stopped = True
        self._jobs.clear()
        while self._idle:
            self._idle.pop().release()

    def _look(self) -> None:
        self._notified = False  # before: what comes from now on may be too late for this turn
        due = self._due
        while due:
            due.popleft().look()

    def _wake_one(self) -> None:
        # Several threads may be here at a time. Then one more is woken than is needed.
        try:
            sleeper = self._idle.pop()
        except IndexError:
            with self._starting:
                if self._started == self._count:
                    return
                self._waking = True
                self._started += 1
            # It must not hold up the end of the process, whatever the application does.
            thread = threading.Thread(target=self._run, name=f"wsgi_{self._started}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                with self._starting:
                    self._started -= 1
                    left = self._started
                self._waking = False
                # Those that run look for jobs before they sleep. Each of them counts, so one of them has not failed.
                if not left:
                    raise
                if not self._has_warned:
                    self._has_warned = True
                    _log.warning("cannot start one more of %d threads, %d go on: %s", self._count, left, error)
        else:
            self._waking = True
            sleeper.release()

    def _run(self) -> None:
        sleeper: Final = threading.Lock()
        sleeper.acquire()
        jobs, idle = self._jobs, self._idle
        while not self._stopped:
            self._waking = False  # before: a job that comes from now on wakes another thread
            while jobs:
                try:
                    job = jobs.popleft()
                except IndexError:
                    break
                if jobs and not self._waking:
                    self._wake_one()
                job.work()
                del job  # what it holds is not kept while the thread sleeps
            idle.append(sleeper)
            # One that came before the last line has found nobody to wake.
            if jobs or self._stopped:
                try:
                    idle.remove(sleeper)
                    continue
                except ValueError:
                    pass  # another has woken this thread meanwhile
            sleeper.acquire()
