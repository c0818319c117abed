"""Composition root of a server: settings in, a running service out.

What runs in which process (each is the parent of the next, and none outlives its parent):

==========  ====================================================================================
``run``     `ifserver.services.run.RunService` > fork server > `WorkerService`, ...
``serve``   `ServeService`
``worker``  `SupervisorService` > fork server > `WorkerService`, ...
==========  ====================================================================================

The fork server (`ifserver.process.fork_server`) does nothing but start workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint

from ifserver import __version__, channels
from ifserver.clock import LoopLag
from ifserver.config.configuration import CommandSettings, live_paths, updated
from ifserver.config.pools import DEFAULT, PoolSettings, all_of
from ifserver.errors import ConfigurationError
from ifserver.front.access_log import open_log
from ifserver.front.exchanges.routing import Router
from ifserver.front.files import MAX_FILES, Disk, Files
from ifserver.front.server import InterfaceServer
from ifserver.layers.clusters import Clusters
from ifserver.logs import events
from ifserver.net import sockets
from ifserver.net.endpoints import SocketEndpoint
from ifserver.net.sockets import UnixFile
from ifserver.net.tls import Certificate
from ifserver.observe import import_tracing
from ifserver.observe.admin import Admin
from ifserver.observe.admin.subject import ServerSubject
from ifserver.services.service import Runtime, Service, clusters_of

#: How long clients are not listened to while the home node is not connected, or it is not known what operators have
#: ordered, in seconds.
_CONNECT_S: Final = 1.0
#: How often a successor tries to have the address of the admin endpoint, and the pause in between, in seconds.
_ADMIN_ATTEMPTS: Final = 600
_ADMIN_PAUSE_S: Final = 0.1
#: Files of an interface server beside its clients' connections: nodes, the broker's workers, logs, modules; and those
#: that it sends, each with one more for its client.
_OTHER_FILES: Final = 1024 + 2 * MAX_FILES

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
    #: Where the broker of the predecessor is reached; empty: it has none of its own, or there is no predecessor.
    predecessor: str = ""


class _Listener:
    """What `Listening` names, while clients are accepted there by `server`."""

    def __init__(self, runtime: Runtime, listening: Listening, proxy_protocol: bool) -> None:
        self._runtime = runtime
        self._listening = listening
        self._proxy_protocol = proxy_protocol
        self._described = [_described(runtime, text) for text in listening.descriptions]
        self.ports: list[IListeningPort] = []

    async def start_described(self, server: InterfaceServer) -> None:
        """Listen on the endpoints.

        Raises:
            ConfigurationError: an address cannot be had.
        """
        for (endpoint, announced), description in zip(self._described, self._listening.descriptions, strict=True):
            await self._listen(endpoint, server.announced if announced else server, description)

    async def start_bound(self, server: InterfaceServer) -> list[str]:
        """Listen on the sockets; the URLs where clients find them.

        Raises:
            ConfigurationError: an address cannot be had.
        """
        urls = []
        for sock in self._listening.sockets:
            endpoint, url = self._bound(sock)
            await self._listen(endpoint, server.announced if self._proxy_protocol else server, url)
            urls.append(url)
        return urls

    def _bound(self, sock: socket.socket) -> tuple[SocketEndpoint, str]:
        """How a socket is listened to, and where clients find it."""
        url, certificate = sockets.url_of(sock), self._listening.certificate
        if certificate is None or sock.family == socket.AF_UNIX:
            return SocketEndpoint(self._runtime.loop, sock), url
        if self._proxy_protocol:
            raise ConfigurationError(
                "front.proxy_protocol: it comes before TLS, so that what speaks it must also end TLS: not with certfile"
            )
        endpoint = SocketEndpoint(self._runtime.loop, sock, transport=certificate.transport)
        return endpoint, url.replace("http:", "https:", 1)

    async def _listen(self, endpoint: IStreamServerEndpoint, factory: IProtocolFactory, where: str) -> None:
        try:
            self.ports.append(await self._runtime.future(endpoint.listen(factory)))
        except Exception as error:  # endpoints of plugins raise what they like
            await self.stop()
            raise ConfigurationError(f"cannot listen on {where}: {_reason(error)}") from error

    async def stop(self, succeeded: bool = False) -> None:
        """Listen no more. The files of the sockets are a successor's if there is one."""
        # First, while they are certainly ours: from the next line on another server may take their place.
        for file in () if succeeded else self._listening.files:
            file.remove()
        ports, self.ports = self.ports, []
        for port in ports:
            stopping = port.stopListening()
            if isinstance(stopping, Deferred):
                await self._runtime.future(stopping)


class ServeService(Service):
    """An interface server."""

    #: Whether the workers' supervisor runs in this process too.
    has_supervisor = False

    def __init__(
        self,
        runtime: Runtime,
        settings: CommandSettings,
        listening: Listening,
    ) -> None:
        super().__init__(runtime)
        assert settings.layer is not None
        self._front = front = settings.front
        self._listening = listening
        self._listener = _Listener(runtime, listening, front.proxy_protocol)
        self.process = channels.new_process_name()
        self._layer = settings.layer
        #: The end must not wait for `front.shutdown_delay_s`.
        self._no_delay = asyncio.Event()
        #: Whether there are no workers, and will be none: requests that wait for one are answered at once at the end.
        self._workerless = False
        self._clusters = self._make_clusters()
        disk = Disk(runtime.loop.call_soon_threadsafe)
        log = open_log(front.access_log)
        # It stands in the place of the log: its spans end where requests do.
        tracing = import_tracing("front.tracing").Tracing(log) if front.tracing else None
        self.server = InterfaceServer(
            front,
            self._clusters,
            tracing or log,
            runtime.reactor,
            time.time,
            lambda: subject.encoded_facts(),
            # With our own workers we see the same files.
            Files(front.file_roots, self.has_supervisor, disk, self._clusters.counters),
            tracing,
        )
        self._route(settings.pools)
        subject = ServerSubject(
            self.server, lambda: bool(self._listener.ports) and not self.ending, parent=self.has_supervisor
        )
        self._admin_starting: asyncio.Task[None] | None = None
        self._admin = Admin(subject, runtime.reactor, runtime.loop, front.admin, front.admin_hosts, front.admin_token)
        self._lag = LoopLag(runtime.reactor, self._clusters.counters.late)

    def _make_clusters(self) -> Clusters:
        return clusters_of(self.runtime, self._layer, self.process)

    async def start(self) -> None:
        # Now, and not when the first one comes: until then an upgrade may have replaced the files.
        self.server.websockets.protocol()
        await self.prepare()
        await self.listen()
        self.is_ready()

    async def prepare(self) -> None:
        """Be able to answer clients.

        Raises:
            ConfigurationError: an address cannot be had.
        """
        _allow_files(self._front.max_connections)
        # Before anything is started, for these addresses are not ours yet.
        await self._start_admin()
        await self._listener.start_described(self.server)
        self._clusters.start()
        knows = self.runtime.future(self.server.start())
        self._lag.start()
        # Clients that connect meanwhile wait in the kernel's queue. They need no answer that no node is there, and get
        # nothing that an operator does not want them to have.
        ready = self.runtime.future(self._clusters.home.ready())
        await asyncio.wait((ready, knows), timeout=_CONNECT_S)
        ready.cancel()

    async def listen(self) -> None:
        """Begin to answer them.

        Raises:
            ConfigurationError: an address cannot be had.
        """
        where = dict.fromkeys((*self._listening.descriptions, *await self._listener.start_bound(self.server)))
        text = "ifserver %s, process %s, listening on %s"
        mark = events.Mark.TAKEOVER if self._listening.taken_over else events.Mark.STARTED
        events.report(_log, logging.INFO, mark, text, __version__, self.process, ", ".join(where))
        self._log_clusters()
        if self._pools:
            shown = (f"{pool.name} ({pool.rules})" if pool.rules else pool.name for pool in self._pools)
            rest = "" if self._pools[-1].name == DEFAULT else "; what none of them takes is answered 404"
            _log.info("pools (a request goes to the first that matches): %s%s", "; ".join(shown), rest)

    def _log_clusters(self) -> None:
        for cluster in self._layer.clusters:
            home = ", home" if cluster is self._layer.home_cluster else ""
            _log.info("cluster %s%s: %s", cluster.name, home, ", ".join(map(str, cluster.nodes)))

    async def stop(self) -> None:
        await self._drain()
        await _flush(self._clusters)
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
        await self._listener.stop(self.succeeded)
        # What has been accepted in this turn of the loop gets its protocol in the next.
        await asyncio.sleep(0)
        if self._workerless:
            self.server.exchanges.give_up_unclaimed()
        await self.runtime.future(Deferred.fromCoroutine(self.server.drain(self.quick)))

    async def _end(self) -> None:
        """What is left when clients and workers have left. Until now the admin endpoint has shown it."""
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
        return bool(self._listener.ports) or not self.ready

    def counts(self) -> dict[str, int]:
        statistics = self.server.statistics()
        return {name: statistics[name] for name in ("connections", "streams")}

    def reload(self, new: CommandSettings) -> Collection[str]:
        self._front = updated(self._front, new.front)
        _allow_files(self._front.max_connections)
        kept = self.server.change(self._front)
        if self._listening.certificate is not None:
            try:
                self._listening.certificate.reload()
            except ConfigurationError as error:
                _log.error("%s; the old certificate is kept", error)
        return {*live_paths(), *self._reroute(new)} - kept

    def _reroute(self, new: CommandSettings) -> Collection[str]:
        """Take the pools over; the paths of their settings that take effect. The workers are elsewhere."""
        before, pools = self._pools, new.pools
        self._route(pools)
        self._log_ordered_weights()
        return all_of((*before, *pools))

    def _log_ordered_weights(self) -> None:
        """Log which weights those of new settings do not replace."""
        for of in self.server.exchanges.weights:
            _log.info("pool %s: the weights that were ordered go on (ifserver pool --reset: those of the settings)", of)

    def _route(self, pools: Sequence[PoolSettings]) -> None:
        self._pools = pools
        self.server.exchanges.route(Router(pools) if pools else None)

    def reopen_logs(self) -> None:
        self.server.access_log.reopen()

    async def _start_admin(self) -> None:
        if self._listening.taken_over:
            self._admin_starting = asyncio.create_task(self._start_admin_later())
        else:
            await self._admin.start()

    async def _start_admin_later(self) -> None:
        """The predecessor has the address until it knows that we are ready."""
        for attempt in range(_ADMIN_ATTEMPTS):
            try:
                await self._admin.start()
            except ConfigurationError as error:
                if attempt == _ADMIN_ATTEMPTS - 1:
                    _log.error("there is no admin endpoint: %s", error)
            else:
                return
            await asyncio.sleep(_ADMIN_PAUSE_S)


def _allow_files(wanted: int) -> None:
    files = sockets.allow_open_files(wanted + _OTHER_FILES)
    if files < wanted:
        _log.warning("max_connections is %d, but no more than %d files may be open", wanted, files)


async def _flush(clusters: Clusters) -> None:
    """Wait a little while for the nodes to take what is still to be sent to workers."""
    for _ in range(100):
        if not clusters.waiting():
            return
        await asyncio.sleep(0.01)


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
