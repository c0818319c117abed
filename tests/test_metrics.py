"""Counters."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

import ifserver
from ifserver.metrics import COUNTERS, Counters


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


def test_whatever_is_counted_is_in_the_block_with_its_label() -> None:
    found = calls()
    assert found
    wrong = [call for call in found if call[1] not in COUNTERS or bool(COUNTERS[call[1]][1]) is not call[2]]
    assert wrong == []


@pytest.mark.parametrize("name", sorted(COUNTERS))
def test_every_counter_has_a_help_and_is_counted_somewhere(name: str) -> None:
    assert COUNTERS[name][0].endswith(".")
    assert name in {counted for _, counted, _ in calls()}
