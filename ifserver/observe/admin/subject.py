"""The process that an admin endpoint describes: an interface server, or a supervisor with its workers."""

from __future__ import annotations

import logging
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nlargest
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from ifserver import __version__, channels
from ifserver.config.settings import FrontSettings
from ifserver.errors import ChannelNameError
from ifserver.logs import events
from ifserver.metrics import STREAMS_CLOSED, STREAMS_OPENED, Counters, total
from ifserver.net import sockets
from ifserver.observe.admin.survey import Survey, side_by_side
from ifserver.state_machines.http import HttpStream
from ifserver.status import (
    MAX_FACT_EVENTS,
    MAX_GROUPS,
    MAX_STREAMS,
    Child,
    Facts,
    GroupStatus,
    Status,
    StreamStatus,
    encode,
)

if TYPE_CHECKING:
    from ifserver.clock import Clock, WallClock
    from ifserver.front.exchanges.exchange import Exchange
    from ifserver.front.request_metrics import RequestMetrics
    from ifserver.front.server import InterfaceServer
    from ifserver.layers.clusters import Clusters
    from ifserver.layers.operator_order_gossip import OperatorOrderGossip
    from ifserver.layers.presence import Heartbeat
    from ifserver.process.supervisor import Supervisor
    from ifserver.process.workers import Worker

__all__ = ["ServerSubject", "Subject", "SupervisorSubject"]

#: With what an operator's closing closes a WebSocket: clients connect again (IANA registry: Service Restart).
RESTART: Final = 1012
#: The first status that is an error of the site.
_FIRST_ERROR: Final = 500

_log = logging.getLogger(__name__)


class Subject(ABC):
    """What is shown of this process."""

    #: Where the settings of its endpoint are: ``front`` or ``worker``.
    section: str

    def __init__(self, clusters: Clusters, heartbeat: Heartbeat, clock: Clock, wall: WallClock) -> None:
        self.clusters = clusters
        #: Knows how long nodes take to answer.
        self.heartbeat = heartbeat
        self.clock = clock
        self.wall = wall
        self._began_at = clock.seconds()
        self._failed = False

    @abstractmethod
    def facts(self) -> Facts:
        """What its beats carry."""

    @abstractmethod
    def unready(self, survey: Survey) -> list[str]:
        """Why it should get no traffic; empty: it should."""

    @abstractmethod
    def counts(self, survey: Survey) -> dict[str, dict[str, int]]:
        """What was counted here and in processes that have no endpoint: by who has counted it."""

    @abstractmethod
    def supervisors(self, survey: Survey) -> list[Facts]:
        """The supervisors that this endpoint reports on as well."""

    @abstractmethod
    def streams(self) -> list[StreamStatus]:
        """The streams that it holds, oldest first."""

    @abstractmethod
    def pools(self) -> Sequence[str]:
        """The names of the pools that it knows, in their order; empty: there are none."""

    # A supervisor has no orders, groups or clients: its servers do.

    @property
    def control(self) -> OperatorOrderGossip | None:
        """The orders of operators that it knows; None: it must ask the servers."""
        return None

    @property
    def pause_s(self) -> float:
        """How long a pause is that is ordered without a length."""
        return FrontSettings().pause_timeout_s

    def group_sizes(self) -> Mapping[str, int]:
        """The groups of its streams, and how many members each has here."""
        return {}

    def members(self, group: str) -> list[tuple[str, str]]:
        """The identities of the streams that are in `group` here, and their tags."""
        return []

    def close(self, channel: str) -> bool:
        """End the stream with this reply channel, as if its client had left; False: there is none here."""
        return False

    def status(self, survey: Survey) -> Status:
        """All that is known."""
        streams = self.streams()
        groups = self.group_sizes()
        largest = nlargest(MAX_GROUPS, groups.items(), key=itemgetter(1))
        me = self.facts()
        here = None if self.control is None else self.control.answer()
        return Status(
            now=self.wall(),
            me=me,
            unready=tuple(self.unready(survey)),
            clusters=survey.clusters,
            processes=tuple({**survey.processes, me.process: me}.values()),
            streams=tuple(streams[:MAX_STREAMS]),
            streams_total=len(streams),
            counts=self.counts(survey),
            groups=tuple(GroupStatus(name=name, members=members) for name, members in largest),
            groups_total=len(groups),
            group_members=sum(groups.values()),
            pools=() if here is None else tuple(side_by_side([here])),
            pools_counted_s=0.0 if here is None else here.counted_s,
        )

    def encoded_facts(self) -> bytes:
        """The facts as its beats carry them. Raises nothing: whatever is wrong with them, the process lives."""
        try:
            return encode(self.facts())
        except Exception:
            if not self._failed:
                self._failed = True
                _log.exception("the facts of this process cannot be collected: its beats carry none")
            return b""

    def _facts(self, **more: Any) -> Facts:
        clusters = self.clusters
        return Facts(
            process=clusters.process,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            node=clusters.home.node.name,
            # By the wall clock as it is set now: a step of it does not change how long the process has been up.
            started_at=round(self.wall() - (self.clock.seconds() - self._began_at), 3),
            **more,
        )

    def _home_answers(self, survey: Survey) -> list[str]:
        node = survey.node(self.clusters.home.node.name)
        return [] if node.answers else [f"node {node.name}, where this process receives: {node.why}"]


class SupervisorSubject(Subject):
    """A supervisor, and its workers.

    Args:
        reports_counts: whether its beats carry what was counted, because its parent's endpoint shows it.
    """

    section = "worker"

    def __init__(
        self,
        supervisor: Supervisor,
        clusters: Clusters,
        heartbeat: Heartbeat,
        clock: Clock,
        wall: WallClock,
        reports_counts: bool,
    ) -> None:
        super().__init__(clusters, heartbeat, clock, wall)
        self.supervisor = supervisor
        self._reports_counts = reports_counts

    def facts(self) -> Facts:
        own = self.clusters.counters.statistics()
        return self._facts(
            kind="supervisor",
            children=tuple(map(_child, self.supervisor.workers)),
            counts=total((own, self.supervisor.workers.counts())) if self._reports_counts else {},
            # Otherwise its parent reports them, which is the same process.
            events=() if self._reports_counts else events.recent(MAX_FACT_EVENTS),
        )

    def unready(self, survey: Survey) -> list[str]:
        reasons = self._home_answers(survey)
        if not any(worker.ready for worker in self.supervisor.workers):
            reasons.append("no worker of this supervisor is ready")
        return reasons

    def counts(self, survey: Survey) -> dict[str, dict[str, int]]:
        return {"supervisor": self.clusters.counters.statistics(), "workers": self.supervisor.workers.counts()}

    def supervisors(self, survey: Survey) -> list[Facts]:
        return [self.facts()]

    def streams(self) -> list[StreamStatus]:
        return [
            StreamStatus(channel=channel, kind="", owner=worker.process)
            for worker in self.supervisor.workers
            for channel, _ in worker.ledger.entries()
        ]

    def pools(self) -> Sequence[str]:
        return [pool.name for pool in self.supervisor.pools if pool.name]


class ServerSubject(Subject):
    """An interface server.

    Args:
        listening: whether clients are listened for.
        parent: whether it is the parent of the workers, and reports on them too (``run``).
    """

    section = "front"

    def __init__(self, server: InterfaceServer, listening: Callable[[], bool], parent: bool) -> None:
        exchanges = server.exchanges
        super().__init__(exchanges.clusters, exchanges.heartbeat, exchanges.clock, exchanges.wall)
        self.server = server
        self._listening = listening
        self._parent = parent

    def facts(self) -> Facts:
        server = self.server
        tallies = tallies_of(server)
        return self._facts(
            kind="server",
            listening=self._listening() and not server.draining,
            connections=len(server.connections),
            streams=len(server.exchanges.registry),
            queue_timeout_s=server.settings.queue_timeout_s,
            requests=requests_of(tallies),
            errors=errors_of(tallies),
            websockets=open_websockets(server.exchanges.counters),
            paused=server.exchanges.pauses.left_s(),
            waiting=server.exchanges.pauses.waiting,
            events=events.recent(MAX_FACT_EVENTS),
        )

    def unready(self, survey: Survey) -> list[str]:
        reasons = []
        if self.server.draining:
            reasons.append("shutting down")
        elif not self._listening():
            reasons.append("not listening for clients")
        reasons += self._home_answers(survey)
        if not survey.workers():
            reasons.append("no live worker is seen on any node")
        return reasons

    def counts(self, survey: Survey) -> dict[str, dict[str, int]]:
        counted = {"server": self.server.exchanges.counters.statistics()}
        if self._parent:
            counted["workers"] = total(facts.counts for facts in self.supervisors(survey))
        return counted

    def supervisors(self, survey: Survey) -> list[Facts]:
        if not self._parent:
            return []
        return [facts for facts in survey.processes.values() if facts.kind == "supervisor"]

    def streams(self) -> list[StreamStatus]:
        now = self.clock.seconds()
        exchanges = sorted(self.server.exchanges.registry.values(), key=lambda exchange: exchange.began_at)
        # Only those that are shown cost more than a place in a list.
        shown = [_stream_status(exchange, now) for exchange in exchanges[:MAX_STREAMS]]
        rest = [StreamStatus(channel=each.stream.channel, kind="") for each in exchanges[MAX_STREAMS:]]
        return shown + rest

    def pools(self) -> Sequence[str]:
        router = self.server.exchanges.router
        return [] if router is None else list(dict.fromkeys(router.channels.values()))

    @property
    def control(self) -> OperatorOrderGossip:
        return self.server.exchanges.control

    @property
    def pause_s(self) -> float:
        return self.server.settings.pause_timeout_s

    def group_sizes(self) -> Mapping[str, int]:
        return self.server.exchanges.members.sizes()

    def members(self, group: str) -> list[tuple[str, str]]:
        return self.server.exchanges.members.of(group)

    def close(self, channel: str) -> bool:
        try:
            identity = channels.identity(channels.check(channel))
        except (ChannelNameError, ValueError):
            return False
        exchange = self.server.exchanges.registry.get(identity)
        if exchange is None:
            return False
        if exchange.websocket is not None:
            exchange.websocket.close(RESTART, "closed by an operator")
        else:
            client: Any = exchange.client
            client.cut()
        return True


# What is counted.


def tallies_of(server: InterfaceServer) -> list[RequestMetrics]:
    """What is counted of its clients: one tally, and where there are pools, one more for each of them."""
    return [server.exchanges.tally, *dict.fromkeys((server.exchanges.tallies or {}).values())]


def requests_of(tallies: Sequence[RequestMetrics]) -> int:
    """How many requests were answered."""
    return sum(sum(tally.requests.values()) for tally in tallies)


def errors_of(tallies: Sequence[RequestMetrics]) -> int:
    """How many requests were answered with an error of the site."""
    return sum(count for tally in tallies for status, count in tally.requests.items() if status >= _FIRST_ERROR)


def open_websockets(counters: Counters) -> int:
    """WebSockets that are open, or about to be."""
    return counters.cells[STREAMS_OPENED["websocket"]] - counters.cells[STREAMS_CLOSED["websocket"]]


def _child(worker: Worker) -> Child:
    gauges = Counters(worker.ledger.cells).gauges()
    return Child(
        pid=worker.child.pid,
        process=worker.process,
        ready=worker.ready,
        streams=gauges["streams_held"],
        unanswered=gauges["streams_unanswered"],
        free=gauges["slots_free"],
        taken=worker.taken,
        pool=worker.pool.name,
    )


# Streams.


def unsent_bytes(exchange: Exchange) -> int:
    """What was written to the client and its kernel has not taken, as far as the transport knows."""
    client: Any = exchange.websocket or exchange.client
    return sockets.unsent_bytes(client.transport)


def states_of(exchanges: Iterable[Exchange]) -> dict[tuple[str, str], int]:
    """How many streams of which kind are in which state."""
    found: dict[tuple[str, str], int] = {}
    for exchange in exchanges:
        key = _kind_of(exchange), exchange.stream.state.name.lower()
        found[key] = found.get(key, 0) + 1
    return found


def _kind_of(exchange: Exchange) -> str:
    return "http" if type(exchange.stream) is HttpStream else "websocket"


def _stream_status(exchange: Exchange, now: float) -> StreamStatus:
    stream = exchange.stream
    request = stream.request
    return StreamStatus(
        channel=stream.channel,
        kind=_kind_of(exchange),
        state=stream.state.name.lower(),
        age_s=round(now - exchange.began_at, 3),
        owner=channels.process_of(stream.worker) if stream.worker is not None else "",
        method=getattr(request, "method", "GET"),
        path=request.path[:200],
        unsent_bytes=unsent_bytes(exchange),
        pool=exchange.pool or UNSET,
    )
