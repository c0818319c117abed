"""Events and effects: each is used by a table, and each effect is carried out."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import pytest

from ifserver import messages as m
from ifserver.front.exchanges import carry_out
from ifserver.state_machines import effects as e
from ifserver.state_machines.http import HttpStream
from ifserver.state_machines.websocket import WebSocketStream

EFFECTS = set(typing.get_args(e.Effect)) - {m.Message}
CLASSES = {each for name in e.__all__ if inspect.isclass(each := getattr(e, name))}
EVENTS = CLASSES - EFFECTS - {e.Waiting}


def test_every_event_has_a_row_in_some_state() -> None:
    rows = [*HttpStream.table.values(), *WebSocketStream.table.values()]
    assert {kind for row in rows for kind in row if not issubclass(kind, m.Message)} == EVENTS


def test_every_effect_is_carried_out() -> None:
    assert set(carry_out.EFFECTS) >= EFFECTS


def test_there_is_one_wait_for_everything_that_is_waited_for() -> None:
    constants = {each for name in e.__all__ if isinstance(each := getattr(e, name), e.Wait)}
    assert {each.waiting for each in constants} == set(e.Waiting)
    assert len(constants) == len(e.Waiting)


@pytest.mark.parametrize("value", [e.ClientLeft(), e.Flushed(1), e.WAIT_WORKER, e.Dropped("gone")], ids=str)
def test_none_can_be_changed(value: Any) -> None:
    with pytest.raises(AttributeError):
        setattr(value, value.__struct_fields__[0], 2)
