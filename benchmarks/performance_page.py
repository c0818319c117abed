"""Writes ``docs/explanation/performance.rst`` and its charts, of what was measured last (`benchmarks.bench`,
`benchmarks.growth`).

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
from benchmarks.bench import RESULTS
from benchmarks.growth import GROWTH, SERIES, Point, Series
from benchmarks.loads import LOADS
from benchmarks.outcome import Measurement
from benchmarks.placement_page import table
from benchmarks.subjects import ROOT, is_reference
from benchmarks.svg import Chart, Line, render

__all__ = ["charts", "comparison_charts", "main", "page"]

Grown = Mapping[str, Sequence[Point]]

_ROLES: Final = ("front", "worker", "node")

_PAGE: Final = """\
Performance
===========

Between your clients and your application there are two processes of ifserver and a Redis. This page shows what they
cost, and how the cost changes with the load. Everything was measured with all limits and timeouts on and without an
access log, on {machine} (Python {python}, commit {commit}). The load generator ran on the same
machine. So compare the cost of a request rather than the requests per second. The cost is the CPU time of each process
in microseconds, from ``/proc/PID/stat``. It is a virtual machine that shares its host with others: the same work costs
up to a third more at one time than at another, and varies more if more processes take part. ``make bench`` repeats the
measurements.


Compared with other servers
---------------------------

Each server runs the same minimal ASGI application in one process; ifserver has one server and one worker. *front* is
the process that has the clients' connections, *node* is Redis. *front, ratio* and *all, ratio* divide by the cost of
uvicorn in the same round. *uvicorn-websockets* is uvicorn with its first implementation of WebSockets (its setting
``ws`` is ``websockets``). Pushpin is a proxy that holds connections; uvicorn runs behind it, and is not included in its
cost.

.. image:: comparison.svg
   :alt: Charts of what one request or message costs with each server, and how long requests wait beside slow ones.

{comparison}

{verdict}


How the cost changes with the load
----------------------------------

Measured at commit {grown_at}.

.. image:: performance.svg
   :alt: Charts of what one request costs, by number of processes, size of responses, connections and queues.

{growth}
"""

#: What the comparison shows, and what bounds each thing that grows: to be read again whenever the figures are new.
_VERDICT: Final = """\
* **The channel layer has a price.** For a small request, the server alone costs one and a half times as much as
  uvicorn; server, worker and Redis together cost two and a half times as much. Daphne and Hypercorn, which have no
  channel layer, cost more than twice as much as that; Pushpin, which has one, eight times as much. A real application
  needs milliseconds, for a database query for example. Compared with these, the price is small.
* **WebSocket messages cost less**, because a WebSocket is opened once. For a message, the server alone costs as much as
  uvicorn; server, worker and Redis together cost less than twice as much.
* **The benefit: a request goes to a worker that is free.** If one request in a hundred takes 200 ms of CPU, the slowest
  hundredth of the other requests waits about half as long as behind a load balancer that uses round robin.
* **The cost per request falls with load**, because messages that are ready at the same time are sent together. With a
  single connection each message is sent alone, and costs the most. The latency is then one round trip through Redis.
* **Large bodies cost the most**, because they are copied into Redis and out again. Let nginx or a CDN serve files.
* **The embedded broker** (``ifserver run``) saves the cost of Redis. It runs in the server's process."""
_KNEES: Final[Mapping[str, str]] = {
    "workers": """\
Each request goes to a worker that is free. So with more workers, each takes fewer requests at a time, and a request
costs more. An application that only computes gains nothing from more worker processes than cores; this machine has two
cores, for everything. An application that waits, for a database for example, needs more requests at a time
(``--concurrency``), not more processes.""",
    "fronts": """\
One server process handles about 20,000 requests per second if it has a core of its own. Start a second one only when
the first uses its whole core: with two, the same requests travel in smaller batches, and each costs more.""",
    "nodes": """\
A worker reads each Redis of its cluster separately, so the batches are smaller. One Redis carries several hundred
thousand messages per second. Add a second one for the case that the first fails, not for speed.""",
    "size": """\
Up to about 16 KiB the size hardly matters; beyond that, each KiB costs the same. A response longer than 64 KiB is sent
in several messages, as fast as its client reads them.""",
    "connections": """\
An idle connection needs memory (about 8 KiB, a WebSocket 6 KiB) but no CPU time: a request costs the same beside 15,000
idle connections. The limit of file descriptors on this machine does not allow more.""",
    "waiting": """\
Requests that no worker has taken wait in the queue. They wait for as long as the workers need for all requests in front
of them: the length of the queue divided by the requests per second. The longer the queue, the more a request costs in
the server, which has many requests open, and the less it costs in Redis and the workers, which handle more at a time.
When 10,000 requests wait (``request_capacity``), the next one is answered 503 at once.""",
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
        roles = _roles_of(by_subject)
        heads = ("", *roles, "all, us", "front, ratio", "all, ratio", "a second", "p50, ms", "p99, ms")
        yield load, table(heads, [_row(name, rounds, reference, roles) for name, rounds in by_subject.items()])


def _by_load(measured: Sequence[Measurement]) -> Iterator[tuple[str, Mapping[str, Sequence[Measurement]]]]:
    """For each load, the rounds of each subject."""
    for load in dict.fromkeys(each.load for each in measured):
        by_subject: dict[str, list[Measurement]] = {}
        for each in measured:
            if each.load == load:
                by_subject.setdefault(each.subject, []).append(each)
        yield load, by_subject


def _roles_of(by_subject: Mapping[str, Sequence[Measurement]]) -> tuple[str, ...]:
    """The roles of a load, that of who sends to groups where there is one: together they are all that it costs."""
    publishes = any("publisher" in each.cpu_us for rounds in by_subject.values() for each in rounds)
    return (*_ROLES, "publisher") if publishes else _ROLES


def _row(
    name: str, rounds: Sequence[Measurement], reference: Sequence[Measurement], roles: Sequence[str]
) -> tuple[str, ...]:
    pairs = list(zip(rounds, reference, strict=True))
    costs = [
        f"{statistics.median(each.cpu_us[role] for each in rounds):.1f}" if role in rounds[0].cpu_us else "-"
        for role in roles
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
            title, legend = f"{LOADS[load].title}: CPU, us", _roles_of(by_subject)
            rows = [
                tuple(statistics.median(each.cpu_us.get(role, 0.0) for each in rounds) for role in legend)
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
