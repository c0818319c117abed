"""The heads of responses whose bodies do not follow, with a clock that the test turns."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from ifserver.worker.held_response_heads import GRACE_S, HeldResponseHeads
from ifserver.worker.stream_phases import ANSWERING, HELD, Phase


class Held:
    """A stream, as far as `HeldResponseHeads` knows one."""

    def __init__(self) -> None:
        self.phase: Phase = HELD
        self.heads = 0

    def send_head(self) -> None:
        self.heads += 1
        self.phase = ANSWERING


class Stage:
    def __init__(self) -> None:
        self.clock = Clock()
        self.heads = HeldResponseHeads(self.clock)

    def add(self) -> Any:
        stream: Any = Held()
        self.heads.add(stream)
        return stream


def test_a_head_leaves_between_one_and_two_graces_later() -> None:
    stage = Stage()
    first = stage.add()
    stage.clock.advance(GRACE_S * 0.99)
    second = stage.add()
    stage.clock.advance(GRACE_S)
    assert (first.heads, second.heads) == (0, 0), "the second has been there for no longer than one"
    stage.clock.advance(GRACE_S)
    assert (first.heads, second.heads) == (1, 1)
    stage.clock.advance(10 * GRACE_S)
    assert (first.heads, second.heads) == (1, 1)


def test_an_event_source_is_seen_soon() -> None:
    assert 2 * GRACE_S < 0.05


def test_a_response_whose_body_has_come_meanwhile_is_left_alone() -> None:
    stage = Stage()
    stream = stage.add()
    stage.clock.advance(GRACE_S)
    stream.phase = ANSWERING
    stage.clock.advance(GRACE_S)
    assert stream.heads == 0


def test_where_all_bodies_have_come_one_look_is_enough() -> None:
    stage = Stage()
    stage.add().phase = ANSWERING
    stage.clock.advance(GRACE_S)
    assert stage.clock.getDelayedCalls() == []


def test_one_timer_is_enough_and_none_runs_while_there_is_nothing_to_do() -> None:
    stage = Stage()
    assert stage.clock.getDelayedCalls() == []
    for _ in range(5):
        stage.add()
        assert len(stage.clock.getDelayedCalls()) == 1
    stage.clock.pump([GRACE_S, GRACE_S])
    assert stage.clock.getDelayedCalls() == []
    stream = stage.add()
    stage.clock.pump([GRACE_S, GRACE_S])
    assert stream.heads == 1, "it begins anew"


def test_after_the_end_nothing_is_sent() -> None:
    stage = Stage()
    stream = stage.add()
    stage.clock.advance(GRACE_S)
    stage.heads.stop()
    assert stage.clock.getDelayedCalls() == []
    stage.clock.advance(GRACE_S)
    assert stream.heads == 0
