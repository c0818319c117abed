"""The sockets that a server listens on: those that its settings name, those that systemd has opened, or those of its
predecessor."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from ifserver.config.settings import ListenSettings
from ifserver.errors import ConfigurationError
from ifserver.net import sockets
from ifserver.net.sockets import UnixFile
from ifserver.process import handover
from ifserver.process.handover import Handover
from ifserver.process.systemd import GivenSocket

__all__ = ["Addresses", "opened"]

#: The settings that say where is listened.
_WHERE: Final = ("host", "port", "unix", "fd", "endpoints")


class Addresses:
    """What is listened on, and the files that belong to it."""

    def __init__(self, listen: ListenSettings, taken_over: bool = False) -> None:
        self.listen = listen
        #: Whether a predecessor has them too.
        self.taken_over = taken_over
        #: Where the predecessor's broker is reached, and ours, for a successor; empty: there is none.
        self.predecessor = self.broker = ""
        self.sockets: list[socket.socket] = []
        self.files: list[UnixFile] = []
        self._paths: list[str] = []

    def add_file(self, path: str, file: UnixFile) -> None:
        """A Unix socket was made by us at `path`."""
        self.files.append(file)
        self._paths.append(os.path.abspath(path))

    def handover(self) -> Handover:
        """What a successor takes over.

        Raises:
            ConfigurationError: something of it cannot be taken over.
        """
        if self.listen.endpoints:
            raise ConfigurationError(f"what listens on the endpoint {self.listen.endpoints[0]} cannot be handed over")
        fds = tuple(sock.fileno() for sock in self.sockets)
        return Handover(sockets=fds, listen=self.listen, files=tuple(self._paths), broker=self.broker)

    def given_away(self) -> None:
        """A successor has them: the files are its own from now on."""
        self.files.clear()

    def close(self) -> None:
        """Remove the files that are left."""
        for file in self.files:
            file.remove()


@contextmanager
def opened(
    listen: ListenSettings, given: Sequence[GivenSocket] = (), handed: Handover | None = None, servers: int = 1
) -> Iterator[Addresses]:
    """Everything that is listened on, for so many `servers`. What was not started leaves no file behind either.

    Raises:
        ConfigurationError: something cannot be had.
    """
    addresses = Addresses(listen, taken_over=handed is not None)
    try:
        if handed is None:
            _open(addresses, given, servers)
        else:
            _take_over(addresses, handed)
        yield addresses
    finally:
        addresses.close()


def _open(addresses: Addresses, given: Sequence[GivenSocket], servers: int) -> None:
    listen = addresses.listen
    addresses.sockets += [sockets.inherit(fd) for fd in listen.fd]
    addresses.sockets += map(_inherit, given)
    if listen.unix is not None:
        sock, file = sockets.bind_unix(listen.unix, int(listen.unix_mode, 8))
        addresses.sockets.append(sock)
        if file is not None:
            addresses.add_file(listen.unix, file)
    # What systemd listens on is instead of the default address.
    tcp = None if given and listen.host is None and listen.port is None else listen.tcp
    if tcp is not None:
        for sock in sockets.bind_tcp(*tcp):
            addresses.sockets += handover.more_of(sock, servers) if servers > 1 else [sock]


def _inherit(given: GivenSocket) -> socket.socket:
    os.set_inheritable(given.fd, False)
    try:
        return sockets.inherit(given.fd)
    except ConfigurationError as error:
        said = str(error).removeprefix(f"--fd {given.fd}: ")
        raise ConfigurationError(f"LISTEN_FDS: socket {given.fd}, named {given.name!r}: {said}") from error


def _take_over(addresses: Addresses, handed: Handover) -> None:
    addresses.predecessor = handed.broker
    addresses.sockets += map(sockets.inherit, handed.sockets)
    for path in handed.files:
        if os.path.exists(path):
            addresses.add_file(path, UnixFile(path))
    for name in _WHERE:
        if getattr(addresses.listen, name) != getattr(handed.listen, name):
            raise ConfigurationError(f"listen.{name}: another address needs a stop and a start, and not SIGUSR2")
