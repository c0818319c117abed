"""Two clusters of three real Redis servers: any cluster handles any request, and every reply goes home."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.e2e.running import APPS, LIMIT_S, Gate, Running, eventually
from tests.redis_server import Monitor, RedisServer

#: How long the node of an inbox may be gone before streams are told another address, here.
GRACE_S = 3


class Site:
    """The nodes east-1, east-2 and west; a server at home in each cluster; and workers as the test starts them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.running: list[Running] = []
        names = ("east-1", "east-2", "west")
        self.nodes = {name: stack.enter_context(RedisServer()) for name in names}
        east_1, east_2, west = (f"redis://127.0.0.1:{node.port}" for node in self.nodes.values())
        clusters = ("--cluster", f"east={east_1},{east_2}", "--cluster", f"west={west}")
        self._layer = (*clusters, "--broker-grace", f"{GRACE_S}s")
        self.east, self.west = (self._serve(home) for home in ("east", "west"))

    def _serve(self, home: str) -> Running:
        return self._start(Running("serve", "-p", "0", *self._layer, "--home", home))

    def _start(self, running: Running) -> Running:
        self.running.append(self._stack.enter_context(running))
        return running

    def work(self, home: str) -> Running:
        """Workers of one process, in the cluster `home`."""
        command = ("worker", "zoo:app", "--processes", "1", *self._layer, "--home", home)
        return self._start(Running(*command, app_dir=APPS)).ready()

    def read_by_worker(self) -> str:
        """The node of the east where the only worker receives."""
        processes = {server.said(r"process (\w+)")[1] for server in (self.east, self.west)}
        monitors = {name: Monitor(self.nodes[name]) for name in ("east-1", "east-2")}
        time.sleep(1.5)  # a read takes a second
        reads = {name: _reads(monitor.commands()) for name, monitor in monitors.items()}
        (home,) = (
            name
            for name, channels in reads.items()
            for channel in channels
            if channel.startswith("!") and channel.rpartition(".")[2] not in processes
        )
        return home

    def home_of(self, server: Running) -> str:
        """The node where the server receives, by its beat."""
        process = server.said(r"process (\w+)")[1]
        return eventually(
            lambda: next((name for name, node in self.nodes.items() if _beats(node, process)), ""), "the server beats"
        )


def _beats(node: RedisServer, process: str) -> bool:
    return bool(node.command("EXISTS", f"ifserver:alive:{process}"))


@pytest.fixture
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        site = Site(stack)
        yield site
        # All at once, for each waits for its last read of a second.
        for each in site.running:
            each.process.send_signal(signal.SIGTERM)


def _reads(commands: list[list[str]]) -> set[str]:
    """Every channel that was read."""
    lists = [words[3 : 3 + int(words[2])] for words in commands if words[0].upper() == "BLMPOP"]
    return {key.rpartition(":")[2] for keys in lists for key in keys}


def test_workers_of_the_west_answer_clients_of_the_east_and_nobody_reads_elsewhere_than_at_home(site: Site) -> None:
    workers = site.work("west")
    (worker,) = workers.workers()
    assert httpx.get(site.east.url, timeout=LIMIT_S).text == str(worker)
    monitors = {name: Monitor(node) for name, node in site.nodes.items()}
    for server in (site.east, site.west):
        for _ in range(3):
            assert httpx.get(server.url, timeout=LIMIT_S).text == str(worker)
        with connect(f"ws://127.0.0.1:{server.port}/ws") as websocket:
            websocket.send("hello")
            assert websocket.recv(timeout=LIMIT_S) == "hello"
    east, west = (server.said(r"process (\w+)")[1] for server in (site.east, site.west))
    requests = {"http.request", "websocket.connect", "websocket.resume"}
    reads = {name: _reads(monitor.commands()) for name, monitor in monitors.items()}
    home = site.home_of(site.east)
    (other,) = {"east-1", "east-2"} - {home}
    assert reads[home] == {f"!{home}.{east}"}
    assert reads[other] == set()
    # The worker's own inbox is the one that is left.
    assert requests | {f"!west.{west}"} < reads["west"]
    (inbox,) = reads["west"] - requests - {f"!west.{west}"}
    assert east not in inbox
    # Since the beginning, and of every connection.
    assert "cmdstat_blmpop" not in site.nodes[other].info("commandstats")
    assert "cmdstat_lmpop" not in site.nodes[other].info("commandstats")


def test_killing_the_node_of_the_inbox_disturbs_no_request_and_closes_no_websocket(site: Site) -> None:
    site.work("east")
    url = f"ws://127.0.0.1:{site.east.port}/ws"
    assert httpx.get(site.east.url, timeout=LIMIT_S).status_code == 200
    home = site.home_of(site.east)
    with connect(url) as websocket:
        websocket.send("before")
        assert websocket.recv(timeout=LIMIT_S) == "before"
        site.nodes[home].kill()
        began = time.monotonic()
        while time.monotonic() - began < 1:
            assert httpx.get(site.east.url, timeout=LIMIT_S).status_code == 200
        site.east.said("is unreachable: receiving on")
        # What waits for the node is sent to the new address once the grace is over.
        websocket.send("after")
        assert websocket.recv(timeout=LIMIT_S) == "after"
        assert time.monotonic() - began > GRACE_S - 0.5
        with connect(url) as another:
            another.send("new")
            assert another.recv(timeout=LIMIT_S) == "new"
    site.nodes[home].start()
    assert httpx.get(site.east.url, timeout=LIMIT_S).status_code == 200


def test_an_answer_that_ends_while_the_node_of_the_inbox_is_gone_follows_the_server(site: Site, gate: Gate) -> None:
    site.work("west")
    home = site.home_of(site.east)
    with httpx.stream("POST", f"{site.east.url}/half?gate={gate}", timeout=LIMIT_S) as answer:
        pieces = answer.iter_bytes()
        assert int(next(pieces)) == gate.reached()[0]
        site.nodes[home].kill()
        gate.open()
        assert b"".join(pieces) == b"end"


def test_half_a_response_is_cut_whose_host_is_gone_before_it_was_named(site: Site, gate: Gate) -> None:
    workers = site.work("west")
    with httpx.stream("POST", f"{site.east.url}/half?gate={gate}", timeout=LIMIT_S) as answer:
        pieces = answer.iter_bytes()
        next(pieces)
        workers.killed()  # before the claim
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            b"".join(pieces)


def test_what_a_client_said_last_follows_a_worker_that_has_moved(site: Site, tmp_path: Path) -> None:
    site.work("east")
    report = tmp_path / "report"
    with connect(f"ws://127.0.0.1:{site.west.port}/report?report={report}") as websocket:
        site.nodes[site.read_by_worker()].kill()
        websocket.close(4000, "bye")
        eventually(report.exists, "the application is told that the client has left")
    assert json.loads(report.read_text()) == [4000, "bye"]


def test_a_worker_that_comes_late_is_found_wherever_it_is(site: Site) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(httpx.post, site.east.url, content=b"x", timeout=LIMIT_S) for _ in range(3)]
        # On a very busy machine the first connection may take longer than a second.
        site.east.said("waiting for the first worker: requests wait|is unreachable")
        began = time.monotonic()
        site.work("west")
        came = time.monotonic()
        assert {each.result().status_code for each in waiting} == {200}
        # Those wait for the whole of ``queue_timeout`` where nobody looks for free workers.
        assert time.monotonic() - began < 25
        assert httpx.post(site.east.url, content=b"x", timeout=LIMIT_S).status_code == 200
        assert time.monotonic() - came < 25
