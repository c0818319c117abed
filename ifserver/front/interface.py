"""What the connections of clients see of the server: all that a further kind of connection needs."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

from ifserver import messages as m
from ifserver.clock import Clock, Soon, WallClock
from ifserver.config.settings import FrontSettings
from ifserver.front.access_log import AccessLog, Entry
from ifserver.front.connection_limits import Key
from ifserver.front.exchanges.exchange import Exchange
from ifserver.front.exchanges.factory import Exchanges
from ifserver.front.http1.connection_timeouts import Waits
from ifserver.front.http1.response_heads import HeadWriter
from ifserver.front.incoming_request import Incoming
from ifserver.front.request_metrics import Tally
from ifserver.front.shared_timers import Deadlines
from ifserver.front.slow_clients import Unsent
from ifserver.metrics import Counters

__all__ = ["Connection", "Server"]


class Connection(Hashable, Protocol):
    """A client's connection."""

    #: Connections with the same key are counted together (`ifserver.front.connection_limits`).
    key: Key
    transport: Any

    def shut_down(self) -> None:
        """Close the connection when what is in progress has ended."""

    def abort(self) -> None:
        """Cut it."""


class Server(Protocol):
    """The server of a connection."""

    settings: FrontSettings
    clock: Clock
    #: The time of day, for Date and the access log.
    wall: WallClock
    #: Schedules a call for the end of this turn of the event loop.
    soon: Soon
    counters: Counters
    tally: Tally
    access_log: AccessLog
    head_writer: HeadWriter
    #: Makes the exchanges of what clients ask.
    exchanges: Exchanges
    #: Whether the server shuts down: responses that begin now close their connections.
    draining: bool
    #: The deadlines of HTTP/1 connections.
    waits: Waits
    #: Cuts connections whose clients do not read what was written.
    unsent: Unsent[Connection]
    #: Ends WebSockets after ``websocket_timeout_s``.
    lifetimes: Deadlines[Connection]

    def connected(self, connection: Connection) -> None:
        """`connection` is open."""

    def disconnected(self, connection: Connection) -> None:
        """`connection` is lost, or has become another."""

    def open_websocket(
        self, exchange: Exchange, incoming: Incoming, accept: m.WebSocketAccept, entry: Entry | None
    ) -> Any:
        """The connection (Twisted's protocol, and a `ifserver.front.exchanges.client.WebSocketClient`) of a WebSocket
        that the application has accepted; `entry` will be logged at its end."""
