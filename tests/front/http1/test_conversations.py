"""Conversations by chance: whatever clients and workers do, nothing happens that the tables do not know."""

from __future__ import annotations

import random

import pytest

from ifserver.front.http1.connection_states import TABLE
from tests.front.fakes import GET, HANDSHAKE, FakeTransport, Job, World
from tests.front.http1.test_connection import CHUNKED, chunk, post

_MANY = 70_000
REQUESTS = [
    GET,
    GET,
    GET,
    GET.replace(b"GET", b"HEAD", 1),
    GET.replace(b"1.1", b"1.0"),
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    HANDSHAKE,
    HANDSHAKE.replace(b"13", b"12"),
    post(3, b"abc"),
    post(3, b"abc", b"Expect: 100-continue"),
    post(_MANY, b"x" * _MANY),
    post(17_000_000, b"x" * _MANY),
    post(10**11, b"x"),
    CHUNKED + chunk(b"abc") + b"0\r\n\r\n",
    CHUNKED + chunk(b"a" * _MANY) + b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n",
    CHUNKED + chunk(b"abc") + b"nonsense\r\n",
    b"nonsense\r\n\r\n",
]


class Conversation:
    """One client and a worker, which do what `chance` says."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.world = World(
            max_body_bytes=chance.choice([None, 20_000_000]),
            max_pipelined=chance.choice([1, 20]),
            keep_alive_timeout_s=chance.choice([0, 10]),
        )
        self.client: FakeTransport = self.world.connect()
        self.jobs: list[Job] = []
        self._unsent = b""

    def step(self) -> None:
        """The next thing happens."""
        step = self.chance.choice(
            [self.send, self.send, self.send, self.work, self.work, self.work, self.take, self.wait]
        )
        if not self.client.lost:
            step()
            self.world.settle()
            for channel in ("http.request", "websocket.connect"):
                self.jobs += self.world.worker.jobs(channel)

    def send(self) -> None:
        if self.client.read_closed or not self.chance.randrange(60):
            self.client.half_close()
            return
        while self.chance.randrange(3):
            self._unsent += self.chance.choice(REQUESTS)
        count = self.chance.choice([len(self._unsent), 1, 60, 17_000])
        self.client.send(self._unsent[:count])
        self._unsent = self._unsent[count:]

    def work(self) -> None:
        chance = self.chance
        for job in self.jobs[-1:]:
            more = chance.random() < 0.5
            what = chance.randrange(20)
            if what < 3:
                job.claim()
            elif what == 3:
                job.release()
            elif what == 4:
                job.accept(chance.choice([None, None, "no\n"]))
            elif job.seq and what > 5:
                job.body(chance.choice([b"", b"abc", b"a" * _MANY]), more)
            else:
                length = [(b"content-length", b"%d" % chance.choice([3, 3, 6]))]
                fields = chance.choice([[], [], [], [], length, length, [(b"connection", b"close")], [(b"bad\n", b"")]])
                job.respond(chance.choice([200, 200, 204, 413]), fields, chance.choice([b"", b"abc", b"abc"]), more)
            if not more:
                self.jobs.remove(job)

    def take(self) -> None:
        if self.client.full:
            self.client.take_again()
        elif self.client.producer is not None:
            self.client.stop_taking()

    def wait(self) -> None:
        for _ in range(self.chance.choice([1, 1, 1, 4, 40])):
            self.world.advance(0.9)


@pytest.mark.parametrize("seed", range(60))
def test_nothing_happens_that_the_tables_do_not_know(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    conversation = Conversation(random.Random(seed))
    for _ in range(40):
        conversation.step()
        state = getattr(conversation.client.protocol, "state", None)
        assert state in TABLE or conversation.jobs  # (it is a WebSocket, whose states are autobahn's)
    conversation.client.leave()
    for job in conversation.jobs:
        job.release()
    conversation.world.advance(60.0)
    conversation.world.assert_empty()
    assert "this is a defect" not in caplog.text
