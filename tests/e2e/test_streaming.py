"""Bodies that are far larger than what anybody may hold of them, through a real Redis."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.running import APPS, LIMIT_S, Running, eventually
from tests.e2e.wire import Wire
from tests.redis_server import RedisServer

PIECE = 64 * 1024
#: Bodies of 128 MiB, and what any process may grow by on the way: a few windows, and what its allocator keeps.
PIECES = 2048
GROWTH_BYTES = 30 * 1024 * 1024


class Site:
    """Redis, a server and a worker."""

    def __init__(self, redis: RedisServer, server: Running, worker: Running) -> None:
        self.redis = redis
        self.server = server
        self.worker = worker

    def resident(self) -> list[int]:
        """Bytes that each of the three processes has in memory."""
        pids = [self.redis.pid, self.server.pid, *self.worker.workers()]
        return [_statm(pid) * os.sysconf("SC_PAGE_SIZE") for pid in pids]


def _statm(pid: int) -> int:
    return int(Path("/proc", str(pid), "statm").read_text().split()[1])


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with RedisServer() as redis:
        cluster = ("--cluster", f"main=redis+unix://{redis.path}")
        with (
            Running("serve", "-p", "0", *cluster) as server,
            Running("worker", "zoo:app", "--processes", "1", *cluster, app_dir=APPS) as worker,
        ):
            eventually(lambda: httpx.get(server.url).status_code == 200, "requests are answered")
            yield Site(redis, server, worker)


def test_an_upload_is_held_by_nobody(site: Site) -> None:
    before = site.resident()
    body = (bytes(PIECE) for _ in range(PIECES))
    received = httpx.post(f"{site.server.url}/count", content=body, timeout=LIMIT_S)
    assert (received.status_code, int(received.text)) == (200, PIECES * PIECE)
    assert [after - start < GROWTH_BYTES for start, after in zip(before, site.resident(), strict=True)] == [True] * 3


def test_a_download_is_held_by_nobody(site: Site) -> None:
    before = site.resident()
    with httpx.stream("GET", f"{site.server.url}/large?pieces={PIECES}", timeout=LIMIT_S) as response:
        assert sum(map(len, response.iter_bytes())) == PIECES * PIECE
    assert [after - start < GROWTH_BYTES for start, after in zip(before, site.resident(), strict=True)] == [True] * 3


def test_clients_that_do_not_read_cost_what_their_windows_hold_and_no_more(site: Site) -> None:
    count = 20
    before = site.resident()
    clients = []
    try:
        for _ in range(count):
            client = socket.socket()
            clients.append(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            client.connect(("127.0.0.1", site.server.port))
            client.sendall(b"GET /large?pieces=2048 HTTP/1.1\r\nhost: a\r\n\r\n")
        for client in clients:
            assert client.recv(1024).startswith(b"HTTP/1.1 200 ")
        # Others are served meanwhile.
        with Wire(("127.0.0.1", site.server.port)) as wire:
            for _ in range(50):
                assert wire.get("/").status == 200
        for start, after in zip(before, site.resident(), strict=True):
            assert after - start < GROWTH_BYTES
    finally:
        for client in clients:
            client.close()
