"""An ASGI application for tests of limits and proxies: it tells what it sees, sends what it must not, and is slow."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

Event = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The application."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    asked = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
    if scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        await {"/bad": bad, "/flood": flood, "/read": read, "/gate": gate, "/page": page, "/long": long}.get(
            scope["path"], seen
        )(scope, receive, send, asked)


def shown(scope: Scope) -> str:
    """Who the client is, as far as the scope tells."""
    names = ("scheme", "client", "server", "root_path", "path", "subprotocols")
    fields = {name: scope.get(name) for name in names}
    fields["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    return json.dumps(fields)


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells the scope, then echoes."""
    await receive()
    offered = scope["subprotocols"]
    await send({"type": "websocket.accept", "subprotocol": offered[0] if offered else None})
    await send({"type": "websocket.send", "text": shown(scope)})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})


async def answer(send: Send, body: bytes, status: int = 200, headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def seen(scope: Scope, receive: Receive, send: Send, asked: dict[str, str]) -> None:
    await answer(send, shown(scope).encode())


async def long(scope: Scope, receive: Receive, send: Send, asked: dict[str, str]) -> None:
    """A response with 12 KB of headers."""
    headers = [(b"x-%d" % i, b"v" * 1000) for i in range(12)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


async def page(scope: Scope, receive: Receive, send: Send, asked: dict[str, str]) -> None:
    await answer(send, bytes(60_000))


def report(asked: dict[str, str], text: str) -> None:
    """Tell the test, in the file that it has named."""
    path = Path(asked.get("report", os.devnull))
    if path == Path(os.devnull):
        return
    path.with_suffix(".draft").write_text(text)
    path.with_suffix(".draft").rename(path)


async def flood(scope: Scope, receive: Receive, send: Send, asked: dict[str, str]) -> None:
    """Sends without an end, and reports what ends it, and how much it had sent."""
    sent = 0
    try:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
            sent += 65536
    except OSError as error:
        report(asked, f"{type(error).__name__} {sent}")
        raise


async def read(scope: Scope, receive: Receive, send: Send, asked: dict[str, str]) -> None:
    """Reads all, and reports how that ended."""
    size = 0
    if "early" in asked:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"early", "more_body": True})
    while (event := await receive())["type"] == "http.request":
        size += len(event["body"])
        if not event["more_body"]:
            await answer(send, str(size).encode())
            return
    report(asked, f"{event['type']} {size}")


async def gate(scope: Scope, receive: Receive, send: Send, asked: dict[str, str]) -> None:
    """Reads nothing of the body until a file is there."""
    report(asked, "here")
    while not await asyncio.to_thread(os.path.exists, asked["gate"]):
        await asyncio.sleep(0.01)
    await read(scope, receive, send, asked)


def start(status: Any = 200, *headers: tuple[Any, Any]) -> Event:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: Any = b"", more: bool = False) -> Event:
    return {"type": "http.response.body", "body": data, "more_body": more}


#: What no application may send, by name.
BAD: dict[str, list[Event]] = {
    "cr": [start(200, (b"x", b"a\rb")), body()],
    "lf": [start(200, (b"x", b"a\nset-cookie: b=c")), body()],
    "crlf": [start(200, (b"x", b"a\r\n\r\n<html>")), body()],
    "nul": [start(200, (b"x", b"a\0b")), body()],
    "name": [start(200, (b"x y", b"a")), body()],
    "name-colon": [start(200, (b"x:", b"a")), body()],
    "name-empty": [start(200, (b"", b"a")), body()],
    "name-crlf": [start(200, (b"x\r\ny", b"a")), body()],
    "text": [start(200, ("x", "a")), body()],
    "status-0": [start(0), body()],
    "status-99": [start(99), body()],
    "status-100": [start(100), body()],
    "status-101": [start(101), body()],
    "status-600": [start(600), body()],
    "status-text": [start("200"), body()],
    "length-none": [start(200, (b"content-length", b"x")), body()],
    "length-signed": [start(200, (b"content-length", b"+1")), body(b"a")],
    "length-two": [start(200, (b"content-length", b"1"), (b"content-length", b"2")), body(b"a")],
    "longer": [start(200, (b"content-length", b"3")), body(b"four")],
    "longer-late": [start(200, (b"content-length", b"3")), body(b"abc", True), body(b"d")],
    "shorter": [start(200, (b"content-length", b"5")), body(b"four")],
    "shorter-late": [start(200, (b"content-length", b"5")), body(b"abc", True), body(b"d")],
    "twice": [start(), body(b"one"), start(), body(b"two")],
    "twice-begun": [start(), body(b"one", True), start()],
    "body-first": [body(b"one")],
    "body-text": [start(), body("one")],
    "unknown": [{"type": "http.response.nonsense"}],
}


async def bad(scope: Scope, receive: Receive, send: Send, asked: dict[str, str]) -> None:
    """Sends what is asked for, and reports the exception."""
    try:
        for event in BAD[asked["how"]]:
            await send(event)
    except Exception as error:
        report(asked, type(error).__name__)
        raise
    report(asked, "nothing")
