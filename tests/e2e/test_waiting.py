"""Requests that wait for longer than they may: in the queue, for a place there, and for their application."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.e2e.running import APPS, LIMIT_S, Gate, Running, eventually
from tests.redis_server import RedisServer

TIMEOUT_S = 2.0
#: What a machine that is busy may add.
LATE_S = 4.0
#: What is told at once.
AT_ONCE_S = 1.0
CAPACITY = 2


class Answer(NamedTuple):
    status: int
    retry_after: str | None
    took_s: float


class Site:
    """A server without workers, whose queue has little room and little patience."""

    def __init__(self, redis: RedisServer, server: Running, cluster: str) -> None:
        self.redis = redis
        self.server = server
        self.cluster = cluster

    def asks(self, method: str = "GET", path: str = "/") -> Answer:
        began_at = time.monotonic()
        answer = httpx.request(method, self.server.url + path, timeout=LIMIT_S)
        return Answer(answer.status_code, answer.headers.get("retry-after"), time.monotonic() - began_at)

    def handshake(self) -> Answer:
        began_at = time.monotonic()
        with pytest.raises(InvalidStatus) as refused, connect(self.server.url.replace("http", "ws", 1) + "/ws"):
            pass
        response = refused.value.response
        return Answer(response.status_code, response.headers.get("retry-after"), time.monotonic() - began_at)

    def queued(self) -> int:
        """Requests that wait in Redis."""
        keys = [key for name in ("http.request", "websocket.connect") for key in self._keys(name)]
        return sum(self.redis.command("LLEN", key) for key in keys)

    def _keys(self, channel: str) -> list[bytes]:
        keys: list[bytes] = self.redis.command("KEYS", f"ifserver:*:{channel}")
        return keys


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with RedisServer() as redis:
        cluster = f"main=redis://127.0.0.1:{redis.port}"
        patience = ("--queue-timeout", f"{TIMEOUT_S}s", "--response-timeout", f"{TIMEOUT_S}s")
        room = {"IFSERVER_LAYER_REQUEST_CAPACITY": str(CAPACITY)}
        with Running("serve", "-p", "0", "--cluster", cluster, *patience, environment=room) as server:
            server.said("listening on")
            yield Site(redis, server, cluster)


def test_nobody_takes_it(site: Site, pool: ThreadPoolExecutor) -> None:
    waiting = [pool.submit(site.asks, "GET"), pool.submit(site.asks, "POST"), pool.submit(site.handshake)]
    for each in waiting:
        status, retry_after, took_s = each.result()
        assert (status, TIMEOUT_S <= took_s < TIMEOUT_S + LATE_S) == (503, True)
        assert int(retry_after or "") >= 1
    # Nobody will ever take what was answered.
    assert site.queued() == 0


def test_there_is_no_room_for_it(site: Site, pool: ThreadPoolExecutor) -> None:
    waiting = [pool.submit(site.asks) for _ in range(CAPACITY)]
    waiting += [pool.submit(site.handshake) for _ in range(CAPACITY)]
    eventually(lambda: site.queued() == 2 * CAPACITY, "the queues are full")
    for answer in (site.asks("GET"), site.asks("POST"), site.handshake()):
        assert (answer.status, answer.took_s < AT_ONCE_S) == (503, True)
        assert int(answer.retry_after or "") >= 1
    assert {each.result().status for each in waiting} == {503}


def test_its_application_says_nothing(site: Site, gate: Gate) -> None:
    worker = ("worker", "zoo:app", "--cluster", site.cluster, "--workers", "1")
    with Running(*worker, app_dir=APPS) as supervisor:
        supervisor.ready()
        answer = site.asks("GET", f"/wait?gate={gate}")
        assert (answer.status, TIMEOUT_S <= answer.took_s < TIMEOUT_S + LATE_S) == (504, True)
        assert gate.arrivals() == supervisor.workers()
        gate.open()
        assert site.asks().status == 200
