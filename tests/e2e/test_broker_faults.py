"""What clients see while their Redis is away, refuses, is slow or is cut off, and after that.

Here the broker does not lose what it holds, but for what each test says. Redis servers that are killed, frozen and
emptied while something waits in them are in `test_liveness`, idle connections through a restart in `test_redis`.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect, unix_connect

from tests.chaos.apart import FAR, Apart, may_be_apart
from tests.chaos.proxy import Proxy, loop_in_thread, proxied
from tests.e2e.running import APPS, LIMIT_S, Gate, Running, eventually, frozen
from tests.e2e.wire import Cut, Wire, close_of
from tests.redis_server import RedisServer, SentinelServer

#: What docs/explanation/failures.rst grants until all is as before, in seconds, and what a machine that is busy may
#: add.
BACK_S = 3.0 + 5.0
#: What is told at once; less than ...
AT_ONCE_S = 3.0
#: ... what it takes until commands without an answer are given up, and with them their connection; which is less than
#: what clients wait for otherwise (30 s).
GIVEN_UP_S = 5.0 + 4.0


class Site:
    """A Redis behind a proxy, a server and a worker. None of them is started again."""

    proxy: Proxy

    def __init__(
        self, redis: RedisServer, server: Running, supervisor: Running, address: tuple[str, int] | str
    ) -> None:
        self.redis = redis
        self.server = server
        self.supervisor = supervisor
        self.address = address
        [self.worker] = supervisor.workers()

    def held(self, text: bytes) -> int:
        """How many messages with `text` wait in inboxes."""
        keys = self.redis.command("KEYS", "ifserver:*:!*")
        return sum(text in payload for key in keys for payload in self.redis.command("LRANGE", key, 0, -1))

    def websocket(self) -> ClientConnection:
        """A new WebSocket that echoes."""
        if isinstance(self.address, str):
            return unix_connect(self.address, "ws://test/ws", open_timeout=LIMIT_S)
        return connect(f"ws://127.0.0.1:{self.address[1]}/ws", open_timeout=LIMIT_S)

    def asks(self, method: str = "GET") -> tuple[int, float]:
        """The status of the answer to a new request, and how long it took, in seconds."""
        began_at = time.monotonic()
        with Wire(self.address) as wire:
            answer = wire.get("/", *(["content-length: 0"] if method == "POST" else []), method=method)
        assert answer.status != 503 or int(answer.header("retry-after") or "") >= 1
        return answer.status, time.monotonic() - began_at

    def refuses_at_once(self) -> bool:
        """Whether new requests are told at once that there is no broker."""
        answers = [self.asks(method) for method in ("GET", "POST")]
        return all(status == 503 and took_s < AT_ONCE_S for status, took_s in answers)


@pytest.fixture(scope="module")
def started() -> Iterator[Site]:
    with RedisServer() as redis, loop_in_thread() as loop, proxied(redis.port, loop) as proxy:
        cluster = ("--cluster", f"main=redis://127.0.0.1:{proxy.port}")
        worker = ("worker", "zoo:app", *cluster, "--processes", "1")
        with (
            Running("serve", "-p", "0", *cluster) as server,
            Running(*worker, app_dir=APPS) as supervisor,
        ):
            site = Site(redis, server, supervisor.ready(), ("127.0.0.1", server.port))
            site.proxy = proxy
            yield site
            # Both at once, for each waits for its last read of a second.
            for each in (server, supervisor):
                each.process.send_signal(signal.SIGTERM)


@pytest.fixture
def site(started: Site) -> Iterator[Site]:
    """All of it in order, whatever the test before has done; the worker is the same one in the end."""
    eventually(lambda: started.asks()[0] == 200, "requests are answered")
    yield started
    assert started.supervisor.workers() == [started.worker]
    for each in (started.server, started.supervisor):
        assert "gives no sign of life on node" not in each.output


class Witness:
    """Connections with nothing under way on the node: an idle WebSocket, an idle connection, and two requests of which
    one is unanswered and one half answered."""

    def __init__(self, site: Site, stack: ExitStack, folder: Path) -> None:
        self._site = site
        self._gates = {name: Gate(folder / name) for name in ("post", "half")}
        stack.callback(self.go_on)
        self.websocket = stack.enter_context(site.websocket())
        self._kept, self.post, self.half = (stack.enter_context(Wire(site.address)) for _ in range(3))
        assert self._kept.get("/").status == 200
        self.post.send(_post(self._gates["post"]))
        self.half.send(f"GET /half?gate={self._gates['half']} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        assert self.half.head()[0] == 200
        assert int(self.half.chunk()) == site.worker
        for gate in self._gates.values():
            gate.reached()
        assert self.echoes("awake")

    def echoes(self, text: str) -> bool:
        self.websocket.send(text)
        return self.websocket.recv(LIMIT_S) == text

    def go_on(self) -> None:
        """Let the applications of the two requests end them."""
        for gate in self._gates.values():
            gate.open()

    def is_unharmed(self, back_at: float, *sent: str) -> None:
        """Check that all is as before, and in time; `sent` was sent meanwhile and comes back now, once."""
        eventually(lambda: self._site.asks()[0] == 200, "requests are answered", back_at + BACK_S - time.monotonic())
        assert self._site.asks("POST")[0] == 200
        for text in sent:
            assert self.websocket.recv(back_at + BACK_S - time.monotonic()) == text
        assert self.echoes("still here?")
        self.go_on()
        assert int(self.post.receive().body) == self._site.worker
        assert self.half.chunks() == b"end"
        assert self._kept.get("/").status == 200
        # Once each: who was asked twice has been asked twice.
        for gate in self._gates.values():
            assert gate.arrivals() == [self._site.worker]


def _post(gate: Gate) -> bytes:
    return f"POST /wait?gate={gate} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n".encode()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def witness(site: Site, stack: ExitStack, tmp_path: Path) -> Witness:
    return Witness(site, stack, tmp_path)


def test_a_redis_that_is_away_for_a_while(site: Site, witness: Witness) -> None:
    site.redis.kill()
    eventually(site.refuses_at_once, "503 while there is no Redis", AT_ONCE_S * 3)
    witness.websocket.send("while it is away")
    # What the application says meanwhile is kept for its server.
    witness.go_on()
    # Long enough for the pauses between attempts to have grown to their longest.
    away_until = time.monotonic() + 3
    while time.monotonic() < away_until:
        assert site.refuses_at_once()
    site.redis.start()
    witness.is_unharmed(time.monotonic(), "while it is away")


class Refusing(NamedTuple):
    """A way to make a Redis refuse what is new, and the way back."""

    begin: tuple[str, ...]
    end: tuple[str, ...]


REFUSING = {
    "read-only": Refusing(("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "out of memory": Refusing(("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
}


@pytest.mark.parametrize("how", REFUSING)
def test_a_redis_that_refuses(site: Site, witness: Witness, stack: ExitStack, how: str) -> None:
    stack.callback(site.redis.command, *REFUSING[how].end)
    site.redis.command(*REFUSING[how].begin)
    eventually(site.refuses_at_once, "503 while it refuses", AT_ONCE_S * 3)
    witness.websocket.send("while it refuses")
    witness.go_on()
    assert site.refuses_at_once()
    with pytest.raises(TimeoutError):
        witness.websocket.recv(0.5)
    site.redis.command(*REFUSING[how].end)
    witness.is_unharmed(time.monotonic(), "while it refuses")


def test_a_redis_that_takes_half_a_second_for_each_command(
    site: Site, witness: Witness, pool: ThreadPoolExecutor
) -> None:
    site.proxy.delay_s = 0.25
    try:
        asking = [pool.submit(site.asks, method) for method in ("GET", "POST", "GET")]
        opening = pool.submit(site.websocket)
        assert witness.echoes("slowly")
        with opening.result() as other:
            other.send("also new ones")
            assert other.recv(LIMIT_S) == "also new ones"
        for each in asking:
            status, took_s = each.result()
            assert (status, took_s < GIVEN_UP_S) == (200, True)
    finally:
        site.proxy.delay_s = 0.0
    witness.is_unharmed(time.monotonic())


def test_connections_that_are_dead_and_nobody_is_told(site: Site, witness: Witness, pool: ThreadPoolExecutor) -> None:
    site.proxy.do(Proxy.lose)
    witness.websocket.send("into the void")
    asking: Future[tuple[int, float]] = pool.submit(site.asks)
    # In doubt after five seconds. Then a message for an inbox is sent once more; a GET is offered once more, or refused
    # if that is before there is a new connection.
    status, took_s = asking.result()
    assert status in (200, 503)
    assert took_s < GIVEN_UP_S + BACK_S
    witness.is_unharmed(time.monotonic() + GIVEN_UP_S, "into the void")


def test_what_was_pushed_twice_arrives_once(site: Site, witness: Witness) -> None:
    with frozen(site.worker):
        site.redis.last_reads_end(others=1)
        site.proxy.delay_s = 0.3
        try:
            witness.websocket.send("twice")
            witness.websocket.send("or not")
            eventually(lambda: site.held(b"twice") == 1, "the node has it, and its answer is on the way")
            site.proxy.do(Proxy.reset)
            eventually(lambda: site.held(b"twice") == 2, "it is pushed once more")
        finally:
            site.proxy.delay_s = 0.0
    witness.is_unharmed(time.monotonic(), "twice", "or not")


def test_the_last_words_of_applications_are_lost(
    site: Site, witness: Witness, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """No gap shows, since nothing follows; all the same everybody is told."""
    gate = Gate(tmp_path / "block")
    with ExitStack() as stack:
        stack.callback(gate.open)
        blocked = pool.submit(httpx.get, f"{site.server.url}/block?gate={gate}", timeout=LIMIT_S)
        gate.reached()
        # What a read that has begun brings would not be lost: the worker's end, and later the server's.
        site.redis.last_reads_end(others=1)
        witness.websocket.send("an echo that nobody hears")
        eventually(lambda: site.held(b"nobody hears"), "the worker has a message to echo")
        with frozen(site.server.pid):
            site.redis.last_reads_end()
            witness.go_on()
            gate.open()
            # In the worker's inbox nothing is left: this is in the server's.
            words = (b"nobody hears", b"end", str(site.worker).encode())
            eventually(lambda: all(map(site.held, words)), "the last words are there")
            site.redis.command("FLUSHALL")
        lost_at = time.monotonic()
        assert witness.post.receive().status == 502
        with pytest.raises(Cut):
            witness.half.rest()
        assert close_of(witness.websocket)[0] == 1011
        # The GET is asked once more.
        answer = blocked.result()
        assert (answer.status_code, gate.arrivals()) == (200, [site.worker] * 2), answer.text
        assert time.monotonic() - lost_at < BACK_S


@pytest.mark.skipif(not may_be_apart(), reason="network namespaces are not permitted here")
def test_a_redis_that_is_cut_off_without_a_closed_connection(stack: ExitStack, tmp_path: Path) -> None:
    """Unix sockets know nothing of network namespaces: so we reach the server and the Redis all the same."""
    apart = Apart(stack)
    redis = RedisServer(bind=FAR[1], protected_mode="no")
    stack.callback(redis.remove)
    with apart.far():
        redis.start()
    path = str(tmp_path / "s")
    cluster = ("--cluster", f"main=redis://{FAR[1]}:{redis.port}")
    with apart.near():
        server = stack.enter_context(Running("serve", "-u", path, *cluster))
        worker = ("worker", "zoo:app", *cluster, "--processes", "1")
        supervisor = stack.enter_context(Running(*worker, app_dir=APPS)).ready()
    server.said("listening on")
    site = Site(redis, server, supervisor, path)
    eventually(lambda: site.asks()[0] == 200, "requests are answered")
    _is_cut_off(site, Witness(site, stack, tmp_path), apart.cut, apart.mend)
    for each in (supervisor, server):
        each.process.send_signal(signal.SIGTERM)


def _is_cut_off(site: Site, witness: Witness, cut: Callable[[], None], mend: Callable[[], None]) -> None:
    cut()
    cut_at = time.monotonic()
    witness.websocket.send("while it is cut off")
    witness.go_on()
    # Nobody can know it before there was no answer for five seconds.
    status, took_s = site.asks()
    assert (status, took_s < GIVEN_UP_S) == (503, True)
    assert site.refuses_at_once()
    assert time.monotonic() - cut_at < GIVEN_UP_S + 2 * AT_ONCE_S
    mend()
    witness.is_unharmed(time.monotonic(), "while it is cut off")


@pytest.mark.skipif(may_be_apart(), reason="the test before shows more")
def test_a_redis_behind_a_hole(site: Site, witness: Witness) -> None:
    """The same with a proxy that holds everything back, where network namespaces are not permitted."""
    _is_cut_off(site, witness, lambda: site.proxy.do(Proxy.hold), lambda: site.proxy.do(Proxy.release))


class Watched:
    """A primary and its replica, and the Sentinels that watch them and know each other."""

    def __init__(self, stack: ExitStack) -> None:
        self.primary = stack.enter_context(RedisServer(repl_diskless_sync_delay="0"))
        self.replica = stack.enter_context(RedisServer(replicaof=f"127.0.0.1 {self.primary.port}"))
        eventually(lambda: self.replica.info("replication")["master_link_status"] == "up", "replication")
        sentinels = [stack.enter_context(SentinelServer(self.primary)) for _ in range(3)]
        known = f"slaves=1,sentinels={len(sentinels)}"
        eventually(lambda: all(known in each.info("sentinel")["master0"] for each in sentinels), known)
        self.url = "redis+sentinel://" + ",".join(f"127.0.0.1:{each.port}" for each in sentinels) + "/main"

    def promoted(self) -> float:
        """When the replica became the primary."""
        eventually(lambda: self.replica.info("replication")["role"] == "master", "the promotion")
        return time.monotonic()


@pytest.mark.parametrize("fault", [RedisServer.kill, RedisServer.freeze], ids=["killed", "frozen"])
def test_a_failover_by_sentinel(stack: ExitStack, tmp_path: Path, fault: Callable[[RedisServer], None]) -> None:
    watched = Watched(stack)
    cluster = ("--cluster", f"main={watched.url}")
    server = stack.enter_context(Running("serve", "-p", "0", *cluster))
    supervisor = stack.enter_context(Running("worker", "zoo:app", *cluster, "--workers", "1", app_dir=APPS)).ready()
    site = Site(watched.primary, server, supervisor, ("127.0.0.1", server.port))
    eventually(lambda: site.asks()[0] == 200, "requests are answered")
    witness = Witness(site, stack, tmp_path)
    fault(watched.primary)
    witness.websocket.send("while there is no primary")
    # What the application says meanwhile is kept for its server.
    witness.go_on()
    witness.is_unharmed(watched.promoted(), "while there is no primary")
    for each in (supervisor, server):
        assert "gives no sign of life on node" not in each.output
        each.process.send_signal(signal.SIGTERM)
