"""Sending files from the page cache to a client, past the event loop's transport (sendfile(2))."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from ifserver.net.endpoints import LoopTransport

__all__ = ["Outlet"]


class Outlet:
    """The socket under a transport of the loop, for as long as nothing is written to that.

    It has a descriptor of its own. The loop may close the transport's at any moment, and its number be another client's
    in the same turn; and it lets no other wait for a descriptor that is a transport's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, transport: LoopTransport) -> None:
        self._loop = loop
        self._socket = sock
        self._transport = transport
        self._waits = False

    @classmethod
    def of(cls, transport: Any) -> Outlet | None:
        """The one of `transport`. None: it has none, as with TLS, or what was written to it has not left yet."""
        if type(transport) is not LoopTransport or not transport.is_free():
            return None
        handle = transport.getHandle()
        try:
            fd = os.dup(handle.fileno())
        except OSError:
            return None  # too many are open
        # With its family, or Python would ask the kernel three times what it is.
        sock = socket.socket(handle.family, socket.SOCK_STREAM, 0, fileno=fd)
        return cls(asyncio.get_running_loop(), sock, transport)

    def send_head(self, data: bytes) -> int:
        """Send what comes before a file, in one packet with its first bytes. Returns how much has left.

        Raises:
            BlockingIOError: the client takes nothing now.
            OSError: it has left.
        """
        return self._socket.send(data, socket.MSG_MORE | socket.MSG_DONTWAIT)

    def send_file(self, fd: int, offset: int, count: int) -> int:
        """Send up to `count` bytes of a file. Returns how many have left; 0: the file has no more.

        Raises:
            BlockingIOError: the client takes nothing now.
            OSError: it has left, or the file cannot be read.
        """
        sent = os.sendfile(self._socket.fileno(), fd, offset, count)
        self._transport.sent_past += sent
        return sent

    def wait(self, call: Callable[[], None]) -> None:
        """Call `call` in each turn of the loop in which the client takes something, until `wait_not`."""
        if not self._waits:
            self._waits = True
            self._loop.add_writer(self._socket.fileno(), call)

    def wait_not(self) -> None:
        """Call no more."""
        if self._waits:
            self._waits = False
            self._loop.remove_writer(self._socket.fileno())

    def close(self) -> None:
        """Leave the connection to the transport."""
        self.wait_not()
        self._socket.close()
