"""The admin endpoint of a process: health, metrics, and what an operator sees of all processes.

Its modules are imported when it is started: a process without one does without ``twisted.web`` and Prometheus' client.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort

from ifserver.config.checks import parse_address
from ifserver.net import sockets
from ifserver.net.endpoints import SocketEndpoint

if TYPE_CHECKING:
    from ifserver.observe.admin.endpoint import AdminFactory
    from ifserver.observe.admin.subject import ServerSubject, SupervisorSubject

__all__ = ["Admin"]

_log = logging.getLogger(__name__)


class Admin:
    """The admin endpoint of one process; with no `address` there is none.

    Args:
        address: ``HOST:PORT``.
        names: by which it may be asked.
        token: with which programs may publish; None: they may not.
    """

    def __init__(
        self,
        subject: ServerSubject | SupervisorSubject,
        reactor: Any,
        loop: asyncio.AbstractEventLoop,
        address: str | None,
        names: Sequence[str],
        token: str | None = None,
    ) -> None:
        self._subject = subject
        self._reactor = reactor
        self._loop = loop
        self._address = address
        self._names = names
        self._token = token
        self._factory: AdminFactory | None = None
        self._ports: list[IListeningPort] = []

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: the address cannot be bound.
        """
        if self._address is None:
            return
        from ifserver.observe.admin.endpoint import AdminFactory

        self._factory = AdminFactory(self._subject, self._reactor, self._names, self._token)
        for sock in sockets.bind_tcp(*parse_address(self._address)):
            listening = SocketEndpoint(self._loop, sock).listen(self._factory)
            self._ports.append(await listening.asFuture(self._loop))
            _log.info("admin endpoint at %s/", sockets.url_of(sock))
        self._factory.start()

    async def stop(self) -> None:
        """Listen no more, and cut all connections. Does nothing where it was not started."""
        ports, self._ports = self._ports, []
        for port in ports:
            stopping = port.stopListening()
            if isinstance(stopping, Deferred):
                await stopping.asFuture(self._loop)
        if self._factory is not None:
            self._factory.close()
