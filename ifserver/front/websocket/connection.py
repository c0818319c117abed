"""A client's WebSocket between its stream and its frames: the answer to the handshake, messages, and how it ends."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ifserver import messages as m
from ifserver.flow_control import message_bytes
from ifserver.front.access_log import Entry, closed
from ifserver.front.connection_limits import Key
from ifserver.front.websocket.frames import BINARY, TEXT, Frames
from ifserver.front.websocket.prepared import Prepared
from ifserver.net import sockets
from ifserver.state_machines.effects import ClientFailed, ClientLeft, Flushed, MessageReceived

if TYPE_CHECKING:
    from ifserver.front.exchanges.carry_out import EventHandler
    from ifserver.front.exchanges.exchange import Exchange
    from ifserver.front.server import InterfaceServer
    from ifserver.front.websocket.deflate import Agreement

__all__ = ["WebSocketConnection"]

#: RFC 6455 7.4.1: no code was given; the server goes away; an unexpected condition.
_NO_STATUS: Final = 1005
_GOING_AWAY: Final = 1001
_INTERNAL_ERROR: Final = 1011
#: Codes that stand for what never was in a close frame (RFC 6455 7.4.1).
_NEVER_SENT: Final = frozenset({1004, 1005, 1006, 1015})
#: RFC 6455 5.5: a control frame holds 125 bytes, of which the code takes two.
_MAX_REASON_BYTES: Final = 123

_log = logging.getLogger(__name__)


@implementer(IPushProducer)
class WebSocketConnection(Frames):
    """One client's WebSocket, from the accepted handshake on.

    Args:
        answer: the bytes that complete the handshake.
        agreement: how messages are compressed; None: they are not.
        entry: for the access log, at the end; None: there is no log.
    """

    kind = "websocket"
    #: As whose connection it is counted.
    key: Key = None
    # What the client has done wrong, as close code and text, until that is sent to it.
    _failure: tuple[int, str] | None = None
    # Why the connection was lost, while what was read before is still being parsed.
    _lost: Failure | None = None

    def __init__(
        self,
        server: InterfaceServer,
        exchange: Exchange,
        answer: bytes,
        agreement: Agreement | None,
        entry: Entry | None,
    ) -> None:
        super().__init__()
        self._server = server
        self._tally = server.exchanges.tally
        # Since when it is open.
        self._entry, self._since = entry, server.exchanges.clock.seconds()
        self._exchange: EventHandler | None = exchange
        self._opening = answer, agreement
        self._unflushed: list[int] = []

    # Opening.

    def connectionMade(self) -> None:
        answer, agreement = self._opening
        del self._opening
        self.begin(agreement)
        self.sendData(answer)
        self._server.connected(self)
        self.transport.registerProducer(self, True)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        self._tally.websocket_bytes_out += len(data)
        self.transport.write(data)

    # What the client sends.

    def dataReceived(self, data: bytes) -> None:
        self._tally.websocket_bytes_in += len(data)
        if not self.receive_short(data):
            self.receive(data)

    def message_received(self, text: str | None, data: bytes | None) -> None:
        if self._exchange is not None:
            self._exchange.handle(MessageReceived(text, data))

    def _fail_connection(self, code: int = _GOING_AWAY, reason: str = "") -> None:
        """The client has broken the protocol. What it sent before is answered first; `fail` ends that."""
        if self._failure is not None:
            return  # more of the same
        if self._exchange is None or self.state != self.STATE_OPEN:
            super()._fail_connection(code, reason)
            return
        self._failure = code, reason
        # So that autobahn discards what comes, as it does behind a close frame.
        self.failedByMe = True
        self.state = self.STATE_CLOSING
        self._exchange.handle(ClientFailed(code, reason))

    def onAutoPingTimeout(self) -> None:
        if self.is_read:
            super().onAutoPingTimeout()
        else:
            # The pong may well be there: it is we who do not read.
            self._await_pong()

    def _await_pong(self) -> None:
        self.autoPingTimeoutCall = self.call_later(self.autoPingTimeout, self.onAutoPingTimeout)

    def _closeConnection(self, abort: bool = False) -> None:
        if self._failure is not None:
            self.fail()  # the client closes, too
            self.state = self.STATE_CLOSED
        if abort and not self.wasClean:
            self.transport.abortConnection()
            return
        # Behind a complete closing handshake autobahn would cut too, and our close frame might be lost.
        self.transport.loseConnection()
        # A client that does not take what was written must not keep the connection for ever.
        self._stop_waiting_for_close()
        self.closeHandshakeTimeoutCall = self.call_later(self.closeHandshakeTimeout, self.transport.abortConnection)

    def _stop_waiting_for_close(self) -> None:
        timer, self.closeHandshakeTimeoutCall = self.closeHandshakeTimeoutCall, None
        if timer is not None and timer.active():
            timer.cancel()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._stop_waiting_for_close()
        if self._failure is not None:
            code, reason = self._failure
        elif self.failedByMe:
            # What the client did wrong explains more than what it answered to that.
            mine: Any = self.localCloseReason
            code, reason = self.localCloseCode, mine.decode("utf-8")
        elif not wasClean:
            reason = ""  # autobahn's own words
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.handle(ClientLeft(_NO_STATUS if code is None else code, reason or ""))
        server = self._server
        if self._entry is not None:
            open_s = server.exchanges.clock.seconds() - self._since
            server.access_log.write(closed(self._entry, server.exchanges.wall(), open_s, self))
        # Last, since the server may have waited for this.
        server.disconnected(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.will_go_on and not self.ended():
            self._lost = reason
            self.write_frame = None
        else:
            self._report_loss(reason)

    def turn_over(self) -> None:
        if self._lost is None:
            super().turn_over()
        else:
            self._report_loss(self._lost)

    def _report_loss(self, reason: Failure) -> None:
        self.forget_timers()
        self._connectionLost(reason)  # type: ignore[arg-type]

    # What the stream asks for (`ifserver.front.exchanges.carry_out.WebSocketClient`).

    def send_message(self, message: m.WebSocketSend) -> None:
        if self._state != self.STATE_OPEN and self._failure is None:
            return
        text = message.text
        payload = (message.data or b"") if text is None else text.encode("utf-8")
        self.send_whole(BINARY if text is None else TEXT, payload)
        length = message_bytes(text, message.data)
        if self.write_paused:
            self._unflushed.append(length)
        elif self._exchange is not None:
            self._exchange.handle(Flushed(length))

    def broadcast(self, message: Prepared, max_unsent_bytes: int) -> bool | None:
        if self._state != self.STATE_OPEN:
            return False
        frame = message.plain if self._perMessageCompress is None else self.compressed_frame_of(message)
        if self.write_paused and sockets.unsent_bytes(self.transport) + len(frame) > max_unsent_bytes:
            return None
        self.sendData(frame)
        return True

    def report_to(self, handler: EventHandler) -> None:
        """From now on `handler` receives what the client does, unless it has left already."""
        if self._exchange is not None:
            self._exchange = handler

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake. Not by autobahn's `sendClose`, which allows two ranges of codes only."""
        if self._failure is not None:
            self.fail()
        elif self.state == self.STATE_OPEN:
            text = reason.encode("utf-8")
            if not 1000 <= code <= 4999 or code in _NEVER_SENT or len(text) > _MAX_REASON_BYTES:
                _log.error("bad reply: closing with %d and a reason of %d bytes", code, len(text))
                code, text = _INTERNAL_ERROR, b""
            self.sendCloseFrame(code=code, reasonUtf8=text, isReply=False)
            self.resume_reading()  # the client's answer must be seen

    def fail(self) -> None:
        """Begin the closing handshake with what the client has done wrong, if that has not been sent."""
        failure, self._failure = self._failure, None
        if failure is not None:
            self.state = self.STATE_OPEN
            super()._fail_connection(*failure)

    def abort(self) -> None:
        """Cut the connection; `onClose` follows."""
        self.write_frame = None
        self.transport.abortConnection()

    cut = abort

    def resume_reading(self) -> None:
        if self.is_stopped and self.autoPingTimeoutCall is not None:
            # The client has had no chance until now.
            self.autoPingTimeoutCall.cancel()
            self._await_pong()
        super().resume_reading()

    def shut_down(self) -> None:
        """The server ends, or ``websocket_timeout_s`` is over."""
        self.close(_GOING_AWAY, "")

    # What the transport asks for (IPushProducer).

    def pauseProducing(self) -> None:
        self.write_paused = True
        self.choose_write()
        self._server.slow_clients.begin(self)

    def resumeProducing(self) -> None:
        self.write_paused = False
        self.choose_write()
        self._server.slow_clients.end(self)
        self.send_late_pong()
        unflushed, self._unflushed = self._unflushed, []
        for length in unflushed:
            if self._exchange is not None:
                self._exchange.handle(Flushed(length))

    def stopProducing(self) -> None:
        """The connection is lost; `onClose` follows."""
