"""A process that hears one group until ``the end`` is published there: ``hearer KIND ADDRESS GROUP``.

It writes a line when it has subscribed, and at the end one with what it has heard, as JSON.
"""

from __future__ import annotations

import json
import sys

import uvloop

from ifserver.process.reactor import install

install(uvloop.new_event_loop())

from twisted.internet import reactor  # noqa: E402
from twisted.internet.defer import Deferred  # noqa: E402

from tests.layers.harnesses import HARNESSES  # noqa: E402
from tests.layers.helpers import eventually, listen  # noqa: E402


async def hear(kind: str, address: str, group: str) -> None:
    """Hear it all."""
    harness = HARNESSES[kind]()
    harness.address = address
    node = harness.make()
    ear = listen(node)
    node.start()
    await node.subscribe([group])
    print("ready", flush=True)
    await eventually(lambda: ear.heard and ear.heard[-1][1] == b"the end")
    heard = [payload.decode() for payload in ear.of(group)[:-1]]
    print(json.dumps({"heard": heard, "interruptions": ear.interruptions}), flush=True)
    await node.stop()


def main() -> None:
    """Run the reactor until that is done."""

    def start() -> None:
        running = Deferred.fromCoroutine(hear(*sys.argv[1:]))
        running.addErrback(lambda failure: print(failure.getTraceback(), file=sys.stderr))
        running.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(start)
    reactor.run()


if __name__ == "__main__":
    main()
