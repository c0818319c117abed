"""What a Django site costs on several servers, as it is told."""

from __future__ import annotations

from benchmarks.django_servers import ALONE, CHART, PAGE, SERVERS, Cost, chart, read, table

COSTS = [
    Cost(server, view, round_, us * factor, 0)
    # In the second round all cost twice as much, which changes no ratio.
    for round_, factor in enumerate((1, 2, 1))
    for server, us in (("gunicorn gthread", 200.0), ("ifserver, WSGI", 150.0), ("uvicorn, ASGI", 1000.0))
    for view in ("json", "page")
]


def test_medians_are_told_and_ratios_within_each_round() -> None:
    lines = [line.split("  ") for line in table(COSTS).splitlines()]
    rows = [[word.strip() for word in line if word.strip()] for line in lines]
    assert rows[4] == ["ifserver, WSGI", "150", "0.75", "0.15", "150", "0.75", "0.15"]


def test_a_server_that_was_not_measured_in_a_round_is_compared_where_it_was() -> None:
    costs = [cost for cost in COSTS if cost.round != 0 or cost.server != "uvicorn, ASGI"]
    assert "0.15" in table(costs)
    assert "-" in table([cost for cost in costs if cost.server == "ifserver, WSGI"]).splitlines()[3]


def test_the_page_has_the_figures_that_were_measured_last() -> None:
    costs = read()
    assert {cost.server for cost in costs} == {ALONE, *SERVERS}
    assert sum(cost.failed for cost in costs) == 0
    assert table(costs) in PAGE.read_text("utf-8")
    assert chart(costs) == CHART.read_text("utf-8")
