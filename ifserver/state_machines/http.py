"""One HTTP exchange, seen from the interface server, as a table.

::

    QUEUED ----claim----> CLAIMED ----response----> RESPONDING ----end----> DONE
      |                      |                          |                    |
      |                      |                      last byte due            |
      |                      |                          '--> ANSWERED --end--'
      |                      |                                               |
      |--------response (the claim is left out when it is complete at once)--|
    '--file, also when claimed--> OPENING --opened-------------------------'
                                      '--refused--> CLAIMED

QUEUED
    Offered on a request channel, claimed by nobody yet.
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
    response for complete; the worker has not said that it is. Nothing that the worker does can harm the client now.
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
    WAIT_WORKER,
    WITHDRAW,
    Abort,
    Answered,
    BodyReceived,
    ClientGone,
    CloseFile,
    Effect,
    Effects,
    FileOpened,
    FileRefused,
    Finish,
    Flushed,
    Gap,
    Joined,
    Offer,
    OfferRefused,
    SendFile,
    Tell,
    TimedOut,
    Vanished,
    Withdrawn,
)
from ifserver.state_machines.retry_or_5xx import ALL_CAUSES, OfferedStream, let_go
from ifserver.state_machines.stream import NOTHING, Row

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


class HttpStream(OfferedStream):
    """One HTTP exchange.

    Args:
        request: what was offered.
        retry_method: whether the method may be tried again when a worker dies (RFC 9110 9.2.2).
        expects_continue: whether the client waits for ``100 Continue`` and was not told yet.
    """

    __slots__ = ("_expects_continue", "_retry_method")

    request: m.HttpRequest
    _state: State
    table: ClassVar[dict[State, Row]]
    WITHDRAWING = _WITHDRAWING
    DONE = _DONE
    LATE_CODE = 0
    LATE = "the application did not begin to answer in time"

    def __init__(self, request: m.HttpRequest, retry_method: bool, expects_continue: bool = False) -> None:
        super().__init__(request, _QUEUED)
        self._repeated = ALL_CAUSES if request.attempt else 0
        self._retry_method = retry_method
        self._expects_continue = expects_continue
        self._send_window.sent = len(request.body) + MESSAGE_OVERHEAD

    @property
    def expects_continue(self) -> bool:
        """Whether the client still waits for ``100 Continue``."""
        return self._expects_continue

    @property
    def waits(self) -> bool:
        return self._state is _CLAIMED or bool(self._pending)

    def forget_offer(self) -> None:
        self.request = replace(self.request, headers=[], body=b"")

    # The client.

    def _body_received(self, event: BodyReceived) -> Effects:
        self._hold(event, len(event.body))
        return self._pump()

    def _body_received_claimed(self, event: BodyReceived) -> Effects:
        # The time for an answer counts from the last of the body (see docs/explanation/failures.rst).
        return *self._body_received(event), WAIT_RESPONSE

    def _left_unclaimed(self, event: ClientGone) -> Effects:
        self._enter(_DONE)
        return WITHDRAW, ENDED

    def _left(self, event: ClientGone | TimedOut) -> Effects:
        self._enter(_DONE)
        return *self._disconnect(), ENDED

    def _flushed(self, event: Flushed) -> Effects:
        total = self._receive_window.consume(event.payload_bytes)
        if total is None or self.worker is None:
            return NOTHING
        return (Tell(self.worker, m.Window(self.identity, self.attempt, self.worker, total)),)

    def _answered(self, event: Answered) -> Effects:
        self._enter(_ANSWERED)
        return NOTHING

    # Files.

    def _answered_with_file(self, message: m.ResponseFile) -> Effects:
        claims = self._state is not _CLAIMED
        self._enter(_OPENING)
        # Last: what comes of it may be known at once.
        return (WAIT_RESPONSE, message) if claims else (message,)

    def _file_opened(self, event: FileOpened) -> Effects:
        message, worker = event.message, self.worker
        if self._state is not _OPENING or message.attempt != self.attempt or worker is None:
            return (CloseFile(event.file),)
        self._enter(_DONE)
        taken = m.FileTaken(self.identity, self.attempt, self._sequence())
        return Tell(worker, taken), SendFile(message, event.file), ENDED

    def _file_refused(self, event: FileRefused) -> Effects:
        worker = self.worker
        if self._state is not _OPENING or event.message.attempt != self.attempt or worker is None:
            return NOTHING
        self._enter(_CLAIMED)
        declined = m.FileDeclined(self.identity, self.attempt, self._sequence())
        effects: Effects = (Tell(worker, declined),)
        if self._expects_continue:
            self._expects_continue = False
            effects += (CONTINUE,)
        return effects + self._pump()

    # The worker.

    def _claimed(self, message: m.Claim | m.Window) -> Effects:
        self._enter(_CLAIMED)
        self._claimed_by(message)
        effects: Effects = (WAIT_RESPONSE,)
        if self._expects_continue:
            self._expects_continue = False
            effects += (CONTINUE,)
        if type(message) is m.Window:
            self._send_window.update(message.consumed)
        return effects + self._pump()

    def _window(self, message: m.Window) -> Effects:
        return self._pump() if self._send_window.update(message.consumed) else NOTHING

    def _window_claimed(self, message: m.Window) -> Effects:
        before = self._send_window.consumed
        effects = self._window(message)
        # Some of the body was taken that has come after the request. What was taken along with it, as the first Sync
        # says, gives nobody more time, nor does what only repeats the last total.
        took_more = self._sent and self._send_window.consumed > before
        return (*effects, WAIT_RESPONSE) if took_more else effects

    def _started(self, message: m.ResponseStart) -> Effects:
        if not message.more_body:
            self._enter(_DONE)
            return message, ENDED
        claims = self._state is not _CLAIMED
        self._enter(_RESPONDING)
        if not claims:
            return message, WAIT_NOTHING
        # A response that begins before the body has come needs the body all the same, as an echo does.
        effects: Effects = (CONTINUE,) if self._expects_continue else NOTHING
        self._expects_continue = False
        return *effects, message, WAIT_NOTHING, *self._pump()

    def _continued(self, message: m.ResponseBody) -> Effects:
        if message.more_body:
            return (message,)
        self._enter(_DONE)
        return message, ENDED

    def _joins_too_late(self, message: m.GroupJoin) -> Effects:
        return self._joined(Joined(self.attempt, message.group, "the client has the whole response"))

    def _cut_off(self, event: m.Release) -> Effects:
        self._enter(_DONE)
        return Abort(f"{let_go(event)}, in the middle of the response", event.reason != m.EVENTS_STOPPED), ENDED

    def _let_go(self, event: m.Release) -> Effects:
        self._enter(_DONE)
        return Finish(let_go(event)), ENDED

    def _broken(self, why: str) -> Effects:
        release = self._release("broken")
        if self._state is _ANSWERED:
            self._enter(_DONE)
            return Finish(f"bad reply: {why}"), *release, ENDED
        if self._state is _RESPONDING:
            self._enter(_DONE)
            return Abort(f"bad reply: {why}"), *release, ENDED
        if self._state is _DONE:
            return release
        return release + self._answer(502, f"bad reply: {why}")

    # Helpers.

    def _repeatable(self) -> bool:
        return self._retry_method and not self.request.more_body

    def _offer_again(self, why: str) -> Effects:
        self.request = replace(self.request, attempt=self.attempt + 1)
        self._begin_attempt(self.request.attempt)
        self._send_window.spend(len(self.request.body))
        self._enter(_QUEUED)
        return Offer(self.request, why), WAIT_WORKER

    def _send_held(self) -> Effects:
        worker = self.worker
        if worker is None:
            return NOTHING
        effects: list[Effect] = []
        pending, window = self._pending, self._send_window
        while pending and window.open:
            event = pending.pop(0)
            piece, more = event.body, event.more_body
            self._pending_units -= len(piece) + MESSAGE_OVERHEAD
            if len(piece) > PIECE_BYTES:
                piece, rest = piece[:PIECE_BYTES], piece[PIECE_BYTES:]
                pending.insert(0, BodyReceived(rest, more))
                self._pending_units += len(rest) + MESSAGE_OVERHEAD
                more = True
            window.spend(len(piece))
            message = m.RequestBody(self.identity, self.attempt, self._sequence(), piece, more)
            effects.append(Tell(worker, message))
        return tuple(effects)


#: Whatever has become of the stream meanwhile: a file that is open must be closed.
_FILES: Final[Row] = {FileOpened: HttpStream._file_opened, FileRefused: HttpStream._file_refused}

HttpStream.table = {
    State.QUEUED: {
        **_FILES,
        BodyReceived: HttpStream._body_received,
        ClientGone: HttpStream._left_unclaimed,
        OfferRefused: HttpStream._refused,
        TimedOut: HttpStream._not_taken,
        Vanished: HttpStream._vanished,
        # Of the attempt before: its worker was lost while the node was asked.
        Withdrawn: HttpStream._ignore,
        m.Claim: HttpStream._claimed,
        m.Window: HttpStream._claimed,
        m.ResponseStart: HttpStream._started,
        m.ResponseFile: HttpStream._answered_with_file,
        m.Release: HttpStream._lost,
    },
    State.WITHDRAWING: {
        **_FILES,
        BodyReceived: HttpStream._body_received,
        ClientGone: HttpStream._left,
        Withdrawn: HttpStream._withdrawn,
        # The answer of the node, which was asked already, decides.
        Vanished: HttpStream._ignore,
        OfferRefused: HttpStream._refused,
        m.Claim: HttpStream._claimed,
        m.Window: HttpStream._claimed,
        m.ResponseStart: HttpStream._started,
        m.ResponseFile: HttpStream._answered_with_file,
        m.Release: HttpStream._lost_withdrawing,
    },
    State.CLAIMED: {
        **_FILES,
        BodyReceived: HttpStream._body_received_claimed,
        ClientGone: HttpStream._left,
        Withdrawn: HttpStream._ignore,
        OfferRefused: HttpStream._ignore,
        TimedOut: HttpStream._no_response,
        m.Claim: HttpStream._claimed_again,
        m.Window: HttpStream._window_claimed,
        m.ResponseStart: HttpStream._started,
        m.ResponseFile: HttpStream._answered_with_file,
        m.Release: HttpStream._lost,
    },
    State.OPENING: {
        **_FILES,
        BodyReceived: HttpStream._body_received,
        ClientGone: HttpStream._left,
        Withdrawn: HttpStream._ignore,
        OfferRefused: HttpStream._ignore,
        TimedOut: HttpStream._no_response,
        m.Claim: HttpStream._claimed_again,
        m.Window: HttpStream._window,
        m.Release: HttpStream._lost,
    },
    State.RESPONDING: {
        **_FILES,
        BodyReceived: HttpStream._body_received,
        ClientGone: HttpStream._left,
        Flushed: HttpStream._flushed,
        Answered: HttpStream._answered,
        Withdrawn: HttpStream._ignore,
        OfferRefused: HttpStream._ignore,
        m.Claim: HttpStream._claimed_again,
        m.Window: HttpStream._window,
        Joined: HttpStream._joined,
        Gap: HttpStream._misses,
        m.ResponseBody: HttpStream._continued,
        m.GroupJoin: HttpStream._joins,
        m.GroupLeave: HttpStream._leaves,
        m.Release: HttpStream._cut_off,
    },
    State.ANSWERED: {
        **_FILES,
        BodyReceived: HttpStream._body_received,
        ClientGone: HttpStream._left,
        # The server ends, and waits no longer for the application.
        TimedOut: HttpStream._left,
        Flushed: HttpStream._flushed,
        # Told again with each further piece, which is empty, or belongs to a response that has no body.
        Answered: HttpStream._ignore,
        Withdrawn: HttpStream._ignore,
        OfferRefused: HttpStream._ignore,
        m.Claim: HttpStream._claimed_again,
        m.Window: HttpStream._window,
        Joined: HttpStream._joined,
        Gap: HttpStream._misses,
        m.ResponseBody: HttpStream._continued,
        m.GroupJoin: HttpStream._joins_too_late,
        m.GroupLeave: HttpStream._leaves,
        m.Release: HttpStream._let_go,
    },
    State.DONE: {
        **_FILES,
        BodyReceived: HttpStream._ignore,
        ClientGone: HttpStream._ignore,
        Flushed: HttpStream._ignore,
        Answered: HttpStream._ignore,
        Joined: HttpStream._ignore,
        Gap: HttpStream._ignore,
        OfferRefused: HttpStream._ignore,
        TimedOut: HttpStream._ignore,
        Withdrawn: HttpStream._ignore,
        m.Release: HttpStream._ignore,
    },
}
