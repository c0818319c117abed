"""What HTTP and WebSocket streams have in common: who may speak, in which order, and what is held for whom."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, TypeAlias

from msgspec.structs import replace

from ifserver import channels
from ifserver import messages as m
from ifserver.errors import TransitionError
from ifserver.flow_control import MESSAGE_OVERHEAD, ReceiveWindow, SendWindow
from ifserver.state_machines.effects import (
    RESUME_READING,
    STOP_READING,
    Dropped,
    Effects,
    Gap,
    Join,
    Joined,
    Leave,
    Tell,
)

__all__ = ["NOTHING", "Row", "Stream"]

#: No effects.
NOTHING: Final[Effects] = ()

#: The rows of one state: what is done about an event of each type.
Row: TypeAlias = Mapping[type, Callable[[Any, Any], Effects]]

#: Messages with a `seq`; the others may overtake (see docs/explanation/architecture.rst, Order and loss).
_SEQUENCED: Final = frozenset(
    {
        m.ResponseStart,
        m.ResponseBody,
        m.ResponseFile,
        m.WebSocketAccept,
        m.WebSocketSend,
        m.WebSocketClose,
        m.GroupJoin,
        m.GroupLeave,
    }
)

#: Units (`ifserver.flow_control`) that may wait here for a worker, or for credit; beyond, the client is not read.
_HELD_UNITS: Final = 64 * 1024


class Stream(ABC):
    """One stream, seen from the interface server. Subclasses have the table.

    Each offer to a request channel is an attempt. The first process that speaks about the current attempt is its
    claimant, and from then on its only speaker; whatever comes from an older attempt or from another process is
    dropped and answered with a `Release`, so that a worker which was frozen and comes back can mix nothing in.
    """

    __slots__ = (
        "_pending",
        "_pending_units",
        "_reading",
        "_receive_window",
        "_received",
        "_row",
        "_send_window",
        "_sent",
        "_state",
        "attempt",
        "channel",
        "identity",
        "request",
        "supervisor",
        "worker",
    )

    #: state -> (type of event -> what is done). A pair that is missing raises and changes nothing.
    table: ClassVar[Mapping[Any, Row]]

    def __init__(self, request: Any, state: Any) -> None:
        #: The offer that is held until its response has begun, so that it can be made again.
        self.request = request
        self.channel: str = request.reply_channel
        # `channels.identity`, without a call: this is the way of every request.
        self.identity = self.channel[self.channel.index(".") + 1 :]
        #: Inbox of the claimant.
        self.worker: str | None = None
        #: The process that watches over the claimant, where it has said so.
        self.supervisor: str | None = None
        self._reading = True
        self._state = state
        self._row = self.table[state]
        self._begin_attempt(request.attempt)

    @property
    def state(self) -> Any:
        """The state that the stream is in."""
        return self._state

    @property
    def account(self) -> tuple[int, int]:
        """Messages sent to the claimant of this attempt, and units of its messages consumed."""
        return self._sent, self._receive_window.consumed

    @property
    def reading(self) -> bool:
        """Whether what the client sends is to be read."""
        return self._reading

    @property
    @abstractmethod
    def waits(self) -> bool:
        """Whether something must come from the claimant before anything else can happen."""

    def handle(self, event: object) -> Effects:
        """What is to be done about an event of the client, the node or the clock.

        Raises:
            TransitionError: it cannot happen in this state; nothing has changed.
        """
        handler = self._row.get(type(event))
        if handler is None:
            raise TransitionError(f"{self.channel}: {type(event).__name__} cannot happen in state {self._state.name}")
        return handler(self, event)

    def hear(self, message: Any) -> Effects:
        """What is to be done about a message of a worker, or of a supervisor that speaks for it."""
        if message.attempt != self.attempt:
            return self._gone(message)
        worker = message.worker
        if self.worker is None:
            self.worker = worker
        elif worker != self.worker and channels.process_of(worker) != channels.process_of(self.worker):
            return self._gone(message)
        kind = type(message)
        if kind in _SEQUENCED:
            if message.seq != self._received:
                return self._out_of_order(message.seq)
            self._received += 1
        handler = self._row.get(kind)
        if handler is None:
            return self._broken(f"{kind.__name__} in state {self._state.name}")
        return handler(self, message)

    def hear_sync(self, entry: m.SyncEntry, worker: str, supervisor: str = "") -> Effects:
        """What is to be done about the worker's account of the stream: a `Sync` claims, and shows what was lost.

        It alone tells where a claimant receives that has moved to another node of its cluster. What the claimant said
        before it moved may have waited for its node, and arrive later than that.
        """
        held = self.worker if entry.attempt == self.attempt else None
        if held is not None and worker != held and channels.process_of(worker) == channels.process_of(held):
            self.worker = worker
        effects = self.hear(m.Window(entry.stream, entry.attempt, worker, entry.consumed))
        if effects and type(effects[0]) is Dropped:
            return effects[1:]  # an entry is no message, and not counted as one
        if supervisor and worker == self.worker:
            self.supervisor = supervisor
        if entry.attempt == self.attempt and worker == self.worker and entry.sent > self._received:
            return effects + self._gap(entry.sent)
        return effects

    def readdress(self, inbox: str) -> None:
        """The server receives at `inbox` now, and says so in what it offers and tells from now on."""
        self.channel = channels.readdressed(self.channel, inbox)
        self.request = replace(self.request, reply_channel=self.channel)

    @property
    def resumable(self) -> bool:
        """Whether the stream may be offered again once it has been accepted."""
        return False

    def forget_offer(self) -> None:
        """It will not be offered again: what is large of the request is of no use any more."""
        self.request = replace(self.request, headers=[])

    # For the rows of the tables.

    def _enter(self, state: Any) -> None:
        self._state = state
        self._row = self.table[state]

    def _begin_attempt(self, attempt: int) -> None:
        self.attempt = attempt
        self.worker = self.supervisor = None
        self._received = 0
        self._sent = 0
        self._send_window = SendWindow()
        self._receive_window = ReceiveWindow()
        # A list, since it is nearly always empty: a deque is ten times as large then, and never is this long.
        self._pending: list[Any] = []
        self._pending_units = 0

    def _sequence(self) -> int:
        """The `seq` of the next message to the worker."""
        self._sent += 1
        return self._sent - 1

    def _gone(self, message: Any) -> Effects:
        """Answer one who may not speak. A `Release` is never answered."""
        if type(message) is m.Release:
            return (Dropped("gone"),)
        release = m.Release(self.identity, message.attempt, message.worker, "gone")
        return Dropped("gone"), Tell(message.worker, release)

    def _out_of_order(self, seq: int) -> Effects:
        if seq < self._received:
            return (Dropped("repeated"),)
        expected, self._received = self._received, seq + 1  # more may come of the same worker, until it knows
        return Dropped("gap"), *self._broken(f"expected message {expected} of the worker, got {seq}")

    def _gap(self, seq: int) -> Effects:
        """The messages before `seq` will never come."""
        expected, self._received = self._received, seq
        return self._broken(f"expected message {expected} of the worker, got {seq}")

    def _release(self, reason: str) -> Effects:
        """Let the claimant go."""
        if self.worker is None:
            return NOTHING
        return (Tell(self.worker, m.Release(self.identity, self.attempt, self.worker, reason)),)

    def _disconnect(self, code: int = 0, reason: str = "", answerable: bool = False) -> Effects:
        """Tell the claimant that its client has left."""
        if self.worker is None:
            return NOTHING
        message = m.Disconnect(self.identity, self.attempt, self._sequence(), code, reason, answerable)
        return (Tell(self.worker, message),)

    @abstractmethod
    def _broken(self, why: str) -> Effects:
        """The claimant has said what it must not say, or something that it said was lost."""

    # Rows that both kinds share.

    def _ignore(self, event: object) -> Effects:
        return NOTHING

    def _claimed_again(self, message: m.Claim) -> Effects:
        self._claimed_by(message)
        return NOTHING

    def _claimed_by(self, message: Any) -> None:
        if type(message) is m.Claim:
            self.supervisor = message.supervisor

    def _joins(self, message: m.GroupJoin) -> Effects:
        return (Join(self.attempt, message.group, message.gaps, message.tag),)

    def _leaves(self, message: m.GroupLeave) -> Effects:
        return (Leave(message.group),)

    def _joined(self, event: Joined) -> Effects:
        if self.worker is None or event.attempt != self.attempt:
            return NOTHING  # whoever has asked is gone; the stream is a member all the same
        joined = m.GroupJoined(self.identity, self.attempt, self._sequence(), event.group, event.error)
        return (Tell(self.worker, joined),)

    def _misses(self, event: Gap) -> Effects:
        if self.worker is None:
            return NOTHING
        gap = m.GroupGap(self.identity, self.attempt, self._sequence(), event.group, event.count)
        return (Tell(self.worker, gap),)

    def _hold(self, item: Any, payload_bytes: int) -> None:
        """Keep what the client sent until there is somebody, and credit, to send it."""
        self._pending.append(item)
        self._pending_units += payload_bytes + MESSAGE_OVERHEAD

    def _pump(self) -> Effects:
        """Send what is held as far as the window allows; read the client as long as little is held."""
        if not self._pending and self._reading:
            return NOTHING
        effects = self._send_held()
        if self._reading:
            effects += self._stop_reading_if_full()
        elif not self._pending and self._send_window.open:
            self._reading = True
            effects += (RESUME_READING,)
        return effects

    def _stop_reading_if_full(self) -> Effects:
        if self._reading and self._pending_units >= _HELD_UNITS:
            self._reading = False
            return (STOP_READING,)
        return NOTHING

    @abstractmethod
    def _send_held(self) -> Effects:
        """Send the claimant, where there is one, what is held, as far as the window allows."""
