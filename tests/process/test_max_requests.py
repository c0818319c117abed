"""Workers that are replaced when they have served enough, as their supervisor sees them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver.config.pools import PoolWorkers
from ifserver.config.settings import WorkerSettings
from ifserver.metrics import Counters
from ifserver.process.max_requests import MaxRequests
from ifserver.process.slots import Pool, RestartPolicy, Slot, Worker
from ifserver.worker_ledger import Ledger


class FakeChild:
    pid = 101


def _no_start(slot: Slot[Worker]) -> Worker:
    raise AssertionError("nobody is started")


POOL = Pool(PoolWorkers(settings=WorkerSettings(application="a:b")))


class Stage:
    """Two workers, and the slots that are to be replaced."""

    def __init__(self, most: int, jitter: int = 0) -> None:
        self.clock = Clock()
        self.replaced: list[Slot[Worker]] = []
        self.workers = [self._worker(), self._worker()]
        self.aging = MaxRequests(lambda: self.workers, self.replaced.append, self.clock, most, jitter)
        self.aging.start()

    @staticmethod
    def _worker() -> Worker:
        slot = Slot(_no_start, "worker", RestartPolicy(0.0, 0.0, 0.0, at_once=True), Clock())
        worker = Worker(slot, Ledger(bytearray(Ledger.size(8)), 8), 0.0, POOL)
        child: Any = FakeChild()
        worker.child, worker.ready_at = child, 0.0
        return worker

    def serve(self, worker: int, count: int, kind: str = "http") -> list[Slot[Worker]]:
        """A worker takes so many; whom that replaces."""
        Counters(self.workers[worker].ledger.cells).add("streams_opened", count, kind)
        self.clock.advance(1.0)
        replaced, self.replaced[:] = self.replaced.copy(), []
        return replaced


def test_a_worker_is_replaced_once_it_has_served_enough() -> None:
    stage = Stage(10)
    assert stage.serve(0, 9) == []
    assert stage.serve(0, 1, "websocket") == [stage.workers[0].slot]
    assert stage.serve(0, 1) == []
    assert stage.serve(1, 12) == [stage.workers[1].slot]


def test_one_whose_successor_has_failed_is_replaced_after_as_many_again() -> None:
    stage = Stage(10)
    assert stage.serve(0, 12) == [stage.workers[0].slot]
    assert stage.serve(0, 9) == []
    assert stage.serve(0, 1) == [stage.workers[0].slot]


def test_who_starts_or_ends_is_left_alone() -> None:
    stage = Stage(10)
    stage.workers[0].slot = None
    stage.workers[1].ready_at = None
    assert stage.serve(0, 10) == stage.serve(1, 10) == []


def test_jitter_is_added_once_for_each_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    added = iter([3, 0])
    monkeypatch.setattr(random, "randint", lambda least, most: next(added) if (least, most) == (0, 5) else None)
    stage = Stage(10, 5)
    assert stage.serve(0, 12) == []
    assert stage.serve(0, 1) == [stage.workers[0].slot]
    assert stage.serve(1, 10) == [stage.workers[1].slot]


def test_without_a_limit_nobody_looks() -> None:
    stage = Stage(0)
    assert stage.clock.getDelayedCalls() == []
    stage.aging.stop()


def test_nobody_looks_after_the_end() -> None:
    stage = Stage(1)
    stage.clock.advance(1.0)
    stage.aging.stop()
    assert stage.clock.getDelayedCalls() == []
