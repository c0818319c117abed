"""Charts of stacked bars as SVG."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks.bars import Bar, Bars, render

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*bars: Bar) -> tuple[list[float], list[str]]:
    """The widths of all boxes but the legend's, in pixels; and all texts."""
    root = ElementTree.fromstring(render([Bars("a < b", ("x", "y"), bars)]))
    widths = [float(each.attrib["width"]) for each in root.iter(f"{SVG}rect")]
    return widths[2:], [each.text or "" for each in root.iter(f"{SVG}text")]


def test_parts_stand_behind_each_other_on_one_scale() -> None:
    widths, texts = drawn(Bar("one", (10.0, 20.0)), Bar("other", (15.0, 0.0)))
    assert widths == pytest.approx([widths[0], 2 * widths[0], 1.5 * widths[0], 0.0], abs=0.2)
    assert {"a < b", "x", "y", "one", "other", "30.0", "15.0"} <= set(texts)


def test_what_is_far_too_long_is_cut_and_says_its_number() -> None:
    widths, texts = drawn(Bar("a", (10.0, 0.0)), Bar("b", (10.0, 0.0)), Bar("c", (30.0, 24_000.0)))
    assert widths[4] + widths[5] == pytest.approx(4 * widths[0], abs=0.2)
    assert "\N{MUCH GREATER-THAN} 24,030" in texts


def test_nothing_but_zeros_can_be_drawn() -> None:
    assert drawn(Bar("a", (0.0, 0.0)))[0] == [0.0, 0.0]


def test_charts_stand_in_rows_as_high_as_their_highest() -> None:
    low, high = Bars("l", ("x",), (Bar("a", (1.0,)),)), Bars("h", ("x",), tuple(Bar(str(i), (1.0,)) for i in range(9)))
    sizes = [ElementTree.fromstring(render(charts)).attrib for charts in ([low], [high], [low, high], [low, high, low])]
    heights = [float(size["height"]) for size in sizes]
    assert heights[0] < heights[1] == heights[2]
    assert heights[3] == heights[1] + heights[0]
    assert float(sizes[2]["width"]) == 2 * float(sizes[0]["width"])


@pytest.mark.parametrize(
    ("bars", "why"), [((), "'t' has no bars"), ((Bar("a", (1.0, -1.0)),), "'t': a part is below 0")]
)
def test_what_cannot_be_drawn_is_named(bars: tuple[Bar, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Bars("t", ("x",), bars)
