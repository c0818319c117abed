"""What the connections of clients see of the server: all that a further kind of connection needs of it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Protocol

from ifserver.config.settings import FrontSettings
from ifserver.front.access_log import AccessLog
from ifserver.front.connection_limits import ConnectionLimits, Key
from ifserver.front.slow_clients import SlowClients

if TYPE_CHECKING:
    from ifserver.front.exchanges.exchanges import Exchanges

__all__ = ["Connection", "Server"]


class Connection(Hashable, Protocol):
    """A client's connection."""

    #: ``http`` or ``websocket``, for metrics.
    kind: str
    #: Connections with the same key are counted together (`ifserver.front.connection_limits`).
    key: Key
    transport: Any

    def shut_down(self) -> None:
        """Close the connection when what is in progress has ended."""

    def abort(self) -> None:
        """Cut it."""


class Server(Protocol):
    """The server of a connection. What one kind of them alone needs is in a shared object of that kind."""

    settings: FrontSettings
    #: Makes the exchanges of what clients ask, and has what is counted of them.
    exchanges: Exchanges
    access_log: AccessLog
    admission: ConnectionLimits
    #: Whether the server shuts down: responses that begin now close their connections.
    draining: bool
    #: Cuts connections whose clients do not read what was written.
    slow_clients: SlowClients

    def connected(self, connection: Connection) -> None:
        """`connection` is open."""

    def disconnected(self, connection: Connection) -> None:
        """`connection` is lost, or has become another."""
