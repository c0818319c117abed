"""Slots and the children in them, and what decides about one worker, on a clock that the test turns."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver.config.pools import PoolWorkers
from ifserver.config.settings import WorkerSettings
from ifserver.errors import ChannelNameError
from ifserver.messages import Claim, decode_for_server
from ifserver.metrics import Counters
from ifserver.process.workers import LOOK_S, Pool, RestartPolicy, Slot, SlotChild, Worker, WorkerWatch
from ifserver.worker_ledger import Ledger

# Slots.

POLICY = RestartPolicy(first_s=0.1, longest_s=1.0, long_life_s=10.0, at_once=False)


class SlotStage:
    def __init__(self, policy: RestartPolicy = POLICY) -> None:
        self.clock = Clock()
        self.failing = False
        self.started = 0
        self.slot: Slot[SlotChild] = Slot(self._start, "server", policy, self.clock)

    def _start(self, slot: Slot[SlotChild]) -> SlotChild:
        if self.failing:
            raise OSError(11, "Resource temporarily unavailable")
        self.started += 1
        return SlotChild(slot, self.clock.seconds())


def test_a_slot_is_ready_with_its_child() -> None:
    stage = SlotStage()
    slot = stage.slot
    assert not slot.ready
    slot.fill()
    child = slot.current
    assert child is not None
    assert (child.slot, slot.ready, child.ready_for_s(5.0)) == (slot, False, 0.0)
    child.ready_at = 2.0
    assert (slot.ready, child.ready_for_s(5.0)) == (True, 3.0)


def test_a_child_that_cannot_be_started_is_tried_again_and_the_old_one_is_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = SlotStage()
    stage.slot.fill()
    stage.failing = True
    stage.slot.fill()
    assert stage.slot.current is None
    assert "cannot start a server: [Errno 11] Resource temporarily unavailable; trying again in 0.1 s" in caplog.text
    stage.failing = False
    stage.clock.advance(0.13)
    assert stage.slot.current is not None


def test_filling_a_slot_takes_the_place_of_a_later_start_and_so_does_giving_up() -> None:
    stage = SlotStage()
    stage.slot.fill_later(1.0)
    stage.slot.fill()
    assert stage.clock.getDelayedCalls() == []
    stage.slot.fill_later(1.0)
    stage.slot.cancel()
    stage.slot.cancel()
    assert stage.clock.getDelayedCalls() == []
    assert stage.started == 1


@pytest.mark.parametrize("at_once", [False, True])
def test_delays_double_until_a_child_has_lived_long(at_once: bool) -> None:
    slot = SlotStage(POLICY._replace(at_once=at_once)).slot
    for expected in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        assert 0.7 * expected <= slot.delay_s(9.9) <= 1.3 * expected
    delay_s = slot.delay_s(10.0)
    assert delay_s == 0.0 if at_once else 0.07 <= delay_s <= 0.13
    assert slot.crashes == (0 if at_once else 1)


@pytest.mark.parametrize(
    ("written", "inbox", "process"),
    [
        (b"!east.k3v9x2aq7m", "!east.k3v9x2aq7m", "k3v9x2aq7m"),
        (b"http.request", "", ""),
        (b"nonsense!", "", ""),
        (b"", "", ""),
    ],
)
def test_a_worker_s_inbox_is_what_it_has_written_if_that_is_one(written: bytes, inbox: str, process: str) -> None:
    memory = bytearray(Ledger.size(1))
    slot: Any = None
    worker = Worker(slot, Ledger(memory, 1), 0.0, slot)
    assert (worker.inbox, worker.process) == ("", "")
    memory[9] = 1
    memory[32 : 33 + len(written)] = written + b"\n"
    assert (worker.inbox, worker.process) == (inbox, process)


# Loops that are blocked.

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
        self.loaded = False
        self.kills = 0

    def kill(self) -> None:
        self.kills += 1


def _no_start(slot: Slot[Worker]) -> Worker:
    raise AssertionError("no worker is started")


POOL = Pool(PoolWorkers(settings=WorkerSettings(application="a:b")))
AT_ONCE = RestartPolicy(0.0, 0.0, 0.0, at_once=True)


class WatchedWorker(Worker):
    """A child whose loop turns as long as the test lets it."""

    child: Any

    def __init__(self, pid: int = 101, ready: bool = True) -> None:
        self.memory = bytearray(Ledger.size(8))
        self.own = Ledger(self.memory, 8)
        self.own.inbox = INBOX
        super().__init__(Slot(_no_start, "worker", AT_ONCE, Clock()), Ledger(self.memory, 8), 0.0, POOL)
        self.child = FakeChild(pid)
        self.ready_at = 0.0 if ready else None
        self.turning = ready


class Watching:
    """Workers, what is sent in their names, and the slots whose workers are to be replaced."""

    def __init__(self, *workers: WatchedWorker, **settings: Any) -> None:
        self.clock = Clock()
        self.clusters = FakeClusters()
        self.workers = list(workers)
        self.replaced: list[Slot[Worker]] = []
        clusters: Any = self.clusters
        wanted = WorkerSettings(application="a:b", **{"stall_timeout_s": 150.0} | settings)
        self.watch = WorkerWatch(self.workers, clusters, self.clock, wanted, self.replaced.append)
        self.watch.start()

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            for worker in self.workers:
                if worker.turning:
                    worker.own.turn()
            self.clock.advance(0.05)

    def serve(self, worker: int, count: int, kind: str = "http") -> list[Slot[Worker]]:
        """A worker takes so many; what that replaces."""
        Counters(self.workers[worker].ledger.cells).add("streams_opened", count, kind)
        self.run(1.0)
        replaced, self.replaced[:] = self.replaced.copy(), []
        return replaced


def claim(stream: str, attempt: int = 0) -> tuple[str, Claim]:
    server, _, _ = stream.rpartition(".")
    return server, Claim(stream.partition(".")[2], attempt, INBOX, SUPERVISOR, SUPERVISOR)


def test_it_beats_for_each_of_its_children() -> None:
    workers = WatchedWorker(101), WatchedWorker(102)
    stage = Watching(*workers)
    stage.run(LOOK_S * 4.5)
    assert [worker.own.beats for worker in workers] == [5, 5]
    stage.watch.stop()
    stage.run(1)
    assert [worker.own.beats for worker in workers] == [5, 5]
    assert stage.clock.getDelayedCalls() == []


def test_it_beats_for_children_that_are_not_ready() -> None:
    worker = WatchedWorker(ready=False)
    stage = Watching(worker)
    stage.run(1)
    assert worker.own.beats > 5


def test_the_streams_of_a_blocked_loop_are_claimed_after_half_a_second_and_before_the_server_offers_them_again() -> (
    None
):
    worker = WatchedWorker()
    stage = Watching(worker)
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
    worker = WatchedWorker()
    stage = Watching(worker)
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
    """Its turns are noted four times a second: one may have been missed."""
    worker = WatchedWorker()
    stage = Watching(worker)
    worker.turning = False
    stage.run(1)
    worker.own.enter(f"{SERVER}.1", 0)
    stage.run(LOOK_S)
    assert stage.clusters.take() == [claim(f"{SERVER}.1")]


def test_a_loop_that_turns_slowly_is_not_blocked() -> None:
    worker = WatchedWorker()
    stage = Watching(worker, stall_timeout_s=1)
    worker.own.enter(f"{SERVER}.1", 0)
    worker.turning = False
    for _ in range(20):
        worker.own.turn()
        stage.run(0.45)
    assert stage.clusters.take() == []
    assert worker.child.kills == 0


def test_only_streams_of_the_blocked_one_are_claimed() -> None:
    blocked, other = WatchedWorker(101), WatchedWorker(102)
    stage = Watching(blocked, other)
    blocked.own.enter(f"{SERVER}.1", 0)
    other.own.enter(f"{SERVER}.2", 0)
    blocked.turning = False
    stage.run(5)
    assert stage.clusters.take() == [claim(f"{SERVER}.1")]


def test_a_child_that_is_starting_has_no_loop_to_look_at() -> None:
    worker = WatchedWorker(ready=False)
    worker.own.enter(f"{SERVER}.1", 0)
    stage = Watching(worker, stall_timeout_s=1)
    stage.run(10)
    assert (stage.clusters.take(), worker.child.kills) == ([], 0)
    worker.ready_at = stage.clock.seconds()
    stage.run(0.35)
    assert stage.clusters.take() == []
    stage.run(0.35)
    assert stage.clusters.take() == [claim(f"{SERVER}.1")]


def test_a_stalled_child_is_killed_once(caplog: pytest.LogCaptureFixture) -> None:
    worker, other = WatchedWorker(101), WatchedWorker(102)
    stage = Watching(worker, other, stall_timeout_s=10)
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
    worker = WatchedWorker()
    worker.turning = False
    stage = Watching(worker, stall_timeout_s=10)
    stage.run(31)
    assert worker.child.kills == 3


def test_a_supervisor_that_was_frozen_itself_kills_none() -> None:
    worker = WatchedWorker()
    worker.own.enter(f"{SERVER}.1", 0)
    stage = Watching(worker, stall_timeout_s=10)
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
    worker, other = WatchedWorker(101), WatchedWorker(102)
    worker.own.enter(reply_channel, attempt)
    for each in (worker, other):
        each.own.enter(f"{SERVER}.2", 0)
        each.turning = False
    stage = Watching(worker, other)
    stage.run(5)
    assert stage.clusters.take() == [claim(f"{SERVER}.2")] * 2
    assert caplog.text.count("cannot be claimed for worker 101") == 1


def test_an_inbox_that_was_not_written_claims_nothing(caplog: pytest.LogCaptureFixture) -> None:
    worker = WatchedWorker()
    worker.memory[9] = 0
    worker.own.enter(f"{SERVER}.1", 0)
    worker.turning = False
    stage = Watching(worker)
    stage.run(1)
    assert stage.clusters.take() == []
    assert "cannot be claimed" in caplog.text


# Slow starts.


def test_the_log_reports_after_ten_seconds_and_then_every_minute_what_is_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    worker = WatchedWorker(7, ready=False)
    stage = Watching(worker)
    stage.run(9.8)
    assert caplog.messages == []
    stage.run(0.4)
    assert caplog.messages == ["worker 7 is not ready after 10 s: it is still importing a:b"]
    worker.child.loaded = True
    stage.run(60)
    assert caplog.messages[1:] == [
        "worker 7 is not ready after 70 s: a:b has not answered lifespan.startup (with lifespan.startup.complete)"
    ]
    # Many applications need a while.
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


def test_of_one_that_is_ready_or_has_ended_nothing_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ready, ended = WatchedWorker(7, ready=False), WatchedWorker(8, ready=False)
    stage = Watching(ready, ended)
    stage.run(5)
    ready.ready_at, ready.turning = 5.0, True
    stage.workers.remove(ended)
    stage.run(60)
    assert caplog.messages == []


# Enough requests.


def two(most: int, jitter: int = 0) -> Watching:
    return Watching(WatchedWorker(101), WatchedWorker(102), max_requests=most, max_requests_jitter=jitter)


def test_a_worker_is_replaced_once_it_has_served_enough() -> None:
    stage = two(10)
    assert stage.serve(0, 9) == []
    assert stage.serve(0, 1, "websocket") == [stage.workers[0].slot]
    assert stage.serve(0, 1) == []
    assert stage.serve(1, 12) == [stage.workers[1].slot]


def test_one_whose_successor_has_failed_is_replaced_after_as_many_again() -> None:
    stage = two(10)
    assert stage.serve(0, 12) == [stage.workers[0].slot]
    assert stage.serve(0, 9) == []
    assert stage.serve(0, 1) == [stage.workers[0].slot]


def test_one_that_starts_or_ends_is_not_replaced() -> None:
    stage = two(10)
    stage.workers[0].slot = None
    stage.workers[1].ready_at = None
    assert stage.serve(0, 10) == stage.serve(1, 10) == []


def test_jitter_is_added_once_for_each_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    added = iter([3, 0])
    monkeypatch.setattr(random, "randint", lambda least, most: next(added) if (least, most) == (0, 5) else None)
    stage = two(10, 5)
    assert stage.serve(0, 12) == []
    assert stage.serve(0, 1) == [stage.workers[0].slot]
    assert stage.serve(1, 10) == [stage.workers[1].slot]


def test_without_a_limit_none_is_replaced() -> None:
    assert two(0).serve(0, 1_000_000) == []
