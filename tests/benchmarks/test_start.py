"""What a start costs, as it is told."""

from __future__ import annotations

from benchmarks.start import Cost, table


def test_medians_are_told_and_compared_with_the_first() -> None:
    costs = {
        "uvicorn": [Cost(0.2, 0.1, 0.1, 30.0, 20.0), Cost(9.0, 9.0, 9.0, 9.0, 9.0), Cost(0.2, 0.1, 0.1, 30.0, 20.0)],
        "ifserver": [Cost(0.4, 0.25, 0.1, 128.0, 53.0)],
    }
    assert table(costs).splitlines()[2:] == [
        "| uvicorn | 0.20 (1.0x) | 0.10 (1.0x) | 0.10 (1.0x) | 30 / 20 |",
        "| ifserver | 0.40 (2.0x) | 0.25 (2.5x) | 0.10 (1.0x) | 128 / 53 |",
    ]
