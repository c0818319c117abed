"""Who places requests: that the product's policy is told what it would be, and the others go their way."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from benchmarks.placers import ROUND_TRIP_S, Placer, Placing, make_placer

NAMES = ("node-1", "node-2", "node-3", "node-4")


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """The policy draws from the module `random` itself."""
    before = random.getstate()
    random.seed(1)
    yield
    random.setstate(before)


def make(placing: Placing, server: int = 0, apart: bool = True) -> Placer:
    return make_placer(placing, NAMES, apart, server, servers=2, seed="1")


def test_servers_go_round_from_different_places() -> None:
    for server, expected in ((0, ["node-1", "node-2"]), (1, ["node-3", "node-4"])):
        placer = make(Placing.ROUND_ROBIN, server)
        assert [placer.choose(0.0) for _ in range(6)] == [
            *expected,
            *(n for n in NAMES if n not in expected),
            *expected,
        ]


def test_random_placement_reaches_all() -> None:
    placer = make(Placing.RANDOM)
    assert {placer.choose(0.0) for _ in range(100)} == set(NAMES)


@pytest.mark.parametrize("apart", [True, False])
def test_a_length_counts_once_its_answer_is_here(apart: bool) -> None:
    placer = make(Placing.OURS, apart=apart)
    for name in NAMES[1:]:
        placer.told(name, 5, 0.0)
    assert len({placer.choose(ROUND_TRIP_S / 2) for _ in range(100)}) == 4
    for name in NAMES[2:]:
        placer.told(name, 9, ROUND_TRIP_S)
    assert {placer.choose(3 * ROUND_TRIP_S) for _ in range(300)} >= {"node-1", "node-2"}
    placer.told("node-4", 10, 3 * ROUND_TRIP_S)
    # The longest loses against every other.
    assert "node-4" not in {placer.choose(5 * ROUND_TRIP_S) for _ in range(300)}


@pytest.mark.parametrize("apart", [True, False])
def test_a_node_that_is_behind_is_left_out_until_a_probe_is_claimed(apart: bool) -> None:
    placer = make(Placing.OURS, apart=apart)
    assert placer.behind("node-2", 0.0)
    assert "node-2" not in {placer.choose(0.0) for _ in range(100)}
    assert [placer.choose(0.5) for _ in range(100)].count("node-2") == 1
    placer.claimed("node-2")
    assert "node-2" in {placer.choose(0.5) for _ in range(100)}


@pytest.mark.parametrize("placing", [Placing.RANDOM, Placing.ROUND_ROBIN])
def test_the_others_know_of_nothing_better(placing: Placing) -> None:
    placer = make(placing)
    assert not placer.watches
    placer.told("node-1", 100, 0.0)
    placer.claimed("node-1")
    assert not placer.behind("node-1", 0.0)
