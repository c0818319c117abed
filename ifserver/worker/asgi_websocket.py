"""One WebSocket as the application sees it (ASGI ``www.rst`` 2.5, "WebSocket")."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from ifserver.asgi_events import Event, checked_close, checked_headers, checked_message, checked_text
from ifserver.errors import ApplicationError
from ifserver.flow_control import WINDOW
from ifserver.headers import OURS_IN_HANDSHAKE
from ifserver.messages import (
    DRAINED,
    STOPPED,
    Disconnect,
    Headers,
    ResponseStart,
    ToApplication,
    WebSocketAccept,
    WebSocketClose,
    WebSocketConnect,
    WebSocketReceive,
    WebSocketSend,
)
from ifserver.worker import groups
from ifserver.worker.response import Response, answer_500, send_body
from ifserver.worker.stream import ANSWERING, DONE, HELD, OPEN, OVER, SILENT, Phase, Stream, table, unexpected

if TYPE_CHECKING:
    from ifserver.worker.worker import Worker

__all__ = ["WebSocketStream"]

# RFC 6455 7.4.1 and the IANA registry.
_ABNORMAL: Final = 1006
_INTERNAL_ERROR: Final = 1011
_SERVICE_RESTART: Final = 1012
#: Subprotocols whose clients introduce themselves once, and subscribe then: a next worker would know neither, and the
#: client would wait for messages that nobody sends. Closed with 1012, it begins anew. Names by the IANA registry of
#: subprotocols, and by the specifications of GraphQL over WebSocket and of Action Cable, which are not there.
_SESSIONS: Final = frozenset(
    (
        *("graphql-transport-ws", "graphql-ws", "mqtt", "mqttv3.1", "v10.stomp", "v11.stomp", "v12.stomp"),
        *("wamp.2.json", "wamp.2.msgpack", "wamp.2.cbor", "actioncable-v1-json", "amqp", "AMQPWSB10", "xmpp"),
    )
)


class WebSocketStream(Stream):
    """One WebSocket, from its handshake to its end."""

    __slots__ = (
        "_client_failed",
        "_code",
        "_connect_received",
        "_giving_back",
        "_reason",
        "arrivals",
        "resumable",
    )

    KIND: ClassVar[str] = "websocket"
    EVENTS: ClassVar[tuple[str, ...]] = (
        "websocket.accept",
        "websocket.send",
        "websocket.close",
        "websocket.http.response.start",
        "websocket.http.response.body",
        *groups.EVENTS,
    )
    MEMBER_PHASES = (SILENT, OPEN)
    request: WebSocketConnect

    def __init__(self, host: Worker, request: WebSocketConnect, server: str, identity: str, slot: int) -> None:
        super().__init__(host, request, server, identity, slot)
        #: Messages that the application has not taken; texts that are not ASCII in UTF-8, since Python needs up to four
        #: bytes for each of their characters. Bounded by the window.
        self.arrivals: list[WebSocketReceive | bytes] = []  # a deque is ten times as large while it is empty
        self._connect_received = False
        self.resumable = request.resumable
        #: Whether this worker is about to stop, and the next one is to have the stream.
        self._giving_back = False
        #: Whether the client, which can still be answered, has broken the protocol; the application does not know yet.
        self._client_failed = False
        #: How it ended.
        self._code = _ABNORMAL
        self._reason = ""

    def start(self) -> None:
        request = self.request
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": request.http_version,
            "scheme": request.scheme,
            "path": request.path,
            "raw_path": request.raw_path,
            "query_string": request.query_string,
            "root_path": request.root_path,
            "headers": request.headers,
            "client": request.client,
            "server": request.server,
            "subprotocols": request.subprotocols,
            "state": self.host.state.copy(),
            "extensions": {
                "websocket.http.response": {},
                "ifserver.groups": {"stream": self.link.identity},
                "websocket.resume": {
                    "resumed": request.unconfirmed is not None,
                    "unconfirmed": request.unconfirmed or 0,
                },
            },
        }
        self.task = self.host.loop.create_task(self.run(scope))

    async def receive(self) -> Event:
        if not self._connect_received:
            self._connect_received = True
            return {"type": "websocket.connect"}
        while True:
            if self._giving_back and self.phase is OPEN:
                self._give_back()
            # What the client sent before it left comes first, as its order demands.
            if self.arrivals:
                message = self.arrivals.pop(0)
                text, data = (
                    (message.decode(), b"") if isinstance(message, bytes) else (message.text, message.data or b"")
                )
                # In the unit of `ifserver.flow_control.message_bytes`.
                due = self.link.window.consume(len(data) if text is None else len(text))
                if due is not None and self.phase is OPEN:
                    self.link.send_window(due)
                # Only the key that has a value, as uvicorn does it: applications ask `"text" in event`, too.
                if text is None:
                    return {"type": "websocket.receive", "bytes": data}
                return {"type": "websocket.receive", "text": text}
            if self.gaps is not None and self.phase not in OVER:
                return groups.take_gap(self)
            if self._client_failed and self.phase is OPEN:
                self._leave()
            if self.phase in OVER:
                # The same every time.
                return {"type": "websocket.disconnect", "code": self._code, "reason": self._reason}
            await self.wait()

    async def send(self, event: Event) -> None:
        handler = _TABLE[self.phase].get(event["type"])
        if handler is None:
            raise unexpected(self, event)
        await handler(self, event)

    def is_open_for_groups(self, event: Event) -> bool:
        if self.phase is HELD or self.phase is ANSWERING:
            raise unexpected(self, event)  # it denies the handshake
        return self.phase not in OVER

    def send_head(self) -> None:
        if self.phase is HELD:
            self.response.send_piece(b"", more=True)

    def drain(self) -> None:
        if self.phase is OPEN:
            # One that is not resumable may go on until the drain is over.
            if self.resumable and not self._client_failed:
                self._giving_back = True
                self.wake()
        elif self.phase is SILENT:
            # Its handshake has not been answered, so another worker can have it.
            self.link.release(STOPPED)
            self._hand_over()

    def drained(self) -> bool:
        if self.phase is not OPEN:
            return False
        if self._client_failed:
            self._leave()
        elif self.resumable:
            self._give_back()
        else:
            self.close(_SERVICE_RESTART, "")
            self._hand_over()
        return True

    def arrived(self, message: ToApplication) -> str | None:
        link = self.link
        if message.seq != link.received or self.phase in OVER:
            return super().arrived(message)
        if isinstance(message, WebSocketReceive):
            link.received += 1
            text = message.text
            if self.waiters:
                self.arrivals.append(message)
                self.wake()
            else:
                self.arrivals.append(message if text is None or text.isascii() else text.encode())
        elif isinstance(message, Disconnect) and message.answerable and self.phase is OPEN:
            link.received += 1
            self._client_failed = True
            self._code, self._reason = message.code, message.reason
            self.wake()
        else:
            return super().arrived(message)
        return None

    def close(self, code: int, reason: str) -> None:
        link = self.link
        link.send(WebSocketClose(link.identity, link.attempt, link.worker, link.sent, code, reason), None, last=True)
        self._code, self._reason = code, reason
        self.move(DONE)

    def _give_back(self) -> None:
        """Give the next worker the stream, and what the application has not taken."""
        self.arrivals.clear()
        self.link.release(DRAINED)
        self._hand_over()

    def _hand_over(self) -> None:
        """For this worker, and for its application, it is over."""
        self.why_lost = "this worker is about to stop"
        self._end(_SERVICE_RESTART, "")

    def _leave(self) -> None:
        """The application is about to learn that its client has broken the protocol: nothing more can be sent."""
        self.link.release("the application knows")
        self._end(self._code, self._reason)

    def break_off(self) -> None:
        if self.phase is OPEN:
            self.close(_INTERNAL_ERROR, "")
        else:
            answer_500(self)

    def _end(self, code: int, reason: str) -> None:
        if not self._client_failed:
            self._code, self._reason = code or _ABNORMAL, reason
        super()._end(code, reason)


async def _send(stream: WebSocketStream, event: Event) -> None:
    text, data = checked_message(event, stream.host.max_websocket_message_bytes)
    link, credit = stream.link, stream.link.credit
    while credit.sent - credit.consumed >= WINDOW:
        await stream.wait()
        if stream.phase is not OPEN:
            raise unexpected(stream, event)
    message = WebSocketSend(link.identity, link.attempt, link.worker, link.sent, text, data)
    link.send(message, len(text) if text is not None else len(data or b""))


async def _accept(stream: WebSocketStream, event: Event) -> None:
    kind = event["type"]
    headers, _ = checked_headers(kind, event.get("headers") or ())
    for name, _ in headers:
        if name in OURS_IN_HANDSHAKE:
            instead = "give 'subprotocol'" if name == b"sec-websocket-protocol" else "the server sends it"
            raise ApplicationError(f"{kind}: headers must not hold {name.decode()}; {instead}")
    subprotocol = event.get("subprotocol")
    if subprotocol is not None:
        subprotocol, _ = checked_text(kind, "subprotocol", subprotocol)
        if subprotocol not in stream.request.subprotocols:
            # RFC 6455 4.1: the client MUST then fail the connection, and nobody would learn why.
            raise ApplicationError(f"{kind}: subprotocol {subprotocol!r} was not offered by the client")
    given = event.get("resumable")
    resumable = stream.resumable = (stream.resumable and subprotocol not in _SESSIONS) if given is None else bool(given)
    link, worker = stream.link, stream.link.worker
    link.send(
        WebSocketAccept(link.identity, link.attempt, worker, link.sent, worker, subprotocol, headers, resumable), None
    )
    stream.move(OPEN)


async def _close(stream: WebSocketStream, event: Event) -> None:
    stream.close(*checked_close(event.get("code"), event.get("reason")))
    # The application receives nothing more.
    stream.arrivals.clear()


async def _deny(stream: WebSocketStream, event: Event) -> None:
    checked_close(event.get("code"), event.get("reason"))
    # www.rst, "Close": "the server must close the connection with a HTTP 403 error code (Forbidden)"
    link = stream.link
    headers: Headers = []
    start = ResponseStart(link.identity, link.attempt, link.worker, link.sent, 403, headers, b"", False)
    link.send(start, None, last=True)
    stream.move(DONE)


async def _start_denial(stream: WebSocketStream, event: Event) -> None:
    stream.response = Response(stream, event, stream.host.file_header)
    stream.response.file_path = None  # a denial is no file
    stream.phase = HELD
    if stream.begun:
        stream.host.hold_head(stream)


#: What the application may send in which phase, and what is done then.
_TABLE: Final = table(
    ((SILENT,), ("websocket.accept",), _accept),
    ((OPEN,), ("websocket.send",), _send),
    ((OPEN,), ("websocket.close",), _close),
    ((SILENT,), ("websocket.close",), _deny),
    ((SILENT,), ("websocket.http.response.start",), _start_denial),
    ((HELD, ANSWERING), ("websocket.http.response.body",), send_body),
    (tuple(Phase), groups.EVENTS, groups.carry_out),
)
