"""Measures how what a request costs grows: ``python -m benchmarks.growth [--write]``.

With more processes, larger answers, more open connections, more requests that wait.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import statistics
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import uvloop
from msgspec import Struct, to_builtins

from benchmarks.bench import RESULTS, warm_up
from benchmarks.http_loads import wrk
from benchmarks.machine import cpu_seconds, describe
from benchmarks.outcome import Result
from benchmarks.subjects import ROOT, Ours, end_in_order

__all__ = ["GROWTH", "SERIES", "Point", "Series", "main"]

_KIB: Final = 1024
#: Requests on one connection after another; none of those that are open beside them says anything.
_ACTIVE: Final = 64
#: Where the results are written.
GROWTH: Final = RESULTS / "growth.json"


class Point(Struct, frozen=True):
    """With so much: what one request has cost, in CPU microseconds of each role; how many there were in a second."""

    x: float
    cpu_us: dict[str, float]
    rate: float
    p50_ms: float
    failed: int


class Series(Struct, frozen=True):
    """One thing that grows."""

    name: str
    title: str
    x_label: str
    #: How much there is of it.
    xs: tuple[int, ...]
    #: The servers, for so much of it.
    subject: Callable[[int], Ours]
    #: The work, for so much of it: is done against a port, for so many seconds.
    load: Callable[[int], Callable[[int, float], Result]]
    #: How many connections are kept open besides.
    idle: Callable[[int], int] = lambda _: 0


@contextlib.contextmanager
def _kept_open(port: int, count: int) -> Iterator[None]:
    """Connections on which one request was answered, and that say nothing more."""
    ready, over = threading.Event(), threading.Event()

    async def hold() -> None:
        loop = asyncio.get_running_loop()
        transports: list[asyncio.Transport] = []
        for i in range(count):
            # From several addresses, for one has no more ports than that.
            local = (f"127.0.0.{2 + i % 8}", 0)
            transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port, local_addr=local)
            transport.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            transports.append(transport)
        await asyncio.sleep(1.0)  # the last is answered
        ready.set()
        await asyncio.to_thread(over.wait)
        for transport in transports:
            transport.abort()

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(uvloop.run, hold())
        holding.add_done_callback(lambda _: ready.set())  # if it could not
        ready.wait()
        try:
            yield
        finally:
            over.set()
            holding.result()


SERIES: Final = (
    Series(
        "workers", "Worker processes", "worker processes", (1, 2, 4, 8, 16, 32),
        lambda n: Ours(workers=n), lambda _: wrk("/", _ACTIVE),
    ),
    Series(
        "fronts", "Server processes", "server processes", (1, 2, 4),
        lambda n: Ours(fronts=n, workers=2), lambda _: wrk("/", _ACTIVE),
    ),
    Series(
        "nodes", "Redis servers of one cluster", "Redis servers", (1, 2, 4),
        lambda n: Ours(nodes=n), lambda _: wrk("/", _ACTIVE),
    ),
    Series(
        "size", "Answers of many sizes", "size of the answer, KiB (0: 100 bytes)", (0, 1, 4, 16, 64, 128, 256),
        lambda _: Ours(), lambda n: wrk(f"/bytes/{n * _KIB or 100}", 32),
    ),
    Series(
        "connections", "Open connections, 64 of them busy", "idle connections, thousands", (0, 1, 5, 10, 15),
        lambda _: Ours(), lambda _: wrk("/", _ACTIVE), lambda n: 1000 * n,
    ),
    Series(
        "waiting", "Requests that wait", "requests under way, thousands (0: 64)", (0, 1, 2, 4, 8),
        lambda _: Ours(), lambda n: wrk("/", 1000 * n or _ACTIVE),
    ),
)  # fmt: skip


def measure(series: Series, x: int, seconds: float) -> Point:
    """Start the servers, warm them up, and measure."""
    with series.subject(x) as subject:
        warm_up(subject.port, "get")
        roles = subject.roles()
        with _kept_open(subject.port, series.idle(x)):
            before = {role: cpu_seconds(pids) for role, pids in roles.items()}
            result = series.load(x)(subject.port, seconds)
            spent = {role: cpu_seconds(pids) - before[role] for role, pids in roles.items()}
    costs = {role: 1e6 * each / result.done for role, each in spent.items()}
    return Point(x, costs, result.done / result.seconds, result.p50_ms, result.failed)


def middle(points: Sequence[Point]) -> Point:
    """The medians of several rounds."""
    costs = {role: statistics.median(each.cpu_us[role] for each in points) for role in points[0].cpu_us}
    rate, p50 = (statistics.median(getattr(each, name) for each in points) for name in ("rate", "p50_ms"))
    return Point(points[0].x, costs, rate, p50, sum(each.failed for each in points))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often all is measured (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each is (default: %(default)s)")
    names = ",".join(each.name for each in SERIES)
    parser.add_argument("--series", default=names, help="which (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write the results to benchmarks/results")
    given = parser.parse_args(arguments)
    end_in_order()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    wanted = given.series.split(",")
    rounds: dict[str, dict[int, list[Point]]] = {}
    for round_ in range(given.rounds):
        for series in SERIES:
            for x in series.xs if series.name in wanted else ():
                point = measure(series, x, given.seconds)
                rounds.setdefault(series.name, {}).setdefault(x, []).append(point)
                costs = ", ".join(f"{role} {cost:.1f}" for role, cost in point.cpu_us.items())
                print(
                    f"{round_ + 1}/{given.rounds} {series.name:12} {x:6} {costs} us, {point.rate:,.0f}/s, "
                    f"p50 {point.p50_ms:.2f} ms, {point.failed} failed",
                    file=sys.stderr,
                )
    grown = {name: [middle(points) for points in by_x.values()] for name, by_x in rounds.items()}
    if given.write:
        RESULTS.mkdir(exist_ok=True)
        about = dict(describe(("ifserver",), ROOT))
        figures = {"about": about, "series": to_builtins(grown)}
        GROWTH.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
