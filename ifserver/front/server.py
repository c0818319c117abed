"""The interface server: what all its connections share, and its beginning and end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocolNegotiationFactory
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from ifserver import channels
from ifserver import headers as h
from ifserver import messages as m
from ifserver.clock import Clock, WallClock
from ifserver.config.networks import parse_networks
from ifserver.config.settings import FrontSettings
from ifserver.errors import ConfigurationError
from ifserver.front.access import AccessLog, Entry
from ifserver.front.addresses import Addresses, ProxyHeader
from ifserver.front.admission import Admission
from ifserver.front.bursts import Bursts
from ifserver.front.canaries import Positions
from ifserver.front.client import HttpClient
from ifserver.front.deadlines import Deadlines
from ifserver.front.drain import Goodbye
from ifserver.front.exchange import Exchange, Unroutable
from ifserver.front.files import Disk, Files
from ifserver.front.groups import Members
from ifserver.front.http1.connection import Http1Connection
from ifserver.front.http1.response_heads import HeadWriter, plain_answer
from ifserver.front.http1.waits import Waits
from ifserver.front.incoming import Incoming, identify, stamp
from ifserver.front.interface import Connection
from ifserver.front.offers import Offers
from ifserver.front.ordered import Ordered
from ifserver.front.pauses import Pauses
from ifserver.front.peers import Peers
from ifserver.front.pools import Router
from ifserver.front.proxy_protocol import AnnouncedFactory
from ifserver.front.registry import Registry
from ifserver.front.replies import Replies
from ifserver.front.resumptions import Resumptions
from ifserver.front.tally import Tally
from ifserver.front.unresolved import Unresolved
from ifserver.front.unsent import Unsent
from ifserver.front.waiting_room import WaitingRoom
from ifserver.layers.beats import with_facts
from ifserver.layers.clusters import Clusters
from ifserver.layers.control import Control
from ifserver.layers.heartbeat import Heartbeat
from ifserver.layers.liveness import SERVER_LIFE_S
from ifserver.metrics import STREAMS_OPENED
from ifserver.streams.base import Stream
from ifserver.streams.effects import TimedOut, Waiting
from ifserver.streams.http import HttpStream
from ifserver.streams.websocket import WebSocketStream

if TYPE_CHECKING:
    from ifserver.front.tracing import Tracing
    from ifserver.front.websocket.connection import WebSocketConnection

__all__ = ["InterfaceServer"]

#: How long an application may go on to speak to a client that has broken the WebSocket protocol, in seconds; and how
#: long a server that ends waits for somebody to hear what clients have said that are gone.
_LAST_WORDS_S: Final = 1.0

_log = logging.getLogger(__name__)


@implementer(IProtocolNegotiationFactory)
class InterfaceServer(Factory):
    """Builds the protocol of each connection, and holds what they have in common.

    Args:
        reactor: tells how time goes by, and calls later.
        wall: tells the time of day, for Date and the access log.
        files: opens the files that it sends by itself; None: those below ``front.file_roots``.
        facts: what the beats of this server tell people (`ifserver.status.Facts`).
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
        self.clusters = clusters
        self.counters = clusters.counters
        self.tally = Tally()
        #: For which pool a request is, and the tally of each request channel; None: there are no pools.
        self.router: Router | None = None
        self.tallies: Mapping[str, Tally] | None = None
        #: How pools share requests, as operators have ordered; and which client gets which.
        self.weights: dict[str, Mapping[str, float]] = {}
        self.positions = Positions(settings.canary_by)
        #: Makes spans, and hears of requests that end as the access log does; None: it is off.
        self.tracing = _tracing(access_log) if settings.tracing else None
        self.access_log: AccessLog = self.tracing or access_log
        self.registry: Registry[Exchange] = Registry(clusters.home.inbox)
        self.wall = wall
        self.head_writer = HeadWriter(wall, settings.server_header)
        #: Made when it is needed.
        self._websocket_protocol: type[WebSocketConnection] | None = None
        self.admission = Admission(settings, reactor, self.counters)
        self.files = files or Files(settings.file_roots, False, Disk(clusters.soon), self.counters)
        #: Builds the protocols of connections that proxies announce.
        self.announced = AnnouncedFactory(self, reactor)
        #: From the beginning of the end: responses that begin now say that the connection ends with them.
        self.draining = False
        #: Tells how time goes by, and calls later.
        self.clock: Clock = reactor
        #: Calls at the end of this turn.
        self.soon = clusters.soon
        #: The log of what happens to many streams at once.
        self.bursts = Bursts(reactor)
        self.peers = Peers(clusters, reactor)
        self.offers = Offers(reactor, clusters)
        clusters.unread_changed = self.offers.move
        self.resumptions = Resumptions(clusters, reactor)
        self.waiting_room = WaitingRoom(clusters, reactor, settings.broker_wait_s)
        self.pauses = Pauses(self, reactor, settings.pause_timeout_s)
        #: The same while something is paused.
        self.paused: Pauses | None = None
        #: What operators order of all servers.
        self.ordered = Ordered(self)
        self.control = Control(clusters.groups, clusters.process, reactor, self.ordered)
        self.unresolved = Unresolved(clusters.accounting, self.counters, reactor, settings.queue_timeout_s)
        #: The groups of the streams.
        self.members = Members(clusters.groups, self.counters, settings)
        clusters.membership.here = self.members.of
        self._replies = Replies(clusters, self.registry, self.peers, self.unresolved)
        self.heartbeat = Heartbeat(
            clusters,
            clusters.home.nodes,
            reactor,
            SERVER_LIFE_S,
            lambda: with_facts(b"", facts()),
            self.peers.watched,
            self.peers.lost,
        )
        #: Proxies that are believed; None: there are none.
        self.trusted = parse_networks(settings.trusted_proxies, "front.trusted_proxies") or None
        self._retry_methods = frozenset(settings.retry_methods)
        self._connections: set[Connection] = set()
        self._make_deadlines()
        self._goodbye = Goodbye(self._connections, self.waits.idle, self.announced, reactor)
        self.access_log.change(settings.access_log_format, settings.access_log_queries)

    def _make_deadlines(self) -> None:
        settings, clock = self.settings, self.clock
        queue: Deadlines[Exchange] = Deadlines(clock, settings.queue_timeout_s, Exchange.timed_out)
        response: Deadlines[Exchange] = Deadlines(clock, settings.response_timeout_s, Exchange.timed_out)
        handshake: Deadlines[Exchange] = Deadlines(clock, settings.websocket_connect_timeout_s, Exchange.timed_out)
        self._http_deadlines = {Waiting.WORKER: queue, Waiting.RESPONSE: response}
        resumption: Deadlines[Exchange] = Deadlines(clock, settings.resume_timeout_s, Exchange.timed_out)
        last_words: Deadlines[Exchange] = Deadlines(clock, _LAST_WORDS_S, Exchange.timed_out)
        self._websocket_deadlines = {
            Waiting.WORKER: queue,
            Waiting.RESPONSE: handshake,
            Waiting.RESUMPTION: resumption,
            Waiting.LAST_WORDS: last_words,
        }
        #: The deadlines of HTTP/1 connections, and of clients that do not read what was written.
        self.waits = Waits(settings, clock)
        self.unsent: Unsent[Connection] = Unsent(clock, settings.write_timeout_s, self.counters)
        #: Ends WebSockets; empty while websocket_timeout_s is none.
        self.lifetimes: Deadlines[Connection] = Deadlines(
            clock, settings.websocket_timeout_s or 0.0, lambda each: each.shut_down()
        )

    def change(self, settings: FrontSettings) -> set[str]:
        """Take over what can be changed while we run: it holds for new connections and streams, and a wait has its new
        length for those too that wait already.

        Returns the paths of settings that cannot be taken over as they are; what was before is kept.
        """
        kept = set()
        self.settings = settings
        self.head_writer = HeadWriter(self.wall, settings.server_header)
        self._websocket_protocol = None
        self.admission.change(settings)
        self.members.change(settings)
        try:
            self.files.change(settings.file_roots)
        except ConfigurationError as error:
            _log.error("%s; the roots before are kept", error)
            kept.add("front.file_roots")
        self.access_log.change(settings.access_log_format, settings.access_log_queries)
        self.trusted = parse_networks(settings.trusted_proxies, "front.trusted_proxies") or None
        self._retry_methods = frozenset(settings.retry_methods)
        self.positions = Positions(settings.canary_by)
        self._http_deadlines[Waiting.WORKER].change(settings.queue_timeout_s)
        self.unresolved.change(settings.queue_timeout_s)
        self.pauses.change(settings.pause_timeout_s)
        self._http_deadlines[Waiting.RESPONSE].change(settings.response_timeout_s)
        self._websocket_deadlines[Waiting.RESPONSE].change(settings.websocket_connect_timeout_s)
        self._websocket_deadlines[Waiting.RESUMPTION].change(settings.resume_timeout_s)
        self.waits.change(settings, self.draining)
        self.unsent.change(settings.write_timeout_s)
        if settings.websocket_timeout_s is None:
            self.lifetimes.take_all()
        else:
            self.lifetimes.change(settings.websocket_timeout_s)
        return kept

    def route(self, router: Router | None) -> None:
        """Requests that begin now are for the pools that `router` says."""
        weights, self.router = {} if self.router is None else self.router.weights, router
        if router is not None:
            router.weigh(self.weights)
            before = dict(self.tallies or {})
            by_pool = {tally.pool: tally for tally in before.values()}
            # What was offered for a pool that is gone ends as it has begun.
            self.tallies = before | {
                channel: by_pool.setdefault(pool, Tally(pool)) for channel, pool in router.channels.items()
            }
            if weights and router.begins(weights):
                self.ordered.count_anew()

    # The beginning and the end.

    def start(self) -> Deferred[None]:
        """Begin to read replies; fires when this server knows what operators have ordered of all (`Control.start`)."""
        self.clusters.home.start(self._replies)
        self.heartbeat.start()
        self.clusters.readership.start()
        return self.control.start()

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
        # What clients have said that are gone is for their workers, whatever is paused.
        self.control.stop()
        self.pauses.stop()
        await self._hand_over_last_words(0.0 if quick else _LAST_WORDS_S)
        await self.clusters.home.stop()
        self.heartbeat.stop()
        self.peers.stop()
        self.clusters.readership.stop()
        self.offers.stop()
        self.unresolved.stop()
        self.waiting_room.stop()
        self.resumptions.stop()
        for deadlines in (*self._http_deadlines.values(), *self._websocket_deadlines.values()):
            deadlines.stop()
        self.waits.stop()
        self.unsent.stop()
        self.lifetimes.stop()
        self.admission.stop()
        self.files.stop()
        self.access_log.close()

    async def _hand_over_last_words(self, seconds: float) -> None:
        """Streams without a client are left: what those had said is held for workers that have not accepted yet."""
        end = self.clock.seconds() + seconds
        while len(self.registry) and self.clock.seconds() < end:
            paused: Deferred[None] = Deferred()
            self.clock.callLater(_LAST_WORDS_S / 20, paused.callback, None)
            await paused
        for exchange in self.registry.all():
            exchange.handle(TimedOut())

    def drain_now(self) -> None:
        """Wait no longer for what is under way."""
        self._goodbye.cut()

    def give_up_unclaimed(self) -> None:
        """There will be no worker: answer what waits for one, as at the end of ``queue_timeout``."""
        for exchange in self.registry.all():
            if exchange.is_unclaimed:
                exchange.handle(TimedOut())

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

    def http_exchange(self, client: HttpClient, incoming: Incoming, addresses: Addresses) -> Exchange:
        scheme, peer, host = addresses
        if self.trusted is not None:
            peer, scheme = h.seen_by_proxies(incoming.headers, peer, scheme, self.trusted)
        settings = self.settings
        root_path = settings.root_path
        request = m.HttpRequest(
            self.registry.new_channel(),
            0,
            self.clusters.home.node.clock() + settings.queue_timeout_s,
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
            incoming.take_body() if incoming.body else b"",
            not incoming.complete,
            self.files.enabled,
        )
        stream = HttpStream(request, incoming.method in self._retry_methods, incoming.expects_continue)
        incoming.stream = stream.identity
        if settings.request_id:
            identify(incoming, stream.identity.encode("ascii"), addresses[1], self.trusted)
        if settings.request_start:
            stamp(incoming, self.wall(), addresses[1], self.trusted)
        router = self.router
        channel = channels.HTTP_REQUEST if router is None else router.http(incoming)
        if router is not None and channel in router.shared:
            position, client.cookie = self.positions.of(incoming.headers, peer, scheme == "https")
            channel = router.shared[channel][position]
        if self.tracing is not None:
            self.tracing.begin(stream.identity, request, channel)
        self.counters.cells[STREAMS_OPENED["http"]] += 1
        if router is not None:
            return self._routed(channel, stream, client, self._http_deadlines)
        return Exchange(self, stream, client, channel, self._http_deadlines)

    def websocket_exchange(self, client: HttpClient, incoming: Incoming, addresses: Addresses) -> Exchange:
        scheme, peer, host = addresses
        if self.trusted is not None:
            peer, scheme = h.seen_by_proxies(incoming.headers, peer, scheme, self.trusted)
        root_path = self.settings.root_path
        subprotocols = h.list_items(incoming.headers, b"sec-websocket-protocol")
        request = m.WebSocketConnect(
            self.registry.new_channel(),
            0,
            self.deadline(),
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
            any(fnmatchcase(incoming.path, pattern) for pattern in self.settings.resumable_paths),
        )
        stream = WebSocketStream(request)
        incoming.stream = stream.identity
        if self.settings.request_id:
            identify(incoming, stream.identity.encode("ascii"), addresses[1], self.trusted)
        if self.settings.request_start:
            stamp(incoming, self.wall(), addresses[1], self.trusted)
        router = self.router
        channel = channels.WEBSOCKET_CONNECT if router is None else router.websocket(incoming)
        if router is not None and channel in router.shared:
            position, client.cookie = self.positions.of(incoming.headers, peer, scheme == "https")
            channel = router.shared[channel][position]
        if self.tracing is not None:
            self.tracing.begin(stream.identity, request, channel)
        self.counters.cells[STREAMS_OPENED["websocket"]] += 1
        if router is not None:
            return self._routed(channel, stream, client, self._websocket_deadlines)
        return Exchange(self, stream, client, channel, self._websocket_deadlines)

    def _routed(
        self, channel: str, stream: Stream, client: HttpClient, waits: Mapping[Waiting, Deadlines[Exchange]]
    ) -> Exchange:
        """The exchange of a request for a pool, or for none."""
        assert self.tallies is not None
        client.tally = self.tallies.get(channel, self.tally)
        return (Exchange if channel else Unroutable)(self, stream, client, channel, waits)

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

    def deadline(self, wait_s: float | None = None) -> float:
        """When nobody need take any more what is offered now, by the clock of the node of our inbox.

        Args:
            wait_s: how long it is waited for; None: as long as for a request.
        """
        return self.clusters.home.node.clock() + (self.settings.queue_timeout_s if wait_s is None else wait_s)

    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics."""
        return {
            "connections": len(self._connections),
            "streams": len(self.registry),
            **self.files.statistics(),
            **self.members.statistics(),
            **self.counters.statistics(),
        }


def _tracing(access_log: AccessLog) -> Tracing:
    try:
        from ifserver.front.tracing import Tracing
    except ImportError as error:
        raise ConfigurationError(f"front.tracing: {error}: pip install 'ifserver[otel]'") from error
    return Tracing(access_log)
