"""A site whose server, workers and Redis have a wall clock each, as if each ran on a machine of its own.

Every process has its real monotonic clock (`tests.stepped_clock`).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.e2e.running import APPS, LIMIT_S, Gate, Running, eventually
from tests.redis_server import RedisServer
from tests.stepped_clock import SteppedClock, build

__all__ = ["AT_ONCE_S", "HOUR_S", "QUESTIONS", "Site", "answers", "takes_a_step"]

HOUR_S = 3600
#: What is due at once may take so long on a machine that is busy with other things, in seconds.
AT_ONCE_S = 10.0
#: A server and a worker ask for each other once a second. When they have so often, nobody is taken for dead any more
#: because of what was before; and everybody has measured the clock of Redis anew.
QUESTIONS = 2 * 8

#: How many messages are on the channel of HTTP requests.
QUEUED = """
local found = 0
for _, key in ipairs(redis.call('KEYS', '*:http.request')) do found = found + redis.call('LLEN', key) end
return found
"""


class Site:
    """A Redis, a server, and a supervisor with one worker that runs one request at a time, each with a clock."""

    def __init__(self, stack: ExitStack, folder: Path, *options: str) -> None:
        library = build(folder)
        self.clocks = {name: SteppedClock(library, folder / name) for name in ("redis", "server", "workers")}
        self.redis = stack.enter_context(RedisServer(environment=self.clocks["redis"].environment))
        cluster = ("--cluster", f"main=redis://127.0.0.1:{self.redis.port}")
        serve = ("serve", "-p", "0", "--access-log", "-", *cluster, *options)
        self.server = stack.enter_context(Running(*serve, environment=self.clocks["server"].environment))
        worker = ("worker", "zoo:app", "--processes", "1", "--concurrency", "1", *cluster)
        self.workers = stack.enter_context(
            Running(*worker, app_dir=APPS, environment=self.clocks["workers"].environment)
        ).ready()
        self.client = stack.enter_context(httpx.Client(base_url=self.server.url, timeout=AT_ONCE_S))
        self._stack = stack

    def socket(self, path: str) -> ClientConnection:
        return self._stack.enter_context(connect(f"ws://127.0.0.1:{self.server.port}{path}"))

    def step(self, who: str, seconds: float) -> None:
        """Set the clocks of `who`."""
        for name, clock in self.clocks.items():
            if who in (name, "all"):
                clock.step(seconds)

    def watch(self, questions: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Do something again and again until so many questions for others' beats were asked."""
        asked = self._questions()

        def over() -> bool:
            meanwhile()
            time.sleep(0.05)  # often enough, and else it would take a whole CPU
            return self._questions() >= asked + questions

        eventually(over, f"{questions} questions for others' beats")

    def _questions(self) -> int:
        told = self.redis.info("commandstats").get("cmdstat_mget", "calls=0,")
        return int(told.partition(",")[0].removeprefix("calls="))

    def ask(self, method: str, target: str) -> int:
        """The status of one request."""
        return httpx.request(method, self.server.url + target, timeout=LIMIT_S).status_code

    def queued(self, *counts: int) -> None:
        """Wait until so many requests, one of `counts`, wait on the node."""
        eventually(lambda: self.redis.command("EVAL", QUEUED, 0) in counts, f"{counts} requests wait on the node")

    def end(self) -> None:
        """Tell both at once to end; that they do so in good order is checked when their blocks are left."""
        for each in (self.server, self.workers):
            each.process.send_signal(signal.SIGTERM)


def answers(site: Site) -> None:
    """A GET and a POST are answered at once."""
    assert site.client.get("/").status_code == 200
    assert site.client.post("/whole", content=b"body").content == b"body"


def takes_a_step(site: Site, gate: Gate, pool: ThreadPoolExecutor, who: str, seconds: float) -> None:
    """Set the clocks of `who` while all are in use: it ends nothing and holds nothing up."""
    began = len(site.server.output), len(site.workers.output)
    sockets = [site.socket(path) for path in ["/ws"] * 5 + ["/resume"]]
    for socket in sockets:
        socket.send("before")
        socket.recv(AT_ONCE_S)

    # The worker has one slot: the others are queued.
    asked = [pool.submit(site.ask, "POST", f"/wait?gate={gate}")]
    gate.reached()
    asked += [pool.submit(site.ask, method, "/") for method in ("GET", "POST")]
    site.queued(2)

    site.step(who, seconds)
    if who in ("redis", "all"):
        # What is queued is taken when everybody has measured that clock anew.
        site.watch(QUESTIONS)
        gate.open()
        assert [each.result() for each in asked] == [200, 200, 200]
        # And what is asked while some have and others have not.
        site.step(who, seconds)
    else:
        if who == "server":
            # It needs half a second to find what would be overdue. Workers would drop what they take at once.
            site.watch(4)
        gate.open()
        assert [each.result() for each in asked] == [200, 200, 200]
    site.watch(QUESTIONS, lambda: answers(site))
    for socket in sockets:
        socket.send("after")
        assert str(socket.recv(AT_ONCE_S)).endswith("after")
        socket.close()
    said = site.server.output[began[0] :] + site.workers.output[began[1] :]
    assert "gives no sign of life" not in said
    assert "offered to another worker" not in said
