"""The request of one exchange as it is offered: on which node, what becomes of it there, and where it goes then."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final, Protocol, TypeVar, cast

from msgspec.structs import replace
from twisted.python.failure import Failure

from ifserver import channels
from ifserver import messages as m
from ifserver.clock import Clock, Timer
from ifserver.config.settings import FrontSettings
from ifserver.errors import NodeError
from ifserver.front.bursts import Bursts
from ifserver.front.files import Files
from ifserver.front.offers import Offers, StandingOffer
from ifserver.front.pauses import Pauses
from ifserver.front.peers import Peers
from ifserver.front.resumptions import Resumptions
from ifserver.front.tally import Tally
from ifserver.front.unresolved import Unheard
from ifserver.front.waiting_room import WaitingRoom
from ifserver.layers.base import Node
from ifserver.layers.clusters import Clusters, Refusal
from ifserver.metrics import Counters
from ifserver.streams.base import Stream
from ifserver.streams.effects import Join, Offer, OfferRefused, Resume, Vanished, Withdrawn

__all__ = ["Exchanges", "Offered", "Registry"]

_T = TypeVar("_T")

#: How long the answer to a withdrawal is waited for, in seconds.
_WITHDRAWAL_S: Final = 1.0
#: How long a request that was not there any more is waited for, in seconds. Workers claim what they have taken within a
#: tenth of a second (`ifserver.worker.claims`).
_CLAIM_S: Final = 0.3

_NONE: Final[frozenset[str]] = frozenset()

_WHY: Final = {
    Refusal.FULL: "the request channel is full",
    Refusal.UNREACHABLE: "no node is reachable",
    Refusal.IN_DOUBT: "the connection to the node broke",
}


class Registry(dict[str, _T]):
    """The exchanges that are open, by the identity of their streams."""

    def __init__(self, inbox: str) -> None:
        super().__init__()
        self._prefix = inbox + "."
        self._count = 0

    def new_channel(self) -> str:
        """A reply channel that no stream has had."""
        self._count += 1
        return f"{self._prefix}{self._count:x}"

    def move(self, inbox: str) -> None:
        """New reply channels belong to `inbox` from now on."""
        self._prefix = inbox + "."

    def all(self) -> list[_T]:
        """Every exchange that is open; they may end meanwhile."""
        return list(self.values())


class Groups(Protocol):
    """The groups of the streams of one server (`ifserver.front.groups.Members`)."""

    def join(self, exchange: Any, asked: Join) -> None:
        """Make the stream of `exchange` a member."""

    def leave(self, exchange: Any, group: str) -> None:
        """It is no member any more."""

    def leave_all(self, exchange: Any) -> None:
        """It is a member of no group any more."""


class Traces(Protocol):
    """The spans of the streams of one server (`ifserver.front.tracing.Tracing`)."""

    def again(self, identity: str, request: m.ToWorkers, channel: str, why: str) -> m.Headers:
        """The next attempt at a stream is about to be offered. Returns the headers for that."""

    def failed(self, identity: str, why: str) -> None:
        """The client of a stream cannot have what was begun."""


class Exchanges(Protocol):
    """What all exchanges of one server share."""

    settings: FrontSettings
    clusters: Clusters
    counters: Counters
    tally: Tally
    #: Where there are pools: that of the requests of each, by their request channels.
    tallies: Mapping[str, Tally] | None
    clock: Clock
    bursts: Bursts
    registry: Registry[Any]
    offers: Offers
    peers: Peers
    resumptions: Resumptions
    waiting_room: WaitingRoom
    unheard: Unheard
    files: Files
    pauses: Pauses
    #: The same while something is paused; else None.
    paused: Pauses | None

    @property
    def members(self) -> Groups:
        """The groups of the streams."""

    @property
    def tracing(self) -> Traces | None:
        """Their spans; None: it is off."""

    def deadline(self, wait_s: float | None = None) -> float:
        """When nobody need take any more what is offered now, if it is waited for `wait_s`; None: as for a request."""


class Offered(ABC):
    """That part of an exchange which is offered, one attempt after another, on the request channel `channel`.

    A base class and not an object of its own: that would be garbage in a cycle after each request.
    """

    __slots__ = (
        "_channel",
        "_in_doubt",
        "_inbox",
        "_over",
        "_payload",
        "_request",
        "_resumes",
        "_since",
        "_stood",
        "_unheard",
        "_worker",
        "began_at",
        "claimed_at",
        "has_waited",
        "node",
        "offer",
        "server",
        "stream",
    )

    def __init__(self, server: Exchanges, stream: Stream, channel: str) -> None:
        self.server = server
        self.stream = stream
        self._channel = channel
        #: The present attempt, as it was offered last.
        self._request: m.ToWorkers = stream.request
        #: That of our inboxes which it names.
        self._inbox = ""
        #: What is offered; empty while nothing is, and from when it is being taken back for good.
        self._payload = b""
        #: Whether a node has the present attempt, or somebody who has not spoken of it; and whether that is in doubt.
        self._unheard = self._in_doubt = False
        #: When the first attempt was made, and the present one.
        self.began_at = self._since = server.clock.seconds()
        #: When the present attempt was claimed. None: nobody has claimed it; those that answer at once do not (see
        #: docs/explanation/architecture.rst, Claims), and then nobody here can tell how long the request was queued.
        self.claimed_at: float | None = None
        #: Nodes on which the present attempt has stood for too long.
        self._stood = _NONE
        #: Where the present attempt was offered last.
        self.node: Node | None = None
        #: The present attempt, while `Offers` waits for somebody to claim it.
        self.offer: StandingOffer | None = None
        #: Whether `WaitingRoom` has it, or had.
        self.has_waited = False
        #: Inbox of the claimant; whether the exchange has ended.
        self._worker: str | None = None
        self._over = False
        #: Whether it is an open WebSocket that looks for its next worker.
        self._resumes = False

    @property
    def is_unclaimed(self) -> bool:
        """Whether nobody has spoken about the present attempt."""
        return self._worker is None and not self._over

    @abstractmethod
    def handle(self, event: object) -> None:
        """Something has happened to the offer."""

    def _address(self) -> None:
        """Let the present attempt name the inbox where this server receives now, and prepare to offer it."""
        inbox = self._inbox = self.server.clusters.home.inbox
        request = self._request
        if not request.reply_channel.startswith(inbox):
            self.stream.readdress(inbox)
            request = self._request = replace(request, reply_channel=self.stream.channel)
        self._payload = m.encode(request)

    def _offer(self, request: m.ToWorkers) -> None:
        """Offer an attempt."""
        server = self.server
        clusters = server.clusters
        self._request = request
        if server.paused is not None and server.paused.hold(cast("Any", self)):
            self._payload, self.node = b"", None
            self.has_waited = True
            if self.offer is not None:
                server.offers.left(self)
            return
        if not clusters.home.ensure():
            # Nobody could answer.
            self._payload, self.node = b"", None
            clusters.soon(self._unreachable)
            return
        self._address()
        self._stood = _NONE
        clusters.offer(self._channel, self._payload, self)

    def _offer_again(self, effect: Offer) -> None:
        """Offer the next attempt."""
        server, request = self.server, effect.request
        self._end_attempt()
        server.counters.add("retries")
        self._since = server.clock.seconds()
        server.bursts.add("offered to another worker", effect.why, request.reply_channel)
        # The first one's deadline may be over: then whoever takes it would drop it.
        self._offer(replace(self._traced(request, effect.why), deadline=server.deadline()))

    def _traced(self, request: m.ToWorkers, why: str) -> m.ToWorkers:
        """The next attempt, with the context of its own offer."""
        tracing = self.server.tracing
        if tracing is None:
            return request
        return replace(request, headers=tracing.again(self.stream.identity, request, self._channel, why))

    # An open WebSocket whose worker is gone.

    def _look_for_worker(self, effect: Resume) -> None:
        """Wait to be offered to the next worker."""
        server = self.server
        self._end_attempt()
        server.offers.left(self)
        self._resumes = True
        self._channel = channels.of_pool(channels.pool_of(self._channel), channels.WEBSOCKET_RESUME)
        self._request, self._payload, self.node = self._traced(effect.request, effect.why), b"", None
        if not effect.tries:
            server.counters.add("resumptions")
        server.bursts.add("the open WebSocket gets another worker", effect.why, effect.request.reply_channel)
        server.resumptions.add(self, effect.tries, self._channel)

    def offer_resumption(self) -> None:
        """It is its turn."""
        server = self.server
        self._since = server.clock.seconds()
        self._offer(replace(self._request, deadline=server.deadline(server.settings.resume_timeout_s)))

    def _forget_offer(self) -> None:
        """Nothing will be offered again of what is answered for long."""
        self.stream.forget_offer()
        self._request = self.stream.request
        self._payload = b""

    # What the clusters tell.

    def placed(self, node: Node) -> None:
        """The request is offered on `node`."""
        self.node = node
        self._unheard, self._in_doubt = True, False
        if self.offer is not None:
            self.server.offers.left(self)
        self.offer = self.server.offers.made(self, node, self._channel, self._payload)

    def wants(self, payload: bytes) -> bool:
        """Whether this is the present attempt, which nobody has spoken of and nobody takes back."""
        return payload is self._payload and self.is_unclaimed

    def refused(self, payload: bytes, why: Refusal) -> None:
        """No node has taken this."""
        in_doubt = why is Refusal.IN_DOUBT
        # It may be late, and of an attempt that is over.
        attempt = m.decode_request(payload).attempt
        if self.server.unheard.refused(self.stream.identity, attempt, in_doubt):
            return
        is_present = attempt == self._request.attempt
        if is_present and self._unheard:
            self._unheard = self._in_doubt = in_doubt
        elif in_doubt:
            # There is no doubt: somebody has spoken of it already.
            self.server.counters.add("messages_sent")
        if is_present:
            self._taken_nowhere(why)

    # What the waiting room tells.

    def offer_anew(self) -> None:
        """This server can be reached again."""
        self._offer(self.stream.request)

    def give_up_waiting(self) -> None:
        """It could not in time."""
        self._give_up(Refusal.UNREACHABLE)

    def _unreachable(self) -> None:
        self._taken_nowhere(Refusal.UNREACHABLE)

    def _taken_nowhere(self, why: Refusal) -> None:
        may_wait = why is Refusal.UNREACHABLE and self.is_unclaimed and not self._resumes
        if may_wait and self.server.waiting_room.enter(self):
            return
        self._give_up(why)

    def _give_up(self, why: Refusal) -> None:
        if self.is_unclaimed:
            text, home = _WHY[why], self.server.clusters.home.node
            if why is Refusal.UNREACHABLE and not home.connected:
                text = f"node {home.name} is not connected"
            self.handle(OfferRefused(why is Refusal.IN_DOUBT, text))

    # What `Offers` tells.

    def vanished(self) -> None:
        """Somebody has taken it who is never heard of: dead, or blocked; or its node has lost it."""
        self.server.counters.add("messages_vanished")
        self.handle(Vanished())

    def spill(self) -> None:
        """It has stood on its node for too long: offer it elsewhere, but on no node for a second time, unless workers
        are known to be free there."""
        node, clusters = self.node, self.server.clusters
        if node is None:
            return
        stood = self._stood | {node.name}
        excluded = None if node.name in self._stood else clusters.spill_from(node, self._channel, stood)
        if excluded is None and clusters.workers_are_free_beside(node, self._channel):
            stood = excluded = frozenset({node.name})
        if excluded is not None:
            self._stood = stood
            self._take_back(excluded)

    def move(self) -> None:
        """Nobody reads where it stands: offer it where somebody does."""
        self._take_back(_NONE)

    def strand(self) -> None:
        """The connection to its node is lost: offer it elsewhere, unless it must not run twice."""
        offer = self.offer
        self.handle(Vanished())
        if self.offer is not offer:
            self.server.counters.add("messages_vanished")

    def readdress(self) -> None:
        """This server has moved: unless somebody has it already, let its taker know the new address."""
        if self.offer is not None:
            self._take_back(_NONE)

    def _take_back(self, excluded: frozenset[str]) -> None:
        node, payload, about = self.node, self._payload, (self._request.attempt, self.offer, excluded)

        def take_back() -> None:
            if node is not None:
                withdrawing = node.withdraw(self._channel, payload)
                withdrawing.addCallbacks(self._taken_back, _not_taken_back, about)

        # Behind the push, which may leave at the end of this turn only.
        if payload:
            self.server.clusters.soon(take_back)

    def _taken_back(self, was_there: bool, attempt: int, offer: StandingOffer | None, excluded: frozenset[str]) -> None:
        if not was_there:
            if offer is not None:
                self.server.offers.popped(offer)
            return
        self._was_there(attempt)
        if not self._payload:
            # Meanwhile it was asked for for good, and that has found nothing.
            if attempt == self._request.attempt:
                self.handle(Withdrawn(True))
        elif self.is_unclaimed and self.offer is offer:
            self._address()
            clusters = self.server.clusters
            clusters.offer(self._channel, self._payload, self, clusters.except_for(excluded))

    # For the accounting.

    def _spoken_of(self, worker: str) -> None:
        """Somebody has the present attempt. He counts it for the inbox that it names, also when we have moved since."""
        self.server.clusters.accounting.incoming[self._inbox][worker].spoken_of += 1
        if self._in_doubt:
            self.server.counters.add("messages_sent")
        self._unheard = self._in_doubt = False

    def _was_there(self, attempt: int) -> None:
        """`attempt` was taken back before anybody had it."""
        if self._unheard and attempt == self._request.attempt:
            if self._in_doubt:
                self.server.counters.add("messages_sent")
            self._unheard = self._in_doubt = False
        else:
            self.server.unheard.heard(self.stream.identity, attempt)
        self.server.counters.add("messages_dropped", label="withdrawn")

    def _end_attempt(self) -> None:
        """Nothing more is done about the present attempt."""
        if self._unheard:
            self.server.unheard.add(self.stream.identity, self._request.attempt, self._in_doubt)
            self._unheard = self._in_doubt = False

    # What the stream asks for.

    def withdraw(self) -> None:
        """Take it back for good, and tell the stream whether it was still there."""
        node, payload = self.node, self._payload
        if node is None or not payload:
            # It was offered nowhere, so that nobody can have it; or it is being taken back already.
            self.handle(Withdrawn(node is None))
            return
        self._payload = b""
        attempt = self._request.attempt
        # Behind the push, which may leave at the end of this turn only.
        self.server.clusters.soon(lambda: self._withdraw(node, payload, attempt))

    def _withdraw(self, node: Node, payload: bytes, attempt: int) -> None:
        answer = node.withdraw(self._channel, payload)
        if not answer.called:
            # A node that does not answer must not make the client wait for longer than it was told to.
            late = self.server.clock.callLater(_WITHDRAWAL_S, self.handle, Withdrawn(False))
            answer.addBoth(_cancel, late)
        answer.addCallbacks(self._withdrawn, self._withdrawal_failed, (attempt,))

    def _withdrawn(self, was_there: bool, attempt: int) -> None:
        if was_there:
            self._was_there(attempt)
        if was_there or not self.is_unclaimed:
            self.handle(Withdrawn(was_there))
        else:
            # Where requests wait for long, whoever has it has most likely taken it just now, and is about to say so.
            server = self.server
            server.clock.callLater(_CLAIM_S, _give_up_claim, server.registry, self.stream.identity, attempt)

    def give_up_claim(self, attempt: int) -> None:
        """Nobody has spoken of `attempt`, which was not there any more."""
        if attempt == self._request.attempt:
            self.handle(Withdrawn(False))

    def _withdrawal_failed(self, failure: Failure) -> None:
        failure.trap(NodeError)
        self.handle(Withdrawn(False))


def _give_up_claim(registry: Registry[Offered], identity: str, attempt: int) -> None:
    """No method of the exchange, so that the timer does not keep it when it has ended."""
    offered = registry.get(identity)
    if offered is not None:
        offered.give_up_claim(attempt)


def _not_taken_back(failure: Failure) -> None:
    failure.trap(NodeError)  # somebody may have it: it stays where it is


def _cancel(result: object, timer: Timer) -> object:
    if timer.active():
        timer.cancel()
    return result
