"""``wsgi.input`` (PEP 3333, "Input and Error Streams"): of a body that is read before the application is called, and of
one that is read while it comes."""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Callable
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final

from ifserver.asgi_events import Receive
from ifserver.errors import ClientDisconnected

__all__ = ["Input", "whole_body"]

#: A body that is longer goes on in a temporary file.
_IN_MEMORY_BYTES: Final = 65_536


async def whole_body(receive: Receive) -> IO[bytes] | None:
    """The request's body, once all of it is there; None: the client has left before."""
    body = SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 (the thread closes it)
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
        taken: is called in the thread when a piece of so many bytes has been taken.
    """

    def __init__(self, taken: Callable[[int], None]) -> None:
        self._taken = taken
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
                self._taken(len(piece))
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
