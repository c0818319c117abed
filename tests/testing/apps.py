"""Applications for servers under test."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

Send = Callable[[dict[str, Any]], Any]


async def asgi(scope: dict[str, Any], receive: Callable[[], Any], send: Send) -> None:
    """Answers with the process id and a variable; sends back what comes in a WebSocket."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
    elif scope["type"] == "http":
        if scope["path"] == "/raise":
            raise LookupError("what the application raises")
        body = f"{os.getpid()} {os.environ.get('GREETING')}".encode()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body})
    else:
        raise NotImplementedError


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answers with the path."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]


class Made:
    """What has no name of its own but that of a variable."""

    def __init__(self) -> None:
        self.made_at = time.time()

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Any], send: Send) -> None:
        await asgi(scope, receive, send)


made = Made()


def failing() -> Made:
    """A factory that fails."""
    raise ZeroDivisionError("what the factory raises")
