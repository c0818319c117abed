"""One HTTP exchange as the application sees it (ASGI ``www.rst`` 2.5, "HTTP")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from ifserver.asgi_events import Event
from ifserver.errors import ApplicationError
from ifserver.messages import EVENTS_STOPPED, FileDeclined, FileTaken, HttpRequest, RequestBody, ToApplication
from ifserver.worker import groups
from ifserver.worker.files import COMPRESSED, PATHSEND, open_source
from ifserver.worker.response import Response, answer_500, send_body
from ifserver.worker.stream import ANSWERING, DONE, HELD, LOST, OFFERED, OVER, SILENT, Phase, Stream, table, unexpected

if TYPE_CHECKING:
    from ifserver.worker.worker import Worker

__all__ = ["HttpStream"]


class HttpStream(Stream):
    """One request and its response."""

    __slots__ = ("_arrivals", "_more_body")

    KIND: ClassVar[str] = "http"
    EVENTS: ClassVar[tuple[str, ...]] = ("http.response.start", "http.response.body", PATHSEND, *groups.EVENTS)
    MEMBER_PHASES = (ANSWERING,)
    request: HttpRequest

    def __init__(self, host: Worker, request: HttpRequest, server: str, identity: str, slot: int) -> None:
        super().__init__(host, request, server, identity, slot)
        #: Pieces of the request's body that the application has not taken. Bounded by the window.
        self._arrivals = [request.body]
        #: Whether more will come.
        self._more_body = request.more_body

    def start(self) -> None:
        request = self.request
        extensions: dict[str, dict[str, Any]] = {"ifserver.groups": {"stream": self.link.identity}}
        if request.path.rpartition(".")[2].lower() in COMPRESSED:
            extensions[PATHSEND] = {}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": request.http_version,
            "method": request.method,
            "scheme": request.scheme,
            "path": request.path,
            "raw_path": request.raw_path,
            "query_string": request.query_string,
            "root_path": request.root_path,
            "headers": request.headers,
            "client": request.client,
            "server": request.server,
            "state": self.host.state.copy(),
            "extensions": extensions,
        }
        self.task = self.host.loop.create_task(self.run(scope))

    async def receive(self) -> Event:
        while True:
            # Spec 2.4, "Disconnect": "if receive is called after a response has been sent or after the HTTP connection
            # has been closed". The same every time.
            if self.phase in OVER:
                return {"type": "http.disconnect"}
            if self._arrivals:
                return self._take()
            if self.gaps is not None:
                return groups.take_gap(self)
            if self._more_body:
                await self._wait_for_body()
            else:
                await self.wait()

    async def send(self, event: Event) -> None:
        handler = _TABLE[self.phase].get(event["type"])
        if handler is None:
            raise unexpected(self, event)
        await handler(self, event)

    def is_open_for_groups(self, event: Event) -> bool:
        if self.phase is SILENT:
            raise ApplicationError(f"{event['type']}: start the response first, which is to be a member of the group")
        if self.phase in OVER:
            return False
        if self.response.has_length:
            raise ApplicationError(f"{event['type']}: a response with a Content-Length, or without a body, has no room")
        return True

    def send_head(self) -> None:
        if self.phase is HELD and self.response.file_path is None:
            self.response.send_piece(b"", more=True)

    def break_off(self) -> None:
        answer_500(self, self.request.method == "HEAD")

    def drain(self) -> None:
        """It may run to its end."""

    def drained(self) -> bool:
        # One without an end: its client connects again. The application ends as it does for any client that leaves.
        is_endless = self.phase is ANSWERING and self.response.is_event_stream
        if is_endless:
            self.release(EVENTS_STOPPED)
        return is_endless

    async def _wait_for_body(self) -> None:
        """Wait for the client. Meanwhile the slot is free for others, or clients that send slowly could take them all.

        It does not matter which of the application's tasks waits here: Starlette's ``BaseHTTPMiddleware`` always has
        another one receive. Whether the others work meanwhile cannot be seen. ``max_streams`` bounds them all.
        """
        if not (self.awaits_client or self.answering):
            self.host.awaits_client(self)
        try:
            await self.wait()
        finally:
            # One that is cancelled may leave others behind that wait.
            if self.awaits_client and all(each.done() for each in self.waiters):
                self.host.goes_on(self)

    def _take(self) -> Event:
        """All of the request's body that has come since the last time."""
        arrivals, self._arrivals = self._arrivals, []
        due = None
        for piece in arrivals:
            due = self.link.window.consume(len(piece)) or due
        # Of a body that has come whole nobody waits for credit.
        if due is not None and self.request.more_body:
            self.link.send_window(due)
        body = arrivals[0] if len(arrivals) == 1 else b"".join(arrivals)
        return {"type": "http.request", "body": body, "more_body": self._more_body}

    def arrived(self, message: ToApplication) -> str | None:
        link = self.link
        if message.seq != link.received or self.phase in OVER:
            return super().arrived(message)
        if isinstance(message, RequestBody) and self._more_body:
            link.received += 1
            self._more_body = message.more_body
            self._arrivals.append(message.body)
            if self.waiters:
                self.wake()
        elif isinstance(message, FileTaken) and self.phase is OFFERED:
            link.received += 1
            self.move(DONE)
            self.host.clear(link.slot)
        elif isinstance(message, FileDeclined) and self.phase is OFFERED:
            link.received += 1
            self.phase = HELD
            self.wake()
        else:
            return super().arrived(message)
        return None


async def _start(stream: HttpStream, event: Event) -> None:
    host = stream.host
    stream.response = Response(stream, event, host.file_header, stream.request.method == "HEAD")
    stream.phase = HELD
    # In the first step the worker looks for itself what has become of the stream, behind that step.
    if stream.begun:
        host.hold_head(stream)


async def _send_path(stream: HttpStream, event: Event) -> None:
    await stream.response.send_file(PATHSEND, open_source(PATHSEND, event.get("path")))


async def _end_late(stream: HttpStream, event: Event) -> None:
    """Of a response of which the client had everything before it left, the mere end is no failure."""
    if event.get("body") or not (stream.answering and stream.response.has_everything):
        raise unexpected(stream, event)


#: What the application may send in which phase, and what is done then.
_TABLE: Final = table(
    ((SILENT,), ("http.response.start",), _start),
    ((HELD, ANSWERING), ("http.response.body",), send_body),
    ((HELD, ANSWERING), (PATHSEND,), _send_path),
    ((LOST,), ("http.response.body",), _end_late),
    (tuple(Phase), groups.EVENTS, groups.carry_out),
)
