"""``ifserver run`` as a service: its server, broker and supervisor; the workers are stand-ins."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from ifserver.config.configuration import CommandSettings
from ifserver.config.settings import WorkerSettings
from ifserver.errors import ConfigurationError
from ifserver.net import sockets
from ifserver.net.endpoints import unix_address
from ifserver.process.children import Launch
from ifserver.services.run import RunService
from ifserver.services.server import Listening
from tests.services.test_server import RUNTIME, done


class FakeWorker:
    """A worker process, which gets ready when the test says so, and ends when it is told to."""

    pid = 1
    status: int | None = None
    ending = "exit code 0"
    loaded = True
    interface = "asgi"
    error: str | None = None
    failure: str | None = None

    def __init__(self, launch: Launch, ready: Callable[[], None], ended: Callable[[], None]) -> None:
        self.launch = launch
        self.ready, self._ended = ready, ended

    def terminate(self) -> None:
        if self.status is None:
            self.end(0)

    kill = terminate

    def end(self, status: int) -> None:
        self.status = status
        RUNTIME.loop.call_soon(self._ended)


class Stage:
    """The service, and the workers that it has started."""

    def __init__(self, listening: Listening | None = None, workers: int = 1, **settings: Any) -> None:
        self.workers: list[FakeWorker] = []
        worker = WorkerSettings(application="a:b", processes=workers, **settings)
        self.service = RunService(RUNTIME, CommandSettings(worker=worker), listening or Listening(), self._spawn)
        self._wanted = workers

    def _spawn(self, launch: Launch, loop: object, ready: Callable[[], None], ended: Callable[[], None]) -> Any:
        self.workers.append(FakeWorker(launch, ready, ended))
        return self.workers[-1]

    async def starting(self) -> asyncio.Future[None]:
        """The start of the service, as far as its workers."""
        start = asyncio.ensure_future(self.service.start())
        while len(self.workers) < self._wanted:
            await asyncio.sleep(0)
        return start


@pytest.mark.parametrize("taken_over", [False, True])
@pytest_twisted.ensureDeferred
async def test_it_is_ready_when_its_workers_are(tmp_path: Path, taken_over: bool) -> None:
    async def main() -> None:
        sock, file = sockets.bind_unix(str(tmp_path / "sock"))
        assert file is not None
        stage = Stage(Listening([sock], files=[file], taken_over=taken_over), workers=3)
        service, start = stage.service, await stage.starting()
        # Before that clients wait; but those of a predecessor are better off with that one.
        assert bool(service._listener.ports) != taken_over
        for ready, worker in enumerate(stage.workers):
            assert (service.ready, service.counts()["workers"]) == (False, ready)
            worker.ready()
        await start
        assert service._listener.ports
        assert (service.ready, service.counts()["workers"]) == (True, 3)
        await service.stop()
        assert all(worker.status == 0 for worker in stage.workers)

    await done(main())


@pytest_twisted.ensureDeferred
async def test_the_broker_is_there_for_as_long_as_the_service() -> None:
    """uvloop closes a listening socket to which nobody refers any more."""

    async def main() -> None:
        stage = Stage()
        start = await stage.starting()
        stage.workers[0].ready()
        await start
        gc.collect()
        path = stage.workers[0].launch.layer.clusters[0].nodes[0].path
        assert path is not None
        address = unix_address(path)
        with socket.socket(socket.AF_UNIX) as worker:
            worker.connect(address)
        await stage.service.stop()
        with socket.socket(socket.AF_UNIX) as worker, pytest.raises(ConnectionRefusedError):
            worker.connect(address)

    await done(main())


@pytest_twisted.ensureDeferred
async def test_it_ends_by_itself_if_the_application_cannot_be_loaded() -> None:
    async def main() -> None:
        stage = Stage()
        start = await stage.starting()
        worker = stage.workers[0]
        worker.loaded, worker.failure = False, "a:b: no module named 'a'"
        worker.end(2)
        with pytest.raises(ConfigurationError, match="no module named 'a'"):
            await stage.service.ended
        assert not start.done()
        start.cancel()
        await stage.service.stop()
        assert not stage.service.ready

    await done(main())


@pytest_twisted.ensureDeferred
async def test_it_can_be_stopped_before_it_has_started() -> None:
    """As after an address that cannot be had."""

    async def main() -> None:
        await Stage().service.stop()

    await done(main())


def test_what_is_given_for_reload_alone_is_reported_where_that_is_off(caplog: pytest.LogCaptureFixture) -> None:
    Stage()
    assert not caplog.records
    Stage(reload_dirs=(".",), reload_exclude=("*.md",))
    assert "worker.reload_dirs, worker.reload_exclude: not used, because worker.reload is off" in caplog.text
