"""What went from this process to others and came from them, and that each message has come to something.

From one process to the inbox of another, messages go along a *lane*, in order. The sender counts what the node has
taken, the receiver what it has pulled. While there is news, the sender says in a `Statement`, along the same lane, how
many there were before it: what the receiver has not got by then it never will. That was lost by the node and is counted
as such, whatever kind of message it was; a message that was taken twice, because its first push was in doubt, was sent
twice. The receiver confirms, and both count on from there (see docs/architecture.rst, Accounting).

A request goes along no lane: whoever is free pulls it. So those who pull say how many they have had of whose. A server
that was never told anything about a request knows by that whether somebody has had it, or its node has lost it.

Statements are not counted themselves. They cost a message each way, once a second, between two processes that talk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from ifserver import channels
from ifserver.clock import Clock, Timer
from ifserver.messages import Message, Position, Statement
from ifserver.metrics import Counters

__all__ = ["Books", "Incoming"]

#: How often is looked whether there is news, and the first pause after a statement that is not confirmed.
_TELL_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
#: How often the same is told to somebody who confirms nothing: dead, most likely.
_TELLINGS: Final = 4
#: How long the node may take to take a statement before another is made, in seconds.
_TELLING_S: Final = 60.0
#: What is remembered of a lane that nobody uses, in seconds: if it is used again, both ends begin anew.
_FORGET_S: Final = 3600.0


class Post(Protocol):
    """How statements are sent."""

    def send_uncounted(self, inbox: str, message: Message, taken: Callable[[], None]) -> None:
        """Send a message that is not counted; `taken` is called when the node has it."""

    def ahead(self, inbox: str) -> int:
        """How many messages that are counted wait for `inbox` here, or are being pushed."""


class _Outgoing:
    """A lane from here."""

    __slots__ = (
        "confirmed",
        "doubt",
        "due",
        "inbox",
        "owes",
        "pulled",
        "sent",
        "telling_since",
        "tellings",
        "told",
        "used_at",
    )

    def __init__(self, inbox: str, now: float) -> None:
        self.inbox = inbox
        #: Messages that the node has taken, and requests from there that were pulled here.
        self.sent = self.pulled = 0
        #: What was told of these last, and what is confirmed.
        self.told: Position = (0, 0)
        self.confirmed: Position = (0, 0)
        #: Whether there may be more on the lane than `sent`.
        self.doubt = False
        #: One of our inboxes, and where the lane stands that leads from there to it, if that is to be confirmed.
        self.owes: tuple[str, Position] | None = None
        self.tellings = 0
        self.due = now + _TELL_S
        #: Since when a statement waits for the node; None: it does not.
        self.telling_since: float | None = None
        self.used_at = now


class _Incoming:
    """A lane to here."""

    __slots__ = ("count", "heard_of", "settled", "used_at")

    def __init__(self, now: float) -> None:
        #: What was said in the last statement.
        self.settled: Position = (0, 0)
        #: Messages that have come since, and requests of ours that were spoken of for the first time.
        self.count = self.heard_of = 0
        self.used_at = now


class Incoming:
    """All lanes to one inbox of this process."""

    __slots__ = ("_clock", "_names", "lanes")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: By the process that speaks there.
        self.lanes: dict[str, _Incoming] = {}
        #: The same by all the names that it is known by: its inboxes, while it moves.
        self._names: dict[str, _Incoming] = {}

    def heard(self, speaker: str) -> None:
        """A message has come of the process `speaker`, or of the one with that inbox."""
        (self._names.get(speaker) or self._named(speaker)).count += 1

    def heard_of(self, speaker: str) -> None:
        """That process has spoken of a request of ours for the first time."""
        (self._names.get(speaker) or self._named(speaker)).heard_of += 1

    def _named(self, speaker: str) -> _Incoming:
        lane = self._names[speaker] = self.of(_process(speaker))
        return lane

    def of(self, process: str) -> _Incoming:
        """The lane of `process`."""
        lane = self.lanes.get(process)
        if lane is None:
            lane = self.lanes[process] = _Incoming(self._clock.seconds())
        return lane

    def forget(self, before: float) -> None:
        """Forget lanes that were not used since then."""
        self.lanes = {process: lane for process, lane in self.lanes.items() if lane.used_at >= before}
        self._names = {name: lane for name, lane in self._names.items() if lane.used_at >= before}


class Books:
    """The books of one process.

    Args:
        inbox: where this process receives now.
        reads: whether it receives at all.
    """

    def __init__(
        self, post: Post, inbox: Callable[[], str], reads: Callable[[], bool], clock: Clock, counters: Counters
    ) -> None:
        self._post = post
        self._inbox = inbox
        self._reads = reads
        self._clock = clock
        self._counters = counters
        self._outgoing: dict[str, _Outgoing] = {}
        #: Those of which there may be something to tell.
        self._news: dict[_Outgoing, None] = {}
        self._incoming: dict[str, Incoming] = {}
        #: Requests of ours that others have pulled without saying so, or all that they have said was lost.
        self.untold = 0
        self._timer: Timer | None = None
        self._stopped = False
        self._forget_at = clock.seconds() + _FORGET_S

    def stop(self) -> None:
        """Tell nothing more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def at(self, inbox: str) -> Incoming:
        """The lanes to an inbox of this process."""
        incoming = self._incoming.get(inbox)
        if incoming is None:
            incoming = self._incoming[inbox] = Incoming(self._clock)
        return incoming

    def sent(self, inbox: str, count: int) -> None:
        """The node has taken `count` messages for `inbox`."""
        lane = self._lane(inbox)
        lane.sent += count
        self._has_news(lane)

    def pulled(self, inbox: str, count: int) -> None:
        """This process has pulled `count` requests that are to be answered at `inbox`, and has spoken of them or never
        will."""
        lane = self._lane(inbox)
        lane.pulled += count
        self._has_news(lane)

    def doubted(self, inbox: str) -> None:
        """The node has taken messages for `inbox`, or it has not."""
        lane = self._lane(inbox)
        lane.doubt = True
        self._has_news(lane)

    def hear(self, inbox: str, statement: Statement) -> None:
        """A statement has come to our `inbox`."""
        lane = self._outgoing.get(statement.sender)
        if lane is not None:
            # Somebody lives there.
            lane.tellings = 0
            if statement.confirmed is not None:
                lane.confirmed = statement.confirmed
            self._has_news(lane)
        if statement.inbox == inbox:  # else it went there because we have moved, and may have overtaken
            self._settle(inbox, statement)

    def _settle(self, inbox: str, statement: Statement) -> None:
        lane = self.at(inbox).of(_process(statement.sender))
        lane.used_at = self._clock.seconds()
        since, reached, settled = statement.since, statement.reached, lane.settled
        # If it is none that it may be, one of us has forgotten the lane.
        before = settled if since[0] <= settled[0] <= reached[0] and since[1] <= settled[1] <= reached[1] else since
        missing = reached[0] - before[0] - lane.count
        if missing > 0:
            self._counters.add("messages_dropped", missing, "broker")
        elif missing:
            self._counters.add("messages_sent", -missing)
        self.untold += reached[1] - before[1] - lane.heard_of
        lane.settled, lane.count, lane.heard_of = reached, 0, 0
        if statement.answer and reached != since:
            back = self._lane(statement.sender)
            back.owes = inbox, reached
            self._has_news(back)

    def _lane(self, inbox: str) -> _Outgoing:
        lane = self._outgoing.get(inbox)
        if lane is None:
            lane = self._outgoing[inbox] = _Outgoing(inbox, self._clock.seconds())
        return lane

    def _has_news(self, lane: _Outgoing) -> None:
        self._news[lane] = None
        if self._timer is None and not self._stopped:
            self._timer = self._clock.callLater(_TELL_S, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for lane in list(self._news):
            reached = lane.sent + self._post.ahead(lane.inbox), lane.pulled
            known = reached == lane.confirmed and not lane.doubt
            if lane.owes is None and (known or (lane.tellings >= _TELLINGS and reached == lane.told)):
                del self._news[lane]
            elif lane.telling_since is not None and now - lane.telling_since < _TELLING_S:
                pass
            elif lane.owes is not None or now >= lane.due:
                self._tell(lane, reached, now)
        if now >= self._forget_at:
            self._forget(now)
        if self._news:
            self._timer = self._clock.callLater(_TELL_S, self._look)

    def _tell(self, lane: _Outgoing, reached: Position, now: float) -> None:
        sender, confirmed = lane.owes or (self._inbox(), None)
        lane.owes = None
        if reached != lane.confirmed:
            lane.due = now + min(_TELL_S * 2**lane.tellings, _LONGEST_PAUSE_S)
            lane.tellings = min(lane.tellings + 1, 10)
        lane.told, lane.doubt = reached, False
        lane.used_at = lane.telling_since = now

        def taken() -> None:
            lane.telling_since = None

        statement = Statement(lane.inbox, sender, lane.confirmed, reached, confirmed, self._reads())
        self._post.send_uncounted(lane.inbox, statement, taken)

    def _forget(self, now: float) -> None:
        self._forget_at = now + _FORGET_S
        before = now - _FORGET_S
        self._outgoing = {
            inbox: lane for inbox, lane in self._outgoing.items() if lane.used_at >= before or lane in self._news
        }
        for incoming in self._incoming.values():
            incoming.forget(before)


def _process(name: str) -> str:
    """The process in the name of an inbox, or that name itself."""
    return channels.process_of(name) if channels.is_inbox(name) and "." in name else name
