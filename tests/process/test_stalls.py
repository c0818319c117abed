"""Workers whose loops stand still, as their supervisor sees them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver.errors import ChannelNameError
from ifserver.messages import Claim, decode_for_server
from ifserver.process.stalls import LOOK_S, Stalls
from ifserver.worker_ledger import Ledger

INBOX = "!east.k3v9x2aq7m"
SERVER = "!east.0123456789"
OTHER_SERVER = "!west.9876543210"
SUPERVISOR = "sssssssss0"


class FakeClusters:
    """Keeps what is sent."""

    process = SUPERVISOR

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    def send(self, inbox: str, payload: bytes) -> None:
        if inbox.startswith("!unknown."):
            raise ChannelNameError(f"channel {inbox!r} has its home on no configured node")
        self.sent.append((inbox, decode_for_server(payload)))

    def take(self) -> list[tuple[str, Any]]:
        sent, self.sent = self.sent, []
        return sent


class FakeChild:
    """A process that is killed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.kills = 0

    def kill(self) -> None:
        self.kills += 1


class FakeWorker:
    """A child whose loop turns as long as the test lets it."""

    def __init__(self, pid: int = 101) -> None:
        self.memory = bytearray(Ledger.size(8))
        self.ledger, self.own = Ledger(self.memory, 8), Ledger(self.memory, 8)
        self.own.inbox = INBOX
        self.child = FakeChild(pid)
        self.ready = True
        self.turns = 0
        self.turned_at = 0.0
        self.claimed: set[tuple[str, int]] = set()
        self.turning = True


class Stage:
    def __init__(self, *workers: FakeWorker, stall_timeout_s: float = 150.0) -> None:
        self.clock = Clock()
        self.clusters = FakeClusters()
        self.workers = list(workers)
        self.stalls = Stalls(lambda: self.workers, self.clusters, self.clock, stall_timeout_s)
        self.stalls.start()

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            for worker in self.workers:
                if worker.turning:
                    worker.own.turn()
            self.clock.advance(0.05)


def claim(stream: str, attempt: int = 0) -> tuple[str, Claim]:
    server, _, _ = stream.rpartition(".")
    return server, Claim(stream.partition(".")[2], attempt, INBOX, SUPERVISOR, SUPERVISOR)


def test_it_beats_for_each_of_its_children() -> None:
    workers = FakeWorker(101), FakeWorker(102)
    stage = Stage(*workers)
    stage.run(LOOK_S * 4.5)
    assert [worker.own.beats for worker in workers] == [5, 5]
    stage.stalls.stop()
    stage.run(1)
    assert [worker.own.beats for worker in workers] == [5, 5]
    assert stage.clock.getDelayedCalls() == []


def test_it_beats_for_children_that_are_not_ready() -> None:
    worker = FakeWorker()
    worker.ready = False
    stage = Stage(worker)
    stage.run(1)
    assert worker.own.beats > 5


def test_the_streams_of_a_blocked_loop_are_claimed_after_half_a_second_and_before_the_server_offers_them_again() -> (
    None
):
    worker = FakeWorker()
    stage = Stage(worker)
    stage.run(2)
    worker.own.enter(f"{SERVER}.1", 0)
    worker.own.enter(f"{OTHER_SERVER}.2f", 1)
    worker.turning = False
    stage.run(0.45)
    assert stage.clusters.take() == []
    # And before a server that knows them to have been taken offers them once more.
    stage.run(0.25)
    assert stage.clusters.take() == [claim(f"{SERVER}.1"), claim(f"{OTHER_SERVER}.2f", 1)]


def test_each_is_claimed_once_however_often_the_loop_is_blocked() -> None:
    worker = FakeWorker()
    stage = Stage(worker)
    first = worker.own.enter(f"{SERVER}.1", 0)
    for _ in range(3):
        worker.turning = False
        stage.run(5)
        worker.turning = True
        stage.run(1)
    assert stage.clusters.take() == [claim(f"{SERVER}.1")]
    worker.own.enter(f"{SERVER}.2", 0)
    worker.own.clear(first)
    worker.turning = False
    stage.run(1)
    assert stage.clusters.take() == [claim(f"{SERVER}.2")]
    assert worker.claimed == {(f"{SERVER}.2", 0)}


def test_what_is_taken_while_the_loop_is_blocked_is_claimed_too() -> None:
    """Its turns are told four times a second: one may have gone by unseen."""
    worker = FakeWorker()
    stage = Stage(worker)
    worker.turning = False
    stage.run(1)
    worker.own.enter(f"{SERVER}.1", 0)
    stage.run(LOOK_S)
    assert stage.clusters.take() == [claim(f"{SERVER}.1")]


def test_a_loop_that_turns_slowly_is_not_blocked() -> None:
    worker = FakeWorker()
    stage = Stage(worker, stall_timeout_s=1)
    worker.own.enter(f"{SERVER}.1", 0)
    worker.turning = False
    for _ in range(20):
        worker.own.turn()
        stage.run(0.45)
    assert stage.clusters.take() == []
    assert worker.child.kills == 0


def test_only_the_blocked_one_is_spoken_for() -> None:
    blocked, other = FakeWorker(101), FakeWorker(102)
    stage = Stage(blocked, other)
    blocked.own.enter(f"{SERVER}.1", 0)
    other.own.enter(f"{SERVER}.2", 0)
    blocked.turning = False
    stage.run(5)
    assert stage.clusters.take() == [claim(f"{SERVER}.1")]


def test_a_child_that_is_starting_has_no_loop_to_look_at() -> None:
    worker = FakeWorker()
    worker.ready = worker.turning = False
    worker.own.enter(f"{SERVER}.1", 0)
    stage = Stage(worker, stall_timeout_s=1)
    stage.run(10)
    assert (stage.clusters.take(), worker.child.kills) == ([], 0)
    worker.ready = True
    stage.run(0.35)
    assert stage.clusters.take() == []
    stage.run(0.35)
    assert stage.clusters.take() == [claim(f"{SERVER}.1")]


def test_a_stalled_child_is_killed_once(caplog: pytest.LogCaptureFixture) -> None:
    worker, other = FakeWorker(101), FakeWorker(102)
    stage = Stage(worker, other, stall_timeout_s=10)
    worker.turning = False
    stage.run(9.9)
    assert worker.child.kills == 0
    stage.run(0.3)
    assert (worker.child.kills, other.child.kills) == (1, 0)
    assert "the event loop of worker 101 has been blocked for 10 s (stall_timeout): killing it" in caplog.text
    stage.workers.remove(worker)
    stage.run(20)
    assert (worker.child.kills, other.child.kills) == (1, 0)


def test_one_that_does_not_die_is_killed_again() -> None:
    worker = FakeWorker()
    worker.turning = False
    stage = Stage(worker, stall_timeout_s=10)
    stage.run(31)
    assert worker.child.kills == 3


def test_a_supervisor_that_stood_still_itself_condemns_nobody() -> None:
    worker = FakeWorker()
    worker.own.enter(f"{SERVER}.1", 0)
    stage = Stage(worker, stall_timeout_s=10)
    stage.run(2)
    worker.turning = False
    stage.run(0.2)
    # Both were frozen, and it wakes first.
    stage.clock.advance(60)
    assert (stage.clusters.take(), worker.child.kills) == ([], 0)
    stage.run(0.4)
    assert (stage.clusters.take(), worker.child.kills) == ([], 0)
    # From then on it is the child alone.
    stage.run(0.25)
    assert stage.clusters.take() == [claim(f"{SERVER}.1")]
    stage.run(10)
    assert worker.child.kills == 1


@pytest.mark.parametrize(
    ("reply_channel", "attempt"),
    [("!unknown.0123456789.1", 0), ("nonsense", 0), ("!x", 0), (f"{SERVER}.1", 10**19 * 9)],
)
def test_what_cannot_be_claimed_keeps_nothing_else_from_it(
    reply_channel: str, attempt: int, caplog: pytest.LogCaptureFixture
) -> None:
    worker, other = FakeWorker(101), FakeWorker(102)
    worker.own.enter(reply_channel, attempt)
    for each in (worker, other):
        each.own.enter(f"{SERVER}.2", 0)
        each.turning = False
    stage = Stage(worker, other)
    stage.run(5)
    assert stage.clusters.take() == [claim(f"{SERVER}.2")] * 2
    assert caplog.text.count("cannot be claimed for worker 101") == 1


def test_an_inbox_that_was_not_written_claims_nothing(caplog: pytest.LogCaptureFixture) -> None:
    worker = FakeWorker()
    worker.memory[9] = 0
    worker.own.enter(f"{SERVER}.1", 0)
    worker.turning = False
    stage = Stage(worker)
    stage.run(1)
    assert stage.clusters.take() == []
    assert "cannot be claimed" in caplog.text
