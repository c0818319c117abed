"""One stream: an HTTP exchange or a WebSocket, between its interface server and the application.

`Stream` is what both have in common: the sequence of messages, the windows, the claim and the entry in the ledger, and
the application's coroutine. `HttpStream` and `WebSocketStream` know what ASGI says about each.

A stream is in one `Phase` at a time. The application moves it forward with what it sends; the peer can end it at any
moment. The application's coroutine outlives the stream's end: ``receive()`` and ``send()`` tell it, and only a worker
that has to stop cancels it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, ClassVar, Final, Protocol

from ifserver.asgi_events import ASGIApplication, Event, Scope
from ifserver.errors import ApplicationError, ClientDisconnected
from ifserver.flow_control import MESSAGE_OVERHEAD, ReceiveWindow, SendWindow
from ifserver.layers.groups import Groups
from ifserver.logs import about
from ifserver.messages import (
    GIVEN_BACK,
    STOPPED,
    Claim,
    Disconnect,
    GroupGap,
    GroupJoin,
    GroupJoined,
    Message,
    Release,
    ToApplication,
    ToWorkers,
    Window,
    encode,
)
from ifserver.worker.log_labels import request_id_of, shown
from ifserver.worker.stream_phases import DONE, LOST, OVER, SILENT, Phase

__all__ = ["Host", "Stream", "running"]

_log = logging.getLogger(__name__)

#: The stream whose application runs, for what it calls, also in threads and tasks that it has started.
running: Final[ContextVar[Stream]] = ContextVar("ifserver_stream")


class Host(Protocol):
    """The worker that holds a stream."""

    application: ASGIApplication
    #: The state of the application's lifespan.
    state: dict[str, Any]
    #: The worker's inbox, for new streams.
    inbox: str
    #: The process that watches over the worker.
    supervisor: str
    loop: asyncio.AbstractEventLoop
    max_websocket_message_bytes: int
    #: The header in which a response names a file, in lower case; None: there is none.
    file_header: bytes | None
    #: What is sent to groups goes here.
    groups: Groups
    #: ``Clusters.send``
    send: Callable[[str, bytes, Callable[[], None] | None], None]

    def began(self) -> None:
        """A stream has begun to answer, and gives its slot back."""

    def awaits_client(self) -> None:
        """A stream waits for more of its request's body. Until it goes on, another request can have its slot."""

    def goes_on(self) -> None:
        """A stream that waited for its client needs its slot again."""

    def held(self, stream: Stream) -> None:
        """A stream holds the start of a response: `Stream.send_head` is due if the body does not follow soon."""

    def ended(self, stream: Stream) -> None:
        """The application's coroutine has returned or raised."""

    def told(self, slot: int) -> None:
        """The server knows of the end of the stream that has this slot of the ledger; or what it was sent was dropped,
        and it will ask."""


class PendingJoin:
    """A `GroupJoin` that the server has not answered yet."""

    __slots__ = ("error", "group")

    def __init__(self, group: str) -> None:
        self.group = group
        #: The answer: why the stream is no member, empty if it is; None: it has not come.
        self.error: str | None = None


class Stream(ABC):
    """One stream. The worker calls `run` once, in a task, and hands on the server's messages.

    Args:
        server: the inbox of the interface server, from the request's reply channel.
        identity: the stream's name within it (`ifserver.channels.identity`).
        slot: where the stream stands in the ledger.
    """

    __slots__ = (
        "_cancelled",
        "_gaps",
        "_host",
        "_joins",
        "_received",
        "_request",
        "_slot",
        "_waiters",
        "_window_in",
        "answering",
        "at_end",
        "attempt",
        "awaits_client",
        "begun",
        "credit",
        "identity",
        "phase",
        "sent",
        "server",
        "task",
        "worker",
    )

    KIND: ClassVar[str]
    #: The events that the application may send, each at its time.
    EVENTS: ClassVar[tuple[str, ...]]

    def __init__(self, host: Host, request: ToWorkers, server: str, identity: str, slot: int) -> None:
        self._host = host
        self._request = request
        # Interned, since thousands of open WebSockets may have the same.
        self.server = sys.intern(server)
        self.identity = identity
        self._slot = slot
        self.attempt = request.attempt
        #: Our inbox, as the server knows it.
        self.worker = host.inbox
        self.phase: Phase = SILENT
        #: Whether the application has had its first step, behind which the worker looks what has become of the stream.
        self.begun = False
        #: Whether it has begun to answer, and has given its slot (one of ``concurrency``) back for good.
        self.answering = False
        #: Whether it has lent its slot to others, since it cannot go on before its client has sent more.
        self.awaits_client = False
        self.task: asyncio.Task[None] | None = None
        self._cancelled = False
        #: Messages of the sequence that were sent to the server, and that have come from it.
        self.sent = self._received = 0
        self.credit = SendWindow()
        self._window_in = ReceiveWindow()
        self._waiters: list[asyncio.Future[None]] = []
        #: What is called when the application has ended; must not raise.
        self.at_end: list[Callable[[], None]] | None = None
        #: What it has asked to become a member of, oldest first, also where nobody waits for the answer any more.
        self._joins: list[PendingJoin] | None = None
        #: What the application is to be told of broadcasts that were lost.
        self._gaps: list[GroupGap] | None = None

    def __str__(self) -> str:
        """The stream for the log: what was asked for, and the full reply channel."""
        return shown(self._request, self.identity)

    @property
    def _about(self) -> dict[str, str]:
        return about(self._request.reply_channel, request_id_of(self._request))

    @property
    def request(self) -> ToWorkers:
        """What was pulled."""
        return self._request

    # The application.

    def start(self) -> None:
        """Begin to run the application."""
        self.task = self._host.loop.create_task(self.run())

    async def run(self) -> None:
        """Run the application to its end. Raises nothing."""
        running.set(self)
        try:
            await self._host.application(self._scope(), self.receive, self.send)
        except GeneratorExit:
            raise  # the interpreter ends
        except BaseException as error:
            self._ended(error)
        else:
            if self.phase not in OVER:
                self._ended(None)
        for call in self.at_end or ():
            call()
        self._host.ended(self)

    @property
    def may_be_claimed_late(self) -> bool:
        """Whether its claim may wait for a moment, since the answer is likely to come within it."""
        return False

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
        """The application has failed before its answer was whole: tell the server."""

    def cancel(self) -> None:
        """Cancel the application: this worker has to stop."""
        self._cancelled = True
        if self.task is not None:
            self.task.cancel()

    @abstractmethod
    def drain(self) -> None:
        """This worker is about to stop. Streams may run to the end; one that another worker can have is given back."""

    @abstractmethod
    def drained(self) -> bool:
        """This worker waits no longer. Whether the application was told, so that it may end by itself."""

    @abstractmethod
    def _scope(self) -> Scope:
        """A new scope for the application."""

    @abstractmethod
    def _ended(self, error: BaseException | None) -> None:
        """The application has raised `error`, or returned before its answer was whole."""

    def refusal(self, event: Event) -> Exception:
        """What ``send()`` raises for an event that is of no use in this phase."""
        kind = event["type"]
        if kind not in self.EVENTS:
            return ApplicationError(f"{kind}: not an event of this scope; there are: {', '.join(self.EVENTS)}")
        if self.phase is LOST:
            return ClientDisconnected(f"{kind}: the client has left ({self._request.reply_channel})")
        return ApplicationError(f"{kind}: not expected now: {self.phase.value}")

    async def wait(self) -> None:
        """Wait until something has happened; whoever waits looks again what it was. Any number of tasks may."""
        waiter: asyncio.Future[None] = self._host.loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def wake(self) -> None:
        """Something has happened."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # To the server.

    def claim(self) -> None:
        """Tell the server who has the stream."""
        claim = Claim(self.identity, self.attempt, self.worker, self._host.supervisor)
        self._host.send(self.server, encode(claim), None)

    def tell(self, message: Message, payload_bytes: int | None, last: bool = False) -> None:
        """Send a message of the sequence.

        Args:
            payload_bytes: what it takes of the window, beside `MESSAGE_OVERHEAD`; None: it takes nothing.
            last: whether it ends the stream.
        """
        payload = encode(message)
        self.sent += 1
        if payload_bytes is not None:
            self.credit.sent += payload_bytes + MESSAGE_OVERHEAD
        self._host.send(self.server, payload, partial(self._host.told, self._slot) if last else None)

    def move(self, phase: Phase) -> None:
        """The answer has begun, goes on, or is complete."""
        if not self.answering:
            self.answering = True
            if self.awaits_client:
                self._go_on()
            self._host.began()
        self.phase = phase
        if phase is DONE and self._waiters:
            self.wake()

    def release(self, reason: str) -> None:
        """Tell the server to let go, if it holds the stream; the application finds the client gone."""
        if self.phase not in OVER:
            self._tell_release(STOPPED if self._cancelled else reason)
            self._end(0, "")

    def _tell_release(self, reason: str) -> None:
        sent = self.sent if reason in GIVEN_BACK else 0
        release = Release(self.identity, self.attempt, self.worker, reason, self._window_in.consumed, sent)
        self._host.send(self.server, encode(release), partial(self._host.told, self._slot))

    def _tell_window(self, total: int) -> None:
        window = Window(self.identity, self.attempt, self.worker, total)
        self._host.send(self.server, encode(window), None)

    # From the server.

    @abstractmethod
    def arrived(self, message: ToApplication) -> str | None:
        """Take a message of the server. Returns why it was dropped, or None."""

    def _arrived_otherwise(self, message: ToApplication) -> str | None:
        """Take one that is repeated, follows a gap, comes too late, ends the stream, or is of the wrong kind."""
        if message.seq < self._received:
            return "repeated"
        if message.seq > self._received:
            self._gap(message.seq)
            self._received += 1
            return "gap"
        self._received += 1
        if self.phase in OVER:
            return None
        if isinstance(message, Disconnect):
            self._left(message)
        elif isinstance(message, GroupJoined):
            self._answer_join(message)
        elif isinstance(message, GroupGap):
            self._gaps = [*(self._gaps or ()), message]
            self.wake()
        else:
            _log.error("%s: a message of the wrong kind: %s", self, type(message).__name__, extra=self._about)
            self.release("wrong kind")
        return None

    # Groups (`ifserver.worker.groups`).

    @property
    def groups(self) -> Groups:
        """What is sent to groups goes here."""
        return self._host.groups

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that the application runs on."""
        return self._host.loop

    @abstractmethod
    def is_open_for_groups(self, event: Event) -> bool:
        """Whether the stream can become a member of a group now. False: it is over.

        Raises:
            ApplicationError: not yet, or not this stream.
        """

    @property
    @abstractmethod
    def may_be_member(self) -> bool:
        """Whether the stream may be a member of groups: through this attempt, or one before."""

    def join(self, group: str, gaps: bool, tag: str) -> PendingJoin:
        """Ask the server to make the stream a member of `group`. Those who wait are woken when it has answered."""
        join = PendingJoin(group)
        self._joins = [*(self._joins or ()), join]
        self.tell(GroupJoin(self.identity, self.attempt, self.worker, self.sent, group, gaps, tag), None)
        return join

    def _answer_join(self, answer: GroupJoined) -> None:
        """The server answers each join of a group, in order: this is for the oldest, even if nobody waits for it. A
        later one would otherwise take it for its own."""
        for join in self._joins or ():
            if join.group == answer.group:
                join.error = answer.error
                self._joins = [each for each in self._joins or () if each is not join] or None
                self.wake()
                return

    def _take_gap(self) -> Event:
        """What ``receive()`` returns about broadcasts that were lost."""
        assert self._gaps is not None
        gap, *rest = self._gaps
        self._gaps = rest or None
        return {"type": "ifserver.group.gap", "group": gap.group, "count": gap.count}

    def consumed(self, total: int) -> None:
        """The server has consumed `total` units."""
        if self.credit.update(total):
            self.wake()

    @property
    def account(self) -> tuple[int, int]:
        """Messages sent to the server, and units of its messages consumed."""
        return self.sent, self._window_in.consumed

    @property
    def waits(self) -> bool:
        """Whether nothing can be sent until the server has consumed more."""
        return not self.credit.open

    def compare(self, sent: int) -> bool:
        """The server says how many messages it has sent: what has not come by now never will. Whether all have."""
        whole = sent <= self._received
        if not whole:
            self._gap(sent)
        return whole

    def _gap(self, seq: int) -> None:
        """The messages before `seq` will never come."""
        self._received = seq  # more may come of the same stream, until its server knows
        self.release("gap")

    def let_go(self) -> None:
        """The server has let go of the stream, or is gone."""
        if self.phase not in OVER:
            self._lose(0, "")

    def _left(self, message: Disconnect) -> None:
        """The client has left."""
        self._lose(message.code, message.reason)

    def _lose(self, code: int, reason: str) -> None:
        """The server knows that the stream is over."""
        self._end(code, reason)
        self._host.told(self._slot)

    def _end(self, code: int, reason: str) -> None:
        self.phase = LOST
        self._go_on()
        self.wake()

    def _go_on(self) -> None:
        """It waits for its client no longer."""
        if self.awaits_client:
            self.awaits_client = False
            self._host.goes_on()
