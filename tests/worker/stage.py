"""What the tests of the worker share: requests, a worker that the test plays, and an application that it plays too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from ifserver.asgi_events import ASGIApplication
from ifserver.flow_control import MESSAGE_OVERHEAD
from ifserver.messages import (
    Disconnect,
    GroupGap,
    GroupJoined,
    HttpRequest,
    RequestBody,
    ToWorkers,
    WebSocketConnect,
    WebSocketReceive,
    decode_for_server,
    decode_for_worker,
    decode_request,
    encode,
)
from ifserver.worker.asgi_http import HttpStream
from ifserver.worker.asgi_websocket import WebSocketStream
from ifserver.worker.stream import Stream

SERVER = "!east.0123456789"
CHANNEL = f"{SERVER}.1f"
STREAM = "0123456789.1f"
WORKER = "!east.k3v9x2aq7m"
SUPERVISOR = "sssssssss0"
SLOT = 736
MAX_MESSAGE_BYTES = 1024 * 1024


def http_request(**fields: Any) -> HttpRequest:
    """A GET, but for `fields`."""
    return HttpRequest(
        **{
            "reply_channel": CHANNEL,
            "attempt": 0,
            "deadline": 1e9,
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/ä b",
            "raw_path": b"/%C3%A4%20b",
            "query_string": b"x=%20",
            "root_path": "",
            "headers": [(b"host", b"here"), (b"accept", b"a"), (b"accept", b"b")],
            "client": ("127.0.0.1", 4000),
            "server": ("127.0.0.1", 8000),
            "body": b"",
            "more_body": False,
            **fields,
        }
    )


def websocket_connect(**fields: Any) -> WebSocketConnect:
    """A handshake, but for `fields`."""
    return WebSocketConnect(
        **{
            "reply_channel": CHANNEL,
            "attempt": 0,
            "deadline": 1e9,
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/chat",
            "raw_path": b"/chat",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"here")],
            "client": ("127.0.0.1", 4000),
            "server": ("/run/x.sock", None),
            "subprotocols": ["chat.v2", "chat.v1"],
            **fields,
        }
    )


async def turns(count: int = 10) -> None:
    """Let everything run that can, for as many turns of the loop as the longest chain in these tests needs."""
    for _ in range(count):
        await asyncio.sleep(0)


class FakeGroups:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.failure: Exception | None = None

    def publish(self, group: str, **what: Any) -> Deferred[int]:
        if self.failure is not None:
            return fail(self.failure)
        self.published.append((group, what))
        return succeed(1)


class Home:
    """Where the worker receives."""

    inbox = WORKER


class FakeHost:
    """A worker with one stream. Keeps what the stream sends, decoded as the server would."""

    home = Home()
    supervisor = SUPERVISOR
    max_websocket_message_bytes = MAX_MESSAGE_BYTES
    file_header: bytes | None = None

    def __init__(self, application: ASGIApplication) -> None:
        self.application = application
        self.state: dict[str, Any] = {}
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.sent: list[Any] = []
        #: For each last message that the node has not taken yet: what to call when it has.
        self.untaken: list[Callable[[], None]] = []
        self.begun = self.awaiting = 0
        self.groups = FakeGroups()
        self.holding: list[Stream] = []
        self.has_ended = 0
        self.slots_cleared: list[int] = []

    def send(self, inbox: str, payload: bytes, taken: Callable[[], None] | None = None) -> None:
        assert inbox == SERVER
        self.sent.append(decode_for_server(payload))
        if taken is not None:
            self.untaken.append(taken)

    def began(self) -> None:
        self.begun += 1

    def awaits_client(self, stream: Stream) -> None:
        stream.awaits_client = True
        self.awaiting += 1

    def goes_on(self, stream: Stream) -> None:
        stream.awaits_client = False
        self.awaiting -= 1

    def hold_head(self, stream: Stream) -> None:
        self.holding.append(stream)

    def ended(self, stream: Stream) -> None:
        self.has_ended += 1

    def clear(self, slot: int) -> None:
        self.slots_cleared.append(slot)


class Play:
    """One stream of a `FakeHost` and its application. By default the test is the application: it calls `receive` and
    `send`, and says when the application ends, and how."""

    scope: dict[str, Any]
    receive: Callable[[], Any]
    send: Callable[[dict[str, Any]], Any]

    def __init__(self, request: ToWorkers, application: ASGIApplication | None = None) -> None:
        self.host = FakeHost(application or self._application)
        request = decode_request(encode(request))
        kind: Any = HttpStream if isinstance(request, HttpRequest) else WebSocketStream
        self.stream: Stream = kind(self.host, request, SERVER, STREAM, SLOT)
        self._end: asyncio.Future[None] = self.host.loop.create_future()
        self._seq = 0

    @classmethod
    async def begin(cls, request: ToWorkers, application: ASGIApplication | None = None) -> Play:
        """A play whose application has had its first turn."""
        play = cls(request, application)
        play.stream.start()
        await turns(1)
        return play

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        await self._end

    @property
    def sent(self) -> list[Any]:
        return self.host.sent

    def take_sent(self) -> list[Any]:
        """What has been sent since the last time."""
        sent, self.host.sent = self.host.sent, []
        return sent

    async def returns(self) -> None:
        self._end.set_result(None)
        await self.ended()

    async def raises(self, error: BaseException) -> None:
        self._end.set_exception(error)
        await self.ended()

    async def ended(self) -> None:
        assert self.stream.task is not None
        await self.stream.task
        assert self.host.has_ended == 1

    # The server.

    def receive_message(self, message: Any) -> str | None:
        return self.stream.arrived(decode_for_worker(encode(message)))  # type: ignore[arg-type]

    def _next(self) -> int:
        self._seq += 1
        return self._seq - 1

    def body(self, body: bytes, more: bool) -> str | None:
        return self.receive_message(RequestBody(STREAM, 0, self._next(), body, more))

    def message(self, text: str | None = None, data: bytes | None = None) -> str | None:
        return self.receive_message(WebSocketReceive(STREAM, 0, self._next(), text, data))

    def joined(self, group: str, error: str = "") -> str | None:
        return self.receive_message(GroupJoined(STREAM, 0, self._next(), group, error))

    def gap(self, group: str, count: int | None) -> str | None:
        return self.receive_message(GroupGap(STREAM, 0, self._next(), group, count))

    def leave(self, code: int = 0, reason: str = "", answerable: bool = False) -> str | None:
        return self.receive_message(Disconnect(STREAM, 0, self._next(), code, reason, answerable))

    def let_everything_through(self) -> None:
        """As a server that has written all to its client."""
        self.stream.consumed(2**40)


def units(*sizes: int) -> int:
    """What messages with payloads of `sizes` cost a window."""
    return sum(sizes) + MESSAGE_OVERHEAD * len(sizes)
