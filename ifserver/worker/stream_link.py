"""One stream as the interface server knows it: the sequence, the windows, the claim, and the entry in the ledger."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ifserver import channels
from ifserver.messages import GIVEN_BACK, Claim, Message, Release, ToWorkers, Window, encode
from ifserver.streams.window import ReceiveWindow, SendWindow
from ifserver.worker.application import ASGIApplication

if TYPE_CHECKING:
    from ifserver.worker.asgi import Stream

__all__ = ["Host", "Line"]


class Host(Protocol):
    """What a stream needs of the worker that holds it."""

    application: ASGIApplication
    #: The state of the application's lifespan.
    state: dict[str, Any]
    #: This worker's own, for new streams.
    inbox: str
    #: The process that watches over this one.
    supervisor: str
    loop: asyncio.AbstractEventLoop
    max_websocket_message_bytes: int
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
        """The server knows of the end of the stream that has this slot of the ledger."""


class Line:
    """The server's end of a stream. Everything that leaves the worker about the stream leaves through here."""

    __slots__ = (
        "_host",
        "_received",
        "_sent",
        "_slot",
        "_waiters",
        "_window_in",
        "_window_out",
        "attempt",
        "claimed",
        "identity",
        "reply_channel",
        "server",
        "worker",
    )

    def __init__(self, host: Host, request: ToWorkers, slot: int) -> None:
        channel = request.reply_channel
        self.reply_channel = channel
        self.identity = channels.identity(channel)
        self.attempt = request.attempt
        self._host = host
        #: The inbox of the interface server.
        # Interned, since thousands of open WebSockets may have the same.
        self.server = sys.intern(channels.inbox_of(channel))
        #: Our inbox, as the server knows it.
        self.worker = host.inbox
        self._slot = slot
        #: Whether the server was told who has the stream, which is left out where the first step says it all.
        self.claimed = False
        self._sent = 0
        self._received = 0
        self._window_out = SendWindow()
        self._window_in = ReceiveWindow()
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def account(self) -> tuple[int, int]:
        """Messages sent to the server, and units of its messages consumed."""
        return self._sent, self._window_in.consumed

    @property
    def waits(self) -> bool:
        """Whether nothing can be sent until the server has consumed more."""
        return not self._window_out.open

    def claim(self) -> None:
        """Tell the server who has the stream."""
        self.claimed = True
        self._say(Claim(self.identity, self.attempt, self.worker, self._host.supervisor))

    def consumed(self, total: int) -> None:
        """The server has consumed `total` units."""
        if self._window_out.update(total):
            self._wake()

    def _tell(self, message: Message, last: bool) -> None:
        """Send a message that takes part in the sequence."""
        payload = encode(message)
        self._sent += 1
        self._host.send(self.server, payload, self._taken if last else None)

    def _tell_window(self, total: int) -> None:
        self._say(Window(self.identity, self.attempt, self.worker, total))

    def _tell_release(self, reason: str) -> None:
        sent = self._sent if reason in GIVEN_BACK else 0
        message = Release(self.identity, self.attempt, self.worker, reason, self._window_in.consumed, sent)
        self._host.send(self.server, encode(message), self._taken)

    def _say(self, message: Message) -> None:
        self._host.send(self.server, encode(message), None)

    def _taken(self) -> None:
        """The node has the stream's last message, or the server needs none."""
        slot, self._slot = self._slot, -1
        if slot >= 0:
            self._host.told(slot)

    async def _wait(self) -> None:
        """Wait until something has happened; whoever waits looks again what it was. Any number of tasks may."""
        waiter: asyncio.Future[None] = self._host.loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def _wake(self) -> None:
        waiters = self._waiters
        if waiters:
            self._waiters = []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
