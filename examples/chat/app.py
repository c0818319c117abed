"""A page and a chat room over WebSockets: bare ASGI 3 and the standard library.

    ifserver run chat.app:app --app-dir examples

A WebSocket belongs to one of several worker *processes*, so a room kept in a process's memory would join only the tabs
that happened to land in that process. Here every process appends to one log in an SQLite file, and reads on from where
it was, ten times a second, as long as it has members: one small query for all of them.

This is a chat for one machine: SQLite's write-ahead log needs memory that all processes share, which no network file
system offers. To spread over several machines, keep the log in a database server instead; nothing else would change.

Nobody notices when a worker process ends, not even by ``kill -9``. On ifserver the chat accepts its WebSockets as
*resumable*: they stay open, and the next process carries on. It asks the page for the last message that it shows, and
the page sends again those of its own that have not come back. Each has a random key, and the log keeps one of a key, so
nothing is lost and nothing doubled. Other servers close the WebSocket; then the page connects anew and does the same.

``GET /`` is the page and ``/ws`` the room, both below the ``root_path`` if the chat is mounted in a larger site.
The file is named by ``CHAT_DB``, and is in the user's cache directory if that is not set.
"""

import asyncio
import json
import logging
import os
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from .log import KEPT_MESSAGES, Message, MessageLog

__all__ = ["PAGE", "Chat", "app"]

Event = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Start = asyncio.Future[int | None]  # see Room.messages

logger = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page.html")

POLL_SECONDS = 0.1
HISTORY_MESSAGES = 20  # shown to whoever comes in
# A member who falls this far behind is sent away, and may come back for the rest. It is as many as one read of the log
# can bring: after a gap, all members may say again at once what they have said meanwhile.
INBOX_MESSAGES = KEPT_MESSAGES
NAME_CHARACTERS = 40
TEXT_CHARACTERS = 2000
KEY_CHARACTERS = 64
ANSWER_SECONDS = 30.0  # for a resumed member to say where it is; who does not is sent away, and may come back
ID_DIGITS = 18  # one with more may not fit SQLite's 64 bits

# Close codes, RFC 6455 section 7.4.1 and the IANA registry.
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013


class Said(NamedTuple):
    """A member says something: ``{"name": "Ada", "text": "Hello", "key": "3f9c..."}``, or without a key."""

    name: str
    text: str
    key: str | None


class Position(NamedTuple):
    """The answer of a member to ``{"resumed": question}``: ``{"resumed": question, "after": 17}``, 0 for nothing."""

    question: str
    after: int


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
        resume = (scope.get("extensions") or {}).get("websocket.resume")  # None: this server cannot do it
        await send({"type": "websocket.accept"} if resume is None else {"type": "websocket.accept", "resumable": True})
        start = asyncio.get_running_loop().create_future()
        question = None
        if resume is not None and resume["resumed"]:
            # A random one: an answer to a process before us may come first, and says where the member was then.
            question = secrets.token_hex(8)
            await send_if_open(send, {"type": "websocket.send", "text": json.dumps({"resumed": question})})
        else:
            start.set_result(last_seen(scope))
        async with asyncio.TaskGroup() as tasks:
            speaking = tasks.create_task(self._speak(start, send))
            await self._listen(receive, send, question, start)
            speaking.cancel()

    async def _speak(self, start: Start, send: Send) -> None:
        """Pass on to the member what is said in the room, as soon as it is known where to start."""
        await asyncio.wait([start], timeout=ANSWER_SECONDS)
        if start.done():
            async with aclosing(self._room.messages(start.result())) as messages:
                async for message in messages:
                    await send_if_open(send, {"type": "websocket.send", "text": json.dumps(message._asdict())})
        await send_if_open(send, {"type": "websocket.close", "code": TRY_AGAIN_LATER})

    async def _listen(self, receive: Receive, send: Send, question: str | None, start: Start) -> None:
        """Put what the member says into the log, until it leaves or talks nonsense."""
        while (event := await receive())["type"] == "websocket.receive":
            try:
                heard = parse(event.get("text") or "")
            except ValueError:
                await send_if_open(send, {"type": "websocket.close", "code": POLICY_VIOLATION})
                return
            if isinstance(heard, Position):
                if heard.question == question and not start.done():
                    start.set_result(heard.after)
            elif start.done() or heard.key is None:
                await self._log.append(*heard)
            # Else it has not answered yet, and sends this again behind its answer: so its messages keep their order.

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        await self._log.close()
        await send({"type": "lifespan.shutdown.complete"})


def parse(frame: str) -> Said | Position:
    """What a member sent. Raises ``ValueError`` if it makes no sense."""
    try:
        match json.loads(frame):
            case {"resumed": str(question), "after": int(after)} if 0 <= after < 10**ID_DIGITS:
                return Position(question, after)
            case {"name": str(name), "text": str(text), **rest} if text.strip():
                name, text = clean(name)[:NAME_CHARACTERS] or "Guest", clean(text)[:TEXT_CHARACTERS]
                return Said(name, text, checked_key(rest.get("key")))
    except RecursionError:
        pass
    raise ValueError("neither what a member says nor where it is")


def checked_key(key: object) -> str | None:
    if key is None or (isinstance(key, str) and key.isalnum() and len(key) <= KEY_CHARACTERS):
        return key
    raise ValueError("not a key")


def clean(text: str) -> str:
    # JSON can spell half of a surrogate pair, which is no character and cannot be stored.
    return text.encode(errors="replace").decode().strip()


def last_seen(scope: Scope) -> int | None:
    """The id in ``?after=``, with which a page that lost its connection asks for what it missed."""
    after = parse_qs(scope["query_string"]).get(b"after", [b""])[0]
    return int(after) if after.isdigit() and len(after) <= ID_DIGITS else None


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
