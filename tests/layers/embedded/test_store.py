"""What a node in memory keeps, and for how long."""

from __future__ import annotations

import pytest

from ifserver.layers.node import Limits, Pulled, Pushed
from tests.layers.embedded.test_node import make, result_of
from tests.layers.helpers import INBOX


def test_time_to_live_belongs_to_the_list_and_is_renewed_after_a_third() -> None:
    node, clock = make(Limits(10, 90.0))
    node.push("r", [b"a"])
    clock.advance(29)
    node.push("r", [b"b"])
    clock.advance(60.5)
    assert result_of(node.holds("r", b"a")) is True
    clock.advance(0.5)
    assert result_of(node.holds("r", b"b")) is False
    node.push("r", [b"c"])
    clock.advance(31)
    node.push("r", [b"d"])
    clock.advance(89)
    assert result_of(node.pull(("r",), 5, 0)) == Pulled("r", [b"c", b"d"])
    assert node.statistics()["expired"] == 2


def test_an_abandoned_channel_is_forgotten_by_itself() -> None:
    node, clock = make(Limits(10, 5.0), Limits(10, 60.0))
    node.push("r", [b"a"])
    node.push(INBOX, [b"a", b"b"])
    assert node.statistics()["channels"] == 2
    clock.pump([1.0] * 10)
    assert node.statistics()["channels"] == 1
    clock.pump([1.0] * 60)
    assert node.statistics()["channels"] == 0
    assert node.statistics()["expired"] == 3
    assert clock.getDelayedCalls() == []


def test_empty_channels_leave_nothing_behind() -> None:
    node, clock = make()
    for i in range(50):
        name = f"r-{i}"
        pulling = node.pull((name, "s"), 1, 1.0)
        node.push(name, [b"x"])
        assert result_of(pulling) == Pulled(name, [b"x"])
        node.push(name, [])
        node.push(name, [b"x"])
        node.withdraw(name, b"x")
        node.pull((name,), 1, 1.0)
    clock.advance(1.0)
    assert node.statistics()["channels"] == node.statistics()["pulls"] == 0


@pytest.mark.parametrize("name", ["r", INBOX])
def test_capacity_counts_what_has_not_expired(name: str) -> None:
    node, clock = make(Limits(2, 5.0), Limits(2, 5.0))
    assert result_of(node.push(name, [b"a", b"b", b"c"])) == Pushed(2, 2)
    clock.advance(5.0)
    assert result_of(node.push(name, [b"d"])) == Pushed(1, 1)


def test_a_beat_that_is_over_is_forgotten_by_itself() -> None:
    node, clock = make(Limits(10, 5.0), Limits(10, 60.0))
    node.beat("1111111111", b"a", 3.0)
    node.beat("2222222222", b"b", 8.0)
    clock.advance(3.0)
    assert result_of(node.beats(["1111111111", "2222222222"])) == [None, b"b"]
    assert result_of(node.census()) == {"2222222222": b"b"}
    clock.pump([1.0] * 7)
    assert result_of(node.census()) == {}
    assert clock.getDelayedCalls() == []
