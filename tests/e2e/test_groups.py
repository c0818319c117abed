"""Groups across real processes: servers, workers, a real Redis, and programs that are none of ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.e2e.operators import ADMIN, admin_of, balance, scrape, settled
from tests.e2e.running import APPS, LIMIT_S, ROOT, Running, eventually
from tests.redis_server import RedisServer

GRACE_S = 3


#: A test that kills workers again and again leaves no longer delays to the next one.
RESTARTS = ("--max-restart-delay", "100ms")


class Site:
    """Two servers and two supervisors with Redis, or ``run`` alone."""

    def __init__(self, stack: ExitStack, kind: str = "redis", nodes: int = 1, *settings: str) -> None:
        self.nodes: list[RedisServer] = []
        if kind == "run":
            command = ("run", "zoo:app", "-p", "0", "--workers", "2", *ADMIN, *RESTARTS, *settings)
            self.servers = [stack.enter_context(Running(*command, app_dir=APPS)).ready()]
            self.supervisors = self.servers
            return
        self.nodes = [stack.enter_context(RedisServer()) for _ in range(nodes)]
        self.urls = ",".join(f"redis://127.0.0.1:{node.port}" for node in self.nodes)
        layer = ("--cluster", f"main={self.urls}", "--broker-grace", f"{GRACE_S}s", *ADMIN)
        self.servers = [stack.enter_context(Running("serve", "-p", "0", *layer, *settings)) for _ in range(2)]
        worker = ("worker", "zoo:app", "--processes", "1", *layer, *RESTARTS)
        self.supervisors = [stack.enter_context(Running(*worker, app_dir=APPS)) for _ in range(2)]
        for each in self.supervisors:
            each.ready()

    def member(
        self, stack: ExitStack, group: str = "news", server: int = 0, max_queue: int | None = None
    ) -> ClientConnection:
        port = self.servers[server % len(self.servers)].port
        url = f"ws://127.0.0.1:{port}/room?group={group}"
        return stack.enter_context(connect(url, open_timeout=LIMIT_S, compression=None, max_queue=max_queue))

    def publish(self, text: str, group: str = "news", **query: str) -> int:
        """Have a worker send something; how many processes were handed it."""
        answer = httpx.post(
            f"{self.servers[0].url}/publish", params={"group": group, **query}, content=text, timeout=LIMIT_S
        )
        assert answer.status_code == 200, answer.text
        return int(answer.text)

    def kill_workers(self) -> None:
        """Kill all, and wait until others are ready."""
        for each in self.supervisors:
            workers, ready = each.workers(), each.output.count(" is ready after ")
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            each.said(" is ready after ", times=ready + len(workers))


@pytest.fixture(scope="module", params=["run", "redis"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """One site of each kind for all tests that leave it as it was."""
    with ExitStack() as stack:
        yield Site(stack, request.param)


only_run = pytest.mark.parametrize("site", ["run"], indirect=True)
only_redis = pytest.mark.parametrize("site", ["redis"], indirect=True)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def heard(member: ClientConnection) -> str:
    return str(member.recv(timeout=LIMIT_S))


def read_to_the_end(member: ClientConnection) -> None:
    while True:
        member.recv(timeout=LIMIT_S)


def test_what_is_sent_to_a_group_reaches_its_members_on_all_servers(stack: ExitStack, site: Site) -> None:
    members = [site.member(stack, server=server) for server in (0, 0, 1)]
    other = site.member(stack, group="sport")
    for number, member in enumerate(members):
        member.send(f"from {number}")
        assert [heard(each) for each in members] == [f"from {number}"] * 3, "its sender among them"
    assert site.publish("from a coroutine") == site.publish("from a thread", thread="1") == len(site.servers)
    for each in members:
        assert [heard(each), heard(each)] == ["from a coroutine", "from a thread"]
    assert site.publish("nobody is there", group="empty") == 0
    other.send("only here")
    assert heard(other) == "only here"
    # All of it was counted, messages about groups among it.
    processes = dict.fromkeys([*site.servers, *site.supervisors])
    settled(lambda: scrape(*processes), lambda counts: balance(counts) == 0)


def test_members_outlive_their_workers(stack: ExitStack, site: Site) -> None:
    members = [site.member(stack, server=server) for server in (0, 1)]
    for round_ in range(3):
        site.kill_workers()
        site.publish(f"after kill {round_}")
        assert [heard(each) for each in members] == [f"after kill {round_}"] * 2
    members[0].send("the next worker has me")
    assert [heard(each) for each in members] == ["the next worker has me"] * 2


@only_run
def test_a_member_that_leaves_hears_nothing_more(stack: ExitStack, site: Site) -> None:
    leaver, member = site.member(stack), site.member(stack)
    leaver.send("leave")
    assert heard(leaver) == "left"
    site.publish("one")
    assert heard(member) == "one"
    with pytest.raises(TimeoutError):
        leaver.recv(timeout=0.2)


def test_events_of_a_response(stack: ExitStack, site: Site) -> None:
    url = f"{site.servers[-1].url}/events?group=news"
    with httpx.Client(timeout=LIMIT_S) as client, client.stream("GET", url) as response:
        events = response.iter_lines()
        assert [next(events), next(events)] == ["data: joined", ""]
        site.publish("data: ä\n\n")
        assert [next(events), next(events)] == ["data: ä", ""]


@only_redis
def test_a_redis_that_was_emptied_forgets_no_member(stack: ExitStack, site: Site) -> None:
    members = [site.member(stack, server=server) for server in (0, 1)]
    site.nodes[0].command("FLUSHALL")
    site.publish("still here")
    assert [heard(each) for each in members] == ["still here"] * 2


@only_redis
def test_a_redis_that_was_restarted_is_a_gap_that_is_told(stack: ExitStack, site: Site) -> None:
    members = [site.member(stack, server=server) for server in (0, 1)]
    site.publish("before")
    assert [heard(each) for each in members] == ["before"] * 2
    site.nodes[0].kill()
    site.nodes[0].start()
    # Each server says so, on its connection of its own; then nothing is missing.
    assert [heard(each) for each in members] == ["gap None"] * 2
    site.publish("after")
    assert [heard(each) for each in members] == ["after"] * 2


def test_members_follow_their_server_to_another_node(stack: ExitStack) -> None:
    site = Site(stack, "redis", 2)
    members = [site.member(stack, server=server) for server in (0, 1)]
    homes = [_home(server) for server in site.servers]
    site.nodes[0].kill()
    for member, home in zip(members, homes, strict=True):
        if home == "main-1":
            assert heard(member) == "gap None"
    site.publish("all are on the other node")
    assert [heard(each) for each in members] == ["all are on the other node"] * 2


def _home(server: Running) -> str:
    """The node on which the server receives."""
    name: str = httpx.get(f"{admin_of(server)}/status.json", timeout=LIMIT_S).json()["me"]["node"]
    return name


def test_a_client_that_reads_nothing_is_closed_and_nobody_waits_for_it(stack: ExitStack) -> None:
    site = Site(stack, "run", 1, "--max-unsent-bytes", "100KiB")
    slow, quick = site.member(stack, max_queue=1), site.member(stack)
    large = "x" * 60_000
    # As much as the kernel's buffers take, and more.
    for _ in range(400):
        site.publish(large)
        assert heard(quick) == large
        if "reads too slowly" in site.servers[0].output:
            break
    site.servers[0].said("a member of group news: its client reads too slowly")
    with pytest.raises(ConnectionClosed):
        read_to_the_end(slow)
    assert slow.close_code == 1013


#: A program that is none of ours: threads, event loops that come and go, and a fork.
_PROGRAM = """
import asyncio, os, sys, threading
from ifserver import groups

print(groups.publish("news", text="from the main thread"), flush=True)
thread = threading.Thread(target=lambda: print(groups.publish("news", json={"from": "a thread"}), flush=True))
thread.start()
thread.join()
for number in range(2):
    print(asyncio.run(groups.send("news", text=f"from loop {number}")), flush=True)
child = os.fork()
if not child:
    print(groups.publish("news", bytes=b"from a child"), flush=True)
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
print(groups.publish("news", close=(4001, "bye")), flush=True)
"""


@only_redis
def test_a_program_that_is_none_of_ours(stack: ExitStack, site: Site) -> None:
    members = [site.member(stack, server=server) for server in (0, 1)]
    environment = {**os.environ, "IFSERVER_LAYER_CLUSTERS": f"main={site.urls}"}
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (ended.stdout.split(), ended.returncode) == (["2"] * 6, 0), ended.stderr
    for member in members:
        texts = ["from the main thread", '{"from":"a thread"}', "from loop 0", "from loop 1"]
        assert [heard(member) for _ in range(4)] == texts
        assert member.recv(timeout=LIMIT_S) == b"from a child"
        with pytest.raises(ConnectionClosed) as closed:
            member.recv(timeout=LIMIT_S)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "bye")


def test_what_a_program_without_nodes_is_told() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from ifserver import groups; groups.publish('news', text='x')"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert "ConfigurationError" in ended.stderr
    assert "this process is no worker of ifserver, and there are no nodes in its settings" in ended.stderr


def test_a_node_that_cannot_be_reached(stack: ExitStack) -> None:
    with RedisServer() as redis:
        url = f"redis://127.0.0.1:{redis.port}"
    ended = subprocess.run(
        [sys.executable, "-c", "from ifserver import groups; groups.publish('news', text='x')"],
        env={**os.environ, "IFSERVER_LAYER_CLUSTERS": f"main={url}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert "NodeUnreachable" in ended.stderr


def test_a_burst_of_broadcasts_arrives_whole_and_in_order(stack: ExitStack, site: Site) -> None:
    members = [site.member(stack, server=server) for server in (0, 0, 1, 1)]
    count, lost = 500, broadcasts_lost(site)
    for number in range(count):
        members[0].send(str(number))
    for member in members:
        assert [heard(member) for _ in range(count)] == [str(number) for number in range(count)]
    eventually(lambda: broadcasts_lost(site) == lost, "none was lost")


def broadcasts_lost(site: Site) -> float:
    return scrape(site.servers[0]).get("ifserver_broadcasts_lost_total", 0)
