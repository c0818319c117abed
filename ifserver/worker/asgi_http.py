"""One HTTP exchange as the application sees it (ASGI ``www.rst`` 2.5, "HTTP")."""

from __future__ import annotations

from typing import Any, ClassVar

from ifserver.asgi_events import Event, Scope
from ifserver.errors import ApplicationError
from ifserver.messages import (
    EVENTS_STOPPED,
    FileDeclined,
    FileTaken,
    HttpRequest,
    RequestBody,
    ResponseFile,
    ToApplication,
)
from ifserver.worker import groups
from ifserver.worker.application_failure import AnsweringStream
from ifserver.worker.asgi_stream import Host
from ifserver.worker.files import COMPRESSED, PATHSEND, open_source
from ifserver.worker.response import Response
from ifserver.worker.stream_phases import ANSWERING, DONE, HELD, LOST, OFFERED, OVER, SILENT

__all__ = ["HttpStream"]


class HttpStream(AnsweringStream):
    """One request and its response."""

    __slots__ = ("_arrivals", "_more_body", "_response")

    KIND: ClassVar[str] = "http"
    EVENTS: ClassVar[tuple[str, ...]] = ("http.response.start", "http.response.body", PATHSEND, *groups.EVENTS)
    _request: HttpRequest
    #: There is one once the application has started it.
    _response: Response

    def __init__(self, host: Host, request: HttpRequest, server: str, identity: str, slot: int) -> None:
        super().__init__(host, request, server, identity, slot)
        #: Pieces of the request's body that the application has not taken. Bounded by the window.
        self._arrivals = [request.body]
        #: Whether more will come.
        self._more_body = request.more_body

    @property
    def may_be_claimed_late(self) -> bool:
        # The rest of a body is sent when the server knows to whom.
        return not self._request.more_body

    async def receive(self) -> Event:
        while True:
            # Spec 2.4, "Disconnect": "if receive is called after a response has been sent or after the HTTP connection
            # has been closed". The same every time.
            if self.phase in OVER:
                return {"type": "http.disconnect"}
            if self._arrivals:
                return self._take()
            if self._gaps is not None:
                return self._take_gap()
            if self._more_body:
                await self._wait_for_body()
            else:
                await self.wait()

    async def send(self, event: Event) -> None:
        kind = event["type"]
        phase = self.phase
        if kind == "http.response.start" and phase is SILENT:
            self._response = Response(self, event, self._host.file_header, self._request.method == "HEAD")
            self.phase = HELD
            # In the first step the worker looks for itself what has become of the stream, behind that step.
            if self.begun:
                self._host.held(self)
        elif kind == "http.response.body" and (phase is HELD or phase is ANSWERING):
            if self._response.file_path is None:
                await self._response.send(event)
            elif not event.get("more_body") and self._host.file_header is not None:
                # What the application sends beside the path is for nobody.
                await self._response.send_named(self, self._host.file_header)
        elif kind in groups.EVENTS:
            await groups.say(self, event)
        elif kind == PATHSEND and (phase is HELD or phase is ANSWERING):
            await self._response.send_file(self, kind, open_source(kind, event.get("path")))
        elif not (phase is LOST and self._is_mere_end(event)):
            raise self.refusal(event)

    def is_open_for_groups(self, event: Event) -> bool:
        if self.phase is SILENT:
            raise ApplicationError(f"{event['type']}: start the response first, which is to be a member of the group")
        if self.phase in OVER:
            return False
        if self._response.has_length:
            raise ApplicationError(f"{event['type']}: a response with a Content-Length, or without a body, has no room")
        return True

    @property
    def may_be_member(self) -> bool:
        return self.phase is ANSWERING

    def _is_mere_end(self, event: Event) -> bool:
        """Whether `event` only says that a response has ended of which the client had everything before it left."""
        is_empty = event["type"] == "http.response.body" and not event.get("body")
        return is_empty and self.answering and self._response.has_everything

    @property
    def may_offer_file(self) -> bool:
        return self._request.files

    async def offer_file(self, message: ResponseFile) -> bool:
        self.phase = OFFERED
        self.tell(message, None)
        # If this is cancelled, the application fails; what the server has said by then has been done.
        while self.phase is OFFERED:
            await self.wait()
        if self.phase is LOST:
            raise self.refusal({"type": PATHSEND})
        return self.phase is DONE

    def _file_answered(self, message: FileTaken | FileDeclined) -> None:
        self._received += 1
        if isinstance(message, FileTaken):
            self.move(DONE)
            self._host.told(self._slot)
        else:
            self.phase = HELD
            self.wake()

    def send_head(self) -> None:
        if self.phase is HELD and self._response.file_path is None:
            self._response.send_piece(b"", more=True)

    def break_off(self) -> None:
        self._answer_500(self._request.method == "HEAD")

    def drain(self) -> None:
        """It may run to its end."""

    def drained(self) -> bool:
        # One without an end: its client connects again. The application ends as it does for any client that leaves.
        is_endless = self.phase is ANSWERING and self._response.is_event_stream
        if is_endless:
            self.release(EVENTS_STOPPED)
        return is_endless

    def _scope(self) -> Scope:
        request = self._request
        extensions: dict[str, dict[str, Any]] = {"ifserver.groups": {"stream": self.identity}}
        if request.path.rpartition(".")[2].lower() in COMPRESSED:
            extensions[PATHSEND] = {}
        return {
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
            "state": self._host.state.copy(),
            "extensions": extensions,
        }

    async def _wait_for_body(self) -> None:
        """Wait for the client. Meanwhile the slot is free for others, or clients that send slowly could take them all.

        It does not matter which of the application's tasks waits here: Starlette's ``BaseHTTPMiddleware`` always has
        another one receive. If the others work meanwhile, nobody can tell. ``max_streams`` bounds them all.
        """
        if not (self.awaits_client or self.answering) and self._may_lend_slot:
            self.awaits_client = True
            self._host.awaits_client()
        try:
            await self.wait()
        finally:
            # One that is cancelled may leave others behind that wait.
            if not self._waiters:
                self._go_on()

    @property
    def _may_lend_slot(self) -> bool:
        """Whether it holds nothing that others need while it waits for its client."""
        return True

    def _take(self) -> Event:
        """All of the request's body that has come since the last time."""
        arrivals, self._arrivals = self._arrivals, []
        due = None
        for piece in arrivals:
            due = self._window_in.consume(len(piece)) or due
        # Of a body that has come whole nobody waits for credit.
        if due is not None and self._request.more_body:
            self._tell_window(due)
        body = arrivals[0] if len(arrivals) == 1 else b"".join(arrivals)
        return {"type": "http.request", "body": body, "more_body": self._more_body}

    def arrived(self, message: ToApplication) -> str | None:
        if self.phase is OFFERED and message.seq == self._received and isinstance(message, FileTaken | FileDeclined):
            self._file_answered(message)
            return None
        is_due = message.seq == self._received and self._more_body and self.phase not in OVER
        if not is_due or not isinstance(message, RequestBody):
            return self._arrived_otherwise(message)
        self._received += 1
        self._more_body = message.more_body
        self._arrivals.append(message.body)
        if self._waiters:
            self.wake()
        return None
