"""What all exchanges of one server share: `ifserver.front.exchanges.factory.Exchanges`, as each of them sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ifserver import messages as m
from ifserver.clock import Clock
from ifserver.config.settings import FrontSettings
from ifserver.front.exchanges.attempt_accounting import UnresolvedAttempts
from ifserver.front.exchanges.broker_wait import BrokerWait
from ifserver.front.exchanges.pauses import Pauses
from ifserver.front.exchanges.resumption_queue import ResumptionQueue
from ifserver.front.exchanges.unclaimed_offers import UnclaimedOffers
from ifserver.front.exchanges.workers import Workers
from ifserver.front.files import Files
from ifserver.front.merged_log_lines import MergedLogLines
from ifserver.front.request_metrics import RequestMetrics
from ifserver.layers.clusters import Clusters
from ifserver.metrics import Counters
from ifserver.state_machines.effects import Join

__all__ = ["SharedServices"]


class Groups(Protocol):
    """The groups of the streams of one server (`ifserver.front.exchanges.groups.GroupMembers`)."""

    def join(self, exchange: Any, asked: Join) -> None:
        """Make the stream of `exchange` a member."""

    def leave(self, exchange: Any, group: str) -> None:
        """It is no member any more."""

    def leave_all(self, exchange: Any) -> None:
        """It is a member of no group any more."""


class Traces(Protocol):
    """The spans of the streams of one server (`ifserver.front.exchanges.tracing.Tracing`)."""

    def again(self, identity: str, request: m.ToWorkers, channel: str, why: str) -> m.Headers:
        """The next attempt at a stream is about to be offered. Returns the headers for that."""

    def failed(self, identity: str, why: str) -> None:
        """The client of a stream cannot have what was begun."""


class SharedServices(Protocol):
    """What all exchanges of one server share."""

    settings: FrontSettings
    clusters: Clusters
    counters: Counters
    tally: RequestMetrics
    #: Where there are pools: that of the requests of each, by their request channels.
    tallies: Mapping[str, RequestMetrics] | None
    clock: Clock
    merged_log: MergedLogLines
    #: The exchanges that are open, by the identities of their streams.
    registry: dict[str, Any]
    offers: UnclaimedOffers
    workers: Workers
    resumptions: ResumptionQueue
    broker_wait: BrokerWait
    unresolved: UnresolvedAttempts
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
