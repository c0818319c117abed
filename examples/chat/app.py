"""A page and a chat room over WebSockets: bare ASGI 3 and the standard library.

    ifserver run chat.app:app --app-dir examples

A WebSocket belongs to one of several worker *processes*, so a room kept in a process's memory would join only the tabs
that happened to land in that process. Here every process appends to one log in an SQLite file, and reads on from where
it was, ten times a second, as long as it has members: one small query for all of them.

This is a chat for one machine: SQLite's write-ahead log needs memory that all processes share, which no network file
system offers. To spread over several machines, keep the log in a database server instead; nothing else would change.

``GET /`` is the page and ``/ws`` the room, both below the ``root_path`` if the chat is mounted in a larger site.
The file is named by ``CHAT_DB``, and is in the user's cache directory if that is not set.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from .log import Message, MessageLog

__all__ = ["PAGE", "Chat", "app"]

Event = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

logger = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page.html")

POLL_SECONDS = 0.1
HISTORY_MESSAGES = 20  # shown to whoever comes in
INBOX_MESSAGES = 500  # a member who falls this far behind is sent away, and may come back for the rest
NAME_CHARACTERS = 40
TEXT_CHARACTERS = 2000

# Close codes, RFC 6455 section 7.4.1 and the IANA registry.
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013


class Room:
    """The members whose WebSockets this process holds, and the one task that reads the log for all of them."""

    def __init__(self, log: MessageLog) -> None:
        self._log = log
        self._inboxes: set[asyncio.Queue[Message | None]] = set()
        self._reader: asyncio.Task[None] | None = None

    async def messages(self, after: int | None) -> AsyncGenerator[Message, None]:
        """Everything since the message with the id ``after``, or some history if that is None; then what comes in.

        Ends when the member has fallen too far behind or the log cannot be read. Close it with ``aclosing``.
        """
        inbox: asyncio.Queue[Message | None] = asyncio.Queue()
        self._inboxes.add(inbox)
        try:
            # The order matters: the inbox is open before the log is read, so nothing falls between the two.
            newest = await self._log.newest_id()
            if self._reader is None or self._reader.done():
                self._reader = asyncio.create_task(self._read_on(newest))
            # An id beyond the newest comes from an older file; what it counted is gone.
            seen = newest - HISTORY_MESSAGES if after is None else min(after, newest)
            for earlier in await self._log.newer_than(seen):
                seen = earlier.id
                yield earlier
            while (message := await inbox.get()) is not None:
                if message.id > seen:
                    yield message
        finally:
            self._inboxes.discard(inbox)
            if not self._inboxes and self._reader is not None:
                self._reader.cancel()
                self._reader = None

    async def _read_on(self, position: int) -> None:
        try:
            while True:
                await asyncio.sleep(POLL_SECONDS)
                for message in await self._log.newer_than(position):
                    position = message.id
                    self._deliver(message)
        except Exception:
            logger.exception("the chat's log cannot be read; its members are sent away")
            while self._inboxes:
                self._inboxes.pop().put_nowait(None)

    def _deliver(self, message: Message) -> None:
        for inbox in list(self._inboxes):
            if inbox.qsize() < INBOX_MESSAGES:
                inbox.put_nowait(message)
            else:
                self._inboxes.discard(inbox)
                inbox.put_nowait(None)


class Chat:
    """The ASGI application: a page, and one room whose log is the SQLite file at ``path``."""

    def __init__(self, path: Path) -> None:
        self._log = MessageLog(path)
        self._room = Room(self._log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "")
        match scope["type"]:
            case "lifespan":
                await self._lifespan(receive, send)
            case "http" if scope["path"] == f"{root}/":
                await respond(send, 200, b"text/html; charset=utf-8", PAGE.read_bytes())
            case "http":
                await respond(send, 404, b"text/plain; charset=utf-8", b"Not found\n")
            case "websocket" if scope["path"] == f"{root}/ws":
                await self._meet(scope, receive, send)
            case "websocket":
                await send({"type": "websocket.close"})
            case unknown:
                raise ValueError(f"unknown scope type: {unknown!r}")

    async def _meet(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        await send({"type": "websocket.accept"})
        async with asyncio.TaskGroup() as tasks:
            speaking = tasks.create_task(self._speak(last_seen(scope), send))
            await self._listen(receive, send)
            speaking.cancel()

    async def _speak(self, after: int | None, send: Send) -> None:
        """Pass on to the member what is said in the room."""
        async with aclosing(self._room.messages(after)) as messages:
            async for message in messages:
                await send_if_open(send, {"type": "websocket.send", "text": json.dumps(message._asdict())})
        await send_if_open(send, {"type": "websocket.close", "code": TRY_AGAIN_LATER})

    async def _listen(self, receive: Receive, send: Send) -> None:
        """Put what the member says into the log, until it leaves or talks nonsense."""
        while (event := await receive())["type"] == "websocket.receive":
            try:
                name, text = parse(event.get("text") or "")
            except ValueError:
                await send_if_open(send, {"type": "websocket.close", "code": POLICY_VIOLATION})
                return
            await self._log.append(name, text)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        await self._log.close()
        await send({"type": "lifespan.shutdown.complete"})


def parse(frame: str) -> tuple[str, str]:
    """The name and the text in what a member sent. Raises ``ValueError`` if it holds none."""
    try:
        match json.loads(frame):
            case {"name": str(name), "text": str(text)} if text.strip():
                return clean(name)[:NAME_CHARACTERS] or "Guest", clean(text)[:TEXT_CHARACTERS]
    except RecursionError:
        pass
    raise ValueError("not a JSON object with a name and a text")


def clean(text: str) -> str:
    # JSON can spell half of a surrogate pair, which is no character and cannot be stored.
    return text.encode(errors="replace").decode().strip()


def last_seen(scope: Scope) -> int | None:
    """The id in ``?after=``, with which a page that lost its connection asks for what it missed."""
    after = parse_qs(scope["query_string"]).get(b"after", [b""])[0]
    return int(after) if after.isdigit() and len(after) < 19 else None  # 19 digits may not fit SQLite's 64 bits


async def send_if_open(send: Send, event: Event) -> None:
    # ASGI lets send() raise OSError when the client is gone. receive() says so too, and that is where we act on it.
    with suppress(OSError):
        await send(event)


async def respond(send: Send, status: int, content_type: bytes, body: bytes) -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def default_path() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CHAT_DB") or Path(cache, "ifserver-chat", "messages.sqlite3"))


app = Chat(default_path())
