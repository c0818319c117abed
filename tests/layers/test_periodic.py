"""When it looks, and that a process that was asleep reads first."""

from __future__ import annotations

from twisted.internet.task import Clock

from ifserver.layers.periodic import CATCH_UP_S, Periodic

EVERY_S = 0.25


class Stage:
    """Notes when it looks."""

    def __init__(self, go_on: bool = True) -> None:
        self.clock = Clock()
        self.looks: list[float] = []
        self.go_on = go_on
        self.rounds = Periodic(self.clock, EVERY_S, self.look)
        self.rounds.start()

    def look(self) -> bool:
        self.looks.append(self.clock.seconds())
        return self.go_on


def test_it_looks_again_and_again() -> None:
    stage = Stage()
    for _ in range(4):
        stage.clock.advance(EVERY_S)
    assert stage.looks == [0.25, 0.5, 0.75, 1.0]
    stage.rounds.stop()
    assert stage.clock.getDelayedCalls() == []


def test_who_has_begun_does_not_begin_again() -> None:
    stage = Stage()
    stage.rounds.start()
    assert len(stage.clock.getDelayedCalls()) == 1


def test_it_ends_when_there_is_nothing_to_look_for_and_can_begin_anew() -> None:
    stage = Stage(go_on=False)
    stage.clock.advance(EVERY_S)
    assert stage.clock.getDelayedCalls() == []
    stage.rounds.start()
    stage.clock.advance(EVERY_S)
    assert stage.looks == [0.25, 0.5]


def test_who_comes_late_reads_first() -> None:
    stage = Stage()
    stage.clock.advance(5.0)
    assert stage.looks == []
    stage.clock.advance(CATCH_UP_S)
    assert stage.looks == [5.0 + CATCH_UP_S]
    # A little late is not late.
    stage.clock.advance(1.9 * EVERY_S)
    assert len(stage.looks) == 2


def test_who_is_always_late_looks_all_the_same() -> None:
    stage = Stage()
    for _ in range(6):
        stage.clock.advance(1.0)
    assert stage.looks == [2.0, 4.0, 6.0]


def test_it_can_be_stopped_while_it_reads() -> None:
    stage = Stage()
    stage.clock.advance(5.0)
    stage.rounds.stop()
    assert stage.clock.getDelayedCalls() == []


def test_a_look_that_fails_is_not_the_last() -> None:
    stage = Stage()

    def fail() -> bool:
        raise ZeroDivisionError

    rounds = Periodic(stage.clock, EVERY_S, fail)
    rounds.start()
    stage.rounds.stop()
    try:
        stage.clock.advance(EVERY_S)
    except ZeroDivisionError:
        pass
    assert len(stage.clock.getDelayedCalls()) == 1
