"""Composition roots: settings in, running services out, in order.

Each process is the parent of the next, and none outlives its parent:

==========  ===========================================================
``run``     `RunService` (server and broker) > `SupervisorService` > `WorkerService`, ...
``serve``   `ServeService`
``worker``  `SupervisorService` > `WorkerService`, ...
==========  ===========================================================
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint

from ifserver import __version__, channels, processes, sockets
from ifserver.clock import Timer
from ifserver.endpoints import SocketEndpoint, StreamClientEndpoint
from ifserver.errors import ConfigurationError
from ifserver.front.access import open_log
from ifserver.front.server import InterfaceServer
from ifserver.layers.base import Limits, Node
from ifserver.layers.broker import LocalBroker
from ifserver.layers.clusters import Clusters
from ifserver.layers.heart import Heart
from ifserver.layers.local import LocalNode
from ifserver.layers.memory import MemoryNode
from ifserver.layers.placement import Policy
from ifserver.layers.redis import RedisNode
from ifserver.liveness import SUPERVISOR_LIFE_S
from ifserver.metrics import Counters
from ifserver.processes import Child, Launch
from ifserver.reload import Reloader
from ifserver.settings import ClusterSettings, FrontSettings, LayerSettings, NodeSettings, WorkerSettings
from ifserver.sockets import UnixFile
from ifserver.supervisor import Supervisor
from ifserver.worker.application import ASGIApplication
from ifserver.worker.guard import Guard
from ifserver.worker.worker import Worker

__all__ = ["Listening", "RunService", "Runtime", "ServeService", "Service", "SupervisorService", "WorkerService"]

#: Name of the cluster, and of its only node, that `RunService` makes.
_EMBEDDED: Final = "local"
#: Pause before a supervisor that has ended by itself is started again.
_RESTART_S: Final = 1.0
#: What the supervisor needs to end beside what its workers are given, in seconds.
_SUPERVISOR_GRACE_S: Final = 5.0

#: How long clients are not listened to while the home node is not connected, in seconds.
_CONNECT_S: Final = 1.0
#: Files of an interface server beside its clients' connections: nodes, the broker's workers, logs, modules.
_OTHER_FILES: Final = 1024

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Runtime(NamedTuple):
    """What everything runs on: Twisted's asyncio reactor, and the loop below it."""

    reactor: Any
    loop: asyncio.AbstractEventLoop

    def future(self, deferred: Deferred[_T]) -> asyncio.Future[_T]:
        """`deferred` for a coroutine of asyncio's."""
        return deferred.asFuture(self.loop)


class Listening(NamedTuple):
    """Where clients are listened for: sockets that are bound, and Twisted's endpoint descriptions; and the files that
    some of the sockets have, to be removed in the end."""

    sockets: Sequence[socket.socket] = ()
    descriptions: Sequence[str] = ()
    files: Sequence[UnixFile] = ()


class Service(ABC):
    """Something that runs from `start` to `stop`."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        #: Has the exit status once the service has ended by itself.
        self.ended: asyncio.Future[int] = runtime.loop.create_future()

    @abstractmethod
    async def start(self) -> None:
        """Begin. May be cancelled; `stop` follows in any case.

        Raises:
            IfserverError: it cannot be; `ConfigurationError` if that is the operator's affair.
        """

    @abstractmethod
    async def stop(self) -> None:
        """End in order: what is under way is finished, within the timeouts of the settings."""

    @abstractmethod
    def stop_now(self) -> None:
        """Let the `stop` that is under way wait for nobody."""


class ServeService(Service):
    """An interface server."""

    def __init__(self, runtime: Runtime, front: FrontSettings, layer: LayerSettings, listening: Listening) -> None:
        super().__init__(runtime)
        self._front = front
        self._listening = listening
        self._described = [_described(runtime, text) for text in listening.descriptions]
        self._ports: list[IListeningPort] = []
        self.process = channels.new_process_name()
        self._layer = layer
        self._clusters = self._make_clusters()
        self.server = InterfaceServer(front, self._clusters, open_log(front.access_log), runtime.reactor)

    def _make_clusters(self) -> Clusters:
        return _clusters(self.runtime, self._layer, self.process)

    async def start(self) -> None:
        files = sockets.allow_open_files(self._front.max_connections + _OTHER_FILES)
        if files < self._front.max_connections:
            _log.warning(
                "max_connections is %d, but no more than %d files may be open", self._front.max_connections, files
            )
        # Before anything is started, for these addresses are not ours yet.
        for endpoint, description in zip(self._described, self._listening.descriptions, strict=True):
            await self._listen(endpoint, description)
        self._clusters.start()
        self.server.start()
        # Whoever connects meanwhile waits in the kernel's queue, and need not be told that no node is there.
        ready = self.runtime.future(self._clusters.home.ready())
        await asyncio.wait((ready,), timeout=_CONNECT_S)
        ready.cancel()
        for sock in self._listening.sockets:
            bound: Any = SocketEndpoint(self.runtime.loop, sock), self._front.proxy_protocol
            await self._listen(bound, sockets.url_of(sock))
        where = [*self._listening.descriptions, *map(sockets.url_of, self._listening.sockets)]
        _log.info("ifserver %s, process %s, listening on %s", __version__, self.process, ", ".join(where))
        for cluster in self._layer.clusters:
            home = ", home" if cluster is self._layer.home_cluster else ""
            _log.info("cluster %s%s: %s", cluster.name, home, ", ".join(map(str, cluster.nodes)))

    async def stop(self) -> None:
        await self._stop_listening()
        await self.runtime.future(Deferred.fromCoroutine(self.server.drain()))
        await self._flush()
        await self.runtime.future(self._clusters.stop())

    def stop_now(self) -> None:
        self.server.drain_now()

    async def _listen(self, described: tuple[IStreamServerEndpoint, bool], where: str) -> None:
        """Listen on an endpoint, of which is known whether clients are announced there by the PROXY protocol.

        Raises:
            ConfigurationError: its address cannot be had.
        """
        endpoint, announced = described
        factory = self.server.announced if announced else self.server
        try:
            self._ports.append(await self.runtime.future(endpoint.listen(factory)))
        except Exception as error:  # endpoints of plugins raise what they like
            await self._stop_listening()
            raise ConfigurationError(f"cannot listen on {where}: {_reason(error)}") from error

    async def _stop_listening(self) -> None:
        # First, while they are certainly ours: from the next line on another server may take their place.
        for file in self._listening.files:
            file.remove()
        ports, self._ports = self._ports, []
        for port in ports:
            stopping = port.stopListening()
            if isinstance(stopping, Deferred):
                await self.runtime.future(stopping)

    async def _flush(self) -> None:
        """Wait for the nodes to take what workers still have to be told, a little while."""
        for _ in range(100):
            if not self._clusters.waiting():
                return
            await asyncio.sleep(0.01)


class RunService(ServeService):
    """An interface server that is its own broker, and the parent of the workers."""

    def __init__(
        self, runtime: Runtime, front: FrontSettings, worker: WorkerSettings, listening: Listening, log_level: str
    ) -> None:
        self._worker = worker
        self._log_level = log_level
        node = NodeSettings(name=_EMBEDDED, kind="memory")
        layer = LayerSettings(clusters=(ClusterSettings(name=_EMBEDDED, nodes=(node,)),))
        super().__init__(runtime, front, layer, listening)
        self._supervisor: Child | None = None
        self._supervisor_ended: asyncio.Future[None] = runtime.loop.create_future()
        self._again: Timer | None = None
        self._stopping = False

    def _make_clusters(self) -> Clusters:
        self._node = MemoryNode(_EMBEDDED, *Limits.of(self._layer), self.runtime.reactor, self.process)
        self._broker = LocalBroker(self._node)
        runtime = self.runtime
        nodes: dict[str, list[Node]] = {_EMBEDDED: [self._node]}
        return Clusters(self.process, nodes, _EMBEDDED, runtime.reactor, runtime.loop.call_soon, Counters())

    async def start(self) -> None:
        await super().start()
        private = sockets.bind_private(f"ifserver-{self.process}")
        await self.runtime.future(SocketEndpoint(self.runtime.loop, private).listen(self._broker))
        self._start_supervisor()

    async def stop(self) -> None:
        self._stopping = True
        if self._again is not None and self._again.active():
            self._again.cancel()
        await self._stop_listening()
        await self.runtime.future(Deferred.fromCoroutine(self.server.drain()))
        await self._stop_supervisor()
        await self.runtime.future(self._broker.close())
        await self.runtime.future(self._clusters.stop())

    def stop_now(self) -> None:
        super().stop_now()
        if self._supervisor is not None:
            self._supervisor.kill()

    def _start_supervisor(self) -> None:
        path = f"@ifserver-{self.process}"
        node = NodeSettings(name=_EMBEDDED, kind="local", path=path)
        layer = LayerSettings(clusters=(ClusterSettings(name=_EMBEDDED, nodes=(node,)),))
        launch = Launch(
            role="supervisor", parent=os.getpid(), layer=layer, worker=self._worker, log_level=self._log_level
        )
        try:
            self._supervisor = processes.spawn(launch, self.runtime.loop, self._supervisor_ready, self._supervisor_lost)
        except OSError as error:
            _log.error("cannot start the supervisor: %s; trying again in %g s", error, _RESTART_S)
            self._again = self.runtime.reactor.callLater(_RESTART_S, self._start_supervisor)

    def _supervisor_ready(self) -> None:
        _log.info("ready: requests are answered")

    def _supervisor_lost(self) -> None:
        """It has ended, and its workers with it."""
        supervisor, self._supervisor = self._supervisor, None
        if self._stopping:
            self._supervisor_ended.set_result(None)
            return
        how = supervisor.ending if supervisor is not None else "?"
        _log.error("the supervisor has ended (%s), and with it the workers; starting another", how)
        self.server.peers.all_lost()
        self._again = self.runtime.reactor.callLater(_RESTART_S * random.uniform(0.7, 1.3), self._start_supervisor)

    async def _stop_supervisor(self) -> None:
        supervisor = self._supervisor
        if supervisor is None:
            return
        supervisor.terminate()
        patience = self._worker.drain_timeout_s + self._worker.shutdown_timeout_s + _SUPERVISOR_GRACE_S
        kill = self.runtime.reactor.callLater(patience, supervisor.kill)
        await self._supervisor_ended
        if kill.active():
            kill.cancel()


class SupervisorService(Service):
    """The worker processes, and whoever watches over them."""

    def __init__(
        self,
        runtime: Runtime,
        layer: LayerSettings,
        worker: WorkerSettings,
        log_level: str,
        ready_fd: int | None = None,
    ) -> None:
        super().__init__(runtime)
        self._settings = worker
        self._layer = layer
        self._ready_fd = ready_fd
        self._clusters = _clusters(runtime, layer, channels.new_process_name())
        self.supervisor = Supervisor(
            worker, layer, self._clusters, runtime.reactor, runtime.loop, log_level, self._ready
        )
        nodes = self._clusters.home_nodes
        self._heart = Heart(
            self._clusters, nodes, runtime.reactor, SUPERVISOR_LIFE_S, self.supervisor.living, dict, _nobody
        )
        self._reloader: Reloader | None = None
        if worker.reload:
            self._reloader = Reloader(worker.app_dir, self.supervisor.restart, runtime.loop)

    async def start(self) -> None:
        self._clusters.start()
        self._heart.start()
        self.supervisor.start()
        if self._reloader is not None:
            self._reloader.start()
        if self._ready_fd is None:
            nodes = ", ".join(map(str, self._layer.home_cluster.nodes))
            _log.info("ifserver %s, supervisor %s, nodes: %s", __version__, self._clusters.process, nodes)

    async def stop(self) -> None:
        if self._reloader is not None:
            await self.runtime.future(self._reloader.stop())
        await self.runtime.future(self.supervisor.stop())
        self._heart.stop()
        await self.runtime.future(self._clusters.stop())

    def stop_now(self) -> None:
        self.supervisor.stop_now()

    def _ready(self) -> None:
        started = self.supervisor.statistics()["workers_ready"]
        what = f"{started} worker{'s' if started != 1 else ''} run{'s' if started == 1 else ''}"
        _log.info("%s %s, %d streams at a time each", what, self._settings.application, self._settings.concurrency)
        if self._ready_fd is not None:
            fd, self._ready_fd = self._ready_fd, None
            processes.report_ready(fd)


class WorkerService(Service):
    """One worker process."""

    def __init__(self, runtime: Runtime, launch: Launch, application: ASGIApplication) -> None:
        super().__init__(runtime)
        assert launch.ledger_fd is not None
        assert launch.ready_fd is not None
        self._ready_fd = launch.ready_fd
        settings = launch.worker
        self._clusters = _clusters(runtime, launch.layer, channels.new_process_name())
        ledger = processes.open_ledger(launch.ledger_fd, settings.max_streams)
        ledger.inbox = self._clusters.inbox
        self.worker = Worker(
            settings, self._clusters, application, ledger, launch.supervisor, runtime.reactor, runtime.loop
        )
        self._guard = Guard(ledger, self.worker, runtime.reactor)

    async def start(self) -> None:
        self._clusters.start()
        await self.worker.start()
        self._guard.start()
        processes.report_ready(self._ready_fd)

    async def stop(self) -> None:
        await self.worker.stop()
        await self.runtime.future(self._clusters.stop())

    def stop_now(self) -> None:
        # Whoever asks twice has the supervisor, which kills.
        os._exit(0)


def _nobody(process: str) -> None:
    """A supervisor asks for nobody, so nobody can be lost to it."""


def _clusters(runtime: Runtime, layer: LayerSettings, process: str) -> Clusters:
    nodes = {cluster.name: [_node(runtime, layer, node) for node in cluster.nodes] for cluster in layer.clusters}
    home = layer.home_cluster.name
    policy = Policy(layer.placement)
    return Clusters(process, nodes, home, runtime.reactor, runtime.loop.call_soon, Counters(), policy)


def _node(runtime: Runtime, layer: LayerSettings, node: NodeSettings) -> Node:
    limits = Limits.of(layer)

    def endpoint() -> StreamClientEndpoint:
        return StreamClientEndpoint(runtime.loop, node.address, node.path)

    if node.kind == "redis":
        return RedisNode(
            node.name,
            *limits,
            runtime.reactor,
            endpoint,
            prefix=layer.prefix,
            username=node.username,
            password=node.password,
            database=node.database,
        )
    if node.kind == "local":
        return LocalNode(node.name, *limits, runtime.reactor, endpoint())
    raise ConfigurationError(f"node {node.name}: {node.kind} is no kind of node that another process can reach")


def _described(runtime: Runtime, description: str) -> tuple[IStreamServerEndpoint, bool]:
    """The endpoint, and whether its connections are announced with the PROXY protocol."""
    plain = description.removeprefix("haproxy:")
    try:
        endpoint: IStreamServerEndpoint = serverFromString(runtime.reactor, plain)
    except Exception as error:  # ValueError, TypeError, KeyError, OSError, and what the parsers of plugins raise
        raise ConfigurationError(f"--endpoint {description!r}: {_reason(error)}") from error
    return endpoint, plain != description


def _reason(error: Exception) -> str:
    socket_error = getattr(error, "socketError", None)  # twisted.internet.error.CannotListenError
    error = socket_error if isinstance(socket_error, OSError) else error
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
