"""The interface server: its connections, and its beginning and end."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocolNegotiationFactory
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from ifserver import messages as m
from ifserver.clock import Clock, WallClock
from ifserver.config.settings import FrontSettings
from ifserver.errors import ConfigurationError
from ifserver.front.access_log import AccessLog, Entry
from ifserver.front.addresses import ProxyHeader
from ifserver.front.connection_limits import Admission
from ifserver.front.drain import Goodbye
from ifserver.front.exchanges.exchange import Exchange
from ifserver.front.exchanges.factory import Exchanges
from ifserver.front.files import Disk, Files
from ifserver.front.http1.connection import Http1Connection
from ifserver.front.http1.connection_timeouts import Waits
from ifserver.front.http1.response_heads import HeadWriter, plain_answer
from ifserver.front.incoming_request import Incoming
from ifserver.front.interface import Connection
from ifserver.front.proxy_protocol import AnnouncedFactory
from ifserver.front.shared_timers import Deadlines
from ifserver.front.slow_clients import Unsent
from ifserver.layers.clusters import Clusters

if TYPE_CHECKING:
    from ifserver.front.exchanges.tracing import Tracing
    from ifserver.front.websocket.connection import WebSocketConnection

__all__ = ["InterfaceServer"]


@implementer(IProtocolNegotiationFactory)
class InterfaceServer(Factory):
    """Builds the protocol of each connection, and holds what they have in common.

    Args:
        reactor: tells how time goes by, and calls later.
        wall: tells the time of day, for Date and the access log.
        facts: what the beats of this server tell people (`ifserver.status.Facts`).
        files: opens the files that it sends by itself; None: those below ``front.file_roots``.
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
    ) -> None:
        self.settings = settings
        self.counters = clusters.counters
        #: Tells how time goes by, and calls later.
        self.clock: Clock = reactor
        self.wall = wall
        #: Calls at the end of this turn.
        self.soon = clusters.soon
        tracing = _tracing(access_log) if settings.tracing else None
        #: It hears of requests that end; so do the spans.
        self.access_log: AccessLog = tracing or access_log
        self.access_log.change(settings.access_log_format, settings.access_log_queries)
        files = files or Files(settings.file_roots, False, Disk(clusters.soon), self.counters)
        #: Streams, and all that concerns the channel layer.
        self.exchanges = Exchanges(settings, clusters, reactor, wall, files, tracing, facts)
        self.tally = self.exchanges.tally
        #: From the beginning of the end: responses that begin now say that the connection ends with them.
        self.draining = False
        self.admission = Admission(settings, reactor, self.counters)
        self.head_writer = HeadWriter(wall, settings.server_header)
        #: The deadlines of HTTP/1 connections, and of clients that do not read what was written.
        self.waits = Waits(settings, reactor)
        self.unsent: Unsent[Connection] = Unsent(reactor, settings.write_timeout_s, self.counters)
        #: Ends WebSockets; empty while websocket_timeout_s is none.
        self.lifetimes: Deadlines[Connection] = Deadlines(
            reactor, settings.websocket_timeout_s or 0.0, lambda each: each.shut_down()
        )
        #: Builds the protocols of connections that proxies announce.
        self.announced = AnnouncedFactory(self, reactor)
        #: Made when it is needed.
        self._websocket_protocol: type[WebSocketConnection] | None = None
        self._connections: set[Connection] = set()
        self._goodbye = Goodbye(self._connections, self.waits.idle, self.announced, reactor)

    def change(self, settings: FrontSettings) -> set[str]:
        """Take over what can be changed while we run: it holds for new connections and streams, and a wait has its new
        length for those too that wait already.

        Returns the paths of settings that cannot be taken over as they are; what was before is kept.
        """
        self.settings = settings
        self.head_writer = HeadWriter(self.wall, settings.server_header)
        self._websocket_protocol = None
        self.admission.change(settings)
        self.access_log.change(settings.access_log_format, settings.access_log_queries)
        self.waits.change(settings, self.draining)
        self.unsent.change(settings.write_timeout_s)
        if settings.websocket_timeout_s is None:
            self.lifetimes.take_all()
        else:
            self.lifetimes.change(settings.websocket_timeout_s)
        return self.exchanges.change(settings)

    # The beginning and the end.

    def start(self) -> Deferred[None]:
        """Begin to read replies; fires when this server knows what operators have ordered of all (`Control.start`)."""
        return self.exchanges.start()

    async def drain(self, quick: bool = False) -> None:
        """End in order: no connection is kept alive for long, what is under way is answered for ``drain_timeout_s``,
        WebSockets are closed one after the other, and the inbox is read until all is answered. The caller has stopped
        listening.

        Args:
            quick: somebody waits for it.
        """
        self.draining = True
        await self._goodbye.say(self.settings, quick)
        self._goodbye.stop()
        await self.exchanges.stop(quick)
        self.waits.stop()
        self.unsent.stop()
        self.lifetimes.stop()
        self.admission.stop()
        self.access_log.close()

    def drain_now(self) -> None:
        """Wait no longer for what is under way."""
        self._goodbye.cut()

    # What connections need (`ifserver.front.interface.Server`).

    def acceptableProtocols(self) -> list[bytes]:
        """What TLS clients may choose from (ALPN). With nothing to choose from, handshakes that offer a choice fail."""
        return [b"http/1.1", b"http/1.0"]

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self.build(addr, None)

    def build(self, address: IAddress | None, announced: ProxyHeader | None) -> Protocol:
        """The protocol of a connection from `address`, and what a proxy has announced of it."""
        key = self.admission.key(address)
        if self.admission.refuses(key, len(self._connections)):
            headers, body = plain_answer(503, [(b"retry-after", str(self.settings.retry_after_s).encode())])
            head, _ = self.head_writer.write(503, headers, len(body), "GET", "1.1", keep_alive=False)
            return self.admission.turn_away(head + body)
        return Http1Connection(self, key, announced)

    def connected(self, connection: Connection) -> None:
        self._connections.add(connection)
        self.admission.enter(connection.key)

    def disconnected(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self.admission.leave(connection.key)
        self.unsent.end(connection)
        self._goodbye.look()

    @property
    def connections(self) -> Collection[Connection]:
        """The connections that are open."""
        return self._connections

    def open_websocket(
        self, exchange: Exchange, incoming: Incoming, accept: m.WebSocketAccept, entry: Entry | None
    ) -> WebSocketConnection:
        return self.websocket_protocol()(self, exchange, incoming, accept, entry)

    def websocket_protocol(self) -> type[WebSocketConnection]:
        """The protocol of WebSockets. What speaks it takes 50 ms of CPU and 6 MB to import, so that is done
        when the first one is accepted; or before, by whoever calls this."""
        if self._websocket_protocol is None:
            from ifserver.front.websocket.connection import WebSocketConnection
            from ifserver.front.websocket.frames import configured

            self._websocket_protocol = configured(WebSocketConnection, self.settings, self.clock)
        return self._websocket_protocol

    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics."""
        exchanges = self.exchanges
        return {
            "connections": len(self._connections),
            "streams": len(exchanges.registry),
            **exchanges.files.statistics(),
            **exchanges.members.statistics(),
            **self.counters.statistics(),
        }


def _tracing(access_log: AccessLog) -> Tracing:
    try:
        from ifserver.front.exchanges.tracing import Tracing
    except ImportError as error:
        raise ConfigurationError(f"front.tracing: {error}: pip install 'ifserver[otel]'") from error
    return Tracing(access_log)
