"""Charts of stacked bars as SVG, one bar for each thing that is compared; looks as `benchmarks.svg` has them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from benchmarks.svg import COLOURS, document, text

__all__ = ["Bar", "Bars", "render"]

#: One chart, the room for the names on its left and for the sum on its right, in pixels.
_WIDTH: Final = 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 200, 76, 64, 16
#: Where the title begins: above the names, for it may be long.
_MARGIN: Final = 16
#: Beyond so many times the median a bar is cut off.
_LONGEST: Final = 4.0
#: A bar, and a bar with the room around it.
_THICK: Final = 16
_STEP: Final = 24


class Bar(Struct, frozen=True):
    """One bar: its name, and its parts from left to right."""

    name: str
    parts: tuple[float, ...]


class Bars(Struct, frozen=True):
    """Bars from one baseline. One that is several times as long as most is cut off; the number behind it is right.

    Raises:
        ValueError: there is no bar, or a part below 0.
    """

    title: str
    #: What each part is.
    legend: tuple[str, ...]
    bars: tuple[Bar, ...]

    def __post_init__(self) -> None:
        if not self.bars:
            raise ValueError(f"chart {self.title!r} has no bars")
        if any(part < 0 for bar in self.bars for part in bar.parts):
            raise ValueError(f"chart {self.title!r}: a part is below 0")


def render(charts: Sequence[Bars], columns: int = 2) -> str:
    """The charts in rows of `columns`, as the text of one SVG document."""
    drawn = [(chart.title, _TOP + _BOTTOM + _STEP * len(chart.bars), _drawn(chart)) for chart in charts]
    return document(drawn, _WIDTH, columns)


def _drawn(chart: Bars) -> list[str]:
    parts = [text(_MARGIN, 20, chart.title, "start", "title")]
    left = float(_LEFT)
    for name, colour in zip(chart.legend, COLOURS, strict=False):
        parts += [_box(left, 34, 12, 12, colour), text(left + 17, 44, name, "start")]
        left += 42 + 7 * len(name)
    sums = [math.fsum(bar.parts) for bar in chart.bars]
    longest = min(max(sums), _LONGEST * statistics.median(sums)) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    for index, (bar, whole) in enumerate(zip(chart.bars, sums, strict=True)):
        top, left, rest = _TOP + index * _STEP, float(_LEFT), longest
        parts.append(text(_LEFT - 8, top + 12, bar.name, "end"))
        for value, colour in zip(bar.parts, COLOURS, strict=False):
            shown = min(value, rest)
            parts.append(_box(left, top, shown * scale, _THICK, colour))
            left += shown * scale
            rest -= shown
        cut = "\N{MUCH GREATER-THAN} " if whole > longest else ""
        parts.append(text(left + 6, top + 12, cut + (f"{whole:,.0f}" if whole >= 100 else f"{whole:.1f}"), "start"))
    return parts


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'
