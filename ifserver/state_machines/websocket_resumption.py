"""What lets a WebSocket outlive its worker (see docs/explanation/architecture.rst, Resumption).

An open WebSocket is no new request. From the loss of one worker to the accept of the next it waits, for as long as
``resume_timeout_s`` says, and nothing that happens to an attempt closes it: a worker that dies before it accepts, a
node that is full, silent, restarted or gone, or a lost message only begin the next attempt. What the client sends
meanwhile is held, and handed to the worker that accepts.

A client that leaves meanwhile, while something that it sent is still held, is remembered: the next worker is handed
that when it accepts, and told. Where nothing is held, the stream ends at once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from typing import Final

from msgspec.structs import replace

from ifserver import messages as m
from ifserver.flow_control import message_bytes
from ifserver.state_machines.effects import (
    ENDED,
    FAIL,
    WAIT_NOTHING,
    WAIT_RESUMPTION,
    WITHDRAW,
    ClientFailed,
    ClientGone,
    CloseClient,
    Effects,
    Joined,
    MessageReceived,
    OfferRefused,
    Resume,
    TimedOut,
    Unsaid,
    Vanished,
)
from ifserver.state_machines.retry_or_5xx import ALL_CAUSES, OfferedStream, let_go
from ifserver.state_machines.stream import NOTHING
from ifserver.state_machines.websocket_state import State

__all__ = ["HandedOut", "ResumableStream"]

#: RFC 6455 7.4.1 and the IANA registry: the application does not want it; the server restarts.
_POLICY_VIOLATION: Final = 1008
SERVICE_RESTART: Final = 1012


class HandedOut:
    """The messages of one client that its present worker was handed and is not known to have consumed.

    The window bounds them. Totals are units of `ifserver.flow_control`.
    """

    __slots__ = ("_messages",)

    def __init__(self) -> None:
        self._messages: deque[tuple[int, MessageReceived]] = deque()

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, total: int, message: MessageReceived) -> None:
        """`message` was handed out; `total` units of this attempt were, with it."""
        self._messages.append((total, message))

    def confirm(self, consumed: int) -> None:
        """The worker has consumed `consumed` units in all."""
        messages = self._messages
        while messages and messages[0][0] <= consumed:
            messages.popleft()

    def take(self) -> list[MessageReceived]:
        """Those that are left, oldest first; none are left then."""
        messages = [message for _, message in self._messages]
        self._messages.clear()
        return messages


class ResumableStream(OfferedStream):
    """The states WAITING, TAKEN and LEFT of a WebSocket (`ifserver.state_machines.websocket` has the others)."""

    __slots__ = ("_farewell", "_forwarded", "_handed_out", "_stale_units", "_tries")

    request: m.WebSocketConnect
    _state: State

    def __init__(self, request: m.WebSocketConnect) -> None:
        super().__init__(request, State.QUEUED)
        self._repeated = ALL_CAUSES if request.attempt else 0
        #: None: it is not resumable.
        self._handed_out = HandedOut() if request.resumable else None
        #: Units of the present worker's messages that were passed on to the client; and of former ones', those which
        #: the kernel has not taken yet.
        self._forwarded = self._stale_units = 0
        #: Attempts in a row that have failed since the last worker was lost.
        self._tries = 0
        #: How the client has left whose messages are still held.
        self._farewell: ClientGone | None = None

    @property
    def resumable(self) -> bool:
        return self._handed_out is not None

    # Looking for a worker.

    def _resume(self, event: m.Release, handed_out: HandedOut) -> Effects:
        """Its worker has let go of the open WebSocket: look for the next one."""
        given_back = event.reason in m.GIVEN_BACK
        if given_back and event.sent > self._received:
            return self._gap(event.sent)
        handed_out.confirm(event.consumed)
        # Who gives it back has said what it has consumed. Of one that died nobody knows, so nothing is sent again.
        unconfirmed = 0 if given_back else len(handed_out)
        left = handed_out.take()
        pending = [*(left if given_back else ()), *self._pending]
        self._stale_units += self._forwarded - self._receive_window.consumed
        self._forwarded = self._tries = 0
        self.request = replace(self.request, attempt=self.attempt + 1, resumable=True, unconfirmed=unconfirmed)
        self._begin_attempt(self.request.attempt)
        for message in pending:
            self._hold(message, message_bytes(message.text, message.data))
        self._enter(State.WAITING)
        return Resume(self.request, 0, let_go(event)), WAIT_RESUMPTION, *self._stop_reading_if_full()

    def _try_again(self, why: str, failed: bool = True) -> Effects:
        """The attempt has come to nothing: begin the next one. What is held, and how long it may take, stay.

        Args:
            failed: whether the next one had better wait a little.
        """
        self._tries += failed
        self.request = replace(self.request, attempt=self.attempt + 1)
        pending, units = self._pending, self._pending_units
        self._begin_attempt(self.request.attempt)
        self._pending, self._pending_units = pending, units
        if self._state is not State.LEFT:
            self._enter(State.WAITING)
        return (Resume(self.request, self._tries, why),)

    def _not_offered(self, event: OfferRefused) -> Effects:
        return self._try_again(event.why)

    def _never_heard_of(self, event: Vanished) -> Effects:
        return self._try_again("whoever took it has not begun it, or its node is gone")

    def _let_go(self, event: m.Release) -> Effects:
        return self._try_again(let_go(event), failed=event.reason not in m.GIVEN_BACK)

    def _taken(self, message: m.Claim | m.Window) -> Effects:
        self._enter(State.TAKEN)
        self._claimed_by(message)
        return NOTHING

    def _takes_and_joins(self, message: m.GroupJoin) -> Effects:
        self._enter(State.TAKEN)
        return self._joins(message)

    def _takes_and_leaves(self, message: m.GroupLeave) -> Effects:
        self._enter(State.TAKEN)
        return self._leaves(message)

    def _accepted_again(self, message: m.WebSocketAccept) -> Effects:
        """The client has been accepted before, by a worker that is gone."""
        self._enter(State.OPEN)
        return WAIT_NOTHING, *self._pump()

    def _denied_again(self, message: m.ResponseStart) -> Effects:
        release = self._release("denied") if message.more_body else NOTHING
        close = CloseClient(_POLICY_VIOLATION, "", "the application has denied the WebSocket's resumption")
        return WAIT_NOTHING, close, *self._begin_to_close(), *release

    def _not_resumed(self, event: TimedOut) -> Effects:
        """No worker has accepted it within ``resume_timeout_s``."""
        claimant = (WITHDRAW,) if self.worker is None else self._release("not accepted in time")
        self._forsake()
        close = CloseClient(SERVICE_RESTART, "", "no worker has accepted it in time (resume_timeout)")
        return *claimant, close, *self._begin_to_close()

    # The client.

    def _held_message(self, event: MessageReceived) -> Effects:
        """Of a client whose WebSocket has no worker."""
        self._hold(event, message_bytes(event.text, event.data))
        return self._stop_reading_if_full()

    def _failed_alone(self, event: ClientFailed) -> Effects:
        """Nobody has it who could answer. Whoever takes it next hears what the client sent, and that it has left."""
        return (FAIL,)

    def _left_alone(self, event: ClientGone) -> Effects:
        """Nobody has it who could be handed what the client sent, or nobody who has accepted it."""
        if not self._pending:
            return self._left(event) if self.worker is not None else self._left_unclaimed(event)
        self._farewell = event
        self._enter(State.LEFT)
        return NOTHING

    def _joins_left(self, message: m.GroupJoin) -> Effects:
        """The client has left, of which the application hears once it has accepted: let it go on."""
        return self._joined(Joined(self.attempt, message.group))

    def _accepted_left(self, message: m.WebSocketAccept) -> Effects:
        assert self._farewell is not None
        return self._left(self._farewell)

    def _denied_left(self, message: m.ResponseStart) -> Effects:
        release = self._release("the client has left") if message.more_body else NOTHING
        return *release, *self._unsaid("the application has denied the WebSocket's resumption")

    def _not_taken_left(self, event: TimedOut) -> Effects:
        claimant = (WITHDRAW,) if self.worker is None else self._release("the client has left")
        return *claimant, *self._unsaid("no worker has accepted it in time")

    def _unsaid(self, why: str) -> Effects:
        """Nobody is left who could hear what the client had sent."""
        self._enter(State.DONE)
        return Unsaid(len(self._pending), why), ENDED

    # What the other states have.

    def _forsake(self) -> None:
        """From here on nobody may speak for the stream: whoever still does is told to let go."""
        self.worker = self.supervisor = None
        self.attempt += 1

    @abstractmethod
    def _left(self, event: ClientGone) -> Effects:
        """The client has left; its worker is told, behind what it sent."""

    @abstractmethod
    def _left_unclaimed(self, event: ClientGone) -> Effects:
        """The client has left before anybody has taken the stream."""

    @abstractmethod
    def _begin_to_close(self) -> Effects:
        """Our close frame is sent."""
