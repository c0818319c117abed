"""Line charts as SVG: axes, legend, a logarithmic scale, readable on light and on dark pages. No dependencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from msgspec import Struct

__all__ = ["COLOURS", "Chart", "Line", "document", "render", "text"]

#: One chart and the room around its axes, in pixels.
_WIDTH: Final = 460
_HEIGHT: Final = 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 64, 46
#: Ticks that a linear axis aims at.
_TICKS: Final = 6
#: Width of a letter of the legend, in pixels: generous, since fonts differ.
_LETTER: Final = 7
#: For each line in order: its colour, told apart by the colour-blind too (after Okabe and Ito 2008), and its dashes.
_LOOKS: Final = (("#2b88d8", ""), ("#d55e00", "7 3"), ("#009e73", "2 3"), ("#cc79a7", "9 3 2 3"), ("#888888", "1 2"))
#: The colours alone.
COLOURS: Final = tuple(colour for colour, _ in _LOOKS)
#: What is not a line takes the colour of text, which follows the reader's choice of a light or a dark page.
_STYLE: Final = """\
svg { background: #ffffff; color: #222222; }
text { font: 12px sans-serif; fill: currentColor; }
.title { font-weight: bold; font-size: 13px; }
.axis { stroke: currentColor; }
.grid { stroke: currentColor; opacity: 0.15; }
@media (prefers-color-scheme: dark) { svg { background: #16191d; color: #e6e6e6; } }"""


class Line(Struct, frozen=True):
    """One line of a chart: its name in the legend, and its points from left to right."""

    name: str
    points: tuple[tuple[float, float], ...]


class Chart(Struct, frozen=True):
    """Lines on one pair of axes.

    Raises:
        ValueError: there is no point, more lines than can be told apart, or the logarithmic scale begins at 0 or below.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    #: Where a logarithmic y axis begins; what is below is drawn there. None: the axis is linear and begins at 0.
    log_from: float | None = None

    def __post_init__(self) -> None:
        if not any(line.points for line in self.lines):
            raise ValueError(f"chart {self.title!r} has no points")
        if len(self.lines) > len(_LOOKS):
            raise ValueError(
                f"chart {self.title!r}: at most {len(_LOOKS)} lines can be told apart, got {len(self.lines)}"
            )
        if self.log_from is not None and self.log_from <= 0:
            raise ValueError(f"chart {self.title!r}: log_from: must be above 0, got {self.log_from:g}")


class _Axis:
    """Maps values onto pixels, and knows where to put ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float, log_from: float | None, zero: bool) -> None:
        self._start = start
        self._end = end
        self._floor = log_from
        if log_from is not None:
            low = math.floor(math.log10(log_from))
            high = max(math.ceil(math.log10(max(*values, log_from))), low + 1)
            self.ticks = [10.0**exponent for exponent in range(low, high + 1)]
        else:
            self.ticks = _round_ticks(min(0.0, *values) if zero else min(values), max(values))
        self._low, self._high = self._scaled(self.ticks[0]), self._scaled(self.ticks[-1])

    def at(self, value: float) -> float:
        """The pixel of `value`."""
        share = (self._scaled(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def _scaled(self, value: float) -> float:
        return value if self._floor is None else math.log10(max(value, self.ticks[0]))


def _round_ticks(low: float, high: float) -> list[float]:
    """Ticks at multiples of 1, 2 or 5 times a power of ten, from at most `low` to at least `high`."""
    span = (high - low) or 1.0
    power: float = 10.0 ** math.floor(math.log10(span / _TICKS))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * _TICKS >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def render(charts: Sequence[Chart], columns: int = 2) -> str:
    """The charts in rows of `columns`, as the text of one SVG document."""
    return document([(chart.title, _HEIGHT, _drawn(chart)) for chart in charts], _WIDTH, columns)


def document(charts: Sequence[tuple[str, int, Sequence[str]]], width: int, columns: int) -> str:
    """An SVG document of charts in rows of `columns`. Each chart: its title, its height, what is drawn of it.

    A row is as high as the highest in it; all charts are `width` wide. Sizes in pixels.
    """
    columns = min(columns, len(charts))
    heights = [height for _, height, _ in charts]
    rows = [max(heights[i : i + columns]) for i in range(0, len(charts), columns)]
    right, bottom = columns * width, sum(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{right}" height="{bottom}" viewBox="0 0 {right} {bottom}"'
        f' role="img">',
        f"<title>{escape('; '.join(title for title, _, _ in charts))}</title>",
        f"<style>\n{_STYLE}\n</style>",
    ]
    for index, (_, _, drawn) in enumerate(charts):
        row, column = divmod(index, columns)
        parts += [f'<g transform="translate({column * width} {sum(rows[:row])})">', *drawn, "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _drawn(chart: Chart) -> list[str]:
    points = [point for line in chart.lines for point in line.points]
    x = _Axis([point[0] for point in points], _LEFT, _WIDTH - _RIGHT, None, zero=False)
    y = _Axis([point[1] for point in points], _HEIGHT - _BOTTOM, _TOP, chart.log_from, zero=True)
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    return [
        text(_LEFT, 20, chart.title, "start", "title"),
        *_legend(chart.lines),
        *_grid(x, y),
        text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, chart.x_label),
        f'<text transform="translate(14 {middle:g}) rotate(-90)" text-anchor="middle">{escape(chart.y_label)}</text>',
        *(_polyline(line, look, x, y) for line, look in zip(chart.lines, _LOOKS, strict=False)),
    ]


def _legend(lines: Sequence[Line]) -> list[str]:
    parts = []
    left = _LEFT
    for line, (colour, dashes) in zip(lines, _LOOKS, strict=False):
        parts.append(
            f'<line x1="{left}" y1="40" x2="{left + 22}" y2="40" stroke="{colour}" stroke-width="2"'
            f' stroke-dasharray="{dashes}"/>'
        )
        parts.append(text(left + 27, 44, line.name, "start"))
        left += 42 + _LETTER * len(line.name)
    return parts


def _grid(x: _Axis, y: _Axis) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for tick in y.ticks:
        at = y.at(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}"/>')
        parts.append(text(_LEFT - 6, at + 4, f"{tick:.6g}", "end"))
    for tick in x.ticks:
        at = x.at(tick)
        parts.append(f'<line class="axis" x1="{at:.1f}" y1="{bottom}" x2="{at:.1f}" y2="{bottom + 4}"/>')
        parts.append(text(at, bottom + 18, f"{tick:.6g}"))
    return [*parts, f'<path class="axis" fill="none" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>']


def _polyline(line: Line, look: tuple[str, str], x: _Axis, y: _Axis) -> str:
    colour, dashes = look
    points = " ".join(f"{x.at(left):.1f},{y.at(up):.1f}" for left, up in line.points)
    return f'<polyline fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}" points="{points}"/>'


def text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "") -> str:
    """`words` at a place, as SVG's ``text-anchor`` says; `kind` is a class of `_STYLE`."""
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
