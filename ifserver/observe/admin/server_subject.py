"""An interface server as it shows itself to its operator."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import UNSET

from ifserver import channels
from ifserver.errors import ChannelNameError
from ifserver.front.exchanges.exchange import Exchange
from ifserver.front.server import InterfaceServer
from ifserver.layers.operator_order_gossip import OperatorOrderGossip
from ifserver.logs import events
from ifserver.metrics import total
from ifserver.net import sockets
from ifserver.observe.admin.figures import Figures, ServerFigures, errors_of, open_websockets, tallies_of
from ifserver.observe.admin.subject import Subject
from ifserver.observe.admin.survey import Survey
from ifserver.state_machines.http import HttpStream
from ifserver.status import MAX_STREAMS, MAX_TOLD, Facts, StreamStatus

__all__ = ["RESTART", "ServerSubject", "states_of", "unsent_bytes"]

#: With what an operator's closing closes a WebSocket: clients connect again (IANA registry: Service Restart).
RESTART: Final = 1012

_log = logging.getLogger(__name__)


class ServerSubject(Subject):
    """An interface server.

    Args:
        listening: whether clients are listened for.
        parent: whether it is the parent of the workers, and speaks for them (``run``).
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
            requests=sum(sum(tally.requests.values()) for tally in tallies),
            errors=errors_of(tallies),
            websockets=open_websockets(server.exchanges.counters),
            paused=server.exchanges.pauses.left_s(),
            waiting=server.exchanges.pauses.waiting,
            events=events.recent(MAX_TOLD),
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
        shown = [_status(exchange, now) for exchange in exchanges[:MAX_STREAMS]]
        rest = [StreamStatus(channel=each.stream.channel, kind="") for each in exchanges[MAX_STREAMS:]]
        return shown + rest

    def pools(self) -> Sequence[str]:
        router = self.server.exchanges.router
        return [] if router is None else list(dict.fromkeys(router.channels.values()))

    def figures(self) -> Figures:
        return ServerFigures(self.server)

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


def unsent_bytes(exchange: Exchange) -> int:
    """What was written to the client and its kernel has not taken, as far as the transport tells."""
    client: Any = exchange.websocket or exchange.client
    return sockets.unsent_bytes(client.transport)


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
        pool=exchange.pool or UNSET,
    )
