"""Sends 100 bytes to the room, from a process of its own: ``python -m benchmarks.publisher HOW [PORT]``.

Once for each line that it reads; it writes one as soon as that is done. ``HOW`` is

* ``request``: it asks the application on `PORT` to do it;
* ``nodes``: through the nodes that the environment names (`ifserver.groups.publish`);
* ``layer``: through the channel layer of Django Channels.

Peers run it too, so it needs nothing but what one way of it needs.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable

from benchmarks.application import HELLO, NEWS

__all__ = ["main"]


def _by_request(port: int) -> Callable[[], object]:
    client = socket.create_connection(("127.0.0.1", port))

    def publish() -> None:
        client.sendall(b"GET /news HTTP/1.1\r\nhost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(HELLO):
            answer += client.recv(65_536)

    return publish


def _by_nodes() -> Callable[[], object]:
    from ifserver import groups

    return lambda: groups.publish("room", text=NEWS)


def _by_layer() -> Callable[[], object]:
    import asyncio

    from channels.layers import get_channel_layer

    import benchmarks.channels_application  # noqa: F401 (it configures Django)

    layer, loop = get_channel_layer(), asyncio.new_event_loop()
    return lambda: loop.run_until_complete(layer.group_send("room", {"type": "news", "text": NEWS}))


def main(how: str, *port: str) -> None:
    """Publish, as said above, until there are no more lines."""
    ways: dict[str, Callable[..., Callable[[], object]]]
    ways = {"request": _by_request, "nodes": _by_nodes, "layer": _by_layer}
    publish = ways[how](*map(int, port))
    for _ in sys.stdin:
        publish()
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
