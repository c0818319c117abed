"""The process that an admin endpoint speaks for: an interface server, or a supervisor."""

from __future__ import annotations

import logging
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from heapq import nlargest
from operator import itemgetter
from typing import Any

from ifserver import __version__
from ifserver.clock import Clock, WallClock
from ifserver.config.settings import FrontSettings
from ifserver.layers.clusters import Clusters
from ifserver.layers.heartbeat import Heartbeat
from ifserver.layers.operator_order_gossip import OperatorOrderGossip
from ifserver.logs import events
from ifserver.metrics import Counters, total
from ifserver.observe.admin.figures import Figures, SupervisorFigures, taken_by
from ifserver.observe.admin.pools import side_by_side
from ifserver.observe.admin.survey import Survey
from ifserver.process.slots import Worker
from ifserver.process.supervisor import Supervisor
from ifserver.status import MAX_GROUPS, MAX_STREAMS, MAX_TOLD, Child, Facts, GroupStatus, Status, StreamStatus, encode

__all__ = ["Subject", "SupervisorSubject"]

_log = logging.getLogger(__name__)


class Subject(ABC):
    """What is told of this process.

    Args:
        clock: tells how time goes by.
        wall: tells the time of day.
    """

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
        """What it tells of itself in its beats."""

    @abstractmethod
    def unready(self, survey: Survey) -> list[str]:
        """Why it should get no traffic; empty: it should."""

    @abstractmethod
    def counts(self, survey: Survey) -> dict[str, dict[str, int]]:
        """What was counted here and in processes that have no endpoint: by who has counted it."""

    @abstractmethod
    def supervisors(self, survey: Survey) -> list[Facts]:
        """The supervisors that this endpoint speaks for as well."""

    @abstractmethod
    def streams(self) -> list[StreamStatus]:
        """The streams that it holds, oldest first."""

    @abstractmethod
    def pools(self) -> Sequence[str]:
        """The names of the pools that it knows, in their order; empty: there are none."""

    @property
    def control(self) -> OperatorOrderGossip | None:
        """The orders of operators that it knows; None: it must ask the servers."""
        return None

    @property
    def pause_s(self) -> float:
        """How long a pause is where nobody says how long."""
        return FrontSettings().pause_timeout_s

    @abstractmethod
    def figures(self) -> Figures:
        """What is measured of it every second."""

    @abstractmethod
    def group_sizes(self) -> Mapping[str, int]:
        """The groups of its streams, and how many members each has here."""

    @abstractmethod
    def members(self, group: str) -> list[tuple[str, str]]:
        """The identities of the streams that are in `group` here, and their tags."""

    @abstractmethod
    def close(self, channel: str) -> bool:
        """End the stream with this reply channel, as if its client had left; False: there is none here."""

    def status(self, survey: Survey) -> Status:
        """All that it can tell."""
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
                _log.exception("this process cannot tell of itself")
            return b""

    def _facts(self, **more: Any) -> Facts:
        clusters = self.clusters
        return Facts(
            process=clusters.process,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            node=clusters.home.node.name,
            # By the clock as it is set now: else whoever sets it would change how long we have been up.
            started_at=round(self.wall() - (self.clock.seconds() - self._began_at), 3),
            **more,
        )

    def _home_answers(self, survey: Survey) -> list[str]:
        node = survey.node(self.clusters.home.node.name)
        return [] if node.answers else [f"node {node.name}, where this process receives: {node.why}"]


class SupervisorSubject(Subject):
    """A supervisor, and its workers."""

    section = "worker"

    def __init__(
        self,
        supervisor: Supervisor,
        clusters: Clusters,
        heartbeat: Heartbeat,
        clock: Clock,
        wall: WallClock,
        tells_counts: bool,
    ) -> None:
        super().__init__(clusters, heartbeat, clock, wall)
        self.supervisor = supervisor
        self._tells_counts = tells_counts

    def facts(self) -> Facts:
        own = self.clusters.counters.statistics()
        counts = total((own, self.supervisor.counts())) if self._tells_counts else {}
        return self._facts(
            kind="supervisor",
            children=tuple(map(_child, self.supervisor.workers)),
            counts=counts,
            # Otherwise its parent tells them, which is the same process.
            events=() if self._tells_counts else events.recent(MAX_TOLD),
        )

    def unready(self, survey: Survey) -> list[str]:
        reasons = self._home_answers(survey)
        if not any(worker.ready for worker in self.supervisor.workers):
            reasons.append("no worker of this supervisor is ready")
        return reasons

    def counts(self, survey: Survey) -> dict[str, dict[str, int]]:
        return {"supervisor": self.clusters.counters.statistics(), "workers": self.supervisor.counts()}

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

    def figures(self) -> Figures:
        return SupervisorFigures(self.supervisor)

    def group_sizes(self) -> Mapping[str, int]:
        return {}  # the members are at the servers

    def members(self, group: str) -> list[tuple[str, str]]:
        return []

    def close(self, channel: str) -> bool:
        return False  # it is its server that closes a stream


def _child(worker: Worker) -> Child:
    counters = Counters(worker.ledger.cells)
    gauges = counters.gauges()
    return Child(
        pid=worker.child.pid,
        process=worker.process,
        ready=worker.ready,
        streams=gauges["streams_held"],
        unanswered=gauges["streams_unanswered"],
        free=gauges["slots_free"],
        taken=taken_by(counters),
        pool=worker.pool.name,
    )
