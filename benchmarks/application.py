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


async def app(scope: Any, receive: Any, send: Any) -> None:
    """``/``, ``/10k`` (after the request's body), ``/mib``, ``/bytes/N``, ``/slow`` (200 ms of CPU), ``/wait`` (50 ms);
    and an echo over WebSocket."""
    kind = scope["type"]
    if kind == "http":
        await answer(scope["path"], receive, send)
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
