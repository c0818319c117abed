"""Memory of idle WebSockets: ``python -m benchmarks.idle``."""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Sequence

import uvloop

from benchmarks.bench import warm_up
from benchmarks.machine import resident_bytes
from benchmarks.subjects import subject_named
from benchmarks.websocket_loads import idle_websockets

__all__ = ["main"]


def measure(name: str, count: int) -> dict[str, float]:
    """What each process of a subject has grown by for one of `count` WebSockets, in KiB."""
    with subject_named(name) as subject:
        warm_up(subject.port, "echo")
        roles = subject.roles()
        before = {role: resident_bytes(pids) for role, pids in roles.items()}
        grown: dict[str, float] = {}

        def opened() -> None:
            grown.update({role: (resident_bytes(pids) - before[role]) / count / 1024 for role, pids in roles.items()})

        uvloop.run(idle_websockets(subject.port, count, opened))
        return grown


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the KiB that each process of each subject needs for one idle WebSocket."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="WebSockets (default: %(default)s)")
    parser.add_argument("--subjects", default="redis,embedded,uvicorn", help="which servers (default: %(default)s)")
    given = parser.parse_args(arguments)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for name in given.subjects.split(","):
        grown = measure(name, given.count)
        print(f"{name}: {', '.join(f'{role} {kib:.1f} KiB' for role, kib in grown.items())} each")
    return 0


if __name__ == "__main__":
    sys.exit(main())
