"""What the simulation says of the product's policy, in small; and the command."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from benchmarks import placement
from benchmarks.placers import Placing
from benchmarks.simulation import Figures, Plan, Workload, simulate


def of(placing: Placing, load: float, failing: bool = False) -> Figures:
    return simulate(Plan(placing=placing, nodes=8, load=load, failing=failing, seconds=20))


def test_the_shorter_of_two_queues_beats_a_random_one() -> None:
    ours, random = of(Placing.OURS, 0.9), of(Placing.RANDOM, 0.9)
    assert ours.arrived == random.arrived
    assert ours.mean_s < random.mean_s
    assert ours.p99_s < random.p99_s / 2
    assert ours.longest_queue < random.longest_queue


def test_what_stands_on_a_node_that_nobody_reads_is_spilled() -> None:
    ours, blind = of(Placing.OURS, 0.7, failing=True), of(Placing.ROUND_ROBIN, 0.7, failing=True)
    assert ours.spilled > 0
    assert ours.max_s < 1
    assert blind.spilled == 0
    # The failure lasts for 5 s, and requests that came first wait for all of that.
    assert blind.max_s > 4.5
    # From 10 s to 15 s the node gets nothing, once that is known. Then it is back.
    assert max(ours.shares[11:15]) == 0
    assert max(ours.shares[15:]) > 1 / 8 / 2


def test_without_beats_it_is_noticed_later_and_by_probes() -> None:
    ours, without = of(Placing.OURS, 0.7, failing=True), of(Placing.SUSPICION, 0.7, failing=True)
    assert 1 < without.max_s < 3
    assert without.spilled > ours.spilled
    assert 0 < max(without.shares[11:15]) < 1 / 8 / 2


def test_every_plan_is_of_its_own() -> None:
    every = list(placement.plans(quick=False, seed=1))
    assert len(every) == len(set(every)) == 560
    assert {plan.nodes for plan in every} == {1, 2, 8, 32}
    assert {plan.workload for plan in every} == set(Workload)
    assert len(list(placement.plans(quick=True, seed=1))) == 84


def small(every: Iterable[Plan]) -> list[Plan]:
    return [plan for plan in every if plan.nodes == 2 and plan.load == 0.5 and not plan.failing]


def test_the_command_prints_tables_and_a_quick_one_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    every = small(placement.plans(quick=True, seed=1))
    monkeypatch.setattr(placement, "plans", lambda quick, seed: every)
    assert placement.main(["--quick", "--processes", "1", "--docs", str(tmp_path)]) == 0
    assert "One cluster for each node, exponential times\n\n=====" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
