"""How the WebSockets of a server are opened, and when they have to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ifserver import messages as m
from ifserver.clock import Clock
from ifserver.config.settings import FrontSettings
from ifserver.front.access_log import Entry
from ifserver.front.deadlines import Deadlines
from ifserver.front.incoming_request import Incoming
from ifserver.front.interface import Connection, Server

if TYPE_CHECKING:
    from ifserver.front.websocket.connection import WebSocketConnection

if TYPE_CHECKING:
    from ifserver.front.exchanges.exchange import Exchange

__all__ = ["WebSockets"]


class WebSockets:
    """Opens the WebSockets of `server`."""

    def __init__(self, server: Server, clock: Clock) -> None:
        self._server = server
        self._clock = clock
        #: Ends them; empty while websocket_timeout_s is none.
        self.lifetimes: Deadlines[Connection] = Deadlines(
            clock, server.settings.websocket_timeout_s or 0.0, lambda each: each.shut_down()
        )
        #: Made when it is needed.
        self._protocol: type[WebSocketConnection] | None = None

    def change(self, settings: FrontSettings) -> None:
        """Open them as `settings` say from now on; a longest life has its new length also for those that are open."""
        self._protocol = None
        if settings.websocket_timeout_s is None:
            self.lifetimes.take_all()
        else:
            self.lifetimes.change(settings.websocket_timeout_s)

    def open(
        self, exchange: Exchange, incoming: Incoming, accept: m.WebSocketAccept, entry: Entry | None
    ) -> WebSocketConnection:
        """The connection of a WebSocket that the application has accepted; `entry` will be logged at its end."""
        websocket = self.protocol()(self._server, exchange, incoming, accept, entry)
        if self._server.settings.websocket_timeout_s is not None:
            self.lifetimes.add(websocket)
        return websocket

    def protocol(self) -> type[WebSocketConnection]:
        """The protocol of WebSockets. What speaks it takes 50 ms of CPU and 6 MB to import, so that is done
        when the first one is accepted; or before, by whoever calls this."""
        if self._protocol is None:
            from ifserver.front.websocket.connection import WebSocketConnection
            from ifserver.front.websocket.frames import configured

            self._protocol = configured(WebSocketConnection, self._server.settings, self._clock)
        return self._protocol
