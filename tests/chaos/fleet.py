"""The site under chaos: Redis servers behind proxies, clusters of them, servers and workers; and how they start again.

Whatever is killed is started again as systemd would do it. All of it is told by its process id alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.chaos.proxy import Proxy, proxied
from tests.e2e.running import ROOT, Running, eventually
from tests.redis_server import RedisServer

__all__ = ["SHAPES", "Fleet", "Node", "Shape"]

#: Worker processes of each supervisor.
PROCESSES = 2
#: What nothing may have written in the end.
COMPLAINTS = ("Traceback (most recent call last)", "defect of ifserver", "never retrieved", "was destroyed but it is")


class Shape(NamedTuple):
    """What the site is made of."""

    #: How many nodes each cluster has.
    clusters: Mapping[str, int]
    #: The home cluster of each server, and of each supervisor.
    homes: Sequence[str]


SHAPES = {
    "two clusters": Shape({"east": 2, "west": 1}, ("east", "west")),
    "two nodes": Shape({"main": 2}, ("main", "main")),
    "one node": Shape({"main": 1}, ("main", "main")),
}


class Node:
    """One Redis, and the proxy through which everybody reaches it."""

    def __init__(self, name: str, redis: RedisServer, proxy: Proxy) -> None:
        self.name = name
        self.redis = redis
        self.proxy = proxy


class Fleet:
    """All processes.

    Args:
        stack: ends what was started.
        loop: where the proxies run; another thread's.
        folder: for what the application writes down.
        queue_timeout_s: how long a request may wait to be taken, in seconds.
    """

    def __init__(
        self, shape: Shape, stack: ExitStack, loop: asyncio.AbstractEventLoop, folder: Path, queue_timeout_s: float
    ) -> None:
        self._shape = shape
        self._stack = stack
        self._loop = loop
        self._queue_timeout_s = queue_timeout_s
        self._environment = {"CHAOS_RUNS": str(folder)}
        self.nodes: dict[str, Node] = {}
        self.servers: list[Running] = []
        self.supervisors: list[Running] = []
        #: All that ever ran, in the order in which it was started.
        self.all: list[Running] = []
        self._ports: list[int] = []

    def start(self) -> None:
        """Start everything; returns when every server answers."""
        for cluster, count in self._shape.clusters.items():
            for number in range(1, count + 1):
                name = f"{cluster}-{number}" if count > 1 else cluster
                redis = self._stack.enter_context(RedisServer())
                proxy = self._stack.enter_context(proxied(redis.port, self._loop))
                self.nodes[name] = Node(name, redis, proxy)
        for number, _ in enumerate(self._shape.homes):
            self._ports.append(_free_port())
            self.servers.append(self._server(number))
        self.supervisors += [self._supervisor(home) for home in self._shape.homes]
        for each in self.supervisors:
            each.ready()
        for each in self.servers:
            each.said("listening on")

    # For the clients.

    def ports(self) -> list[int]:
        """The port of each server."""
        return self._ports

    def only_node(self, server: int) -> str:
        """The one node where the server may receive; empty if there are more."""
        home = self._shape.homes[server]
        return home if self._shape.clusters[home] == 1 else ""

    # What is killed and started again.

    def restart_server(self, number: int) -> None:
        """Start a server again that has ended; returns when it answers connections."""
        self.servers[number] = self._server(number)
        self.servers[number].said("listening on")

    def restart_supervisor(self, number: int) -> None:
        """Start a supervisor again that has ended; returns when its workers run."""
        self.supervisors[number] = self._supervisor(self._shape.homes[number]).ready()

    def workers(self) -> dict[int, int]:
        """The workers that live, each with the number of its supervisor."""
        return {pid: number for number, each in enumerate(self.supervisors) for pid in each.workers()}

    def worker_again(self, number: int, count: int) -> None:
        """Wait until a supervisor has so many workers that are ready."""
        eventually(lambda: len(self.supervisors[number].workers()) == count, "the worker is started again")

    def _cluster(self, home: str) -> list[str]:
        words = []
        for cluster in self._shape.clusters:
            nodes = [node for name, node in self.nodes.items() if name.split("-")[0] == cluster]
            words += ["--cluster", f"{cluster}=" + ",".join(f"redis://127.0.0.1:{node.proxy.port}" for node in nodes)]
        return [*words, "--home", home]

    def _server(self, number: int) -> Running:
        timeout = ("--queue-timeout", f"{self._queue_timeout_s:g}s")
        return self._run("serve", "-p", str(self._ports[number]), *timeout, *self._cluster(self._shape.homes[number]))

    def _supervisor(self, home: str) -> Running:
        return self._run(
            "worker", "tests.chaos.application:app", "--processes", str(PROCESSES), "--app-dir", str(ROOT),
            *self._cluster(home),
        )  # fmt: skip

    def _run(self, *words: str) -> Running:
        running = self._stack.enter_context(Running(*words, cwd=ROOT, environment=self._environment))
        self.all.append(running)
        return running

    # The end.

    def output(self) -> str:
        """All that was ever written."""
        return "\n".join(f"--- pid {each.pid}, {each.process.args!r}:\n{each.output}" for each in self.all)

    def end(self) -> list[str]:
        """End all in order; what is wrong with how they ended, and with what they have said."""
        found = []
        living = [*self.servers, *self.supervisors]
        for each in living:
            each.process.send_signal(signal.SIGTERM)
        for each in living:
            try:
                each.ended()
            except AssertionError as error:
                found.append(f"pid {each.pid} has not ended well: {str(error)[-3000:]}")
        for each in self.all:
            said = each.output
            found += [f"pid {each.pid} said {word!r}:\n{said[-3000:]}" for word in COMPLAINTS if word in said]
        return found


def stop_process(pid: int) -> None:
    """SIGSTOP, and wait until it stands."""
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + 5
    while Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < end, f"process {pid} does not stop"
        time.sleep(0.001)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
