"""The lifespan, to the letter of asgiref's ``specs/lifespan.rst``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver.errors import ApplicationError
from ifserver.worker.lifespan import Lifespan, StartupFailed
from tests.process.test_children import run
from tests.worker.stage import turns

COMPLETE = {"type": "lifespan.startup.complete"}
FAILED = {"type": "lifespan.startup.failed", "message": "no database"}
SHUT_DOWN = {"type": "lifespan.shutdown.complete"}

Application = Callable[[Any, Any, Any], Awaitable[None]]


class Stage:
    """A lifespan of `application`, its clock, and what is written down on the way. Only inside `run`."""

    def __init__(self, application: Application) -> None:
        self.clock = Clock()
        self.loop = asyncio.get_running_loop()
        self.lifespan = Lifespan(application, self.clock, self.loop)

    async def advance(self, seconds: float) -> None:
        await turns()
        self.clock.advance(seconds)
        await turns()

    def running(self) -> int:
        """Tasks beside the one of the test."""
        return len(asyncio.all_tasks(self.loop)) - 1


def played(application: Application, act: Callable[[Stage], Awaitable[None]]) -> None:
    """Run `act`; behind it no task may be left, and no timer."""

    async def main() -> None:
        stage = Stage(application)
        await act(stage)
        await turns()
        assert stage.running() == 0
        assert stage.clock.getDelayedCalls() == []

    run(main)


def problems(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_implementation_in_the_specification(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        while True:
            message = await receive()
            seen.append(message)
            if message["type"] == "lifespan.startup":
                scope["state"]["pool"] = "a pool"
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await send({"type": "lifespan.shutdown.complete"})
                seen.append("returned")
                return

    async def act(stage: Stage) -> None:
        await stage.lifespan.startup()
        state = stage.lifespan.state
        assert state == {"pool": "a pool"}
        assert seen == [
            {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state},
            {"type": "lifespan.startup"},
        ]
        assert seen[0]["state"] is state
        await turns()
        assert len(seen) == 2
        await stage.lifespan.shutdown(5.0)
        assert seen[2:] == [{"type": "lifespan.shutdown"}, "returned"]

    played(application, act)
    assert problems(caplog) == []


def test_startup_waits_for_the_application_as_long_as_it_takes() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await loaded
        await send(COMPLETE)
        await receive()
        await send(SHUT_DOWN)

    loaded: asyncio.Future[None]

    async def act(stage: Stage) -> None:
        nonlocal loaded
        loaded = stage.loop.create_future()
        starting = asyncio.ensure_future(stage.lifespan.startup())
        await stage.advance(100_000)
        assert not starting.done()
        loaded.set_result(None)
        await starting
        await stage.lifespan.shutdown(1.0)

    played(application, act)


@pytest.mark.parametrize("message", ["no database", "", None])
def test_a_startup_that_failed_raises_with_the_message(message: str | None) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(FAILED if message else {"type": "lifespan.startup.failed", **({} if message is None else FAILED)})
        if message == "":
            await receive()  # never ends by itself

    async def act(stage: Stage) -> None:
        with pytest.raises(StartupFailed, match="no database" if message is not None else "gave no reason"):
            await stage.lifespan.startup()
        await stage.lifespan.shutdown(1.0)

    played(application, act)


def test_an_exception_behind_startup_failed_is_not_told_twice(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(FAILED)
        raise ValueError("as Starlette does it")

    async def act(stage: Stage) -> None:
        with pytest.raises(StartupFailed, match="no database"):
            await stage.lifespan.startup()

    played(application, act)
    assert problems(caplog) == []


@pytest.mark.parametrize("error", [KeyError("type"), AssertionError(), SystemExit(1)])
def test_an_application_that_raises_on_the_scope_supports_no_lifespan(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        calls.append(scope["type"])
        raise error

    calls: list[str] = []

    async def act(stage: Stage) -> None:
        await stage.lifespan.startup()
        await stage.lifespan.shutdown(5.0)
        assert calls == ["lifespan"]

    played(application, act)
    assert problems(caplog) == []


def test_one_that_cannot_even_be_called_supports_no_lifespan() -> None:
    def application(scope: Any) -> Any:
        raise AssertionError("never called with one argument")

    async def act(stage: Stage) -> None:
        await stage.lifespan.startup()
        await stage.lifespan.shutdown(5.0)

    played(application, act)  # type: ignore[arg-type]


def test_one_that_returns_on_the_scope_supports_no_lifespan(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        return

    async def act(stage: Stage) -> None:
        await stage.lifespan.startup()
        await stage.lifespan.shutdown(5.0)

    played(application, act)
    assert problems(caplog) == []


def test_an_exception_in_the_startup_is_logged_and_the_server_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise ValueError("a defect")

    async def act(stage: Stage) -> None:
        await stage.lifespan.startup()
        await stage.lifespan.shutdown(5.0)

    played(application, act)
    assert problems(caplog) == ["the application raised during its startup, without lifespan.startup.failed; going on"]
    assert "ValueError: a defect" in caplog.text


def test_an_exception_between_is_logged_and_no_event_follows(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(COMPLETE)
        raise ValueError("a defect")

    async def act(stage: Stage) -> None:
        await stage.lifespan.startup()
        await turns()
        await stage.lifespan.shutdown(5.0)

    played(application, act)
    assert problems(caplog) == ["the application's lifespan raised"]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"type": "lifespan.shutdown.failed", "message": "still open"}, "shutdown failed:\nstill open"),
        ({"type": "lifespan.shutdown.failed"}, "shutdown failed:\nit gave no reason"),
    ],
)
def test_a_shutdown_that_failed_is_logged(
    event: dict[str, Any], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        await send(event)

    async def act(stage: Stage) -> None:
        await stage.lifespan.startup()
        await stage.lifespan.shutdown(5.0)

    played(application, act)
    assert problems(caplog) == [f"the application's {expected}"]


def test_an_exception_in_the_shutdown_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        raise ValueError("a defect")

    async def act(stage: Stage) -> None:
        await stage.lifespan.startup()
        await stage.lifespan.shutdown(5.0)

    played(application, act)
    assert problems(caplog) == ["the application's lifespan raised"]


def test_a_shutdown_that_takes_too_long_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("cleaned up")

    async def act(stage: Stage) -> None:
        await stage.lifespan.startup()
        stopping = asyncio.ensure_future(stage.lifespan.shutdown(5.0))
        await stage.advance(4.9)
        assert not stopping.done()
        await stage.advance(0.2)
        await stopping
        assert ended == ["cleaned up"]

    played(application, act)
    assert problems(caplog) == ["the application's shutdown has taken longer than 5 s; it is cancelled"]


def test_one_that_has_answered_and_does_not_return_is_cancelled_in_the_same_time() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        await answering
        await send(SHUT_DOWN)
        await receive()

    answering: asyncio.Future[None]

    async def act(stage: Stage) -> None:
        nonlocal answering
        answering = stage.loop.create_future()
        await stage.lifespan.startup()
        stopping = asyncio.ensure_future(stage.lifespan.shutdown(5.0))
        await stage.advance(4.0)
        answering.set_result(None)
        await stage.advance(0.9)
        assert not stopping.done()
        await stage.advance(0.2)
        await stopping

    played(application, act)


def test_one_that_minds_no_cancellation_is_abandoned(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        while not stubborn.done():
            try:
                await asyncio.shield(stubborn)
            except asyncio.CancelledError:
                continue

    stubborn: asyncio.Future[None]

    async def act(stage: Stage) -> None:
        nonlocal stubborn
        stubborn = stage.loop.create_future()
        await stage.lifespan.startup()
        stopping = asyncio.ensure_future(stage.lifespan.shutdown(5.0))
        await stage.advance(5.1)
        assert not stopping.done()
        await stage.advance(1.1)
        await stopping
        stubborn.set_result(None)

    played(application, act)
    assert problems(caplog)[-1] == "the application's lifespan does not end when it is cancelled: abandoning it"


def test_a_shutdown_while_it_is_starting_ends_both(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.get_running_loop().create_future()

    async def act(stage: Stage) -> None:
        starting = asyncio.ensure_future(stage.lifespan.startup())
        await turns()
        await stage.lifespan.shutdown(5.0)
        await starting

    played(application, act)
    assert problems(caplog) == []


def test_a_shutdown_before_the_startup() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("never called")

    async def act(stage: Stage) -> None:
        await stage.lifespan.shutdown(5.0)

    played(application, act)


def test_one_that_cancels_itself_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    async def act(stage: Stage) -> None:
        await stage.lifespan.startup()
        await stage.lifespan.shutdown(5.0)

    played(application, act)
    assert problems(caplog) == ["the application's lifespan was cancelled by the application"]


def test_events_that_are_not_expected_are_refused() -> None:
    refused: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        async def refuse(event: dict[str, Any]) -> None:
            with pytest.raises(ApplicationError, match=event["type"]):
                await send(event)
            refused.append(event["type"])

        await refuse(SHUT_DOWN)
        await refuse({"type": "http.response.start", "status": 200})
        await receive()
        await send(COMPLETE)
        await refuse(COMPLETE)
        await refuse(FAILED)
        await refuse(SHUT_DOWN)
        await receive()
        await refuse(COMPLETE)
        await send(SHUT_DOWN)
        await refuse(SHUT_DOWN)

    async def act(stage: Stage) -> None:
        await stage.lifespan.startup()
        await stage.lifespan.shutdown(5.0)
        assert len(refused) == 7

    played(application, act)


def test_a_receive_that_is_cancelled_does_not_lose_the_shutdown() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(COMPLETE)
        waiting = asyncio.ensure_future(receive())
        await turns(2)
        waiting.cancel()
        assert await receive() == {"type": "lifespan.shutdown"}
        await send(SHUT_DOWN)

    async def act(stage: Stage) -> None:
        await stage.lifespan.startup()
        await stage.advance(0.0)
        await stage.lifespan.shutdown(5.0)

    played(application, act)
