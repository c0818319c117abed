"""How late a loop is, with a clock that the test moves."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from ifserver.clock import LOOK_S, LoopLag


def test_it_tells_how_late_it_was_called() -> None:
    clock, late, looked = Clock(), [], []
    lag = LoopLag(clock, late.append, lambda: looked.append(clock.seconds()))
    lag.start()
    assert (late, looked) == ([], [0.0])
    clock.advance(LOOK_S)
    # The loop stood still for three seconds.
    clock.rightNow += 3.0 - LOOK_S
    clock.advance(LOOK_S)
    assert late == [0.0, pytest.approx(3.0 - LOOK_S)]
    assert len(looked) == 3
    lag.stop()
    assert clock.getDelayedCalls() == []
    lag.stop()


def test_a_bug_in_what_else_is_noted_does_not_end_it() -> None:
    clock, late = Clock(), []
    calls = [0]

    def broken() -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise RuntimeError("a bug")

    lag = LoopLag(clock, late.append, broken)
    lag.start()
    with pytest.raises(RuntimeError, match="a bug"):
        clock.advance(LOOK_S)
    clock.advance(LOOK_S)
    assert len(late) == 2
    lag.stop()


def test_one_that_was_never_started_can_be_stopped() -> None:
    LoopLag(Clock(), print).stop()
