"""Counters."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

import ifserver
from ifserver import metrics
from ifserver.metrics import (
    BOUNDS_S,
    CELLS,
    COUNTERS,
    FLYING,
    GAUGES,
    LAG_BOUNDS_S,
    LOOP_LAG,
    Counters,
    Histogram,
    balance,
    quantile,
    total,
)


def test_a_counter_begins_at_nothing_and_adds_up() -> None:
    counters = Counters()
    assert counters.value("retries") == 0
    counters.add("retries")
    counters.add("retries", 2)
    assert counters.value("retries") == 3


def test_each_label_is_counted_on_its_own() -> None:
    counters = Counters()
    counters.add("messages_dropped", label="gap")
    counters.add("messages_dropped", 4, label="gone")
    assert counters.value("messages_dropped", "gap") == 1
    assert counters.value("messages_dropped", "gone") == 4
    assert counters.value("messages_dropped") == 0


def test_a_name_that_is_not_in_the_block_is_an_error_and_counts_nothing() -> None:
    counters = Counters()
    with pytest.raises(KeyError):
        counters.add("typo")
    with pytest.raises(KeyError):
        counters.value("typo")
    assert counters.statistics() == {}


def test_statistics_names_what_was_counted_and_asking_counts_nothing() -> None:
    counters = Counters()
    counters.add("retries", 2)
    counters.add("requests_refused", label="503")
    counters.add("requests_refused", label="404")
    counters.value("claims")
    assert counters.statistics() == {"requests_refused{404}": 1, "requests_refused{503}": 1, "retries": 2}


def test_two_counters_share_nothing() -> None:
    one, other = Counters(), Counters()
    one.add("claims")
    assert other.value("claims") == 0


def test_counts_are_written_where_somebody_else_can_read_them() -> None:
    cells = memoryview(bytearray(8 * len(CELLS))).cast("q")
    counters = Counters(cells)
    counters.add("retries", 3)
    counters.add("requests_refused", label="503")
    counters.late(0.003)
    counters.set("streams_held", 7)
    seen = Counters(cells)
    assert seen.statistics() == {"retries": 3, f"{LOOP_LAG}{{0.005}}": 1, f"{LOOP_LAG}{{sum_us}}": 3000}
    assert seen.gauges() == {"messages_flying": 0, "streams_held": 7, "streams_unanswered": 0, "slots_free": 0}


def test_a_count_that_others_have_blown_up_raises_nothing() -> None:
    """What a receipt says is missing is counted."""
    counters = Counters(memoryview(bytearray(len(CELLS) * 8)).cast("q"))
    for _ in range(4):
        counters.add("messages_dropped", 2**62, "broker")
    assert counters.value("messages_dropped", "broker") == 2**63 - 1


def test_what_is_held_at_present_is_no_count() -> None:
    counters = Counters()
    counters.set("slots_free", 5)
    counters.set("slots_free", 4)
    assert counters.gauges()["slots_free"] == 4
    assert counters.statistics() == {}
    with pytest.raises(KeyError):
        counters.set("retries", 1)
    assert not set(GAUGES) & set(COUNTERS)


def test_lags_fall_into_buckets() -> None:
    counters = Counters()
    for seconds in (0.0, LAG_BOUNDS_S[0], 0.0006, 1e9, -5.0):
        counters.late(seconds)
    found = counters.statistics()
    assert found[f"{LOOP_LAG}{{{LAG_BOUNDS_S[0]}}}"] == 3
    assert found[f"{LOOP_LAG}{{{LAG_BOUNDS_S[1]}}}"] == found[f"{LOOP_LAG}{{inf}}"] == 1
    assert found[f"{LOOP_LAG}{{sum_us}}"] == 500 + 600 + 10**15


def test_a_histogram_counts_and_sums_up() -> None:
    histogram = Histogram(BOUNDS_S)
    for seconds in (0.0, 0.001, 0.0011, 120.0, 121.0):
        histogram.observe(seconds)
    assert len(histogram.counts) == len(BOUNDS_S) + 1
    assert (histogram.counts[0], histogram.counts[1], histogram.counts[-2], histogram.counts[-1]) == (2, 1, 1, 1)
    assert histogram.sum_s == pytest.approx(241.0021)


@pytest.mark.parametrize("bounds", [BOUNDS_S, LAG_BOUNDS_S])
def test_bounds_ascend(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))


def test_the_books_balance() -> None:
    server, worker = Counters(), Counters()
    server.add("messages_sent", 5)
    worker.add("messages_delivered", 3)
    worker.add("messages_dropped", label="gone")
    summed = total([server.statistics(), worker.statistics()])
    assert balance(summed) == 1
    assert balance(total([summed, {"messages_dropped{withdrawn}": 1}])) == 0


@functools.cache
def calls() -> list[tuple[str, str, bool]]:
    """Every ``counters.add("name", ...)`` in ifserver: where it is, the name, and whether it has a label."""
    found = []
    for path in Path(ifserver.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("counters.add"):
                name = node.args[0]
                assert isinstance(name, ast.Constant), f"{path}:{node.lineno}: the name of a counter is written out"
                labelled = len(node.args) > 2 or any(word.arg == "label" for word in node.keywords)
                found.append((f"{path.name}:{node.lineno}", str(name.value), labelled))
    return found


@functools.cache
def cells() -> set[str]:
    """The names of all that is counted as ``cells[CONSTANT] += n`` in ifserver."""
    names = {index: name for (name, _), index in CELLS.items()}
    found = set()
    for path in set(Path(ifserver.__file__).parent.rglob("*.py")) - {Path(metrics.__file__)}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.AugAssign) and ast.unparse(node.target).partition("[")[0].endswith("cells"):
                constants = [
                    part.id for part in ast.walk(node.target) if isinstance(part, ast.Name) and part.id.isupper()
                ]
                for known in (getattr(metrics, constant) for constant in constants):
                    found |= {names[cell] for cell in (known.values() if isinstance(known, dict) else (known,))}
    return found


def test_whatever_is_counted_is_in_the_block_with_its_label() -> None:
    found = calls()
    assert found
    wrong = [call for call in found if call[1] not in COUNTERS or bool(COUNTERS[call[1]][1]) is not call[2]]
    assert wrong == []


@pytest.mark.parametrize("name", sorted(COUNTERS))
def test_every_counter_has_a_help_and_is_counted_somewhere(name: str) -> None:
    assert COUNTERS[name][0].endswith(".")
    assert name in cells() | {counted for _, counted, _ in calls()}


def test_what_a_process_had_pushed_when_it_ended_is_in_doubt() -> None:
    counters = Counters()
    counters.add("messages_sent", 5)
    counters.add("messages_in_doubt")
    counters.cells[FLYING] += 4
    counters.cells[FLYING] -= 1
    assert counters.statistics() == {"messages_in_doubt": 1, "messages_sent": 5}
    assert counters.legacy() == {"messages_in_doubt": 4, "messages_sent": 5}


def test_quantiles_of_what_is_in_buckets() -> None:
    bounds = (1.0, 2.0, 4.0)
    assert quantile([0, 0, 0, 0], 0.5, bounds) is None
    assert quantile([10, 0, 0, 0], 0.5, bounds) == 0.5
    assert quantile([0, 0, 10, 0], 0.5, bounds) == 3.0
    assert quantile([5, 5, 0, 0], 0.5, bounds) == 1.0
    assert quantile([5, 5, 0, 0], 0.95, bounds) == pytest.approx(1.9)
    # Beyond the last limit nothing more is known.
    assert quantile([1, 0, 0, 9], 0.5, bounds) == 4.0
    assert quantile([0, 0, 1, 0], 1.0, bounds) == 4.0
