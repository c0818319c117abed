"""An unchanged site on Channels, whose channel layer is ours: servers, workers, commands, and a real Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.e2e.operators import ADMIN, balance, scrape, settled
from tests.e2e.running import APPS, LIMIT_S, ROOT, Running, eventually
from tests.redis_server import RedisServer

SITE = APPS / "channels_site"
APPLICATION = "mysite.asgi:application"
#: As long as a test waits to see that nothing comes, in seconds.
SHORT_S = 0.3


class Site:
    """Two servers and two supervisors with Redis, or ``run`` alone with two workers."""

    def __init__(self, stack: ExitStack, kind: str) -> None:
        # A test that kills workers again and again leaves no longer delays to the next one.
        restarts = ("--max-restart-delay", "100ms")
        resumable = ("--resumable", "/ws/*")
        self.environment: dict[str, str] = {}
        if kind == "run":
            command = ("run", APPLICATION, "-p", "0", "--workers", "2", *ADMIN, *resumable, *restarts)
            self.servers = [stack.enter_context(Running(*command, app_dir=SITE)).ready()]
            self.supervisors = self.servers
            return
        nodes = [stack.enter_context(RedisServer()) for _ in range(2 if kind == "two nodes" else 1)]
        self.redis = nodes[0]
        cluster = "main=" + ",".join(f"redis://127.0.0.1:{node.port}" for node in nodes)
        self.environment = {"IFSERVER_LAYER_CLUSTERS": cluster}
        layer = ("--cluster", cluster, *ADMIN)
        self.servers = [stack.enter_context(Running("serve", "-p", "0", *layer, *resumable)) for _ in range(2)]
        worker = ("worker", APPLICATION, "--processes", "1", *layer, *restarts)
        self.supervisors = [stack.enter_context(Running(*worker, app_dir=SITE)) for _ in range(2)]
        for each in self.supervisors:
            each.ready()

    def client(self, stack: ExitStack, path: str = "chat/lobby", server: int = 0) -> ClientConnection:
        url = f"ws://127.0.0.1:{self.servers[server % len(self.servers)].port}/ws/{path}/"
        return stack.enter_context(connect(url, open_timeout=LIMIT_S, compression=None))

    def get(self, path: str, message: str = "") -> None:
        answer = httpx.get(f"{self.servers[-1].url}/{path}/", params={"message": message}, timeout=LIMIT_S)
        assert answer.status_code == 200, answer.text

    def manage(self, *arguments: str) -> subprocess.Popen[str]:
        """A command of the site's."""
        return subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=SITE,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def replace_workers(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill all, or tell them to end, and wait until others are ready."""
        for each in dict.fromkeys(self.supervisors):
            workers, ready = each.workers(), each.output.count(" is ready after ")
            for pid in workers:
                os.kill(pid, number)
            each.said(" is ready after ", times=ready + len(workers))


@pytest.fixture(scope="module", params=["run", "redis", "two nodes"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """One site of each kind for all tests: Django takes its time to start in so many processes."""
    with ExitStack() as stack:
        yield Site(stack, request.param)


only_redis = pytest.mark.parametrize("site", ["redis"], indirect=True)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def say(client: ClientConnection, message: str) -> None:
    client.send(json.dumps({"message": message}))


def heard(client: ClientConnection, timeout: float = LIMIT_S) -> Any:
    """What a consumer has passed on."""
    return json.loads(client.recv(timeout=timeout))["message"]


def written(client: ClientConnection) -> str:
    """What a server has written, or a consumer has sent."""
    return str(client.recv(timeout=LIMIT_S))


def ended(command: subprocess.Popen[str], output: str = "") -> None:
    told, _ = command.communicate(timeout=LIMIT_S)
    assert (command.returncode, told.strip()) == (0, output)


def test_the_chat_of_the_tutorial(stack: ExitStack, site: Site) -> None:
    rooms = [site.client(stack, path, server) for server in (0, 1) for path in ("chat/lobby", "sync/lobby")]
    other = site.client(stack, "chat/other")
    for client in rooms:
        for number in range(20):
            say(client, f"hello {number}")
        for each in rooms:
            assert [heard(each) for _ in range(20)] == [f"hello {number}" for number in range(20)]
    for path in ("say", "asay"):
        site.get(f"{path}/lobby", f"from {path}")
        assert [heard(each) for each in rooms] == [f"from {path}"] * 4
    site.get("write/lobby", "written by the servers")
    assert [written(each) for each in rooms] == ["written by the servers"] * 4
    with pytest.raises(TimeoutError):
        heard(other, SHORT_S)
    processes = dict.fromkeys([*site.servers, *site.supervisors])
    settled(lambda: scrape(*processes), lambda counts: balance(counts) == 0)
    site.get("close/lobby")
    for each in rooms:
        with pytest.raises(ConnectionClosed) as closed:
            each.recv(timeout=LIMIT_S)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "bye")
    assert "exception" not in "".join(each.output for each in processes).lower()


@only_redis
def test_a_management_command(stack: ExitStack, site: Site) -> None:
    rooms = [site.client(stack, server=server) for server in (0, 1)]
    ended(site.manage("announce", "lobby", "50"), "announced")
    for each in rooms:
        assert [heard(each) for _ in range(50)] == list(range(50))
    ended(site.manage("announce", "lobby", "50", "--written"), "announced")
    for each in rooms:
        assert [written(each) for _ in range(50)] == [str(number) for number in range(50)]


#: A program that is none of ours: threads, event loops that come and go, and a fork.
_PROGRAM = """
import asyncio, os, threading
from asgiref.sync import async_to_sync
from django.conf import settings

settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": "ifserver.django.ChannelLayer"}})

from channels.layers import get_channel_layer

layer = get_channel_layer()

def say(who):
    send, receive, new_channel, add = map(
        async_to_sync, (layer.group_send, layer.receive, layer.new_channel, layer.group_add)
    )
    name = new_channel()
    add("chat_lobby", name)
    send("chat_lobby", {"type": "chat.message", "message": who})
    assert receive(name) == {"type": "chat.message", "message": who}
    return name

ours = say("the main thread")
thread = threading.Thread(target=say, args=("a thread",))
thread.start()
thread.join()
child = os.fork()
if not child:
    theirs = say("a child")
    assert ours.partition("!")[0] != theirs.partition("!")[0]
    # The parent's channel is another process's now.
    async_to_sync(layer.send)(ours, {"type": "from.child"})
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0

async def receive():
    return [(await layer.receive(ours))["type"] for _ in range(3)]

assert asyncio.run(receive()) == ["chat.message", "chat.message", "from.child"]
print("done")
"""


@only_redis
def test_a_program_that_is_none_of_ours(stack: ExitStack, site: Site) -> None:
    rooms = [site.client(stack, server=server) for server in (0, 1)]
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, **site.environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (ended.stdout.strip(), ended.returncode, ended.stderr) == ("done", 0, "")
    for each in rooms:
        assert [heard(each) for _ in range(3)] == ["the main thread", "a thread", "a child"]


#: Receivers that are cancelled all the time, while nodes hand out what is for them.
_IMPATIENT = """
import asyncio
from django.conf import settings

settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": "ifserver.django.ChannelLayer", "CONFIG": {"capacity": 500}}})

from channels.layers import get_channel_layer

layer = get_channel_layer()

async def main(name):
    async def send():
        for number in range(500):
            await layer.send(name, {"type": "x", "number": number})
            await asyncio.sleep(number % 3 * 0.001)

    sending, got = asyncio.create_task(send()), []
    while len(got) < 500:
        try:
            async with asyncio.timeout(len(got) % 5 * 0.0005):
                got.append((await layer.receive(name))["number"])
        except TimeoutError:
            await asyncio.sleep(0)
    await sending
    assert got == list(range(500)), got

asyncio.run(main("normal"))
asyncio.run(main(asyncio.run(layer.new_channel())))
print("done")
"""


def test_receivers_that_are_cancelled_lose_nothing(stack: ExitStack) -> None:
    redis = stack.enter_context(RedisServer())
    ended = subprocess.run(
        [sys.executable, "-c", _IMPATIENT],
        env={**os.environ, "IFSERVER_LAYER_CLUSTERS": f"main=redis://127.0.0.1:{redis.port}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (ended.stdout.strip(), ended.returncode, ended.stderr) == ("done", 0, "")


def test_names_in_other_processes(stack: ExitStack, site: Site) -> None:
    one, other = site.client(stack, "chat/one"), site.client(stack, "chat/other", 1)
    say(other, "who")
    name = heard(other)
    say(one, f"add {name}")
    say(one, "in both rooms")
    assert heard(one) == heard(other) == "in both rooms"
    # The name is the WebSocket's: the next worker has the same.
    site.replace_workers()
    say(other, "who")
    # It may be the next but one.
    while (found := heard(other)) == "resumed":
        pass
    assert found == name


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_sync_views(stack: ExitStack, interface: str) -> None:
    command = ("run", f"mysite.{interface}:application", "-p", "0", "--workers", "1")
    server = stack.enter_context(Running(*command, app_dir=SITE)).ready()
    names = set()
    for _ in range(10):
        name, heard = httpx.get(f"{server.url}/round/lobby/").text.split()
        assert heard == "round"
        names.add(name)
    assert len(names) == 10


def test_a_process_that_a_view_has_forked(stack: ExitStack, site: Site) -> None:
    """It has the nodes of its worker, which it was given in the command line or is the broker of ``run``."""
    rooms = [site.client(stack, server=server) for server in (0, 1)]
    site.get("fork/lobby", "hello")
    for each in rooms:
        # What a consumer sends and what a server writes have no order.
        assert {written(each), written(each)} == {'{"message": "hello, by a child"}', "written by a child"}


def test_server_sent_events(stack: ExitStack, site: Site) -> None:
    with (
        httpx.Client(timeout=LIMIT_S) as client,
        client.stream("GET", f"{site.servers[0].url}/events/feed/") as response,
    ):
        events = response.iter_lines()
        assert [next(events), next(events)] == ["data: joined", ""]
        site.get("write/feed", "data: ä\n\n")
        assert [next(events), next(events)] == ["data: ä", ""]


@pytest.mark.parametrize("site", ["redis", "two nodes"], indirect=True)
def test_runworker(stack: ExitStack, site: Site) -> None:
    workers = [site.manage("runworker", "thumbnails") for _ in range(2)]
    try:
        client = site.client(stack)
        for number in range(200):
            say(client, f"make {number}")
        answers = [json.loads(client.recv(timeout=LIMIT_S)) for _ in range(200)]
        assert sorted(each["message"] for each in answers) == sorted(f"made make {number}" for number in range(200))
        with pytest.raises(TimeoutError):
            heard(client, SHORT_S)
    finally:
        for each in workers:
            each.send_signal(signal.SIGINT)
        outputs = [each.communicate(timeout=LIMIT_S)[0] for each in workers]
    assert all("never retrieved" not in output and "pending" not in output for output in outputs), outputs


@only_redis
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_that_servers_write_is_lost_with_a_worker(stack: ExitStack, site: Site, number: signal.Signals) -> None:
    rooms = [site.client(stack, server=server) for server in (0, 1)]
    announcing = site.manage("announce", "lobby", "400", "--pause", "0.01", "--written")
    got: list[list[str]] = [[], []]
    for _ in range(2):
        site.replace_workers(number)
    for numbers, client in zip(got, rooms, strict=True):
        while len(numbers) < 400:
            text = written(client)
            if "resumed" not in text:
                numbers.append(text)
    ended(announcing, "announced")
    assert got == [[str(number) for number in range(400)]] * 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_lost_in_silence_with_a_worker(stack: ExitStack, site: Site, number: signal.Signals) -> None:
    rooms = [site.client(stack, server=server) for server in (0, 1)]
    got: list[list[Any]] = [[], []]
    for round_ in range(3):
        for count in range(20):
            say(rooms[0], f"{round_} {count:02}")
        site.replace_workers(number)
        for messages, client in zip(got, rooms, strict=True):
            while messages.count("resumed") <= round_:
                messages.append(heard(client))
    say(rooms[0], "last")
    for messages, client in zip(got, rooms, strict=True):
        while messages[-1] != "last":
            messages.append(heard(client))
        said = [each for each in messages if each not in ("resumed", "last")]
        assert said == sorted(set(said)), "twice, or in another order"
        # What is missing is missing where the client was told that the consumer is another one.
        before: int | None = -1
        for each in messages[:-1]:
            if each == "resumed":
                before = None
            else:
                here = int(each[0]) * 20 + int(each[2:])
                assert before in (None, here - 1), messages
                before = here


@only_redis
def test_a_redis_that_was_restarted_is_told_and_then_all_is_well(stack: ExitStack, site: Site) -> None:
    rooms = [site.client(stack, server=server) for server in (0, 1)]
    site.get("say/lobby", "before")
    assert [heard(each) for each in rooms] == ["before"] * 2
    for each in rooms:
        say(each, "who")
    workers = {json.loads(each.recv(timeout=LIMIT_S))["pid"] for each in rooms}
    site.redis.kill()
    site.redis.start()
    line = "group chat_lobby: an unknown number of messages got lost on the way to this process"
    told = [each for each in site.supervisors if workers & set(each.workers())]
    assert len(told) == len(workers)
    for supervisor in told:
        supervisor.said(line)
    site.redis.command("FLUSHALL")
    url = f"{site.servers[0].url}/say/lobby/?message=after"
    eventually(lambda: httpx.get(url, timeout=LIMIT_S).status_code == 200, "requests are taken again")
    assert [heard(each) for each in rooms] == ["after"] * 2
