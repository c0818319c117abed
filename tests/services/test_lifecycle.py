"""A service from its start to its end, and what signals do to it; the service is a fake."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from ifserver.config.configuration import CommandSettings
from ifserver.config.settings import FrontSettings, LogSettings, WorkerSettings
from ifserver.errors import ConfigurationError, NodeError
from ifserver.services import lifecycle
from ifserver.services.lifecycle import Control, Lifecycle
from ifserver.services.service import Runtime, Service

T = TypeVar("T")
LOOP: asyncio.AbstractEventLoop = reactor._asyncioEventloop  # type: ignore[attr-defined]


def done(what: Awaitable[T]) -> Deferred[T]:
    """`what`, which is asyncio's, for a test that waits for Deferreds."""
    return Deferred.fromFuture(asyncio.ensure_future(what, loop=LOOP))


class FakeReactor:
    """Knows when it was stopped, and calls nothing later."""

    def __init__(self) -> None:
        self.stopped: asyncio.Future[None] = LOOP.create_future()
        self.later: list[tuple[float, Callable[..., None], list[bool]]] = []

    def stop(self) -> None:
        self.stopped.set_result(None)

    def callLater(self, delay: float, call: Callable[..., None]) -> Any:
        state = [True]
        self.later.append((delay, call, state))

        class Timer:
            def cancel(self) -> None:
                state[0] = False

            def active(self) -> bool:
                return state[0]

        return Timer()


class FakeHerald:
    """Notes what is told to a service manager."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: self.calls.append(" ".join((name, *map(str, args))))


class FakeChild:
    """A successor."""

    pid = 77
    ending = "exit code 2"

    def __init__(self, ready: Callable[[], None], ended: Callable[[], None]) -> None:
        self.ready, self.ended = ready, ended
        self.calls: list[str] = []

    def terminate(self) -> None:
        self.calls.append("terminate")

    def kill(self) -> None:
        self.calls.append("kill")


class FakeService(Service):
    """Starts when it may, and stops when it may."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.said: list[str] = []
        self.may_start = asyncio.Event()
        self.may_stop = asyncio.Event()
        self.stopping = asyncio.Event()
        self.error: Exception | None = None

    async def start(self) -> None:
        await self.may_start.wait()
        if self.error is not None:
            raise self.error
        self.is_ready()

    async def stop(self) -> None:
        self.said.append("stop, quickly" if self.quick else "stop")
        self.stopping.set()
        await self.may_stop.wait()

    def stop_now(self) -> None:
        self.said.append("stop now")
        self.may_stop.set()

    def reload(self, new: CommandSettings) -> Collection[str]:
        self.said.append("reload")
        return ("front.max_headers",)

    def reopen_logs(self) -> None:
        self.said.append("reopen")


class Stage:
    """A life, and everything around it."""

    def __init__(
        self, settings: CommandSettings | None = None, is_child: bool = False, ready_fd: int | None = None
    ) -> None:
        self.reactor, self.herald = FakeReactor(), FakeHerald()
        runtime = Runtime(self.reactor, LOOP)
        self.service = FakeService(runtime)
        self.settings: CommandSettings = settings or CommandSettings()
        self.read: CommandSettings | ConfigurationError = self.settings
        self.levels: list[int] = []
        self.successors: list[FakeChild] = []
        self.no_successor: Exception | None = None
        self.control = Control(
            self.settings, self._reread, self.levels.append, self._succeed, ready_fd, is_child  # type: ignore[arg-type]
        )  # fmt: skip
        self.lifecycle = Lifecycle(self.service, runtime, self.herald, self.control)  # type: ignore[arg-type]

    def _reread(self) -> CommandSettings:
        if isinstance(self.read, ConfigurationError):
            raise self.read
        return self.read

    def _succeed(self, ready: Callable[[], None], ended: Callable[[], None]) -> FakeChild:
        if self.no_successor is not None:
            raise self.no_successor
        self.successors.append(FakeChild(ready, ended))
        return self.successors[-1]

    def signal(self, number: signal.Signals) -> None:
        """The process gets a signal."""
        self.lifecycle.handlers()[number](number)

    async def begin(self) -> None:
        """Start it, until it is ready."""
        self.lifecycle.begin()
        self.service.may_start.set()
        await self.service.got_ready
        while "ready" not in self.herald.calls:
            await asyncio.sleep(0)

    async def end(self) -> int:
        """Let it end; its exit code."""
        self.service.may_stop.set()
        await self.reactor.stopped
        return self.lifecycle.status


@pytest_twisted.ensureDeferred
async def test_from_start_to_end() -> None:
    async def main() -> None:
        stage = Stage()
        assert not stage.service.ready
        await stage.begin()
        assert stage.service.ready
        stage.signal(signal.SIGTERM)
        await stage.service.stopping.wait()
        assert not stage.service.ready
        assert await stage.end() == 0
        assert stage.service.said == ["stop"]
        assert stage.herald.calls == ["ready", "stopping", "stop"]

    await done(main())


@pytest.mark.parametrize(
    ("error", "status"), [(ConfigurationError("x"), 2), (NodeError("x"), 3), (RuntimeError("x"), 1)]
)
@pytest_twisted.ensureDeferred
async def test_a_start_that_fails(error: Exception, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        stage = Stage()
        stage.service.error = error
        stage.lifecycle.begin()
        stage.service.may_start.set()
        assert await stage.end() == status
        assert "ready" not in stage.herald.calls

    await done(main())
    assert capsys.readouterr().err == ("ifserver: error: x\n" if status != 1 else "")


@pytest_twisted.ensureDeferred
async def test_an_end_of_its_own() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.begin()
        stage.service.ended.set_result(5)
        assert await stage.end() == 5

    await done(main())


@pytest_twisted.ensureDeferred
async def test_an_end_before_it_was_ready() -> None:
    async def main() -> None:
        stage = Stage()
        stage.lifecycle.begin()
        stage.signal(signal.SIGTERM)
        await stage.service.stopping.wait()
        assert await stage.end() == 0
        assert stage.herald.calls == ["stopping", "stop"]

    await done(main())


@pytest_twisted.ensureDeferred
async def test_ctrl_c_is_in_a_hurry_and_a_second_one_more_so() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.begin()
        stage.signal(signal.SIGINT)
        await stage.service.stopping.wait()
        assert stage.service.said == ["stop, quickly"]
        stage.signal(signal.SIGINT)
        assert stage.service.said[1:] == ["stop now"]
        assert await stage.end() == 0

    await done(main())


@pytest.mark.parametrize("is_child", [False, True])
@pytest.mark.parametrize("has_terminal", [False, True])
@pytest_twisted.ensureDeferred
async def test_who_was_told_to_end_says_so_and_its_children_do_not(
    is_child: bool, has_terminal: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        stage = Stage(is_child=is_child)
        stage.lifecycle._has_terminal = has_terminal
        await stage.begin()
        number = signal.SIGQUIT if is_child else signal.SIGINT
        stage.signal(number)
        await stage.service.stopping.wait()
        stage.signal(number)
        await stage.end()

    await done(main())
    name = "Ctrl-C" if has_terminal else "SIGINT"
    said = [f"{name}: stopping", f"{name} again: stopping at once, open requests are cut off"]
    assert caplog.messages == ([] if is_child else said)


@pytest_twisted.ensureDeferred
async def test_a_second_sigterm_ends_it_at_once_but_not_its_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        stage = Stage()
        await stage.begin()
        stage.signal(signal.SIGTERM)
        stage.signal(signal.SIGTERM)
        await stage.service.stopping.wait()
        assert stage.service.said == ["stop"]
        stage.lifecycle._stop_requested_at -= 0.6
        stage.signal(signal.SIGTERM)
        assert stage.service.said == ["stop", "stop now"]
        await stage.end()

    await done(main())


@pytest_twisted.ensureDeferred
async def test_a_child_is_told_to_hurry_by_another_signal() -> None:
    async def main() -> None:
        stage = Stage(is_child=True)
        await stage.begin()
        stage.signal(signal.SIGTERM)
        stage.lifecycle._stop_requested_at -= 60
        stage.signal(signal.SIGTERM)
        await stage.service.stopping.wait()
        assert stage.service.said == ["stop"]
        stage.signal(signal.SIGQUIT)
        assert stage.service.said == ["stop", "stop now"]
        await stage.end()

    await done(main())


def test_who_hears_which_signals() -> None:
    handled = set(Stage().lifecycle.handlers())
    assert handled == {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
    child = set(Stage(is_child=True).lifecycle.handlers())
    assert child == {signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
    assert signal.SIGQUIT not in handled
    runtime = Runtime(FakeReactor(), LOOP)
    plain = Lifecycle(FakeService(runtime), runtime, FakeHerald(), Control())  # type: ignore[arg-type]
    assert set(plain.handlers()) == {signal.SIGINT, signal.SIGTERM}


# New settings.


@pytest_twisted.ensureDeferred
async def test_settings_are_read_anew(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        stage = Stage()
        await stage.begin()
        stage.read = CommandSettings(front=FrontSettings(max_headers=7, access_log="x"), log=LogSettings(verbosity=2))
        stage.signal(signal.SIGHUP)
        assert stage.service.said == ["reload"]
        assert stage.levels == [2]
        assert stage.herald.calls[-2:] == ["reloading", "ready"]
        stage.signal(signal.SIGHUP)
        stage.signal(signal.SIGTERM)
        await stage.end()

    with caplog.at_level(logging.INFO):
        await done(main())
    assert [text for text in caplog.messages if "SIGHUP" in text] == [
        "SIGHUP: changed, for what begins now: front.max_headers, log.verbosity",
        "SIGHUP: changed, but a restart is needed for: front.access_log",
        "SIGHUP: changed, but a restart is needed for: front.access_log",
    ]


@pytest_twisted.ensureDeferred
async def test_settings_that_cannot_be_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        stage = Stage()
        await stage.begin()
        stage.read = ConfigurationError("ifserver.toml:2: what is this?")
        stage.signal(signal.SIGHUP)
        assert stage.service.said == []
        assert stage.herald.calls[-2:] == ["reloading", "ready"]
        stage.signal(signal.SIGTERM)
        await stage.end()

    await done(main())
    assert "SIGHUP: the settings stay as they are: ifserver.toml:2: what is this?" in caplog.text


@pytest_twisted.ensureDeferred
async def test_that_workers_are_not_replaced_is_said_where_there_are_any(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        stage = Stage(CommandSettings(worker=WorkerSettings(application="a:b")))
        await stage.begin()
        stage.read = ConfigurationError("ifserver.toml:2: what is this?")
        stage.signal(signal.SIGHUP)
        stage.signal(signal.SIGTERM)
        await stage.end()

    await done(main())
    said = "SIGHUP: the settings stay as they are, and the workers are not replaced: ifserver.toml:2: what is this?"
    assert said in caplog.text


@pytest_twisted.ensureDeferred
async def test_nothing_is_read_anew_by_what_is_not_ready() -> None:
    async def main() -> None:
        stage = Stage()
        stage.lifecycle.begin()
        stage.signal(signal.SIGHUP)
        assert stage.service.said == []
        stage.signal(signal.SIGTERM)
        await stage.end()

    await done(main())


@pytest_twisted.ensureDeferred
async def test_a_terminal_that_is_closed_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "has_terminal", lambda: True)

    async def main() -> None:
        stage = Stage()
        await stage.begin()
        stage.signal(signal.SIGHUP)
        assert stage.service.said == ["reload"], "somebody has sent it"
        monkeypatch.setattr(lifecycle, "has_terminal", lambda: False)
        stage.signal(signal.SIGHUP)
        await stage.service.stopping.wait()
        await stage.end()

    await done(main())


@pytest_twisted.ensureDeferred
async def test_logs_are_opened_anew() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.begin()
        stage.signal(signal.SIGUSR1)
        assert stage.service.said == ["reopen"]
        stage.signal(signal.SIGTERM)
        await stage.end()

    await done(main())


# Successors.


@pytest_twisted.ensureDeferred
async def test_a_successor_takes_over() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.begin()
        stage.signal(signal.SIGUSR2)
        stage.signal(signal.SIGUSR2)
        [successor] = stage.successors
        assert not stage.service.succeeded
        successor.ready()
        await stage.service.stopping.wait()
        assert stage.service.succeeded
        assert stage.service.said == ["stop"]
        assert await stage.end() == 0
        assert "handed_over 77" in stage.herald.calls
        assert successor.calls == []
        assert stage.reactor.later[0][2] == [False]

    await done(main())


@pytest_twisted.ensureDeferred
async def test_a_successor_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        stage = Stage()
        await stage.begin()
        stage.signal(signal.SIGUSR2)
        stage.successors[0].ended()
        assert stage.service.ready
        stage.signal(signal.SIGUSR2)
        assert len(stage.successors) == 2, "another one may try"
        stage.no_successor = OSError("no such file")
        stage.successors[1].ended()
        stage.signal(signal.SIGUSR2)
        assert stage.service.ready
        stage.signal(signal.SIGTERM)
        await stage.end()

    await done(main())
    assert "process 77 was to take over and has ended (exit code 2): this one goes on" in caplog.text
    assert "SIGUSR2: cannot start a successor: no such file" in caplog.text


@pytest_twisted.ensureDeferred
async def test_a_successor_that_hangs_is_killed() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.begin()
        stage.signal(signal.SIGUSR2)
        [(delay, call, _)] = stage.reactor.later
        assert delay == 90.0
        call()
        assert stage.successors[0].calls == ["kill"]
        stage.successors[0].ended()
        stage.signal(signal.SIGTERM)
        await stage.end()

    await done(main())


@pytest_twisted.ensureDeferred
async def test_an_end_while_a_successor_starts_ends_that_too() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.begin()
        stage.signal(signal.SIGUSR2)
        [successor] = stage.successors
        stage.signal(signal.SIGTERM)
        assert successor.calls == ["terminate"]
        successor.ready()
        assert successor.calls == ["terminate", "terminate"]
        assert not stage.service.succeeded
        await stage.end()

    await done(main())


@pytest_twisted.ensureDeferred
async def test_process_1_has_no_successor(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)

    async def main() -> None:
        stage = Stage()
        await stage.begin()
        stage.signal(signal.SIGUSR2)
        assert stage.successors == []
        stage.signal(signal.SIGTERM)
        await stage.end()

    await done(main())
    assert "because this is process 1" in caplog.text


@pytest_twisted.ensureDeferred
async def test_a_successor_tells_that_it_is_ready() -> None:
    read_end, write_end = os.pipe()

    async def main() -> None:
        stage = Stage(ready_fd=write_end)
        await stage.begin()
        assert os.read(read_end, 10) == b"."
        stage.signal(signal.SIGTERM)
        await stage.end()

    await done(main())
    assert os.read(read_end, 10) == b"", "its end is closed"
    os.close(read_end)


@pytest_twisted.ensureDeferred
async def test_where_there_is_nothing_to_take_over(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        stage = Stage()
        stage.lifecycle._control = stage.control._replace(succeed=None)
        await stage.begin()
        stage.signal(signal.SIGUSR2)
        assert stage.service.ready
        stage.signal(signal.SIGTERM)
        await stage.end()

    await done(main())
    assert "SIGUSR2: ignored, because a successor can take over a server only" in caplog.text


@pytest_twisted.ensureDeferred
async def test_one_of_several_servers_is_told_of_a_successor() -> None:
    async def main() -> None:
        stage = Stage(is_child=True)
        stage.lifecycle._control = stage.control._replace(is_member=True)
        await stage.begin()
        stage.signal(signal.SIGUSR2)
        stage.signal(signal.SIGUSR2)
        await stage.service.stopping.wait()
        assert stage.service.succeeded
        assert stage.service.said == ["stop"]
        assert await stage.end() == 0

    await done(main())
