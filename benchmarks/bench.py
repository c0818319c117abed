"""Measures ifserver beside its peers: ``python -m benchmarks.bench``.

All run one after another on this machine, round by round, so that whatever else the machine does meets all alike. What
counts is the CPU time of each process for one piece of work, which holds on a noisy machine; requests a second depend
on the load generator, which shares the machine's cores. No limit and no guard is ever switched off for it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from msgspec import to_builtins

from benchmarks.loads import LOADS
from benchmarks.machine import cpu_seconds, describe
from benchmarks.outcome import Measurement
from benchmarks.report import markdown
from benchmarks.subjects import NAMES, PEERS, ROOT, end_in_order, plays, program, subject_named, versions_of

__all__ = ["RESULTS", "main", "measure", "warm_up"]

_WARM_UP_S = 1.0
_CLIENT = "client"
#: Where results are written.
RESULTS = ROOT / "benchmarks" / "results"


def measure(name: str, load_name: str, round_: int, seconds: float) -> Measurement:
    """Start a subject, warm it up, and measure."""
    load = LOADS[load_name]
    with subject_named(name, load.workers) as subject:
        warm_up(subject.port, load_name)
        roles = dict(subject.roles())
        spent: list[dict[str, float]] = []

        def mark() -> None:
            """Note the CPU time that each role has used, and the load generator."""
            used = {role: cpu_seconds(pids) for role, pids in roles.items()}
            spent.append(used | {_CLIENT: _client_seconds()})

        if load.groups:
            publisher = subject.publisher()
            roles["publisher"] = [publisher.pid]
            result = load.run(subject.port, seconds, mark, partial(_publish, publisher))
        else:
            mark()
            result = load.run(subject.port, seconds)
            mark()
    before, after = spent
    per_piece = {role: 1e6 * (after[role] - before[role]) / result.done for role in after}
    client = per_piece.pop(_CLIENT)
    return Measurement(subject.name, load_name, round_, result, per_piece, client)


def _publish(publisher: subprocess.Popen[bytes]) -> None:
    """Have something published, and wait until it is."""
    assert publisher.stdin is not None
    assert publisher.stdout is not None
    publisher.stdin.write(b"\n")
    if not publisher.stdout.readline():
        raise RuntimeError("the publisher has ended")


def warm_up(port: int, load_name: str) -> None:
    """Wait until a server answers, and do a second of a load.

    Raises:
        TimeoutError: it does not within 60 s.
    """
    end = time.monotonic() + 60
    while True:
        # A server that listens may not have a worker yet.
        result = LOADS["get"].run(port, 1)
        if result.done > 10 and not result.failed:
            break
        if time.monotonic() > end:
            raise TimeoutError("it does not answer")
    if LOADS[load_name].workers == 1 and not LOADS[load_name].groups:
        LOADS[load_name].run(port, _WARM_UP_S)


def _client_seconds() -> float:
    """CPU time of the load generator: this process, and those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, and write them and the figures to ``benchmarks/results``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often all are measured (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each is (default: %(default)s)")
    parser.add_argument("--loads", default=",".join(LOADS), help=f"which work (default: {','.join(LOADS)})")
    present = ",".join(name for name in NAMES if name != "pushpin" or program(name))
    parser.add_argument("--subjects", default=present, help="which servers (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write the results to benchmarks/results")
    given = parser.parse_args(arguments)
    end_in_order()
    subjects, loads = given.subjects.split(","), given.loads.split(",")
    for what, names, known in (("server", subjects, NAMES), ("load", loads, tuple(LOADS))):
        for name in names:
            if name not in known:
                parser.error(f"no such {what}: {name!r}; there are: {', '.join(known)}")
    needed = ["wrk", "redis-server", *(["pushpin"] if "pushpin" in subjects else [])]
    if "uvicorn" in subjects and any(LOADS[load].workers > 1 for load in loads):
        needed.append("haproxy")
    missing = [name for name in needed if program(name) is None]
    if missing:
        parser.error(f"not installed, and needed: {', '.join(missing)}")
    measured: list[Measurement] = []
    for round_ in range(given.rounds):
        for load in loads:
            for name in subjects:
                if not plays(name, LOADS[load].workers, LOADS[load].websockets, LOADS[load].groups):
                    continue
                measurement = measure(name, load, round_, given.seconds)
                measured.append(measurement)
                costs = ", ".join(f"{role} {cost:.1f}" for role, cost in measurement.cpu_us.items())
                print(f"{round_ + 1}/{given.rounds} {load:8} {measurement.subject:20} {costs} us", file=sys.stderr)
    about = dict(describe(("ifserver", "twisted", "uvloop", "hiredis", "autobahn"), ROOT))
    about |= {name: versions_of(name) for name in subjects if name == "pushpin" or name in PEERS}
    text = markdown(measured, about)
    print(text)
    if given.write:
        _write(measured, about, text)
    return 0


def _write(measured: Sequence[Measurement], about: dict[str, str], text: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}-{about['commit']}"
    Path(f"{stem}.md").write_text(text, encoding="utf-8")
    figures = {"about": about, "measured": to_builtins(measured)}
    Path(f"{stem}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
