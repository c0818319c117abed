"""Sending a file as the body of a response, while its client takes it.

Over a transport of the loop with nothing before it, the kernel sends it out of its page cache (sendfile(2)). Else, as
with TLS, it is read and written piece by piece.

What is not in the page cache would stop the loop, and so all clients, until a disk has it; and the kernel has no
sendfile that waits for no disk. So each part is looked for first, by reading its first and last byte with RWF_NOWAIT,
which takes a microsecond. Files are read ahead by the kernel in one piece, so that what is between is there as well, as
a rule. If one of them is missing, a thread reads the part, which the kernel keeps, and then it is sent. To send all
parts from threads would cost a small file as much again, and the kernel copies nothing here that a thread could take
off the loop.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Final

from ifserver.front.files import read_cached
from ifserver.front.http1.connection_states import Event
from ifserver.net.sendfile import Outlet

if TYPE_CHECKING:
    from ifserver import messages as m
    from ifserver.front.files import File
    from ifserver.front.http1.response import Http1Response

__all__ = ["PART_BYTES", "FileBody"]

#: What one client is sent in one turn of the loop. More than its socket takes at a time, as a rule; copying it takes
#: less than 0.1 ms.
PART_BYTES: Final = 256 * 1024
#: What is read in one piece where it is copied: a transport that holds more than this is full.
PIECE_BYTES: Final = 64 * 1024


_log = logging.getLogger(__name__)


class FileBody:
    """The body of `response`, which is in `file`, as `message` has it. `start` sends it; then the file is closed.

    Args:
        channel: of its stream, for the log.
    """

    def __init__(self, response: Http1Response, file: File, message: m.ResponseFile, channel: str) -> None:
        self._response = response
        self._file = file
        self._offset = message.offset
        self._left = message.count
        self._named = channel, message.path
        self._disk = response.http1.server.exchanges.files.disk
        self._head = b""
        self._outlet: Outlet | None = None
        #: The part of the file up to here can be sent without waiting for a disk.
        self._cached_to = 0
        #: Whether `_copy` is called later by something else than the client.
        self._is_due = False
        #: Whether it has to wait, for the client or a disk, and is watched.
        self._waits = False
        self._is_over = False

    def start(self, head: bytes) -> None:
        """Send `head`, and then the file."""
        outlet = self._outlet = Outlet.of(self._response.transport)
        if outlet is None:
            self._response.transport.write(head)
            self._copy()
        else:
            self._head = head
            self._send()

    def resume(self) -> None:
        """The transport takes again what is written to it."""
        if self._outlet is None and not self._is_due and not self._is_over:
            self._copy()

    def stop(self) -> None:
        """Send no more: the connection ends, or all was sent."""
        if not self._is_over:
            self._is_over = True
            self._leave_outlet()
            # A thread may read it still. Whatever has its number by then, what was read is not used.
            self._file.close()

    def _end(self) -> None:
        """All of it was sent."""
        self.stop()
        self._response.file = None
        self._response.finish()

    def _fail(self, why: str) -> None:
        """It cannot be sent, and the client is there."""
        self.stop()
        _log.error("%s: cutting the connection: the file %r cannot be sent: %s", *self._named, why)
        self._response.connection.handle(Event.INVALID)

    def _leave_outlet(self) -> None:
        outlet, self._outlet = self._outlet, None
        if outlet is not None:
            outlet.close()
        self._watch_not()

    def _watch(self) -> None:
        """From now on, the connection is cut when its client gets nothing for too long (``write_timeout``)."""
        if not self._waits:
            self._waits = self._response.write_paused = True
            self._response.http1.server.slow_clients.begin(self._response.connection)

    def _watch_not(self) -> None:
        if self._waits:
            self._waits = self._response.write_paused = False
            self._response.http1.server.slow_clients.end(self._response.connection)

    # By sendfile.

    def _send(self) -> None:
        """Send a part; the rest when the client has taken it."""
        outlet = self._outlet
        assert outlet is not None
        try:
            if self._head:
                self._head = self._head[outlet.send_head(self._head) :]
            if not self._head:
                part = self._cached_part()
                if not part:
                    outlet.wait_not()
                    self._fetch(PART_BYTES)
                    return
                sent = outlet.send_file(self._file.fd, self._offset, part)
                if not self._is_sent(sent):
                    return
        except BlockingIOError:
            pass
        except OSError as error:
            self._failed(error)
            return
        self._watch()
        outlet.wait(self._send)

    def _cached_part(self) -> int:
        """How many bytes can be sent now without waiting for a disk, as far as is known."""
        if self._cached_to <= self._offset:
            fd, part = self._file.fd, min(self._left, PART_BYTES)
            # (A file that is shorter by now has nothing to wait for: that is an empty read.)
            if read_cached(fd, 1, self._offset) is None or read_cached(fd, 1, self._offset + part - 1) is None:
                return 0
            self._cached_to = self._offset + part
        return self._cached_to - self._offset

    def _failed(self, error: OSError) -> None:
        if error.errno in (errno.EINVAL, errno.ENOSYS):
            # The kernel cannot do it with this file system.
            self._leave_outlet()
            self._copy()
        elif error.errno in (errno.EIO, errno.ESTALE):
            self._fail(str(error))
        else:
            self._response.connection.abort()  # the client has left

    def _is_sent(self, count: int) -> bool:
        """So much has been sent. Returns whether more must follow."""
        if not count:
            self._fail("it was truncated while being sent")
            return False
        self._offset += count
        self._left -= count
        self._response.sent_bytes += count
        self._response.http1.tally.http_bytes_out += count
        if not self._left:
            self._end()
        return bool(self._left)

    # What has to wait for a disk.

    def _fetch(self, part: int) -> None:
        fd, offset, part = self._file.fd, self._offset, min(self._left, part)
        self._is_due = True
        # A disk may be lost for good, as those of networks are.
        self._watch()
        try:
            self._disk.do(lambda: os.pread(fd, part, offset), self._fetched)
        except OSError as error:
            self._fail(str(error))

    def _fetched(self, data: bytes | OSError) -> None:
        self._is_due = False
        if self._is_over:
            return
        if isinstance(data, OSError):
            self._fail(str(data))
        elif self._outlet is None:
            self._watch_not()
            if self._write(data):
                self._copy()
        elif data:
            # Not asked for again: where the kernel does not know, or has no room for it, that would never end.
            self._cached_to = self._offset + len(data)
            self._send()
        else:
            self._is_sent(0)

    # By copying.

    def _copy(self) -> None:
        """Write pieces as long as the transport takes them, as much as a part in one turn."""
        self._is_due = False
        for _ in range(PART_BYTES // PIECE_BYTES):
            if self._is_over or self._response.write_paused:
                return
            try:
                data = read_cached(self._file.fd, min(self._left, PIECE_BYTES), self._offset)
            except OSError as error:
                self._fail(str(error))
                return
            if data is None:
                self._fetch(PIECE_BYTES)
                return
            if not self._write(data):
                return
        self._is_due = True
        self._response.http1.soon(self._copy)

    def _write(self, data: bytes) -> bool:
        """Write a piece. Returns whether more must follow."""
        if data:
            self._response.transport.write(data)
        return self._is_sent(len(data))
