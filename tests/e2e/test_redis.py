"""``serve`` and ``worker`` as processes of their own, with a real Redis between them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from websockets.sync.client import connect

from tests.e2e.running import APPS, LIMIT_S, Gate, Running, eventually
from tests.e2e.wire import Wire, close_of, handshake
from tests.redis_server import Monitor, RedisServer

PASSWORD = "geheim!"


class Site:
    """A Redis, two servers, and two supervisors with one worker each."""

    def __init__(self, stack: ExitStack, redis: RedisServer) -> None:
        cluster = f"main=redis://:{PASSWORD}@127.0.0.1:{redis.port}"
        self.redis = redis
        serve = ("serve", "-p", "0", "--cluster", cluster)
        self.servers = [stack.enter_context(Running(*serve)) for _ in range(2)]
        worker = ("worker", "zoo:app", "--cluster", cluster, "--processes", "1")
        self.supervisors = [stack.enter_context(Running(*worker, app_dir=APPS)) for _ in range(2)]
        for each in self.supervisors:
            each.ready()

    @property
    def all(self) -> list[Running]:
        return self.servers + self.supervisors

    def answers(self) -> bool:
        """Whether every server answers, and every worker has."""
        workers = set()
        with httpx.Client(timeout=LIMIT_S) as client:
            for server in self.servers * 20:
                response = client.get(server.url)
                if response.status_code != 200:
                    return False
                workers.add(int(response.text))
        return workers == {pid for each in self.supervisors for pid in each.workers()}


@pytest.fixture(scope="module")
def started() -> Iterator[Site]:
    with RedisServer(password=PASSWORD) as redis, ExitStack() as stack:
        site = Site(stack, redis)
        yield site
        # All at once, for each waits for its last read of a second.
        for each in site.all:
            each.process.send_signal(signal.SIGTERM)


@pytest.fixture
def site(started: Site) -> Site:
    """All of it in order, whatever the test before has done."""
    eventually(started.answers, "both servers are answered by both workers")
    return started


def test_an_application_does_not_see_that_redis_is_spoken_in_its_process(site: Site) -> None:
    """As uvicorn's does not (`tests.e2e.test_parity`)."""
    seen = httpx.get(f"{site.servers[0].url}/looked-at", timeout=LIMIT_S).json()
    assert "twisted" not in seen["pickled"]
    assert seen["warnings"] == "warnings"
    assert "__implemented__" not in dict(seen["Concrete"])
    # Programs that it starts can be interrupted.
    assert not any(int(mask.split()[1], 16) & 1 << signal.SIGINT - 1 for mask in seen["signals"])


def test_a_reply_goes_home_and_nobody_else_reads_there(site: Site) -> None:
    monitor = Monitor(site.redis)
    workers = [httpx.get(server.url).text for server in site.servers]
    commands = monitor.commands()
    pushes = [(words[1].rpartition(":")[2], words[2:]) for words in commands if words[0].upper() == "RPUSH"]
    inboxes = ["!main." + server.said(r"process (\w+)")[1] for server in site.servers]
    assert [name for name, _ in pushes if name == "http.request"] == ["http.request"] * 2
    # The text of an answer is its worker; beside answers there may be statements (`ifserver.layers.accounting`).
    assert [name for name, texts in pushes if any(worker in "".join(texts) for worker in workers)] == inboxes
    # Who reads an inbox, reads nothing beside it.
    reads = [_channels(words) for words in commands if words[0].upper() in ("BLMPOP", "LMPOP")]
    for names in reads:
        assert names in [[inbox] for inbox in inboxes] or not set(inboxes) & set(names)
    assert [inboxes[0]] in reads


def _channels(words: list[str]) -> list[str]:
    """The channels that a command reads."""
    return [word.rpartition(":")[2] for word in words if ":" in word and "LEFT" not in word]


def test_each_inbox_has_one_blocked_reader_however_many_connections(site: Site) -> None:
    def seen() -> tuple[int, int, int]:
        """Connections to Redis, those of them that are blocked, and keys."""
        clients = site.redis.info("clients")
        keys = [key for key in site.redis.command("KEYS", "*") if b":alive:" not in key]
        return int(clients["connected_clients"]), int(clients["blocked_clients"]), len(keys)

    # Two servers read their inboxes, two workers theirs and the request channels; supervisors read nothing.
    def at_rest() -> int:
        """How many connections there are when all wait."""
        return eventually(lambda: (found := seen())[1:] == (6, 0) and found[0], "six readers and no key")

    idle = at_rest()
    with ExitStack() as stack:
        url = ("127.0.0.1", site.servers[0].port)
        wires = [stack.enter_context(Wire(url)) for _ in range(300)]
        for wire in wires[:150]:
            wire.send(handshake("/ws"))
        assert {wire.head()[0] for wire in wires[:150]} == {101}
        assert {wire.get("/").status for wire in wires[150:]} == {200}
        assert at_rest() == idle
        assert max(seen()[1] for _ in range(50)) == 6


def test_an_application_may_send_more_than_clients_may(site: Site) -> None:
    with connect(f"ws://127.0.0.1:{site.servers[0].port}/large", max_size=None) as client:
        assert [client.recv(LIMIT_S), client.recv(LIMIT_S)] == ["large!" * 500_000, b"large!" * 500_000]


def test_requests_and_websockets_through_either_server(site: Site) -> None:
    body = os.urandom(1_000_000)
    for server in site.servers:
        assert httpx.post(f"{server.url}/echo", content=body, timeout=LIMIT_S).content == body
        with connect(server.url.replace("http", "ws", 1) + "/ws", max_size=None) as client:
            for message in ("text", b"", body):
                client.send(message)
                assert client.recv(LIMIT_S) == message


def test_a_killed_worker(site: Site, gate: Gate, pool: ThreadPoolExecutor) -> None:
    [server, _] = site.servers
    got = pool.submit(httpx.get, f"{server.url}/wait?gate={gate}", timeout=LIMIT_S)
    [first] = gate.reached()
    os.kill(first, signal.SIGKILL)
    second = gate.reached(2)[1]
    gate.open()
    assert (got.result().status_code, got.result().text) == (200, str(second))


def test_a_server_that_ends_leaves_the_other_alone(site: Site) -> None:
    cluster = f"main=redis://:{PASSWORD}@127.0.0.1:{site.redis.port}"
    with connect(site.servers[0].url.replace("http", "ws", 1) + "/ws") as client:
        with Running("serve", "-p", "0", "--cluster", cluster) as third:
            eventually(lambda: httpx.get(third.url, timeout=LIMIT_S).status_code == 200, "a third server")
        client.send("a")
        assert client.recv(LIMIT_S) == "a"


def test_a_redis_that_restarts_is_survived_by_idle_connections(site: Site) -> None:
    with (
        Wire(("127.0.0.1", site.servers[0].port)) as kept,
        connect(site.servers[1].url.replace("http", "ws", 1) + "/ws") as client,
    ):
        kept.get("/")
        site.redis.kill()
        for server in site.servers:
            eventually(lambda server=server: _refusal(server), "503 while there is no Redis")
        site.redis.start()
        eventually(site.answers, "all is well again")
        assert kept.get("/").status == 200
        client.send("still here?")
        assert client.recv(LIMIT_S) == "still here?"


def _refusal(server: Running) -> bool:
    response = httpx.get(server.url, timeout=LIMIT_S)
    return response.status_code == 503 and int(response.headers["retry-after"]) >= 1


def test_a_redis_that_is_frozen_is_waited_for(site: Site, pool: ThreadPoolExecutor) -> None:
    with connect(site.servers[1].url.replace("http", "ws", 1) + "/ws") as client:
        site.redis.freeze()
        try:
            client.send("a")
            waiting = [pool.submit(httpx.get, server.url, timeout=LIMIT_S) for server in site.servers]
        finally:
            site.redis.thaw()
        assert client.recv(LIMIT_S) == "a"
        assert {each.result().status_code for each in waiting} <= {200, 503}
    eventually(site.answers, "all is well again")


def test_a_redis_that_is_emptied_is_nothing_to_idle_connections(site: Site) -> None:
    with connect(site.servers[0].url.replace("http", "ws", 1) + "/ws") as client:
        site.redis.command("FLUSHALL")
        assert site.answers()
        client.send("a")
        assert client.recv(LIMIT_S) == "a"


def test_the_password_is_in_nobodys_output(site: Site) -> None:
    for each in site.all:
        assert "geheim" not in each.output
        each.said("main")


def test_redis_that_is_not_there_yet() -> None:
    redis = RedisServer()
    with redis, ExitStack() as stack:
        redis.stop()
        cluster = f"main=redis+unix://{redis.path}"
        server = stack.enter_context(Running("serve", "-p", "0", "--cluster", cluster))
        worker = stack.enter_context(
            Running("worker", "zoo:app", "--cluster", cluster, "--processes", "1", app_dir=APPS)
        )
        for each in (server, worker):
            each.said(r"node main: .*No such file", times=1)
        assert _refusal(server)
        redis.start()
        eventually(lambda: httpx.get(server.url, timeout=LIMIT_S).status_code == 200, "a request is answered")
        for each in (server, worker):
            each.said("node main: connected")
            assert each.output.count("No such file") < 20


def test_a_wrong_password_is_told_and_not_shown() -> None:
    with RedisServer(password="right") as redis:
        cluster = f"main=redis://:{PASSWORD}@127.0.0.1:{redis.port}"
        with Running("serve", "-p", "0", "--cluster", cluster) as server:
            server.said(r"node main: .*(WRONGPASS|invalid password)")
            assert _refusal(server)
            assert "geheim" not in server.output


def test_workers_that_end_finish_what_they_have(site: Site, gate: Gate, pool: ThreadPoolExecutor) -> None:
    # Another database of the same Redis is another world.
    cluster = f"other=redis://:{PASSWORD}@127.0.0.1:{site.redis.port}/1"
    command = ("worker", "zoo:app", "--cluster", cluster, "--processes", "1", "--verbosity", "2")
    with Running("serve", "-p", "0", "--cluster", cluster) as server:
        with Running(*command, app_dir=APPS) as supervisor:
            supervisor.ready()
            waiting = pool.submit(httpx.post, f"{server.url}/wait?gate={gate}", timeout=LIMIT_S)
            [worker] = gate.reached()
            supervisor.process.send_signal(signal.SIGTERM)
            supervisor.said(rf"\[{worker}\] SIGTERM: stopping")
            gate.open()
            assert waiting.result().text == str(worker)
            supervisor.ended()
        # Nobody is there; the next one to come answers.
        late = pool.submit(httpx.get, server.url, timeout=LIMIT_S)
        with Running(*command, app_dir=APPS) as supervisor:
            assert late.result().status_code == 200
            assert len(supervisor.workers()) == 1
            supervisor.killed()


def test_a_websocket_of_a_killed_worker(site: Site) -> None:
    with connect(site.servers[0].url.replace("http", "ws", 1) + "/ws") as client:
        assert client.response is not None
        os.kill(int(client.response.headers["x-pid"]), signal.SIGKILL)
        assert close_of(client)[0] == 1012
