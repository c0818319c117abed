"""A process that hears one group until ``the end`` is published there: ``hearer KIND ADDRESS GROUP``.

It writes a line when it has subscribed, and at the end one with what it has heard, as JSON.
"""

from __future__ import annotations

import json

from tests.layers.program import node_at, run  # isort: skip

from tests.layers.helpers import eventually, listen


async def hear(kind: str, address: str, group: str) -> None:
    """Hear it all."""
    node = node_at(kind, address)
    ear = listen(node)
    node.start()
    await node.subscribe([group])
    print("ready", flush=True)
    await eventually(lambda: ear.heard and ear.heard[-1][1] == b"the end")
    heard = [payload.decode() for payload in ear.of(group)[:-1]]
    print(json.dumps({"heard": heard, "interruptions": ear.interruptions}), flush=True)
    await node.stop()


if __name__ == "__main__":
    run(hear)
