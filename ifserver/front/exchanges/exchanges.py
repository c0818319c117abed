"""The exchanges of one server, and what they share towards the channel layer."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from twisted.internet.defer import Deferred

from ifserver.config.networks import parse_networks
from ifserver.errors import ConfigurationError
from ifserver.front.deadlines import Deadlines
from ifserver.front.exchanges.attempt import UnresolvedAttempts
from ifserver.front.exchanges.exchange import Exchange
from ifserver.front.exchanges.groups import GroupMembers
from ifserver.front.exchanges.offers import BrokerWait, UnclaimedOffers
from ifserver.front.exchanges.pauses import OperatorOrders, Pauses
from ifserver.front.exchanges.replies import WorkerReplies, Workers
from ifserver.front.exchanges.resumption import ResumptionQueue
from ifserver.front.exchanges.routing import Positions
from ifserver.front.request_metrics import RequestMetrics
from ifserver.layers.operator_order_gossip import OperatorOrderGossip
from ifserver.layers.presence import SERVER_LIFE_S, Heartbeat
from ifserver.logs.repeats import MergedLogLines
from ifserver.state_machines.effects import TimedOut, Waiting
from ifserver.status import with_facts

if TYPE_CHECKING:
    from ifserver import messages as m
    from ifserver.clock import Clock, WallClock
    from ifserver.config.settings import FrontSettings
    from ifserver.front.exchanges.routing import Router
    from ifserver.front.files import Files
    from ifserver.layers.clusters import Clusters

__all__ = ["Exchanges", "Tracing"]

#: How long an application may still send to a client that has broken the WebSocket protocol, in seconds; and how long a
#: server that ends waits for workers that accept what clients have sent that have left.
_LAST_WORDS_S: Final = 1.0

_log = logging.getLogger(__name__)


class Tracing(Protocol):
    """Makes the spans of streams (`ifserver.observe.tracing`)."""

    def begin(self, identity: str, request: m.HttpRequest | m.WebSocketConnect, channel: str) -> None:
        """The request of a new stream is about to be offered on `channel`; empty: it will not be."""

    def again(self, identity: str, request: m.ToWorkers, channel: str, why: str) -> m.Headers:
        """The next attempt at a stream is about to be offered. Returns the headers for that."""

    def failed(self, identity: str, why: str) -> None:
        """The client of a stream cannot have what was begun."""


class Exchanges:
    """All exchanges of one server. `ifserver.front.exchanges.factory` makes them.

    Args:
        clock: for durations and delays.
        wall: the time of day, for X-Request-Start.
        tracing: makes spans; None: it is off.
        facts: what the beats of this server show people (`ifserver.status.Facts`).
    """

    def __init__(
        self,
        settings: FrontSettings,
        clusters: Clusters,
        clock: Clock,
        wall: WallClock,
        files: Files,
        tracing: Tracing | None,
        facts: Callable[[], bytes],
    ) -> None:
        self.settings = settings
        self.clusters = clusters
        self.counters = clusters.counters
        self.clock = clock
        self.wall = wall
        self.files = files
        self.tracing = tracing
        self.tally = RequestMetrics()
        #: For which pool a request is, and the tally of each request channel; None: there are no pools.
        self.router: Router | None = None
        self.tallies: Mapping[str, RequestMetrics] | None = None
        #: How pools share requests, as operators have ordered; and which client gets which.
        self.weights: dict[str, Mapping[str, float]] = {}
        self.positions = Positions(settings.canary_by)
        #: Those that are open, by the identities of their streams; and the numbers that streams are given.
        self.registry: dict[str, Exchange] = {}
        self.numbers = itertools.count(1)
        #: The log of what happens to many streams at once.
        self.merged_log = MergedLogLines(clock)
        self.workers = Workers(clusters, clock)
        self.offers = UnclaimedOffers(clock, clusters.choice)
        clusters.choice.unread_changed = self.offers.move
        self.resumptions = ResumptionQueue(clusters, clock)
        self.broker_wait = BrokerWait(clusters, clock, settings.broker_wait_s)
        self.pauses = Pauses(self, clock, settings.pause_timeout_s)
        #: The same while something is paused.
        self.paused: Pauses | None = None
        #: What operators order of all servers.
        self.ordered = OperatorOrders(self)
        self.control = OperatorOrderGossip(clusters.groups, clusters.process, clock, wall, self.ordered)
        self.unresolved = UnresolvedAttempts(clusters.accounting, self.counters, clock, settings.queue_timeout_s)
        #: The groups of the streams.
        self.members = GroupMembers(clusters.groups, self.counters, self.tally, settings)
        clusters.membership.here = self.members.of
        self._replies = WorkerReplies(clusters, self.registry, self.workers, self.unresolved)
        workers = self.workers
        self.heartbeat = Heartbeat(
            clusters,
            clusters.home.nodes,
            clock,
            SERVER_LIFE_S,
            lambda: with_facts(b"", facts()),
            workers.watched,
            workers.lost,
        )
        #: Proxies that are believed; None: there are none.
        self.trusted = parse_networks(settings.trusted_proxies, "front.trusted_proxies") or None
        self.retry_methods = frozenset(settings.retry_methods)
        self.http_waits, self.websocket_waits = _waits(settings, clock)

    def change(self, settings: FrontSettings) -> set[str]:
        """Take over what can be changed while we run: it holds for new streams, and a wait has its new length for those
        too that wait already.

        Returns the paths of settings that cannot be taken over as they are; what was before is kept.
        """
        kept = set()
        self.settings = settings
        self.members.change(settings)
        try:
            self.files.change(settings.file_roots)
        except ConfigurationError as error:
            _log.error("%s; the roots before are kept", error)
            kept.add("front.file_roots")
        self.trusted = parse_networks(settings.trusted_proxies, "front.trusted_proxies") or None
        self.retry_methods = frozenset(settings.retry_methods)
        self.positions = Positions(settings.canary_by)
        self.unresolved.change(settings.queue_timeout_s)
        self.pauses.change(settings.pause_timeout_s)
        self.http_waits[Waiting.WORKER].change(settings.queue_timeout_s)
        self.http_waits[Waiting.RESPONSE].change(settings.response_timeout_s)
        self.websocket_waits[Waiting.RESPONSE].change(settings.websocket_connect_timeout_s)
        self.websocket_waits[Waiting.RESUMPTION].change(settings.resume_timeout_s)
        return kept

    def route(self, router: Router | None) -> None:
        """Requests that begin now are for the pools of `router`."""
        former, self.router = self.router, router
        if router is not None:
            router.weigh(self.weights)
            before = dict(self.tallies or {})
            by_pool = {tally.pool: tally for tally in before.values()}
            # What was offered for a pool that is removed ends as it has begun.
            self.tallies = before | {
                channel: by_pool.setdefault(pool, RequestMetrics(pool)) for channel, pool in router.channels.items()
            }
            if former is not None and router.begins(former.weights):
                self.ordered.count_anew()

    # The beginning and the end.

    def start(self) -> Deferred[None]:
        """Begin to read replies; fires when this server knows what operators have ordered of all
        (`OperatorOrderGossip.start`)."""
        self.clusters.home.start(self._replies)
        self.heartbeat.start()
        self.clusters.choice.readership.start()
        return self.control.start()

    async def stop(self, quick: bool) -> None:
        """No client is left: read the inbox until all that has come is answered.

        Args:
            quick: end at once, without waiting for workers that accept what clients have sent that have left.
        """
        # What clients have sent that have left is for their workers, whatever is paused.
        self.control.stop()
        self.pauses.stop()
        await self._hand_over_last_words(0.0 if quick else _LAST_WORDS_S)
        await self.clusters.home.stop()
        self.heartbeat.stop()
        self.workers.stop()
        self.clusters.choice.readership.stop()
        self.offers.stop()
        self.unresolved.stop()
        self.broker_wait.stop()
        self.resumptions.stop()
        for deadlines in (*self.http_waits.values(), *self.websocket_waits.values()):
            deadlines.stop()
        self.files.stop()

    async def _hand_over_last_words(self, seconds: float) -> None:
        """Streams without a client are left: what those had sent is held for workers that have not accepted yet."""
        end = self.clock.seconds() + seconds
        while self.registry and self.clock.seconds() < end:
            paused: Deferred[None] = Deferred()
            self.clock.callLater(_LAST_WORDS_S / 20, paused.callback, None)
            await paused
        for exchange in list(self.registry.values()):
            exchange.handle(TimedOut())

    def give_up_unclaimed(self) -> None:
        """There will be no worker: answer what waits for one, as at the end of ``queue_timeout``."""
        for exchange in list(self.registry.values()):
            if exchange.is_unclaimed:
                exchange.handle(TimedOut())

    def deadline(self, wait_s: float | None = None) -> float:
        """The time behind which no worker begins what is offered now, by the clock of the node of our inbox.

        Args:
            wait_s: how long it is waited for; None: as long as for a request.
        """
        return self.clusters.home.node.clock() + (self.settings.queue_timeout_s if wait_s is None else wait_s)


def _waits(
    settings: FrontSettings, clock: Clock
) -> tuple[Mapping[Waiting, Deadlines[Exchange]], Mapping[Waiting, Deadlines[Exchange]]]:
    """How long an HTTP stream, and one of a WebSocket, may wait for what."""

    def wait(seconds: float) -> Deadlines[Exchange]:
        return Deadlines(clock, seconds, Exchange.timed_out)

    queue = wait(settings.queue_timeout_s)
    return {Waiting.WORKER: queue, Waiting.RESPONSE: wait(settings.response_timeout_s)}, {
        Waiting.WORKER: queue,
        Waiting.RESPONSE: wait(settings.websocket_connect_timeout_s),
        Waiting.RESUMPTION: wait(settings.resume_timeout_s),
        Waiting.LAST_WORDS: wait(_LAST_WORDS_S),
    }
