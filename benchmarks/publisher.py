"""Sends 100 bytes to the room, from a process of its own: ``python -m benchmarks.publisher HOW [PORT [TOKEN]]``.

Once for each line that it reads; it writes one as soon as that is done. ``HOW`` is

* ``request``: it asks the application on `PORT` to do it;
* ``admin``: it asks the admin endpoint on `PORT`, with a token;
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


def _by_request(port: str) -> Callable[[], object]:
    return _by_http(port, b"GET /news HTTP/1.1\r\nhost: localhost\r\n\r\n", HELLO)


def _by_admin(port: str, token: str) -> Callable[[], object]:
    fields = f"host: localhost\r\nauthorization: Bearer {token}\r\ncontent-type: text/plain\r\n"
    request = f"POST /groups/room HTTP/1.1\r\n{fields}content-length: {len(NEWS)}\r\n\r\n{NEWS}"
    return _by_http(port, request.encode(), b"}")


def _by_http(port: str, request: bytes, end: bytes) -> Callable[[], object]:
    """Send always the same on one connection; `end` is how an answer ends."""
    client = socket.create_connection(("127.0.0.1", int(port)))

    def publish() -> None:
        client.sendall(request)
        answer = b""
        while not answer.endswith(end):
            received = client.recv(65_536)
            if not received:
                raise ConnectionError(f"the connection was closed after {answer!r}")
            answer += received

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


def main(how: str, *where: str) -> None:
    """Publish, as said above, until there are no more lines."""
    ways: dict[str, Callable[..., Callable[[], object]]]
    ways = {"request": _by_request, "admin": _by_admin, "nodes": _by_nodes, "layer": _by_layer}
    publish = ways[how](*where)
    for _ in sys.stdin:
        publish()
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
