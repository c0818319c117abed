"""One stream: an HTTP exchange or a WebSocket, between its interface server and the application.

`Link` is the stream as its server knows it: a sequence of messages in each direction, the windows, the claim and the
entry in the ledger. `Stream` is what both kinds have in common towards the application, and `HttpStream` and
`WebSocketStream` know what ASGI demands of each.

A stream is in one `Phase` at a time::

    SILENT --start--> HELD --some of the body, or a moment later--> ANSWERING --last of the body--> DONE
      |                 |--all of the body--> DONE
      |                 '--file--> OFFERED --taken--> DONE, or --declined--> HELD
      '--accept--> OPEN --close--> DONE

and from each of them but DONE it can become LOST. What the application may send in which phase is a table
(`ifserver.worker.asgi_http`, `ifserver.worker.asgi_websocket`). Its coroutine outlives the end of the stream:
``receive()`` and ``send()`` report it, and only a worker that has to stop cancels it.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

import msgspec

from ifserver import headers
from ifserver.asgi_events import Event, Scope
from ifserver.errors import ApplicationError, ClientDisconnected
from ifserver.flow_control import MESSAGE_OVERHEAD, ReceiveWindow, SendWindow
from ifserver.logs import about
from ifserver.messages import (
    GIVEN_BACK,
    STOPPED,
    Claim,
    Disconnect,
    GroupGap,
    GroupJoined,
    HttpRequest,
    Message,
    Release,
    ToApplication,
    ToWorkers,
    Window,
    encode,
)

if TYPE_CHECKING:
    from ifserver.worker.groups import PendingJoin
    from ifserver.worker.response import Response
    from ifserver.worker.worker import Worker

__all__ = [
    "ANSWERING", "DONE", "HELD", "LOST", "OFFERED", "OPEN", "OVER", "SILENT",
    "Link", "Phase", "Stream", "about_stream", "conclude", "is_expected", "running", "table", "unexpected",
]  # fmt: skip

#: The exception by which Starlette reports a disconnect; FastAPI's tutorial lets it pass.
_DISCONNECT: Final = "WebSocketDisconnect"
#: As much of a request's id as is logged, in bytes.
_MAX_ID: Final = 128

_log = logging.getLogger(__name__)

#: The stream whose application runs, for what it calls, also in threads and tasks that it has started.
running: Final[ContextVar[Stream]] = ContextVar("ifserver_stream")


class Phase(enum.Enum):
    """How far a stream has come; the value completes "the event is not expected now: ..."."""

    # Phases are keys of tables, and the hash that an Enum brings along is written in Python.
    __hash__ = object.__hash__

    #: The application has sent nothing.
    SILENT = "no response has been started"
    #: It has sent the start of a response, which is held until the first of its body, or for a short while.
    HELD = "the response's body is due"
    #: The server was asked to send a file by itself, as the whole response, and has not answered.
    OFFERED = "a file is being sent"
    #: Part of the response is on its way.
    ANSWERING = "the response's body is not complete"
    #: The WebSocket is accepted.
    OPEN = "the WebSocket is open"
    #: The last message is on its way.
    DONE = "the response is complete, or the WebSocket closed"
    #: The client has left, the server has released the stream or is lost, or this worker has released it.
    LOST = "the client has left"


# A member of an Enum costs several times as much to look up as a global, and these are looked up for every event.
SILENT: Final = Phase.SILENT
HELD: Final = Phase.HELD
OFFERED: Final = Phase.OFFERED
ANSWERING: Final = Phase.ANSWERING
OPEN: Final = Phase.OPEN
DONE: Final = Phase.DONE
LOST: Final = Phase.LOST
#: Nothing more is sent about the stream.
OVER: Final = (DONE, LOST)

#: Does what one event of the application asks for.
_Handler: TypeAlias = Callable[[Any, Event], Awaitable[None]]


def table(*rules: tuple[tuple[Phase, ...], tuple[str, ...], _Handler]) -> dict[Phase, dict[str, _Handler]]:
    """In which phases which events may be sent, and what is done then. A pair that is missing is `unexpected`."""
    result: dict[Phase, dict[str, _Handler]] = {phase: {} for phase in Phase}
    for phases, kinds, handler in rules:
        for phase in phases:
            result[phase].update(dict.fromkeys(kinds, handler))
    return result


# Made without a call in Python, as its windows are.
class Link(msgspec.Struct, eq=False):
    """One attempt, as its server knows it."""

    host: Any  # Worker
    #: The inbox of the interface server; the stream's name within it (`ifserver.channels.identity`).
    server: str
    identity: str
    attempt: int
    #: Our inbox, as the server knows it.
    worker: str
    #: Where the stream stands in the ledger.
    slot: int
    #: Messages of the sequence that were sent to the server, and that have come from it.
    sent: int = 0
    received: int = 0
    credit: SendWindow = msgspec.field(default_factory=SendWindow)
    window: ReceiveWindow = msgspec.field(default_factory=ReceiveWindow)

    def send(self, message: Message, payload_bytes: int | None, last: bool = False) -> None:
        """Send a message of the sequence.

        Args:
            payload_bytes: what it takes of the window, beside `MESSAGE_OVERHEAD`; None: it takes nothing.
            last: whether it ends the stream.
        """
        payload = encode(message)
        self.sent += 1
        if payload_bytes is not None:
            self.credit.sent += payload_bytes + MESSAGE_OVERHEAD
        self.host.send(self.server, payload, partial(self.host.clear, self.slot) if last else None)

    def claim(self) -> None:
        """Report who has the stream."""
        self.host.send(self.server, encode(Claim(self.identity, self.attempt, self.worker, self.host.supervisor)), None)

    def release(self, reason: str) -> None:
        """Give the stream up."""
        sent = self.sent if reason in GIVEN_BACK else 0
        release = Release(self.identity, self.attempt, self.worker, reason, self.window.consumed, sent)
        self.host.send(self.server, encode(release), partial(self.host.clear, self.slot))

    def send_window(self, total: int) -> None:
        """Report how much has been consumed."""
        self.host.send(self.server, encode(Window(self.identity, self.attempt, self.worker, total)), None)


class Stream(ABC):
    """One stream. The worker calls `start` once, and hands on the server's messages. The arguments are `Link`'s."""

    __slots__ = (
        "answering",
        "at_end",
        "awaits_client",
        "begun",
        "cancelled",
        "gaps",
        "host",
        "joins",
        "link",
        "phase",
        "request",
        "response",
        "task",
        "waiters",
        "why_lost",
    )

    KIND: ClassVar[str]
    #: The events that the application may send, each at its time.
    EVENTS: ClassVar[tuple[str, ...]]
    #: In these phases it may be a member of groups: through this attempt, or one before.
    MEMBER_PHASES: ClassVar[tuple[Phase, ...]]
    #: There is one once the application has started it.
    response: Response

    def __init__(self, host: Worker, request: ToWorkers, server: str, identity: str, slot: int) -> None:
        self.host = host
        #: What was pulled.
        self.request = request
        # Interned, since thousands of open WebSockets may have the same.
        self.link = Link(host, sys.intern(server), identity, request.attempt, host.home.inbox, slot)
        self.phase: Phase = SILENT
        #: Whether the application has had its first step, behind which the worker looks what has become of the stream.
        self.begun = False
        #: Whether it has begun to answer, and has given its slot (one of ``concurrency``) back for good.
        self.answering = False
        #: Whether it has lent its slot to others, since it cannot go on before its client has sent more.
        self.awaits_client = False
        self.task: asyncio.Task[None] | None = None
        #: Whether this worker has cancelled the application.
        self.cancelled = False
        #: What ``send()`` raises when the stream is lost.
        self.why_lost = "the client has left"
        self.waiters: list[asyncio.Future[None]] = []
        #: What is called when the application has ended; must not raise.
        self.at_end: list[Callable[[], None]] | None = None
        #: What it has asked to become a member of, oldest first, also where nobody waits for the answer any more.
        self.joins: list[PendingJoin] | None = None
        #: Broadcasts that were lost, of which the application does not know.
        self.gaps: list[GroupGap] | None = None

    def __str__(self) -> str:
        """The stream for the log: what was asked for, and the full reply channel."""
        request, request_id = self.request, _request_id(self.request)
        what = request.method if isinstance(request, HttpRequest) else "WebSocket"
        # One that was made is in the channel's name.
        more = f", request {request_id}" if request_id and request_id != self.link.identity else ""
        return f"{what} {request.path[:200]!r} ({request.reply_channel}{more})"

    # The application.

    @abstractmethod
    def start(self) -> None:
        """Begin to run the application."""

    async def run(self, scope: Scope) -> None:
        """Run the application to its end. Raises nothing."""
        running.set(self)
        try:
            await self.host.application(scope, self.receive, self.send)
        except GeneratorExit:
            raise  # the interpreter ends
        except BaseException as error:
            conclude(self, error)
        else:
            if self.phase not in OVER:
                conclude(self, None)
        for call in self.at_end or ():
            call()
        self.host.ended(self)

    @abstractmethod
    async def receive(self) -> Event:
        """ASGI's ``receive``."""

    @abstractmethod
    async def send(self, event: Event) -> None:
        """ASGI's ``send``.

        Raises:
            ApplicationError: `event` breaks the ASGI specification; nothing has been sent of it.
            ClientDisconnected: the client has left.
        """

    @abstractmethod
    def send_head(self) -> None:
        """Send the start of a response, if it is still held."""

    @abstractmethod
    def break_off(self) -> None:
        """The application has failed before its answer was whole: end the stream."""

    @abstractmethod
    def drain(self) -> None:
        """This worker is about to stop. Streams may run to the end; one that another worker can have is given back."""

    @abstractmethod
    def drained(self) -> bool:
        """This worker waits no longer. Whether the application is notified, so that it may end by itself."""

    @abstractmethod
    def is_open_for_groups(self, event: Event) -> bool:
        """Whether the stream can become a member of a group now. False: it is over.

        Raises:
            ApplicationError: not yet, or not this stream.
        """

    def cancel(self) -> None:
        """Cancel the application: this worker has to stop."""
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()

    def wait(self) -> asyncio.Future[None]:
        """To be awaited until something has happened; then look again what it was. Any number of tasks may."""
        if self.waiters:  # of tasks that were cancelled meanwhile
            self.waiters = [each for each in self.waiters if not each.done()]
        waiter: asyncio.Future[None] = self.host.loop.create_future()
        self.waiters.append(waiter)
        return waiter

    def wake(self) -> None:
        """Something has happened."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # Its phase.

    def move(self, phase: Phase) -> None:
        """The answer has begun, goes on, or is complete."""
        if not self.answering:
            self.answering = True
            if self.awaits_client:
                self.host.goes_on(self)
            self.host.began()
        self.phase = phase
        if phase is DONE and self.waiters:
            self.wake()

    def release(self, reason: str) -> None:
        """Give the stream up, if it is not over; for the application the client has left."""
        if self.phase not in OVER:
            self.link.release(STOPPED if self.cancelled else reason)
            self._end(0, "")

    def lose(self, code: int = 0, reason: str = "") -> None:
        """The client has left, or the server has released the stream, or is lost."""
        if self.phase not in OVER:
            self._end(code, reason)
            self.host.clear(self.link.slot)

    def _end(self, code: int, reason: str) -> None:
        self.phase = LOST
        if self.awaits_client:
            self.host.goes_on(self)
        self.wake()

    # From the server.

    def arrived(self, message: ToApplication) -> str | None:
        """Take a message of the server. Returns why it was dropped, or None."""
        link = self.link
        if message.seq < link.received:
            return "repeated"
        if message.seq > link.received:
            link.received = message.seq + 1  # more may come of the same stream, until its server knows
            self.release("gap")
            return "gap"
        link.received += 1
        if self.phase in OVER:
            return None
        if isinstance(message, Disconnect):
            self.lose(message.code, message.reason)
        elif isinstance(message, GroupJoined):
            _join_answered(self, message)
        elif isinstance(message, GroupGap):
            self.gaps = [*(self.gaps or ()), message]
            self.wake()
        else:
            _log.error("%s: a message of the wrong kind: %s", self, type(message).__name__, extra=about_stream(self))
            self.release("wrong kind")
        return None

    def consumed(self, total: int) -> None:
        """The server has consumed `total` units."""
        if self.link.credit.update(total):
            self.wake()


def about_stream(stream: Stream) -> dict[str, str]:
    """The fields of a log line about `stream`."""
    return about(stream.request.reply_channel, _request_id(stream.request))


def _request_id(request: ToWorkers) -> str:
    """The id that a request carries; empty if it has none. The client's own where ``request_id`` is off."""
    given = headers.find(request.headers, b"x-request-id")
    # The application has had this list, and may have put anything there.
    known = given if type(given) is bytes else b""
    return known[:_MAX_ID].decode("latin-1").encode("unicode_escape").decode("ascii")


def unexpected(stream: Stream, event: Event) -> Exception:
    """What ``send()`` raises for an event that is of no use in this phase."""
    kind = event["type"]
    if kind not in stream.EVENTS:
        return ApplicationError(f"{kind}: not an event of this scope; there are: {', '.join(stream.EVENTS)}")
    if stream.phase is LOST:
        return ClientDisconnected(f"{kind}: {stream.why_lost} ({stream.request.reply_channel})")
    return ApplicationError(f"{kind}: not expected now: {stream.phase.value}")


def _join_answered(stream: Stream, answer: GroupJoined) -> None:
    """The server answers each join of a group, in order: this is for the oldest, even if nobody waits for it. A later
    one would otherwise take it for its own."""
    for join in stream.joins or ():
        if join.group == answer.group:
            join.error = answer.error
            stream.joins = [each for each in stream.joins or () if each is not join] or None
            stream.wake()
            return


def conclude(stream: Stream, error: BaseException | None) -> None:
    """The application has raised `error`, or returned before its answer was whole: the client gets a 500.

    If the response has begun, the connection is cut; an open WebSocket is closed with 1011.
    """
    cancelled = stream.cancelled
    if error is None:
        if not cancelled:
            text = "%s: the application has returned, but %s"
            _log.error(text, stream, stream.phase.value, extra=about_stream(stream))
    elif not (cancelled and isinstance(error, asyncio.CancelledError)) and not is_expected(stream, error):
        _log.error("%s: the application has raised", stream, exc_info=error, extra=about_stream(stream))
    if cancelled:
        # Not its fault, whatever it has made of the cancellation: where nothing was answered, another worker can.
        stream.release(STOPPED)
    elif stream.phase not in OVER:
        stream.break_off()


def is_expected(stream: Stream, error: BaseException) -> bool:
    """Whether the application has raised `error` since its client has left, which is no failure.

    It is, or has come of, the `ClientDisconnected` that ``send()`` has raised; or it reports that ``receive()`` has
    returned a disconnect. Frameworks raise one of their own instead (Starlette's ``ClientDisconnect``), or wrap it in
    an `ExceptionGroup`.
    """
    if stream.phase is not LOST:
        return False
    seen: set[int] = set()
    rest: list[Any] = [error]
    while rest:
        error = rest.pop()
        if isinstance(error, ClientDisconnected) or type(error).__name__ == _DISCONNECT:
            return True
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            rest += (error.__cause__, error.__context__)
            if isinstance(error, BaseExceptionGroup):
                rest += error.exceptions
    return False
