"""Line charts as SVG."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from benchmarks.svg import Chart, Line, render

SVG = "{http://www.w3.org/2000/svg}"


def chart(*points: tuple[float, float], title: str = "t", log_from: float | None = None) -> Chart:
    return Chart(title, "across", "up", (Line("one", points),), log_from)


def drawn(chart: Chart) -> list[tuple[float, float]]:
    """The points of the first line, in pixels."""
    polyline = ElementTree.fromstring(render([chart])).find(f".//{SVG}polyline")
    assert polyline is not None
    pairs = (pair.split(",") for pair in polyline.attrib["points"].split())
    return [(float(x), float(y)) for x, y in pairs]


def texts(document: str) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(document).iter(f"{SVG}text")]


def test_a_linear_axis_begins_at_nothing_and_has_round_ticks() -> None:
    document = render([chart((0, 3), (10, 47))])
    assert {"t", "across", "up", "one", "0", "10", "20", "30", "40", "50"} <= set(texts(document))
    (left, low), (right, high) = drawn(chart((0, 3), (10, 47)))
    assert left < right
    assert low > high


def test_a_logarithmic_axis_gives_each_power_of_ten_the_same_room() -> None:
    ys = [y for _, y in drawn(chart((1, 0.01), (2, 0.1), (3, 1), (4, 10), log_from=0.01))]
    steps = [a - b for a, b in pairwise(ys)]
    assert steps == pytest.approx([steps[0]] * 3)
    assert steps[0] > 0


def test_what_is_below_a_logarithmic_axis_is_drawn_where_it_begins() -> None:
    ys = [y for _, y in drawn(chart((1, 0), (2, 0.01), (3, 5), log_from=0.01))]
    assert ys[0] == ys[1]


@pytest.mark.parametrize("log_from", [None, 0.5])
def test_a_single_value_and_nothing_but_zeros_can_be_drawn(log_from: float | None) -> None:
    for points in ([(1.0, 0.0)], [(1.0, 0.0), (2.0, 0.0)], [(0.0, 0.5)]):
        assert len(drawn(chart(*points, log_from=log_from))) == len(points)


def test_charts_stand_in_rows() -> None:
    size = ElementTree.fromstring(render([chart((0, 1)) for _ in range(3)], columns=2)).attrib
    one = ElementTree.fromstring(render([chart((0, 1))], columns=2)).attrib
    assert float(size["width"]) == 2 * float(one["width"])
    assert float(size["height"]) == 2 * float(one["height"])


def test_names_are_escaped_and_dark_pages_are_thought_of() -> None:
    document = render([chart((0, 1), title="a < b & c")])
    assert "a < b & c" in texts(document)
    assert "prefers-color-scheme: dark" in document


@pytest.mark.parametrize(
    ("lines", "log_from", "why"),
    [
        ((), None, "'t' has no points"),
        ((Line("empty", ()),), None, "'t' has no points"),
        (tuple(Line(str(i), ((0.0, 1.0),)) for i in range(6)), None, "'t': at most 5 lines .* got 6"),
        ((Line("one", ((0.0, 1.0),)),), 0.0, "'t': log_from: must be above 0, got 0"),
    ],
)
def test_what_cannot_be_drawn_is_named(lines: tuple[Line, ...], log_from: float | None, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Chart("t", "across", "up", lines, log_from)
