"""The application's lifespan (ASGI ``lifespan.rst`` 2.0): what it does before the first stream and after the last."""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import Any

from ifserver.asgi_events import ASGIApplication, Event
from ifserver.clock import Clock
from ifserver.errors import ApplicationError, IfserverError

__all__ = ["Lifespan", "StartupFailed", "pause", "within"]

_log = logging.getLogger(__name__)


class StartupFailed(IfserverError):
    """The application has sent ``lifespan.startup.failed``; the text is its message."""


class _State(enum.Enum):
    NEW = enum.auto()
    STARTING = enum.auto()
    STARTED = enum.auto()
    STOPPING = enum.auto()
    #: No more events: the application has sent its last one, has failed, or supports no lifespan.
    OVER = enum.auto()


_ANSWERS = {
    "lifespan.startup.complete": (_State.STARTING, _State.STARTED),
    "lifespan.startup.failed": (_State.STARTING, _State.OVER),
    "lifespan.shutdown.complete": (_State.STOPPING, _State.OVER),
    "lifespan.shutdown.failed": (_State.STOPPING, _State.OVER),
}


class Lifespan:
    """Starts and ends the application, once each, and keeps the `state` of which every stream gets a shallow copy."""

    def __init__(self, application: ASGIApplication, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.state: dict[str, Any] = {}
        self._application = application
        self._clock = clock
        self._loop = loop
        self._state = _State.NEW
        self._task: asyncio.Task[None] | None = None
        self._answered: asyncio.Future[None] = loop.create_future()
        self._shutdown: asyncio.Future[None] = loop.create_future()
        self._startup_received = False
        self._shutdown_received = False
        self._failure: str | None = None

    async def startup(self) -> None:
        """Start the application, and wait until it has started. There is no limit: it may rightly load for minutes.

        An application that raises on the scope, or returns, without an answer supports no lifespan, which is fine.

        Raises:
            StartupFailed: it has sent that it cannot.
        """
        self._state = _State.STARTING
        self._task = self._loop.create_task(self._run())
        await self._answered
        if self._failure is not None:
            await self._end(0.0)
            raise StartupFailed(self._failure or "the application's startup failed; it gave no reason")

    async def shutdown(self, timeout_s: float) -> None:
        """End the application, and wait until it has ended, `timeout_s` at most. What goes wrong is logged.

        One that is still starting is cancelled; `startup` then returns.
        """
        if self._task is None:
            return
        if self._state is not _State.STARTED:
            await self._end(0.0)
            return
        end = self._clock.seconds() + timeout_s
        self._state = _State.STOPPING
        self._answered = self._loop.create_future()
        self._shutdown.set_result(None)
        if not await within(self._clock, self._loop, timeout_s, self._answered):
            _log.error("the application's shutdown has taken longer than %g s; it is cancelled", timeout_s)
        elif self._failure is not None:
            _log.error("the application's shutdown failed:\n%s", self._failure or "it gave no reason")
        await self._end(end - self._clock.seconds())

    async def _end(self, timeout_s: float) -> None:
        """Let the coroutine return, or where it does not within `timeout_s`, cancel it."""
        self._state = _State.OVER
        task = self._task
        assert task is not None
        # Its last event and its return are usually one step.
        await asyncio.sleep(0)
        if not self._answered.done() or not await within(self._clock, self._loop, timeout_s, task):
            task.cancel()
            if not await within(self._clock, self._loop, 1.0, task):
                _log.error("the application's lifespan does not end when it is cancelled: abandoning it")

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._application(scope, self._receive, self._send)
        except asyncio.CancelledError:
            if self._state is not _State.OVER:
                _log.error("the application's lifespan was cancelled by the application")
        except GeneratorExit:
            raise
        except BaseException as error:
            self._raised(error)
        self._state = _State.OVER
        if not self._answered.done():
            self._answered.set_result(None)

    def _raised(self, error: BaseException) -> None:
        # lifespan.rst, "Scope": "If an exception is raised [...] the server must continue but not send any lifespan
        # events." One that has received its startup event does know the protocol, so its error is worth a line.
        if self._state is _State.STARTING and not self._startup_received:
            _log.debug("the application supports no lifespan: %r", error)
        elif self._state is _State.STARTING:
            _log.warning(
                "the application raised during its startup, without lifespan.startup.failed; going on", exc_info=error
            )
        elif self._failure is None:
            _log.error("the application's lifespan raised", exc_info=error)

    async def _receive(self) -> Event:
        if not self._startup_received:
            self._startup_received = True
            return {"type": "lifespan.startup"}
        if self._shutdown_received:
            await self._loop.create_future()  # there is nothing more to come; `_end` cancels it
        await asyncio.shield(self._shutdown)
        self._shutdown_received = True
        return {"type": "lifespan.shutdown"}

    async def _send(self, event: Event) -> None:
        kind = event["type"]
        if kind not in _ANSWERS:
            raise ApplicationError(f"{kind}: not an event of the lifespan; there are: {', '.join(_ANSWERS)}")
        before, after = _ANSWERS[kind]
        if self._state is not before:
            raise ApplicationError(f"{kind}: not expected now (the lifespan is {self._state.name.lower()})")
        if kind.endswith(".failed"):
            self._failure = str(event.get("message") or "")
        self._state = after
        if not self._answered.done():
            self._answered.set_result(None)


async def pause(clock: Clock, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Wait for `seconds`, by the clock that was given: asyncio's own timeouts read the loop's."""
    over: asyncio.Future[None] = loop.create_future()
    timer = clock.callLater(seconds, _fire, over)
    try:
        await over
    finally:
        if timer.active():
            timer.cancel()


async def within(clock: Clock, loop: asyncio.AbstractEventLoop, seconds: float, what: asyncio.Future[Any]) -> bool:
    """Whether `what` is done (or has failed, or was cancelled) before `seconds` have passed. Never cancels it."""
    if what.done() or seconds <= 0:
        return what.done()
    over: asyncio.Future[None] = loop.create_future()
    timer = clock.callLater(seconds, _fire, over)
    try:
        await asyncio.wait((what, over), return_when=asyncio.FIRST_COMPLETED)
    finally:
        if timer.active():
            timer.cancel()
        over.cancel()
    return what.done()


def _fire(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
