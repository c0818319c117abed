"""A rolling restart of the workers of a supervisor, one after another; and how it ends."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver.config.pools import PoolWorkers
from ifserver.config.settings import WorkerSettings
from ifserver.metrics import Counters
from ifserver.process.restarts import Stopping
from tests.process.test_supervisor import Stage

# Rolling restarts.


def test_an_old_worker_ends_when_the_new_one_in_its_place_is_ready_and_then_the_next_is_replaced() -> None:
    stage = Stage(processes=2)
    first, second = stage.start()
    stage.supervisor.replace()
    assert stage.alive == [101, 102, 103]
    assert first.signals == second.signals == []
    stage.children[2].say_ready()
    assert first.signals == ["TERM"]
    assert second.signals == []
    assert stage.alive == [101, 102, 103, 104]
    stage.children[3].say_ready()
    assert second.signals == ["TERM"]
    first.end()
    second.end()
    assert stage.alive == [103, 104]
    assert stage.supervisor.statistics()["workers_ready"] == 2


def test_a_new_worker_that_does_not_start_leaves_the_old_ones(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(processes=2)
    stage.start()
    stage.supervisor.replace()
    stage.children[2].end()
    stage.clock.advance(60)
    assert stage.alive == [101, 102]
    assert "worker 103 has ended before it was ready (exit code 9): the old workers go on" in caplog.messages
    stage.supervisor.replace()
    stage.children[3].say_ready()
    assert stage.children[0].signals == ["TERM"], "and it may be tried again"


def test_a_new_worker_that_cannot_be_started_leaves_the_old_ones(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.start()
    stage.failing = True
    stage.supervisor.replace()
    stage.clock.advance(60)
    assert stage.alive == [101]
    assert "cannot start a new worker" in caplog.text


def test_asking_again_replaces_all_once_more() -> None:
    stage = Stage(processes=2)
    first, second = stage.start()
    stage.supervisor.replace()
    stage.supervisor.replace()
    assert stage.alive == [101, 102, 103], "one is started at a time"
    stage.children[2].say_ready()
    assert first.signals == ["TERM"]
    stage.children[3].say_ready()
    assert stage.children[2].signals == ["TERM"], "the second time, from the beginning"
    stage.children[4].say_ready()
    assert second.signals == ["TERM"]
    assert [child.signals for child in stage.children[3:]] == [[], []]


def test_a_worker_that_dies_while_its_successor_starts_is_replaced_by_it_in_the_end() -> None:
    stage = Stage()
    (first,) = stage.start()
    stage.supervisor.replace()
    first.end()
    assert stage.alive == [102], "the next one waits for its delay after a crash"
    stage.children[1].say_ready()
    stage.clock.advance(60)
    assert stage.alive == [102]


def test_a_place_without_a_worker_gets_one_at_once() -> None:
    stage = Stage()
    (first,) = stage.start()
    first.end()
    assert stage.alive == []
    stage.supervisor.replace()
    assert stage.alive == [102]


def test_an_end_in_the_middle_of_it_ends_all() -> None:
    stage = Stage()
    stage.start()
    stage.supervisor.replace()
    stopped = stage.supervisor.stop()
    assert [child.signals for child in stage.children] == [["TERM"], ["TERM"]]
    for child in stage.children:
        child.end()
    assert stopped.called
    assert stage.alive == []


def test_one_that_is_being_replaced_is_not_replaced_again() -> None:
    stage = Stage(max_requests=10)
    [worker] = stage.start()
    stage.supervisor.replace()
    Counters(worker.ledger.cells).add("streams_opened", 10, "http")
    stage.clock.advance(1.0)
    stage.children[1].say_ready()
    assert stage.alive == [101, 102]


def test_a_new_worker_that_does_not_start_is_no_affair_of_the_other_pools() -> None:
    settings = WorkerSettings(application="a:b", processes=2, max_streams=8)
    stage = Stage(pools=[PoolWorkers(settings=settings, pool=pool) for pool in ("one", "other")])
    stage.start()
    stage.supervisor.replace()
    stage.children[4].end()
    assert stage.alive == [101, 102, 103, 104, 106], "the next one is for the other pool"
    assert stage.children[5].launch.pool == "other"
    stage.children[5].say_ready()
    stage.children[6].say_ready()
    assert [child.signals for child in stage.children[:4]] == [[], [], ["TERM"], ["TERM"]]


# The end.

PATIENCE_S = 12.0


class FakeChild:
    pid = 101


class FakeWorker:
    child = FakeChild()


class EndStage:
    """The end of a supervisor with one worker, and messages that wait for a node."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.workers: set[Any] = {FakeWorker()}
        self.unsent = 0
        self.stops = 0
        self.stopping = Stopping(self.workers, self.clock, lambda: self.unsent, self._stopped)

    def _stopped(self) -> None:
        self.stops += 1

    def begin(self) -> list[None]:
        """Begin to end; the list gets an item when that is done."""
        self.stopping.begin(PATIENCE_S)
        self.stopping.look()
        over: list[None] = []
        self.stopping.wait().addCallback(over.append)
        return over

    def end(self) -> None:
        """The worker ends."""
        self.workers.clear()
        self.stopping.look()


def test_it_is_over_when_the_workers_are_gone_and_whoever_asks_later_hears_it_at_once() -> None:
    stage = EndStage()
    assert not stage.stopping.begun
    over = stage.begin()
    assert stage.stopping.begun
    assert over == []
    stage.end()
    assert over == [None]
    assert stage.stopping.wait().called
    assert stage.stops == 1
    assert stage.clock.getDelayedCalls() == []


def test_workers_that_end_before_it_has_begun_begin_nothing() -> None:
    stage = EndStage()
    stage.end()
    assert not stage.stopping.begun
    assert stage.begin() == [None]


def test_what_there_is_to_tell_is_waited_for() -> None:
    stage = EndStage()
    stage.unsent = 1
    over = stage.begin()
    stage.end()
    stage.clock.pump([0.01] * 100)
    assert (over, stage.stops) == ([], 0)
    stage.unsent = 0
    stage.clock.advance(0.01)
    assert (over, stage.stops) == ([None], 1)


def test_a_node_that_takes_nothing_is_not_waited_for_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    stage = EndStage()
    stage.unsent = 3
    over = stage.begin()
    stage.end()
    stage.clock.pump([0.1] * 21)
    assert over == [None]
    assert "3 messages are lost" in caplog.text


@pytest.mark.parametrize(("hurried", "seconds"), [(False, PATIENCE_S + 5.0), (True, 5.0)])
def test_a_worker_that_cannot_be_ended_is_not_waited_for_for_ever(
    hurried: bool, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    stage = EndStage()
    over = stage.begin()
    if hurried:
        stage.stopping.hurry()
    stage.clock.advance(seconds - 0.1)
    assert over == []
    stage.clock.advance(0.1)
    assert over == [None]
    assert "were killed and have not ended: 101" in caplog.text


def test_there_is_nothing_to_hurry_before_the_beginning_and_after_the_end() -> None:
    stage = EndStage()
    stage.stopping.hurry()
    assert stage.clock.getDelayedCalls() == []
    stage.begin()
    stage.end()
    stage.stopping.hurry()
    assert stage.clock.getDelayedCalls() == []
