"""Simulates how requests are placed on nodes, beside random and round-robin placement. In a checkout ::

    .venv/bin/python -m benchmarks.placement [--quick] [--seed N] [--processes N]

prints a table and writes ``docs/explanation/research/placement.rst`` and ``.svg``; ``--quick`` prints a short one and
writes nothing. Time is simulated: a seed always gives the same figures.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from benchmarks import placement_page as page
from benchmarks.placers import Placing
from benchmarks.simulation import Figures, Plan, Workload, simulate
from benchmarks.svg import render

__all__ = ["main", "plans"]

#: Simulated seconds of each run.
FULL_S: Final = 60.0
QUICK_S: Final = 20.0
#: Runs by the number of nodes. Few nodes have few requests; and what happens to eight at more than full load depends so
#: much on chance that one run may show a tenth of what is usual, or nothing.
RUNS: Final = {1: 8, 2: 4, 8: 4, 32: 1}


def plans(quick: bool, seed: int) -> Iterator[Plan]:
    """Everything that is compared, in the order of the tables."""
    for apart in (True, False):
        for workload in (Workload.EXPONENTIAL,) if quick else Workload:
            for failing in (False, True):
                for nodes in (2, 8) if quick else (1, 2, 8, 32):
                    for load in (0.5, 0.9, 1.1) if quick else (0.5, 0.7, 0.9, 1.0, 1.1):
                        for placing in Placing:
                            if placing is Placing.SUSPICION and not failing:
                                continue  # it makes no difference
                            yield Plan(
                                placing=placing,
                                nodes=nodes,
                                load=load,
                                workload=workload,
                                apart=apart,
                                failing=failing,
                                seed=seed,
                                seconds=QUICK_S if quick else FULL_S,
                                runs=RUNS[nodes],
                            )


def carry_out(every: Sequence[Plan], processes: int) -> dict[Plan, Figures]:
    """The figures of every plan."""
    if processes == 1:
        return {plan: simulate(plan) for plan in every}
    # Spawned, since forking a process that has threads is not safe.
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        return dict(zip(every, pool.map(simulate, every, chunksize=4), strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of everything, and write nothing")
    parser.add_argument("--seed", type=int, default=1, help="of all chance (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="to work in (default: %(default)s)")
    parser.add_argument(
        "--docs", type=Path, default=Path("docs/explanation/research"), help="where to write (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    results = carry_out(list(plans(given.quick, given.seed)), given.processes)
    for setting, table in page.tables(results):
        print(f"{setting}\n\n{table}\n")
    if not given.quick:
        given.docs.mkdir(parents=True, exist_ok=True)
        (given.docs / "placement.rst").write_text(page.page(results), encoding="utf-8")
        (given.docs / "placement.svg").write_text(render(page.charts(results)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
