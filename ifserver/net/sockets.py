"""Listening sockets from an operator's words. They are made before anything is started, so that what cannot be
is reported while nothing has happened yet."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import socket
import stat
import sys
import termios
from typing import Any, Final

from ifserver.config.networks import unix_address
from ifserver.errors import ConfigurationError

__all__ = [
    "UnixFile",
    "allow_open_files",
    "bind_private",
    "bind_tcp",
    "bind_unix",
    "files_left",
    "inherit",
    "taken_by_peer",
    "unsent_bytes",
    "url_of",
]

#: Linux's ``struct tcp_info`` up to `tcpi_bytes_acked` (RFC 4898: tcpEStatsAppHCThruOctetsAcked), and where that is.
_TCP_INFO_BYTES: Final = 128
_BYTES_ACKED: Final = slice(120, 128)


def bind_tcp(host: str, port: int) -> list[socket.socket]:
    """A socket for every address of `host`: a name may have several (``localhost``: IPv4 and IPv6).

    Raises:
        ConfigurationError: `host` is unknown, or an address cannot be had.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"cannot listen on {where}: {reason}") from error
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            sockets.append(_bound(family, kind, protocol, address))
        except OSError as error:
            # A machine without IPv6 still has ::1 in its /etc/hosts.
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and len(found) > 1:
                continue
            for sock in sockets:
                sock.close()
            raise ConfigurationError(f"cannot listen on {where}: {error.strerror}") from error
    if not sockets:
        raise ConfigurationError(f"cannot listen on {where}: this machine has none of its addresses")
    return sockets


def _bound(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        # A restart must not wait for the connections of the last run to be forgotten.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" and "0.0.0.0" are two sockets, and either can be had without the other.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        # Whether somebody else listens there shows only now, if they too allow the address to be reused.
        sock.listen()
    except BaseException:
        sock.close()
        raise
    return sock


class UnixFile:
    """The file of a Unix socket that was made here. One that was inherited is its owner's."""

    def __init__(self, path: str) -> None:
        self._path: str | None = path
        self._made = os.stat(path)

    def remove(self) -> None:
        """Remove it, once; not what somebody has put in its place."""
        path, self._path = self._path, None
        if path is not None:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(path), self._made):
                    os.unlink(path)


def bind_unix(path: str, mode: int = 0o666) -> tuple[socket.socket, UnixFile | None]:
    """A Unix socket at `path`, whose file has the permissions `mode`. The folder's permissions count as well.

    What a server that was killed has left behind there is replaced. With a leading ``@`` there is no file.

    Raises:
        ConfigurationError: somebody listens there, something else is there, or it cannot be made.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    file = None
    try:
        if path.startswith("@"):
            sock.bind(unix_address(path))
        else:
            _remove_stale(path)
            sock.bind(path)
            file = UnixFile(path)
            # Before it is listened on, so no client connects that `mode` keeps out.
            os.chmod(path, mode)
        sock.listen()
    except (OSError, ValueError) as error:
        sock.close()
        if file is not None:
            file.remove()
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"cannot listen on the Unix socket {path}: {reason}") from error
    return sock, file


def _remove_stale(path: str) -> None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "there is something else by that name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, "somebody listens there")


def bind_private(name: str) -> socket.socket:
    """A Unix socket in Linux's abstract namespace, which ends with its last descriptor: nothing can be left over."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(unix_address(f"@{name}"))
    except BaseException:
        sock.close()
        raise
    return sock


def inherit(fd: int) -> socket.socket:
    """The socket that our parent has left open as descriptor `fd` (``--fd``).

    Raises:
        ConfigurationError: it is no stream socket that could be listened on.
    """
    try:
        sock = socket.socket(fileno=fd)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"--fd {fd}: {reason}") from error
    if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        sock.detach()
        raise ConfigurationError(f"--fd {fd}: not a stream socket")
    with contextlib.suppress(OSError):
        sock.getpeername()
        sock.detach()
        raise ConfigurationError(f"--fd {fd}: connected already, so that it cannot be listened on")
    return sock


def url_of(sock: socket.socket) -> str:
    """Where a browser, or ``curl --unix-socket``, finds what listens on `sock`."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        path = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
        return "unix:" + ("@" + path[1:] if path.startswith("\0") else path)
    host = f"[{name[0]}]" if sock.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"


def allow_open_files(count: int) -> int:
    """Let this process have so many files and sockets open, if it may decide that; how many it may have then.

    Most systems begin with 1024, for programs that use ``select()``, and allow far more on request.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return count if soft == resource.RLIM_INFINITY else soft


def files_left() -> tuple[int, int]:
    """How many more files and sockets this process may open, at least, and how many it may have open in all.

    The kernel gives the lowest number that is free (POSIX 2.6), so one is asked for: to count them would cost the more,
    the more there are.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    try:
        lowest = os.dup(2)
    except OSError:
        return 0, limit
    os.close(lowest)
    return limit - lowest, limit


def taken_by_peer(transport: Any) -> object:
    """How many bytes of what was written to `transport` the peer has taken; over a Unix socket, something that differs
    from the last time once it has taken one more. None where that is not known."""
    while (below := getattr(transport, "transport", None)) is not None:
        transport = below  # TLS is on top of another one
    handle = getattr(transport, "getHandle", lambda: None)()
    if handle is None:
        return None
    try:
        if handle.family != socket.AF_UNIX:
            info: bytes = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            return int.from_bytes(info[_BYTES_ACKED], sys.byteorder)
        # What the peer has not read; and what has found no room there, or has been sent past the transport, either of
        # which may fill it up as fast as the peer reads.
        unread = fcntl.ioctl(handle.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        return unread, getattr(transport, "buffered", int)(), getattr(transport, "sent_past", 0)
    except (OSError, AttributeError):
        return None  # another system


def unsent_bytes(transport: Any) -> int:
    """Bytes that were written to `transport` and that the kernel has not taken, as far as it reports; else 0."""
    buffered: int = getattr(transport, "buffered", int)()
    return buffered
