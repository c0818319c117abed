"""What a worker shows its supervisor, and what it does while that one stands still."""

from __future__ import annotations

import logging

import pytest
from twisted.internet.task import Clock

from ifserver.worker.supervisor_watch import TURN_S, SupervisorWatch
from ifserver.worker_ledger import Ledger


class FakeWorker:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.turns = 0

    def hold(self) -> None:
        self.told.append("hold")

    def resume(self) -> None:
        self.told.append("resume")

    def turned(self) -> None:
        self.turns += 1


class Stage:
    """A watch, and the memory that it shares with a supervisor, which the test plays."""

    def __init__(self) -> None:
        self.clock = Clock()
        memory = bytearray(Ledger.size(1))
        self.supervisor, self.ours = Ledger(memory, 1), Ledger(memory, 1)
        self.worker = FakeWorker()
        self.watch = SupervisorWatch(self.ours, self.worker, self.clock)

    def run(self, seconds: float, beating: bool = True) -> None:
        for _ in range(round(seconds / 0.25)):
            if beating:
                self.supervisor.beat()
            self.clock.advance(0.25)


def test_it_says_that_the_loop_turns() -> None:
    stage = Stage()
    stage.watch.start()
    assert stage.supervisor.turns == 1
    for turns in range(2, 6):
        stage.clock.advance(TURN_S)
        assert stage.supervisor.turns == stage.worker.turns == turns
    stage.watch.stop()
    stage.clock.advance(10)
    assert stage.supervisor.turns == 5
    assert stage.clock.getDelayedCalls() == []


def test_while_the_supervisor_beats_nothing_happens() -> None:
    stage = Stage()
    stage.watch.start()
    stage.run(60)
    assert stage.worker.told == []


def test_a_supervisor_that_stands_still_for_a_second_holds_the_worker_until_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage()
    stage.watch.start()
    stage.run(5)
    stage.run(0.75, beating=False)
    assert stage.worker.told == []
    stage.run(0.25, beating=False)
    assert stage.worker.told == ["hold"]
    stage.run(10, beating=False)
    assert stage.worker.told == ["hold"]
    stage.run(0.25)
    assert stage.worker.told == ["hold", "resume"]
    stage.run(5)
    assert stage.worker.told == ["hold", "resume"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]


def test_one_that_never_beats_at_all_is_noticed() -> None:
    stage = Stage()
    stage.watch.start()
    stage.run(1, beating=False)
    assert stage.worker.told == ["hold"]


def test_a_worker_that_stood_still_itself_sees_that_the_supervisor_did_not() -> None:
    stage = Stage()
    stage.watch.start()
    stage.run(1)
    stage.supervisor.beat()
    stage.clock.advance(10)
    assert stage.worker.told == []


def test_a_worker_that_stood_still_does_not_forget_that_its_supervisor_stands_still() -> None:
    stage = Stage()
    stage.watch.start()
    stage.run(1)
    stage.run(2, beating=False)
    stage.clock.advance(5)
    stage.run(5, beating=False)
    assert stage.worker.told == ["hold"]


def test_both_stood_still_and_the_worker_wakes_first() -> None:
    stage = Stage()
    stage.watch.start()
    stage.run(1)
    stage.clock.advance(5)
    stage.run(0.25)
    assert stage.worker.told == ["hold", "resume"]


def test_stopping_what_was_not_started() -> None:
    Stage().watch.stop()
