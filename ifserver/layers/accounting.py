"""Finds what was lost between two processes: counts messages, and compares how far the streams are that both share.

From one process to the inbox of another, messages take one *route*, in order. The sender counts what the node has
taken, the receiver what it has pulled. While there is news, the sender reports in a `Receipt`, on the same route, how
many there were before it: what the receiver has not got by then it never will. That was lost by the node and is counted
as such, whatever kind of message it was; a message that was taken twice, because its first push was in doubt, was sent
twice. The receiver confirms, and both count on from there (see docs/explanation/architecture.rst, Accounting).

A request takes no route: whichever worker is free pulls it. So workers report how many they have had of which server. A
server that got no report about a request knows by that whether a worker has had it, or its node has lost it.

Receipts are not counted themselves. They cost a message each way, once a second, between two processes that talk.

Once a second, processes that share streams also send each other a `Sync`: how far the streams are that are due (see
docs/explanation/architecture.rst, Order and loss).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec.structs import replace

from ifserver import channels
from ifserver.clock import Clock, Timer
from ifserver.errors import ChannelNameError, UndecodableError
from ifserver.messages import Position, Receipt, Sync, SyncEntry, encode
from ifserver.metrics import DELIVERED, Counters

if TYPE_CHECKING:
    from ifserver.layers.clusters import Clusters

__all__ = [
    "EVERYTHING_S",
    "SYNC_ENTRIES",
    "SYNC_S",
    "Account",
    "Accounting",
    "Correspondent",
    "HandOn",
    "InboxDelivery",
    "Incoming",
    "epoch_of",
]

_log = logging.getLogger(__name__)


#: How often is looked whether there is news, and the first pause after a receipt that is not confirmed.
_LOOK_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
#: How often the same is reported to a process that confirms nothing: dead, most likely.
_REPEATS: Final = 4
#: How long the node may take to take a receipt before another is made, in seconds.
_PENDING_S: Final = 60.0
#: What is remembered of a route that nobody uses, in seconds: if it is used again, both ends begin anew.
_FORGET_S: Final = 3600.0
#: How often two processes that share streams report to each other, in seconds; a younger stream costs nothing.
SYNC_S: Final = 1.0
#: How often they report all that they share, whether or not it moves.
EVERYTHING_S: Final = 60.0
#: Streams in one message.
SYNC_ENTRIES: Final = 1000
#: A stream is old enough for a `Sync` at this age: a second, give or take what timers are early by.
_OLD_S: Final = 0.9
#: How often the same account is reported: one or two may be lost.
_REPORTS: Final = 3

#: Handles a message that has come to an inbox. Returns why it was dropped (a reason of ``messages_dropped``, or
#: ``repeated``), or None.
HandOn: TypeAlias = Callable[[Any, str], str | None]


class _Outgoing:
    """What this process has sent to one inbox, and what it has reported of that."""

    __slots__ = (
        "attempts",
        "confirmed",
        "doubt",
        "due",
        "inbox",
        "owes",
        "pending_since",
        "pulled",
        "reported",
        "sent",
        "used_at",
    )

    def __init__(self, inbox: str, now: float) -> None:
        self.inbox = inbox
        #: Messages that the node has taken, and requests from there that were pulled here.
        self.sent = self.pulled = 0
        #: What was reported of these last, and what is confirmed.
        self.reported: Position = (0, 0)
        self.confirmed: Position = (0, 0)
        #: Whether there may be more on the route than `sent`.
        self.doubt = False
        #: One of our inboxes, and where the route stands that leads from there to it, if that is to be confirmed.
        self.owes: tuple[str, Position] | None = None
        #: Receipts since the last sign of life from there.
        self.attempts = 0
        self.due = now + _LOOK_S
        #: Since when a receipt waits for the node; None: it does not.
        self.pending_since: float | None = None
        self.used_at = now


class _Route:
    """What one process has sent to an inbox of this one."""

    __slots__ = ("count", "settled", "spoken_of", "used_at")

    def __init__(self, now: float) -> None:
        #: What was reported in the last receipt.
        self.settled: Position = (0, 0)
        #: Messages that have come since, and requests of ours of which it has spoken for the first time.
        self.count = self.spoken_of = 0
        self.used_at = now


class Incoming(dict[str, _Route]):
    """What comes to one inbox of this process: a route for each name of a sender.

    That is the name of its process or, while it moves, the names of its inboxes. Indexing makes the route:
    ``incoming[sender].count += 1`` counts a message.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        #: By the process that speaks there.
        self.routes: dict[str, _Route] = {}

    def __missing__(self, speaker: str) -> _Route:
        process = channels.process_of(speaker) if channels.is_inbox(speaker) and "." in speaker else speaker
        route = self.routes.get(process)
        if route is None:
            route = self.routes[process] = _Route(self._clock.seconds())
        self[speaker] = route
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
    """What one process counts. `clusters` says where this process receives, and sends the receipts."""

    def __init__(self, clusters: Clusters, clock: Clock, counters: Counters) -> None:
        self._clusters = clusters
        self._clock = clock
        self._counters = counters
        self._outgoing: dict[str, _Outgoing] = {}
        #: Those of which there may be something to report.
        self._news: dict[_Outgoing, None] = {}
        #: What comes to the inboxes of this process.
        self.incoming = _Inboxes(clock)
        #: Requests of ours that others have pulled without a report, or whose reports were all lost; and those counted
        #: as lost, since no receipt of a process that has pulled them came in time.
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
        sender = self._outgoing.get(receipt.sender)
        if sender is not None:
            sender.attempts = 0  # it is alive
            if receipt.confirmed is not None:
                sender.confirmed = receipt.confirmed
            self._has_news(sender)
        if receipt.inbox != inbox:
            return  # it went there because we have moved, and may have overtaken
        route = self.incoming[inbox][receipt.sender]
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
            self._timer = self._clock.callLater(_LOOK_S, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for route in list(self._news):
            reached = route.sent + self._clusters.ahead(route.inbox), route.pulled
            known = reached == route.confirmed and not route.doubt
            if route.owes is None and (known or (route.attempts >= _REPEATS and reached == route.reported)):
                del self._news[route]
            elif route.pending_since is not None and now - route.pending_since < _PENDING_S:
                pass
            elif route.owes is not None or now >= route.due:
                self._report(route, reached, now)
        if now >= self._forget_at:
            self._forget(now)
        if self._news:
            self._timer = self._clock.callLater(_LOOK_S, self._look)

    def _report(self, route: _Outgoing, reached: Position, now: float) -> None:
        home = self._clusters.home
        sender, confirmed = route.owes or (home.inbox, None)
        route.owes = None
        if reached != route.confirmed:
            route.due = now + min(_LOOK_S * 2**route.attempts, _LONGEST_PAUSE_S)
            route.attempts = min(route.attempts + 1, 10)
        route.reported, route.doubt = reached, False
        route.used_at = route.pending_since = now

        def done() -> None:
            route.pending_since = None

        receipt = Receipt(route.inbox, sender, route.confirmed, reached, confirmed, home.reads)
        try:
            self._clusters.send(route.inbox, encode(receipt), done, counted=False)
        except ChannelNameError:
            _log.debug("no receipt can be sent to %s", route.inbox)

    def _forget(self, now: float) -> None:
        self._forget_at = now + _FORGET_S
        before = now - _FORGET_S
        self._outgoing = {
            inbox: route for inbox, route in self._outgoing.items() if route.used_at >= before or route in self._news
        }
        for incoming in self.incoming.values():
            incoming.forget(before)


class InboxDelivery:
    """Decodes what comes to the inboxes of one process, hands it on and counts it.

    Args:
        decode: makes a message of a payload, or raises `UndecodableError`.
        sender: the process, or the inbox, that has sent a message: there it is counted as come.
    """

    def __init__(
        self,
        decode: Callable[[bytes], Any],
        hand_on: HandOn,
        sender: Callable[[Any], str],
        accounting: Accounting,
        counters: Counters,
    ) -> None:
        self._decode = decode
        self._hand_on = hand_on
        self._sender = sender
        self._accounting = accounting
        self._counters = counters
        self._undecodable_logged = False

    def deliver(self, inbox: str, payloads: list[bytes]) -> None:
        """Messages have come to `inbox`. What is wrong with one concerns its own stream, never the reader."""
        counters, decode, hand_on, sender = self._counters, self._decode, self._hand_on, self._sender
        incoming = self._accounting.incoming[inbox]
        delivered = 0
        for payload in payloads:
            try:
                message = decode(payload)
            except UndecodableError as error:
                counters.add("messages_dropped", label="undecodable")
                if not self._undecodable_logged:
                    self._undecodable_logged = True
                    text = "dropped a message to %s that cannot be decoded; further ones are only counted: %s"
                    _log.error(text, inbox, error)
                continue
            try:
                if type(message) is Receipt:
                    self._accounting.hear(inbox, message)
                    continue
                reason = hand_on(message, inbox)
            except Exception:
                _log.exception("a message of type %s could not be handled", type(message).__name__)
                if type(message) is Receipt:
                    continue
                reason = None
            if reason is None:
                delivered += 1
            elif reason == "repeated":
                counters.add("messages_repeated")
                continue
            else:
                counters.add("messages_dropped", label=reason)
            incoming[sender(message)].count += 1
        if delivered:
            counters.cells[DELIVERED] += delivered


class Account:
    """What was last reported about one stream."""

    __slots__ = ("_reports", "_since", "consumed", "sent")

    def __init__(self, now: float) -> None:
        self._since = now
        self._reports = 0
        self.sent = self.consumed = 0

    def is_due(self, now: float, sent: int, consumed: int, in_any_case: bool) -> bool:
        """Whether to report now that `sent` messages were sent and `consumed` units consumed.

        Args:
            in_any_case: the stream waits for something, or it is time to report everything.
        """
        if now - self._since < _OLD_S:
            return False
        if sent != self.sent or consumed != self.consumed:
            self.sent, self.consumed, self._reports = sent, consumed, 0
        elif self._reports >= _REPORTS and not in_any_case:
            return False
        self._reports += 1
        return True


def epoch_of(clusters: Clusters, inbox: str) -> str | None:
    """Changes when what was sent to `inbox`, or from there to here, may be lost. None: its node is not configured."""
    node = clusters.nodes.get(channels.node_of(inbox))
    return f"{clusters.home.node.epoch} {node.epoch}" if node is not None else None


class Correspondent:
    """A process that shares streams with this one."""

    __slots__ = ("_epoch", "_everything_at", "telling")

    def __init__(self, now: float, epoch: str | None) -> None:
        self._everything_at = now + EVERYTHING_S
        self._epoch = epoch
        #: Whether something is under way to it.
        self.telling = False

    def begin(self, now: float, epoch: str | None) -> bool | None:
        """Another second has passed: whether to report all that it shares with us; None: nothing."""
        if self.telling and now < self._everything_at:
            # The node has not taken the last one. It never will if that could not even be sent, so this lasts for a
            # minute at most.
            return None
        everything = now >= self._everything_at or epoch != self._epoch
        if everything:
            self._everything_at, self._epoch = now + EVERYTHING_S, epoch
        return everything

    def tell_everything(self) -> None:
        """Report all at the next opportunity."""
        self._everything_at = 0.0

    def tell(self, clusters: Clusters, inbox: str, sender: str, supervisor: str, entries: list[SyncEntry]) -> None:
        """Send it `entries` at `inbox`, or where it may be found when that is gone; it answers to `sender`."""
        elsewhere = clusters.outages.elsewhere(inbox)
        if elsewhere:
            # This overtakes what waits for it at its old address, so it must not speak of that.
            entries = [replace(entry, sent=0) for entry in entries]
        for where in elsewhere or [inbox]:
            for start in range(0, len(entries), SYNC_ENTRIES):
                sync = Sync(sender, supervisor, entries[start : start + SYNC_ENTRIES], clusters.home.moves)
                is_last = start + SYNC_ENTRIES >= len(entries)
                self.telling = True
                try:
                    clusters.send(where, encode(sync), self._sent if is_last else None)
                except ChannelNameError as error:
                    _log.error("cannot tell a process how far its streams are: %s", error)

    def _sent(self) -> None:
        """The node has the last of what was under way, or that was dropped."""
        self.telling = False
