"""Whatever a Redis loses under load is counted: sent = delivered + dropped, read from the metrics of each process.

Only a process that is killed leaves a trace: what it had just taken or sent, and not counted yet. None is here.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.e2e.operators import ADMIN, balance, scrape, settled
from tests.e2e.running import APPS, LIMIT_S, Running, eventually, frozen
from tests.redis_server import RedisServer

#: What requests may be answered while a Redis is at fault. A WebSocket is refused with one of the others, or closed.
ANSWERS = {200, 502, 503, 504}
QUEUE_S = 3


class Site:
    """A server and two workers, with admin endpoints."""

    def __init__(self, stack: ExitStack) -> None:
        self.redis = stack.enter_context(RedisServer())
        cluster = ("--cluster", f"main=redis://127.0.0.1:{self.redis.port}")
        worker = ("worker", "zoo:app", *cluster, "--workers", "2", *ADMIN)
        self.server = stack.enter_context(
            Running("serve", "-p", "0", *cluster, *ADMIN, "--queue-timeout", str(QUEUE_S), "--response-timeout", "9")
        )
        self.supervisor = stack.enter_context(Running(*worker, app_dir=APPS))
        self.supervisor.ready()

    def waiting(self, text: bytes, channel: str) -> int:
        """How many messages with that text are in Redis."""
        keys = self.redis.command("KEYS", f"ifserver:*:{channel}")
        return sum(text in payload for key in keys for payload in self.redis.command("LRANGE", key, 0, -1))

    def counts(self) -> dict[str, float]:
        return scrape(self.server, self.supervisor)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack)


def was_served(status: int) -> bool:
    assert status in ANSWERS
    return status == 200


class Load:
    """Clients that ask again and again, whatever they are answered."""

    def __init__(self, url: str, pool: ThreadPoolExecutor) -> None:
        self._url = url
        self._over = threading.Event()
        self._body = os.urandom(100_000)
        clients = [*[self._gets] * 3, self._posts, *[self._echoes] * 2]
        #: How often each client got what it wanted.
        self._served = [0] * len(clients)
        self._clients: list[Future[None]] = [pool.submit(client, number) for number, client in enumerate(clients)]

    def end(self) -> None:
        """Wait until each client got what it wanted at least once, and end them."""
        try:
            eventually(lambda: min(self._served) or any(each.done() for each in self._clients), "each client is served")
        finally:
            self._over.set()
        for client in self._clients:
            client.result()

    def _gets(self, number: int) -> None:
        with httpx.Client(timeout=LIMIT_S) as client:
            while not self._over.is_set():
                self._served[number] += was_served(client.get(self._url).status_code)

    def _posts(self, number: int) -> None:
        with httpx.Client(timeout=LIMIT_S) as client:
            while not self._over.is_set():
                try:
                    answer = client.post(f"{self._url}/echo", content=self._body)
                except httpx.TransportError:
                    # A piece of an answer that had begun was lost.
                    continue
                if was_served(answer.status_code):
                    assert answer.content == self._body
                    self._served[number] += 1

    def _echoes(self, number: int) -> None:
        while not self._over.is_set():
            try:
                with connect(f"{self._url.replace('http', 'ws', 1)}/ws", open_timeout=LIMIT_S) as client:
                    while not self._over.is_set():
                        client.send("x" * 1000)
                        client.recv(LIMIT_S)
                        self._served[number] += 1
            except InvalidStatus as refused:
                was_served(refused.response.status_code)
            except ConnectionClosed:
                pass


def emptied(redis: RedisServer) -> None:
    redis.command("FLUSHALL")


def killed(redis: RedisServer) -> None:
    redis.kill()
    redis.start()


def cut_off(redis: RedisServer) -> None:
    redis.command("CLIENT", "KILL", "TYPE", "normal")


def full(redis: RedisServer) -> None:
    redis.command("CONFIG", "SET", "maxmemory", "1mb")
    time.sleep(0.5)
    redis.command("CONFIG", "SET", "maxmemory", "0")


@pytest.mark.parametrize("fault", [emptied, killed, cut_off, full])
def test_under_load(site: Site, fault: Callable[[RedisServer], None], pool: ThreadPoolExecutor) -> None:
    before = site.counts()
    load = Load(site.server.url, pool)
    for _ in range(3):
        time.sleep(0.4)
        fault(site.redis)
    time.sleep(0.8)
    load.end()
    counted = settled(
        site.counts,
        lambda found: (
            balance(found) == 0
            and found["ifserver_streams"] == found["ifserver_worker_streams"] == found["ifserver_messages_waiting"] == 0
            and found["ifserver_worker_slots_free"] == 200
        ),
    )
    assert counted["ifserver_messages_sent_total"] > before["ifserver_messages_sent_total"]
    assert counted["ifserver_streams_opened_total"] == counted["ifserver_streams_closed_total"]


def waiting_posts(site: Site, pool: ThreadPoolExecutor) -> list[Future[httpx.Response]]:
    """Two requests that wait in Redis when that is emptied."""
    posts = [pool.submit(httpx.post, site.server.url, timeout=LIMIT_S) for _ in range(2)]
    eventually(
        lambda: site.waiting(b"", "http.request") == 2 or any(post.done() for post in posts), "they wait in Redis"
    )
    site.redis.command("FLUSHALL")
    return posts


def test_what_waits_in_a_redis_that_is_emptied_is_counted_as_lost(site: Site, pool: ThreadPoolExecutor) -> None:
    lost = "ifserver_messages_dropped_total{broker}"
    before = settled(site.counts, lambda found: balance(found) == 0)[lost]
    workers = site.supervisor.workers()
    with connect(f"{site.server.url.replace('http', 'ws', 1)}/ws") as client, frozen(*workers):
        # All but the server's.
        site.redis.last_reads_end(others=1)
        for _ in range(3):
            client.send("nobody will read this")
        eventually(lambda: site.waiting(b"will read", "!main.*") == 3, "the messages wait in Redis")
        # On a busy machine they may be answered 503 and taken back before they are seen: then once more.
        while [post.result().status_code for post in waiting_posts(site, pool)] != [504, 504]:
            pass
    found = settled(site.counts, lambda found: balance(found) == 0)
    # And what the server had to say of itself meanwhile.
    assert found[lost] - before >= 3 + 2
