"""One WebSocket as the application sees it (ASGI ``www.rst`` 2.5, "WebSocket")."""

from __future__ import annotations

from typing import ClassVar, Final

from ifserver.asgi_events import Event, Scope, checked_close, checked_headers, checked_message, checked_text
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
from ifserver.worker.application_failure import AnsweringStream
from ifserver.worker.asgi_stream import Host
from ifserver.worker.response import Response
from ifserver.worker.stream_phases import ANSWERING, DONE, HELD, LOST, OPEN, OVER, SILENT

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


class WebSocketStream(AnsweringStream):
    """One WebSocket, from its handshake to its end."""

    __slots__ = (
        "_arrivals",
        "_code",
        "_connect_received",
        "_giving_back",
        "_parting",
        "_reason",
        "_response",
        "_resumable",
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
    _request: WebSocketConnect
    #: That denies the handshake. There is one once the application has started it.
    _response: Response

    def __init__(self, host: Host, request: WebSocketConnect, server: str, identity: str, slot: int) -> None:
        super().__init__(host, request, server, identity, slot)
        #: Messages that the application has not taken; texts that are not ASCII in UTF-8, since Python needs up to four
        #: bytes for each of their characters. Bounded by the window.
        self._arrivals: list[WebSocketReceive | bytes] = []  # a deque is ten times as large while it is empty
        self._connect_received = False
        self._resumable = request.resumable
        #: Whether this worker is about to stop, and the next one is to have the stream.
        self._giving_back = False
        #: Whether the client, which can still be answered, has broken the protocol; the application does not know yet.
        self._parting = False
        #: How it ended.
        self._code = _ABNORMAL
        self._reason = ""

    async def receive(self) -> Event:
        if not self._connect_received:
            self._connect_received = True
            return {"type": "websocket.connect"}
        while True:
            if self._giving_back and self.phase is OPEN:
                self._give_back()
            # What the client said before it left is handed over first, as its order demands.
            if self._arrivals:
                message = self._arrivals.pop(0)
                text, data = (
                    (message.decode(), b"") if isinstance(message, bytes) else (message.text, message.data or b"")
                )
                # In the unit of `ifserver.flow_control.message_bytes`.
                due = self._window_in.consume(len(data) if text is None else len(text))
                if due is not None and self.phase is OPEN:
                    self._tell_window(due)
                # Only the key that has a value, as uvicorn does it: applications ask `"text" in event`, too.
                if text is None:
                    return {"type": "websocket.receive", "bytes": data}
                return {"type": "websocket.receive", "text": text}
            if self._gaps is not None and self.phase not in OVER:
                return self._take_gap()
            if self._parting and self.phase is OPEN:
                self._part()
            if self.phase in OVER:
                # The same every time.
                return {"type": "websocket.disconnect", "code": self._code, "reason": self._reason}
            await self.wait()

    async def send(self, event: Event) -> None:
        kind = event["type"]
        phase = self.phase
        if kind == "websocket.send" and phase is OPEN:
            text, data = checked_message(event, self._host.max_websocket_message_bytes)
            credit = self.credit
            while credit.sent - credit.consumed >= WINDOW:
                await self.wait()
                if self.phase is not OPEN:
                    raise self.refusal(event)
            message = WebSocketSend(self.identity, self.attempt, self.worker, self.sent, text, data)
            self.tell(message, len(text) if text is not None else len(data or b""))
        elif kind == "websocket.accept" and phase is SILENT:
            self._accept(event)
        elif kind == "websocket.close" and phase is OPEN:
            self._close(*checked_close(event.get("code"), event.get("reason")))
            # It has said that it listens no longer.
            self._arrivals.clear()
        elif kind == "websocket.close" and phase is SILENT:
            checked_close(event.get("code"), event.get("reason"))
            self._deny()
        elif kind == "websocket.http.response.start" and phase is SILENT:
            self._response = Response(self, event, self._host.file_header)
            self.phase = HELD
            if self.begun:
                self._host.held(self)
        elif kind == "websocket.http.response.body" and (phase is HELD or phase is ANSWERING):
            await self._response.send(event)
        elif kind in groups.EVENTS:
            await groups.say(self, event)
        else:
            raise self.refusal(event)

    def is_open_for_groups(self, event: Event) -> bool:
        if self.phase is HELD or self.phase is ANSWERING:
            raise self.refusal(event)  # it denies the handshake
        return self.phase not in OVER

    @property
    def may_be_member(self) -> bool:
        return self.phase is SILENT or self.phase is OPEN

    def send_head(self) -> None:
        if self.phase is HELD:
            self._response.send_piece(b"", more=True)

    def drain(self) -> None:
        if self.phase is OPEN:
            # One that is not resumable may go on until the drain is over.
            if self._resumable and not self._parting:
                self._giving_back = True
                self.wake()
        elif self.phase is SILENT:
            # Its handshake has not been answered, so another worker can have it.
            self.release(STOPPED)
            self._code = _SERVICE_RESTART

    def drained(self) -> bool:
        if self.phase is not OPEN:
            return False
        if self._parting:
            self._part()
        elif self._resumable:
            self._give_back()
        else:
            self._close(_SERVICE_RESTART, "")
            self._end(_SERVICE_RESTART, "")
        return True

    def _scope(self) -> Scope:
        request = self._request
        return {
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
            "state": self._host.state.copy(),
            "extensions": {
                "websocket.http.response": {},
                "ifserver.groups": {"stream": self.identity},
                "websocket.resume": {
                    "resumed": request.unconfirmed is not None,
                    "unconfirmed": request.unconfirmed or 0,
                },
            },
        }

    def arrived(self, message: ToApplication) -> str | None:
        if not isinstance(message, WebSocketReceive) or message.seq != self._received or self.phase in OVER:
            return self._arrived_otherwise(message)
        self._received += 1
        text = message.text
        if self._waiters:
            self._arrivals.append(message)
            self.wake()
        else:
            self._arrivals.append(message if text is None or text.isascii() else text.encode())
        return None

    def _left(self, message: Disconnect) -> None:
        if message.answerable and self.phase is OPEN:
            self._parting = True
            self._code, self._reason = message.code, message.reason
            self.wake()
        else:
            super()._left(message)

    def _accept(self, event: Event) -> None:
        kind = event["type"]
        headers, _ = checked_headers(kind, event.get("headers") or ())
        for name, _ in headers:
            if name in OURS_IN_HANDSHAKE:
                instead = "give 'subprotocol'" if name == b"sec-websocket-protocol" else "the server says it"
                raise ApplicationError(f"{kind}: headers must not hold {name.decode()}; {instead}")
        subprotocol = event.get("subprotocol")
        if subprotocol is not None:
            subprotocol, _ = checked_text(kind, "subprotocol", subprotocol)
            if subprotocol not in self._request.subprotocols:
                # RFC 6455 4.1: the client MUST then fail the connection, and nobody would learn why.
                raise ApplicationError(f"{kind}: subprotocol {subprotocol!r} was not offered by the client")
        said = event.get("resumable")
        self._resumable = (self._resumable and subprotocol not in _SESSIONS) if said is None else bool(said)
        message = WebSocketAccept(
            self.identity, self.attempt, self.worker, self.sent, self.worker, subprotocol, headers, self._resumable
        )
        self.tell(message, None)
        self.move(OPEN)

    def _deny(self) -> None:
        # www.rst, "Close": "the server must close the connection with a HTTP 403 error code (Forbidden)"
        headers: Headers = []
        start = ResponseStart(self.identity, self.attempt, self.worker, self.sent, 403, headers, b"", False)
        self.tell(start, None, last=True)
        self.move(DONE)

    def _close(self, code: int, reason: str) -> None:
        close = WebSocketClose(self.identity, self.attempt, self.worker, self.sent, code, reason)
        self.tell(close, None, last=True)
        self._code, self._reason = code, reason
        self.move(DONE)

    def _give_back(self) -> None:
        """Let the next worker have the stream, and what the application has not taken."""
        self._arrivals.clear()
        self._tell_release(DRAINED)
        self._end(_SERVICE_RESTART, "")

    def _part(self) -> None:
        """The application is about to learn that its client has broken the protocol: it has said all it can."""
        self._tell_release("the application knows")
        self._end(self._code, self._reason)

    def break_off(self) -> None:
        if self.phase is OPEN:
            self._close(_INTERNAL_ERROR, "")
        else:
            self._answer_500()

    def _end(self, code: int, reason: str) -> None:
        if not self._parting:
            self._code, self._reason = code or _ABNORMAL, reason
        super()._end(code, reason)

    def refusal(self, event: Event) -> Exception:
        error = super().refusal(event)
        if self.phase is LOST and self._code == _SERVICE_RESTART:
            return type(error)(f"{event['type']}: this worker is about to stop ({self._request.reply_channel})")
        return error
