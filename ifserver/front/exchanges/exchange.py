"""Exchanges: each carries out what its stream asks for, towards its client and the channel layer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec.structs import replace

from ifserver import channels
from ifserver import messages as m
from ifserver.errors import ChannelNameError, TransitionError
from ifserver.front.deadlines import Deadlines
from ifserver.front.exchanges.attempt import Attempt
from ifserver.front.exchanges.client import EFFECTS, HttpClient, WebSocketClient
from ifserver.front.exchanges.shared_services import SharedServices
from ifserver.front.exchanges.workers import WorkerProcess
from ifserver.layers.clusters import Refusal
from ifserver.metrics import STREAMS_CLOSED
from ifserver.state_machines.effects import (
    CONTINUE,
    ENDED,
    FAIL,
    RESUME_READING,
    STOP_READING,
    WAIT_RESUMPTION,
    WAIT_WORKER,
    Dropped,
    Effects,
    Join,
    Leave,
    Offer,
    OfferRefused,
    Resume,
    Send,
    Signal,
    TimedOut,
    Wait,
    Waiting,
)
from ifserver.state_machines.http import HttpStream
from ifserver.state_machines.stream import Stream
from ifserver.state_machines.websocket import State as WebSocketState

__all__ = ["Exchange", "Unroutable"]

# Looked up for every request, and a member of an Enum costs several times as much as a global.
_WORKER: Final = Waiting.WORKER

_WHY: Final = {
    Refusal.FULL: "the request channel is full",
    Refusal.UNREACHABLE: "no node is reachable",
    Refusal.IN_DOUBT: "the connection to the node broke",
}

_log = logging.getLogger(__name__)


class Exchange:
    """One stream of one client, from its offer to its end.

    A WebSocket begins as a request like any other: its client is there from `opened` on.
    """

    __slots__ = (
        "_deadline",
        "_over",
        "_resumes",
        "_waits",
        "_worker",
        "attempt",
        "began_at",
        "claimed_at",
        "client",
        "groups",
        "has_waited",
        "shared",
        "stream",
        "websocket",
        "worker_process",
    )

    def __init__(
        self,
        shared: SharedServices,
        stream: Stream,
        client: HttpClient,
        request_channel: str,
        waits: Mapping[Waiting, Deadlines[Exchange]],
    ) -> None:
        self.shared = shared
        self.stream = stream
        #: What the effects of this stream are for, before and after a handshake.
        self.client: Any = client
        self.websocket: WebSocketClient | None = None
        #: When it began, and when the present attempt was claimed. None: nobody has claimed it; those that answer at
        #: once do not (see docs/explanation/architecture.rst, Claims), and then nobody here can tell how long the
        #: request was queued.
        self.began_at = now = shared.clock.seconds()
        self.claimed_at: float | None = None
        #: The present attempt at the request.
        self.attempt = Attempt(self, shared, stream.identity, stream.attempt, request_channel, now)
        #: Inbox of the claimant; whether the exchange has ended.
        self._worker: str | None = None
        self._over = False
        #: Whether it is an open WebSocket that looks for its next worker.
        self._resumes = False
        #: Whether `BrokerWait` or `Pauses` has it, or had.
        self.has_waited = False
        #: The claimant's process, while `Workers` has the stream in its account.
        self.worker_process: WorkerProcess | None = None
        #: The groups that the stream is a member of (`GroupMembers`): a tuple, since a set is four times as large.
        self.groups: tuple[str, ...] = ()
        #: How long it may wait for what, and where the present wait is among those; None: it waits for nothing.
        self._waits = waits
        self._deadline: Deadlines[Exchange] | None = None

    @property
    def pool(self) -> str:
        """The pool that has the request; empty: there are none, or none takes it."""
        channel = self.attempt.channel
        return "" if self.shared.tallies is None or not channel else channels.pool_of(channel)

    @property
    def is_unclaimed(self) -> bool:
        """Whether nobody has spoken about the present attempt."""
        return self._worker is None and not self._over

    def start(self) -> None:
        """Offer the request."""
        self.shared.registry[self.stream.identity] = self
        self._offer()
        deadline = self._deadline = self._waits[_WORKER]
        deadline.add(self)

    def opened(self, websocket: WebSocketClient) -> None:
        """The handshake is complete: from now on the client is `websocket`."""
        self.websocket = self.client = websocket  # what has spoken HTTP is garbage now
        if self.shared.paused is not None:
            self.shared.paused.opened(self)

    def hear(self, message: m.ToStream) -> str | None:
        """A worker, or its supervisor, has something to say about the stream. Returns why it was dropped, or None."""
        attempt = self.attempt
        if attempt.unresolved and message.attempt == attempt.number:
            attempt.spoken_of(message.worker)
        claim = type(message) is m.Claim
        try:
            effects = self.stream.receive(message)
            if claim or self.stream.worker is not self._worker:
                self._heard(effects, claim, claim)
            else:
                for effect in effects:
                    _CARRY_OUT[type(effect)](self, effect)
        except Exception:
            self.break_off()
            return None
        return effects[0].reason if effects and type(effects[0]) is Dropped else None

    def hear_sync(self, entry: m.SyncEntry, worker: str, supervisor: str) -> None:
        """A worker tells how far it is."""
        attempt = self.attempt
        if attempt.unresolved and entry.attempt == attempt.number:
            attempt.spoken_of(worker)
        try:
            self._heard(self.stream.receive_sync(entry, worker, supervisor), False, True)
        except Exception:
            self.break_off()

    def _heard(self, effects: Effects, by_claim: bool, tells_of_claimant: bool) -> None:
        """Somebody has spoken. By a mere claim, who speaks for the first time has taken the request just now."""
        worker, before = self.stream.worker, self._worker
        renamed = worker is not before
        if renamed:
            self._worker = worker
            tells_of_claimant = True
            if before is None:
                shared, attempt = self.shared, self.attempt
                now = shared.clock.seconds()
                tally = shared.tally if shared.tallies is None else shared.tallies.get(attempt.channel, shared.tally)
                tally.claimed(now - attempt.since)
                if by_claim:
                    self.claimed_at = now
                if shared.offers.claimed(attempt) and attempt.node is not None:
                    shared.clusters.claimed(attempt.node, attempt.channel)
                if self._resumes:
                    shared.resumptions.left(self)
            elif worker is not None and channels.process_of(worker) == channels.process_of(before):
                self.shared.clusters.redirect(before, worker)
        for effect in effects:
            _CARRY_OUT[type(effect)](self, effect)
        if tells_of_claimant and not self._over:
            self.shared.workers.claimed(self, renamed)

    def handle(self, event: object) -> None:
        """Something has happened to the client, the offer or a deadline."""
        try:
            for effect in self.stream.handle(event):
                _CARRY_OUT[type(effect)](self, effect)
        except TransitionError:
            _log.exception("%s: this is a defect of ifserver", self.stream.channel)
        except Exception:
            self.break_off()

    def break_off(self) -> None:
        """Something has gone wrong here, so that not all was done that the stream asked for: whatever that was, its
        client must not wait for it for ever."""
        _log.exception("%s: this is a defect of ifserver; cutting the client off", self.stream.channel)
        try:
            if not self._over:
                self._end()
        finally:
            self.client.cut()

    def _end(self) -> None:
        self._over = True
        shared, stream = self.shared, self.stream
        if self._deadline is not None:
            self._deadline.pop(self, None)
            self._deadline = None
        shared.registry.pop(stream.identity, None)
        if self.worker_process is not None:
            shared.workers.left(self)
        self.attempt.end()
        if self.has_waited:
            shared.broker_wait.left(self)
            shared.pauses.left(self)
        if self._resumes:
            shared.resumptions.left(self)
        if self.groups:
            shared.members.leave_all(self)
        shared.counters.cells[STREAMS_CLOSED["http" if type(stream) is HttpStream else "websocket"]] += 1

    # What is for the channel layer, and for the clock.

    def _send(self, effect: Send) -> None:
        try:
            self.shared.clusters.send(effect.inbox, m.encode(effect.message))
        except ChannelNameError as error:
            _log.error("%s: %s", self.stream.channel, error)

    # Offering.

    def _offer(self) -> None:
        """Offer the present attempt, now or when that can be."""
        shared, home = self.shared, self.shared.clusters.home
        if shared.paused is not None and shared.paused.hold(self):
            self.has_waited = True
        elif (home.node.connected and not home.silent) or home.ensure():  # no call where all is well
            self.attempt.offer()
        else:
            # Nobody could answer.
            shared.clusters.soon(self._unreachable)

    def _offer_again(self, effect: Offer) -> None:
        """Offer the next attempt at a request that has not been answered: its application begins anew."""
        shared = self.shared
        if self.groups:
            shared.members.leave_all(self)
        shared.counters.add("retries")
        shared.merged_log.add("offered to another worker", effect.why, self.stream.channel)
        self._begin_attempt(self.attempt.channel, effect.why)
        # The first one's deadline may be over: then whoever takes it would drop it.
        self._postpone(shared.deadline())
        self._offer()

    def _look_for_worker(self, effect: Resume) -> None:
        """An open WebSocket has lost its worker: wait to be offered to the next one."""
        shared = self.shared
        if not effect.tries:
            shared.counters.add("resumptions")
        shared.merged_log.add("the open WebSocket gets another worker", effect.why, self.stream.channel)
        channel = channels.of_pool(channels.pool_of(self.attempt.channel), channels.WEBSOCKET_RESUME)
        self._begin_attempt(channel, effect.why)
        self._resumes = True
        shared.resumptions.add(self, effect.tries, channel)

    def offer_resumption(self) -> None:
        """It is its turn."""
        shared = self.shared
        self.attempt.since = shared.clock.seconds()
        self._postpone(shared.deadline(shared.settings.resume_timeout_s))
        self._offer()

    def _begin_attempt(self, channel: str, why: str) -> None:
        """The stream has begun its next attempt; `why` is for the trace, if there is one."""
        shared, stream = self.shared, self.stream
        self.attempt.end()
        self.attempt = Attempt(self, shared, stream.identity, stream.attempt, channel, shared.clock.seconds())
        if shared.tracing is not None:
            headers = shared.tracing.again(stream.identity, stream.request, channel, why)
            stream.request = replace(stream.request, headers=headers)

    def _postpone(self, deadline: float) -> None:
        """Whoever takes the present attempt drops it behind its deadline."""
        self.stream.request = replace(self.stream.request, deadline=deadline)

    def _forget_offer(self) -> None:
        """Nothing will be offered again of what is answered for long."""
        self.stream.forget_offer()
        self.attempt.payload = b""

    def taken_nowhere(self, why: Refusal) -> None:
        """No node has the present attempt, or it is in doubt whether one has."""
        may_wait = why is Refusal.UNREACHABLE and self.is_unclaimed and not self._resumes
        if may_wait and self.shared.broker_wait.enter(self):
            return
        self._give_up(why)

    def _unreachable(self) -> None:
        self.taken_nowhere(Refusal.UNREACHABLE)

    def offer_anew(self) -> None:
        """This server can be reached again."""
        self._offer()

    def give_up_waiting(self) -> None:
        """It could not in time."""
        self._give_up(Refusal.UNREACHABLE)

    def _give_up(self, why: Refusal) -> None:
        if self.is_unclaimed:
            text, home = _WHY[why], self.shared.clusters.home.node
            if why is Refusal.UNREACHABLE and not home.connected:
                text = f"node {home.name} is not connected"
            self.handle(OfferRefused(why is Refusal.IN_DOUBT, text))

    # A pause (`ifserver.front.exchanges.pauses`).

    @property
    def pool_name(self) -> str:
        """The pool whose workers may have it."""
        return channels.pool_of(self.attempt.channel)

    @property
    def is_under_way(self) -> bool:
        """Whether the application has its request, or may have. That of an open WebSocket that does nothing has not."""
        is_offered = self.attempt.list is not None
        return self.websocket is None or is_offered or self.stream.state is WebSocketState.TAKEN

    @property
    def looks_for_worker(self) -> bool:
        """Whether it is an open WebSocket that is offered to nobody yet."""
        return self._resumes and self.attempt.list is None and self.stream.state is WebSocketState.WAITING

    def go_on(self, offer: bool) -> None:
        """The pause is over: its present wait begins anew, and if `offer`, it is offered."""
        if self._over:
            return
        self._wait(WAIT_RESUMPTION if self._resumes else WAIT_WORKER)
        if not offer:
            return
        self.has_waited = False
        if self._resumes:
            self.offer_resumption()
            return
        self.attempt.since = self.shared.clock.seconds()
        self._postpone(self.shared.deadline())
        self._offer()

    def paused_too_long(self) -> None:
        """It was held for ``pause_timeout_s``."""
        if self._resumes:
            self.handle(TimedOut())
        else:
            why = f"its pool is paused for longer than {self.shared.settings.pause_timeout_s:g} s (pause_timeout)"
            self.handle(OfferRefused(False, why))

    def _join(self, effect: Join) -> None:
        self.shared.members.join(self, effect)

    def _leave(self, effect: Leave) -> None:
        self.shared.members.leave(self, effect.group)

    def _dropped(self, effect: Dropped) -> None:
        """Whoever has called `hear` is told."""

    def _wait(self, effect: Wait) -> None:
        """Forget the present deadline, and begin another one."""
        before, deadline = self._deadline, self._waits.get(effect.waiting)
        if before is not None:
            before.pop(self, None)
        self._deadline = deadline
        if deadline is not None:
            deadline.add(self)

    def timed_out(self) -> None:
        """The deadline of the present wait is over."""
        self._deadline = None
        if self.shared.paused is not None and self.shared.paused.postpones(self):
            return
        self.handle(TimedOut())

    def _signal(self, effect: Signal) -> None:
        if effect is ENDED:
            if not self._over:
                self._end()
        elif effect is CONTINUE:
            self.client.send_continue()
        elif effect is FAIL:
            self.client.fail()
        elif effect is STOP_READING:
            self.client.stop_reading()
        elif effect is RESUME_READING:
            self.client.resume_reading()
        else:
            self.attempt.withdraw()


class Unroutable(Exchange):
    """The exchange of a request that no pool takes: it is answered 404."""

    __slots__ = ()

    def start(self) -> None:
        self.shared.registry[self.stream.identity] = self
        self.shared.clusters.soon(self._refuse)

    def _refuse(self) -> None:
        if not self._over:
            self.handle(OfferRefused(False, "no pool takes such requests", 404))


# What is for the client.


def _begin(exchange: Exchange, effect: m.ResponseStart) -> None:
    deadline, exchange._deadline = exchange._deadline, None
    if deadline is not None:
        deadline.pop(exchange, None)
    exchange.client.begin(effect)
    if effect.more_body:
        exchange._forget_offer()


def _accept(exchange: Exchange, effect: m.WebSocketAccept) -> None:
    exchange.client.accept(effect)
    if not exchange.stream.resumable:
        exchange._forget_offer()


_CARRY_OUT: Final[Mapping[type, Callable[[Exchange, Any], None]]] = {
    **EFFECTS,
    m.ResponseStart: _begin,
    m.WebSocketAccept: _accept,
    Send: Exchange._send,
    Dropped: Exchange._dropped,
    Wait: Exchange._wait,
    Offer: Exchange._offer_again,
    Join: Exchange._join,
    Leave: Exchange._leave,
    Resume: Exchange._look_for_worker,
    Signal: Exchange._signal,
}
