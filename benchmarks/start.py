"""How long servers take to start and to stop, and what that costs: ``python -m benchmarks.start``.

All start the same application, one after the other, round by round. Of each are told, as medians of the rounds:

* the time from the start of its process to the first response, in seconds,
* the CPU time of all its processes until it has stopped, in seconds, if it runs for four seconds,
* the time from SIGTERM to its end while it is idle, in seconds,
* the memory of all its processes, in MB: resident (each counts what it shares) and proportional (PSS: each counts its
  share of what is shared), without a WebSocket having been used.

They are quoted as ratios to uvicorn's in the same rounds, for machines differ, and are busy with other things.
"""

from __future__ import annotations

import argparse
import resource
import socket
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.subjects import Ours, Peer, Subject, end_in_order

__all__ = ["Cost", "main", "measure"]

#: How long each runs, in seconds, since its start.
_RUNS_S: Final = 4.0
#: How long the first response may take.
_LIMIT_S: Final = 60.0
_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

#: Who is measured.
SUBJECTS: Final[Mapping[str, Callable[[], Subject]]] = {
    "uvicorn": lambda: Peer("uvicorn"),
    "gunicorn": lambda: Peer("gunicorn"),
    "daphne": lambda: Peer("daphne"),
    "ifserver": lambda: Ours("embedded", 1),
    "ifserver-2": lambda: Ours("embedded", 2),
}


class Cost(NamedTuple):
    """What one run has cost."""

    first_s: float
    cpu_s: float
    stop_s: float
    resident_mb: float
    proportional_mb: float


def measure(subject: Subject) -> Cost:
    """Start a server, wait for its first response, and end it when its time is over."""
    before = _children_cpu_s()
    began = time.monotonic()
    subject.start()
    try:
        while not _responds(subject.port):
            if time.monotonic() - began > _LIMIT_S:
                raise TimeoutError(f"{subject.name} does not respond within {_LIMIT_S:g} s")
            time.sleep(0.005)
        first_s = time.monotonic() - began
        time.sleep(max(0.0, _RUNS_S - first_s))
        memory = [_memory_kib(pid) for pids in subject.roles().values() for pid in pids]
    finally:
        stopping = time.monotonic()
        subject.stop()
        stop_s = time.monotonic() - stopping
    resident, proportional = (sum(each) / 1024 for each in zip(*memory, strict=True))
    return Cost(first_s, _children_cpu_s() - before, stop_s, resident, proportional)


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description="Measures the start of servers.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--subjects", default=",".join(SUBJECTS), help="separated by commas; the first is the reference"
    )
    given = parser.parse_args()
    names = given.subjects.split(",")
    for name in names:
        if name not in SUBJECTS:
            parser.error(f"no such server: {name!r}; there are: {', '.join(SUBJECTS)}")
    end_in_order()
    for name in names:
        measure(SUBJECTS[name]())  # so that its bytecode is compiled, and its files are in memory
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for _ in range(given.rounds):
        for name in names:
            costs[name].append(measure(SUBJECTS[name]()))
    print(table(costs))
    return 0


def table(costs: Mapping[str, list[Cost]]) -> str:
    """The medians, and their ratios to those of the first."""
    medians = {name: Cost(*map(statistics.median, zip(*each, strict=True))) for name, each in costs.items()}
    reference = next(iter(medians.values()))
    lines = [
        "| server | first response, s | CPU, s | stop, s | resident / proportional, MB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, cost in medians.items():
        times = (f"{mine:.2f} ({mine / its:.1f}x)" for mine, its in zip(cost[:3], reference[:3], strict=True))
        lines.append(f"| {name} | {' | '.join(times)} | {cost.resident_mb:.0f} / {cost.proportional_mb:.0f} |")
    return "\n".join(lines)


def _responds(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as client:
            client.settimeout(_LIMIT_S)
            client.sendall(_REQUEST)
            return client.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def _children_cpu_s() -> float:
    """CPU time of the processes that were started from here and have ended, with all theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory_kib(pid: int) -> tuple[int, int]:
    """Resident and proportional memory of a process (proc(5), ``/proc/PID/smaps_rollup``)."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(fields["Rss"].split()[0]), int(fields["Pss"].split()[0])


if __name__ == "__main__":
    sys.exit(main())
