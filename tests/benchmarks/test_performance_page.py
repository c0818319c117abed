"""The page on performance: whatever was measured, its tables and charts are whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins

from benchmarks import bars, performance_page
from benchmarks.growth import SERIES, Point, middle
from benchmarks.loads import LOADS
from benchmarks.outcome import Measurement, Result
from benchmarks.performance_page import Run
from benchmarks.svg import render

ABOUT = {"machine": "2 x a processor", "python": "3.11", "commit": "abcdef", "kernel": "6"}
COSTS = {
    "ifserver (redis)": {"front": 30.0, "worker": 20.0, "node": 10.0},
    "uvicorn-websockets": {"front": 30.0},
    "uvicorn": {"front": 20.0},
    "pushpin": {"front": 400.0, "backend": 20.0},
}


def measured() -> list[Measurement]:
    result = Result(1000, 2.0, 0.5, 1.5)
    publishes = {False: {}, True: {"publisher": 2.0}}
    return [
        Measurement(
            name,
            load.name,
            round_,
            result,
            {role: us * (1 + round_) for role, us in (cpu | publishes[load.groups]).items()},
            1.0,
        )
        for round_ in range(3)
        for load in LOADS.values()
        for name, cpu in COSTS.items()
    ]


def runs() -> dict[str, Run]:
    return {load: Run(ABOUT, [each for each in measured() if each.load == load]) for load in LOADS}


def grown() -> dict[str, list[Point]]:
    return {
        series.name: [Point(x, {"front": 40.0 + x, "worker": 20.0, "node": 5.0}, 1234.5, 2.25, 0) for x in series.xs]
        for series in SERIES
    }


def test_the_middle_of_several_rounds() -> None:
    points = [Point(4, {"front": us, "worker": 2 * us}, 1000 * us, us / 10, int(us)) for us in (3.0, 1.0, 2.0)]
    assert middle(points) == Point(4, {"front": 2.0, "worker": 4.0}, 2000.0, 0.2, 6)


def test_ratios_are_those_of_the_same_round() -> None:
    page = performance_page.page(runs(), grown(), "fedcba")
    row = next(line for line in page.splitlines() if line.startswith("ifserver (redis)"))
    assert row.split()[2:] == ["60.0", "40.0", "20.0", "120.0", "1.50", "3.00", "500", "0.50", "1.50"]
    other = next(line for line in page.splitlines() if line.startswith("uvicorn  "))
    assert other.split()[1:] == ["40.0", "-", "-", "40.0", "1.00", "1.00", "500", "0.50", "1.50"]
    variant = next(line for line in page.splitlines() if line.startswith("uvicorn-websockets  "))
    assert variant.split()[1:] == ["60.0", "-", "-", "60.0", "1.50", "1.50", "500", "0.50", "1.50"]
    proxy = next(line for line in page.splitlines() if line.startswith("pushpin  "))
    assert proxy.split()[1:] == ["800.0", "-", "-", "800.0", "20.00", "20.00", "500", "0.50", "1.50"]


def test_the_page_has_all_that_was_measured_and_no_blanks_left() -> None:
    page = performance_page.page(runs(), grown(), "fedcba")
    assert "{" not in page
    assert "fedcba" in page
    for load in LOADS.values():
        assert f"*{load.title}*" in page
    for series in SERIES:
        assert f"{series.title}\n~~~" in page
    assert page.count("1234") == sum(len(series.xs) for series in SERIES)
    assert max(map(len, page.splitlines())) <= 120


def test_who_sends_to_groups_has_a_column_and_a_part_of_the_bar() -> None:
    _, _, broadcast = performance_page.page(runs(), grown(), "fedcba").partition("*Broadcast of 100 bytes")
    row = next(line for line in broadcast.splitlines() if line.startswith("ifserver (redis)"))
    assert row.split()[2:7] == ["60.0", "40.0", "20.0", "4.0", "124.0"]
    made = performance_page.comparison_charts(measured())
    chart = next(chart for chart in made if chart.title.startswith("Broadcast"))
    assert chart.bars[0] == bars.Bar("ifserver (redis)", (60.0, 40.0, 20.0, 4.0))
    assert bars.render([chart]).count("<rect") >= 4


def test_there_is_a_chart_of_each_thing_that_grows() -> None:
    charts = performance_page.charts(grown())
    assert [chart.title for chart in charts] == [each.title for each in SERIES]
    assert render(charts).count("<polyline") == 3 * len(SERIES)


def test_there_is_a_chart_of_each_load() -> None:
    made = performance_page.comparison_charts(measured())
    for chart, load in zip(made, LOADS.values(), strict=True):
        assert chart.title.startswith(load.title)
    assert made[0].bars[0] == bars.Bar("ifserver (redis)", (60.0, 40.0, 20.0))
    # What is behind a proxy is not its own.
    assert made[0].bars[3] == bars.Bar("pushpin", (800.0, 0.0, 0.0))
    assert made[-1].bars[0] == bars.Bar("ifserver (redis)", (1.5,)), "beside slow ones, what counts is the time"
    assert bars.render(made)


def written(folder: Path, name: str, commit: str, *loads: str) -> None:
    figures: dict[str, Any] = {
        "about": ABOUT | {"commit": commit},
        "measured": to_builtins([each for each in measured() if each.load in loads]),
    }
    (folder / name).write_text(json.dumps(figures))


def test_each_load_is_shown_as_its_newest_run_has_it(tmp_path: Path) -> None:
    written(tmp_path, "2026-01-02-fff.json", "fff", *LOADS)
    written(tmp_path, "2026-01-03-aaa.json", "aaa", "room", "hall")
    written(tmp_path, "2026-01-01-ccc.json", "ccc", *LOADS)
    (tmp_path / "django.json").write_text("{}")
    newest = performance_page.newest_runs(tmp_path)
    assert list(newest) == list(LOADS)
    commits = {load: run.about["commit"] for load, run in newest.items()}
    assert commits == dict.fromkeys(LOADS, "fff") | {"room": "aaa", "hall": "aaa"}
    assert {each.load for each in newest["room"].measured} == {"room"}
    page = performance_page.page(newest, grown(), "fedcba")
    assert "commit fff). The load" in page
    assert page.count("* (commit aaa, on 2 x a processor)\n") == 2


def test_the_page_and_its_charts_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "2026-01-01-ccc.json", "ccc", *LOADS)
    growth = tmp_path / "growth.json"
    growth.write_text(json.dumps({"about": ABOUT, "series": to_builtins(grown())}))
    for name, path in {"RESULTS": tmp_path, "_DOCS": tmp_path, "GROWTH": growth}.items():
        monkeypatch.setattr(performance_page, name, path)
    assert performance_page.main() == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"performance.rst", "performance.svg", "comparison.svg"}
