"""One HTTP exchange, seen from the interface server, as a table.

::

    QUEUED ----claim----> CLAIMED ----response----> RESPONDING ----end----> DONE
                           |   ^                        |                    |
                           |   |                  last byte due              |
                           |   |                        '--> ANSWERED --end--|
                           |   '--refused----.                               |
                           '-----file-----> OPENING --------opened-----------'

    Whatever a worker sends first claims the request: most requests go to DONE with one message.

QUEUED
    Offered on a request channel, claimed by no worker yet.
WITHDRAWING
    ``queue_timeout`` is over, and the node was asked whether the request is still there.
CLAIMED
    A worker has it, the response has not begun.
OPENING
    The worker has answered with a file, and it is seen whether that can be sent from here. If so, the worker is done.
RESPONDING
    The status line has been sent: from here an error can only cut the connection (RFC 9112 8).
ANSWERED
    The client has as many bytes as Content-Length has promised, or a response without a body, so that it takes the
    response for complete; the worker has not ended it. Nothing that the worker does can harm the client now.
DONE
    Nothing more will happen to the client.
"""

from __future__ import annotations

import enum
from typing import ClassVar, Final

from msgspec.structs import replace

from ifserver import messages as m
from ifserver.flow_control import MESSAGE_OVERHEAD, PIECE_BYTES
from ifserver.state_machines.effects import (
    CONTINUE,
    ENDED,
    WAIT_NOTHING,
    WAIT_RESPONSE,
    WITHDRAW,
    Abort,
    Answered,
    BodyReceived,
    ClaimTimedOut,
    ClientLeft,
    CloseFile,
    Effect,
    Effects,
    FileOpened,
    FileRefused,
    Finish,
    Flushed,
    Gap,
    Joined,
    OfferRefused,
    SendFile,
    TimedOut,
    Withdrawn,
)
from ifserver.state_machines.stream import (
    NOTHING,
    Row,
    Rule,
    Stream,
    answer,
    claim_timed_out,
    disconnect,
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
    to_worker,
    window,
    withdraw,
    withdrawn,
)

__all__ = ["HttpStream", "State"]


class State(enum.Enum):
    """Where an exchange is; see the module's docstring."""

    # Members are keys of tables, and the hash that an Enum brings along is written in Python.
    __hash__ = object.__hash__

    QUEUED = enum.auto()
    WITHDRAWING = enum.auto()
    CLAIMED = enum.auto()
    OPENING = enum.auto()
    RESPONDING = enum.auto()
    ANSWERED = enum.auto()
    DONE = enum.auto()


# A member of an Enum costs several times as much to look up as a global, and these are looked up for every request.
_QUEUED: Final = State.QUEUED
_WITHDRAWING: Final = State.WITHDRAWING
_CLAIMED: Final = State.CLAIMED
_OPENING: Final = State.OPENING
_RESPONDING: Final = State.RESPONDING
_ANSWERED: Final = State.ANSWERED
_DONE: Final = State.DONE


class HttpStream(Stream):
    """One HTTP exchange.

    Args:
        request: what was offered.
        retry_method: whether the method may be tried again when a worker dies (RFC 9110 9.2.2).
        expects_continue: whether the client waits for ``100 Continue``, which it has not got yet.
    """

    __slots__ = ("_retry_method", "expects_continue")

    request: m.HttpRequest
    table: ClassVar[dict[State, Row]]
    CLAIMS: ClassVar = {_QUEUED: _CLAIMED, _WITHDRAWING: _CLAIMED}
    QUEUED = _QUEUED
    DONE = _DONE

    def __init__(self, request: m.HttpRequest, retry_method: bool, expects_continue: bool = False) -> None:
        super().__init__(request, _QUEUED)
        self._retry_method = retry_method
        #: Whether the client still waits for ``100 Continue``.
        self.expects_continue = expects_continue
        self.send_window.sent = len(request.body) + MESSAGE_OVERHEAD

    @property
    def waits(self) -> bool:
        return self.state is _CLAIMED or bool(self.pending)

    def forget_offer(self) -> None:
        self.request = replace(self.request, headers=[], body=b"")

    def repeatable(self) -> bool:
        return self._retry_method and not self.request.more_body

    def offer_again(self, why: str) -> Effects:
        effects = super().offer_again(why)
        self.send_window.spend(len(self.request.body))
        return effects

    def claimed(self) -> Effects:
        return WAIT_RESPONSE, *self.continued(), *self.pump()

    def continued(self) -> Effects:
        """The client is to send its body."""
        if not self.expects_continue:
            return NOTHING
        self.expects_continue = False
        return (CONTINUE,)

    def broken(self, why: str) -> Effects:
        rejection, state = release(self, "broken"), self.state
        if state in (_RESPONDING, _ANSWERED):
            self.enter(_DONE)
            why = f"bad reply: {why}"
            return Abort(why) if state is _RESPONDING else Finish(why), *rejection, ENDED
        return rejection if state is _DONE else rejection + answer(self, 502, f"bad reply: {why}")

    def send_held(self) -> Effects:
        effects: list[Effect] = []
        pending, credit = self.pending, self.send_window
        while pending and credit.open and self.worker is not None:
            event = pending.pop(0)
            piece, more = event.body, event.more_body
            self.pending_units -= len(piece) + MESSAGE_OVERHEAD
            if len(piece) > PIECE_BYTES:
                piece, rest = piece[:PIECE_BYTES], piece[PIECE_BYTES:]
                pending.insert(0, BodyReceived(rest, more))
                self.pending_units += len(rest) + MESSAGE_OVERHEAD
                more = True
            credit.spend(len(piece))
            effects += to_worker(self, m.RequestBody, piece, more)
        return tuple(effects)


# The client.


def _body_received(stream: HttpStream, event: BodyReceived) -> Effects:
    stream.hold(event, len(event.body))
    return stream.pump()


def _body_received_claimed(stream: HttpStream, event: BodyReceived) -> Effects:
    # The time for an answer counts from the last of the body (see docs/explanation/failures.rst).
    return *_body_received(stream, event), WAIT_RESPONSE


def _left_unclaimed(stream: HttpStream, event: ClientLeft) -> Effects:
    return WITHDRAW, ENDED


def _left(stream: HttpStream, event: ClientLeft | TimedOut) -> Effects:
    return *disconnect(stream), ENDED


def _no_response(stream: HttpStream, event: TimedOut) -> Effects:
    return disconnect(stream) + answer(stream, 504, "the application did not begin to answer in time")


# Files.


def _open(stream: HttpStream, message: m.ResponseFile) -> Effects:
    # The file is last: it may be open at once.
    return WAIT_RESPONSE, message


def _file_opened(stream: HttpStream, event: FileOpened) -> Effects:
    if stream.state is not _OPENING or event.message.attempt != stream.attempt:
        return (CloseFile(event.file),)
    stream.enter(_DONE)
    return *to_worker(stream, m.FileTaken), SendFile(event.message, event.file), ENDED


def _file_refused(stream: HttpStream, event: FileRefused) -> Effects:
    if stream.state is not _OPENING or event.message.attempt != stream.attempt:
        return NOTHING
    stream.enter(_CLAIMED)
    return *to_worker(stream, m.FileDeclined), *stream.continued(), *stream.pump()


# The worker.


def _credit(stream: HttpStream, message: m.Window) -> Effects:
    return stream.pump() if stream.send_window.update(message.consumed) else NOTHING


def _credit_claimed(stream: HttpStream, message: m.Window) -> Effects:
    sent, before = stream.sent, stream.send_window.consumed
    effects = _credit(stream, message)
    # Some of the body was taken that has come after the request. What was taken along with it, as the first Sync
    # shows, gives no more time, nor does what only repeats the last total.
    return (*effects, WAIT_RESPONSE) if sent and stream.send_window.consumed > before else effects


def _response(stream: HttpStream, message: m.ResponseStart) -> Effects:
    if not message.more_body:
        stream.enter(_DONE)
        return message, ENDED
    stream.enter(_RESPONDING)
    # A response that begins before the body has come needs the body all the same, as an echo does.
    return *stream.continued(), message, WAIT_NOTHING, *stream.pump()


def _response_continued(stream: HttpStream, message: m.ResponseBody) -> Effects:
    if message.more_body:
        return (message,)
    stream.enter(_DONE)
    return message, ENDED


def _join_too_late(stream: HttpStream, message: m.GroupJoin) -> Effects:
    return joined(stream, Joined(stream.attempt, message.group, "the client has the whole response"))


def _cut_off(stream: HttpStream, event: m.Release) -> Effects:
    why = f"{release_reason(event)}, in the middle of the response"
    return Abort(why, error=event.reason != m.EVENTS_STOPPED), ENDED


def _finished(stream: HttpStream, event: m.Release) -> Effects:
    return Finish(release_reason(event)), ENDED


_UNCLAIMED: Final = _QUEUED, _WITHDRAWING
_WITH_WORKER: Final = _CLAIMED, _OPENING, _RESPONDING, _ANSWERED
_BEGUN: Final = _RESPONDING, _ANSWERED

_RULES: Final[tuple[Rule, ...]] = (
    # The client.
    ((*_UNCLAIMED, _OPENING, *_BEGUN), BodyReceived, None, _body_received),
    (_CLAIMED, BodyReceived, None, _body_received_claimed),
    (_QUEUED, ClientLeft, _DONE, _left_unclaimed),
    ((_WITHDRAWING, *_WITH_WORKER), ClientLeft, _DONE, _left),
    (_BEGUN, Flushed, None, window),
    (_RESPONDING, Answered, _ANSWERED, ignore),
    # It is reported with each further piece, which is empty, or belongs to a response that has no body.
    (_ANSWERED, Answered, None, ignore),
    (_DONE, (BodyReceived, ClientLeft, Flushed, Answered), None, ignore),
    # The offer. Once it is claimed, or is made anew, what is known of the one before comes too late.
    (_UNCLAIMED, OfferRefused, None, refused),
    ((*_WITH_WORKER, _DONE), OfferRefused, None, ignore),
    (_QUEUED, ClaimTimedOut, None, claim_timed_out),
    (_WITHDRAWING, ClaimTimedOut, None, ignore),  # the answer of the node, which was asked already, decides
    (_QUEUED, TimedOut, _WITHDRAWING, withdraw),
    (_WITHDRAWING, Withdrawn, None, withdrawn),
    ((_QUEUED, *_WITH_WORKER, _DONE), Withdrawn, None, ignore),
    # The worker. (What it sends first is an event of CLAIMED.)
    (_WITH_WORKER, m.Claim, None, supervised),
    (_CLAIMED, m.Window, None, _credit_claimed),
    ((_OPENING, *_BEGUN), m.Window, None, _credit),
    (_CLAIMED, m.ResponseStart, None, _response),
    (_BEGUN, m.ResponseBody, None, _response_continued),
    ((_CLAIMED, _OPENING), TimedOut, None, _no_response),
    # The server ends, and waits no longer for the application.
    (_ANSWERED, TimedOut, _DONE, _left),
    (_DONE, TimedOut, None, ignore),
    # A file. Whatever has become of the stream meanwhile: one that is open must be closed.
    (_CLAIMED, m.ResponseFile, _OPENING, _open),
    (tuple(State), FileOpened, None, _file_opened),
    (tuple(State), FileRefused, None, _file_refused),
    # Groups.
    (_RESPONDING, m.GroupJoin, None, join),
    (_ANSWERED, m.GroupJoin, None, _join_too_late),
    (_BEGUN, m.GroupLeave, None, leave),
    (_BEGUN, Joined, None, joined),
    (_BEGUN, Gap, None, missed),
    (_DONE, (Joined, Gap), None, ignore),
    # The worker releases it.
    ((_QUEUED, _CLAIMED, _OPENING), m.Release, None, lost),
    (_WITHDRAWING, m.Release, None, lost_withdrawing),
    (_RESPONDING, m.Release, _DONE, _cut_off),
    (_ANSWERED, m.Release, _DONE, _finished),
    (_DONE, m.Release, None, ignore),
)

HttpStream.table = table_of(State, _RULES)
