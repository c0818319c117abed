"""Requests that have no response yet: which are offered again, and which are answered 502, 503 or 504.

A handshake of a WebSocket is such a request too. In which states all of this may happen is said by the tables of
`ifserver.state_machines.http` and `ifserver.state_machines.websocket`; they also have what happens to a response that
has begun, and to an open WebSocket.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Final

from ifserver import messages as m
from ifserver.state_machines.effects import (
    ENDED,
    WAIT_NOTHING,
    WITHDRAW,
    Answer,
    Effects,
    OfferRefused,
    TimedOut,
    Vanished,
    Withdrawn,
)
from ifserver.state_machines.stream import NOTHING, Stream

__all__ = ["ALL_CAUSES", "OfferedStream", "let_go"]

#: Why an attempt has come to nothing: its worker was lost, or nobody knows who had it, if anybody.
_LOST: Final = 1
_VANISHED: Final = 2
ALL_CAUSES: Final = _LOST | _VANISHED

_LET_GO: Final = {
    m.DRAINED: "is stopping",
    m.STOPPED: "is stopping",
    m.EVENTS_STOPPED: "is stopping",
    m.UNREAD: "was blocked and has not begun it",
    m.DIED: "has died",
    m.SERVER_LOST: "presumed this server dead",
}


def let_go(event: m.Release) -> str:
    """Why a worker no longer has a stream, for people."""
    return f"worker {event.worker} {_LET_GO.get(event.reason) or f'has let go: {event.reason}'}"


class OfferedStream(Stream):
    """A stream that is offered to workers, until one of them answers it."""

    #: What has cost an attempt already; `ALL_CAUSES` of a request that was offered before it came here.
    __slots__ = ("_repeated",)

    #: The states in which the node is asked for it back, and in which nothing more will happen to the client.
    WITHDRAWING: ClassVar[Any]
    DONE: ClassVar[Any]
    #: Where its application has not begun to answer in time: the close code that this is told, and what the log says.
    LATE_CODE: ClassVar[int]
    LATE: ClassVar[str]

    _repeated: int

    # It is not taken, or not answered.

    def _refused(self, event: OfferRefused) -> Effects:
        if not event.in_doubt:
            return self._answer(event.status, event.why)
        # To a request channel a push in doubt is repeated only if running the request twice does no harm;
        # otherwise somebody may have it, and its claim is awaited.
        return self._retry("the connection to the node broke", _VANISHED) or NOTHING

    def _not_taken(self, event: TimedOut) -> Effects:
        """``queue_timeout_s`` is over: take it back, if it is still there."""
        self._enter(self.WITHDRAWING)
        return WAIT_NOTHING, WITHDRAW

    def _withdrawn(self, event: Withdrawn) -> Effects:
        if event.was_there:
            return self._answer(503, "no worker took it in time")
        return self._answer(504, "a worker took it and was not heard of again")

    def _no_response(self, event: TimedOut) -> Effects:
        """``response_timeout_s`` is over."""
        return self._disconnect(self.LATE_CODE) + self._answer(504, self.LATE)

    # Whoever has taken it is lost.

    def _vanished(self, event: Vanished) -> Effects:
        """A process that is dead or blocked has it; what must not run twice waits until it is known which."""
        return self._retry("whoever took it has not begun it", _VANISHED) or NOTHING

    def _lost(self, event: m.Release) -> Effects:
        """The claimant let go before the response had begun: it died, or was told to stop."""
        why = let_go(event)
        if event.reason == m.UNREAD:
            return self._offer_unread(why)
        if event.reason in m.GIVEN_BACK and self._repeatable():
            # No failure of anybody's: however many workers are told to stop at once, none of them costs an answer.
            return self._offer_again(why)
        return self._retry(why, _LOST) or self._answer(502, why)

    def _lost_withdrawing(self, event: m.Release) -> Effects:
        """The same, while it is being taken back."""
        if event.reason == m.UNREAD:
            return self._answer(503, "no worker took it in time")
        return self._lost(event)

    # What comes of that.

    def _retry(self, why: str, cause: int) -> Effects | None:
        """Begin the next attempt, if it is the first time for this cause and does no harm; None: it must not be.

        Where all workers of a machine die at once, one may have it, and the next take it, and die.
        """
        if self._repeated & cause or not self._repeatable():
            return None
        self._repeated |= cause
        return self._offer_again(why)

    def _offer_unread(self, why: str) -> Effects:
        """Begin the next attempt: nobody has begun this one, so what the request is does not matter. What is held, and
        how long it may still wait, stay."""
        pending, units = self._pending, self._pending_units
        offer, *_ = self._offer_again(why)
        self._pending, self._pending_units = pending, units
        return (offer,)

    @abstractmethod
    def _repeatable(self) -> bool:
        """Whether running the request twice does no harm, and it is still held whole."""

    @abstractmethod
    def _offer_again(self, why: str) -> Effects:
        """Begin the next attempt."""

    def _answer(self, status: int, why: str) -> Effects:
        """End the stream with an answer in the server's own name."""
        self._enter(self.DONE)
        return Answer(status, why), ENDED
