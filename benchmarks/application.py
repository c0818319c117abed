"""The bare ASGI application that all servers run: no framework, so that what is measured is the server."""

from __future__ import annotations

import asyncio
import time
from typing import Any

__all__ = ["app"]

HELLO = b"Hello, world!"
TEN_KB = b"x" * 10_240
MIB = b"x" * 1024 * 1024
PLAIN = (b"content-type", b"text/plain")
#: What is sent to the members of the room.
NEWS = "x" * 100
#: The ``send`` of each member, where the server has no groups.
members: set[Any] = set()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """``/``, ``/10k`` (after the request's body), ``/mib``, ``/bytes/N``, ``/slow`` (200 ms of CPU), ``/wait`` (50 ms);
    an echo over WebSocket; and a room (``/room`` over WebSocket), to which ``/news`` sends 100 bytes."""
    kind = scope["type"]
    if kind == "http":
        if scope["path"] == "/news":
            await broadcast(scope, send)
        await answer(scope["path"], receive, send)
    elif kind == "websocket" and scope["path"] == "/room":
        await join(scope, receive, send)
    elif kind == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            if (text := event.get("text")) is not None:
                await send({"type": "websocket.send", "text": text})
            else:
                await send({"type": "websocket.send", "bytes": event["bytes"]})
    else:
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})


async def join(scope: Any, receive: Any, send: Any) -> None:
    """Be a member of the room until the client leaves."""
    has_groups = "ifserver.groups" in (scope.get("extensions") or {})
    await receive()
    if has_groups:
        await send({"type": "ifserver.group.add", "group": "room"})
    await send({"type": "websocket.accept"})
    if not has_groups:
        members.add(send)
    while (await receive())["type"] == "websocket.receive":
        pass
    members.discard(send)


async def broadcast(scope: Any, send: Any) -> None:
    """Send something to all members of the room."""
    if "ifserver.groups" in (scope.get("extensions") or {}):
        await send({"type": "ifserver.group.send", "group": "room", "text": NEWS})
    else:
        for member in list(members):
            await member({"type": "websocket.send", "text": NEWS})


async def answer(path: str, receive: Any, send: Any) -> None:
    body = HELLO
    if path == "/10k":
        while (await receive()).get("more_body"):
            pass
        body = TEN_KB
    elif path == "/mib":
        body = MIB
    elif path.startswith("/bytes/"):
        body = MIB[: int(path[7:])]
    elif path == "/slow":
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            pass
    elif path == "/wait":
        await asyncio.sleep(0.05)
    headers = [PLAIN, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
