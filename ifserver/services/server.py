"""Composition roots of the servers: settings in, running services out, in order. The others are in
`ifserver.services.supervisor` and `ifserver.services.worker`.

Each process is the parent of the next, and none outlives its parent:

==========  ====================================================================================
``run``     `RunService` (server and broker) > `SupervisorService` > fork server > `WorkerService`, ...
``serve``   `ServeService`
``worker``  `SupervisorService` > fork server > `WorkerService`, ...
==========  ====================================================================================

The fork server (`ifserver.process.fork_server`) does nothing but start workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import time
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint

from ifserver import __version__, channels
from ifserver.clock import Timer
from ifserver.config.node_urls import ClusterSettings, NodeSettings
from ifserver.config.rereading import LIVE, Reading, updated
from ifserver.config.settings import FrontSettings, LayerSettings, LogSettings, WorkerSettings
from ifserver.errors import ConfigurationError
from ifserver.front.access import open_log
from ifserver.front.server import InterfaceServer
from ifserver.layers.base import Limits, Node
from ifserver.layers.clusters import Clusters
from ifserver.layers.embedded.broker import LocalBroker
from ifserver.layers.embedded.node import MemoryNode
from ifserver.metrics import Counters
from ifserver.net import sockets
from ifserver.net.endpoints import SocketEndpoint
from ifserver.net.sockets import UnixFile
from ifserver.net.tls import Certificate
from ifserver.observe.admin.listening import Admin
from ifserver.observe.admin.server_subject import ServerSubject
from ifserver.observe.loop_lag import LoopLag
from ifserver.process import children
from ifserver.process.children import Child, Launch
from ifserver.process.fork_server import Standby
from ifserver.services.lifecycle import Runtime, Service
from ifserver.services.nodes import clusters_of

__all__ = ["Listening", "RunService", "Runtime", "ServeService", "Service"]

#: Name of the cluster, and of its only node, that `RunService` makes.
_EMBEDDED: Final = "local"
#: Pause before a supervisor that has ended by itself is started again.
_RESTART_S: Final = 1.0
#: What the supervisor needs to end beside what its workers are given, in seconds.
_SUPERVISOR_GRACE_S: Final = 5.0

#: How long clients are not listened to while the home node is not connected, in seconds.
_CONNECT_S: Final = 1.0
#: How often a successor tries to have the address of the admin endpoint, and the pause in between, in seconds.
_ADMIN_ATTEMPTS: Final = 600
_ADMIN_PAUSE_S: Final = 0.1
#: Files of an interface server beside its clients' connections: nodes, the broker's workers, logs, modules.
_OTHER_FILES: Final = 1024

_log = logging.getLogger(__name__)


class Listening(NamedTuple):
    """Where clients are listened for: sockets that are bound, and Twisted's endpoint descriptions; and the files that
    some of the sockets have, to be removed in the end."""

    sockets: Sequence[socket.socket] = ()
    descriptions: Sequence[str] = ()
    files: Sequence[UnixFile] = ()
    #: Whether they were a predecessor's, which is still there.
    taken_over: bool = False
    #: For TLS on the sockets that are not Unix sockets.
    certificate: Certificate | None = None


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
        #: The end must not wait for `front.shutdown_delay_s`.
        self._no_delay = asyncio.Event()
        #: Whether there are no workers, and will be none: requests that wait for one are answered at once at the end.
        self._workerless = False
        self._clusters = self._make_clusters()
        self.server = InterfaceServer(
            front,
            self._clusters,
            open_log(front.access_log),
            runtime.reactor,
            time.time,
            lambda: subject.encoded_facts(),
        )
        subject = ServerSubject(self.server, self._is_listening, parent=isinstance(self, RunService))
        self._admin_starting: asyncio.Task[None] | None = None
        self._admin = Admin(subject, runtime.reactor, runtime.loop, front.admin, front.admin_hosts, front.admin_token)
        self._lag = LoopLag(runtime.reactor, self._clusters.counters.late)

    def _make_clusters(self) -> Clusters:
        return clusters_of(self.runtime, self._layer, self.process)

    async def start(self) -> None:
        # Now, and not when the first one comes: until then an upgrade may have replaced the files.
        self.server.websocket_protocol()
        await self.prepare()
        await self.listen()
        self.is_ready()

    async def prepare(self) -> None:
        """Be able to answer clients.

        Raises:
            ConfigurationError: an address cannot be had.
        """
        self._allow_files()
        # Before anything is started, for these addresses are not ours yet.
        await self._start_admin()
        for endpoint, description in zip(self._described, self._listening.descriptions, strict=True):
            await self._listen(endpoint, description)
        self._clusters.start()
        self.server.start()
        self._lag.start()
        # Whoever connects meanwhile waits in the kernel's queue, and need not be told that no node is there.
        ready = self.runtime.future(self._clusters.home.ready())
        await asyncio.wait((ready,), timeout=_CONNECT_S)
        ready.cancel()

    async def listen(self) -> None:
        """Begin to answer them.

        Raises:
            ConfigurationError: an address cannot be had.
        """
        where = dict.fromkeys(self._listening.descriptions)
        for sock in self._listening.sockets:
            endpoint, url = self._bound(sock)
            await self._listen((endpoint, self._front.proxy_protocol), url)
            where[url] = None
        _log.info("ifserver %s, process %s, listening on %s", __version__, self.process, ", ".join(where))
        self._log_clusters()

    def _log_clusters(self) -> None:
        for cluster in self._layer.clusters:
            home = ", home" if cluster is self._layer.home_cluster else ""
            _log.info("cluster %s%s: %s", cluster.name, home, ", ".join(map(str, cluster.nodes)))

    def _bound(self, sock: socket.socket) -> tuple[SocketEndpoint, str]:
        """How a socket is listened to, and where clients find it."""
        url, certificate = sockets.url_of(sock), self._listening.certificate
        if certificate is None or sock.family == socket.AF_UNIX:
            return SocketEndpoint(self.runtime.loop, sock), url
        if self._front.proxy_protocol:
            raise ConfigurationError(
                "front.proxy_protocol: it comes before TLS, so that what speaks it must also end TLS: not with certfile"
            )
        endpoint = SocketEndpoint(
            self.runtime.loop, sock, tls=certificate.context, handshake_s=self._front.header_timeout_s
        )
        return endpoint, url.replace("http:", "https:", 1)

    async def stop(self) -> None:
        await self._drain()
        await self._flush()
        await self._end()

    async def _drain(self) -> None:
        """Turn clients away, after a while if they do not know yet, and end what they have begun."""
        self.ending = True
        delay_s = self._front.shutdown_delay_s
        if self.got_ready.done() and delay_s and not self.quick and not self.succeeded:
            _log.info("not ready any more; still accepting clients for %g s (shutdown_delay)", delay_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._no_delay.wait(), delay_s)
        if self.succeeded:
            await self._admin.stop()  # the successor waits for its address
        await self._stop_listening()
        # What has been accepted in this turn of the loop gets its protocol in the next.
        await asyncio.sleep(0)
        if self._workerless:
            self.server.give_up_unclaimed()
        await self.runtime.future(Deferred.fromCoroutine(self.server.drain(self.quick)))

    async def _end(self) -> None:
        """What is left when clients and workers are gone. Until now it could be seen how they went."""
        self._lag.stop()
        if self._admin_starting is not None:
            self._admin_starting.cancel()
        await self._admin.stop()
        await self.runtime.future(self._clusters.stop())

    def stop_now(self) -> None:
        self.quick = True
        self._no_delay.set()
        self.server.drain_now()

    def well(self) -> bool:
        return bool(self._ports) or not self.ready

    def counts(self) -> dict[str, int]:
        statistics = self.server.statistics()
        return {name: statistics[name] for name in ("connections", "streams")}

    def reload(self, new: Reading) -> Collection[str]:
        front = new["front"]
        assert isinstance(front, FrontSettings)
        self._front = updated("front", self._front, front)
        self._allow_files()
        self.server.change(self._front)
        if self._listening.certificate is not None:
            try:
                self._listening.certificate.reload()
            except ConfigurationError as error:
                _log.error("%s; the old certificate is kept", error)
        return LIVE

    def reopen_logs(self) -> None:
        self.server.access_log.reopen()

    def _is_listening(self) -> bool:
        """Whether clients should come."""
        return bool(self._ports) and not self.ending

    def _allow_files(self) -> None:
        wanted = self._front.max_connections
        files = sockets.allow_open_files(wanted + _OTHER_FILES)
        if files < wanted:
            _log.warning("max_connections is %d, but no more than %d files may be open", wanted, files)

    async def _start_admin(self) -> None:
        if self._listening.taken_over:
            self._admin_starting = asyncio.create_task(self._start_admin_later())
        else:
            await self._admin.start()

    async def _start_admin_later(self) -> None:
        """The predecessor has the address until it is told that we are ready."""
        for attempt in range(_ADMIN_ATTEMPTS):
            try:
                await self._admin.start()
            except ConfigurationError as error:
                if attempt == _ADMIN_ATTEMPTS - 1:
                    _log.error("there is no admin endpoint: %s", error)
            else:
                return
            await asyncio.sleep(_ADMIN_PAUSE_S)

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
        for file in () if self.succeeded else self._listening.files:
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
        self,
        runtime: Runtime,
        front: FrontSettings,
        worker: WorkerSettings,
        listening: Listening,
        log: LogSettings,
        standby: Standby,
    ) -> None:
        self._worker = worker
        self._log = log
        node = NodeSettings(name=_EMBEDDED, kind="memory")
        layer = LayerSettings(clusters=(ClusterSettings(name=_EMBEDDED, nodes=(node,)),))
        super().__init__(runtime, front, layer, listening)
        #: The first supervisor, until it is told what to do.
        self._standby: Standby | None = standby
        self._supervisor: Child | None = None
        self._supervisor_ended: asyncio.Future[None] = runtime.loop.create_future()
        self._again: Timer | None = None
        self._stopping = False
        #: Is set while the supervisor has workers that run.
        self._workers_run = asyncio.Event()
        self._broker_port: IListeningPort | None = None

    def _make_clusters(self) -> Clusters:
        self._node = MemoryNode(_EMBEDDED, *Limits.of(self._layer), self.runtime.reactor, self.process)
        self._broker = LocalBroker(self._node)
        runtime = self.runtime
        nodes: dict[str, list[Node]] = {_EMBEDDED: [self._node]}
        clusters = Clusters(self.process, nodes, _EMBEDDED, runtime.reactor, runtime.loop.call_soon, Counters())
        if self._worker.reload:
            # They wait for new code whenever a file is saved.
            clusters.log_waiting_at = logging.INFO
        return clusters

    def _log_clusters(self) -> None:
        """There is nothing to be told: it is the one in our memory."""

    async def start(self) -> None:
        await self.prepare()
        taken_over = self._listening.taken_over
        if not taken_over:
            await self.listen()
        private = sockets.bind_private(f"ifserver-{self.process}")
        # Kept, for uvloop closes a listening socket to which nobody refers.
        self._broker_port = await self.runtime.future(SocketEndpoint(self.runtime.loop, private).listen(self._broker))
        self._start_supervisor()
        if taken_over:
            # Until then our predecessor answers, who has workers.
            await self._workers_run.wait()
            await self.listen()
        await self._workers_run.wait()
        self.is_ready()

    async def stop(self) -> None:
        self._stopping = True
        if self._again is not None and self._again.active():
            self._again.cancel()
        await self._drain()
        await self._stop_supervisor()
        if self._broker_port is not None:
            stopping = self._broker_port.stopListening()
            if isinstance(stopping, Deferred):
                await self.runtime.future(stopping)
        await self.runtime.future(self._broker.close())
        await self._end()

    def stop_now(self) -> None:
        super().stop_now()
        if self._supervisor is not None:
            self._supervisor.kill()

    def _start_supervisor(self) -> None:
        path = f"@ifserver-{self.process}"
        node = NodeSettings(name=_EMBEDDED, kind="local", path=path)
        layer = LayerSettings(clusters=(ClusterSettings(name=_EMBEDDED, nodes=(node,)),))
        launch = Launch(role="supervisor", parent=os.getpid(), layer=layer, worker=self._worker, log=self._log)
        standby, self._standby = self._standby, None
        start = children.spawn if standby is None else standby.begin
        try:
            self._supervisor = start(launch, self.runtime.loop, self._supervisor_ready, self._supervisor_lost)
        except OSError as error:
            _log.error("cannot start the supervisor: %s; trying again in %g s", error, _RESTART_S)
            self._again = self.runtime.reactor.callLater(_RESTART_S, self._start_supervisor)

    def counts(self) -> dict[str, int]:
        count = self._worker.processes or len(os.sched_getaffinity(0))
        return {**super().counts(), "workers": count if self._workers_run.is_set() else 0}

    def reload(self, new: Reading) -> Collection[str]:
        """The workers are told as well: they load the application anew."""
        if self._supervisor is not None and self._supervisor.status is None:
            # It has not been waited for, so that its id is no other process's.
            os.kill(self._supervisor.pid, signal.SIGHUP)
        return super().reload(new)

    def _supervisor_ready(self) -> None:
        _log.info("ready: requests are answered")
        self._workers_run.set()

    def _supervisor_lost(self) -> None:
        """It has ended, and its workers with it."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None and supervisor.failure is not None:
            self._stopping = self._workerless = self.quick = True
            self._supervisor_ended.set_result(None)
            if not self.ended.done():
                self.ended.set_exception(ConfigurationError(supervisor.failure))
            return
        self._workers_run.clear()
        if self._stopping:
            self._supervisor_ended.set_result(None)
            return
        how = supervisor.ending if supervisor is not None else "?"
        _log.error("the supervisor of the workers has ended (%s), and they with it: starting them again", how)
        # First, or the dead would be handed what is offered once more.
        self._broker.cut()
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


def _described(runtime: Runtime, description: str) -> tuple[IStreamServerEndpoint, bool]:
    """The endpoint, and whether its connections are announced with the PROXY protocol."""
    # Only here: it imports what speaks TLS (`ifserver.process.reactor`).
    from twisted.internet.endpoints import serverFromString

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
