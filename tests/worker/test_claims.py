"""Claims that wait for an answer, and heads whose bodies do not follow, with a clock that the test turns."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from ifserver.worker.claims import CLAIM_GRACE_S as GRACE_S
from ifserver.worker.claims import HEAD_GRACE_S, Claims
from ifserver.worker.stream import ANSWERING, DONE, HELD, SILENT, Phase
from tests.worker.stage import http_request


class Unclaimed:
    """A stream, as far as `Claims` knows one."""

    def __init__(self) -> None:
        self.phase: Phase = SILENT
        self.request = http_request()
        self.claims = 0

    @property
    def link(self) -> Unclaimed:
        return self

    def claim(self) -> None:
        self.claims += 1


class Stage:
    def __init__(self) -> None:
        self.clock = Clock()
        self.told: list[tuple[list[str], int]] = []
        self.claims = Claims(self.clock, lambda servers, count: self.told.append((servers, count)))

    def add(self, server: str = "!east.0123456789") -> Any:
        stream: Any = Unclaimed()
        self.claims.look([stream], [server])
        return stream


def test_a_claim_leaves_between_one_and_two_graces_later() -> None:
    stage = Stage()
    first = stage.add("a")
    stage.clock.advance(GRACE_S * 0.99)
    second = stage.add("b")
    stage.clock.advance(GRACE_S)
    assert (first.claims, second.claims, stage.told) == (0, 0, [])
    stage.clock.advance(GRACE_S)
    assert (first.claims, second.claims, stage.told) == (1, 1, [(["a", "b"], 2)])
    assert stage.clock.getDelayedCalls() == []


def test_it_is_there_long_before_a_server_asks_or_a_supervisor_claims() -> None:
    assert 2 * GRACE_S <= 0.1


def test_what_is_answered_meanwhile_is_not_claimed_but_its_server_knows_as_well() -> None:
    stage = Stage()
    answered, begun, silent = stage.add("a"), stage.add("b"), stage.add("c")
    answered.phase = DONE
    begun.phase = ANSWERING
    stage.clock.advance(GRACE_S)
    assert stage.told == [(["a"], 0)]
    stage.clock.advance(GRACE_S)
    # The server of the second has to know who watches.
    assert (answered.claims, begun.claims, silent.claims) == (0, 1, 1)
    assert stage.told == [(["a"], 0), (["b", "c"], 2)]


def test_where_all_were_answered_one_look_is_enough() -> None:
    stage = Stage()
    stage.add("a").phase = DONE
    stage.add("b").phase = DONE
    stage.clock.advance(GRACE_S)
    assert stage.told == [(["a", "b"], 0)]
    assert stage.clock.getDelayedCalls() == []


def test_at_the_end_nothing_is_left() -> None:
    stage = Stage()
    first = stage.add("a")
    stage.clock.advance(GRACE_S)
    second = stage.add("b")
    stage.claims.stop()
    assert (first.claims, second.claims, stage.told) == (1, 1, [(["a", "b"], 2)])
    assert stage.clock.getDelayedCalls() == []
    stage.claims.stop()
    assert len(stage.told) == 1


class Held:
    """A stream, as far as `Claims` knows one."""

    def __init__(self) -> None:
        self.phase: Phase = HELD
        self.heads = 0

    def send_head(self) -> None:
        self.heads += 1
        self.phase = ANSWERING


class HeadStage:
    def __init__(self) -> None:
        self.clock = Clock()
        self.claims = Claims(self.clock, lambda servers, count: None)

    def add(self) -> Any:
        stream: Any = Held()
        self.claims.hold_head(stream)
        return stream


def test_a_head_leaves_between_one_and_two_graces_later() -> None:
    stage = HeadStage()
    first = stage.add()
    stage.clock.advance(HEAD_GRACE_S * 0.99)
    second = stage.add()
    stage.clock.advance(HEAD_GRACE_S)
    assert (first.heads, second.heads) == (0, 0), "the second has been there for no longer than one"
    stage.clock.advance(HEAD_GRACE_S)
    assert (first.heads, second.heads) == (1, 1)
    stage.clock.advance(10 * HEAD_GRACE_S)
    assert (first.heads, second.heads) == (1, 1)


def test_an_event_source_is_seen_soon() -> None:
    assert 2 * HEAD_GRACE_S < 0.05


def test_a_response_whose_body_has_come_meanwhile_is_left_alone() -> None:
    stage = HeadStage()
    stream = stage.add()
    stage.clock.advance(HEAD_GRACE_S)
    stream.phase = ANSWERING
    stage.clock.advance(HEAD_GRACE_S)
    assert stream.heads == 0


def test_where_all_bodies_have_come_one_look_is_enough() -> None:
    stage = HeadStage()
    stage.add().phase = ANSWERING
    stage.clock.advance(HEAD_GRACE_S)
    assert stage.clock.getDelayedCalls() == []


def test_one_timer_is_enough_and_none_runs_while_there_is_nothing_to_do() -> None:
    stage = HeadStage()
    assert stage.clock.getDelayedCalls() == []
    for _ in range(5):
        stage.add()
        assert len(stage.clock.getDelayedCalls()) == 1
    stage.clock.pump([HEAD_GRACE_S, HEAD_GRACE_S])
    assert stage.clock.getDelayedCalls() == []
    stream = stage.add()
    stage.clock.pump([HEAD_GRACE_S, HEAD_GRACE_S])
    assert stream.heads == 1, "it begins anew"


def test_after_the_end_nothing_is_sent() -> None:
    stage = HeadStage()
    stream = stage.add()
    stage.clock.advance(HEAD_GRACE_S)
    stage.claims.stop()
    assert stage.clock.getDelayedCalls() == []
    stage.clock.advance(HEAD_GRACE_S)
    assert stream.heads == 0
