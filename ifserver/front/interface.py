"""What the connections of clients see of the server: all that a further kind of connection needs."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol, TypeAlias

from ifserver import messages as m
from ifserver.clock import Clock, Soon, WallClock
from ifserver.config.networks import Networks
from ifserver.config.settings import FrontSettings
from ifserver.front.access import AccessLog, Entry
from ifserver.front.admission import Key
from ifserver.front.deadlines import Deadlines
from ifserver.front.driver import Exchange, HttpClient
from ifserver.front.http1.requests import Incoming
from ifserver.front.http1.response_heads import HeadWriter
from ifserver.front.http1.waits import Waits
from ifserver.front.tally import Tally
from ifserver.front.unsent import Unsent
from ifserver.metrics import Counters

__all__ = ["Addresses", "Connection", "Server"]

#: Scheme, client and server of a connection, as its transport knows them.
Addresses: TypeAlias = tuple[str, tuple[str, int] | None, tuple[str, int | None] | None]


class Connection(Hashable, Protocol):
    """A client's connection."""

    #: As whose it is counted.
    key: Key
    transport: Any

    def shut_down(self) -> None:
        """Begin nothing new, and end."""

    def abort(self) -> None:
        """Cut it."""


class Server(Protocol):
    """The server of a connection."""

    settings: FrontSettings
    #: Tell how time goes by, and the time of day; calls at the end of this turn.
    clock: Clock
    wall: WallClock
    soon: Soon
    counters: Counters
    tally: Tally
    access_log: AccessLog
    head_writer: HeadWriter
    #: Proxies that are believed; None: there are none.
    trusted: Networks | None
    #: The server ends: responses that begin now say that the connection ends with them.
    draining: bool
    #: Connections that wait for something; to which more was written than their clients take; how long WebSockets live.
    waits: Waits
    unsent: Unsent[Connection]
    lifetimes: Deadlines[Connection]

    def connected(self, connection: Connection) -> None:
        """`connection` is open."""

    def disconnected(self, connection: Connection) -> None:
        """`connection` is lost, or has become another."""

    def http_exchange(self, client: HttpClient, incoming: Incoming, addresses: Addresses) -> Exchange:
        """The exchange of a request whose body has arrived as far as `incoming` says."""

    def websocket_exchange(self, client: HttpClient, incoming: Incoming, addresses: Addresses) -> Exchange:
        """The exchange of a WebSocket's handshake."""

    def open_websocket(
        self, exchange: Exchange, incoming: Incoming, accept: m.WebSocketAccept, entry: Entry | None
    ) -> Any:
        """The connection (Twisted's protocol, and a `ifserver.front.driver.WebSocketClient`) of a WebSocket that the
        application has accepted; `entry` will be logged at its end."""
