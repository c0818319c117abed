"""Sending a response: that of an HTTP exchange, or the one that denies a WebSocket handshake.

The start is held until the first of the body is there, so that a small response is one message. Where the body does not
follow soon (`ifserver.worker.heads`), as that of an event source that has nothing to tell yet, the start leaves without
it. Bodies are cut into pieces, each of which waits for credit.
"""

from __future__ import annotations

from typing import Any, Final

from ifserver.errors import ApplicationError
from ifserver.messages import Headers, ResponseBody, ResponseStart, ToWorkers
from ifserver.streams.window import PIECE_BYTES, WINDOW
from ifserver.worker.application import Event
from ifserver.worker.asgi import ANSWERING, DONE, HELD, LOST, Stream
from ifserver.worker.rules import BODYLESS_STATUSES, as_bytes, checked_headers, checked_status
from ifserver.worker.stream_link import Host

__all__ = ["Responder"]

#: Of a response that has not been started, as of every open WebSocket; never changed.
_NO_HEADERS: Final[Headers] = []
_ERROR_BODY: Final = b"Internal Server Error"
_ERROR_HEADERS: Final[Headers] = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", b"%d" % len(_ERROR_BODY)),
]


class Responder(Stream):
    """A stream that can be answered with an HTTP response."""

    __slots__ = ("_bodyless", "_busy", "_head", "_headers", "_remaining", "_status")

    def __init__(self, host: Host, request: ToWorkers, slot: int, head: bool) -> None:
        super().__init__(host, request, slot)
        self._head = head
        self._status = 0
        self._headers = _NO_HEADERS
        #: What is still missing of the Content-Length that the application gave, in bytes.
        self._remaining: int | None = None
        #: RFC 9110 6.4.1: this response has no content, whatever the application sends.
        self._bodyless = head
        #: Whether a body is being sent in pieces; another task's must not get in between.
        self._busy = False

    def _start(self, event: Event) -> None:
        """Hold the start of a response."""
        kind = event["type"]
        status = checked_status(kind, event.get("status"))
        if event.get("trailers"):
            raise ApplicationError(f"{kind}: trailers are not supported (the scope does not offer them)")
        self._headers, length = checked_headers(kind, event.get("headers") or ())
        self._status = status
        if status in BODYLESS_STATUSES:
            self._bodyless = True
        if not self._bodyless:
            self._remaining = length
        self.phase = HELD
        # In its first step `Worker` looks for itself what has become of the stream, behind that step.
        if self.claimed:
            self._host.held(self)

    def send_head(self) -> None:
        """Send the start, if it is still held: the body keeps the client waiting. From now on a failure cuts it off."""
        if self.phase is HELD:
            self._piece(b"", more=True)

    async def _continue(self, event: Event) -> None:
        """Send some of the body."""
        body: Any = event.get("body") or b""
        if type(body) is not bytes:
            body = as_bytes(event["type"], "body", body)
        more = bool(event.get("more_body", False))
        if self._bodyless:
            body = b""
        window = self._window_out
        if len(body) <= PIECE_BYTES and window.sent - window.consumed < WINDOW and not self._busy:
            self._check_length(event["type"], len(body), more)
            self._piece(body, more)
        else:
            await self._pieces(event, body, more)

    def _check_length(self, kind: str, size: int, more: bool) -> None:
        remaining = self._remaining
        if remaining is None:
            return
        if size > remaining:
            raise ApplicationError(f"{kind}: the body is longer than its Content-Length by {size - remaining} bytes")
        if not more and size < remaining:
            # Not left to the end of the application, which may be far.
            self._break_off()
            raise ApplicationError(f"{kind}: the body is shorter than its Content-Length by {remaining - size} bytes")

    async def _pieces(self, event: Event, body: bytes, more: bool) -> None:
        while self._busy:
            await self._wait()
        self._check_going(event)
        self._check_length(event["type"], len(body), more)
        self._busy = True
        offset = 0
        # Cut into views, which msgspec takes for bytes: each piece is copied when it is encoded anyway.
        whole: Any = memoryview(body)
        try:
            while True:
                while not self._window_out.open:
                    await self._wait()
                    self._check_going(event)
                piece = whole[offset : offset + PIECE_BYTES]
                offset += PIECE_BYTES
                self._piece(piece, more or offset < len(body))
                if offset >= len(body):
                    return
        except BaseException:
            # Cancelled between two pieces: what is missing now can never be mended.
            if offset:
                self.release("failed")
            raise
        finally:
            self._busy = False
            self._wake()

    def _check_going(self, event: Event) -> None:
        if self.phase is LOST or self.phase is DONE:
            raise self._refusal(event)

    def _piece(self, body: bytes, more: bool) -> None:
        """Send one piece, and before the first the start."""
        phase = self.phase
        if phase is ANSWERING and more and not body:
            return  # nothing to tell
        window = self._window_out
        if self._remaining is not None:
            self._remaining -= len(body)
        seq, status, headers = self._sent, self._status, self._headers
        if phase is ANSWERING:
            self._tell(ResponseBody(self.identity, self.attempt, self.worker, seq, body, more), not more)
        else:
            start = ResponseStart(self.identity, self.attempt, self.worker, seq, status, headers, body, more)
            self._tell(start, not more)
        window.spend(len(body))
        self._move(ANSWERING if more else DONE)

    def _break_off(self) -> None:
        if self.phase is ANSWERING:
            self.release("failed")
            return
        # Nothing has left yet, so it can still be told what happened.
        self._status, self._headers, self._remaining = 500, _ERROR_HEADERS, None
        self._piece(b"" if self._head else _ERROR_BODY, more=False)
