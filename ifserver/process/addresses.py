"""The sockets that servers listen on: opened, given by systemd, shared among several servers, or handed to a successor.

A process that is started with listening sockets, one of several servers or the successor of this very process, gets its
instructions as other children do (`ifserver.process.children`): through an anonymous file, so that nothing of them is
in its arguments or environment but the number of a descriptor. A successor has the same command line as we have, and
does not end with us.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from ifserver.config.configuration import CommandSettings
from ifserver.config.settings import ListenSettings
from ifserver.errors import ConfigurationError
from ifserver.net import sockets
from ifserver.net.sockets import UnixFile
from ifserver.process import children
from ifserver.process.children import Child, Instructions
from ifserver.process.systemd import GivenSocket

if TYPE_CHECKING:
    import asyncio
    import subprocess


#: The settings that say where is listened.
_WHERE: Final = ("host", "port", "unix", "fd", "endpoints")
#: The descriptor of a successor's `Handover`.
_VARIABLE: Final = "IFSERVER_HANDOVER"


class _WithSockets(Instructions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a successor and one of several servers are to do."""

    #: Descriptors of the listening sockets.
    sockets: tuple[int, ...]

    @property
    def descriptors(self) -> tuple[int, ...]:
        return self.sockets


class Handover(_WithSockets, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a successor takes over."""

    #: Where the settings of its predecessor had it listen.
    listen: ListenSettings
    #: Paths of Unix sockets that were made by us, and that it removes in the end.
    files: tuple[str, ...]
    #: Where its predecessor's broker is reached; empty: it has none of its own.
    broker: str = ""


class ServerLaunch(_WithSockets, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one of several servers is to do."""

    #: Process id of its parent, with which it ends.
    parent: int
    #: The command line, by which it reads its settings again.
    words: tuple[str, ...]
    settings: CommandSettings
    #: Where it reports how it does (`ifserver.process.servers.Report`).
    report_fd: int
    #: Whether the sockets are a predecessor's as well, for a while.
    taken_over: bool

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (*self.sockets, self.report_fd)


_Ends = Callable[[], None]


# Listening sockets.


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
    """Everything that is listened on, for so many `servers`. Its files are removed in the end.

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
            addresses.sockets += more_of(sock, servers) if servers > 1 else [sock]


def _inherit(given: GivenSocket) -> socket.socket:
    os.set_inheritable(given.fd, False)
    try:
        return sockets.inherit(given.fd)
    except ConfigurationError as error:
        why = str(error).removeprefix(f"--fd {given.fd}: ")
        raise ConfigurationError(f"LISTEN_FDS: socket {given.fd}, named {given.name!r}: {why}") from error


def _take_over(addresses: Addresses, handed: Handover) -> None:
    addresses.predecessor = handed.broker
    addresses.sockets += map(sockets.inherit, handed.sockets)
    for path in handed.files:
        if os.path.exists(path):
            addresses.add_file(path, UnixFile(path))
    for name in _WHERE:
        if getattr(addresses.listen, name) != getattr(handed.listen, name):
            raise ConfigurationError(f"listen.{name}: another address needs a stop and a start, and not SIGUSR2")


def by_address(sockets: Iterable[socket.socket]) -> list[list[socket.socket]]:
    """`sockets`, those of one address together."""
    found: dict[object, list[socket.socket]] = {}
    for sock in sockets:
        found.setdefault((sock.family, sock.getsockname()), []).append(sock)
    return list(found.values())


def more_of(sock: socket.socket, count: int) -> list[socket.socket]:
    """`sock`, which was made here and listens on TCP, and others at its address: `count` sockets in all.

    The kernel spreads connections over them by a hash (SO_REUSEPORT, socket(7)). With one socket for all processes
    the one that is awake takes all that have come: of a burst of 64, two of four servers got none (measured). The
    option is set when `sock` has its address, so that nobody else's socket can join.

    Raises:
        ConfigurationError: there cannot be more.
    """
    sockets = [sock]
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        while len(sockets) < count:
            other = socket.socket(sock.family, sock.type, sock.proto)
            sockets.append(other)
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                other.setsockopt(socket.SOL_SOCKET, option, 1)
            if sock.family == socket.AF_INET6:
                other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            other.bind(sock.getsockname())
            other.listen()
    except OSError as error:
        for each in sockets[1:]:
            each.close()
        raise ConfigurationError(f"listen.processes: cannot share {sock.getsockname()}: {error.strerror}") from error
    return sockets


def share(groups: Iterable[Sequence[socket.socket]], number: int, count: int) -> list[socket.socket]:
    """What the server of that `number`, of `count`, listens on. Every socket has a server, and every server one of each
    group: what no process accepts from would take connections and keep them waiting."""
    return [sock for group in groups for sock in (group[number::count] or [group[number % len(group)]])]


# Starting.


def start_server(launch: ServerLaunch, loop: asyncio.AbstractEventLoop, ready: _Ends, ended: _Ends) -> Child:
    """Start one of several servers; `ready` and `ended` are called later, on `loop`.

    Must be called on the main thread: a child ends with the *thread* that started it.

    Raises:
        OSError: there are no processes, descriptors or memory left.
    """
    words = children.command("server")
    return children.start(launch, lambda fd, fds: children.popen([*words, str(fd)], fds), loop, ready, ended)


def start_successor(
    handover: Handover,
    environment: Mapping[str, str],
    loop: asyncio.AbstractEventLoop,
    ready: _Ends,
    ended: _Ends,
    command: Sequence[str] = (),
) -> Child:
    """Start this very command anew; `environment` is added to ours, `command` is what to run instead.

    Raises:
        OSError: there are no processes, descriptors or memory left, or the command is not there any more.
    """
    import subprocess

    line = list(command) or [sys.executable, *sys.orig_argv[1:]]

    def popen(fd: int, fds: list[int]) -> subprocess.Popen[bytes]:
        variables = {**os.environ, **environment, _VARIABLE: str(fd)}
        return subprocess.Popen(line, env=variables, pass_fds=fds)

    return children.start(handover, popen, loop, ready, ended)


# What the process that was started calls.


def become_server(fd: int) -> ServerLaunch:
    """First of all in one of several servers: read what it was started for, end with the parent, and leave Ctrl-C to
    it."""
    launch = children.read(fd, ServerLaunch)
    children.belong_to(launch.parent)
    return launch


def become_successor(environ: MutableMapping[str, str]) -> Handover | None:
    """What this process takes over; None: it was started by somebody else. The variable is taken out of `environ`.

    Raises:
        ConfigurationError: the variable cannot be.
    """
    text = environ.pop(_VARIABLE, None)
    if text is None:
        return None
    try:
        return children.read(int(text), Handover)
    except (ValueError, OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{_VARIABLE}: {text!r}: only ifserver itself sets it") from error
