"""Writes ``docs/performance.rst`` and its charts, of what was measured last (`benchmarks.bench`, `benchmarks.growth`).

In a checkout: ``python -m benchmarks.performance_page``.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import convert

from benchmarks import bars
from benchmarks.bench import RESULTS, Measurement
from benchmarks.growth import GROWTH, SERIES, Point, Series
from benchmarks.loads import LOADS
from benchmarks.placement_page import table
from benchmarks.subjects import ROOT, is_reference
from benchmarks.svg import Chart, Line, render

__all__ = ["charts", "comparison_charts", "main", "page"]

Grown = Mapping[str, Sequence[Point]]

_ROLES: Final = ("front", "worker", "node")

_PAGE: Final = """\
Performance
===========

Between your clients and your application, ``ifserver`` puts two processes and a Redis. This page says what that costs,
and what becomes of it when there is more of something. All of it was measured with every limit and every time limit
on, without an access log, on {machine} (Python {python}, commit {commit}). The load generator ran on the same
machine, so requests a second say less than what one request costs: microseconds of CPU of each process, from
``/proc/PID/stat``. The machine is a virtual one with neighbours: the same work costs up to a third more at one time
than at another, the more so the more processes take part. ``make bench`` repeats it.


Beside others
-------------

Each serves the same bare ASGI application, in one process; ``ifserver`` has one server and one worker. *front* is the
process that has the clients' connections, *node* is Redis. The ratios are to uvicorn in the same round.
*uvicorn-websockets* is uvicorn with its first implementation of WebSockets (its setting ``ws`` is ``websockets``).
Pushpin, a proxy that holds connections, has uvicorn behind it, whose part is left out.

.. image:: comparison.svg
   :alt: Charts of what one piece of work costs each server, and how long requests wait beside slow ones.

{comparison}

{verdict}


How it grows
------------

Measured at commit {grown_at}.

.. image:: performance.svg
   :alt: Charts of what one request costs, over the number of processes, the size of answers, connections and queues.

{growth}
"""

#: What the comparison shows, and what bounds each thing that grows: to be read again whenever the figures are new.
_VERDICT: Final = """\
* A layer is not free. The server's own part of a small request costs one and a half times as much as all of uvicorn,
  with worker and Redis it is two and a half times as much; Daphne and Hypercorn, which have no layer either, cost more
  than twice as much as all of that, and Pushpin, which has one, eight times as much. An application that does anything,
  a query say, takes milliseconds: beside those it does not show.
* WebSockets cost less, for they are opened once: a message costs the server's part as much as all of uvicorn, with
  worker and Redis less than twice as much.
* What a layer is for: load goes to whoever is free. Where one request in a hundred takes 200 ms of CPU, the slowest
  hundredth of the others waits about half as long as behind a load balancer that goes round.
* What it costs falls with load, since messages that are ready at the same time travel together: with a single
  connection each message travels alone and costs the most. Its latency is that of one round through Redis.
* Large bodies cost most, for they are copied into Redis and out of it again. Let nginx or a CDN send files.
* The embedded broker (``ifserver run``) saves Redis' part, and works in the server's process."""
_KNEES: Final[Mapping[str, str]] = {
    "workers": """\
Requests are shared among whoever is free, so with more workers each takes fewer at a time, and a request costs more.
For an application that only computes, more worker processes than cores bring nothing: this machine has two, for all of
it. For one that waits, the number of requests at a time (``--concurrency``) counts, and not that of processes.""",
    "fronts": """\
One server process is good for some 20,000 requests a second where it has a core of its own. A second one pays when the
first has no time left, and not before: the same requests come in smaller batches then.""",
    "nodes": """\
A worker reads each Redis of its cluster on its own, in batches that are smaller by as much. One Redis carries several
hundred thousand messages a second: a second one is for when the first one fails, not for speed.""",
    "size": """\
Up to 16 KiB or so the size hardly matters; from there on each KiB costs the same. A response longer than 64 KiB goes
out in several messages, as fast as its client takes them.""",
    "connections": """\
An idle connection costs memory (some 8 KiB, a WebSocket 6 KiB) and no time: a request costs the same beside 15,000 of
them. That many, and what else a process opens, is what the limit of file descriptors allows on this machine.""",
    "waiting": """\
What waits, waits in the queue: how long is its length divided by what the workers do in a second. The server pays for
the many requests that it has in hand, Redis and the workers pay less, since they have more at a time. At 10,000
(``request_capacity``) the next one is answered 503 at once.""",
}


def page(about: Mapping[str, str], measured: Sequence[Measurement], grown: Grown, grown_at: str) -> str:
    """The page for users; `grown_at`: the commit at which growth was measured."""
    comparison = "\n\n".join(f"*{LOADS[load].title}*\n\n{text}" for load, text in _comparisons(measured))
    growth = "\n\n".join(_grown(series, grown[series.name]) for series in SERIES)
    return _PAGE.format(**about, comparison=comparison, verdict=_VERDICT, growth=growth, grown_at=grown_at)


def _comparisons(measured: Sequence[Measurement]) -> Iterator[tuple[str, str]]:
    """For each load its table."""
    for load, by_subject in _by_load(measured):
        reference = next(rounds for name, rounds in by_subject.items() if is_reference(name))
        yield load, table(_HEADS, [_row(name, rounds, reference) for name, rounds in by_subject.items()])


def _by_load(measured: Sequence[Measurement]) -> Iterator[tuple[str, Mapping[str, Sequence[Measurement]]]]:
    """For each load, the rounds of each subject."""
    for load in dict.fromkeys(each.load for each in measured):
        by_subject: dict[str, list[Measurement]] = {}
        for each in measured:
            if each.load == load:
                by_subject.setdefault(each.subject, []).append(each)
        yield load, by_subject


_HEADS: Final = ("", *_ROLES, "all, us", "front, ratio", "all, ratio", "a second", "p50, ms", "p99, ms")


def _row(name: str, rounds: Sequence[Measurement], reference: Sequence[Measurement]) -> tuple[str, ...]:
    pairs = list(zip(rounds, reference, strict=True))
    costs = [
        f"{statistics.median(each.cpu_us[role] for each in rounds):.1f}" if role in rounds[0].cpu_us else "-"
        for role in _ROLES
    ]
    return (
        name,
        *costs,
        f"{statistics.median(each.total_us for each in rounds):.1f}",
        f"{statistics.median(ours.cpu_us['front'] / theirs.total_us for ours, theirs in pairs):.2f}",
        f"{statistics.median(ours.total_us / theirs.total_us for ours, theirs in pairs):.2f}",
        f"{statistics.median(each.result.done / each.result.seconds for each in rounds):.0f}",
        f"{statistics.median(each.result.p50_ms for each in rounds):.2f}",
        f"{statistics.median(each.result.p99_ms for each in rounds):.2f}",
    )


def _grown(series: Series, points: Sequence[Point]) -> str:
    rows = [
        (
            f"{point.x:g}",
            *(f"{point.cpu_us[role]:.1f}" for role in _ROLES),
            f"{sum(point.cpu_us.values()):.1f}",
            f"{point.rate:.0f}",
            f"{point.p50_ms:.2f}",
        )
        for point in points
    ]
    heads = (series.x_label, *_ROLES, "all, us", "a second", "p50, ms")
    title = f"{series.title}\n{'~' * len(series.title)}"
    return f"{title}\n\n{_KNEES[series.name]}\n\n{table(heads, rows)}"


def comparison_charts(measured: Sequence[Measurement]) -> list[bars.Bars]:
    """What one piece of work costs each server; beside slow requests, how long others wait."""
    made = []
    legend: tuple[str, ...]
    rows: list[tuple[float, ...]]
    for load, by_subject in _by_load(measured):
        if LOADS[load].workers == 1:
            title, legend = f"{LOADS[load].title}: CPU, us", _ROLES
            rows = [
                tuple(statistics.median(each.cpu_us.get(role, 0.0) for each in rounds) for role in _ROLES)
                for rounds in by_subject.values()
            ]
        else:
            title, legend = LOADS[load].title, ("p99 of the others, ms",)
            rows = [(statistics.median(each.result.p99_ms for each in rounds),) for rounds in by_subject.values()]
        pairs = zip(by_subject, rows, strict=True)
        made.append(bars.Bars(title, legend, tuple(bars.Bar(name, parts) for name, parts in pairs)))
    return made


def charts(grown: Grown) -> list[Chart]:
    """What one request costs, for each thing that grows."""
    return [
        Chart(
            series.title,
            series.x_label,
            "CPU of one request, us",
            tuple(Line(role, tuple((point.x, point.cpu_us[role]) for point in grown[series.name])) for role in _ROLES),
        )
        for series in SERIES
    ]


def main() -> int:
    """Write the page and its charts."""
    newest = max((path for path in RESULTS.glob("*.json") if path != GROWTH), key=lambda path: path.stat().st_mtime)
    compared, grown = (json.loads(path.read_text(encoding="utf-8")) for path in (newest, GROWTH))
    measured = convert(compared["measured"], list[Measurement])
    points = convert(grown["series"], dict[str, list[Point]])
    docs = ROOT / "docs"
    text = page(compared["about"], measured, points, grown["about"]["commit"])
    (docs / "performance.rst").write_text(text, encoding="utf-8")
    (docs / "performance.svg").write_text(render(charts(points)), encoding="utf-8")
    (docs / "comparison.svg").write_text(bars.render(comparison_charts(measured)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
