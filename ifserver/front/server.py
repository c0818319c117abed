"""The interface server: its connections, and its beginning and end."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

from twisted.internet.interfaces import IAddress, IProtocolNegotiationFactory
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from ifserver.front.connection_limits import ConnectionLimits
from ifserver.front.deadlines import SlowClients
from ifserver.front.drain import Drain
from ifserver.front.exchanges.exchanges import Exchanges
from ifserver.front.files import Disk, Files
from ifserver.front.http1.connection import Http1Connection
from ifserver.front.http1.shared import Http1
from ifserver.front.proxy_protocol import AnnouncedFactory
from ifserver.front.websocket.opening import WebSockets

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

    from ifserver.clock import WallClock
    from ifserver.config.settings import FrontSettings
    from ifserver.front.access_log import AccessLog
    from ifserver.front.connection_limits import Key
    from ifserver.front.exchanges.exchanges import Tracing
    from ifserver.front.proxy_protocol import ProxyHeader
    from ifserver.layers.clusters import Clusters

__all__ = ["Connection", "InterfaceServer"]


class Connection(Hashable, Interface):
    """A client's connection. `Http1Connection`, `WebSocketConnection`, and further kinds."""

    #: ``http`` or ``websocket``, for metrics.
    kind: str
    #: Connections with the same key are counted together (`ifserver.front.connection_limits`).
    key: Key
    transport: Any

    def shut_down(self) -> None:
        """Close the connection when what is in progress has ended."""

    def abort(self) -> None:
        """Cut it."""


@implementer(IProtocolNegotiationFactory)
class InterfaceServer(Factory):
    """Builds the protocol of each connection, and holds what they have in common.

    Args:
        reactor: measures time, and calls later.
        wall: the time of day, for Date and the access log.
        facts: what the beats of this server show people (`ifserver.status.Facts`).
        files: opens the files that it sends by itself; None: those below ``front.file_roots``.
        tracing: makes spans; None: it is off.
    """

    noisy = False

    def __init__(
        self,
        settings: FrontSettings,
        clusters: Clusters,
        access_log: AccessLog,
        reactor: Any,
        wall: WallClock,
        facts: Callable[[], bytes] = bytes,
        files: Files | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.settings = settings
        counters = clusters.counters
        self.access_log = access_log
        self.access_log.change(settings.access_log_format, settings.access_log_queries)
        files = files or Files(settings.file_roots, False, Disk(clusters.soon), counters)
        #: Streams, and all that concerns the channel layer.
        self.exchanges = Exchanges(settings, clusters, reactor, wall, files, tracing, facts)
        #: From the beginning of the end: responses that begin now announce that the connection ends with them.
        self.draining = False
        self.admission = ConnectionLimits(settings, reactor, counters)
        #: The deadlines of clients that do not read what was written.
        self.slow_clients = SlowClients(reactor, settings.write_timeout_s, counters)
        self.websockets = WebSockets(self, reactor)
        self.http1 = Http1(self, reactor, wall, clusters.soon)
        #: Builds the protocols of connections that proxies announce.
        self.announced = AnnouncedFactory(self, reactor)
        #: The connections that are open.
        self.connections: set[Connection] = set()
        self._drain = Drain(self.connections, self.http1.idle, self.announced, reactor)

    def change(self, settings: FrontSettings) -> set[str]:
        """Take over what can be changed while we run: it holds for new connections and streams, and a wait has its new
        length for those too that wait already.

        Returns the paths of settings that cannot be taken over as they are; what was before is kept.
        """
        self.settings = settings
        self.admission.change(settings)
        self.access_log.change(settings.access_log_format, settings.access_log_queries)
        self.http1.change(settings)
        self.websockets.change(settings)
        self.slow_clients.change(settings.write_timeout_s)
        return self.exchanges.change(settings)

    # The beginning and the end.

    def start(self) -> Deferred[None]:
        """Begin to read replies; fires when this server knows what operators have ordered of all
        (`OperatorOrderGossip.start`)."""
        return self.exchanges.start()

    async def drain(self, quick: bool = False) -> None:
        """End: no connection is kept alive for long, what is under way is answered for ``drain_timeout_s``,
        WebSockets are closed one after the other, and the inbox is read until all is answered. The caller has stopped
        listening.

        Args:
            quick: somebody waits for it.
        """
        self.draining = True
        await self._drain.begin(self.settings, quick)
        self._drain.stop()
        await self.exchanges.stop(quick)
        self.http1.stop()
        self.slow_clients.stop()
        self.websockets.lifetimes.stop()
        self.admission.stop()
        self.access_log.close()

    def drain_now(self) -> None:
        """Wait no longer for what is under way."""
        self._drain.cut()

    # What connections need.

    def acceptableProtocols(self) -> list[bytes]:
        """What TLS clients may choose from (ALPN). With nothing to choose from, handshakes that offer a choice fail."""
        return [b"http/1.1", b"http/1.0"]

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self.build(addr, None)

    def build(self, address: IAddress | None, announced: ProxyHeader | None) -> Protocol:
        """The protocol of a connection from `address`, and what a proxy has announced of it."""
        key = self.admission.key(address)
        if self.admission.refuses(key, len(self.connections)):
            return self.admission.turn_away(self.http1.too_many())
        return Http1Connection(self.http1, key, announced)

    def connected(self, connection: Connection) -> None:
        """`connection` is open."""
        self.connections.add(connection)
        self.admission.enter(connection.key)

    def disconnected(self, connection: Connection) -> None:
        """`connection` is lost, or has become another."""
        self.connections.discard(connection)
        self.admission.leave(connection.key)
        self.slow_clients.end(connection)
        self.websockets.lifetimes.pop(connection, None)
        self._drain.look()

    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics."""
        exchanges = self.exchanges
        return {
            "connections": len(self.connections),
            "streams": len(exchanges.registry),
            **exchanges.files.statistics(),
            **exchanges.members.statistics(),
            **exchanges.counters.statistics(),
        }
