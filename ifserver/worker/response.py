"""Sending a response: that of an HTTP exchange, or the one that denies a WebSocket handshake.

The start is held until the first of the body is there, so that a small response is one message. Where the body does not
follow soon (`ifserver.worker.claims`), as that of an event source that has nothing to send yet, the start
leaves without it. Bodies are cut into pieces, each of which waits for credit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ifserver.asgi_events import BODYLESS_STATUSES, Event, as_bytes, checked_headers
from ifserver.errors import ApplicationError
from ifserver.flow_control import PIECE_BYTES, WINDOW
from ifserver.headers import find, values
from ifserver.messages import Headers, HttpRequest, ResponseBody, ResponseFile, ResponseStart
from ifserver.worker.files import PATHSEND, Source, open_source, read
from ifserver.worker.stream import ANSWERING, DONE, LOST, OFFERED, OVER, unexpected

if TYPE_CHECKING:
    from ifserver.worker.stream import Stream

__all__ = ["Response", "answer_500", "send_body"]

_ERROR_BODY: Final = b"Internal Server Error"
_ERROR_HEADERS: Final[Headers] = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", b"%d" % len(_ERROR_BODY)),
]


class Response:
    """The response of `stream` that the application starts with `event`.

    Args:
        file_header: the header in which the application may name a file to be sent in place of the body; None: there is
            none. It is for us, and never sent.
        head: whether it answers a HEAD request, and so has no body.
    """

    __slots__ = ("_headers", "_status", "_stream", "bodyless", "busy", "file_path", "remaining")

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
        self.bodyless = head or status in BODYLESS_STATUSES
        #: What is still missing of the Content-Length that the application gave, in bytes; None: it gave none.
        self.remaining = None if self.bodyless else length
        #: Whether a body is being sent in pieces; another task's must not get in between.
        self.busy = False
        #: The file that is sent in place of the body; None: there is none.
        self.file_path = None if file_header is None else find(self._headers, file_header)
        if self.file_path is not None:
            # The length was that of the body that is not sent.
            self._headers = [each for each in self._headers if each[0] not in (file_header, b"content-length")]
            self.remaining = None

    @property
    def has_everything(self) -> bool:
        """Whether the client needs nothing more, but to know that this is the end."""
        return self.bodyless or self.remaining == 0

    @property
    def has_length(self) -> bool:
        """Whether its body ends where the application has set it, or there is none."""
        return self.bodyless or self.remaining is not None

    @property
    def is_event_stream(self) -> bool:
        """Whether its client is an ``EventSource`` or the like, which connects again wherever the stream ends."""
        return (find(self._headers, b"content-type") or b"").lower().startswith(b"text/event-stream")

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

    async def send_file(self, what: str, source: Source) -> None:
        """Send a file as the body, or the rest of it, and close it.

        Raises:
            ApplicationError: it is shorter than its Content-Length, or becomes so meanwhile; or cannot be read.
            ClientDisconnected: the client has left.
        """
        try:
            await self._send_file(what, source)
        finally:
            source.close()

    async def _send_file(self, what: str, source: Source) -> None:
        stream = self._stream
        is_whole = stream.phase is not ANSWERING
        left = source.count if self.remaining is None else self.remaining
        if left > source.count:
            stream.break_off()
            missing = left - source.count
            raise ApplicationError(f"{what}: the file is shorter than its Content-Length by {missing} bytes")
        if is_whole and self._status not in BODYLESS_STATUSES and find(self._headers, b"content-length") is None:
            self._headers = [*self._headers, (b"content-length", b"%d" % left)]
            if not self.bodyless:
                self.remaining = left
        if self.bodyless or not left:
            self.send_piece(b"", more=False)
            return
        if is_whole and isinstance(stream.request, HttpRequest) and stream.request.files:
            message = self._offer_of(source)
            if message is not None and await self._offer(message):
                return
        while left:
            try:
                data = await read(stream.host.loop, source, min(left, PIECE_BYTES))
            except OSError as error:
                stream.break_off()
                raise ApplicationError(f"{what}: the file cannot be read: {error.strerror}") from error
            if not data:
                stream.break_off()
                raise ApplicationError(f"{what}: the file was truncated while being sent")
            left -= len(data)
            await self.send_pieces(PATHSEND, data, left > 0)

    async def _offer(self, message: ResponseFile) -> bool:
        """Ask the server to send a file as the whole response. Whether it does; if not, nothing has been sent."""
        stream = self._stream
        stream.phase = OFFERED
        stream.link.send(message, None)
        # If this is cancelled, the application fails; what the server has answered by then has been done.
        while stream.phase is OFFERED:
            await stream.wait()
        if stream.phase is LOST:
            raise unexpected(stream, {"type": PATHSEND})
        return stream.phase is DONE

    def _offer_of(self, source: Source) -> ResponseFile | None:
        """Asks the server to send a file as the whole body. None: it cannot, or that is not worth asking."""
        count = source.count if self.remaining is None else self.remaining
        # What is one message in any case costs less than to ask, and to wait for the answer.
        if self.bodyless or not PIECE_BYTES < count <= source.count:
            return None
        headers, link = self._headers, self._stream.link
        if self.remaining is None:
            headers = [*headers, (b"content-length", b"%d" % count)]
        return source.message(link.identity, link.attempt, link.worker, link.sent, self._status, headers, count)

    def send_piece(self, body: bytes, more: bool) -> None:
        """Send one piece, and before the first the start."""
        stream = self._stream
        phase = stream.phase
        if phase is ANSWERING and more and not body:
            return  # nothing to send
        if self.remaining is not None:
            self.remaining -= len(body)
        link = stream.link
        identity, attempt, worker, seq = link.identity, link.attempt, link.worker, link.sent
        message: ResponseBody | ResponseStart
        if phase is ANSWERING:
            message = ResponseBody(identity, attempt, worker, seq, body, more)
        else:
            message = ResponseStart(identity, attempt, worker, seq, self._status, self._headers, body, more)
        link.send(message, len(body), last=not more)
        stream.move(ANSWERING if more else DONE)

    async def send_pieces(self, kind: str, body: bytes, more: bool) -> None:
        """Send some of the body in pieces, as there is credit."""
        stream = self._stream
        while self.busy:
            await stream.wait()
        self._check_going(kind)
        self.check_length(kind, len(body), more)
        self.busy = True
        offset = 0
        # Cut into views, which msgspec takes for bytes: each piece is copied when it is encoded anyway.
        whole: Any = memoryview(body)
        try:
            while True:
                while not stream.link.credit.open:
                    await stream.wait()
                    self._check_going(kind)
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
            self.busy = False
            stream.wake()

    def _check_going(self, kind: str) -> None:
        if self._stream.phase in OVER:
            raise unexpected(self._stream, {"type": kind})

    def check_length(self, kind: str, size: int, more: bool) -> None:
        """Check that a next part of the body keeps to the Content-Length.

        Raises:
            ApplicationError: it does not. If it is too short, the stream has been broken off.
        """
        remaining = self.remaining
        if remaining is None:
            return
        if size > remaining:
            raise ApplicationError(f"{kind}: the body is longer than its Content-Length by {size - remaining} bytes")
        if not more and size < remaining:
            # Not left to the end of the application, which may be far.
            self._stream.break_off()
            raise ApplicationError(f"{kind}: the body is shorter than its Content-Length by {remaining - size} bytes")


async def send_body(stream: Stream, event: Event) -> None:
    """``http.response.body`` and ``websocket.http.response.body``: send some of the body."""
    response = stream.response
    more = bool(event.get("more_body", False))
    if response.file_path is not None:
        # What the application sends beside the path is for nobody.
        if not more and (name := stream.host.file_header) is not None:
            await response.send_file(name.decode(), response.open_named(name))
        return
    body: Any = event.get("body") or b""
    if type(body) is not bytes:
        body = as_bytes(event["type"], "body", body)
    if response.bodyless:
        body = b""
    credit = stream.link.credit
    if len(body) <= PIECE_BYTES and credit.sent - credit.consumed < WINDOW and not response.busy:
        if response.remaining is not None and response.remaining != len(body):
            response.check_length(event["type"], len(body), more)
        response.send_piece(body, more)
    else:
        await response.send_pieces(event["type"], body, more)


def answer_500(stream: Stream, head: bool = False) -> None:
    """Answer 500, or cut the response off if anything of it has left."""
    if stream.phase is ANSWERING or stream.phase is OFFERED:
        stream.release("failed")
        return
    link, body = stream.link, b"" if head else _ERROR_BODY
    start = ResponseStart(link.identity, link.attempt, link.worker, link.sent, 500, _ERROR_HEADERS, body, False)
    link.send(start, len(body), last=True)
    stream.move(DONE)
