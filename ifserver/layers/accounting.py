"""Counts the messages between this process and each other one, so that none is lost without being counted.

From one process to the inbox of another, messages take one *route*, in order. The sender counts what the node has
taken, the receiver what it has pulled. While there is news, the sender says in a `Receipt`, on the same route, how
many there were before it: what the receiver has not got by then it never will. That was lost by the node and is counted
as such, whatever kind of message it was; a message that was taken twice, because its first push was in doubt, was sent
twice. The receiver confirms, and both count on from there (see docs/explanation/architecture.rst, Accounting).

A request takes no route: whoever is free pulls it. So those who pull say how many they have had of whose. A server
that was never told anything about a request knows by that whether somebody has had it, or its node has lost it.

Receipts are not counted themselves. They cost a message each way, once a second, between two processes that talk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from ifserver import channels
from ifserver.clock import Clock, Timer
from ifserver.messages import Message, Position, Receipt
from ifserver.metrics import Counters

__all__ = ["Accounting", "Incoming"]

#: How often is looked whether there is news, and the first pause after a receipt that is not confirmed.
_TELL_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
#: How often the same is told to somebody who confirms nothing: dead, most likely.
_TELLINGS: Final = 4
#: How long the node may take to take a receipt before another is made, in seconds.
_TELLING_S: Final = 60.0
#: What is remembered of a route that nobody uses, in seconds: if it is used again, both ends begin anew.
_FORGET_S: Final = 3600.0


class Post(Protocol):
    """How receipts are sent."""

    def send_uncounted(self, inbox: str, message: Message, done: Callable[[], None]) -> None:
        """Send a message that is not counted; `done` is called when the node has it, or it was dropped."""

    def ahead(self, inbox: str) -> int:
        """How many messages that are counted wait for `inbox` here, or are being pushed."""


class _Outgoing:
    """What this process has sent to one inbox, and what was said of that."""

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
        #: Whether there may be more on the route than `sent`.
        self.doubt = False
        #: One of our inboxes, and where the route stands that leads from there to it, if that is to be confirmed.
        self.owes: tuple[str, Position] | None = None
        self.tellings = 0
        self.due = now + _TELL_S
        #: Since when a receipt waits for the node; None: it does not.
        self.telling_since: float | None = None
        self.used_at = now


class _Incoming:
    """What one process has sent to an inbox of this one."""

    __slots__ = ("count", "settled", "spoken_of", "used_at")

    def __init__(self, now: float) -> None:
        #: What was said in the last receipt.
        self.settled: Position = (0, 0)
        #: Messages that have come since, and requests of ours of which it has spoken for the first time.
        self.count = self.spoken_of = 0
        self.used_at = now


class Incoming(dict[str, _Incoming]):
    """What comes to one inbox of this process: a route for each name of a sender.

    That is the name of its process or, while it moves, the names of its inboxes. Indexing makes the route:
    ``incoming[sender].count += 1`` counts a message.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        #: By the process that speaks there.
        self.routes: dict[str, _Incoming] = {}

    def __missing__(self, speaker: str) -> _Incoming:
        route = self[speaker] = self.of(_process(speaker))
        return route

    def of(self, process: str) -> _Incoming:
        """The route of `process`."""
        route = self.routes.get(process)
        if route is None:
            route = self.routes[process] = _Incoming(self._clock.seconds())
        return route

    def forget(self, before: float) -> None:
        """Forget routes that were not used since then."""
        self.routes = {process: route for process, route in self.routes.items() if route.used_at >= before}
        for name in [name for name, route in self.items() if route.used_at < before]:
            del self[name]


class _Inboxes(dict[str, Incoming]):
    """The inboxes of this process, by their names."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def __missing__(self, inbox: str) -> Incoming:
        incoming = self[inbox] = Incoming(self._clock)
        return incoming


class Accounting:
    """What one process counts.

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
        #: What comes to the inboxes of this process.
        self.incoming = _Inboxes(clock)
        #: Requests of ours that others have pulled without saying so, or all that they have said was lost; and those
        #: that were counted as lost, since no receipt of a process that has pulled them came in time.
        self.untold = self.presumed_lost = 0
        self._timer: Timer | None = None
        self._stopped = False
        self._forget_at = clock.seconds() + _FORGET_S

    def stop(self) -> None:
        """Send no more receipts."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def sent(self, inbox: str, count: int) -> None:
        """The node has taken `count` messages for `inbox`."""
        route = self._outgoing.get(inbox) or self._route_to(inbox)
        route.sent += count
        if route not in self._news:
            self._has_news(route)

    def pulled(self, inboxes: Iterable[str]) -> None:
        """This process has pulled requests, each of which is to be answered to one of `inboxes`, and has spoken of them
        or never will."""
        for inbox, count in Counter(inboxes).items():
            route = self._outgoing.get(inbox) or self._route_to(inbox)
            route.pulled += count
            if route not in self._news:
                self._has_news(route)

    def doubted(self, inbox: str) -> None:
        """The node has taken messages for `inbox`, or it has not."""
        route = self._route_to(inbox)
        route.doubt = True
        self._has_news(route)

    def hear(self, inbox: str, receipt: Receipt) -> None:
        """A receipt has come to our `inbox`."""
        route = self._outgoing.get(receipt.sender)
        if route is not None:
            # Somebody lives there.
            route.tellings = 0
            if receipt.confirmed is not None:
                route.confirmed = receipt.confirmed
            self._has_news(route)
        if receipt.inbox == inbox:  # else it went there because we have moved, and may have overtaken
            self._settle(inbox, receipt)

    def _settle(self, inbox: str, receipt: Receipt) -> None:
        route = self.incoming[inbox].of(_process(receipt.sender))
        route.used_at = self._clock.seconds()
        since, reached, settled = receipt.since, receipt.reached, route.settled
        # If it is none that it may be, one of us has forgotten the route.
        before = settled if since[0] <= settled[0] <= reached[0] and since[1] <= settled[1] <= reached[1] else since
        missing = reached[0] - before[0] - route.count
        if missing > 0:
            self._counters.add("messages_dropped", missing, "broker")
        elif missing:
            self._counters.add("messages_sent", -missing)
        self.untold += reached[1] - before[1] - route.spoken_of
        late = min(self.untold, self.presumed_lost)
        if late > 0:
            # They were pulled after all: sent twice, and lost once.
            self.untold -= late
            self.presumed_lost -= late
            self._counters.add("messages_sent", late)
        route.settled, route.count, route.spoken_of = reached, 0, 0
        if receipt.answer and reached != since:
            back = self._route_to(receipt.sender)
            back.owes = inbox, reached
            self._has_news(back)

    def _route_to(self, inbox: str) -> _Outgoing:
        route = self._outgoing.get(inbox)
        if route is None:
            route = self._outgoing[inbox] = _Outgoing(inbox, self._clock.seconds())
        return route

    def _has_news(self, route: _Outgoing) -> None:
        self._news[route] = None
        if self._timer is None and not self._stopped:
            self._timer = self._clock.callLater(_TELL_S, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for route in list(self._news):
            reached = route.sent + self._post.ahead(route.inbox), route.pulled
            known = reached == route.confirmed and not route.doubt
            if route.owes is None and (known or (route.tellings >= _TELLINGS and reached == route.told)):
                del self._news[route]
            elif route.telling_since is not None and now - route.telling_since < _TELLING_S:
                pass
            elif route.owes is not None or now >= route.due:
                self._tell(route, reached, now)
        if now >= self._forget_at:
            self._forget(now)
        if self._news:
            self._timer = self._clock.callLater(_TELL_S, self._look)

    def _tell(self, route: _Outgoing, reached: Position, now: float) -> None:
        sender, confirmed = route.owes or (self._inbox(), None)
        route.owes = None
        if reached != route.confirmed:
            route.due = now + min(_TELL_S * 2**route.tellings, _LONGEST_PAUSE_S)
            route.tellings = min(route.tellings + 1, 10)
        route.told, route.doubt = reached, False
        route.used_at = route.telling_since = now

        def done() -> None:
            route.telling_since = None

        receipt = Receipt(route.inbox, sender, route.confirmed, reached, confirmed, self._reads())
        self._post.send_uncounted(route.inbox, receipt, done)

    def _forget(self, now: float) -> None:
        self._forget_at = now + _FORGET_S
        before = now - _FORGET_S
        self._outgoing = {
            inbox: route for inbox, route in self._outgoing.items() if route.used_at >= before or route in self._news
        }
        for incoming in self.incoming.values():
            incoming.forget(before)


def _process(name: str) -> str:
    """The process in the name of an inbox, or that name itself."""
    return channels.process_of(name) if channels.is_inbox(name) and "." in name else name
