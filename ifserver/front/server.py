"""The interface server: what all its connections share, and its beginning and end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocolNegotiationFactory
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from ifserver import channels
from ifserver import headers as h
from ifserver import messages as m
from ifserver.clock import Clock, Timer
from ifserver.front.access import AccessLog
from ifserver.front.admission import Admission
from ifserver.front.connection import Http1Connection
from ifserver.front.deadlines import Deadlines
from ifserver.front.driver import Exchange, HttpClient
from ifserver.front.offers import Offers
from ifserver.front.peers import Peers
from ifserver.front.proxy_protocol import AnnouncedFactory, Header
from ifserver.front.registry import Registry
from ifserver.front.replies import Replies
from ifserver.front.requests import Incoming
from ifserver.front.responses import HeadWriter, plain_answer
from ifserver.front.unsent import Unsent
from ifserver.front.waiting_room import WaitingRoom
from ifserver.front.websocket import WebSocketConnection, make_factory
from ifserver.layers.clusters import Clusters
from ifserver.layers.heart import Heart
from ifserver.liveness import SERVER_LIFE_S
from ifserver.settings import FrontSettings, parse_networks
from ifserver.streams.base import Stream
from ifserver.streams.effects import Waiting
from ifserver.streams.http import HttpStream
from ifserver.streams.websocket import WebSocketStream

__all__ = ["InterfaceServer"]

#: Scheme, client and server of a connection, as its transport knows them.
Addresses: TypeAlias = tuple[str, tuple[str, int] | None, tuple[str, int | None] | None]

#: How long a body whose response has ended is read and thrown away, in seconds (design: Request bodies).
_DISCARD_S: Final = 2.0

_log = logging.getLogger(__name__)


@implementer(IProtocolNegotiationFactory)
class InterfaceServer(Factory):
    """Builds the protocol of each connection, and holds what they have in common."""

    noisy = False

    def __init__(self, settings: FrontSettings, clusters: Clusters, access_log: AccessLog, reactor: Any) -> None:
        self.settings = settings
        self.clusters = clusters
        self.counters = clusters.counters
        self.access_log = access_log
        self.registry = Registry(clusters.inbox)
        self.head_writer = HeadWriter(reactor.seconds, settings.server_header)
        self.websocket_factory = make_factory(settings, reactor)
        self.admission = Admission(settings, reactor, self.counters)
        #: Builds the protocols of connections that proxies announce.
        self.announced = AnnouncedFactory(self, reactor)
        #: From the beginning of the end: connections are not kept alive any more.
        self.draining = False
        #: Tells the time, and calls later.
        self.clock: Clock = reactor
        self.peers = Peers(clusters, reactor)
        self.offers = Offers(reactor, clusters.behind)
        self.waiting_room = WaitingRoom(clusters, reactor, settings.broker_wait_s)
        self._replies = Replies(clusters, self.registry, reactor)
        self._heart = Heart(
            clusters, [clusters.home], reactor, SERVER_LIFE_S, bytes, self.peers.watched, self.peers.lost
        )
        self._trusted = parse_networks(settings.trusted_proxies, "front.trusted_proxies")
        self._retry_methods = frozenset(settings.retry_methods)
        self._connections: set[Http1Connection | WebSocketConnection] = set()
        self._drained: Deferred[None] | None = None
        self._drain_timer: Timer | None = None
        self._make_deadlines()

    def _make_deadlines(self) -> None:
        settings, clock = self.settings, self.clock
        queue: Deadlines[Exchange] = Deadlines(clock, settings.queue_timeout_s, Exchange.timed_out)
        response: Deadlines[Exchange] = Deadlines(clock, settings.response_timeout_s, Exchange.timed_out)
        handshake: Deadlines[Exchange] = Deadlines(clock, settings.websocket_connect_timeout_s, Exchange.timed_out)
        self._http_deadlines = {Waiting.WORKER: queue, Waiting.RESPONSE: response}
        self._websocket_deadlines = {Waiting.WORKER: queue, Waiting.RESPONSE: handshake}
        #: Connections without a request, those whose request's head is not complete, those that read for nothing.
        idle_s = settings.keep_alive_timeout_s or settings.header_timeout_s  # before the first request also if 0
        self.idle = Deadlines(clock, idle_s, Http1Connection.shut_down)
        self.heads_due = Deadlines(clock, settings.header_timeout_s, Http1Connection.head_too_slow)
        #: Those of whose request's body more must come.
        self.bodies_due = Deadlines(clock, settings.body_timeout_s, Http1Connection.body_too_slow)
        self.discarding = Deadlines(clock, _DISCARD_S, Http1Connection.lose)
        #: Those to which more was written than their clients take.
        self.unsent: Unsent[Http1Connection | WebSocketConnection] = Unsent(
            clock, settings.write_timeout_s, self.counters
        )
        self._lifetimes: Deadlines[WebSocketConnection] | None = None
        if settings.websocket_timeout_s is not None:
            self._lifetimes = Deadlines(clock, settings.websocket_timeout_s, WebSocketConnection.shut_down)

    # The beginning and the end.

    def start(self) -> None:
        """Begin to read replies."""
        self._replies.start()
        self._heart.start()

    async def drain(self) -> None:
        """End in order: no connection is kept alive, what is under way is answered for ``drain_timeout_s``, and the
        inbox is read until all is answered. The caller has stopped listening."""
        self.draining = True
        self.announced.stop()
        for connection in list(self._connections):
            connection.shut_down()
        if self._connections:
            _log.info("waiting up to %g s for %d connections", self.settings.drain_timeout_s, len(self._connections))
            self._drained = Deferred()
            self._drain_timer = self.clock.callLater(self.settings.drain_timeout_s, self._drain_timed_out)
            await self._drained
        await self._replies.stop()
        self._heart.stop()
        self.peers.stop()
        self.offers.stop()
        self.waiting_room.stop()
        for deadlines in (*self._http_deadlines.values(), *self._websocket_deadlines.values()):
            deadlines.stop()
        for each in (self.idle, self.heads_due, self.bodies_due, self.discarding, self.unsent, self._lifetimes):
            if each is not None:
                each.stop()
        self.admission.stop()
        self.access_log.close()

    def drain_now(self) -> None:
        """Wait no longer for what is under way."""
        for connection in list(self._connections):
            connection.abort()

    def _drain_timed_out(self) -> None:
        self._drain_timer = None
        _log.warning("cutting %d connections that did not end in time", len(self._connections))
        self.drain_now()

    # What connections need.

    def acceptableProtocols(self) -> list[bytes]:
        """What TLS clients may choose from (ALPN). With nothing to choose from, handshakes that offer a choice fail."""
        return [b"http/1.1", b"http/1.0"]

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self.build(addr, None)

    def build(self, address: IAddress | None, announced: Header | None) -> Protocol:
        """The protocol of a connection from `address`, and what a proxy has announced of it."""
        key = self.admission.key(address)
        if self.admission.refuses(key, len(self._connections)):
            headers, body = plain_answer(503, [(b"retry-after", str(self.settings.retry_after_s).encode())])
            head, _ = self.head_writer.write(503, headers, len(body), "GET", "1.1", keep_alive=False)
            return self.admission.turn_away(head + body)
        return Http1Connection(self, key, announced)

    def connected(self, connection: Http1Connection | WebSocketConnection) -> None:
        """`connection` is open."""
        self._connections.add(connection)
        self.admission.enter(connection.key)
        if isinstance(connection, Http1Connection):
            self.idle.add(connection)
        elif self._lifetimes is not None:
            self._lifetimes.add(connection)

    def closing(self, connection: Http1Connection) -> None:
        """`connection` is open only until the client has taken what was sent to it."""
        self._forget_deadlines(connection)
        self.unsent.begin(connection)

    def disconnected(self, connection: Http1Connection | WebSocketConnection) -> None:
        """`connection` is lost, or has become another."""
        self._connections.discard(connection)
        self.admission.leave(connection.key)
        self.unsent.end(connection)
        if isinstance(connection, Http1Connection):
            self._forget_deadlines(connection)
        elif self._lifetimes is not None:
            self._lifetimes.discard(connection)
        if self._drained is not None and not self._connections:
            drained, self._drained = self._drained, None
            if self._drain_timer is not None:
                self._drain_timer.cancel()
            drained.callback(None)

    def _forget_deadlines(self, connection: Http1Connection) -> None:
        for each in (self.idle, self.heads_due, self.bodies_due, self.discarding):
            each.discard(connection)

    def deadlines(self, stream: Stream) -> Mapping[Waiting, Deadlines[Exchange]]:
        """How long `stream` may wait for what."""
        return self._http_deadlines if type(stream) is HttpStream else self._websocket_deadlines

    def client_of(
        self, incoming: Incoming, peer: tuple[str, int] | None, scheme: str
    ) -> tuple[tuple[str, int] | None, str]:
        """Client and scheme of a request: the transport's, or what trusted proxies say."""
        if not self._trusted:
            return peer, scheme
        return h.seen_by_proxies(incoming.headers, peer, scheme, self._trusted)

    def http_exchange(self, client: HttpClient, incoming: Incoming, addresses: Addresses) -> Exchange:
        """The exchange of a request whose body has arrived as far as `incoming` says."""
        scheme, peer, host = addresses
        peer, scheme = self.client_of(incoming, peer, scheme)
        root_path = self.settings.root_path
        request = m.HttpRequest(
            self.registry.new_channel(),
            0,
            self.clusters.home.clock() + self.settings.queue_timeout_s,
            incoming.http_version,
            incoming.method,
            scheme,
            root_path + incoming.path,
            root_path.encode() + incoming.raw_path,
            incoming.query_string,
            root_path,
            incoming.headers,
            peer,
            host,
            incoming.take_body(),
            not incoming.complete,
        )
        stream = HttpStream(request, incoming.method in self._retry_methods, incoming.expects_continue)
        self.counters.add("streams_opened", label="http")
        return Exchange(self, stream, client, channels.HTTP_REQUEST)

    def websocket_exchange(self, client: HttpClient, incoming: Incoming, addresses: Addresses) -> Exchange:
        """The exchange of a WebSocket's handshake."""
        scheme, peer, host = addresses
        peer, scheme = self.client_of(incoming, peer, scheme)
        root_path = self.settings.root_path
        subprotocols = h.list_items(incoming.headers, b"sec-websocket-protocol")
        request = m.WebSocketConnect(
            self.registry.new_channel(),
            0,
            self.clusters.home.clock() + self.settings.queue_timeout_s,
            incoming.http_version,
            "wss" if scheme == "https" else "ws",
            root_path + incoming.path,
            root_path.encode() + incoming.raw_path,
            incoming.query_string,
            root_path,
            incoming.headers,
            peer,
            host,
            [item.decode("latin-1") for item in subprotocols],
        )
        self.counters.add("streams_opened", label="websocket")
        return Exchange(self, WebSocketStream(request), client, channels.WEBSOCKET_CONNECT)

    def open_websocket(self, exchange: Exchange, incoming: Incoming, accept: m.WebSocketAccept) -> WebSocketConnection:
        """The protocol of a WebSocket that the application has accepted."""
        return WebSocketConnection(self, exchange, incoming, accept)

    def ended(self, exchange: Exchange) -> None:
        """`exchange` is over."""
        self.registry.remove(exchange)
        self.peers.left(exchange)
        self.offers.left(exchange)
        self.waiting_room.left(exchange)
        self.counters.add("streams_closed", label="http" if type(exchange.stream) is HttpStream else "websocket")

    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics."""
        return {"connections": len(self._connections), "streams": len(self.registry), **self.counters.statistics()}
