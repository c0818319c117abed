"""Claims that wait for an answer, with a clock that the test turns."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from ifserver.worker.claims import GRACE_S, Claims
from ifserver.worker.stream_phases import ANSWERING, DONE, SILENT, Phase


class Unclaimed:
    """A stream, as far as `Claims` knows one."""

    def __init__(self) -> None:
        self.phase: Phase = SILENT
        self.claims = 0

    def claim(self) -> None:
        self.claims += 1


class Stage:
    def __init__(self) -> None:
        self.clock = Clock()
        self.told: list[tuple[list[str], int]] = []
        self.claims = Claims(self.clock, lambda servers, count: self.told.append((servers, count)))

    def add(self, server: str = "!east.0123456789") -> Any:
        stream: Any = Unclaimed()
        self.claims.add(stream, server)
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
