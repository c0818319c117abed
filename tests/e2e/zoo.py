"""An ASGI application with one of everything, for tests that look at it from outside."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import re
import subprocess
import time
import warnings
from abc import ABC, abstractmethod
from collections import UserList
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import parse_qs

Event = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
T = TypeVar("T")

held = 0


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The application."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    global held
    held += 1
    try:
        pages = PAGES if scope["type"] == "http" else SOCKETS
        await pages.get(scope["path"].removeprefix(scope["root_path"]), not_found)(scope, receive, send)
    finally:
        held -= 1


async def lifespan(receive: Receive, send: Send) -> None:
    await receive()
    refused = os.environ.get("ZOO_STARTUP_FAILED")
    if refused:
        await send({"type": "lifespan.startup.failed", "message": refused})
        return
    crash = os.environ.get("ZOO_CRASH")
    if crash and Path(crash).exists():
        os._exit(7)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def asked(scope: Scope, name: str, default: str = "") -> str:
    """A parameter of the query."""
    return parse_qs(scope["query_string"].decode()).get(name, [default])[0]


async def respond(
    send: Send, body: bytes, status: int = 200, headers: Any = ((b"content-type", b"text/plain"),)
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def read(receive: Receive) -> bytes:
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            return body


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await respond(send, b"nothing here", 404)
    else:
        await receive()
        await send({"type": "websocket.close"})


async def pid(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, str(os.getpid()).encode())


# Classes that are derived from the standard library's.


class Abstract(ABC):
    @property
    @abstractmethod
    def name(self) -> str: ...


class Concrete(Abstract):
    name = "concrete"


class Generated(Generic[T]): ...


class Structural(Protocol): ...


class Structure(Structural): ...


class Connected(asyncio.Protocol): ...


class Listed(UserList[int]): ...


async def looked_at(scope: Scope, receive: Receive, send: Send) -> None:
    """What an application can see of the process in which it runs, as JSON: classes, pickling, warnings, signals."""
    seen: dict[str, Any] = {}
    for instance in (Concrete(), Generated[int](), Structure(), Connected(), Listed(), logging.getLogger("zoo")):
        # Gradio does this when it starts.
        seen[type(instance).__name__] = [(name, type(getattr(instance, name)).__name__) for name in dir(instance)]
    seen["pickled"] = pickle.dumps(Listed([1]).count).decode("latin-1")
    seen["warnings"] = warnings.showwarning.__module__
    seen["of systemd"] = [name for name in os.environ if name.startswith(("NOTIFY_", "WATCHDOG_", "LISTEN_"))]
    # What programs inherit that are started here.
    status = subprocess.run(["cat", "/proc/self/status"], check=True, stdout=subprocess.PIPE, text=True).stdout
    seen["signals"] = re.findall("Sig(?:Blk|Ign):.*", status)
    await respond(send, json.dumps(seen).encode())


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """The body as it comes, with Content-Length if the request had one."""
    given = dict(scope["headers"])
    names = (b"content-type", b"content-length")
    headers = [(name, given[name]) for name in names if name in given]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    more = True
    while more:
        event = await receive()
        more = event.get("more_body", False)
        await send({"type": "http.response.body", "body": event.get("body", b""), "more_body": more})


async def whole(scope: Scope, receive: Receive, send: Send) -> None:
    """The body, once all of it is there."""
    await respond(send, await read(receive))


async def count(scope: Scope, receive: Receive, send: Send) -> None:
    """How many bytes the body has; none is kept."""
    total, more = 0, True
    while more:
        event = await receive()
        total += len(event.get("body", b""))
        more = event.get("more_body", False)
    await respond(send, b"%d" % total)


async def show(scope: Scope, receive: Receive, send: Send) -> None:
    """The scope, as JSON; ports of clients differ, so only whether there is one is told."""
    body = await read(receive)
    names = ("type", "http_version", "method", "scheme", "path", "root_path", "server", "subprotocols")
    shown: dict[str, Any] = {name: scope.get(name) for name in names}
    shown["raw_path"] = scope["raw_path"].decode("latin-1")
    shown["query_string"] = scope["query_string"].decode("latin-1")
    shown["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    shown["client"] = scope["client"] and scope["client"][0]
    shown["body"] = body.decode("latin-1")
    await respond(send, json.dumps(shown, indent=1).encode(), headers=[(b"content-type", b"application/json")])


async def duplicates(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"set-cookie", b"a=1"), (b"x-between", b"  "), (b"set-cookie", b"b=2"), (b"x-latin", b"\xe9")]
    await respond(send, b"cookies", headers=headers)


async def status(scope: Scope, receive: Receive, send: Send) -> None:
    """Any status, with or without a body and its length."""
    body = asked(scope, "body").encode()
    headers = [(b"etag", b'"x"')]
    if asked(scope, "length"):
        headers.append((b"content-length", asked(scope, "length").encode()))
    await respond(send, body, int(asked(scope, "status", "200")), headers)


async def large_headers(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"", headers=[(b"x-%d" % i, b"v" * 1000) for i in range(40)])


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Some pieces without a length, one of them empty."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    for piece in (b"one,", b"", b"two,", b"three"):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    """As many bytes as asked for, in pieces."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(int(asked(scope, "pieces", "1"))):
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
    await send({"type": "http.response.body"})


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("before the start")


async def fails_late(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    raise RuntimeError("after the start")


async def returns(scope: Scope, receive: Receive, send: Send) -> None:
    """Nothing is said at all."""


def come(gate: str) -> None:
    """Leave a file that says who waits at `gate`, and when it came."""
    Path(f"{gate}.{os.getpid()}.{time.monotonic_ns()}").touch()


async def at(gate: str) -> None:
    come(gate)
    while not await asyncio.to_thread(os.path.exists, gate):
        await asyncio.sleep(0.01)


async def wait(scope: Scope, receive: Receive, send: Send) -> None:
    await at(asked(scope, "gate"))
    await respond(send, str(os.getpid()).encode())


async def block(scope: Scope, receive: Receive, send: Send) -> None:
    """As `wait`, but nothing else of this process runs meanwhile."""
    gate = asked(scope, "gate")
    come(gate)
    while not os.path.exists(gate):
        time.sleep(0.01)
    await respond(send, str(os.getpid()).encode())


async def half(scope: Scope, receive: Receive, send: Send) -> None:
    """A response that waits in its middle."""
    length = asked(scope, "length")
    headers = [(b"content-length", length.encode())] if length else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode(), "more_body": True})
    await at(asked(scope, "gate"))
    await send({"type": "http.response.body", "body": b"end"})


async def source(scope: Scope, receive: Receive, send: Send) -> None:
    """An event source that has nothing to tell for long."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await at(asked(scope, "gate"))
    await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
    await send({"type": "http.response.body"})


async def ws_echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepts at once, says who it is in a header, and sends back what it gets."""
    await receive()
    headers = [(b"x-pid", str(os.getpid()).encode()), (b"x-held", str(held).encode())]
    offered = scope["subprotocols"]
    await send({"type": "websocket.accept", "subprotocol": offered[-1] if offered else None, "headers": headers})
    while (event := await receive())["type"] == "websocket.receive":
        if event.get("text") is not None:
            await send({"type": "websocket.send", "text": event["text"]})
        else:
            await send({"type": "websocket.send", "bytes": event["bytes"]})


async def ws_close(scope: Scope, receive: Receive, send: Send) -> None:
    """Closes as the first message says: ``{"code": ..., "reason": ...}``."""
    await receive()
    await send({"type": "websocket.accept"})
    wish = json.loads((await receive())["text"])
    await send({"type": "websocket.close", **wish})


async def ws_report(scope: Scope, receive: Receive, send: Send) -> None:
    """Writes the close code that it was told into the file in the query."""
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        pass
    report = Path(asked(scope, "report"))
    report.with_suffix(".draft").write_text(json.dumps([event["code"], event.get("reason") or ""]))
    report.with_suffix(".draft").rename(report)


async def ws_large(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends a text and bytes of three million each, which is more than any client may send."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "large!" * 500_000})
    await send({"type": "websocket.send", "bytes": b"large!" * 500_000})
    await receive()


async def ws_resume(scope: Scope, receive: Receive, send: Send) -> None:
    """Outlives its workers: says when it is resumed, and sends back what it gets with the number of its process."""
    await receive()
    resume = scope["extensions"]["websocket.resume"]
    if resume["resumed"] and asked(scope, "gate"):
        await at(asked(scope, "gate"))
    await send({"type": "websocket.accept", "resumable": True})
    if resume["resumed"]:
        await send({"type": "websocket.send", "text": f"resumed {resume['unconfirmed']}"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{os.getpid()} {event['text']}"})


async def ws_room(scope: Scope, receive: Receive, send: Send) -> None:
    """A member of the group in the query: sends there what it gets, and its client the gaps. Outlives its workers."""
    await receive()
    room = asked(scope, "group")
    await send({"type": "ifserver.group.add", "group": room, "gaps": True, "tag": asked(scope, "tag")})
    await send({"type": "websocket.accept", "resumable": True})
    while (event := await receive())["type"] != "websocket.disconnect":
        if event["type"] == "ifserver.group.gap":
            await send({"type": "websocket.send", "text": f"gap {event['count']}"})
        elif event["text"] == "leave":
            await send({"type": "ifserver.group.discard", "group": room})
            await send({"type": "websocket.send", "text": "left"})
        else:
            await send({"type": "ifserver.group.send", "group": room, "text": event["text"]})


async def room_events(scope: Scope, receive: Receive, send: Send) -> None:
    """A response that is a member of the group in the query."""
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "ifserver.group.add", "group": asked(scope, "group")})
    await send({"type": "http.response.body", "body": b"data: joined\n\n", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass


async def publish(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends the body to the group in the query, from a coroutine or (``?thread=1``) from a thread. Says to how many
    processes."""
    from ifserver import groups

    group, text = asked(scope, "group"), (await read(receive)).decode()
    if asked(scope, "thread"):
        count = await asyncio.to_thread(groups.publish, group, text=text)
    else:
        count = await groups.send(group, text=text)
    await respond(send, str(count).encode())


async def ws_deny(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"no")]})
    await send({"type": "websocket.http.response.body", "body": b"who are you?"})


async def ws_deny_late(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.http.response.start", "status": 403, "headers": [(b"content-length", b"2")]})
    await at(asked(scope, "gate"))
    await send({"type": "websocket.http.response.body", "body": b"no"})


async def ws_fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("before the accept")


async def ws_fails_late(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    raise RuntimeError("after the accept")


async def complete(scope: Scope, receive: Receive, send: Send) -> None:
    """A response that its client takes for complete before it has been ended here."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"done", "more_body": True})
    await at(asked(scope, "gate"))
    await send({"type": "http.response.body"})


PAGES: dict[str, Callable[[Scope, Receive, Send], Awaitable[None]]] = {
    "/": pid, "/echo": echo, "/whole": whole, "/count": count, "/show": show, "/show/a b": show,
    "/duplicates": duplicates, "/status": status, "/large-headers": large_headers, "/stream": stream, "/large": large,
    "/fails": fails, "/fails-late": fails_late, "/returns": returns, "/wait": wait, "/block": block, "/half": half,
    "/source": source, "/looked-at": looked_at, "/complete": complete, "/events": room_events,
    "/publish": publish,
}  # fmt: skip
SOCKETS: dict[str, Callable[[Scope, Receive, Send], Awaitable[None]]] = {
    "/ws": ws_echo, "/close": ws_close, "/report": ws_report, "/deny": ws_deny, "/fails": ws_fails,
    "/fails-late": ws_fails_late, "/large": ws_large, "/resume": ws_resume, "/deny-late": ws_deny_late,
    "/room": ws_room,
}  # fmt: skip
