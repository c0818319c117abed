"""An exchange: one stream with its client and its present attempt. It carries out what the stream asks for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from ifserver import channels
from ifserver import messages as m
from ifserver.errors import TransitionError
from ifserver.front.exchanges.attempt import Attempt
from ifserver.front.exchanges.carry_out import EFFECTS
from ifserver.layers.node import Refusal
from ifserver.metrics import STREAMS_CLOSED
from ifserver.state_machines.effects import Dropped, Effects, OfferRefused, TimedOut, Waiting
from ifserver.state_machines.http import HttpStream

if TYPE_CHECKING:
    from ifserver.front.deadlines import Deadlines
    from ifserver.front.exchanges.carry_out import HttpClient, WebSocketClient
    from ifserver.front.exchanges.exchanges import Exchanges
    from ifserver.front.exchanges.replies import WorkerProcess
    from ifserver.state_machines.stream import Stream

__all__ = ["Exchange"]

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
        "_waits",
        "_worker",
        "attempt",
        "began_at",
        "claimed_at",
        "client",
        "deadline",
        "ended",
        "groups",
        "has_waited",
        "resumes",
        "shared",
        "stream",
        "websocket",
        "worker_process",
    )

    def __init__(
        self,
        shared: Exchanges,
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
        #: When it began, and when the present attempt was claimed. None: it was not; those that answer at once do not
        #: (see docs/explanation/architecture.rst, Claims), and then nobody here knows how long the request was queued.
        self.began_at = now = shared.clock.seconds()
        self.claimed_at: float | None = None
        #: The present attempt at the request.
        self.attempt = Attempt(self, shared, stream.identity, stream.attempt, request_channel, now)
        #: Inbox of the claimant.
        self._worker: str | None = None
        self.ended = False
        #: Whether it is an open WebSocket that looks for its next worker.
        self.resumes = False
        #: Whether `BrokerWait` or `Pauses` has it, or had.
        self.has_waited = False
        #: The claimant's process, while `Workers` has the stream in its account.
        self.worker_process: WorkerProcess | None = None
        #: The groups that the stream is a member of (`GroupMembers`): a tuple, since a set is four times as large.
        self.groups: tuple[str, ...] = ()
        #: How long it may wait for what, and where the present wait is among those; None: it waits for nothing.
        self._waits = waits
        self.deadline: Deadlines[Exchange] | None = None

    @property
    def pool(self) -> str:
        """The pool that has the request; empty: there are none, or none takes it."""
        channel = self.attempt.channel
        return "" if self.shared.tallies is None or not channel else channels.pool_of(channel)

    @property
    def is_unclaimed(self) -> bool:
        """Whether no worker has the present attempt, as far as is known."""
        return self._worker is None and not self.ended

    # What happens to it.

    def start(self) -> None:
        """Offer the request."""
        self.shared.registry[self.stream.identity] = self
        if not self.attempt.channel:
            refusal = OfferRefused(False, "no pool takes such requests", 404)
            self.shared.clusters.soon(partial(self.handle, refusal))
            return
        self.offer()
        deadline = self.deadline = self._waits[_WORKER]
        deadline.add(self)

    def opened(self, websocket: WebSocketClient) -> None:
        """The handshake is complete: from now on the client is `websocket`."""
        self.websocket = self.client = websocket  # what has spoken HTTP is garbage now
        if self.shared.paused is not None:
            self.shared.paused.opened(self)

    def handle(self, event: object) -> None:
        """Something has happened to the client, the offer or a deadline."""
        try:
            for effect in self.stream.handle(event):
                EFFECTS[type(effect)](self, effect)
        except TransitionError:
            _log.exception("%s: this is a defect of ifserver", self.stream.channel)
        except Exception:
            self.break_off()

    def receive(self, message: m.ToStream) -> str | None:
        """A worker, or its supervisor, has sent a message about the stream. Returns why it was dropped, or None."""
        attempt = self.attempt
        if attempt.unresolved and message.attempt == attempt.number:
            attempt.claimed(message.worker)
        claim = type(message) is m.Claim
        try:
            effects = self.stream.receive(message)
            if claim or self.stream.worker is not self._worker:
                self._received(effects, claim, claim)
            else:
                for effect in effects:
                    EFFECTS[type(effect)](self, effect)
        except Exception:
            self.break_off()
            return None
        return effects[0].reason if effects and type(effects[0]) is Dropped else None

    def receive_sync(self, entry: m.SyncEntry, worker: str, supervisor: str) -> None:
        """A worker has sent its account of the stream."""
        attempt = self.attempt
        if attempt.unresolved and entry.attempt == attempt.number:
            attempt.claimed(worker)
        try:
            self._received(self.stream.receive_sync(entry, worker, supervisor), False, True)
        except Exception:
            self.break_off()

    def _received(self, effects: Effects, by_claim: bool, may_name_supervisor: bool) -> None:
        """A message has come. With a mere claim, a new claimant has taken the request just now."""
        worker, before = self.stream.worker, self._worker
        renamed = worker is not before
        if renamed:
            self._worker = worker
            if before is None:
                shared, attempt = self.shared, self.attempt
                now = shared.clock.seconds()
                tally = shared.tally if shared.tallies is None else shared.tallies.get(attempt.channel, shared.tally)
                tally.claimed(now - attempt.since)
                if by_claim:
                    self.claimed_at = now
                if shared.offers.claimed(attempt) and attempt.node is not None:
                    shared.clusters.choice.claimed(attempt.node, attempt.channel)
                if self.resumes:
                    shared.resumptions.left(self)
            elif worker is not None and channels.process_of(worker) == channels.process_of(before):
                self.shared.clusters.redirect(before, worker)
        for effect in effects:
            EFFECTS[type(effect)](self, effect)
        if (renamed or may_name_supervisor) and not self.ended:
            self.shared.workers.claimed(self, renamed)

    def timed_out(self) -> None:
        """The deadline of the present wait is over."""
        self.deadline = None
        if self.shared.paused is not None and self.shared.paused.postpones(self):
            return
        self.handle(TimedOut())

    def break_off(self) -> None:
        """Something has gone wrong here, so that not all was done that the stream asked for: whatever that was, its
        client must not wait for it for ever."""
        _log.exception("%s: this is a defect of ifserver; cutting the client off", self.stream.channel)
        try:
            if not self.ended:
                self.end()
        finally:
            self.client.cut()

    def end(self) -> None:
        """The stream has ended: forget it everywhere."""
        self.ended = True
        shared, stream = self.shared, self.stream
        if self.deadline is not None:
            self.deadline.pop(self, None)
            self.deadline = None
        shared.registry.pop(stream.identity, None)
        if self.worker_process is not None:
            shared.workers.left(self)
        self.attempt.end()
        if self.has_waited:
            shared.broker_wait.left(self)
            shared.pauses.left(self)
        if self.resumes:
            shared.resumptions.left(self)
        if self.groups:
            shared.members.leave_all(self)
        shared.counters.cells[STREAMS_CLOSED["http" if type(stream) is HttpStream else "websocket"]] += 1

    # Offering.

    def offer(self) -> None:
        """Offer the present attempt, now or when that can be."""
        shared, home = self.shared, self.shared.clusters.home
        if shared.paused is not None and shared.paused.hold(self):
            self.has_waited = True
        elif (home.node.connected and not home.silent) or home.ensure():  # no call where all is well
            self.attempt.offer()
        else:
            # No answer could come.
            shared.clusters.soon(partial(self.refused, Refusal.UNREACHABLE))

    def begin_attempt(self, channel: str, why: str) -> None:
        """The stream has begun its next attempt; `why` is for the trace, if there is one."""
        shared, stream = self.shared, self.stream
        self.attempt.end()
        self.attempt = Attempt(self, shared, stream.identity, stream.attempt, channel, shared.clock.seconds())
        if shared.tracing is not None:
            headers = shared.tracing.again(stream.identity, stream.request, channel, why)
            stream.request = replace(stream.request, headers=headers)

    def offer_late(self) -> None:
        """Offer the present attempt, which has waited here: it is its turn, or the pause is over."""
        self.attempt.since = self.shared.clock.seconds()
        self.postpone(self.shared.settings.resume_timeout_s if self.resumes else None)
        self.offer()

    def postpone(self, wait_s: float | None = None) -> None:
        """The deadline behind which no worker begins the present attempt counts from now (`Exchanges.deadline`)."""
        self.stream.request = replace(self.stream.request, deadline=self.shared.deadline(wait_s))

    def forget_offer(self) -> None:
        """Nothing will be offered again: forget what is large of it."""
        self.stream.forget_offer()
        self.attempt.payload = b""

    def refused(self, why: Refusal) -> None:
        """No node has the present attempt, or it is in doubt whether one has."""
        may_wait = why is Refusal.UNREACHABLE and self.is_unclaimed and not self.resumes
        if not may_wait or not self.shared.broker_wait.enter(self):
            self.give_up(why)

    def give_up(self, why: Refusal = Refusal.UNREACHABLE) -> None:
        """Report that to the stream."""
        if self.is_unclaimed:
            text, home = _WHY[why], self.shared.clusters.home.node
            if why is Refusal.UNREACHABLE and not home.connected:
                text = f"node {home.name} is not connected"
            self.handle(OfferRefused(why is Refusal.IN_DOUBT, text))

    def wait(self, waiting: Waiting) -> None:
        """Forget the present deadline, and begin another one."""
        before, deadline = self.deadline, self._waits.get(waiting)
        if before is not None:
            before.pop(self, None)
        self.deadline = deadline
        if deadline is not None:
            deadline.add(self)
