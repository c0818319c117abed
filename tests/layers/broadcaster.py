"""A process that publishes in a group and ends: ``broadcaster KIND ADDRESS GROUP COUNT``.

It writes its name, and how many processes were handed what it has published, as JSON.
"""

from __future__ import annotations

import json
import sys

import uvloop

from ifserver.process.reactor import install

install(uvloop.new_event_loop())

from twisted.internet import reactor  # noqa: E402
from twisted.internet.defer import Deferred, gatherResults  # noqa: E402

from ifserver import channels  # noqa: E402
from ifserver.layers.clusters import Clusters  # noqa: E402
from ifserver.metrics import Counters  # noqa: E402
from tests.layers.harnesses import HARNESSES  # noqa: E402
from tests.layers.helpers import turn  # noqa: E402


async def broadcast(kind: str, address: str, group: str, count: str) -> None:
    """Publish `count` texts, some in each turn."""
    harness = HARNESSES[kind]()
    harness.address = address
    process = channels.new_process_name()
    node = harness.make()
    clusters = Clusters(process, {"east": [node]}, "east", reactor, lambda call: call(), Counters())
    clusters.start()
    await node.ready()
    handed: list[int] = []
    for i in range(0, int(count), 20):
        some = [clusters.groups.publish(group, text=f"{process} {n}") for n in range(i, min(i + 20, int(count)))]
        handed += await gatherResults(some)
        await turn()
    print(json.dumps({"process": process, "handed": sum(handed)}), flush=True)
    await clusters.stop()


def main() -> None:
    """Run the reactor until that is done."""

    def start() -> None:
        running = Deferred.fromCoroutine(broadcast(*sys.argv[1:]))
        running.addErrback(lambda failure: print(failure.getTraceback(), file=sys.stderr))
        running.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(start)
    reactor.run()


if __name__ == "__main__":
    main()
