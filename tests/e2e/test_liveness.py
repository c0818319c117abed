"""Who is alive: processes and a Redis that are killed and frozen, and what clients and applications see of that."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from ifserver.layers.inbox import WAIT_S
from ifserver.layers.redis.connection import ANSWER_S
from tests.e2e.running import APPS, LIMIT_S, Gate, Running, eventually, frozen
from tests.e2e.wire import Cut, Wire, close_of
from tests.redis_server import RedisServer

#: What docs/explanation/failures.rst grants, in seconds, and what a machine that is busy with other things may add.
#: Each is less than what comes to the rescue when this has failed: 5, 10 and 30 s.
SOON_S = 0.1 + 2.9
HOST_GONE_S = 5.0 + 4.0
SERVER_GONE_S = 10.0 + 10.0


class Site:
    """A Redis, servers and supervisors with one worker each, started as they are needed."""

    def __init__(self, stack: ExitStack, **options: str) -> None:
        self._stack = stack
        self.redis = stack.enter_context(RedisServer(**options))
        self._cluster = ("--cluster", f"main=redis://127.0.0.1:{self.redis.port}")
        self.all: list[Running] = []

    def server(self) -> Running:
        return self._start(Running("serve", "-p", "0", *self._cluster))

    def supervisor(self) -> Running:
        started = self._start(Running("worker", "zoo:app", *self._cluster, "--processes", "1", app_dir=APPS))
        return started.ready()

    def _start(self, started: Running) -> Running:
        self.all.append(self._stack.enter_context(started))
        return started

    def end(self) -> None:
        """All at once, for each waits for its last read of a second."""
        for each in self.all:
            if each.process.poll() is None:
                each.process.send_signal(signal.SIGTERM)


@pytest.fixture
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        site = Site(stack)
        yield site
        site.end()


class Dying(NamedTuple):
    """A server that was killed while applications had WebSockets of its clients, and another one that was not."""

    #: By the clock of files.
    killed_at: float
    report: Path
    server: Running
    client: ClientConnection
    other_report: Path


@pytest.fixture(scope="module", autouse=True)
def dying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dying]:
    """Nothing need be waited for: the ten seconds pass while the other tests run."""
    folder = tmp_path_factory.mktemp("reports")
    with ExitStack() as stack:
        site = Site(stack)
        killed, server, _ = site.server(), site.server(), site.supervisor()
        reports = folder / "killed", folder / "other"
        _, client = (
            stack.enter_context(socket_of(each, f"/report?report={report}"))
            for each, report in zip((killed, server), reports, strict=True)
        )
        killed_at = time.time()
        killed.killed()
        yield Dying(killed_at, reports[0], server, client, reports[1])
        site.end()


def socket_of(server: Running, target: str = "/ws") -> ClientConnection:
    return connect(server.url.replace("http", "ws", 1) + target)


def echoes(client: ClientConnection, text: str = "still here?") -> bool:
    client.send(text)
    return client.recv(LIMIT_S) == text


def condemned(*processes: Running) -> bool:
    """Whether one of them has taken another one for dead."""
    return any("gives no sign of life on node" in process.output for process in processes)


class InFlight:
    """A GET, a POST, half a response and two WebSockets, all in the hands of the one worker that there is."""

    def __init__(self, stack: ExitStack, server: Running, folder: Path) -> None:
        address = ("127.0.0.1", server.port)
        self.gates = {name: Gate(folder / name) for name in ("get", "post", "half")}
        self.report = folder / "report"
        self.get, self.post, self.half = (stack.enter_context(Wire(address)) for _ in range(3))
        self.get.send(f"GET /wait?gate={self.gates['get']} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        post = f"POST /wait?gate={self.gates['post']} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"
        self.post.send(post.encode())
        self.half.send(f"GET /half?gate={self.gates['half']} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        self.websocket = stack.enter_context(socket_of(server))
        self.reporting = stack.enter_context(socket_of(server, f"/report?report={self.report}"))
        assert self.half.head()[0] == 200
        self.worker = int(self.half.chunk())
        stack.callback(self.open)
        assert {pid for gate in self.gates.values() for pid in gate.reached()} == {self.worker}

    def open(self) -> None:
        """Let all of the requests go on."""
        for gate in self.gates.values():
            gate.open()

    def lost(self, since: float, within_s: float, another_within_s: float | None = None) -> None:
        """Check that each of them is told what its kind is told, in time, and that the GET is with another worker."""
        assert self.post.receive().status == 502
        assert _is_cut(self.half)
        assert close_of(self.websocket)[0] == 1012
        assert close_of(self.reporting)[0] == 1012
        assert time.monotonic() - since < within_s
        [first, other] = self.gates["get"].reached(2)
        assert time.monotonic() - since < (another_within_s or within_s)
        assert first == self.worker != other
        self.gates["get"].open()
        answer = self.get.receive()
        assert (answer.status, int(answer.body)) == (200, other)


def _is_cut(wire: Wire) -> bool:
    try:
        wire.rest()
    except Cut:
        return True
    return False


def test_a_child_that_is_killed(site: Site, tmp_path: Path) -> None:
    server, supervisor = site.server(), site.supervisor()
    with ExitStack() as stack:
        requests = InFlight(stack, server, tmp_path)
        site.supervisor()
        os.kill(requests.worker, signal.SIGKILL)
        requests.lost(time.monotonic(), SOON_S)
    supervisor.said(r"was killed \(SIGKILL\); its 5 requests")


def test_a_child_of_the_embedded_broker_that_is_killed(tmp_path: Path) -> None:
    with Running("run", "zoo:app", "-p", "0", "--workers", "1", app_dir=APPS) as server, ExitStack() as stack:
        server.ready()
        requests = InFlight(stack, server, tmp_path)
        os.kill(requests.worker, signal.SIGKILL)
        # The other one is only being started.
        requests.lost(time.monotonic(), SOON_S, another_within_s=HOST_GONE_S)


def test_a_supervisor_that_is_killed_takes_its_child_along(site: Site, tmp_path: Path) -> None:
    server, supervisor = site.server(), site.supervisor()
    with ExitStack() as stack:
        requests = InFlight(stack, server, tmp_path)
        site.supervisor()
        killed_at = time.monotonic()
        supervisor.killed()
        requests.lost(killed_at, HOST_GONE_S)


def test_a_host_that_is_frozen_is_as_good_as_dead_and_lets_go_when_it_wakes(site: Site, tmp_path: Path) -> None:
    server, supervisor = site.server(), site.supervisor()
    with ExitStack() as stack:
        requests = InFlight(stack, server, tmp_path)
        other = site.supervisor()
        with frozen(supervisor.pid, requests.worker):
            frozen_at = time.monotonic()
            requests.lost(frozen_at, HOST_GONE_S)
            assert not requests.report.exists()
        woken_at = time.monotonic()
        requests.open()
        # Its applications learn it, and it works again.
        eventually(requests.report.exists, "the thawed worker lets go", 5)
        assert json.loads(requests.report.read_text()) == [1006, ""]
        both = {requests.worker, *other.workers()}
        with httpx.Client() as http:
            found: set[int] = set()
            while found != both:
                found.add(int(http.get(server.url).text))
                assert time.monotonic() - woken_at < LIMIT_S, found
        # What it had of them is not mixed into what follows on the same connections.
        for wire in (requests.get, requests.post):
            assert int(wire.get("/").body) in both
        assert not condemned(supervisor, other)


def test_a_loop_that_is_blocked_for_five_seconds_is_not_taken_for_dead(
    site: Site, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    server = site.server()
    site.supervisor()
    with ExitStack() as stack:
        requests = InFlight(stack, server, tmp_path)
        gate = Gate(tmp_path / "block")
        stack.callback(gate.open)
        blocked = pool.submit(httpx.get, f"{server.url}/block?gate={gate}", timeout=LIMIT_S)
        assert gate.reached() == [requests.worker]
        since = time.monotonic()
        [other] = site.supervisor().workers()
        with httpx.Client() as http:
            while time.monotonic() - since < 5:
                assert int(http.get(server.url, timeout=LIMIT_S).text) == other
        # Unclaimed it would be offered once more after two seconds.
        assert gate.arrivals() == [requests.worker]
        gate.open()
        assert int(blocked.result().text) == requests.worker
        assert echoes(requests.websocket)
        requests.open()
        assert [int(wire.receive().body) for wire in (requests.get, requests.post)] == [requests.worker] * 2
        assert requests.half.chunks() == b"end"
        assert not condemned(*site.all)


def test_a_server_that_was_frozen_takes_nobody_else_for_silent(site: Site, pool: ThreadPoolExecutor) -> None:
    server = site.server()
    site.supervisor()
    over = threading.Event()

    def ask() -> set[int]:
        """What a client is answered again and again."""
        with httpx.Client() as http:
            return {http.get(server.url, timeout=LIMIT_S).status_code for _ in iter(over.is_set, True)}

    asking = [pool.submit(ask) for _ in range(8)]
    for _ in range(2):
        time.sleep(0.3)
        with frozen(server.pid):
            time.sleep(1.5)
    time.sleep(0.3)
    over.set()
    assert [each.result() for each in asking] == [{200}] * 8
    assert "is silent" not in server.output


def test_the_streams_of_a_server_that_is_killed_end_with_1006(dying: Dying) -> None:
    eventually(dying.report.exists, "its application is told", SERVER_GONE_S)
    assert json.loads(dying.report.read_text()) == [1006, ""]
    assert dying.report.stat().st_mtime - dying.killed_at < SERVER_GONE_S
    assert httpx.get(dying.server.url).status_code == 200
    dying.client.close(4000, "bye")
    eventually(dying.other_report.exists, "the other server's application is told")
    assert json.loads(dying.other_report.read_text()) == [4000, "bye"]


class Storm:
    """A server and a worker with an idle WebSocket, a request in flight, and things that wait on the node."""

    def __init__(self, site: Site, stack: ExitStack, pool: ThreadPoolExecutor, gate: Gate) -> None:
        self.redis = site.redis
        self.all = self.server, supervisor = site.all
        [self.worker] = supervisor.workers()
        self.idle, self.other = (stack.enter_context(socket_of(self.server)) for _ in range(2))
        assert echoes(self.idle, "awake")
        assert echoes(self.other, "awake")
        stack.callback(gate.open)
        self._gate = gate
        self._waiting = pool.submit(httpx.get, f"{self.server.url}/wait?gate={gate}", timeout=LIMIT_S)
        gate.reached()
        self._queued: Future[httpx.Response] | None = None
        self._pool = pool

    @contextmanager
    def while_something_waits(self) -> Iterator[None]:
        """The worker is frozen; a message for the other WebSocket and a request wait for it on the node."""
        with frozen(self.worker):
            # Of the worker; the server has one of its own, which it begins again at once.
            self.redis.last_reads_end(others=1)
            self.other.send("it waits")
            queued = self._pool.submit(httpx.get, self.server.url, timeout=LIMIT_S)
            eventually(lambda: self._holds("!main.*", b"it waits"), "a message waits for the worker")
            eventually(lambda: self._holds("http.request", b""), "a request waits for the worker")
            yield
        self._queued = queued

    def _holds(self, channel: str, text: bytes) -> bool:
        keys = self.redis.command("KEYS", f"ifserver:*:{channel}")
        return any(text in payload for key in keys for payload in self.redis.command("LRANGE", key, 0, -1))

    def is_over(self) -> None:
        """What has lost nothing goes on, and nobody was taken for dead."""
        assert echoes(self.idle)
        assert self._queued is not None
        assert self._queued.result().text == str(self.worker)
        self._gate.open()
        assert self._waiting.result().text == str(self.worker)
        assert echoes(self.idle)
        with httpx.Client() as http:
            assert {http.get(self.server.url, timeout=LIMIT_S).text for _ in range(10)} == {str(self.worker)}
        assert not condemned(*self.all)


@pytest.fixture(scope="module")
def weathered() -> Iterator[Site]:
    """One site for all storms: nothing need be started again after one."""
    with ExitStack() as stack:
        site = Site(stack)
        site.server()
        site.supervisor()
        yield site
        site.end()


@pytest.fixture
def storm(weathered: Site, tmp_path: Path, pool: ThreadPoolExecutor) -> Iterator[Storm]:
    with ExitStack() as stack:
        yield Storm(weathered, stack, pool, Gate(tmp_path / "gate"))


def test_a_redis_that_is_emptied(storm: Storm) -> None:
    with storm.while_something_waits():
        storm.redis.command("FLUSHALL")
    assert close_of(storm.other)[0] == 1011
    storm.is_over()


def test_a_redis_that_is_frozen(storm: Storm) -> None:
    with storm.while_something_waits():
        storm.redis.freeze()
    # Longer than a supervisor's beat lives, and as long as anybody waits for an answer: a read may wait by itself, too.
    longest_s = ANSWER_S + WAIT_S
    frozen_at = time.monotonic()
    with pytest.raises(TimeoutError):
        storm.other.recv(longest_s)
    storm.redis.thaw()
    lasted_s = time.monotonic() - frozen_at
    assert lasted_s >= longest_s
    heard: str | bytes | int
    try:
        heard = storm.other.recv(LIMIT_S)
    except ConnectionClosed:
        heard = close_of(storm.other)[0]
    # Where the machine is busy and has made it last longer, by more than a call or two take, the read may have been
    # given up. What Redis answers to it is lost then.
    assert heard == "it waits" or (heard == 1011 and lasted_s > longest_s + 0.01)
    storm.is_over()


def test_a_redis_that_is_killed_and_started_again(storm: Storm) -> None:
    with storm.while_something_waits():
        storm.redis.kill()
        storm.redis.start()
        back_at = time.monotonic()
    assert close_of(storm.other)[0] == 1011
    assert time.monotonic() - back_at < 3 + 5
    storm.is_over()
