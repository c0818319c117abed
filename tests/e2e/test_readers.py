"""Requests go where workers are: two clusters of three real Redis servers, workers that come, and that are killed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from tests.e2e.running import APPS, LIMIT_S, Gate, Running, eventually
from tests.redis_server import Monitor, RedisServer


class Site:
    """The nodes east-1, east-2 and west; a server at home in the east; workers and clients as the test starts them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._pool = stack.enter_context(ThreadPoolExecutor(16))
        self.running: list[Running] = []
        names = ("east-1", "east-2", "west")
        self.nodes = {name: stack.enter_context(RedisServer()) for name in names}
        east_1, east_2, west = (f"redis://127.0.0.1:{node.port}" for node in self.nodes.values())
        self._layer = ("--cluster", f"east={east_1},{east_2}", "--cluster", f"west={west}")
        self.server = self._start(
            Running("serve", "-p", "0", *self._layer, "--home", "east", "--queue-timeout", "100s")
        )
        self.url = self.server.url

    def _start(self, running: Running) -> Running:
        self.running.append(self._stack.enter_context(running))
        return running

    def work(self, home: str, *arguments: str) -> Running:
        """Workers of one process, in the cluster `home`."""
        command = ("worker", "zoo:app", "--processes", "1", *self._layer, "--home", home, *arguments)
        return self._start(Running(*command, app_dir=APPS)).ready()

    def ask(self, method: str, path: str = "/") -> Future[httpx.Response]:
        """Send a request, and go on."""
        return self._pool.submit(httpx.request, method, self.url + path, timeout=LIMIT_S)

    def standing(self, *names: str) -> int:
        """Requests that nobody has taken, on the nodes `names`."""
        nodes = [self.nodes[name] for name in names]
        return sum(node.command("LLEN", key) for node in nodes for key in node.command("KEYS", "*:http.request"))


@pytest.fixture
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        site = Site(stack)
        yield site
        # All at once, for each waits for its last read of a second.
        for each in site.running:
            if each.process.poll() is None:
                each.process.send_signal(signal.SIGTERM)


def test_nothing_is_offered_where_nobody_reads_while_somebody_does_elsewhere(site: Site) -> None:
    monitors = [Monitor(site.nodes[name]) for name in ("east-1", "east-2")]
    (worker,) = site.work("west").workers()
    site.server.said("no worker reads node east-1: requests are offered elsewhere")
    site.server.said("no worker reads node east-2: requests are offered elsewhere")
    for method in ("POST", "GET") * 5:
        assert site.ask(method).result().text == str(worker)
    assert "is behind" not in site.server.output
    for monitor in monitors:
        assert not [words for words in monitor.commands() if any("http.request" in word for word in words[1:2])]
    (at_home,) = site.work("east").workers()
    site.server.said("workers read node east-1: requests are offered there")
    site.server.said("workers read node east-2: requests are offered there")
    assert site.ask("POST").result().text == str(at_home)


def test_the_first_reader_gets_what_waits_wherever_it_comes(site: Site) -> None:
    for home in ("west", "east"):
        waiting = [site.ask("POST") for _ in range(4)]
        eventually(lambda: site.standing(*site.nodes) == 4, "they wait")
        site.server.said("waiting for the first worker: requests" if home == "west" else "on any node: requests wait")
        workers = site.work(home)
        assert {each.result().text for each in waiting} == {str(pid) for pid in workers.workers()}
        workers.killed()
    assert "is behind" not in site.server.output


def test_what_stands_where_the_last_reader_was_killed_is_moved_and_runs_once(site: Site, gate: Gate) -> None:
    east = site.work("east", "--concurrency", "1")
    running = site.ask("GET", f"/wait?gate={gate}")
    (killed,) = gate.reached()
    (worker,) = site.work("west").workers()
    standing = [site.ask("POST", f"/wait?gate={gate}") for _ in range(3)]
    load = [site.ask("GET") for _ in range(3)]
    east.killed()
    gate.open()
    assert [(each.result().status_code, each.result().text) for each in standing] == [(200, str(worker))] * 3
    assert {each.result().text for each in load} == {str(worker)}
    # Offered once more, when its supervisor is known to be dead.
    assert (running.result().status_code, running.result().text) == (200, str(worker))
    assert sorted(gate.arrivals()) == sorted([killed, *[worker] * 4])


def test_no_get_is_lost_with_the_node_where_it_stands(site: Site, gate: Gate) -> None:
    site.work("west", "--concurrency", "1")
    running = site.ask("GET", f"/wait?gate={gate}")
    (worker,) = gate.reached()
    standing = [site.ask("GET") for _ in range(3)]
    eventually(lambda: site.standing("west") == 3, "they stand")
    site.nodes["west"].kill()
    eventually(lambda: site.standing("east-1", "east-2") == 3, "they are offered elsewhere")
    # The worker cannot be reached, and can answer.
    gate.open()
    assert running.result().text == str(worker)
    (other,) = site.work("east").workers()
    assert [each.result().text for each in standing] == [str(other)] * 3
    site.nodes["west"].start()
