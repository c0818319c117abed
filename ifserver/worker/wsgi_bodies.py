"""The bodies of a WSGI request and of its response, between the thread that runs the application and the event loop.

`whole_body` and `Input` are ``wsgi.input`` (PEP 3333, "Input and Error Streams"): of a body that is read before the
application is called, and of one that is read while it comes.

`Output` is a short queue: while the event loop sends one piece, the application makes the next. Where the queue is full
the thread waits for the client, for a second in all, and longer for one that takes 4 MiB a second. Then the rest of the
response goes into a temporary file (`Overflow`), from which the loop sends it, and the thread is free when the
application has returned. Where there is no room for the file, it waits on.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, Final

from ifserver.asgi_events import Receive
from ifserver.errors import ClientDisconnected
from ifserver.flow_control import PIECE_BYTES
from ifserver.worker.stream import OVER, about_stream

if TYPE_CHECKING:
    from ifserver.worker.wsgi_stream import ThreadedStream

__all__ = ["EXTENTS", "EXTENT_BYTES", "Input", "Output", "Overflow", "whole_body"]

#: A body that is longer goes on in a temporary file.
_IN_MEMORY_BYTES: Final = 65_536
#: All responses of a process may have so many extents in temporary files, of so many bytes each; so 1 GiB, and no more
#: files than this.
EXTENTS: Final = 256
EXTENT_BYTES: Final = 4 * 1024 * 1024
#: A thread waits while so much of its response is unsent, in bytes, and until no more is left than one piece.
_UNSENT_BYTES: Final = 2 * PIECE_BYTES
#: What is made in one piece goes into the queue as it is, up to this; what is longer is cut.
_PART_BYTES: Final = 1024 * 1024
#: Of a client that takes so much, in bytes per second, a thread waits for all that it makes.
_FAST_BYTES_PER_S: Final = 4 * 1024 * 1024
#: When one that waits looks again whether there is room for a file, in seconds.
_LOOK_AGAIN_S: Final = 1.0

_log = logging.getLogger(__name__)


async def whole_body(receive: Receive) -> IO[bytes] | None:
    """The request's body, once all of it is there; None: the client has left before."""
    body = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 (the thread closes it)
    try:
        while (event := await receive())["type"] == "http.request":
            body.write(event["body"])
            if not event["more_body"]:
                body.seek(0)
                return body
    except BaseException:
        body.close()
        raise
    # What was cut off must not look whole, so the application gets nothing of it.
    body.close()
    return None


class Input(io.RawIOBase):
    """What the event loop is given of a body, for one thread that reads. To be wrapped in an ``io.BufferedReader``.

    Args:
        notify: is called in the thread when it has taken a piece.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        #: Set by the thread: the sizes of what it has taken, of which the server does not know.
        self.taken: deque[int] = deque()
        #: Pieces that have not been read. Bounded by the window of the stream.
        self._pieces: deque[bytes] = deque()
        self._rest = memoryview(b"")
        self._whole = self._lost = False
        self._waiting: threading.Lock | None = None

    # In the event loop.

    def feed(self, piece: bytes, more: bool) -> None:
        """The next of the body has come."""
        self._pieces.append(piece)
        self._whole = not more  # behind its piece
        self._wake()

    def cut(self) -> None:
        """Nothing more will come: what is not whole must not look so."""
        self._lost = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.release()

    # In the thread.

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for some of the body. Returns 0 at its end.

        Raises:
            ClientDisconnected: the client has left before, or has had its response.
        """
        while not self._rest:
            whole = self._whole  # before the pieces: one that comes meanwhile may be the last
            if self._pieces:
                piece = self._pieces.popleft()
                self._rest = memoryview(piece)
                self.taken.append(len(piece))
                self._notify()
            elif whole:
                return 0
            elif self._lost:
                raise ClientDisconnected("the rest of the request's body will not come: its client has left")
            else:
                self._wait()
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _wait(self) -> None:
        lock = threading.Lock()
        lock.acquire()
        self._waiting = lock
        # The loop may have been faster, and then it wakes nobody.
        if not (self._pieces or self._whole or self._lost):
            lock.acquire()


class Overflow:
    """What waits for the client of one response, in a temporary file without a name. A thread puts, the loop takes.

    Args:
        extents: those of all responses that are free.
    """

    __slots__ = ("_begin", "_extents", "_fd", "_own", "_put", "_taken")

    def __init__(self, extents: threading.Semaphore) -> None:
        self._extents = extents
        self._own = 0
        self._fd = -1
        #: Bytes that were put and taken in all; and of them, how many before the first that is in the file.
        self._put = self._taken = self._begin = 0

    @property
    def due(self) -> int:
        """How many bytes can be taken."""
        return self._put - self._taken

    def put(self, data: bytes | memoryview) -> None:
        """Put up to `EXTENT_BYTES`.

        Raises:
            OSError: there is no room for it.
        """
        if not self.due:
            self._begin = self._put  # what was there has been taken: its place is free
        offset = self._put - self._begin
        if offset + len(data) > self._own * EXTENT_BYTES:
            self._grow()
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._fd, rest, offset)
            rest, offset = rest[written:], offset + written
        self._put += len(data)

    def take(self, size: int) -> bytes:
        """The next `size` bytes, all of which are due.

        In the loop, as they were written a short while ago, and are in the kernel's cache as a rule.

        Raises:
            OSError: they cannot be read.
        """
        data = os.pread(self._fd, size, self._taken - self._begin)
        if len(data) < size:
            raise OSError(errno.EIO, "a temporary file is shorter than what was written to it")
        self._taken += size
        return data

    def close(self) -> None:
        """Give its room to others. No thread may be putting."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._own:
            self._extents.release(self._own)
            self._own = 0

    def _grow(self) -> None:
        if self._fd < 0:
            with tempfile.TemporaryFile(buffering=0) as file:
                self._fd = os.dup(file.fileno())
        disk = os.fstatvfs(self._fd)
        if disk.f_bavail * 10 < disk.f_blocks:
            raise OSError(errno.ENOSPC, f"less than a tenth of the disk under {tempfile.gettempdir()} is free")
        if not self._extents.acquire(blocking=False):
            raise OSError(errno.EDQUOT, "responses for slow clients take all the room for temporary files")
        self._own += 1


class Output:
    """The body of a response. What the thread sets it sets before it notifies the loop, and the loop only reads it.

    Args:
        patience_s: how long the thread may wait for its client, beside what that has earned (`_FAST_BYTES_PER_S`).
        extents: those of all responses that are free.
    """

    __slots__ = (
        "_extents",
        "_has_warned",
        "_patience_s",
        "_pieces",
        "_rest",
        "_sent",
        "_stream",
        "made",
        "overflow",
        "room",
        "whole",
    )

    def __init__(self, stream: ThreadedStream, patience_s: float, extents: threading.Semaphore) -> None:
        self._stream = stream
        self._patience_s = patience_s
        self._extents = extents
        self._has_warned = False
        # Set by the thread: what it has made of the body, in bytes as well, and whether that is all; and what follows
        # the pieces, once it has waited for too long.
        self._pieces: deque[bytes] = deque()
        self.made = 0
        self.whole = False
        self.overflow: Overflow | None = None
        #: On what the thread sleeps while too much is unsent.
        self.room: list[threading.Lock] = []
        # Set by the loop: bytes that were taken to be sent; and of the last piece, what is still to be taken.
        self._sent = 0
        self._rest: Any = b""

    # In the thread.

    def put(self, piece: bytes) -> None:
        """Put some of the body. Waits while too much is unsent.

        Raises:
            ClientDisconnected: the client has left.
        """
        is_next = self.overflow is None or not self.overflow.due
        if self.made - self._sent < _UNSENT_BYTES and len(piece) <= _PART_BYTES and is_next:
            self._pieces.append(piece)
            self.made += len(piece)
        else:
            self._put_slowly(memoryview(piece))

    def _put_slowly(self, data: memoryview) -> None:
        """Send what is very long, or what the client does not take as fast as it is made."""
        while data:
            part = data[:_PART_BYTES]
            if self.made - self._sent < _UNSENT_BYTES and not self._is_overflowing:
                self._pieces.append(bytes(part))  # a view would keep all of it
            elif (patience := self._patience_s + self._sent / _FAST_BYTES_PER_S) > 0 or not self._put_aside(part):
                self._wait_for_room(patience if patience > 0 else _LOOK_AGAIN_S)
                continue
            self.made += len(part)
            data = data[_PART_BYTES:]
            self._stream.notify()

    @property
    def _is_overflowing(self) -> bool:
        """Whether anything is in the file, so that all that comes must follow it there."""
        return self.overflow is not None and self.overflow.due > 0

    def _put_aside(self, part: memoryview) -> bool:
        """Put some of the body into the file. False: there is no room."""
        if self.overflow is None:
            self.overflow = Overflow(self._extents)
        try:
            self.overflow.put(part)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                text = "%s: a thread waits for its client, which reads slowly: %s (TMPDIR, --threads)"
                _log.warning(text, self._stream, error.strerror, extra=about_stream(self._stream))
            return False
        return True

    @property
    def _has_room(self) -> bool:
        return self.made - self._sent <= PIECE_BYTES and not self._is_overflowing

    def _wait_for_room(self, seconds: float) -> None:
        """Wait until the client has taken nearly all, or so long."""
        room = threading.Lock()
        room.acquire()
        self.room[:] = [room]
        # The loop may have been faster, and then it wakes nobody.
        if not self._has_room and self._stream.phase not in OVER:
            began = time.monotonic()
            room.acquire(timeout=seconds)
            self._patience_s -= time.monotonic() - began
        self._stream.check_client()

    # In the event loop.

    @property
    def has_more(self) -> bool:
        """Whether anything is left to be taken."""
        return bool(self._pieces or self._rest or self._is_overflowing)

    def take(self) -> Any:
        """The next piece, of `PIECE_BYTES` at most; None: there is none.

        Raises:
            OSError: it cannot be read from the file.
        """
        rest = self._rest
        if not rest:
            # Before the pieces: if the thread adds some and goes on in the file meanwhile, they come first.
            due = 0 if self.overflow is None else self.overflow.due
            if self._pieces:
                rest = self._pieces.popleft()
                if self._pieces and len(rest) < PIECE_BYTES:
                    rest = self._with_next(rest)
            elif due:
                assert self.overflow is not None
                rest = self.overflow.take(min(due, PIECE_BYTES))
            else:
                return None
        piece = rest
        if len(rest) > PIECE_BYTES:
            # Cut into views, which msgspec takes for bytes: each piece is copied when it is encoded anyway.
            rest = memoryview(rest)
            piece, self._rest = rest[:PIECE_BYTES], rest[PIECE_BYTES:]
        else:
            self._rest = b""
        self._sent += len(piece)
        return piece

    def _with_next(self, first: bytes) -> bytes:
        """As many of the pieces as make a full one."""
        taken, size = [first], len(first)
        while self._pieces and size < PIECE_BYTES:
            taken.append(self._pieces.popleft())
            size += len(taken[-1])
        return b"".join(taken)

    def make_room(self) -> None:
        """Wake the thread, if it can go on."""
        if self._has_room or self._stream.phase in OVER:
            while self.room:
                self.room.pop().release()

    def close(self) -> None:
        """The application has returned, and nothing more is sent."""
        if self.overflow is not None:
            self.overflow.close()
