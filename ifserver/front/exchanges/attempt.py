"""One attempt at a request: where it is offered, what becomes of it there, and where it goes then."""

from __future__ import annotations

from functools import partial
from typing import Final, Protocol

from msgspec import Struct
from twisted.python.failure import Failure

from ifserver import messages as m
from ifserver.clock import Clock, Timer
from ifserver.errors import NodeError
from ifserver.front.exchanges.attempt_accounting import UnresolvedAttempts
from ifserver.front.exchanges.unclaimed_offers import OfferList, UnclaimedOffers
from ifserver.layers.clusters import Clusters, Refusal
from ifserver.layers.node import Node
from ifserver.metrics import Counters
from ifserver.state_machines.effects import ClaimTimedOut, Withdrawn
from ifserver.state_machines.stream import Stream

__all__ = ["Attempt"]

#: How long the answer to a withdrawal is waited for, in seconds.
_WITHDRAWAL_S: Final = 1.0
#: How long a request that was not there any more is waited for, in seconds. Workers claim what they have taken within a
#: tenth of a second (`ifserver.worker.claims`).
_CLAIM_S: Final = 0.3

_NONE: Final[frozenset[str]] = frozenset()


class Exchange(Protocol):
    """Whose request it is."""

    stream: Stream

    @property
    def is_unclaimed(self) -> bool:
        """Whether nobody has spoken about the present attempt."""

    def handle(self, event: object) -> None:
        """Something has happened to the offer."""

    def taken_nowhere(self, why: Refusal) -> None:
        """No node has taken it, or it is in doubt whether one has."""


class Shared(Protocol):
    """What an exchange shares with all others of its server."""

    clusters: Clusters
    counters: Counters
    clock: Clock
    offers: UnclaimedOffers
    unresolved: UnresolvedAttempts


class Attempt(Struct, eq=False):
    """One attempt at the request of an exchange: the message that `Stream.request` is now.

    It may be offered on one node after another, and is known to `UnclaimedOffers` until somebody speaks of it. One that
    is over before anybody has is kept by `UnresolvedAttempts`, so that the accounting of messages balances.
    """

    #: Whose present attempt it is; None: it is over.
    exchange: Exchange | None
    shared: Shared
    #: The identity of its stream, and which of the stream's attempts it is.
    identity: str
    number: int
    #: The request channel.
    channel: str
    #: When it was made.
    since: float
    #: What is offered; empty: nothing was yet, or it is not offered again.
    payload: bytes = b""
    #: That of our inboxes which it names.
    inbox: str = ""
    #: Where it was offered last.
    node: Node | None = None
    #: Nodes on which it has stood for too long.
    stood: frozenset[str] = _NONE
    #: Whether it is being taken back for good.
    recalled: bool = False
    #: Whether a node has it, or somebody who has not spoken of it; and whether that is in doubt.
    unresolved: bool = False
    in_doubt: bool = False
    #: Where `UnclaimedOffers` has it, while it waits for somebody to claim it; since when, and when it was known to be
    #: taken (without meaning before that).
    list: OfferList | None = None
    placed_at: float = 0.0
    popped_at: float = 0.0

    def offer(self, excluded: frozenset[str] = _NONE) -> None:
        """Offer it on a node that is none of those `excluded`, with the address where this server receives now."""
        clusters, exchange = self.shared.clusters, self.exchange
        if exchange is None:
            return
        stream, inbox = exchange.stream, clusters.home.inbox
        self.inbox = inbox
        if not stream.request.reply_channel.startswith(inbox):
            stream.update_address(inbox)
        self.payload = m.encode(stream.request)
        clusters.offer(self.channel, self.payload, self, excluded)

    def end(self) -> None:
        """Its exchange has ended, or begins the next attempt."""
        self.exchange = None
        if self.list is not None:
            self.shared.offers.left(self)
        if self.unresolved:
            self.payload = b""
            self.shared.unresolved.add(self)

    # What the clusters tell.

    def placed(self, node: Node) -> None:
        """It is offered on `node`."""
        self.node = node
        self.unresolved, self.in_doubt = True, False
        self.shared.offers.made(self, node, self.channel)

    def wants(self, payload: bytes) -> bool:
        """Whether this is still to be offered: nobody has spoken of it, and nobody takes it back."""
        exchange = self.exchange
        return exchange is not None and payload is self.payload and not self.recalled and exchange.is_unclaimed

    def refused(self, payload: bytes, why: Refusal) -> None:
        """No node has taken this. That may be known late, when the attempt is over."""
        in_doubt = why is Refusal.IN_DOUBT
        if not in_doubt:
            # It stands nowhere. (A withdrawal that is under way is behind the push, and so finds nothing.)
            self.node, self.stood = None, _NONE
            self.shared.offers.left(self)
        if self.unresolved:
            self.unresolved = self.in_doubt = in_doubt
            if not in_doubt:
                self.shared.unresolved.forget(self)
        elif in_doubt:
            # There is no doubt: somebody has spoken of it already.
            self.shared.counters.add("messages_sent")
        if self.exchange is not None:
            self.exchange.taken_nowhere(why)

    # What `UnclaimedOffers` tells.

    def vanished(self) -> None:
        """Somebody has taken it who is never heard of: dead, or blocked; or its node has lost it."""
        self.shared.counters.add("messages_vanished")
        self._tell(ClaimTimedOut())

    def spill(self) -> None:
        """It has stood on its node for too long: offer it elsewhere, but on no node for a second time, unless workers
        are known to be free there."""
        node, clusters = self.node, self.shared.clusters
        if node is None:
            return
        stood = self.stood | {node.name}
        excluded = None if node.name in self.stood else clusters.spill_from(node, self.channel, stood)
        if excluded is None and clusters.workers_are_free_beside(node, self.channel):
            stood = excluded = frozenset({node.name})
        if excluded is not None:
            self.stood = stood
            self._take_back(excluded)

    def move(self) -> None:
        """Nobody reads where it stands: offer it where somebody does."""
        self._take_back(_NONE)

    def strand(self) -> None:
        """The connection to its node is lost: offer it elsewhere, unless it must not run twice."""
        exchange = self.exchange
        self._tell(ClaimTimedOut())
        if exchange is not None and self.exchange is None:
            self.shared.counters.add("messages_vanished")

    def readdress(self) -> None:
        """This server has moved: unless somebody has it already, let its taker know the new address."""
        if self.list is not None:
            self._take_back(_NONE)

    def _take_back(self, excluded: frozenset[str]) -> None:
        if self.node is not None and self.payload and not self.recalled:
            # Behind the push, which may leave at the end of this turn only.
            self.shared.clusters.soon(partial(self._ask_back, self.node, self.payload, excluded))

    def _ask_back(self, node: Node, payload: bytes, excluded: frozenset[str]) -> None:
        node.withdraw(self.channel, payload).addCallbacks(self._taken_back, _not_taken_back, (node, payload, excluded))

    def _taken_back(self, was_there: bool, node: Node, payload: bytes, excluded: frozenset[str]) -> None:
        # What a node has refused is offered on another one, and may be there by now.
        shared, is_same = self.shared, payload is self.payload and node is self.node
        if not was_there:
            if is_same:
                shared.offers.popped(self)
            return
        self._was_there()
        if self.recalled:
            # Meanwhile it was asked for for good, and that has found nothing.
            self._tell(Withdrawn(True))
        elif is_same and self.exchange is not None and self.exchange.is_unclaimed:
            self.offer(shared.clusters.except_for(excluded))

    # For the accounting.

    def spoken_of(self, worker: str) -> None:
        """Somebody has it. He counts it for the inbox that it names, also when we have moved since."""
        self.shared.clusters.accounting.incoming[self.inbox][worker].spoken_of += 1
        if self.in_doubt:
            self.shared.counters.add("messages_sent")
        self.unresolved = self.in_doubt = False

    def resolve(self) -> None:
        """It is known now where it is."""
        if self.unresolved:
            if self.in_doubt:
                self.shared.counters.add("messages_sent")
            self.unresolved = self.in_doubt = False
            self.shared.unresolved.forget(self)

    def _was_there(self) -> None:
        """It was taken back before anybody had it."""
        self.resolve()
        self.shared.counters.add("messages_dropped", label="withdrawn")

    # What the stream asks for.

    def withdraw(self) -> None:
        """Take it back for good, and tell the stream whether it was still there."""
        node = self.node
        if node is None or self.recalled or not self.payload:
            # It was offered nowhere, so that nobody can have it; or it is being taken back already.
            self._tell(Withdrawn(node is None))
            return
        self.recalled = True
        # Behind the push, which may leave at the end of this turn only.
        self.shared.clusters.soon(partial(self._withdraw, node, self.payload))

    def _withdraw(self, node: Node, payload: bytes) -> None:
        withdrawing = node.withdraw(self.channel, payload)
        if not withdrawing.called:
            # A node that does not answer must not make the client wait for longer than it was told to.
            late = self.shared.clock.callLater(_WITHDRAWAL_S, self._tell, Withdrawn(False))
            withdrawing.addBoth(_cancel, late)
        withdrawing.addCallbacks(self._withdrawn, self._withdrawal_failed)

    def _withdrawn(self, was_there: bool) -> None:
        if was_there:
            self._was_there()
        if was_there or self.exchange is None or not self.exchange.is_unclaimed:
            self._tell(Withdrawn(was_there))
        else:
            # Where requests wait for long, whoever has it has most likely taken it just now, and is about to say so.
            self.shared.clock.callLater(_CLAIM_S, self._tell, Withdrawn(False))

    def _withdrawal_failed(self, failure: Failure) -> None:
        failure.trap(NodeError)
        self._tell(Withdrawn(False))

    def _tell(self, event: object) -> None:
        if self.exchange is not None:
            self.exchange.handle(event)


def _not_taken_back(failure: Failure) -> None:
    failure.trap(NodeError)  # somebody may have it: it stays where it is


def _cancel(result: object, timer: Timer) -> object:
    if timer.active():
        timer.cancel()
    return result
