"""The journal of systemd, in its native protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/

An entry is one datagram of fields. The journal adds who has sent it, and when.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from typing import Final

from ifserver.errors import ConfigurationError

__all__ = ["SOCKET", "Journal", "encode", "open_journal"]

#: Where it listens.
SOCKET: Final = "/run/systemd/journal/socket"
#: What we call ourselves there, as in ``journalctl -t ifserver``.
_IDENTIFIER: Final = "ifserver"


def encode(fields: Mapping[str, str | int | None]) -> bytes:
    """The datagram of one entry. A field that is None is left out; what is no Unicode is escaped."""
    pieces = [f"SYSLOG_IDENTIFIER={_IDENTIFIER}\n".encode()]
    for name, value in fields.items():
        if value is not None:
            data = str(value).encode("utf-8", "backslashreplace")
            if b"\n" in data:
                # "The length of the field data, as little-endian 64 bit".
                pieces.append(b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(data)), data))
            else:
                pieces.append(b"%b=%b\n" % (name.encode(), data))
    return b"".join(pieces)


class Journal:
    """The journal at the socket `path`, which may be started anew at any time.

    Args:
        timeout_s: how long it may take to have room for an entry, in seconds.
    """

    def __init__(self, path: str = SOCKET, timeout_s: float = 0.1) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(timeout_s)

    def send(self, entry: bytes) -> None:
        """Send what `encode` has made.

        Raises:
            OSError: there is no journal, or it does not take it in time.
        """
        try:
            self._socket.sendto(entry, self._path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_file(entry)

    def _send_file(self, entry: bytes) -> None:
        """What is too long for a datagram is sent as a file in memory, which nobody can change any more."""
        file = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            rest = memoryview(entry)
            while rest:
                rest = rest[os.write(file, rest) :]
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", file))
            self._socket.sendmsg([], [rights], 0, self._path)
        finally:
            os.close(file)

    def close(self) -> None:
        """Nothing more will be sent."""
        self._socket.close()


def open_journal(setting: str, path: str = SOCKET, timeout_s: float = 0.1) -> Journal:
    """The journal at `path`, for the setting of that name.

    Raises:
        ConfigurationError: there is none.
    """
    journal = Journal(path, timeout_s)
    try:
        # An empty datagram is no entry.
        journal.send(b"")
    except OSError as error:
        journal.close()
        raise ConfigurationError(f"{setting}: there is no journal here: {path}: {error.strerror or error}") from error
    return journal
