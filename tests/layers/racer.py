"""A process that takes messages from one channel until its standard input ends: ``racer KIND ADDRESS CHANNEL``.

It writes a line when it is connected, and at the end one with what it has taken, as JSON.
"""

from __future__ import annotations

import json
import select

from tests.layers.program import node_at, run


async def race(kind: str, address: str, channel: str) -> None:
    """Take what there is, three messages at a time."""
    node = node_at(kind, address)
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


if __name__ == "__main__":
    run(race)
