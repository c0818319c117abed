"""What HTTP and WebSocket streams have in common: who may send, in which order, and what is held for whom.

Below the class stand the functions of those rows that both tables share. Many of them are about a request that has no
response yet (the handshake of a WebSocket is one too): it is offered again, or answered 502, 503 or 504.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final, TypeAlias

from msgspec.structs import replace

from ifserver import channels
from ifserver import messages as m
from ifserver.errors import TransitionError
from ifserver.flow_control import MESSAGE_OVERHEAD, ReceiveWindow, SendWindow
from ifserver.state_machines.effects import (
    ENDED,
    RESUME_READING,
    STOP_READING,
    WAIT_NOTHING,
    WAIT_WORKER,
    WITHDRAW,
    Answer,
    ClaimTimedOut,
    Dropped,
    Effects,
    Flushed,
    Gap,
    Join,
    Joined,
    Leave,
    Offer,
    OfferRefused,
    Send,
    TimedOut,
    Withdrawn,
)

#: No effects.
NOTHING: Final[Effects] = ()

#: What is done about an event.
Function: TypeAlias = Callable[[Any, Any], Effects]
#: The row of one state: for each type of event the next state and what is done then. None: the state stays, or the
#: function enters another one, where that depends on more than the event's type.
Row: TypeAlias = Mapping[type, tuple[Any, Function]]
#: In which states which events lead to which state, and what is done then.
Rule: TypeAlias = tuple[Any, type | tuple[type, ...], Any, Function]

#: Messages with a `seq`; the others may overtake (see docs/explanation/architecture.rst, Order and loss).
_SEQUENCED: Final = frozenset(
    {m.ResponseStart, m.ResponseBody, m.ResponseFile, m.GroupJoin, m.GroupLeave}
    | {m.WebSocketAccept, m.WebSocketSend, m.WebSocketClose}
)

#: Units (`ifserver.flow_control`) that may wait here for a worker, or for credit; beyond, the client is not read.
_HELD_UNITS: Final = 64 * 1024

#: Why an attempt has failed: its worker was lost, or nobody has claimed it.
_LOST: Final = 1
_UNCLAIMED: Final = 2

_RELEASE_REASONS: Final = {
    m.DRAINED: "is stopping",
    m.STOPPED: "is stopping",
    m.EVENTS_STOPPED: "is stopping",
    m.UNREAD: "was blocked and has not begun it",
    m.DIED: "has died",
    m.SERVER_LOST: "presumed this server dead",
}


def table_of(states: Iterable[Any], rules: Iterable[Rule]) -> dict[Any, Row]:
    """The rows of all `states`. A pair of state and event that is in no rule cannot happen."""
    table: dict[Any, dict[type, tuple[Any, Function]]] = {state: {} for state in states}
    for befores, events, after, function in rules:
        for before in befores if isinstance(befores, tuple) else (befores,):
            for event in events if isinstance(events, tuple) else (events,):
                assert event not in table[before], f"two rules for {event.__name__} in {before}"
                table[before][event] = after, function
    return dict(table)


class Stream(ABC):
    """One stream, seen from the interface server. Subclasses have the table.

    Each offer to a request channel is an attempt. The first process that sends a message about the current attempt is
    its claimant, and from then on only its messages count; one of an older attempt or of another process is dropped and
    answered with a `Release`, so that a worker which was frozen and comes back can mix nothing in.
    """

    __slots__ = (
        "_row",
        "attempt",
        "channel",
        "failures",
        "identity",
        "pending",
        "pending_units",
        "reading",
        "receive_window",
        "received",
        "request",
        "send_window",
        "sent",
        "state",
        "supervisor",
        "worker",
    )

    table: ClassVar[Mapping[Any, Row]]
    #: What becomes of states in which nobody has the stream when a message claims it, whatever else that asks for.
    CLAIMS: ClassVar[Mapping[Any, Any]]
    QUEUED: ClassVar[Any]
    DONE: ClassVar[Any]

    def __init__(self, request: Any, state: Any) -> None:
        #: The offer that is held until its response has begun, so that it can be made again.
        self.request = request
        self.channel: str = request.reply_channel
        # `channels.identity`, without a call: this is the way of every request.
        self.identity = self.channel[self.channel.index(".") + 1 :]
        #: Inbox of the claimant.
        self.worker: str | None = None
        #: The process that watches over the claimant, where that is known.
        self.supervisor: str | None = None
        #: Whether what the client sends is to be read.
        self.reading = True
        #: What has cost an attempt already. A request that was offered before it came here is not offered again.
        self.failures = _LOST | _UNCLAIMED if request.attempt else 0
        self.state = state
        self._row = self.table[state]
        self.begin_attempt(request.attempt)

    @property
    def account(self) -> tuple[int, int]:
        """Messages sent to the claimant of this attempt, and units of its messages consumed."""
        return self.sent, self.receive_window.consumed

    @property
    @abstractmethod
    def waits(self) -> bool:
        """Whether something must come from the claimant before anything else can happen."""

    @property
    def resumable(self) -> bool:
        """Whether the stream may be offered again once it has been accepted."""
        return False

    def handle(self, event: object) -> Effects:
        """The effects of an event of the client, the node or the clock.

        Raises:
            TransitionError: it cannot happen in this state; nothing has changed.
        """
        step = self._row.get(type(event))
        if step is None:
            raise TransitionError(f"{self.channel}: {type(event).__name__} cannot happen in state {self.state.name}")
        after, function = step
        if after is not None:
            self.state, self._row = after, self.table[after]
        return function(self, event)

    def receive(self, message: Any) -> Effects:
        """The effects of a message of a worker, or of a supervisor in its place."""
        if message.attempt != self.attempt:
            return _reject(message, self.identity)
        worker, kind = message.worker, type(message)
        if self.worker is None:
            self.worker = worker
        elif worker != self.worker and channels.process_of(worker) != channels.process_of(self.worker):
            return _reject(message, self.identity)
        if kind in _SEQUENCED:
            if message.seq != self.received:
                return _out_of_order(self, message.seq)
            self.received += 1
        # The first message claims the stream, whatever it is.
        claimed = None if kind is m.Release else self.CLAIMS.get(self.state)
        row = self._row if claimed is None else self.table[claimed]
        step = row.get(kind)
        if step is None:
            return self.broken(f"{kind.__name__} in state {self.state.name}")
        after, function = step
        if after is not None or claimed is not None:
            self.state = after or claimed
            self._row = self.table[self.state]
        effects = function(self, message)
        # One that begins the response at once needs nothing of what a claim does.
        return effects if claimed is None or self.state is not claimed else self.claimed() + effects

    def receive_sync(self, entry: m.SyncEntry, worker: str, supervisor: str = "") -> Effects:
        """The effects of the worker's account of the stream: a `Sync` claims, and shows what was lost.

        It alone has the address of a claimant that has moved to another node of its cluster. What the claimant sent
        before it moved may have waited for its node, and arrive later than that.
        """
        known = self.worker if entry.attempt == self.attempt else None
        if known is not None and worker != known and channels.process_of(worker) == channels.process_of(known):
            self.worker = worker
        effects = self.receive(m.Window(entry.stream, entry.attempt, worker, entry.consumed))
        if effects and type(effects[0]) is Dropped:
            return effects[1:]  # an entry is no message, and not counted as one
        if supervisor and worker == self.worker:
            self.supervisor = supervisor
        if entry.attempt == self.attempt and worker == self.worker and entry.sent > self.received:
            return effects + gap(self, entry.sent)
        return effects

    def update_address(self, inbox: str) -> None:
        """The server receives at `inbox` now: from now on offers and messages name that."""
        self.channel = channels.readdressed(self.channel, inbox)
        self.request = replace(self.request, reply_channel=self.channel)

    def forget_offer(self) -> None:
        """It will not be offered again: what is large of the request is of no use any more."""
        self.request = replace(self.request, headers=[])

    # For the functions of the tables.

    def enter(self, state: Any) -> None:
        """From now on `state` decides."""
        self.state, self._row = state, self.table[state]

    def begin_attempt(self, attempt: int) -> None:
        """Nobody has claimed this attempt, and nothing is held for it."""
        self.attempt = attempt
        self.worker = self.supervisor = None
        #: Messages with a `seq` received from the claimant, and sent to it.
        self.received = 0
        self.sent = 0
        self.send_window = SendWindow()
        self.receive_window = ReceiveWindow()
        # A list, since it is nearly always empty: a deque is ten times as large then, and never is this long.
        self.pending: list[Any] = []
        self.pending_units = 0

    def offer_again(self, why: str) -> Effects:
        """Begin the next attempt."""
        self.request = replace(self.request, attempt=self.attempt + 1)
        self.begin_attempt(self.request.attempt)
        self.enter(self.QUEUED)
        return Offer(self.request, why), WAIT_WORKER

    def hold(self, item: Any, payload_bytes: int) -> None:
        """Keep what the client sent until there is a worker, and credit, to send it."""
        self.pending.append(item)
        self.pending_units += payload_bytes + MESSAGE_OVERHEAD

    def pump(self) -> Effects:
        """Send what is held as far as the window allows; read the client as long as little is held."""
        if not self.pending and self.reading:
            return NOTHING
        effects = self.send_held()
        if self.reading:
            effects += self.stop_reading_if_full()
        elif not self.pending and self.send_window.open:
            self.reading = True
            effects += (RESUME_READING,)
        return effects

    def stop_reading_if_full(self) -> Effects:
        """Read the client no more if much is held."""
        if self.reading and self.pending_units >= _HELD_UNITS:
            self.reading = False
            return (STOP_READING,)
        return NOTHING

    @abstractmethod
    def claimed(self) -> Effects:
        """A worker has claimed the stream, and nothing more has come of it yet."""

    @abstractmethod
    def broken(self, why: str) -> Effects:
        """The claimant has sent what it must not send, or something that it sent was lost."""

    @abstractmethod
    def repeatable(self) -> bool:
        """Whether running the request twice does no harm, and it is still held whole."""

    @abstractmethod
    def send_held(self) -> Effects:
        """Send the claimant, where there is one, what is held, as far as the window allows."""


# Messages to workers.


def to_worker(stream: Stream, kind: Callable[..., m.Message], *fields: Any) -> Effects:
    """Send the claimant the next message that has a `seq`."""
    if stream.worker is None:
        return NOTHING
    stream.sent += 1
    return (Send(stream.worker, kind(stream.identity, stream.attempt, stream.sent - 1, *fields)),)


def release(stream: Stream, reason: str) -> Effects:
    """The claimant is not to go on with the stream."""
    if stream.worker is None:
        return NOTHING
    return (Send(stream.worker, m.Release(stream.identity, stream.attempt, stream.worker, reason)),)


def disconnect(stream: Stream, code: int = 0, reason: str = "", answerable: bool = False) -> Effects:
    """The client of the claimant has left."""
    return to_worker(stream, m.Disconnect, code, reason, answerable)


def window(stream: Stream, event: Flushed) -> Effects:
    """The client has taken more: give the claimant credit."""
    total = stream.receive_window.consume(event.payload_bytes)
    if total is None or stream.worker is None:
        return NOTHING
    return (Send(stream.worker, m.Window(stream.identity, stream.attempt, stream.worker, total)),)


def _reject(message: Any, identity: str) -> Effects:
    """Answer a worker that does not have the stream. A `Release` is never answered."""
    if type(message) is m.Release:
        return (Dropped("gone"),)
    return Dropped("gone"), Send(message.worker, m.Release(identity, message.attempt, message.worker, "gone"))


def _out_of_order(stream: Stream, seq: int) -> Effects:
    if seq < stream.received:
        return (Dropped("repeated"),)
    expected, stream.received = stream.received, seq + 1  # more may come of the same worker, until it knows
    return Dropped("gap"), *stream.broken(f"expected message {expected} of the worker, got {seq}")


def gap(stream: Stream, seq: int) -> Effects:
    """The messages before `seq` will never come."""
    expected, stream.received = stream.received, seq
    return stream.broken(f"expected message {expected} of the worker, got {seq}")


def release_reason(event: m.Release) -> str:
    """Why a worker no longer has a stream, for people."""
    return f"worker {event.worker} {_RELEASE_REASONS.get(event.reason) or f'has released it: {event.reason}'}"


# Rows that both tables have.


def ignore(stream: Stream, event: object) -> Effects:
    """It makes no difference."""
    return NOTHING


def supervised(stream: Stream, message: m.Claim) -> Effects:
    """A claim names the process that watches over the claimant."""
    stream.supervisor = message.supervisor
    return NOTHING


def join(stream: Stream, message: m.GroupJoin) -> Effects:
    """The application joins a group."""
    return (Join(stream.attempt, message.group, message.gaps, message.tag),)


def leave(stream: Stream, message: m.GroupLeave) -> Effects:
    """It leaves one."""
    return (Leave(message.group),)


def joined(stream: Stream, event: Joined) -> Effects:
    """Answer the worker that has joined. Where another has the stream now, it is a member all the same."""
    return to_worker(stream, m.GroupJoined, event.group, event.error) if event.attempt == stream.attempt else NOTHING


def missed(stream: Stream, event: Gap) -> Effects:
    """Broadcasts to a group were lost."""
    return to_worker(stream, m.GroupGap, event.group, event.count)


# Of a request that has no response yet.


def refused(stream: Stream, event: OfferRefused) -> Effects:
    """No node has taken the offer."""
    if not event.in_doubt:
        return answer(stream, event.status, event.why)
    # To a request channel a push in doubt is repeated only if running the request twice does no harm;
    # otherwise a worker may have it, and its claim is awaited.
    return _retry(stream, "the connection to the node broke", _UNCLAIMED) or NOTHING


def withdraw(stream: Stream, event: TimedOut) -> Effects:
    """``queue_timeout_s`` is over: take the request back, if it is still there."""
    return WAIT_NOTHING, WITHDRAW


def withdrawn(stream: Stream, event: Withdrawn) -> Effects:
    """It was, or it was not."""
    if event.was_there:
        return answer(stream, 503, "no worker took it in time")
    return answer(stream, 504, "a worker took it and did not claim it")


def claim_timed_out(stream: Stream, event: ClaimTimedOut) -> Effects:
    """A process that is dead or blocked has it; what must not run twice waits until it is known which."""
    return _retry(stream, "the worker that took it has not begun it", _UNCLAIMED) or NOTHING


def lost(stream: Stream, event: m.Release) -> Effects:
    """The claimant has released it before the response had begun: it died, or stops."""
    why = release_reason(event)
    if event.reason == m.UNREAD:
        # No worker has begun this attempt, so what the request is does not matter. What is held, and how long it may
        # still wait, stay.
        pending, units = stream.pending, stream.pending_units
        offer, *_ = stream.offer_again(why)
        stream.pending, stream.pending_units = pending, units
        return (offer,)
    if event.reason in m.GIVEN_BACK and stream.repeatable():
        # No failure: however many workers are stopped at once, none of them costs an answer.
        return stream.offer_again(why)
    return _retry(stream, why, _LOST) or answer(stream, 502, why)


def lost_withdrawing(stream: Stream, event: m.Release) -> Effects:
    """The same, while it is being taken back."""
    if event.reason == m.UNREAD:
        return answer(stream, 503, "no worker took it in time")
    return lost(stream, event)


def _retry(stream: Stream, why: str, failure: int) -> Effects | None:
    """Begin the next attempt, if it is the first time for this failure and does no harm; None: it must not be.

    Where all workers of a machine die at once, one may have it, and the next take it, and die.
    """
    if stream.failures & failure or not stream.repeatable():
        return None
    stream.failures |= failure
    return stream.offer_again(why)


def answer(stream: Stream, status: int, why: str) -> Effects:
    """End the stream with an answer in the server's own name."""
    stream.enter(stream.DONE)
    return Answer(status, why), ENDED
