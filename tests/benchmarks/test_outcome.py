"""Results of loads."""

from __future__ import annotations

import pytest

from benchmarks.outcome import Result, result_of


def test_latencies_are_ordered_and_told_in_milliseconds() -> None:
    latencies_s = [i / 1000 for i in range(100, 0, -1)]
    assert result_of(latencies_s, 2.0, 3) == Result(100, 2.0, 51.0, 100.0, 3)
    assert result_of([0.5], 1.0) == Result(1, 1.0, 500.0, 500.0, 0)


def test_nothing_is_no_result() -> None:
    with pytest.raises(ValueError, match="nothing was done"):
        result_of([], 1.0)
