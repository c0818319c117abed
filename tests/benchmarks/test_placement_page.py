"""Tables and page of the placement benchmark."""

from __future__ import annotations

import pytest

from benchmarks import placement_page, svg
from benchmarks.placement import plans
from benchmarks.placers import Placing
from benchmarks.simulation import Figures, Plan


def figures(mean_s: float, lost: int = 0) -> Figures:
    return Figures(
        arrived=1000, served=1000 - lost, waiting=0, timed_out=lost, spilled=lost, mean_s=mean_s, p50_s=0.5, p99_s=2.5,
        max_s=10.0, mean_queue=1.25, longest_queue=17, course_s=(0.0, 1.0), lost=(lost / 1000,), shares=(0.5, 0.5),
    )  # fmt: skip


@pytest.fixture(scope="module")
def results() -> dict[Plan, Figures]:
    """Figures that nobody simulated, for all of a full run."""
    return {plan: figures(list(Placing).index(plan.placing) + plan.load) for plan in plans(quick=False, seed=1)}


def test_a_table_is_simple_restructured_text() -> None:
    text = placement_page.table(("a name", "number"), [("x", "1.5"), ("longer than it", "22")])
    assert text.splitlines() == [
        "==============  ======",
        "a name          number",
        "==============  ======",
        "x                  1.5",
        "longer than it      22",
        "==============  ======",
    ]


def test_there_is_a_table_for_each_setting_and_one_row_where_there_is_no_choice(results: dict[Plan, Figures]) -> None:
    tables = dict(placement_page.tables(results))
    assert len(tables) == 8
    for name, text in tables.items():
        # 5 loads; 1 row for one node, 3 or 4 for each other number of nodes; and 4 lines around them.
        assert len(text.splitlines()) == 5 * (1 + 3 * (4 if "fails" in name else 3)) + 4, name
        assert text.count("any") == 5


def test_parts_of_requests_are_in_percent() -> None:
    plan = Plan(placing=Placing.OURS, nodes=2, load=0.9)
    (_, text), = placement_page.tables({plan: figures(0.25, lost=15)})  # fmt: skip
    assert text.splitlines()[3].split() == [
        "2", "90%", "ifserver", "0.250", "0.500", "2.500", "10.000", "1.2", "17", "1.5%", "1.5%",
    ]  # fmt: skip


def test_the_page_has_all_tables_and_no_blanks_left(results: dict[Plan, Figures]) -> None:
    page = placement_page.page(results)
    assert "{" not in page
    for _, text in placement_page.tables(results):
        assert text in page
    assert max(map(len, page.splitlines())) <= 120
    assert page.endswith("=\n")


def test_the_charts_can_be_drawn(results: dict[Plan, Figures]) -> None:
    charts = placement_page.charts(results)
    assert [len(chart.lines) for chart in charts] == [3, 3, 3, 4]
    assert [point[0] for point in charts[0].lines[0].points] == pytest.approx([50, 70, 90, 100, 110])
    assert svg.render(charts).count("<polyline") == 13
