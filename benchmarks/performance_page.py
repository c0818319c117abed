"""Writes ``docs/explanation/performance.rst`` and its charts, of what was measured last (`benchmarks.bench`,
`benchmarks.growth`). A run may be of some loads only: each load is shown as its newest run has it.

In a checkout: ``python -m benchmarks.performance_page``.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct, convert

from benchmarks import bars
from benchmarks.bench import RESULTS
from benchmarks.growth import GROWTH, SERIES, Point, Series
from benchmarks.loads import LOADS
from benchmarks.outcome import Measurement
from benchmarks.placement_page import table
from benchmarks.subjects import ROOT, is_reference
from benchmarks.svg import Chart, Line, render

__all__ = ["Run", "charts", "comparison_charts", "main", "newest_runs", "page"]

Grown = Mapping[str, Sequence[Point]]


class Run(Struct):
    """What one run of `benchmarks.bench` has found."""

    #: Where and of what, by `benchmarks.machine.describe`.
    about: dict[str, str]
    measured: list[Measurement]


_DOCS: Final = ROOT / "docs" / "explanation"
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
cost. In broadcasts, *publisher* is the program that sends to the group, *channels* is Django Channels with
channels_redis in uvicorn, *ifserver (..., Channels)* the same consumer with ifserver's channel layer, and *bare loop* a
program on uvloop that does nothing but write: the least that a broadcast can cost.

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
* **A broadcast costs little more than half of a loop over the sockets in uvicorn**, because the server frames it once
  and then only writes. Through the consumers of Django Channels it costs about a quarter of what it costs with
  channels_redis, which did not reach all of 5,000 WebSockets within 5 s.
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


def newest_runs(folder: Path) -> dict[str, Run]:
    """Of each load its newest run, of those whose figures are in `folder`."""
    found: dict[str, Run] = {}
    # They are named for the day and the commit.
    for path in sorted(folder.glob("????-??-??-*.json"), key=lambda path: (path.name[:10], path.stat().st_mtime)):
        run = convert(json.loads(path.read_text(encoding="utf-8")), Run)
        for load, measured in _by_load(run.measured):
            found[load] = Run(run.about, [each for rounds in measured.values() for each in rounds])
    return {load: found[load] for load in LOADS if load in found}


def page(runs: Mapping[str, Run], grown: Grown, grown_at: str) -> str:
    """The page for users, of the run of each load; `grown_at`: the commit at which growth was measured."""
    about = next(iter(runs.values())).about
    comparison = "\n\n".join(_comparison(load, run, about) for load, run in runs.items())
    growth = "\n\n".join(_grown(series, grown[series.name]) for series in SERIES)
    return _PAGE.format(**about, comparison=comparison, verdict=_VERDICT, growth=growth, grown_at=grown_at)


def _comparison(load: str, run: Run, about: Mapping[str, str]) -> str:
    """The table of a load; it says where it was measured, if not as `about` says."""
    [(_, by_subject)] = _by_load(run.measured)
    reference = next(rounds for name, rounds in by_subject.items() if is_reference(name))
    roles = _roles_of(by_subject)
    heads = ("", *roles, "all, us", "front, ratio", "all, ratio", "a second", "p50, ms", "p99, ms")
    rows = [_row(name, rounds, reference, roles) for name, rounds in by_subject.items()]
    elsewhere = "" if run.about == about else f" (commit {run.about['commit']}, on {run.about['machine']})"
    return f"*{LOADS[load].title}*{elsewhere}\n\n{table(heads, rows)}"


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
    runs = newest_runs(RESULTS)
    grown = json.loads(GROWTH.read_text(encoding="utf-8"))
    points = convert(grown["series"], dict[str, list[Point]])
    measured = [each for run in runs.values() for each in run.measured]
    (_DOCS / "performance.rst").write_text(page(runs, points, grown["about"]["commit"]), encoding="utf-8")
    (_DOCS / "performance.svg").write_text(render(charts(points)), encoding="utf-8")
    (_DOCS / "comparison.svg").write_text(bars.render(comparison_charts(measured)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
