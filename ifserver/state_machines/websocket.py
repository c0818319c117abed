"""One WebSocket, seen from the interface server, as a table. Its states: `ifserver.state_machines.websocket_state`."""

from __future__ import annotations

from typing import ClassVar, Final

from msgspec.structs import replace

from ifserver import messages as m
from ifserver.flow_control import MESSAGE_OVERHEAD, message_bytes
from ifserver.state_machines.effects import (
    ENDED,
    FAIL,
    RESUME_READING,
    WAIT_LAST_WORDS,
    WAIT_NOTHING,
    WAIT_RESPONSE,
    WAIT_WORKER,
    WITHDRAW,
    Abort,
    ClientFailed,
    ClientGone,
    CloseClient,
    Effect,
    Effects,
    Flushed,
    Gap,
    Joined,
    MessageReceived,
    Offer,
    OfferRefused,
    Tell,
    TimedOut,
    Vanished,
    Withdrawn,
)
from ifserver.state_machines.retry_or_5xx import let_go
from ifserver.state_machines.stream import NOTHING, Row
from ifserver.state_machines.websocket_resumption import SERVICE_RESTART, HandedOut, ResumableStream
from ifserver.state_machines.websocket_state import State

__all__ = ["State", "WebSocketStream"]

#: RFC 6455 7.4.1: the application has ended in error.
INTERNAL_ERROR: Final = 1011


class WebSocketStream(ResumableStream):
    """One WebSocket. A handshake that its worker's death left unanswered is offered once more, as a GET is.

    One that is resumable holds what its worker was handed until that is known to have been consumed.
    """

    __slots__ = ()

    table: ClassVar[dict[State, Row]]
    WITHDRAWING = State.WITHDRAWING
    DONE = State.DONE
    LATE_CODE = 1006
    LATE = "the application did not answer the handshake in time"

    @property
    def waits(self) -> bool:
        return self._state in (State.CLAIMED, State.TAKEN, State.FAILING) or bool(self._pending)

    # The client.

    def _left_unclaimed(self, event: ClientGone) -> Effects:
        self._enter(State.DONE)
        return WITHDRAW, ENDED

    def _left(self, event: ClientGone) -> Effects:
        self._enter(State.DONE)
        # What it sent before it left is handed over, beyond the credit: it is no more than was held here.
        return *self._send_held(beyond_credit=True), *self._disconnect(event.code, event.reason), ENDED

    def _left_failing(self, event: ClientGone) -> Effects:
        """The worker knows that the client leaves; that it can be answered is over."""
        self._enter(State.DONE)
        return *self._release("the client has left"), ENDED

    def _failed(self, event: ClientFailed) -> Effects:
        self._enter(State.FAILING)
        # As when it leaves, everything that it sent before is handed over.
        held = self._send_held(beyond_credit=True)
        return *held, *self._disconnect(event.code, event.reason, answerable=True), WAIT_LAST_WORDS

    def _received_message(self, event: MessageReceived) -> Effects:
        size = message_bytes(event.text, event.data)
        if self.worker is not None and not self._pending and self._reading and self._send_window.open:
            # Nothing is in its way: this is the way of nearly every message.
            return (self._handed_over(self.worker, event, size),)
        self._hold(event, size)
        return self._pump()

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

    def _no_last_words(self, event: TimedOut) -> Effects:
        return *self._release("the client has broken the protocol"), *self._fail(event)

    # The worker.

    def _claimed(self, message: m.Claim | m.Window | m.GroupJoin | m.GroupLeave) -> Effects:
        self._enter(State.CLAIMED)
        self._claimed_by(message)
        return (WAIT_RESPONSE,)

    def _claims_and_joins(self, message: m.GroupJoin) -> Effects:
        return *self._claimed(message), *self._joins(message)

    def _claims_and_leaves(self, message: m.GroupLeave) -> Effects:
        return *self._claimed(message), *self._leaves(message)

    def _accepted(self, message: m.WebSocketAccept) -> Effects:
        self._enter(State.OPEN)
        # The worker has looked at what the application says, and at the subprotocol, beside our paths.
        if not message.resumable:
            self._handed_out = None
        elif self._handed_out is None:
            self._handed_out = HandedOut()
        return WAIT_NOTHING, message

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
        return Abort(f"{let_go(event)}, in the middle of the denial"), ENDED

    def _lost_open(self, event: m.Release) -> Effects:
        restarts = event.reason == m.DIED or event.reason in m.GIVEN_BACK
        if (restarts or event.reason == m.SERVER_LOST) and self._handed_out is not None:
            return self._resume(event, self._handed_out)
        code = SERVICE_RESTART if restarts else INTERNAL_ERROR
        self._forsake()
        close = CloseClient(code, "", let_go(event), is_told=restarts)
        return close, *self._begin_to_close()

    def _broken(self, why: str) -> Effects:
        release = self._release("broken")
        if self._state is State.FAILING:
            return *self._fail(why), *release
        if self._state in _WITHOUT_WORKER:
            # The client has been told nothing by this worker, and can have another.
            return *release, *self._try_again(f"bad reply: {why}")
        if self._state is State.OPEN:
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
        return release + self._answer(502, f"bad reply: {why}")

    # Helpers.

    def _begin_to_close(self) -> Effects:
        """Our close frame is sent. Nobody wants what is held; the client's answer must be read."""
        self._enter(State.CLOSING)
        self._pending.clear()
        self._pending_units = 0
        if self._reading:
            return NOTHING
        self._reading = True
        return (RESUME_READING,)

    def _repeatable(self) -> bool:
        return True

    def _offer_again(self, why: str) -> Effects:
        self.request = replace(self.request, attempt=self.attempt + 1)
        self._begin_attempt(self.request.attempt)
        self._enter(State.QUEUED)
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
        window.sent += size + MESSAGE_OVERHEAD
        if self._handed_out is not None:
            self._handed_out.add(window.sent, event)
        seq, self._sent = self._sent, self._sent + 1
        return Tell(worker, m.WebSocketReceive(self.identity, self.attempt, seq, event.text, event.data))


#: Where the client's WebSocket is open, or was, and no worker has accepted it.
_WITHOUT_WORKER: Final = (State.WAITING, State.TAKEN, State.LEFT)

#: Nobody has the stream who could be told.
_NO_ONE_TO_TELL: Final[Row] = {Joined: WebSocketStream._ignore, Gap: WebSocketStream._ignore}

#: An application has it that may speak of groups.
_IN_GROUPS: Final[Row] = {
    Joined: WebSocketStream._joined,
    Gap: WebSocketStream._misses,
    m.GroupJoin: WebSocketStream._joins,
    m.GroupLeave: WebSocketStream._leaves,
}

_UNANSWERED: Final[Row] = {
    **_NO_ONE_TO_TELL,
    OfferRefused: WebSocketStream._refused,
    m.GroupJoin: WebSocketStream._claims_and_joins,
    m.GroupLeave: WebSocketStream._claims_and_leaves,
    m.Claim: WebSocketStream._claimed,
    m.Window: WebSocketStream._claimed,
    m.WebSocketAccept: WebSocketStream._accepted,
    m.ResponseStart: WebSocketStream._denied,
    m.Release: WebSocketStream._lost,
}

#: WAITING and TAKEN.
_TO_BE_RESUMED: Final[Row] = {
    MessageReceived: WebSocketStream._held_message,
    ClientFailed: WebSocketStream._failed_alone,
    ClientGone: WebSocketStream._left_alone,
    Flushed: WebSocketStream._flushed,
    TimedOut: WebSocketStream._not_resumed,
    # Of the attempt before.
    Withdrawn: WebSocketStream._ignore,
    m.WebSocketAccept: WebSocketStream._accepted_again,
    m.ResponseStart: WebSocketStream._denied_again,
    m.Release: WebSocketStream._let_go,
}

WebSocketStream.table = {
    State.QUEUED: {
        **_UNANSWERED,
        ClientGone: WebSocketStream._left_unclaimed,
        TimedOut: WebSocketStream._not_taken,
        Vanished: WebSocketStream._vanished,
        # Of the attempt before: its worker was lost while the node was asked.
        Withdrawn: WebSocketStream._ignore,
    },
    State.WITHDRAWING: {
        **_UNANSWERED,
        ClientGone: WebSocketStream._left,
        Withdrawn: WebSocketStream._withdrawn,
        # The answer of the node, which was asked already, decides.
        Vanished: WebSocketStream._ignore,
        m.Release: WebSocketStream._lost_withdrawing,
    },
    State.CLAIMED: {
        **_IN_GROUPS,
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
        **_NO_ONE_TO_TELL,
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
        **_IN_GROUPS,
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
        **_TO_BE_RESUMED,
        **_NO_ONE_TO_TELL,
        OfferRefused: WebSocketStream._not_offered,
        Vanished: WebSocketStream._never_heard_of,
        m.Claim: WebSocketStream._taken,
        m.Window: WebSocketStream._taken,
        m.GroupJoin: WebSocketStream._takes_and_joins,
        m.GroupLeave: WebSocketStream._takes_and_leaves,
    },
    State.TAKEN: {
        **_TO_BE_RESUMED,
        **_IN_GROUPS,
        OfferRefused: WebSocketStream._ignore,
        m.Claim: WebSocketStream._claimed_again,
        m.Window: WebSocketStream._ignore,
    },
    State.LEFT: {
        **_NO_ONE_TO_TELL,
        Flushed: WebSocketStream._ignore,
        TimedOut: WebSocketStream._not_taken_left,
        OfferRefused: WebSocketStream._not_offered,
        Vanished: WebSocketStream._never_heard_of,
        Withdrawn: WebSocketStream._ignore,
        m.Claim: WebSocketStream._claimed_again,
        m.Window: WebSocketStream._ignore,
        m.GroupJoin: WebSocketStream._joins_left,
        m.GroupLeave: WebSocketStream._ignore,
        m.WebSocketAccept: WebSocketStream._accepted_left,
        m.ResponseStart: WebSocketStream._denied_left,
        m.Release: WebSocketStream._let_go,
    },
    State.FAILING: {
        **_NO_ONE_TO_TELL,
        MessageReceived: WebSocketStream._ignore,
        ClientGone: WebSocketStream._left_failing,
        Flushed: WebSocketStream._flushed,
        Withdrawn: WebSocketStream._ignore,
        OfferRefused: WebSocketStream._ignore,
        TimedOut: WebSocketStream._no_last_words,
        m.Claim: WebSocketStream._claimed_again,
        m.Window: WebSocketStream._ignore,
        m.WebSocketSend: WebSocketStream._forward,
        # The application will soon learn that the client has left.
        m.GroupJoin: WebSocketStream._ignore,
        m.GroupLeave: WebSocketStream._leaves,
        m.WebSocketClose: WebSocketStream._fail,
        m.Release: WebSocketStream._fail,
    },
    State.CLOSING: {
        **_NO_ONE_TO_TELL,
        MessageReceived: WebSocketStream._ignore,
        ClientFailed: WebSocketStream._failed_alone,
        ClientGone: WebSocketStream._left,
        Flushed: WebSocketStream._ignore,
        Withdrawn: WebSocketStream._ignore,
        OfferRefused: WebSocketStream._ignore,
        # Of an attempt to find its next worker.
        Vanished: WebSocketStream._ignore,
        TimedOut: WebSocketStream._ignore,
        m.Claim: WebSocketStream._ignore,
        m.Window: WebSocketStream._ignore,
        m.Release: WebSocketStream._ignore,
    },
    State.DONE: {
        **_NO_ONE_TO_TELL,
        MessageReceived: WebSocketStream._ignore,
        ClientGone: WebSocketStream._ignore,
        Flushed: WebSocketStream._ignore,
        OfferRefused: WebSocketStream._ignore,
        TimedOut: WebSocketStream._ignore,
        Withdrawn: WebSocketStream._ignore,
        m.Release: WebSocketStream._ignore,
    },
}
