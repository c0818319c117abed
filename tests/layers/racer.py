"""A process that takes messages from one channel until its standard input ends: ``racer KIND ADDRESS CHANNEL``.

It writes a line when it is connected, and at the end one with what it has taken, as JSON.
"""

from __future__ import annotations

import json
import select
import sys

import uvloop

from ifserver.process.reactor import install

install(uvloop.new_event_loop())

from twisted.internet import reactor  # noqa: E402
from twisted.internet.defer import Deferred  # noqa: E402

from tests.layers.harnesses import HARNESSES  # noqa: E402


async def race(kind: str, address: str, channel: str) -> None:
    """Take what there is, three messages at a time."""
    harness = HARNESSES[kind]()
    harness.address = address
    node = harness.make()
    node.start()
    await node.ready()
    print("ready", flush=True)
    taken: list[str] = []
    over = False
    while True:
        pulled = await node.pull((channel,), 3, 0.1)
        if pulled is not None:
            taken += [payload.decode() for payload in pulled.payloads]
        elif over:
            break
        else:
            # No more is pushed once it has ended, so the next read that brings nothing is the last.
            over = bool(select.select([0], [], [], 0)[0])
    print(json.dumps(taken), flush=True)
    await node.stop()


def main() -> None:
    """Run the reactor until the race is over."""

    def start() -> None:
        running = Deferred.fromCoroutine(race(*sys.argv[1:]))
        running.addErrback(lambda failure: print(failure.getTraceback(), file=sys.stderr))
        running.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(start)
    reactor.run()


if __name__ == "__main__":
    main()
