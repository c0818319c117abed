"""Makes the exchanges of what clients ask."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ifserver import channels
from ifserver import headers as h
from ifserver import messages as m
from ifserver.front.exchanges.exchange import Exchange
from ifserver.front.incoming_request import Incoming, identify, stamp
from ifserver.metrics import STREAMS_OPENED
from ifserver.state_machines.http import HttpStream
from ifserver.state_machines.websocket import WebSocketStream

if TYPE_CHECKING:
    from ifserver.front.deadlines import Deadlines
    from ifserver.front.exchanges.carry_out import HttpClient
    from ifserver.front.exchanges.exchanges import Exchanges
    from ifserver.front.proxy_protocol import Addresses
    from ifserver.state_machines.effects import Waiting
    from ifserver.state_machines.stream import Stream

__all__ = ["http", "websocket"]


def http(exchanges: Exchanges, client: HttpClient, incoming: Incoming, addresses: Addresses) -> Exchange:
    """The exchange of a request, of whose body `incoming` has what has arrived."""
    scheme, peer, host = addresses
    if exchanges.trusted is not None:
        peer, scheme = h.seen_by_proxies(incoming.headers, peer, scheme, exchanges.trusted)
    settings, home = exchanges.settings, exchanges.clusters.home
    root_path = settings.root_path
    # The first is `channels.make_reply_channel`, and the third has `Node.clock` in it: without calls, since this is
    # the way of every request.
    request = m.HttpRequest(
        f"{home.inbox}.{next(exchanges.numbers):x}",
        0,
        exchanges.clock.seconds() + home.node.lead_s + settings.queue_timeout_s,
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
        exchanges.files.enabled,
    )
    stream = HttpStream(request, incoming.method in exchanges.retry_methods, incoming.expects_continue)
    exchanges.counters.cells[STREAMS_OPENED["http"]] += 1
    channel = channels.HTTP_REQUEST if exchanges.router is None else exchanges.router.http(incoming)
    return _exchange(exchanges, client, incoming, addresses[1], stream, channel, exchanges.http_waits)


def websocket(exchanges: Exchanges, client: HttpClient, incoming: Incoming, addresses: Addresses) -> Exchange:
    """The exchange of a WebSocket's handshake."""
    scheme, peer, host = addresses
    if exchanges.trusted is not None:
        peer, scheme = h.seen_by_proxies(incoming.headers, peer, scheme, exchanges.trusted)
    root_path = exchanges.settings.root_path
    subprotocols = h.list_items(incoming.headers, b"sec-websocket-protocol")
    request = m.WebSocketConnect(
        channels.make_reply_channel(exchanges.clusters.home.inbox, next(exchanges.numbers)),
        0,
        exchanges.deadline(),
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
        any(fnmatchcase(incoming.path, pattern) for pattern in exchanges.settings.resumable_paths),
    )
    stream = WebSocketStream(request)
    exchanges.counters.cells[STREAMS_OPENED["websocket"]] += 1
    channel = channels.WEBSOCKET_CONNECT if exchanges.router is None else exchanges.router.websocket(incoming)
    return _exchange(exchanges, client, incoming, addresses[1], stream, channel, exchanges.websocket_waits)


def _exchange(
    exchanges: Exchanges,
    client: HttpClient,
    incoming: Incoming,
    peer: tuple[str, int] | None,
    stream: Stream,
    channel: str,
    waits: Mapping[Waiting, Deadlines[Exchange]],
) -> Exchange:
    """The exchange of a stream.

    Args:
        peer: who has sent the request to us: the client, or a proxy.
        channel: the request channel; empty: no pool takes the request.
    """
    settings, router = exchanges.settings, exchanges.router
    incoming.stream = stream.identity
    if settings.request_id:
        identify(incoming, stream.identity.encode("ascii"), peer, exchanges.trusted)
    if settings.request_start:
        stamp(incoming, exchanges.wall(), peer, exchanges.trusted)
    if router is not None and channel in router.shared:
        request = stream.request
        position, client.cookie = exchanges.positions.of(
            incoming.headers, request.client, request.scheme in ("https", "wss")
        )
        channel = router.shared[channel][position]
    if exchanges.tracing is not None:
        exchanges.tracing.begin(stream.identity, stream.request, channel)
    if exchanges.tallies is not None:
        client.tally = exchanges.tallies.get(channel, exchanges.tally)
    return Exchange(exchanges, stream, client, channel, waits)
