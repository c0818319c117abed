"""One attempt at a request: where it is offered, what becomes of it there, and where it goes then.

Those that are over for us before anybody has claimed them are kept, so that the accounting of messages balances.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from ifserver import messages as m
from ifserver.errors import NodeError
from ifserver.front.deadlines import Deadlines
from ifserver.layers.node import Node, Refusal
from ifserver.state_machines.effects import ClaimTimedOut, Withdrawn

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from ifserver.clock import Clock, Timer
    from ifserver.front.exchanges.exchange import Exchange
    from ifserver.front.exchanges.exchanges import Exchanges
    from ifserver.front.exchanges.offers import OfferList
    from ifserver.layers.accounting import Accounting
    from ifserver.metrics import Counters

__all__ = ["Attempt", "UnresolvedAttempts"]

#: How long the answer to a withdrawal is waited for, in seconds.
_WITHDRAWAL_S: Final = 1.0
#: How long a request that was not there any more is waited for, in seconds. Workers claim what they have taken within a
#: tenth of a second (`ifserver.worker.claims`).
_CLAIM_S: Final = 0.3
#: How long after its own deadline a request may still be pulled and claimed, in seconds.
_MARGIN_S: Final = 5.0

_NONE: Final[frozenset[str]] = frozenset()


class Attempt(Struct, eq=False):
    """One attempt at the request of an exchange: the message that `Stream.request` is now.

    It may be offered on one node after another, and is known to `UnclaimedOffers` until it is claimed, by whatever
    message about it comes first.
    """

    #: Whose present attempt it is; None: it is over.
    exchange: Exchange | None
    shared: Exchanges
    #: The identity of its stream, and which of the stream's attempts it is.
    identity: str
    number: int
    #: The request channel; empty: no pool takes the request.
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
    #: Whether a node has it, or a worker that has not claimed it; and whether that is in doubt. What is in doubt was
    #: not counted as sent.
    unresolved: bool = False
    in_doubt: bool = False
    #: Where `UnclaimedOffers` has it, while it waits to be claimed; since when, and when it was known to be taken
    #: (without meaning before that).
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

    # For `ifserver.layers.clusters`.

    def placed(self, node: Node) -> None:
        """It is offered on `node`."""
        self.node = node
        self.unresolved, self.in_doubt = True, False
        self.shared.offers.made(self, node, self.channel)

    def wants(self, payload: bytes) -> bool:
        """Whether this is still to be offered: it is not claimed, and not being taken back."""
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
            # There is no doubt: it was claimed already.
            self.shared.counters.add("messages_sent")
        if self.exchange is not None:
            self.exchange.refused(why)

    # For `UnclaimedOffers`.

    def claim_timed_out(self) -> None:
        """It was taken and not claimed, by a process that is dead or blocked; or its node has lost it."""
        self.shared.counters.add("messages_vanished")
        self._report(ClaimTimedOut())

    def reroute(self) -> None:
        """It has stood on its node for too long: offer it elsewhere, but on no node for a second time, unless workers
        are known to be free there."""
        node, clusters = self.node, self.shared.clusters
        if node is None:
            return
        stood = self.stood | {node.name}
        excluded = None if node.name in self.stood else clusters.choice.not_again_on(node, self.channel, stood)
        if excluded is None and clusters.choice.workers_are_free_beside(node, self.channel):
            stood = excluded = frozenset({node.name})
        if excluded is not None:
            self.stood = stood
            self.take_back(excluded)

    def node_lost(self) -> None:
        """The connection to its node is lost: offer it elsewhere, unless it must not run twice."""
        exchange = self.exchange
        self._report(ClaimTimedOut())
        if exchange is not None and self.exchange is None:
            self.shared.counters.add("messages_vanished")

    def take_back(self, excluded: frozenset[str] = _NONE) -> None:
        """Take it back, if no worker has it yet, and offer it anew: where it is read, with our address of now."""
        if self.node is not None and self.payload and not self.recalled:
            # Behind the push, which may leave at the end of this turn only.
            self.shared.clusters.soon(partial(self._take_back, self.node, self.payload, excluded))

    def _take_back(self, node: Node, payload: bytes, excluded: frozenset[str]) -> None:
        # Where that fails, a worker may have it: it stays where it is.
        taking = node.withdraw(self.channel, payload)
        taking.addCallbacks(self._taken_back, _ignore_node_error, (node, payload, excluded))

    def _taken_back(self, was_there: bool, node: Node, payload: bytes, excluded: frozenset[str]) -> None:
        # What a node has refused is offered on another one, and may be there by now.
        shared, is_same = self.shared, payload is self.payload and node is self.node
        if not was_there:
            if is_same:
                shared.offers.popped(self)
            return
        self._was_there()
        if self.recalled:
            # Meanwhile it was taken back for good, and that has found nothing.
            self._report(Withdrawn(True))
        elif is_same and self.exchange is not None and self.exchange.is_unclaimed:
            self.offer(shared.clusters.choice.except_for(excluded))

    # For the accounting.

    def claimed(self, worker: str) -> None:
        """A worker has it, which counts it for the inbox that it names, also when we have moved since."""
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
        """It was taken back before a worker had it."""
        self.resolve()
        self.shared.counters.add("messages_dropped", label="withdrawn")

    # For the stream.

    def withdraw(self) -> None:
        """Take it back for good, and report to the stream whether it was still there."""
        node = self.node
        if node is None or self.recalled or not self.payload:
            # It was offered nowhere, so that no worker can have it; or it is being taken back already.
            self._report(Withdrawn(node is None))
            return
        self.recalled = True
        # Behind the push, which may leave at the end of this turn only.
        self.shared.clusters.soon(partial(self._withdraw, node, self.payload))

    def _withdraw(self, node: Node, payload: bytes) -> None:
        withdrawing = node.withdraw(self.channel, payload)
        if not withdrawing.called:
            # A node that does not answer must not make the client wait for longer than `queue_timeout_s`.
            late = self.shared.clock.callLater(_WITHDRAWAL_S, self._report, Withdrawn(False))
            withdrawing.addBoth(_cancel, late)
        withdrawing.addCallbacks(self._withdrawn, self._withdrawal_failed)

    def _withdrawn(self, was_there: bool) -> None:
        if was_there:
            self._was_there()
        if was_there or self.exchange is None or not self.exchange.is_unclaimed:
            self._report(Withdrawn(was_there))
        else:
            # Where requests wait for long, a worker has most likely taken it just now, and is about to claim it.
            self.shared.clock.callLater(_CLAIM_S, self._report, Withdrawn(False))

    def _withdrawal_failed(self, failure: Failure) -> None:
        _ignore_node_error(failure)
        self._report(Withdrawn(False))

    def _report(self, event: object) -> None:
        if self.exchange is not None:
            self.exchange.handle(event)


def _ignore_node_error(failure: Failure) -> None:
    failure.trap(NodeError)


def _cancel(result: object, timer: Timer) -> object:
    if timer.active():
        timer.cancel()
    return result


class UnresolvedAttempts:
    """Keeps those attempts that are over for us, until they are claimed or it is too late for that.

    Either a worker has had them, and its messages come late, or their node has lost them.

    Args:
        queue_timeout_s: how long a request may be pulled after it was offered.
    """

    def __init__(self, accounting: Accounting, counters: Counters, clock: Clock, queue_timeout_s: float) -> None:
        self._accounting = accounting
        self._counters = counters
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._queue_timeout_s = queue_timeout_s
        self._late: Deadlines[Attempt] = Deadlines(clock, queue_timeout_s + _MARGIN_S, self._timed_out)

    def __len__(self) -> int:
        return len(self._attempts)

    def change(self, queue_timeout_s: float) -> None:
        """From now on a request may be pulled so long; what was offered before keeps its time, if that is longer."""
        self._queue_timeout_s = max(self._queue_timeout_s, queue_timeout_s)
        self._late.change(self._queue_timeout_s + _MARGIN_S)

    def stop(self) -> None:
        """Wait no longer."""
        late = self._late.take_all()
        self._late.stop()
        for attempt in late:
            self._timed_out(attempt)

    def add(self, attempt: Attempt) -> None:
        """It is over for us, and was not claimed."""
        self._attempts[attempt.identity, attempt.number] = attempt
        self._late.add(attempt)

    def forget(self, attempt: Attempt) -> None:
        """It is known where it is, or that no node has it."""
        if self._attempts.pop((attempt.identity, attempt.number), None) is not None:
            self._late.pop(attempt, None)

    def claimed(self, identity: str, number: int) -> bool:
        """A worker has had this attempt. Whether that was not known before."""
        attempt = self._attempts.get((identity, number))
        if attempt is None:
            return False
        attempt.resolve()
        return True

    def _timed_out(self, attempt: Attempt) -> None:
        """Either a worker has had it, and all its messages were lost, or none has."""
        del self._attempts[attempt.identity, attempt.number]
        attempt.unresolved = False
        was_pulled = self._accounting.untold > 0
        if was_pulled:
            self._accounting.untold -= 1
        else:
            self._accounting.presumed_lost += 1
        if was_pulled and attempt.in_doubt:
            self._counters.add("messages_sent")
        elif not was_pulled and not attempt.in_doubt:
            self._counters.add("messages_dropped", label="broker")
