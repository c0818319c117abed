"""The smallest complete ASGI 3 application: plain functions, no framework, nothing but the standard library.

    ifserver run hello:app --app-dir examples

* ``GET /`` answers ``Hello, world!``.
* ``POST /echo`` sends the request's body back, each chunk as it arrives. Nothing is gathered up, so a large body needs
  a client that reads while it writes, as curl does.
* ``/ws`` is a WebSocket that echoes text and binary messages, and speaks the subprotocol ``echo`` if it is offered.
"""

from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["app"]

Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SUBPROTOCOL = "echo"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    match scope:
        case {"type": "lifespan"}:
            await lifespan(receive, send)
        case {"type": "http", "method": "GET" | "HEAD", "path": "/"}:
            await respond(send, 200, b"Hello, world!\n")
        case {"type": "http", "method": "POST", "path": "/echo"}:
            await echo_body(receive, send)
        case {"type": "http"}:
            await respond(send, 404, b"Not found\n")
        case {"type": "websocket", "path": "/ws"}:
            await echo_messages(scope, receive, send)
        case {"type": "websocket"}:
            await send({"type": "websocket.close"})
        case _:
            raise ValueError(f"unknown scope type: {scope['type']!r}")


async def respond(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo_body(receive: Receive, send: Send) -> None:
    # Never the request's own content type: what came from a stranger must not be run by a browser.
    headers = [(b"content-type", b"application/octet-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    more_body = True
    while more_body:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more_body = message.get("more_body", False)
        await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more_body})


async def echo_messages(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    offered = scope.get("subprotocols", [])
    await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL if SUBPROTOCOL in offered else None})
    while (message := await receive())["type"] == "websocket.receive":
        # One of the two keys may be absent or None; an empty message is a message too.
        if message.get("text") is not None:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


async def lifespan(receive: Receive, send: Send) -> None:
    await receive()  # lifespan.startup
    await send({"type": "lifespan.startup.complete"})
    await receive()  # lifespan.shutdown
    await send({"type": "lifespan.shutdown.complete"})
