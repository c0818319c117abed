"""The process that an admin endpoint speaks for: an interface server, or a supervisor."""

from __future__ import annotations

import logging
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Final

from ifserver import __version__, channels
from ifserver.admin.nursery import Nursery
from ifserver.admin.survey import Survey
from ifserver.clock import Clock
from ifserver.errors import ChannelNameError
from ifserver.front.driver import Exchange
from ifserver.front.server import InterfaceServer
from ifserver.layers.clusters import Clusters
from ifserver.layers.heart import Heart
from ifserver.metrics import total
from ifserver.sight import MAX_STREAMS, Facts, Status, StreamStatus, encode
from ifserver.streams.http import HttpStream
from ifserver.supervisor import Supervisor

__all__ = ["RESTART", "ServerSubject", "Subject", "SupervisorSubject", "states_of", "unsent_bytes"]

#: With what an operator's closing closes a WebSocket: clients connect again (IANA registry: Service Restart).
RESTART: Final = 1012

_log = logging.getLogger(__name__)


class Subject(ABC):
    """What is told of this process."""

    def __init__(self, clusters: Clusters, heart: Heart, clock: Clock) -> None:
        self.clusters = clusters
        #: Knows how long nodes take to answer.
        self.heart = heart
        self.clock = clock
        self._started_at = clock.seconds()
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
    def close(self, channel: str) -> bool:
        """End the stream with this reply channel, as if its client had left; False: there is none here."""

    def status(self, survey: Survey) -> Status:
        """All that it can tell."""
        streams = self.streams()
        me = self.facts()
        return Status(
            now=self.clock.seconds(),
            me=me,
            unready=tuple(self.unready(survey)),
            clusters=survey.clusters,
            processes=tuple({**survey.processes, me.process: me}.values()),
            streams=tuple(streams[:MAX_STREAMS]),
            streams_total=len(streams),
            counts=self.counts(survey),
        )

    def told(self) -> bytes:
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
            started_at=self._started_at,
            **more,
        )

    def _home_answers(self, survey: Survey) -> list[str]:
        node = survey.node(self.clusters.home.node.name)
        return [] if node.answers else [f"node {node.name}, where this process receives: {node.why}"]


class ServerSubject(Subject):
    """An interface server.

    Args:
        listening: whether clients are listened for.
        parent: whether it is the parent of the workers, and speaks for them (``run``).
    """

    def __init__(self, server: InterfaceServer, listening: Callable[[], bool], parent: bool) -> None:
        super().__init__(server.clusters, server.heart, server.clock)
        self.server = server
        self._listening = listening
        self._parent = parent

    def facts(self) -> Facts:
        server = self.server
        return self._facts(
            kind="server",
            listening=self._listening() and not server.draining,
            connections=len(server.connections),
            streams=len(server.registry),
            queue_timeout_s=server.settings.queue_timeout_s,
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
        counted = {"server": self.server.counters.statistics()}
        if self._parent:
            counted["workers"] = total(facts.counts for facts in self.supervisors(survey))
        return counted

    def supervisors(self, survey: Survey) -> list[Facts]:
        if not self._parent:
            return []
        return [facts for facts in survey.processes.values() if facts.kind == "supervisor"]

    def streams(self) -> list[StreamStatus]:
        now = self.clock.seconds()
        exchanges = sorted(self.server.registry.all(), key=lambda exchange: exchange.began_at)
        # Only those that are shown cost more than a place in a list.
        shown = [_status(exchange, now) for exchange in exchanges[:MAX_STREAMS]]
        rest = [StreamStatus(channel=each.stream.channel, kind="") for each in exchanges[MAX_STREAMS:]]
        return shown + rest

    def close(self, channel: str) -> bool:
        try:
            identity = channels.identity(channels.check(channel))
        except (ChannelNameError, ValueError):
            return False
        exchange = self.server.registry.get(identity)
        if exchange is None:
            return False
        if exchange.websocket is not None:
            exchange.websocket.close(RESTART, "closed by an operator")
        else:
            client: Any = exchange.client
            client.cut()
        return True


class SupervisorSubject(Subject):
    """A supervisor, and its workers."""

    def __init__(
        self,
        supervisor: Supervisor,
        nursery: Nursery,
        clusters: Clusters,
        heart: Heart,
        clock: Clock,
        tells_counts: bool,
    ) -> None:
        super().__init__(clusters, heart, clock)
        self.supervisor = supervisor
        self.nursery = nursery
        self._tells_counts = tells_counts

    def facts(self) -> Facts:
        own = self.clusters.counters.statistics()
        counts = total((own, self.supervisor.counts())) if self._tells_counts else {}
        return self._facts(kind="supervisor", children=self.nursery.children(), counts=counts)

    def unready(self, survey: Survey) -> list[str]:
        reasons = self._home_answers(survey)
        if not any(child.ready for child in self.nursery.children()):
            reasons.append("no worker of this supervisor is ready")
        return reasons

    def counts(self, survey: Survey) -> dict[str, dict[str, int]]:
        return {"supervisor": self.clusters.counters.statistics(), "workers": self.supervisor.counts()}

    def supervisors(self, survey: Survey) -> list[Facts]:
        return [self.facts()]

    def streams(self) -> list[StreamStatus]:
        return [StreamStatus(channel=channel, kind="", owner=process) for channel, process in self.nursery.held()]

    def close(self, channel: str) -> bool:
        return False  # it is its server that closes a stream


def unsent_bytes(exchange: Exchange) -> int:
    """What was written to the client and its kernel has not taken, as far as the transport tells."""
    client: Any = exchange.websocket or exchange.client
    buffered: Callable[[], int] = getattr(client.transport, "buffered", int)
    return buffered()


def kind_of(exchange: Exchange) -> str:
    """``http`` or ``websocket``."""
    return "http" if type(exchange.stream) is HttpStream else "websocket"


def states_of(exchanges: Iterable[Exchange]) -> dict[tuple[str, str], int]:
    """How many streams of which kind are in which state."""
    found: dict[tuple[str, str], int] = {}
    for exchange in exchanges:
        key = kind_of(exchange), exchange.stream.state.name.lower()
        found[key] = found.get(key, 0) + 1
    return found


def _status(exchange: Exchange, now: float) -> StreamStatus:
    stream = exchange.stream
    request = stream.request
    return StreamStatus(
        channel=stream.channel,
        kind=kind_of(exchange),
        state=stream.state.name.lower(),
        age_s=round(now - exchange.began_at, 3),
        owner=channels.process_of(stream.worker) if stream.worker is not None else "",
        method=getattr(request, "method", "GET"),
        path=request.path[:200],
        unsent_bytes=unsent_bytes(exchange),
    )
