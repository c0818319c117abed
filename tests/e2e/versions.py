"""An application that says which version it is: VERSION in its environment. The version ``next`` is a bad one."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

VERSION = os.environ.get("VERSION", "now")

_Receive = Callable[[], Awaitable[dict[str, Any]]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
    if scope["type"] == "http":
        status = 500 if scope["path"] == "/bad" and VERSION == "next" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": VERSION.encode()})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": VERSION})
    else:
        raise NotImplementedError
