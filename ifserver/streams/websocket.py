"""One WebSocket, seen from the interface server, as a table.

::

    QUEUED ----claim----> CLAIMED ----accept----> OPEN ----close, from either side----> DONE
      |                      |
      |                      '-----response-----> DENYING ----last byte----> DONE
      '----accept or response, which claim as well---->'

    OPEN ----the client breaks the protocol----> FAILING ----the application knows----> CLOSING

    OPEN ----its worker is gone----> WAITING ----claim----> TAKEN ----accept----> OPEN
                                        '----the client leaves----'----> LEFT ----accept----> DONE

QUEUED, WITHDRAWING, CLAIMED
    As for HTTP; the client's handshake is not answered yet.
DENYING
    The application answers the handshake with an HTTP response of its own (ASGI ``websocket.http.response``).
OPEN
    ``101`` has been sent; frames go both ways.
WAITING, RETURNING, TAKEN
    The WebSocket is open and resumable, and its worker is gone (design: Resumption): as QUEUED, WITHDRAWING and
    CLAIMED. What the client sends is held. The next worker's accept leads back to OPEN, which the client does not see.
LEFT
    The client has left meanwhile, and something that it had sent is still held: the next worker is handed that when it
    accepts, and told. (Where nothing is held, the stream ends at once.)
FAILING
    The client has broken the protocol, and our close frame is held back: what the application says before it learns of
    that is still sent, so that no answer to an earlier message is lost.
CLOSING
    Our close frame has been sent, the client's answer is awaited (RFC 6455 7.1.2).
DONE
    Nothing more will happen to the client.
"""

from __future__ import annotations

import enum
from typing import ClassVar, Final

from msgspec.structs import replace

from ifserver import messages as m
from ifserver.streams.base import NOTHING, Row, Stream
from ifserver.streams.effects import (
    ENDED,
    FAIL,
    RESUME_READING,
    WAIT_LAST_WORDS,
    WAIT_NOTHING,
    WAIT_RESPONSE,
    WAIT_WORKER,
    WITHDRAW,
    Abort,
    Answer,
    ClientFailed,
    ClientGone,
    CloseClient,
    Effect,
    Effects,
    Flushed,
    MessageReceived,
    Offer,
    OfferRefused,
    Resume,
    Tell,
    TimedOut,
    Unsaid,
    Vanished,
    Withdrawn,
)
from ifserver.streams.resumption import HandedOut
from ifserver.streams.window import MESSAGE_OVERHEAD, message_bytes

__all__ = ["State", "WebSocketStream"]

#: RFC 6455 7.4.1 and the IANA registry: the application does not want it; it ended in error; the server restarts.
POLICY_VIOLATION: Final = 1008
INTERNAL_ERROR: Final = 1011
SERVICE_RESTART: Final = 1012


class State(enum.Enum):
    """Where a WebSocket is; see the module's docstring."""

    # Members are keys of tables, and the hash that an Enum brings along is written in Python.
    __hash__ = object.__hash__

    QUEUED = enum.auto()
    WITHDRAWING = enum.auto()
    CLAIMED = enum.auto()
    DENYING = enum.auto()
    OPEN = enum.auto()
    WAITING = enum.auto()
    RETURNING = enum.auto()
    TAKEN = enum.auto()
    LEFT = enum.auto()
    FAILING = enum.auto()
    CLOSING = enum.auto()
    DONE = enum.auto()


class WebSocketStream(Stream):
    """One WebSocket. A handshake that its worker's death left unanswered is offered once more, as a GET is.

    One that is resumable holds what its worker was handed until that is known to have been consumed.
    """

    __slots__ = ("_farewell", "_forwarded", "_handed_out", "_stale_units")

    request: m.WebSocketConnect
    _state: State
    table: ClassVar[dict[State, Row]]

    def __init__(self, request: m.WebSocketConnect) -> None:
        super().__init__(request, State.QUEUED)
        #: None: it is not resumable.
        self._handed_out = HandedOut() if request.resumable else None
        #: Units of the present worker's messages that were passed on to the client; and of former ones', those which
        #: the kernel has not taken yet.
        self._forwarded = self._stale_units = 0
        #: How the client has left whose messages are still held.
        self._farewell: ClientGone | None = None

    @property
    def waits(self) -> bool:
        return self._state in (State.CLAIMED, State.TAKEN, State.FAILING) or bool(self._pending)

    @property
    def resumable(self) -> bool:
        return self._handed_out is not None

    # The client.

    def _left_unclaimed(self, event: ClientGone) -> Effects:
        self._enter(State.DONE)
        return WITHDRAW, ENDED

    def _left(self, event: ClientGone) -> Effects:
        self._enter(State.DONE)
        # What it sent before it left is handed over, beyond the credit: it is no more than was held here.
        return *self._send_held(beyond_credit=True), *self._disconnect(event.code, event.reason), ENDED

    def _left_alone(self, event: ClientGone) -> Effects:
        """Nobody has it who could be handed what the client sent, or nobody who has accepted it."""
        before = self._state
        if not self._pending:
            return self._left_unclaimed(event) if before is State.WAITING else self._left(event)
        self._farewell = event
        self._enter(State.LEFT)
        # What is waited for is the same; but where the node was asked, it was nothing.
        return (WAIT_WORKER,) if before is State.RETURNING else NOTHING

    def _claimed_left(self, message: m.Claim) -> Effects:
        first = self.supervisor is None
        self._claimed_by(message)
        return (WAIT_RESPONSE,) if first else NOTHING

    def _accepted_left(self, message: m.WebSocketAccept) -> Effects:
        assert self._farewell is not None
        return self._left(self._farewell)

    def _denied_left(self, message: m.ResponseStart) -> Effects:
        release = self._release("the client has left") if message.more_body else NOTHING
        return *release, *self._unsaid("the application has denied the WebSocket's resumption")

    def _not_taken_left(self, event: TimedOut) -> Effects:
        claimant = (WITHDRAW,) if self.worker is None else self._release("the client has left")
        return *claimant, *self._unsaid("no worker accepted it in time")

    def _withdrawn_left(self, event: Withdrawn) -> Effects:
        return self._unsaid("no worker took it in time") if event.was_there else NOTHING

    def _unsaid(self, why: str) -> Effects:
        """Nobody is left who could hear what the client had sent."""
        self._enter(State.DONE)
        return Unsaid(len(self._pending), why), ENDED

    def _left_failing(self, event: ClientGone) -> Effects:
        """The worker knows that the client leaves; that it can be answered is over."""
        self._enter(State.DONE)
        return *self._release("the client has left"), ENDED

    def _failed(self, event: ClientFailed) -> Effects:
        self._enter(State.FAILING)
        # As when it leaves, everything that it sent before is handed over.
        held = self._send_held(beyond_credit=True)
        return *held, *self._disconnect(event.code, event.reason, answerable=True), WAIT_LAST_WORDS

    def _failed_alone(self, event: ClientFailed) -> Effects:
        """Nobody has it who could answer. Whoever takes it next hears what the client sent, and that it has left."""
        return (FAIL,)

    def _received_message(self, event: MessageReceived) -> Effects:
        size = message_bytes(event.text, event.data)
        if self.worker is not None and not self._pending and self._reading and self._send_window.open:
            # Nothing is in its way: this is the way of nearly every message.
            return (self._handed_over(self.worker, event, size),)
        self._hold(event, size)
        return self._pump()

    def _held_message(self, event: MessageReceived) -> Effects:
        """Of a client whose WebSocket has no worker."""
        self._hold(event, message_bytes(event.text, event.data))
        return self._stop_reading_if_full()

    def _flushed(self, event: Flushed) -> Effects:
        if self._stale_units:
            # Of a worker that is gone: the present one has sent nothing of it.
            self._stale_units -= event.payload_bytes + MESSAGE_OVERHEAD
            return NOTHING
        total = self._receive_window.consume(event.payload_bytes)
        if total is None or self.worker is None:
            return NOTHING
        return (Tell(self.worker, m.Window(self.identity, self.attempt, self.worker, total)),)

    # The clock.

    def _not_taken(self, event: TimedOut) -> Effects:
        self._enter(State.WITHDRAWING if self._state is State.QUEUED else State.RETURNING)
        return WAIT_NOTHING, WITHDRAW

    def _no_response(self, event: TimedOut) -> Effects:
        return self._disconnect(1006) + self._answer(504, "the application did not answer the handshake in time")

    def _no_last_words(self, event: TimedOut) -> Effects:
        return *self._release("the client has broken the protocol"), *self._fail(event)

    # The worker.

    def _claimed(self, message: m.Claim | m.Window) -> Effects:
        self._enter(State.CLAIMED if self._state in (State.QUEUED, State.WITHDRAWING) else State.TAKEN)
        self._claimed_by(message)
        return (WAIT_RESPONSE,)

    def _accepted(self, message: m.WebSocketAccept) -> Effects:
        self._enter(State.OPEN)
        if message.resumable and self._handed_out is None:
            self._handed_out = HandedOut()
        return WAIT_NOTHING, message

    def _accepted_again(self, message: m.WebSocketAccept) -> Effects:
        """The client has been accepted before, by a worker that is gone."""
        self._enter(State.OPEN)
        return WAIT_NOTHING, *self._pump()

    def _denied_again(self, message: m.ResponseStart) -> Effects:
        release = self._release("denied") if message.more_body else NOTHING
        close = CloseClient(POLICY_VIOLATION, "", "the application has denied the WebSocket's resumption")
        return WAIT_NOTHING, close, *self._begin_to_close(), *release

    def _denied(self, message: m.ResponseStart) -> Effects:
        if not message.more_body:
            self._enter(State.DONE)
            return message, ENDED
        self._enter(State.DENYING)
        return WAIT_NOTHING, message

    def _denial_continued(self, message: m.ResponseBody) -> Effects:
        if message.more_body:
            return (message,)
        self._enter(State.DONE)
        return message, ENDED

    def _forward(self, message: m.WebSocketSend) -> Effects:
        if self._handed_out is not None:
            self._forwarded += message_bytes(message.text, message.data) + MESSAGE_OVERHEAD
        return (message,)

    def _close(self, message: m.WebSocketClose) -> Effects:
        return message, *self._begin_to_close()

    def _fail(self, event: object) -> Effects:
        """The application knows that the client has broken the protocol, or has ended."""
        self._forsake()
        return WAIT_NOTHING, FAIL, *self._begin_to_close()

    def _window(self, message: m.Window) -> Effects:
        if self._handed_out is not None:
            self._handed_out.confirm(message.consumed)
        return self._pump() if self._send_window.update(message.consumed) else NOTHING

    def _cut_off(self, event: m.Release) -> Effects:
        self._enter(State.DONE)
        return Abort(f"worker {event.worker} let go in the middle of the denial: {event.reason}"), ENDED

    def _lost_open(self, event: m.Release) -> Effects:
        restarts = event.reason == m.DIED or event.reason in m.GIVEN_BACK
        if restarts and self._handed_out is not None:
            return self._resume(event, self._handed_out)
        code = SERVICE_RESTART if restarts else INTERNAL_ERROR
        self._forsake()
        close = CloseClient(code, "", f"worker {event.worker} has let go: {event.reason}")
        return close, *self._begin_to_close()

    def _resume(self, event: m.Release, handed_out: HandedOut) -> Effects:
        """Offer the open WebSocket to the next worker."""
        given_back = event.reason in m.GIVEN_BACK
        if given_back and event.sent > self._received:
            return self._gap(event.sent)
        handed_out.confirm(event.consumed)
        # Who gives it back has said what it has consumed. Of one that died nobody knows, so nothing is sent again.
        unconfirmed = 0 if given_back else len(handed_out)
        left = handed_out.take()
        pending = [*(left if given_back else ()), *self._pending]
        self._stale_units += self._forwarded - self._receive_window.consumed
        self._forwarded = 0
        self.request = replace(self.request, attempt=self.attempt + 1, resumable=True, unconfirmed=unconfirmed)
        self._begin_attempt(self.request.attempt)
        self._repeated = 0
        for message in pending:
            self._hold(message, message_bytes(message.text, message.data))
        self._enter(State.WAITING)
        return Resume(self.request), WAIT_WORKER, *self._stop_reading_if_full()

    def _broken(self, why: str) -> Effects:
        release = self._release("broken")
        if self._state is State.FAILING:
            return *self._fail(why), *release
        if self._state in _OPEN:
            self._forsake()
            close = CloseClient(INTERNAL_ERROR, "", f"bad reply: {why}")
            return WAIT_NOTHING, close, *self._begin_to_close(), *release
        if self._state is State.CLOSING:
            return NOTHING
        if self._state is State.DONE:
            return release
        if self._state is State.DENYING:
            self._enter(State.DONE)
            return Abort(f"bad reply: {why}"), *release, ENDED
        if self._state is State.LEFT:
            return *release, *self._unsaid(f"bad reply: {why}")
        return release + self._answer(502, f"bad reply: {why}")

    # Helpers.

    def _forsake(self) -> None:
        """From here on nobody may speak for the stream: whoever still does is told to let go."""
        self.worker = self.supervisor = None
        self.attempt += 1

    def _begin_to_close(self) -> Effects:
        """Our close frame is sent. Nobody wants what is held; the client's answer must be read."""
        self._enter(State.CLOSING)
        self._pending.clear()
        self._pending_units = 0
        if self._reading:
            return NOTHING
        self._reading = True
        return (RESUME_READING,)

    def _answer(self, status: int, why: str) -> Effects:
        if self._state in _OPEN:
            self._forsake()
            return WAIT_NOTHING, CloseClient(SERVICE_RESTART, "", why), *self._begin_to_close()
        if self._state is State.LEFT:
            return self._unsaid(why)
        self._enter(State.DONE)
        return Answer(status, why), ENDED

    def _repeatable(self) -> bool:
        return True

    def _offer_again(self, why: str) -> Effects:
        self.request = replace(self.request, attempt=self.attempt + 1)
        pending, units = self._pending, self._pending_units
        self._begin_attempt(self.request.attempt)
        self._pending, self._pending_units = pending, units
        if self._state is not State.LEFT:
            self._enter(State.WAITING if self._state in _OPEN else State.QUEUED)
        return Offer(self.request, why), WAIT_WORKER

    def _send_held(self, beyond_credit: bool = False) -> Effects:
        worker = self.worker
        if worker is None:
            return NOTHING
        effects: list[Effect] = []
        pending, window = self._pending, self._send_window
        while pending and (beyond_credit or window.open):
            event = pending.pop(0)
            size = message_bytes(event.text, event.data)
            self._pending_units -= size + MESSAGE_OVERHEAD
            effects.append(self._handed_over(worker, event, size))
        return tuple(effects)

    def _handed_over(self, worker: str, event: MessageReceived, size: int) -> Tell:
        """Send the client's message, of `size` bytes, to the worker."""
        window = self._send_window
        window.spend(size)
        if self._handed_out is not None:
            self._handed_out.add(window.sent, event)
        return Tell(worker, m.WebSocketReceive(self.identity, self.attempt, self._sequence(), event.text, event.data))


#: Where the client's WebSocket is open.
_OPEN: Final = (State.OPEN, State.WAITING, State.RETURNING, State.TAKEN)

_WAITING_FOR_WORKER: Final[Row] = {
    OfferRefused: WebSocketStream._refused,
    m.Claim: WebSocketStream._claimed,
    m.Window: WebSocketStream._claimed,
    m.WebSocketAccept: WebSocketStream._accepted,
    m.ResponseStart: WebSocketStream._denied,
    m.Release: WebSocketStream._lost,
}

#: What is particular to a WebSocket that is open and has no worker, or none that has accepted it.
_WITHOUT_WORKER: Final[Row] = {
    MessageReceived: WebSocketStream._held_message,
    ClientFailed: WebSocketStream._failed_alone,
    Flushed: WebSocketStream._flushed,
    m.WebSocketAccept: WebSocketStream._accepted_again,
    m.ResponseStart: WebSocketStream._denied_again,
}

WebSocketStream.table = {
    State.QUEUED: {
        **_WAITING_FOR_WORKER,
        ClientGone: WebSocketStream._left_unclaimed,
        TimedOut: WebSocketStream._not_taken,
        Vanished: WebSocketStream._vanished,
        # Of the attempt before: its worker was lost while the node was asked.
        Withdrawn: WebSocketStream._ignore,
    },
    State.WITHDRAWING: {
        **_WAITING_FOR_WORKER,
        ClientGone: WebSocketStream._left,
        Withdrawn: WebSocketStream._withdrawn,
        # The answer of the node, which was asked already, decides.
        Vanished: WebSocketStream._ignore,
    },
    State.CLAIMED: {
        ClientGone: WebSocketStream._left,
        Withdrawn: WebSocketStream._ignore,
        OfferRefused: WebSocketStream._ignore,
        TimedOut: WebSocketStream._no_response,
        m.Claim: WebSocketStream._claimed_again,
        m.Window: WebSocketStream._window,
        m.WebSocketAccept: WebSocketStream._accepted,
        m.ResponseStart: WebSocketStream._denied,
        m.Release: WebSocketStream._lost,
    },
    State.DENYING: {
        ClientGone: WebSocketStream._left,
        Withdrawn: WebSocketStream._ignore,
        OfferRefused: WebSocketStream._ignore,
        Flushed: WebSocketStream._flushed,
        m.Claim: WebSocketStream._claimed_again,
        m.Window: WebSocketStream._window,
        m.ResponseBody: WebSocketStream._denial_continued,
        m.Release: WebSocketStream._cut_off,
    },
    State.OPEN: {
        MessageReceived: WebSocketStream._received_message,
        ClientFailed: WebSocketStream._failed,
        ClientGone: WebSocketStream._left,
        Flushed: WebSocketStream._flushed,
        Withdrawn: WebSocketStream._ignore,
        OfferRefused: WebSocketStream._ignore,
        m.Claim: WebSocketStream._claimed_again,
        m.Window: WebSocketStream._window,
        m.WebSocketSend: WebSocketStream._forward,
        m.WebSocketClose: WebSocketStream._close,
        m.Release: WebSocketStream._lost_open,
    },
    State.WAITING: {
        **_WAITING_FOR_WORKER,
        **_WITHOUT_WORKER,
        ClientGone: WebSocketStream._left_alone,
        TimedOut: WebSocketStream._not_taken,
        Vanished: WebSocketStream._vanished,
        Withdrawn: WebSocketStream._ignore,
    },
    State.RETURNING: {
        **_WAITING_FOR_WORKER,
        **_WITHOUT_WORKER,
        ClientGone: WebSocketStream._left_alone,
        Withdrawn: WebSocketStream._withdrawn,
        Vanished: WebSocketStream._ignore,
    },
    State.TAKEN: {
        **_WITHOUT_WORKER,
        ClientGone: WebSocketStream._left_alone,
        Withdrawn: WebSocketStream._ignore,
        OfferRefused: WebSocketStream._ignore,
        TimedOut: WebSocketStream._no_response,
        m.Claim: WebSocketStream._claimed_again,
        m.Window: WebSocketStream._ignore,
        m.Release: WebSocketStream._lost,
    },
    State.LEFT: {
        Flushed: WebSocketStream._ignore,
        TimedOut: WebSocketStream._not_taken_left,
        OfferRefused: WebSocketStream._refused,
        Vanished: WebSocketStream._vanished,
        Withdrawn: WebSocketStream._withdrawn_left,
        m.Claim: WebSocketStream._claimed_left,
        m.Window: WebSocketStream._ignore,
        m.WebSocketAccept: WebSocketStream._accepted_left,
        m.ResponseStart: WebSocketStream._denied_left,
        m.Release: WebSocketStream._lost,
    },
    State.FAILING: {
        MessageReceived: WebSocketStream._ignore,
        ClientGone: WebSocketStream._left_failing,
        Flushed: WebSocketStream._flushed,
        Withdrawn: WebSocketStream._ignore,
        OfferRefused: WebSocketStream._ignore,
        TimedOut: WebSocketStream._no_last_words,
        m.Claim: WebSocketStream._claimed_again,
        m.Window: WebSocketStream._ignore,
        m.WebSocketSend: WebSocketStream._forward,
        m.WebSocketClose: WebSocketStream._fail,
        m.Release: WebSocketStream._fail,
    },
    State.CLOSING: {
        MessageReceived: WebSocketStream._ignore,
        ClientFailed: WebSocketStream._failed_alone,
        ClientGone: WebSocketStream._left,
        Flushed: WebSocketStream._ignore,
        Withdrawn: WebSocketStream._ignore,
        OfferRefused: WebSocketStream._ignore,
        m.Claim: WebSocketStream._ignore,
        m.Window: WebSocketStream._ignore,
        m.Release: WebSocketStream._ignore,
    },
    State.DONE: {
        MessageReceived: WebSocketStream._ignore,
        ClientGone: WebSocketStream._ignore,
        Flushed: WebSocketStream._ignore,
        OfferRefused: WebSocketStream._ignore,
        TimedOut: WebSocketStream._ignore,
        Withdrawn: WebSocketStream._ignore,
        m.Release: WebSocketStream._ignore,
    },
}
