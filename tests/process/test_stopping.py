"""How a supervisor ends, with workers that are only looked at."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver.process.stopping import Stopping

PATIENCE_S = 12.0


class FakeChild:
    pid = 101


class FakeWorker:
    child = FakeChild()


class Stage:
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
    stage = Stage()
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
    stage = Stage()
    stage.end()
    assert not stage.stopping.begun
    assert stage.begin() == [None]


def test_what_there_is_to_tell_is_waited_for() -> None:
    stage = Stage()
    stage.unsent = 1
    over = stage.begin()
    stage.end()
    stage.clock.pump([0.01] * 100)
    assert (over, stage.stops) == ([], 0)
    stage.unsent = 0
    stage.clock.advance(0.01)
    assert (over, stage.stops) == ([None], 1)


def test_a_node_that_takes_nothing_is_not_waited_for_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
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
    stage = Stage()
    over = stage.begin()
    if hurried:
        stage.stopping.hurry()
    stage.clock.advance(seconds - 0.1)
    assert over == []
    stage.clock.advance(0.1)
    assert over == [None]
    assert "were killed and have not ended: 101" in caplog.text


def test_there_is_nothing_to_hurry_before_the_beginning_and_after_the_end() -> None:
    stage = Stage()
    stage.stopping.hurry()
    assert stage.clock.getDelayedCalls() == []
    stage.begin()
    stage.end()
    stage.stopping.hurry()
    assert stage.clock.getDelayedCalls() == []
