"""What the programs beside this file share: a reactor, and the node that their arguments name.

Importing this installs the reactor, so it comes first.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Awaitable, Callable

from ifserver.net.lean_imports import be_lean, begin_twisted

# As the command does: imports are most of the CPU that these programs take.
gc.disable()
be_lean()

# isort: split
import ifserver.net.standard_library  # noqa: E402, F401

begin_twisted()

# isort: split
import uvloop  # noqa: E402

from ifserver.process.reactor import install  # noqa: E402

install(uvloop.new_event_loop())

from twisted.internet import reactor  # noqa: E402
from twisted.internet.defer import Deferred  # noqa: E402

from ifserver.layers.node import Node  # noqa: E402
from tests.layers.harnesses import HARNESSES  # noqa: E402

__all__ = ["node_at", "reactor", "run"]


def node_at(kind: str, address: str) -> Node:
    """A node of that kind, which is not started."""
    harness = HARNESSES[kind]()
    harness.address = address
    return harness.make()


def run(main: Callable[..., Awaitable[None]]) -> None:
    """Run the reactor until `main` is done, which is given the arguments of the command line."""

    def start() -> None:
        running = Deferred.fromCoroutine(main(*sys.argv[1:]))  # type: ignore[arg-type]
        running.addErrback(lambda failure: print(failure.getTraceback(), file=sys.stderr))
        running.addBoth(lambda _: reactor.stop())

    gc.enable()
    reactor.callWhenRunning(start)
    reactor.run()
