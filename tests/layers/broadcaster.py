"""A process that publishes in a group and ends: ``broadcaster KIND ADDRESS GROUP COUNT``.

It writes its name, and how many processes were handed what it has published, as JSON.
"""

from __future__ import annotations

import json

from tests.layers.program import node_at, reactor, run  # isort: skip

from twisted.internet.defer import gatherResults

from ifserver import channels
from ifserver.layers.clusters import Clusters
from ifserver.metrics import Counters
from tests.layers.helpers import turn


async def broadcast(kind: str, address: str, group: str, count: str) -> None:
    """Publish `count` texts, some in each turn."""
    process = channels.new_process_name()
    node = node_at(kind, address)
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


if __name__ == "__main__":
    run(broadcast)
