"""The application under chaos: what it answers can be checked byte by byte, and what it runs is written down.

The folder in ``CHAOS_RUNS`` has one file for each process, with a line for each beginning and each end of a run. The
lines reach the kernel before anything else happens, so ``kill -9`` loses none of them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from zlib import crc32

from ifserver.errors import NodeError
from tests.chaos.pattern import pattern

Event = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

#: The group of `room` and `publish`.
ROOM = "room"
#: Bytes of one piece of a download.
PIECE = 48 * 1024

_runs: list[int] = []


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The application."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    name = asked(scope, "id")
    _note("began", name)
    how = "cancelled"
    try:
        await PAGES[scope["path"]](scope, receive, send)
        how = "returned"
    except OSError:
        how = "gone"  # the client has left
    finally:
        _note(how, name)


async def _lifespan(receive: Receive, send: Send) -> None:
    await receive()
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    _runs.append(os.open(Path(os.environ["CHAOS_RUNS"], f"{os.getpid()}.{time.monotonic_ns()}"), flags))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def _note(what: str, name: str) -> None:
    os.write(_runs[0], f"{what} {name} {os.getpid()} {time.monotonic():.4f}\n".encode())


def asked(scope: Scope, name: str, default: str = "") -> str:
    """A parameter of the query."""
    query: bytes = scope["query_string"]
    return parse_qs(query.decode()).get(name, [default])[0]


async def _respond(send: Send, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body)), (b"x-pid", b"%d" % os.getpid())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    """A small body, after ``s`` seconds."""
    seconds = float(asked(scope, "s", "0"))
    if seconds:
        await asyncio.sleep(seconds)
    await _respond(send, pattern(asked(scope, "id"), 0, int(asked(scope, "bytes"))))


async def download(scope: Scope, receive: Receive, send: Send) -> None:
    """A large body in pieces, with its length or (``chunked``) without."""
    name, size = asked(scope, "id"), int(asked(scope, "bytes"))
    headers = [(b"x-pid", b"%d" % os.getpid())]
    if not asked(scope, "chunked"):
        headers.append((b"content-length", b"%d" % size))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for start in range(0, size, PIECE):
        piece = pattern(name, start, min(PIECE, size - start))
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


async def upload(scope: Scope, receive: Receive, send: Send) -> None:
    """What the body was: its length and its checksum."""
    size = checksum = 0
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectionError
        body = event.get("body", b"")
        size += len(body)
        checksum = crc32(body, checksum)
        more = event.get("more_body", False)
    await _respond(send, b"%d %08x" % (size, checksum))


async def events(scope: Scope, receive: Receive, send: Send) -> None:
    """Server-sent events with numbers."""
    name, count, pause = asked(scope, "id"), int(asked(scope, "count")), float(asked(scope, "s"))
    headers = [(b"content-type", b"text/event-stream"), (b"x-pid", b"%d" % os.getpid())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number in range(count):
        await send({"type": "http.response.body", "body": f"data: {name} {number}\n\n".encode(), "more_body": True})
        await asyncio.sleep(pause)
    await send({"type": "http.response.body"})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends back what it gets, and says in the handshake who it is."""
    await receive()
    await send({"type": "websocket.accept", "headers": [(b"x-pid", b"%d" % os.getpid())]})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


async def room(scope: Scope, receive: Receive, send: Send) -> None:
    """Is a member of the group, in whichever worker; says so if messages were lost."""
    await receive()
    await send({"type": "ifserver.group.add", "group": ROOM, "gaps": True})
    await send({"type": "websocket.accept", "resumable": True, "headers": [(b"x-pid", b"%d" % os.getpid())]})
    while (event := await receive())["type"] != "websocket.disconnect":
        if event["type"] == "ifserver.group.gap":
            await send({"type": "websocket.send", "text": f"gap {event['count']}"})


async def publish(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends ``count`` numbered messages to the group. 502: a node has not taken one of them."""
    name = asked(scope, "id")
    try:
        for number in range(int(asked(scope, "count"))):
            await send({"type": "ifserver.group.send", "group": ROOM, "text": f"{name} {number}"})
    except NodeError:
        await send({"type": "http.response.start", "status": 502})
        await send({"type": "http.response.body"})
        return
    await _respond(send, pattern(name, 0, 80))


PAGES: dict[str, Callable[[Scope, Receive, Send], Awaitable[None]]] = {
    "/page": page, "/download": download, "/upload": upload, "/events": events, "/echo": echo,
    "/room": room, "/publish": publish,
}  # fmt: skip
