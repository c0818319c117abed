"""A page and a chat room over WebSockets: bare ASGI 3 and the standard library.

    ifserver run chat.app:app --app-dir examples

Each WebSocket belongs to one of several worker *processes*, but all of them are in one *group*, which the interface
server keeps (``docs/howto/groups.rst``). What somebody says is added to a log in an SQLite file, and sent to the group
once; the servers write it to every WebSocket. Whoever comes in gets the end of the log as its history, a list of
messages.

Nobody notices when a worker process ends, not even by ``kill -9``, because the WebSockets are *resumable*: they stay
open and stay in the group, and another process calls ``chat()`` again. No message is lost and none is shown twice:

* The page gives each message a random key, and sends one at a time: the next one when the last has come back from the
  group. If a history comes first, the process that had it may be gone, so the page sends it again. The log keeps one
  message of a key.
* A message may come in a history and from the group too, and those of two processes in any order. The page shows each
  id once, in order.
* Where something may have got lost on its way to the group, the server says so, and the history is sent again.

This is a chat for one machine, as SQLite's write-ahead log needs memory that all processes share. With a database
server as its log, and Redis between servers and workers, the same code spreads over any number of machines.

``GET /`` is the page and ``/ws`` the room, both below the ``root_path`` if there is one. The variable ``CHAT_DB`` names
the file; by default it is in the user's cache directory.
"""

import json
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from .log import MessageLog

__all__ = ["PAGE", "Said", "app", "parse"]

Event = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

PAGE = Path(__file__).with_name("page.html")
GROUP = "chat"
NEEDS_GROUPS = "This chat needs a server with groups: ifserver run chat.app:app --app-dir examples"

HISTORY_MESSAGES = 50
NAME_CHARACTERS = 40
TEXT_CHARACTERS = 2000
KEY_CHARACTERS = 64
POLICY_VIOLATION = 1008  # a close code, RFC 6455 section 7.4.1

logger = logging.getLogger(__name__)
cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
log = MessageLog(Path(os.environ.get("CHAT_DB") or cache / "ifserver-chat" / "messages.sqlite3"))


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
    has_groups = "ifserver.groups" in (scope.get("extensions") or {})
    match scope["type"], path:
        case "lifespan", _:
            await lifespan(receive, send)
        case "http", "/" if has_groups:
            await respond(send, 200, "text/html", PAGE.read_bytes())
        case "http", "/":
            logger.error(NEEDS_GROUPS)
            await respond(send, 501, "text/plain", NEEDS_GROUPS.encode())
        case "http", _:
            await respond(send, 404, "text/plain", b"Not found\n")
        case "websocket", "/ws" if has_groups:
            await chat(receive, send)
        case "websocket", _:
            await send({"type": "websocket.close"})
        case unknown, _:
            raise ValueError(f"unknown scope type: {unknown!r}")


async def chat(receive: Receive, send: Send) -> None:
    """One member of the room, from its coming to its leaving; or to the end of this process, and on in the next."""
    await receive()  # websocket.connect
    with suppress(OSError):  # see send_history
        await send({"type": "ifserver.group.add", "group": GROUP, "gaps": True})
        await send({"type": "websocket.accept", "resumable": True})
    # Read when the group is heard already, so that nothing falls between the two.
    await send_history(send)
    while (event := await receive())["type"] != "websocket.disconnect":
        if event["type"] == "ifserver.group.gap":
            await send_history(send)
            continue
        try:
            said = parse(event.get("text") or "")
        except ValueError:
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        # If it is in the log already, it is sent all the same: the process that put it there may have died before that.
        message = await log.append(*said)
        await send({"type": "ifserver.group.send", "group": GROUP, "text": json.dumps(message)})


async def send_history(send: Send) -> None:
    history = await log.newest(HISTORY_MESSAGES)
    # It raises OSError when the client has left. receive() says so too, after all that the client has said.
    with suppress(OSError):
        await send({"type": "websocket.send", "text": json.dumps(history)})


class Said(NamedTuple):
    name: str
    text: str
    key: str | None


def parse(frame: str) -> Said:
    """What a member says: ``{"name": "Ada", "text": "Hello", "key": "3f9c..."}``; the key may be left out.

    Raises ``ValueError`` if it makes no sense.
    """
    try:
        match json.loads(frame):
            case {"name": str(name), "text": str(text), **rest} if text.strip():
                key = rest.get("key")
                if key is None or (isinstance(key, str) and key.isalnum() and len(key) <= KEY_CHARACTERS):
                    return Said(clean(name)[:NAME_CHARACTERS] or "Guest", clean(text)[:TEXT_CHARACTERS], key)
    except RecursionError:
        pass
    raise ValueError("not what a member says")


def clean(text: str) -> str:
    # JSON can spell half of a surrogate pair, which is no character and cannot be stored.
    return text.encode(errors="replace").decode().strip()


async def respond(send: Send, status: int, content_type: str, body: bytes) -> None:
    headers = [(b"content-type", f"{content_type}; charset=utf-8".encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def lifespan(receive: Receive, send: Send) -> None:
    await receive()  # lifespan.startup
    await send({"type": "lifespan.startup.complete"})
    await receive()  # lifespan.shutdown
    await log.close()
    await send({"type": "lifespan.shutdown.complete"})
