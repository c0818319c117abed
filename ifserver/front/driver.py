"""Carries out what streams ask for: towards the client's connection on one side, the channel layer on the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec.structs import replace
from twisted.python.failure import Failure

from ifserver import messages as m
from ifserver.clock import Timer
from ifserver.errors import ChannelNameError, NodeError, TransitionError
from ifserver.layers.base import Node
from ifserver.layers.clusters import Refusal
from ifserver.streams.base import Stream
from ifserver.streams.effects import (
    Abort,
    Answer,
    CloseClient,
    Dropped,
    Effects,
    Offer,
    OfferRefused,
    Signal,
    Tell,
    TimedOut,
    Wait,
    Waiting,
    Withdrawn,
)

if TYPE_CHECKING:
    from ifserver.front.offers import StandingOffer
    from ifserver.front.peers import Peer
    from ifserver.front.server import InterfaceServer

__all__ = ["Exchange", "HttpClient", "WebSocketClient"]

_log = logging.getLogger(__name__)

#: How long the answer to a withdrawal is waited for, in seconds.
_WITHDRAWAL_S: Final = 1.0

_WHY: Final = {
    Refusal.FULL: "the request channel is full",
    Refusal.UNREACHABLE: "no node is reachable",
    Refusal.IN_DOUBT: "the connection to the node broke",
}


class Client(Protocol):
    """The client's side of any stream."""

    def abort(self) -> None:
        """Cut the connection."""

    def stop_reading(self) -> None:
        """Leave what the client sends in the kernel's buffers."""

    def resume_reading(self) -> None:
        """Read it again."""


class HttpClient(Client, Protocol):
    """A client that waits for a response."""

    def begin(self, message: m.ResponseStart) -> None:
        """Send the head of a response, and the first bytes of its body."""

    def body(self, message: m.ResponseBody) -> None:
        """Send a further piece of it."""

    def answer(self, status: int) -> None:
        """Answer in the server's own name."""

    def send_continue(self) -> None:
        """Send ``100 Continue``."""

    def accept(self, message: m.WebSocketAccept) -> None:
        """Complete a WebSocket's handshake, and tell `Exchange.opened`."""


class WebSocketClient(Client, Protocol):
    """A client whose WebSocket is open."""

    def send_message(self, message: m.WebSocketSend) -> None:
        """Send a message."""

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""


class Exchange:
    """One stream of one client, from its offer to its end.

    A WebSocket begins as a request like any other: its client is there from `opened` on.
    """

    __slots__ = (
        "_node",
        "_over",
        "_payload",
        "_request_channel",
        "_spilled",
        "_waiting",
        "_worker",
        "client",
        "has_waited",
        "offer",
        "peer",
        "server",
        "stream",
        "websocket",
    )

    def __init__(self, server: InterfaceServer, stream: Stream, client: HttpClient, request_channel: str) -> None:
        self.stream = stream
        self.client = client
        self.websocket: WebSocketClient | None = None
        #: The claimant's process, while `Peers` has the stream in its account.
        self.peer: Peer | None = None
        #: The present attempt, while `Offers` waits for somebody to claim it.
        self.offer: StandingOffer | None = None
        #: Whether `WaitingRoom` has it, or had.
        self.has_waited = False
        self._worker: str | None = None
        self._over = False
        self.server = server
        self._request_channel = request_channel
        self._waiting = Waiting.NOTHING
        self._node: Node | None = None
        self._payload = b""
        self._spilled = False

    def start(self) -> None:
        """Offer the request."""
        self.server.registry.add(self)
        self._offer(self.stream.request)
        self.wait(Waiting.WORKER)

    def opened(self, websocket: WebSocketClient) -> None:
        """The handshake is complete: from now on the client is `websocket`."""
        self.websocket = websocket

    def hear(self, message: m.ToServer) -> None:
        """A worker, or its supervisor, has something to say about the stream."""
        self._heard(self.stream.hear(message), type(message) is m.Claim)

    def hear_sync(self, entry: m.SyncEntry, worker: str, supervisor: str) -> None:
        """A worker tells how far it is."""
        self._heard(self.stream.hear_sync(entry, worker, supervisor), True)

    def _heard(self, effects: Effects, tells_of_claimant: bool) -> None:
        worker = self.stream.worker
        if worker is not self._worker:
            self._worker = worker
            tells_of_claimant = True
            if worker is not None and self._node is not None and self.server.offers.claimed(self):
                self.server.clusters.claimed(self._node)
        self._carry_out(effects)
        if tells_of_claimant and not self._over:
            self.server.peers.claimed(self)

    def handle(self, event: object) -> None:
        """Something has happened to the client, the offer or a deadline."""
        try:
            effects = self.stream.handle(event)
        except TransitionError:
            _log.exception("%s: this is a defect of ifserver", self.stream.channel)
            return
        self._carry_out(effects)

    def _carry_out(self, effects: Effects) -> None:
        for effect in effects:
            _CARRY_OUT[type(effect)](self, effect)

    # What is for the channel layer, and for the clock.

    def _tell(self, effect: Tell) -> None:
        try:
            self.server.clusters.send(effect.inbox, m.encode(effect.message))
        except ChannelNameError as error:
            _log.error("%s: %s", self.stream.channel, error)

    def _dropped(self, effect: Dropped) -> None:
        self.server.counters.add("messages_dropped", label=effect.reason)

    def _wait_effect(self, effect: Wait) -> None:
        self.wait(effect.waiting)

    def wait(self, waiting: Waiting) -> None:
        """Forget the present deadline, and begin that of `waiting`."""
        if waiting is self._waiting is Waiting.NOTHING:
            return
        deadlines = self.server.deadlines(self.stream)
        if self._waiting is not Waiting.NOTHING and self._waiting is not waiting:
            deadlines[self._waiting].discard(self)
        self._waiting = waiting
        if waiting is not Waiting.NOTHING:
            deadlines[waiting].add(self)

    def timed_out(self) -> None:
        """The deadline of the present wait is over."""
        self._waiting = Waiting.NOTHING
        self.handle(TimedOut())

    def _offer_effect(self, effect: Offer) -> None:
        self.server.counters.add("retries")
        _log.warning("%s: offering the request once more: nobody who had it answers", self.stream.channel)
        # The first one's deadline may be over: then whoever takes it would drop it.
        deadline = self.server.clusters.home.clock() + self.server.settings.queue_timeout_s
        self._offer(replace(effect.request, deadline=deadline))

    def _offer(self, request: m.ToWorkers) -> None:
        self._payload = m.encode(request)
        self._spilled = False
        self.server.clusters.offer(self._request_channel, self._payload, self)

    def placed(self, node: Node) -> None:
        """The request is offered on `node`."""
        self._node = node
        offers = self.server.offers
        offers.left(self)
        self.offer = offers.made(self, node, self._request_channel, self._payload)

    def refused(self, why: Refusal) -> None:
        """No node has taken it."""
        if why is Refusal.UNREACHABLE and self.server.waiting_room.enter(self):
            return
        self._give_up(why)

    def offer_anew(self) -> None:
        """A node can be reached again."""
        self.server.clusters.offer(self._request_channel, self._payload, self)

    def give_up_waiting(self) -> None:
        """No node could be reached in time."""
        self._give_up(Refusal.UNREACHABLE)

    def _give_up(self, why: Refusal) -> None:
        self.handle(OfferRefused(why is Refusal.IN_DOUBT, _WHY[why]))

    def spill(self) -> None:
        """The request has stood on its node for too long, and another one is well: offer it there, once."""
        node = self._node
        if self._spilled or node is None:
            return
        self._spilled = True
        withdrawing = node.withdraw(self._request_channel, self._payload)
        withdrawing.addCallbacks(self._spilled_from, self._not_spilled, (node, self.offer))

    def _spilled_from(self, was_there: bool, node: Node, offer: StandingOffer | None) -> None:
        if was_there:
            self.server.counters.add("messages_dropped", label="withdrawn")
            if self._waiting is Waiting.WORKER and self.offer is offer:
                self.server.clusters.offer(self._request_channel, self._payload, self, (node.name,))
        elif offer is not None:
            self.server.offers.popped(offer)

    def _not_spilled(self, failure: Failure) -> None:
        failure.trap(NodeError)  # somebody may have it: it stays where it is

    def _signal(self, effect: Signal) -> None:
        if effect is Signal.ENDED:
            self._over = True
            self.wait(Waiting.NOTHING)
            self.server.ended(self)
        elif effect is Signal.CONTINUE:
            self.client.send_continue()
        elif effect is Signal.STOP_READING:
            (self.websocket or self.client).stop_reading()
        elif effect is Signal.RESUME_READING:
            (self.websocket or self.client).resume_reading()
        else:
            self._withdraw()

    def _withdraw(self) -> None:
        assert self._node is not None
        answer = self._node.withdraw(self._request_channel, self._payload)
        if not answer.called:
            # A node that does not answer must not make the client wait for longer than it was told to.
            late = self.server.clock.callLater(_WITHDRAWAL_S, self.handle, Withdrawn(False))
            answer.addBoth(_cancel, late)
        answer.addCallbacks(self._withdrawn, self._withdrawal_failed)

    def _withdrawn(self, was_there: bool) -> None:
        if was_there:
            self.server.counters.add("messages_dropped", label="withdrawn")
        self.handle(Withdrawn(was_there))

    def _withdrawal_failed(self, failure: Failure) -> None:
        failure.trap(NodeError)
        self.handle(Withdrawn(False))


def _cancel(result: object, timer: Timer) -> object:
    if timer.active():
        timer.cancel()
    return result


# What is for the client.


def _begin(exchange: Exchange, effect: m.ResponseStart) -> None:
    exchange.wait(Waiting.NOTHING)
    exchange.client.begin(effect)


def _body(exchange: Exchange, effect: m.ResponseBody) -> None:
    exchange.client.body(effect)


def _answer(exchange: Exchange, effect: Answer) -> None:
    level = logging.ERROR if effect.status == 502 else logging.WARNING
    _log.log(level, "%s: answering %d: %s", exchange.stream.channel, effect.status, effect.why)
    exchange.server.counters.add("requests_refused", label=str(effect.status))
    exchange.client.answer(effect.status)


def _abort(exchange: Exchange, effect: Abort) -> None:
    _log.error("%s: aborting the connection: %s", exchange.stream.channel, effect.why)
    exchange.client.abort()


def _accept(exchange: Exchange, effect: m.WebSocketAccept) -> None:
    exchange.client.accept(effect)


def _send_message(exchange: Exchange, effect: m.WebSocketSend) -> None:
    if exchange.websocket is not None:
        exchange.websocket.send_message(effect)


def _close(exchange: Exchange, effect: m.WebSocketClose | CloseClient) -> None:
    if exchange.websocket is not None:
        exchange.websocket.close(effect.code, effect.reason)


def _close_client(exchange: Exchange, effect: CloseClient) -> None:
    _log.warning("%s: closing the WebSocket with %d: %s", exchange.stream.channel, effect.code, effect.why)
    _close(exchange, effect)


_CARRY_OUT: Final[Mapping[type, Callable[[Exchange, Any], None]]] = {
    m.ResponseStart: _begin,
    m.ResponseBody: _body,
    m.WebSocketAccept: _accept,
    m.WebSocketSend: _send_message,
    m.WebSocketClose: _close,
    CloseClient: _close_client,
    Answer: _answer,
    Abort: _abort,
    Tell: Exchange._tell,
    Dropped: Exchange._dropped,
    Wait: Exchange._wait_effect,
    Offer: Exchange._offer_effect,
    Signal: Exchange._signal,
}
