"""Sending a response: that of an HTTP exchange, or the one that denies a WebSocket handshake.

The start is held until the first of the body is there, so that a small response is one message. Where the body does not
follow soon (`ifserver.worker.held_response_heads`), as that of an event source that has nothing to tell yet, the start
leaves without it. Bodies are cut into pieces, each of which waits for credit.
"""

from __future__ import annotations

from typing import Any, Protocol

from ifserver.asgi_events import BODYLESS_STATUSES, Event, as_bytes, checked_headers
from ifserver.errors import ApplicationError
from ifserver.flow_control import PIECE_BYTES, WINDOW
from ifserver.headers import find, values
from ifserver.messages import ResponseBody, ResponseFile, ResponseStart
from ifserver.worker.asgi_stream import Stream
from ifserver.worker.files import PATHSEND, Source, open_source, read
from ifserver.worker.stream_phases import ANSWERING, DONE, OVER

__all__ = ["FileStream", "Response"]


class FileStream(Protocol):
    """A stream whose response may be a file."""

    @property
    def may_offer_file(self) -> bool:
        """Whether the server sends files by itself."""

    async def offer_file(self, message: ResponseFile) -> bool:
        """Ask the server to send a file as the whole response. Whether it does; if not, nothing has been sent."""


class Response:
    """The response of `stream` that the application starts with `event`.

    Args:
        file_header: the header in which the application may name a file to be sent in place of the body; None: there is
            none. It is for us, and never sent.
        head: whether it answers a HEAD request, and so has no body.
    """

    __slots__ = ("_bodyless", "_busy", "_headers", "_remaining", "_status", "_stream", "file_path")

    def __init__(self, stream: Stream, event: Event, file_header: bytes | None, head: bool = False) -> None:
        kind, status = event["type"], event.get("status")
        # 1xx responses are none of the application's business (ASGI has no event for them).
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise ApplicationError(f"{kind}: status must be an int from 200 to 599, got {status!r}")
        if event.get("trailers"):
            raise ApplicationError(f"{kind}: trailers are not supported (the scope does not offer them)")
        self._headers, length = checked_headers(kind, event.get("headers") or ())
        self._stream = stream
        self._status = int(status)
        #: RFC 9110 6.4.1: this response has no content, whatever the application sends.
        self._bodyless = head or status in BODYLESS_STATUSES
        #: What is still missing of the Content-Length that the application gave, in bytes.
        self._remaining = None if self._bodyless else length
        #: Whether a body is being sent in pieces; another task's must not get in between.
        self._busy = False
        #: The file that is sent in place of the body; None: there is none.
        self.file_path = None if file_header is None else find(self._headers, file_header)
        if self.file_path is not None:
            # The length was that of the body that is not sent.
            self._headers = [each for each in self._headers if each[0] not in (file_header, b"content-length")]
            self._remaining = None

    @property
    def has_everything(self) -> bool:
        """Whether the client needs nothing more, but to know that this is the end."""
        return self._bodyless or self._remaining == 0

    @property
    def has_length(self) -> bool:
        """Whether its body ends where the application has said, or there is none."""
        return self._bodyless or self._remaining is not None

    @property
    def is_event_stream(self) -> bool:
        """Whether its client is an ``EventSource`` or the like, which connects again wherever the stream ends."""
        return (find(self._headers, b"content-type") or b"").lower().startswith(b"text/event-stream")

    @property
    def bodyless(self) -> bool:
        """Whether it has no body, whatever the application sends."""
        return self._bodyless

    @property
    def remaining(self) -> int | None:
        """What is still missing of its Content-Length, in bytes; None: it has none, or no body."""
        return self._remaining

    async def send(self, event: Event) -> None:
        """Send some of the body."""
        body: Any = event.get("body") or b""
        if type(body) is not bytes:
            body = as_bytes(event["type"], "body", body)
        more = bool(event.get("more_body", False))
        if self._bodyless:
            body = b""
        credit = self._stream.credit
        if len(body) <= PIECE_BYTES and credit.sent - credit.consumed < WINDOW and not self._busy:
            if self._remaining is not None and self._remaining != len(body):
                self._check_length(event, len(body), more)
            self.send_piece(body, more)
        else:
            await self._send_pieces(event, body, more)

    async def send_named(self, stream: FileStream, name: bytes) -> None:
        """Send the file that was named in the header `name`.

        Raises:
            ApplicationError: it cannot be read.
        """
        await self.send_file(stream, name.decode(), self.open_named(name))

    def open_named(self, name: bytes) -> Source:
        """The file that was named in the header `name`; of a 206 response, the part that its Content-Range names.

        Raises:
            ApplicationError: it cannot be read.
        """
        what, path = name.decode(), self.file_path
        if not (path or b"").startswith(b"/"):
            raise ApplicationError(f"{what}: expected an absolute path, got {ascii(path)[:300]}")
        source = open_source(what, path)
        if self._status == 206:
            ranges = values(self._headers, b"content-range")
            if len(ranges) != 1 or not source.take_range(ranges[0]):
                # The client must not take the whole file for a part.
                self._status = 200
                self._headers = [each for each in self._headers if each[0] != b"content-range"]
        return source

    async def send_file(self, stream: FileStream, what: str, source: Source) -> None:
        """Send a file as the body, or the rest of it, and close it.

        Raises:
            ApplicationError: it is shorter than Content-Length says, or becomes so meanwhile; or cannot be read.
            ClientDisconnected: the client has left.
        """
        try:
            await self._send_file(stream, what, source)
        finally:
            source.close()

    async def _send_file(self, stream: FileStream, what: str, source: Source) -> None:
        is_whole = self._stream.phase is not ANSWERING
        left = source.count if self._remaining is None else self._remaining
        if left > source.count:
            self._stream.break_off()
            missing = left - source.count
            raise ApplicationError(f"{what}: the file is shorter than its Content-Length by {missing} bytes")
        if is_whole and self._status not in BODYLESS_STATUSES and find(self._headers, b"content-length") is None:
            self._headers = [*self._headers, (b"content-length", b"%d" % left)]
            if not self._bodyless:
                self._remaining = left
        if self._bodyless or not left:
            self.send_piece(b"", more=False)
            return
        if is_whole and stream.may_offer_file:
            message = self.offer_of(source)
            if message is not None and await stream.offer_file(message):
                return
        while left:
            try:
                data = await read(self._stream.loop, source, min(left, PIECE_BYTES))
            except OSError as error:
                self._stream.break_off()
                raise ApplicationError(f"{what}: the file cannot be read: {error.strerror}") from error
            if not data:
                self._stream.break_off()
                raise ApplicationError(f"{what}: the file was truncated while being sent")
            left -= len(data)
            event = {"type": PATHSEND, "body": data, "more_body": left > 0}
            self._check_going(event)
            await self.send(event)

    def offer_of(self, source: Source) -> ResponseFile | None:
        """Asks the server to send a file as the whole body. None: it cannot, or that is not worth asking."""
        count = source.count if self._remaining is None else self._remaining
        # What is one message in any case costs less than to ask, and to wait for the answer.
        if self._bodyless or not PIECE_BYTES < count <= source.count:
            return None
        headers, stream = self._headers, self._stream
        if self._remaining is None:
            headers = [*headers, (b"content-length", b"%d" % count)]
        return source.message(stream.identity, stream.attempt, stream.worker, stream.sent, self._status, headers, count)

    def send_piece(self, body: bytes, more: bool) -> None:
        """Send one piece, and before the first the start."""
        stream = self._stream
        phase = stream.phase
        if phase is ANSWERING and more and not body:
            return  # nothing to tell
        if self._remaining is not None:
            self._remaining -= len(body)
        identity, attempt, worker, seq = stream.identity, stream.attempt, stream.worker, stream.sent
        message: ResponseBody | ResponseStart
        if phase is ANSWERING:
            message = ResponseBody(identity, attempt, worker, seq, body, more)
        else:
            message = ResponseStart(identity, attempt, worker, seq, self._status, self._headers, body, more)
        stream.tell(message, len(body), last=not more)
        stream.move(ANSWERING if more else DONE)

    async def _send_pieces(self, event: Event, body: bytes, more: bool) -> None:
        stream = self._stream
        while self._busy:
            await stream.wait()
        self._check_going(event)
        self._check_length(event, len(body), more)
        self._busy = True
        offset = 0
        # Cut into views, which msgspec takes for bytes: each piece is copied when it is encoded anyway.
        whole: Any = memoryview(body)
        try:
            while True:
                while not stream.credit.open:
                    await stream.wait()
                    self._check_going(event)
                piece = whole[offset : offset + PIECE_BYTES]
                offset += PIECE_BYTES
                self.send_piece(piece, more or offset < len(body))
                if offset >= len(body):
                    return
        except BaseException:
            # Cancelled between two pieces: what is missing now can never be mended.
            if offset:
                stream.release("failed")
            raise
        finally:
            self._busy = False
            stream.wake()

    def _check_going(self, event: Event) -> None:
        if self._stream.phase in OVER:
            raise self._stream.refusal(event)

    def _check_length(self, event: Event, size: int, more: bool) -> None:
        remaining, kind = self._remaining, event["type"]
        if remaining is None:
            return
        if size > remaining:
            raise ApplicationError(f"{kind}: the body is longer than its Content-Length by {size - remaining} bytes")
        if not more and size < remaining:
            # Not left to the end of the application, which may be far.
            self._stream.break_off()
            raise ApplicationError(f"{kind}: the body is shorter than its Content-Length by {remaining - size} bytes")
