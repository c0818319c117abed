"""Many open WebSockets that are resumable, and everything that goes wrong while they look for their next worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests import fresh_loop
from tests.e2e.running import APPS, Gate, Running, eventually
from tests.redis_server import RedisServer

#: How long any step may take, in seconds.
LIMIT_S = 120.0


class Site:
    """A Redis, a server, and workers as the test starts them."""

    def __init__(self, stack: ExitStack, *settings: str, cluster: tuple[str, ...] = ()) -> None:
        self._stack = stack
        self.redis = stack.enter_context(RedisServer())
        self._layer = ("--cluster", f"main=redis://127.0.0.1:{self.redis.port}", *cluster)
        self.server = stack.enter_context(Running("serve", "-p", "0", *self._layer, *settings))

    def work(self, *settings: str) -> Running:
        """A supervisor with one worker."""
        command = ("worker", "zoo:app", "--processes", "1", *self._layer, *settings)
        return self._stack.enter_context(Running(*command, app_dir=APPS)).ready()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@contextlib.asynccontextmanager
async def opened(site: Site, count: int, path: str = "/resume") -> AsyncIterator[list[ClientConnection]]:
    """So many open WebSockets."""
    async with contextlib.AsyncExitStack() as clients:
        found = []
        for _ in range(count):
            url = f"ws://127.0.0.1:{site.server.port}{path}"
            found.append(await clients.enter_async_context(connect(url, open_timeout=LIMIT_S, ping_interval=None)))
        yield found


async def answered(clients: list[ClientConnection]) -> set[int]:
    """Each says something, and is answered; by which workers."""

    async def ask(client: ClientConnection) -> int:
        word = str(time.monotonic_ns())
        await client.send(word)
        while (answer := str(await client.recv()).split())[1] != word:
            if answer[0] == "resumed" and answer[1] != "0":
                await client.send(word)  # it may have been lost with the last worker
        return int(answer[0])

    async with asyncio.timeout(LIMIT_S):
        return set(await asyncio.gather(*map(ask, clients)))


def waiting(site: Site, channel: str = "websocket.resume") -> int:
    """How many wait on the node to be taken."""
    keys = site.redis.command("KEYS", f"ifserver:*:{channel}")
    return sum(site.redis.command("LLEN", key) for key in keys)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_their_redis_is_silent_while_their_worker_ends(stack: ExitStack, how: signal.Signals) -> None:
    site = Site(stack)
    first, _ = site.work(), site.work()

    async def run() -> None:
        async with opened(site, 10) as clients:
            await answered(clients)
            site.redis.freeze()
            try:
                for pid in first.workers():
                    os.kill(pid, how)
                site.server.said("node main is silent")
            finally:
                site.redis.thaw()
            await answered(clients)

    fresh_loop.run(run, 2 * LIMIT_S)


def test_there_is_no_room_for_all_of_them(stack: ExitStack) -> None:
    site = Site(stack, cluster=("--request-capacity", "20"))
    host = site.work()

    async def run() -> None:
        async with opened(site, 300) as clients:
            await answered(clients)
            site.work()
            host.killed()
            await answered(clients)

    fresh_loop.run(run, 2 * LIMIT_S)
    assert not waiting(site)


def test_nobody_takes_them_for_longer_than_a_request_would_wait(stack: ExitStack) -> None:
    site = Site(stack, "--queue-timeout", "1s")
    host = site.work()

    async def run() -> None:
        async with opened(site, 20) as clients:
            await answered(clients)
            host.killed()
            eventually(lambda: waiting(site) == 20, "all are offered", LIMIT_S)
            # A request that comes later is given up before.
            assert httpx.get(site.server.url, timeout=LIMIT_S).status_code == 503
            assert waiting(site) == 20
            site.work()
            await answered(clients)

    fresh_loop.run(run, 2 * LIMIT_S)


def test_nobody_takes_them_in_time(stack: ExitStack) -> None:
    site = Site(stack, "--resume-timeout", "1s")
    host = site.work()

    async def run() -> None:
        async with opened(site, 3) as clients:
            await answered(clients)
            host.killed()
            async with asyncio.timeout(LIMIT_S):
                for client in clients:
                    await client.wait_closed()
            assert {client.close_code for client in clients} == {1012}

    fresh_loop.run(run, 2 * LIMIT_S)
    assert not waiting(site), "they are taken back"


@pytest.mark.parametrize("misfortune", ["killed", "emptied"])
def test_their_node_loses_what_is_offered(stack: ExitStack, misfortune: str) -> None:
    site = Site(stack)
    host = site.work()

    async def run() -> None:
        async with opened(site, 20) as clients:
            await answered(clients)
            host.killed()
            eventually(lambda: waiting(site) == 20, "all are offered", LIMIT_S)
            if misfortune == "killed":
                site.redis.kill()
                site.redis.start()
            else:
                site.redis.command("FLUSHALL")
            site.work()
            await answered(clients)

    fresh_loop.run(run, 2 * LIMIT_S)


def test_the_next_workers_die_before_they_accept(stack: ExitStack, tmp_path: Path) -> None:
    """More often than a handshake would be offered."""
    site = Site(stack)
    host = site.work()
    gate = Gate(tmp_path / "gate")

    async def run() -> None:
        async with opened(site, 1, f"/resume?gate={gate}") as clients:
            await answered(clients)
            worker = site.work()
            host.killed()
            for times in range(1, 5):
                os.kill(gate.reached(times)[-1], signal.SIGKILL)
            gate.open()
            await answered(clients)
            worker.end()
            site.work()
            await answered(clients)

    fresh_loop.run(run, 2 * LIMIT_S)


def test_they_are_taken_before_requests_that_wait(stack: ExitStack, tmp_path: Path) -> None:
    site = Site(stack)
    host = site.work()
    gate = Gate(tmp_path / "gate")

    async def run() -> None:
        async with opened(site, 50) as clients, httpx.AsyncClient(timeout=LIMIT_S) as http:
            await answered(clients)
            host.killed()
            # Each would keep the only worker from everything else.
            url = f"{site.server.url}/wait"
            requests = [asyncio.create_task(http.get(url, params={"gate": str(gate)})) for _ in range(3)]
            await asyncio.to_thread(eventually, lambda: waiting(site, "http.request") == 3, "they wait", LIMIT_S)
            await asyncio.to_thread(eventually, lambda: waiting(site) == 50, "all are offered", LIMIT_S)
            worker = site.work("--concurrency", "1")
            assert await answered(clients) == set(worker.workers())
            gate.open()
            assert {answer.status_code for answer in await asyncio.gather(*requests)} == {200}

    fresh_loop.run(run, 2 * LIMIT_S)


def test_an_idle_websocket_feels_nothing_of_a_long_time_without_redis(stack: ExitStack) -> None:
    """Neither resumable nor not, though it is longer than a node may be gone before its processes are looked for."""
    site = Site(stack, cluster=("--broker-grace", "0s"))
    site.work()

    async def run() -> None:
        async with opened(site, 10) as resumable, opened(site, 10, "/ws") as plain:
            site.redis.kill()
            # The processes are taken for dead 5 s after the grace, if at all.
            await asyncio.sleep(7.0)
            site.redis.start()
            await answered(resumable)
            for client in plain:
                await client.send("still here")
                async with asyncio.timeout(LIMIT_S):
                    assert await client.recv() == "still here"

    fresh_loop.run(run, 2 * LIMIT_S)
