"""WebSockets that outlive their workers: real processes, which are told to end, killed, and killed with their host."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.e2e.running import APPS, LIMIT_S, Running, eventually
from tests.redis_server import RedisServer

#: A test that kills workers again and again leaves no longer delays to the next one.
RESTARTS = ("--max-restart-delay", "100ms")


class Site:
    """A server, and supervisors with two workers each."""

    def __init__(self, stack: ExitStack, kind: str) -> None:
        if kind == "run":
            command = ("run", "zoo:app", "-p", "0", "--workers", "2", "-v", "2", *RESTARTS)
            self.server = stack.enter_context(Running(*command, app_dir=APPS)).ready()
            self.supervisors = [self.server]
            return
        redis = stack.enter_context(RedisServer())
        cluster = ("--cluster", f"main=redis://127.0.0.1:{redis.port}")
        self.server = stack.enter_context(Running("serve", "-p", "0", *cluster))
        worker = ("worker", "zoo:app", "--processes", "2", "-v", "2", *RESTARTS, *cluster)
        self.supervisors = [stack.enter_context(Running(*worker, app_dir=APPS)).ready() for _ in range(2)]

    def connect(self, path: str = "/resume") -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.server.port}{path}")


@pytest.fixture(scope="module", params=["run", "redis"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack, request.param)


class Member:
    """A client that numbers what it says, and what comes back."""

    def __init__(self, client: ClientConnection) -> None:
        self.client = client
        self.said = 0
        #: What was answered, and the counts of messages that may have been lost.
        self.heard: list[int] = []
        self.resumptions: list[int] = []
        self.worker = 0

    def say(self) -> None:
        self.client.send(str(self.said))
        self.said += 1

    def listen(self) -> None:
        """Hear one answer, and of resumptions before it."""
        while self._hear() == "resumed":
            pass

    def resume(self) -> None:
        """Hear of a resumption."""
        while self._hear() != "resumed":
            pass

    def _hear(self) -> str:
        first, number = str(self.client.recv(timeout=LIMIT_S)).split()
        if first == "resumed":
            self.resumptions.append(int(number))
        else:
            self.worker = int(first)
            self.heard.append(int(number))
        return first


def test_workers_that_are_told_to_end_lose_and_double_nothing(site: Site) -> None:
    with site.connect() as client:
        member = Member(client)
        for _ in range(4):
            member.say()
            member.listen()
            ending = member.worker
            # Before, and after it knows.
            member.say()
            os.kill(ending, signal.SIGTERM)
            member.say()
            while len(member.heard) < member.said:
                member.listen()
            while member.worker == ending:
                member.say()
                member.listen()
        assert member.heard == list(range(member.said))
        assert member.resumptions == [0] * len(member.resumptions) != []


def test_killed_workers_close_nothing_and_what_may_be_lost_is_counted(site: Site) -> None:
    with site.connect() as client:
        member = Member(client)
        for count in range(1, 4):
            member.say()
            member.listen()
            os.kill(member.worker, signal.SIGKILL)
            member.say()  # which may go to the dead
            member.resume()
            member.say()
            while member.heard[-1] != member.said - 1:
                member.listen()
            assert len(member.resumptions) == count
        assert member.heard == sorted(set(member.heard))
        assert member.said - len(member.heard) <= sum(member.resumptions)


def test_the_end_of_a_host_closes_nothing() -> None:
    with ExitStack() as stack:
        site = Site(stack, "redis")
        client = stack.enter_context(site.connect())
        member = Member(client)
        member.say()
        member.listen()
        (host,) = (each for each in site.supervisors if member.worker in each.workers())
        host.killed()
        member.resume()
        member.say()
        member.listen()
        assert member.resumptions in ([0], [1])
        assert member.worker in next(each for each in site.supervisors if each is not host).workers()


def test_one_that_is_not_resumable_is_closed_with_1012_when_the_drain_is_over(site: Site) -> None:
    with site.connect("/ws") as client:
        assert client.response is not None
        worker = int(client.response.headers["x-pid"])
        os.kill(worker, signal.SIGTERM)
        eventually(
            lambda: f"[{worker}] SIGTERM" in site.supervisors[0].output + site.supervisors[-1].output, "it knows"
        )
        client.send("it goes on")
        assert client.recv(timeout=LIMIT_S) == "it goes on"
        assert client.close_code is None
        with pytest.raises(Exception, match="1012"):
            client.recv(timeout=LIMIT_S)


def test_rolling_restarts_fail_no_request_and_close_no_websocket(site: Site) -> None:
    with site.connect() as client, ThreadPoolExecutor(2) as pool:
        member = Member(client)
        ended = Event()

        def ask() -> list[int]:
            statuses = []
            with httpx.Client(timeout=LIMIT_S) as http:
                while not ended.wait(0.01):
                    statuses.append(http.get(site.server.url).status_code)
            return statuses

        asking = [pool.submit(ask) for _ in range(2)]
        try:
            for _ in range(2):
                before = {pid for each in site.supervisors for pid in each.workers()}
                resumed = len(member.resumptions)
                for supervisor in site.supervisors:
                    supervisor.process.send_signal(signal.SIGHUP)
                # Its worker is one of those that end, so it is resumed; it may hear so when they have ended.
                while (
                    before & {pid for each in site.supervisors for pid in each.workers()}
                    or len(member.resumptions) == resumed
                ):
                    member.say()
                    member.listen()
                    # To look at all processes is dear.
                    ended.wait(0.02)
        finally:
            ended.set()
        assert {status for each in asking for status in each.result()} == {200}
        assert member.heard == list(range(member.said))
        assert member.resumptions == [0] * len(member.resumptions) != []
