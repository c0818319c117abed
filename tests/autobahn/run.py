"""Runs the Autobahn test suite against ifserver: ``make autobahn``, or with arguments ::

    .venv/bin/python -m tests.autobahn.run [local] [redis] [uncompressed] [--cases 1.* 9.1.*]

``local`` is ``ifserver run``; ``redis`` is ``serve`` and ``worker`` with a real Redis between them; ``uncompressed`` is
``local`` without permessage-deflate. Exit status 1 if a case is anything but OK or INFORMATIONAL; without
compression, the cases that are about it must be UNIMPLEMENTED. The whole results are left in ``test-artefacts``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from tests.autobahn import suite
from tests.e2e.running import EXAMPLES, ROOT, Running
from tests.redis_server import RedisServer

__all__ = ["QUICK", "SETUPS", "Report", "run", "serving"]

HERE = Path(__file__).resolve().parent
#: Where it runs, in the order in which it does.
SETUPS = ("local", "redis", "uncompressed")
#: The cases of each client. These wait more than they work, so all clients at once ...
QUICK = ("1.* 2.* 3.* 4.* 5.* 6.* 7.* 10.* !6.4.*", "6.4.*")
#: ... and these work, so as many clients at once as there are CPUs.
LONG = ("9.*", *(f"12.{i}.*" for i in range(1, 6)), *(f"13.{i}.*" for i in range(1, 8)))
#: How many cases there are in all.
ALL = 517

GOOD = frozenset({"OK", "INFORMATIONAL"})
#: The categories that are about compression.
COMPRESSED = frozenset({"12", "13"})


class Report:
    """What came of the cases."""

    def __init__(self, results: list[dict[str, Any]], missing: list[str], errors: list[str], compressed: bool) -> None:
        self.results = sorted(results, key=lambda result: _number(result["id"]))
        #: Cases that were not run, and errors of the suite's own.
        self.missing = missing
        self.errors = errors
        self._compressed = compressed

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The cases whose result is not as it should be."""
        return [result for result in self.results if not self._good(result)]

    @property
    def ok(self) -> bool:
        """Whether all is as it should be."""
        return bool(self.results) and not self.failed and not self.missing and not self.errors

    def __str__(self) -> str:
        lines = []
        for category, results in groupby(self.results, lambda result: result["id"].partition(".")[0]):
            counts = Counter(map(_verdict, results))
            lines.append(f"  {category:>2}  " + ", ".join(f"{counts[name]} {name}" for name in sorted(counts)))
        if cases := [result["id"] for result in self.results if _verdict(result) == "INFORMATIONAL"]:
            lines.append(f"  INFORMATIONAL: {' '.join(cases)}")
        for result in self.failed:
            what = f"{_verdict(result)}: {result['result']} {result['resultClose']}"
            lines.append(f"  {result['id']} {what} (closed with {result['remoteCloseCode']})")
        lines += [f"  {case} was not run" for case in self.missing]
        lines += [f"  the suite itself failed: {error}" for error in self.errors]
        return "\n".join(lines)

    def _good(self, result: dict[str, Any]) -> bool:
        if not self._compressed and result["id"].partition(".")[0] in COMPRESSED:
            return result["behavior"] == "UNIMPLEMENTED" and result["behaviorClose"] == "OK"
        return result["behavior"] in GOOD and result["behaviorClose"] in GOOD


class _Serving(NamedTuple):
    url: str
    compressed: bool


@contextmanager
def serving(setup: str) -> Iterator[_Serving]:
    """The example's echo, served as `setup` says."""
    compressed = setup != "uncompressed"
    environment = {
        "IFSERVER_FRONT_WEBSOCKET_COMPRESSION": "on" if compressed else "off",
        # The suite's messages are as large as that.
        "IFSERVER_FRONT_MAX_WEBSOCKET_MESSAGE_BYTES": "16MiB",
        "IFSERVER_WORKER_MAX_WEBSOCKET_MESSAGE_BYTES": "16MiB",
    }

    with ExitStack() as stack:

        def start(*words: str, app_dir: Path | None = None) -> Running:
            return stack.enter_context(Running(*words, app_dir=app_dir, environment=environment))

        if setup == "redis":
            redis = stack.enter_context(RedisServer())
            cluster = ("--cluster", f"main=redis://127.0.0.1:{redis.port}")
            server = start("serve", "-p", "0", *cluster)
            start("worker", "hello:app", "--processes", "2", *cluster, app_dir=EXAMPLES).ready()
        else:
            server = start("run", "hello:app", "-p", "0", "--workers", "2", app_dir=EXAMPLES).ready()
        yield _Serving(f"ws://127.0.0.1:{server.port}/ws", compressed)


def run(served: _Serving, quick: Sequence[str] = QUICK, long: Sequence[str] = LONG) -> Report:
    """Run the cases that fit these patterns, each with a client of its own; it may be several with spaces between."""
    python = suite.made()
    results, missing, errors = [], [], []
    with tempfile.TemporaryDirectory() as folder:

        def client(patterns: str) -> dict[str, Any]:
            output = Path(folder, f"{patterns.replace(' ', '_')}.json")
            command = [*python, str(HERE / "client.py"), served.url, str(output), *patterns.split()]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode or not output.exists():
                return {"results": [], "missing": [patterns], "errors": [done.stdout]}
            answer: dict[str, Any] = json.loads(output.read_text())
            return answer

        # One after the other: the quick ones are about what comes in time.
        for patterns, at_once in ((quick, len(quick)), (long, os.cpu_count() or 1)):
            if patterns:
                with ThreadPoolExecutor(at_once) as pool:
                    for answer in pool.map(client, patterns):
                        results += answer["results"]
                        missing += answer["missing"]
                        errors += answer["errors"]
    return Report(results, missing, errors, served.compressed)


def _verdict(result: dict[str, Any]) -> str:
    """The worse one of what the suite says of the messages and of the end."""
    behavior, close = str(result["behavior"]), str(result["behaviorClose"])
    return behavior if close in GOOD else f"{behavior}, end {close}"


def _number(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.autobahn.run")
    parser.add_argument("setups", nargs="*", metavar="SETUP", help=f"of {', '.join(SETUPS)} (default: all)")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="only these, for example 1.* 9.1.1")
    given = parser.parse_args()
    if unknown := set(given.setups) - set(SETUPS):
        parser.error(f"no such setup: {', '.join(sorted(unknown))}")
    status = 0
    artefacts = ROOT / "test-artefacts"
    for setup in given.setups or SETUPS:
        began = time.monotonic()
        with serving(setup) as served:
            report = run(served, (), given.cases) if given.cases else run(served)
        if given.cases is None and len(report.results) != ALL:
            report.errors.append(f"{len(report.results)} cases instead of {ALL}")
        artefacts.mkdir(exist_ok=True)
        file = artefacts / f"autobahn-{setup}.json"
        file.write_text(json.dumps(report.results, indent=1))
        verdict = "as it should be" if report.ok else "NOT as it should be"
        print(f"{setup}: {verdict}, after {time.monotonic() - began:.0f} s; {file}\n{report}", flush=True)
        status |= not report.ok
    return status


if __name__ == "__main__":
    sys.exit(main())
