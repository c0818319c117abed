"""A Django site on ifserver beside other servers: ``python -m benchmarks.django_servers``.

The site (`benchmarks.django_site`) runs in two worker processes, with 8 threads each for WSGI. Its two views are asked
for by 32 connections of ``wrk``: one that answers with JSON, and a page from a template with three queries. What counts
is the CPU time of all processes of a server for one request, from ``/proc/PID/stat``. All servers run at the same time,
and are asked one after another for a short while, round by round, so that whatever else the machine does meets all
alike. The figures are medians of the rounds, and of the ratios to gunicorn and to uvicorn within each.

Beside them stands what Django alone costs: both views, called in a loop by as many processes, in one thread each. No
server can cost less, and a server with threads costs more than the sum of both.

It needs ``wrk`` and ``redis-server``, and the packages of the extra ``bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from msgspec import Struct, convert, to_builtins

from benchmarks import bars
from benchmarks.http_loads import wrk
from benchmarks.machine import cpu_seconds, describe, tree
from benchmarks.subjects import ROOT, Subject, end_in_order, free_port, wait_for

__all__ = ["ALONE", "CHART", "PAGE", "RESULTS", "SERVERS", "VIEWS", "Cost", "chart", "main", "measure", "read", "table"]

RESULTS: Final = ROOT / "benchmarks" / "results" / "django.json"
CHART: Final = ROOT / "docs" / "howto" / "wsgi.svg"
PAGE: Final = ROOT / "docs" / "howto" / "wsgi.rst"
_SITE: Final = "benchmarks.django_site"
_WSGI, _ASGI = f"{_SITE}:application", f"{_SITE}:asgi_application"
_DATABASE: Final = "BENCHMARK_DATABASE"
_WORKERS, _THREADS = "2", "8"
_CONNECTIONS: Final = 32
VIEWS: Final = {"json": "JSON view", "page": "Page, three queries"}

#: How servers are started, in a folder that has the package `benchmarks`; ``{port}`` and ``{redis}`` are ports.
_OURS: Final = ("-m", "ifserver")
_IFSERVER: Final = (*_OURS, "run", "{application}", "-b", "127.0.0.1", "-p", "{port}", "-v", "0", "--workers", _WORKERS)
_CLUSTER: Final = ("--cluster", "main=redis://127.0.0.1:{redis}", "-v", "0")
SERVERS: Final[Mapping[str, Sequence[Sequence[str]]]] = {
    "gunicorn gthread": (
        ("-m", "gunicorn", "-k", "gthread", "-w", _WORKERS, "--threads", _THREADS, "-b", "127.0.0.1:{port}", _WSGI),
    ),
    "granian, WSGI": (
        ("-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", "{port}", "--workers", _WORKERS,
         "--blocking-threads", _THREADS, "--no-log", _WSGI),
    ),
    "ifserver, WSGI": ((*_IFSERVER, "--threads", _THREADS),),
    "ifserver, WSGI, Redis": (
        ("redis-server", "--port", "{redis}", "--bind", "127.0.0.1", "--save", ""),
        (*_OURS, "serve", "-b", "127.0.0.1", "-p", "{port}", *_CLUSTER),
        (*_OURS, "worker", _WSGI, "--processes", _WORKERS, "--threads", _THREADS, *_CLUSTER),
    ),
    "uvicorn, ASGI": (
        ("-m", "uvicorn", _ASGI, "--port", "{port}", "--workers", _WORKERS, "--no-access-log", "--log-level",
         "warning"),
    ),
    "ifserver, ASGI": (tuple(word.replace("{application}", _ASGI) for word in _IFSERVER),),
}  # fmt: skip
#: What stands in the place of a server where there is none.
ALONE: Final = "Django alone"
#: The table in the page, from its first rule to its last.
_TABLE: Final = re.compile(r"^=+  =[= ]*\nserver .*?\n=[= ]*\n.*?\n=+  =[= ]*$", re.M | re.S)
#: What ratios are to.
_REFERENCES: Final = ("gunicorn gthread", "uvicorn, ASGI")


class Cost(Struct, frozen=True):
    """What one request has cost in one round, in microseconds of CPU."""

    server: str
    view: str
    round: int
    cpu_us: float
    failed: int


class Alone:
    """The site without a server."""

    name: Final = ALONE

    def __init__(self, database: str) -> None:
        self._database = database

    def ask(self, view: str, seconds: float) -> tuple[int, int, float]:
        """Requests, how many of them failed, and the CPU seconds of all."""
        environment = {**os.environ, _DATABASE: self._database}
        command = [sys.executable, "-m", "benchmarks.django_alone", view, str(seconds)]
        pipe = subprocess.PIPE
        processes = [
            subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True)
            for _ in range(int(_WORKERS))
        ]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # it has loaded the site
        done, used = 0, 0.0
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            requests, cpu_s = process.communicate()[0].split()
            done += int(requests)
            used += float(cpu_s)
        return done, 0, used


class Served(Subject):
    """The site on one server."""

    def __init__(self, name: str, database: str) -> None:
        super().__init__()
        self.name = name
        self._database = database

    def start(self) -> None:
        redis = free_port()
        for words in SERVERS[self.name]:
            command = [word.format(port=self.port, redis=redis, application=_WSGI) for word in words]
            if command[0] == "-m":
                command.insert(0, sys.executable)
            self._spawn(command, {_DATABASE: self._database})
            if command[0] == "redis-server":
                wait_for(redis)

    def roles(self) -> Mapping[str, list[int]]:
        return {"all": [pid for process in self._processes for pid in tree(process.pid)]}

    def ask(self, view: str, seconds: float) -> tuple[int, int, float]:
        """Requests, how many of them failed, and the CPU seconds of all processes of the server."""
        pids = self.roles()["all"]
        before = cpu_seconds(pids)
        result = wrk(f"/{view}", _CONNECTIONS)(self.port, seconds)
        return result.done, result.failed, cpu_seconds(pids) - before


def measure(rounds: int, seconds: float, names: Sequence[str]) -> list[Cost]:
    """Measure Django alone, and the servers `names`, which run all at once."""
    costs = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-"))
        database = str(Path(folder) / "site.sqlite3")
        subprocess.run([sys.executable, "-m", _SITE], cwd=ROOT, env={**os.environ, _DATABASE: database}, check=True)
        served = [Served(name, database) for name in names]
        for server in served:
            stack.enter_context(server)
        asked: list[Alone | Served] = [Alone(database), *served]
        for round_ in range(-1, rounds):
            for view in VIEWS:
                for each in asked:
                    done, failed, used = each.ask(view, seconds)
                    if round_ < 0 or not done:
                        continue  # it warms up
                    cost = Cost(each.name, view, round_, 1e6 * used / done, failed)
                    costs.append(cost)
                    print(f"{round_ + 1}/{rounds} {view} {each.name}: {cost.cpu_us:.0f} us", file=sys.stderr)
    return costs


def table(costs: Sequence[Cost]) -> str:
    """The medians as a table of reStructuredText: microseconds, and ratios to gunicorn and to uvicorn."""
    head = ["server"]
    for view in VIEWS:
        head += [f"{view}, us", "to gunicorn", "to uvicorn"]
    rows = [head]
    for name in dict.fromkeys(cost.server for cost in costs):
        row = [name]
        for view in VIEWS:
            row.append(f"{statistics.median(_of(costs, name, view).values()):.0f}")
            row += [_ratio(costs, name, reference, view) for reference in _REFERENCES]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def _of(costs: Sequence[Cost], server: str, view: str) -> dict[int, float]:
    return {cost.round: cost.cpu_us for cost in costs if (cost.server, cost.view) == (server, view)}


def _ratio(costs: Sequence[Cost], server: str, reference: str, view: str) -> str:
    """Round by round, for what disturbs one disturbs its neighbour."""
    ours, theirs = _of(costs, server, view), _of(costs, reference, view)
    ratios = [ours[round_] / theirs[round_] for round_ in ours if round_ in theirs]
    return f"{statistics.median(ratios):.2f}" if ratios else "-"


def chart(costs: Sequence[Cost]) -> str:
    """The medians as an SVG document."""
    names = list(dict.fromkeys(cost.server for cost in costs))
    drawn = []
    for view, title in VIEWS.items():
        each = tuple(bars.Bar(name, (statistics.median(_of(costs, name, view).values()),)) for name in names)
        drawn.append(bars.Bars(f"Django, {title}: CPU of all processes", ("us for one request",), each))
    return bars.render(drawn)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.django_servers", description="Measures a Django site.")
    parser.add_argument("--rounds", type=int, default=10, help="how often all are measured (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each is (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results and docs/howto/wsgi.*")
    parser.add_argument("--again", action="store_true", help="write docs/howto/wsgi.* of the last figures")
    given = parser.parse_args(arguments)
    if given.again:
        _write(read())
        return 0
    end_in_order()
    costs = measure(given.rounds, given.seconds, list(SERVERS))
    about = dict(describe(("ifserver", "django", "gunicorn", "granian", "uvicorn"), ROOT))
    print(table(costs))
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    if given.write:
        RESULTS.write_text(json.dumps({"about": about, "costs": to_builtins(costs)}, indent=1) + "\n", "utf-8")
        _write(costs)
    return 0


def _write(costs: Sequence[Cost]) -> None:
    """Put the table into the page, in place of the one that is there, and draw the chart."""
    text = PAGE.read_text("utf-8")
    PAGE.write_text(_TABLE.sub(lambda _: table(costs), text, count=1), "utf-8")
    CHART.write_text(chart(costs), "utf-8")


def read() -> list[Cost]:
    """What was measured last."""
    return convert(json.loads(RESULTS.read_text("utf-8"))["costs"], list[Cost])


if __name__ == "__main__":
    sys.exit(main())
