"""Composition root of ``ifserver run``: a server that is its own broker, and supervises the workers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Final

from msgspec import structs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort

from ifserver.config.configuration import CommandSettings
from ifserver.config.node_urls import ClusterSettings, NodeSettings
from ifserver.config.pools import rules_of, workers_of
from ifserver.config.settings import LayerSettings
from ifserver.layers.clusters import Clusters
from ifserver.layers.embedded.broker import LocalBroker
from ifserver.layers.embedded.client import LocalNode
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.groups import Groups
from ifserver.layers.node import Limits, Node
from ifserver.metrics import Counters
from ifserver.net import sockets
from ifserver.net.endpoints import SocketEndpoint, StreamClientEndpoint
from ifserver.process.supervisor import Spawn
from ifserver.services.server import Listening, ServeService
from ifserver.services.service import Runtime
from ifserver.services.supervisor import SupervisorService

#: Name of the cluster, and of its only node, which is in the memory of this process.
_EMBEDDED: Final = "local"
#: Name of the broker of a predecessor, and how long it may take to report its orders, in seconds.
_PREDECESSOR: Final = "predecessor"
_LEARN_S: Final = 2.0
#: What workers get at least after Ctrl-C, where that is more than what clients are given.
_QUICK_S: Final = 1.0

_log = logging.getLogger(__name__)


class RunService(ServeService):
    """An interface server with the broker in its memory, and with the supervisor of the workers.

    The supervisor talks to the broker as the workers do, and as if it were a process of its own.

    Args:
        spawn: starts a worker.
    """

    has_supervisor = True

    def __init__(
        self,
        runtime: Runtime,
        settings: CommandSettings,
        listening: Listening,
        spawn: Spawn,
    ) -> None:
        assert settings.worker is not None
        self._reloads = settings.worker.reload
        super().__init__(runtime, structs.replace(settings, layer=_layer("memory")), listening)
        self._broker_port: IListeningPort | None = None
        self._predecessor: LocalNode | None = None
        #: Where workers, and a successor, reach the broker.
        self.broker_path = f"@ifserver-{self.process}"
        layer = _layer("local", path=self.broker_path)
        workers = workers_of(settings.pools, settings.worker)
        self._supervisor = SupervisorService(runtime, layer, workers, settings.log, spawn, is_alone=False)
        #: By itself it ends only if the application cannot be loaded.
        self.ended = self._supervisor.ended

    def _make_clusters(self) -> Clusters:
        runtime = self.runtime
        self._node = MemoryNode(_EMBEDDED, *Limits.of(self._layer), runtime.reactor, self.process)
        self._broker = LocalBroker(self._node)
        nodes: dict[str, list[Node]] = {_EMBEDDED: [self._node]}
        clusters = Clusters(self.process, nodes, _EMBEDDED, runtime.reactor, runtime.loop.call_soon, Counters())
        if self._reloads:
            # They wait for new code whenever a file is saved.
            clusters.choice.log_waiting_at = logging.INFO
        return clusters

    def _log_clusters(self) -> None:
        """There is nothing to log: the only node is in our memory."""

    async def start(self) -> None:
        await self.prepare()
        await self._join_predecessor()
        taken_over = self._listening.taken_over
        if not taken_over:
            await self.listen()
        private = sockets.bind_private(f"ifserver-{self.process}")
        # Kept, for uvloop closes a listening socket to which nobody refers.
        self._broker_port = await self.runtime.future(SocketEndpoint(self.runtime.loop, private).listen(self._broker))
        await self._supervisor.start()
        await self._supervisor.got_ready
        if taken_over:
            # Until now our predecessor has answered, whose workers were ready.
            await self.listen()
        _log.info("ready: requests are answered")
        self.is_ready()

    async def _join_predecessor(self) -> None:
        """Learn what our predecessor was ordered, and what one of us is ordered as long as it is there."""
        path = self._listening.predecessor
        if not path:
            return
        runtime, limits = self.runtime, Limits.of(self._layer)
        endpoint = StreamClientEndpoint(runtime.loop, path=path)
        node = LocalNode(_PREDECESSOR, *limits, runtime.reactor, endpoint, once=True)
        node.soon = runtime.loop.call_soon
        node.start()
        self._predecessor = node
        groups = Groups(self.process, [node], node, runtime.reactor, Counters())
        knows = runtime.future(self.server.exchanges.control.join(groups))
        await asyncio.wait((knows,), timeout=_LEARN_S)
        if not node.connected:
            _log.warning("pauses that the process before this one knows of are not known: it does not answer")
            node.stop()

    async def stop(self) -> None:
        if self.ended.done():
            # The application cannot be loaded: nobody will ever answer those who wait.
            self._workerless = self.quick = True
        await self._drain()
        hurry = None
        if self.quick:
            after_s = max(self._front.drain_timeout_s, _QUICK_S)
            hurry = self.runtime.reactor.callLater(after_s, self._supervisor.stop_now)
        await self._supervisor.stop()
        if hurry is not None and hurry.active():
            hurry.cancel()
        if self._broker_port is not None:
            stopping = self._broker_port.stopListening()
            if isinstance(stopping, Deferred):
                await self.runtime.future(stopping)
        if self._predecessor is not None:
            await self.runtime.future(self._predecessor.stop())
        await self.runtime.future(self._broker.close())
        await self._end()

    def stop_now(self) -> None:
        super().stop_now()
        self._supervisor.stop_now()

    def counts(self) -> dict[str, int]:
        return {**super().counts(), **self._supervisor.counts()}

    def reload(self, new: CommandSettings) -> Collection[str]:
        """Beside the settings that can change, the workers load the application anew."""
        self._supervisor.reload(new)
        return super().reload(new)

    def _reroute(self, new: CommandSettings) -> Collection[str]:
        """A pool that is new has no workers, and one that was removed has them: then all stays as it is."""
        if {pool.name for pool in new.pools} != {pool.name for pool in self._pools}:
            return ()
        self._route(new.pools)
        self._log_ordered_weights()
        return rules_of(new.pools)


def _layer(kind: str, path: str | None = None) -> LayerSettings:
    """The embedded broker, as this process (``memory``) or its workers (``local``) reach it."""
    node = NodeSettings(name=_EMBEDDED, kind=kind, path=path)
    return LayerSettings(clusters=(ClusterSettings(name=_EMBEDDED, nodes=(node,)),))
