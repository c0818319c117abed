"""What is done about each effect of a stream, and what of that is for its client.

A client is the connection of one that speaks HTTP, and once a WebSocket is open, that of the WebSocket.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from ifserver import channels
from ifserver import messages as m
from ifserver.errors import ChannelNameError
from ifserver.state_machines.effects import (
    CONTINUE,
    ENDED,
    FAIL,
    RESUME_READING,
    STOP_READING,
    Abort,
    Answer,
    CloseClient,
    CloseFile,
    Dropped,
    Finish,
    Join,
    Leave,
    Offer,
    Resume,
    Send,
    SendFile,
    Signal,
    Undelivered,
    Wait,
)

if TYPE_CHECKING:
    from ifserver.front.exchanges.exchange import Exchange
    from ifserver.front.files import File
    from ifserver.front.request_metrics import RequestMetrics
    from ifserver.front.websocket.prepared import Prepared

__all__ = ["EFFECTS", "EventHandler", "HttpClient", "WebSocketClient"]

#: At which level it is logged that the server answers, where that is no warning. 404: no pool takes the request.
_LEVELS: Final = {502: logging.ERROR, 404: logging.DEBUG}

_log = logging.getLogger(__name__)


class EventHandler(Protocol):
    """Receives what happens to a client."""

    def handle(self, event: object) -> None:
        """`event` has happened (`ifserver.state_machines.effects`)."""


class Client(Protocol):
    """The client's side of any stream."""

    @property
    def write_frame(self) -> Callable[[bytes], None] | None:
        """Writes the frame of a message of a group, if that is all that there is to do for it; None: `broadcast`
        does it."""

    def broadcast(self, message: Prepared, max_unsent_bytes: int) -> bool | None:
        """Send a message of a group.

        Returns whether it was: False, it is not for such a client; None, that would make more than
        `max_unsent_bytes` wait for the client to take them.
        """

    def cut(self) -> None:
        """Cut the connection, and report to the stream that its client has left."""

    def stop_reading(self) -> None:
        """Leave what the client sends in the kernel's buffers."""

    def resume_reading(self) -> None:
        """Read it again."""


class HttpClient(Client, Protocol):
    """A client that waits for a response."""

    #: Where its request is counted.
    tally: RequestMetrics
    #: The value of Set-Cookie in its response; empty: none.
    cookie: bytes

    def abort(self) -> None:
        """Cut the connection; the stream knows."""

    def begin(self, message: m.ResponseStart) -> None:
        """Send the head of a response, and the first bytes of its body."""

    def begin_file(self, message: m.ResponseFile, file: File) -> None:
        """Send the whole of a response, whose body is in a file. The exchange is over."""

    def body(self, message: m.ResponseBody) -> None:
        """Send a further piece of it."""

    def finish(self) -> None:
        """The response was complete, and will not be ended in another way."""

    def answer(self, status: int) -> None:
        """Answer in the server's own name."""

    def send_continue(self) -> None:
        """Send ``100 Continue``."""

    def accept(self, message: m.WebSocketAccept) -> None:
        """Complete a WebSocket's handshake, and call `Exchange.opened`."""


class WebSocketClient(Client, Protocol):
    """A client whose WebSocket is open."""

    def send_message(self, message: m.WebSocketSend) -> None:
        """Send a message."""

    def report_to(self, handler: EventHandler) -> None:
        """From now on `handler` receives what the client does."""

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""

    def fail(self) -> None:
        """Begin it with the code and the reason of the `ClientFailed` before."""


# What is for the channel layer, and for the clock.


def _send(exchange: Exchange, effect: Send) -> None:
    try:
        exchange.shared.clusters.send(effect.inbox, m.encode(effect.message))
    except ChannelNameError as error:
        _log.error("%s: %s", exchange.stream.channel, error)


def _dropped(exchange: Exchange, effect: Dropped) -> None:
    """`Exchange.receive` returns the reason."""


def _wait(exchange: Exchange, effect: Wait) -> None:
    exchange.wait(effect.waiting)


def _offer_again(exchange: Exchange, effect: Offer) -> None:
    """Offer the next attempt at a request that has not been answered: its application begins anew."""
    shared = exchange.shared
    if exchange.groups:
        shared.members.leave_all(exchange)
    shared.counters.add("retries")
    shared.merged_log.add("offered to another worker", effect.why, exchange.stream.channel)
    exchange.begin_attempt(exchange.attempt.channel, effect.why)
    # The first one's deadline may be over: then a worker that takes it would drop it.
    exchange.postpone()
    exchange.offer()


def _resume(exchange: Exchange, effect: Resume) -> None:
    """An open WebSocket has lost its worker: wait to be offered to the next one."""
    shared = exchange.shared
    if not effect.tries:
        shared.counters.add("resumptions")
    shared.merged_log.add("the open WebSocket gets another worker", effect.why, exchange.stream.channel)
    channel = channels.of_pool(channels.pool_of(exchange.attempt.channel), channels.WEBSOCKET_RESUME)
    exchange.begin_attempt(channel, effect.why)
    exchange.resumes = True
    shared.resumptions.add(exchange, effect.tries, channel)


def _join(exchange: Exchange, effect: Join) -> None:
    exchange.shared.members.join(exchange, effect)


def _leave(exchange: Exchange, effect: Leave) -> None:
    exchange.shared.members.leave(exchange, effect.group)


# What is for the client.


def _begin(exchange: Exchange, effect: m.ResponseStart) -> None:
    deadline, exchange.deadline = exchange.deadline, None
    if deadline is not None:
        deadline.pop(exchange, None)
    exchange.client.begin(effect)
    if effect.more_body:
        exchange.forget_offer()


def _body(exchange: Exchange, effect: m.ResponseBody) -> None:
    exchange.client.body(effect)


def _open_file(exchange: Exchange, effect: m.ResponseFile) -> None:
    exchange.shared.files.open(effect, exchange.handle)


def _send_file(exchange: Exchange, effect: SendFile) -> None:
    exchange.client.begin_file(effect.message, effect.file)


def _close_file(exchange: Exchange, effect: CloseFile) -> None:
    effect.file.close()


def _accept(exchange: Exchange, effect: m.WebSocketAccept) -> None:
    exchange.client.accept(effect)
    if not exchange.stream.resumable:
        exchange.forget_offer()


def _send_message(exchange: Exchange, effect: m.WebSocketSend) -> None:
    if exchange.websocket is not None:
        exchange.websocket.send_message(effect)


def _close(exchange: Exchange, effect: m.WebSocketClose | CloseClient) -> None:
    if exchange.websocket is not None:
        exchange.websocket.close(effect.code, effect.reason)
        paused = exchange.shared.paused
        if paused is not None:
            # Its other effects come first.
            exchange.shared.clusters.soon(partial(paused.closing, exchange))


def _close_client(exchange: Exchange, effect: CloseClient) -> None:
    channel, text = exchange.stream.channel, f"closing the WebSocket with {effect.code}"
    if effect.is_logged:
        exchange.shared.merged_log.add(text, effect.why, channel)
    else:
        _log.warning("%s: %s: %s", channel, text, effect.why)
    _close(exchange, effect)


def _undelivered(exchange: Exchange, effect: Undelivered) -> None:
    text = "%s: %d messages of a client that has left are lost: %s"
    _log.error(text, exchange.stream.channel, effect.count, effect.why)


def _answer(exchange: Exchange, effect: Answer) -> None:
    status = effect.status
    _log.log(_LEVELS.get(status, logging.WARNING), "%s: answering %d: %s", exchange.stream.channel, status, effect.why)
    exchange.shared.counters.add("requests_refused", label=str(status))
    exchange.client.answer(status)


def _abort(exchange: Exchange, effect: Abort) -> None:
    shared, stream = exchange.shared, exchange.stream
    if effect.error:
        _log.error("%s: aborting the connection: %s", stream.channel, effect.why)
        if shared.tracing is not None:
            shared.tracing.failed(stream.identity, effect.why)
    else:
        shared.merged_log.add("ending the event stream", effect.why, stream.channel)
    exchange.client.abort()


def _finish(exchange: Exchange, effect: Finish) -> None:
    text = "%s: the client has its whole response, but the application has not ended it: %s"
    _log.warning(text, exchange.stream.channel, effect.why)
    exchange.client.finish()


def _signal(exchange: Exchange, effect: Signal) -> None:
    if effect is ENDED:
        if not exchange.ended:
            exchange.end()
    elif effect is CONTINUE:
        exchange.client.send_continue()
    elif effect is FAIL:
        exchange.client.fail()
    elif effect is STOP_READING:
        exchange.client.stop_reading()
    elif effect is RESUME_READING:
        exchange.client.resume_reading()
    else:
        exchange.attempt.withdraw()


EFFECTS: Final[Mapping[type, Callable[[Exchange, Any], None]]] = {
    Send: _send,
    Dropped: _dropped,
    Wait: _wait,
    Offer: _offer_again,
    Resume: _resume,
    Join: _join,
    Leave: _leave,
    m.ResponseStart: _begin,
    m.ResponseBody: _body,
    m.ResponseFile: _open_file,
    SendFile: _send_file,
    CloseFile: _close_file,
    m.WebSocketAccept: _accept,
    m.WebSocketSend: _send_message,
    m.WebSocketClose: _close,
    CloseClient: _close_client,
    Undelivered: _undelivered,
    Answer: _answer,
    Abort: _abort,
    Finish: _finish,
    Signal: _signal,
}
