"""One WebSocket, seen from the interface server, as a table.

::

    QUEUED ----claim----> CLAIMED ----accept----> OPEN ----close, from either side----> CLOSING, DONE
                             '-----response-----> DENYING ----last byte----> DONE

    OPEN ----the client breaks the protocol----> FAILING ----the application knows----> CLOSING

    OPEN ----its worker is lost----> WAITING ----claim----> TAKEN ----accept----> OPEN
                                      |  ^                    |
                                      |  '----worker lost-----'
                                      '----the client leaves--'----> LEFT ----accept----> DONE

    Whatever a worker sends first claims it.
"""

from __future__ import annotations

import enum
from typing import ClassVar, Final

from ifserver import messages as m
from ifserver.flow_control import MESSAGE_OVERHEAD, message_bytes
from ifserver.state_machines import resumption
from ifserver.state_machines.effects import (
    ENDED,
    FAIL,
    RESUME_READING,
    WAIT_LAST_WORDS,
    WAIT_NOTHING,
    WAIT_RESPONSE,
    WITHDRAW,
    Abort,
    ClaimTimedOut,
    ClientFailed,
    ClientLeft,
    CloseClient,
    Effect,
    Effects,
    Flushed,
    Gap,
    Joined,
    MessageReceived,
    OfferRefused,
    Send,
    TimedOut,
    Withdrawn,
    packed,
    unpacked,
)
from ifserver.state_machines.stream import (
    NOTHING,
    Row,
    Rule,
    Stream,
    answer,
    claim_timed_out,
    disconnect,
    gap,
    ignore,
    join,
    joined,
    leave,
    lost,
    lost_withdrawing,
    missed,
    refused,
    release,
    release_reason,
    supervised,
    table_of,
    window,
    withdraw,
    withdrawn,
)

__all__ = ["State", "WebSocketStream"]

#: RFC 6455 7.4.1: the application has ended in error.
INTERNAL_ERROR: Final = 1011


class State(enum.Enum):
    """Where a WebSocket is."""

    # Members are keys of tables, and the hash that an Enum brings along is written in Python.
    __hash__ = object.__hash__

    #: As for HTTP; the client's handshake is not answered yet.
    QUEUED = enum.auto()
    WITHDRAWING = enum.auto()
    CLAIMED = enum.auto()
    #: The application answers the handshake with an HTTP response of its own (ASGI ``websocket.http.response``).
    DENYING = enum.auto()
    #: ``101`` has been sent; frames go both ways.
    OPEN = enum.auto()
    #: The WebSocket is open and resumable, and its worker is lost: it waits for the next one (`resumption`).
    WAITING = enum.auto()
    #: The next worker has it, and has not accepted it yet.
    TAKEN = enum.auto()
    #: The client has left while its WebSocket had no worker, and something that it had sent is still held.
    LEFT = enum.auto()
    #: The client has broken the protocol, and our close frame is held back: what the application sends before it learns
    #: of that goes out first, so that no answer to an earlier message is lost.
    FAILING = enum.auto()
    #: Our close frame has been sent, the client's answer is awaited (RFC 6455 7.1.2).
    CLOSING = enum.auto()
    #: Nothing more will happen to the client.
    DONE = enum.auto()


_S = State


class WebSocketStream(Stream):
    """One WebSocket. A handshake that its worker's death left unanswered is offered once more, as a GET is.

    One that is resumable holds what its worker was handed until that is known to have been consumed.
    """

    __slots__ = ("farewell", "forwarded", "handed_out", "stale_units", "tries")

    request: m.WebSocketConnect
    table: ClassVar[dict[State, Row]]
    CLAIMS: ClassVar = {_S.QUEUED: _S.CLAIMED, _S.WITHDRAWING: _S.CLAIMED, _S.WAITING: _S.TAKEN}
    QUEUED = _S.QUEUED
    DONE = _S.DONE

    def __init__(self, request: m.WebSocketConnect) -> None:
        super().__init__(request, _S.QUEUED)
        #: None: it is not resumable.
        self.handed_out = resumption.HandedOut() if request.resumable else None
        #: Units of the present worker's messages that were passed on to the client; and of former ones', those which
        #: the kernel has not taken yet.
        self.forwarded = self.stale_units = 0
        #: Attempts in a row that have failed since the last worker was lost.
        self.tries = 0
        #: How the client has left whose messages are still held.
        self.farewell: ClientLeft | None = None

    @property
    def resumable(self) -> bool:
        return self.handed_out is not None

    @property
    def waits(self) -> bool:
        return self.state in (_S.CLAIMED, _S.TAKEN, _S.FAILING) or bool(self.pending)

    def repeatable(self) -> bool:
        return True

    def claimed(self) -> Effects:
        return (WAIT_RESPONSE,) if self.state is _S.CLAIMED else NOTHING

    def broken(self, why: str) -> Effects:
        rejection, state, why = release(self, "broken"), self.state, f"bad reply: {why}"
        if state in _WITHOUT_WORKER:
            # The client has got nothing of this worker, and can have another.
            if state is _S.TAKEN:
                self.enter(_S.WAITING)
            return *rejection, *resumption.try_again(self, why)
        if state in (_S.OPEN, _S.FAILING):
            self.enter(_S.CLOSING)
            self.disown()
            close = FAIL if state is _S.FAILING else CloseClient(INTERNAL_ERROR, "", why)
            return WAIT_NOTHING, close, *self.begin_to_close(), *rejection
        if state is _S.CLOSING:
            return NOTHING
        if state is _S.DENYING:
            self.enter(_S.DONE)
            return Abort(why), *rejection, ENDED
        return rejection if state is _S.DONE else rejection + answer(self, 502, why)

    def disown(self) -> None:
        """From here on no worker has the stream: one that still sends something is answered with a `Release`."""
        self.worker = self.supervisor = None
        self.attempt += 1

    def begin_to_close(self) -> Effects:
        """Our close frame is sent. What is held is of no use; the client's answer must be read."""
        self.pending.clear()
        self.pending_units = 0
        if self.reading:
            return NOTHING
        self.reading = True
        return (RESUME_READING,)

    def send_held(self, beyond_credit: bool = False) -> Effects:
        effects: list[Effect] = []
        pending, credit = self.pending, self.send_window
        while pending and self.worker is not None and (beyond_credit or credit.open):
            event = unpacked(pending.pop(0))
            size = message_bytes(event.text, event.data)
            self.pending_units -= size + MESSAGE_OVERHEAD
            effects.append(self.hand_over(self.worker, event, size))
        return tuple(effects)

    def hand_over(self, worker: str, event: MessageReceived, size: int) -> Send:
        """Send the client's message, of `size` bytes, to the worker."""
        credit = self.send_window
        credit.sent += size + MESSAGE_OVERHEAD
        if self.handed_out is not None:
            self.handed_out.add(credit.sent, event)
        seq, self.sent = self.sent, self.sent + 1
        return Send(worker, m.WebSocketReceive(self.identity, self.attempt, seq, event.text, event.data))


# The client.


def _received(stream: WebSocketStream, event: MessageReceived) -> Effects:
    size = message_bytes(event.text, event.data)
    if stream.worker is not None and not stream.pending and stream.reading and stream.send_window.open:
        # Nothing is in its way: this is the way of nearly every message.
        return (stream.hand_over(stream.worker, event, size),)
    stream.hold(packed(event), size)
    return stream.pump()


def _left_unclaimed(stream: WebSocketStream, event: ClientLeft) -> Effects:
    return WITHDRAW, ENDED


def _left(stream: WebSocketStream, event: ClientLeft) -> Effects:
    # What it sent before it left is handed over, beyond the credit: it is no more than was held here.
    return *stream.send_held(beyond_credit=True), *disconnect(stream, event.code, event.reason), ENDED


def _left_alone(stream: WebSocketStream, event: ClientLeft) -> Effects:
    """No worker has it that could be handed what the client sent, or none that has accepted it."""
    if stream.pending:
        stream.farewell = event
        stream.enter(_S.LEFT)
        return NOTHING
    stream.enter(_S.DONE)
    return _left(stream, event) if stream.worker is not None else _left_unclaimed(stream, event)


def _left_failing(stream: WebSocketStream, event: ClientLeft) -> Effects:
    """The worker knows that the client leaves; that it can be answered is over."""
    return *release(stream, "the client has left"), ENDED


def _failed(stream: WebSocketStream, event: ClientFailed) -> Effects:
    # As when it leaves, everything that it sent before is handed over.
    held = stream.send_held(beyond_credit=True)
    return *held, *disconnect(stream, event.code, event.reason, answerable=True), WAIT_LAST_WORDS


def _failed_alone(stream: WebSocketStream, event: ClientFailed) -> Effects:
    return (FAIL,)


def _flushed(stream: WebSocketStream, event: Flushed) -> Effects:
    if stream.stale_units:
        # Of a worker that was lost: the present one has sent nothing of it.
        stream.stale_units -= event.payload_bytes + MESSAGE_OVERHEAD
        return NOTHING
    return window(stream, event)


# The worker.


def _credit(stream: WebSocketStream, message: m.Window) -> Effects:
    if stream.handed_out is not None:
        stream.handed_out.confirm(message.consumed)
    return stream.pump() if stream.send_window.update(message.consumed) else NOTHING


def _accepted(stream: WebSocketStream, message: m.WebSocketAccept) -> Effects:
    # The worker has looked at what the application wants, and at the subprotocol, beside our paths.
    if not message.resumable:
        stream.handed_out = None
    elif stream.handed_out is None:
        stream.handed_out = resumption.HandedOut()
    return WAIT_NOTHING, message


def _accepted_left(stream: WebSocketStream, message: m.WebSocketAccept) -> Effects:
    assert stream.farewell is not None
    return _left(stream, stream.farewell)


def _denied(stream: WebSocketStream, message: m.ResponseStart) -> Effects:
    stream.enter(_S.DENYING if message.more_body else _S.DONE)
    return (WAIT_NOTHING, message) if message.more_body else (message, ENDED)


def _denial_continued(stream: WebSocketStream, message: m.ResponseBody) -> Effects:
    if message.more_body:
        return (message,)
    stream.enter(_S.DONE)
    return message, ENDED


def _forward(stream: WebSocketStream, message: m.WebSocketSend) -> Effects:
    if stream.handed_out is not None:
        stream.forwarded += message_bytes(message.text, message.data) + MESSAGE_OVERHEAD
    return (message,)


def _close(stream: WebSocketStream, message: m.WebSocketClose) -> Effects:
    return message, *stream.begin_to_close()


def _fail(stream: WebSocketStream, event: object) -> Effects:
    """The application knows that the client has broken the protocol, or has ended."""
    stream.disown()
    return WAIT_NOTHING, FAIL, *stream.begin_to_close()


def _no_last_words(stream: WebSocketStream, event: TimedOut) -> Effects:
    return *release(stream, "the client has broken the protocol"), *_fail(stream, event)


def _no_response(stream: WebSocketStream, event: TimedOut) -> Effects:
    why = "the application did not answer the handshake in time"
    return disconnect(stream, 1006) + answer(stream, 504, why)


def _cut_off(stream: WebSocketStream, event: m.Release) -> Effects:
    return Abort(f"{release_reason(event)}, in the middle of the denial"), ENDED


def _lost(stream: WebSocketStream, event: m.Release) -> Effects:
    given_back, handed_out = event.reason in m.GIVEN_BACK, stream.handed_out
    restarts = given_back or event.reason == m.DIED
    if handed_out is not None and (restarts or event.reason == m.SERVER_LOST):
        if given_back and event.sent > stream.received:
            return gap(stream, event.sent)
        stream.enter(_S.WAITING)
        return resumption.resume(stream, handed_out, event)
    stream.enter(_S.CLOSING)
    stream.disown()
    code = resumption.SERVICE_RESTART if restarts else INTERNAL_ERROR
    return CloseClient(code, "", release_reason(event), is_logged=restarts), *stream.begin_to_close()


#: Offered, and with a worker that has not accepted it.
_UNCLAIMED: Final = _S.QUEUED, _S.WITHDRAWING
_LOOKING: Final = _S.WAITING, _S.TAKEN
#: The client's WebSocket is open, or was, and no worker has accepted it.
_WITHOUT_WORKER: Final = *_LOOKING, _S.LEFT
#: An application has it that may join groups.
_IN_GROUPS: Final = _S.CLAIMED, _S.OPEN, _S.TAKEN
_ENDING: Final = _S.FAILING, _S.CLOSING, _S.DONE

_RULES: Final[tuple[Rule, ...]] = (
    # The client.
    (_S.OPEN, MessageReceived, None, _received),
    (_LOOKING, MessageReceived, None, resumption.hold),
    (_ENDING, MessageReceived, None, ignore),
    (_S.QUEUED, ClientLeft, _S.DONE, _left_unclaimed),
    ((_S.WITHDRAWING, _S.CLAIMED, _S.DENYING, _S.OPEN, _S.CLOSING), ClientLeft, _S.DONE, _left),
    (_LOOKING, ClientLeft, None, _left_alone),
    (_S.FAILING, ClientLeft, _S.DONE, _left_failing),
    (_S.DONE, ClientLeft, None, ignore),
    (_S.OPEN, ClientFailed, _S.FAILING, _failed),
    ((*_LOOKING, _S.CLOSING), ClientFailed, None, _failed_alone),
    ((_S.DENYING, _S.OPEN, *_LOOKING, _S.FAILING), Flushed, None, _flushed),
    ((_S.LEFT, _S.CLOSING, _S.DONE), Flushed, None, ignore),
    # The offer. Once it is claimed, or is made anew, what is known of the one before comes too late.
    (_UNCLAIMED, OfferRefused, None, refused),
    ((_S.WAITING, _S.LEFT), OfferRefused, None, resumption.refused),
    ((_S.CLAIMED, _S.DENYING, _S.OPEN, _S.TAKEN, *_ENDING), OfferRefused, None, ignore),
    (_S.QUEUED, ClaimTimedOut, None, claim_timed_out),
    ((_S.WAITING, _S.LEFT), ClaimTimedOut, None, resumption.claim_timed_out),
    (_S.WITHDRAWING, ClaimTimedOut, None, ignore),  # the answer of the node, which was asked already, decides
    (_S.CLOSING, ClaimTimedOut, None, ignore),
    (_S.QUEUED, TimedOut, _S.WITHDRAWING, withdraw),
    (_S.WITHDRAWING, Withdrawn, None, withdrawn),
    (tuple(each for each in _S if each is not _S.WITHDRAWING), Withdrawn, None, ignore),
    # The worker. (What it sends first is an event of CLAIMED, or of TAKEN.)
    ((_S.CLAIMED, _S.DENYING, _S.OPEN, _S.TAKEN, _S.LEFT, _S.FAILING), m.Claim, None, supervised),
    ((_S.CLAIMED, _S.DENYING, _S.OPEN), m.Window, None, _credit),
    ((_S.TAKEN, _S.LEFT, _S.FAILING, _S.CLOSING), m.Window, None, ignore),
    (_S.CLOSING, m.Claim, None, ignore),
    (_S.CLAIMED, m.WebSocketAccept, _S.OPEN, _accepted),
    (_S.TAKEN, m.WebSocketAccept, _S.OPEN, resumption.accepted),
    (_S.LEFT, m.WebSocketAccept, _S.DONE, _accepted_left),
    (_S.CLAIMED, m.ResponseStart, None, _denied),
    (_S.TAKEN, m.ResponseStart, _S.CLOSING, resumption.denied),
    (_S.LEFT, m.ResponseStart, _S.DONE, resumption.denied_left),
    (_S.DENYING, m.ResponseBody, None, _denial_continued),
    ((_S.OPEN, _S.FAILING), m.WebSocketSend, None, _forward),
    (_S.OPEN, m.WebSocketClose, _S.CLOSING, _close),
    (_S.FAILING, m.WebSocketClose, _S.CLOSING, _fail),
    (_S.CLAIMED, TimedOut, None, _no_response),
    (_LOOKING, TimedOut, _S.CLOSING, resumption.timed_out),
    (_S.LEFT, TimedOut, _S.DONE, resumption.timed_out_left),
    (_S.FAILING, TimedOut, _S.CLOSING, _no_last_words),
    ((_S.CLOSING, _S.DONE), TimedOut, None, ignore),
    # Groups. An application whose client has left, or leaves, will soon learn of that.
    (_IN_GROUPS, m.GroupJoin, None, join),
    (_S.LEFT, m.GroupJoin, None, resumption.join_left),
    (_S.FAILING, m.GroupJoin, None, ignore),
    ((*_IN_GROUPS, _S.FAILING), m.GroupLeave, None, leave),
    (_S.LEFT, m.GroupLeave, None, ignore),
    (_IN_GROUPS, Joined, None, joined),
    (_IN_GROUPS, Gap, None, missed),
    ((*_UNCLAIMED, _S.DENYING, _S.WAITING, _S.LEFT, *_ENDING), (Joined, Gap), None, ignore),
    # The worker releases it.
    ((_S.QUEUED, _S.CLAIMED), m.Release, None, lost),
    (_S.WITHDRAWING, m.Release, None, lost_withdrawing),
    (_S.DENYING, m.Release, _S.DONE, _cut_off),
    (_S.OPEN, m.Release, None, _lost),
    (_LOOKING, m.Release, _S.WAITING, resumption.lost),
    (_S.LEFT, m.Release, None, resumption.lost),
    (_S.FAILING, m.Release, _S.CLOSING, _fail),
    ((_S.CLOSING, _S.DONE), m.Release, None, ignore),
)

WebSocketStream.table = table_of(State, _RULES)
