"""What an exchange needs of the connection of its client, and the effects of streams that are for that alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from ifserver import messages as m
from ifserver.front.exchanges.shared_services import SharedServices
from ifserver.front.files import File
from ifserver.front.request_metrics import RequestMetrics
from ifserver.front.websocket.prepared import Prepared
from ifserver.state_machines.effects import Abort, Answer, CloseClient, CloseFile, Finish, SendFile, Undelivered
from ifserver.state_machines.stream import Stream

__all__ = ["EFFECTS", "HttpClient", "Reports", "WebSocketClient"]

#: At which level it is logged that the server answers, where that is no warning. 404: no pool takes the request.
_LEVELS: Final = {502: logging.ERROR, 404: logging.DEBUG}

_log = logging.getLogger(__name__)


class Reports(Protocol):
    """Who is told what a client does."""

    def handle(self, event: object) -> None:
        """Something has happened to the client."""


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
        """Cut the connection; the stream is told that its client has left."""

    def stop_reading(self) -> None:
        """Leave what the client sends in the kernel's buffers."""

    def resume_reading(self) -> None:
        """Read it again."""


class HttpClient(Client, Protocol):
    """A client that waits for a response."""

    #: Where its request is counted.
    tally: RequestMetrics
    #: What Set-Cookie tells it in its response; empty: nothing.
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
        """Complete a WebSocket's handshake, and tell `Exchange.opened`."""


class WebSocketClient(Client, Protocol):
    """A client whose WebSocket is open."""

    def send_message(self, message: m.WebSocketSend) -> None:
        """Send a message."""

    def tell(self, reports: Reports) -> None:
        """Tell `reports` what the client does, from now on."""

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""

    def fail(self) -> None:
        """Begin it with what the client has done wrong, as was said in `ClientFailed`."""


class _Exchange(Protocol):
    """Whose client it is."""

    client: Any
    websocket: WebSocketClient | None
    shared: SharedServices
    stream: Stream

    def handle(self, event: object) -> None:
        """Something has happened."""


def _open_file(exchange: _Exchange, effect: m.ResponseFile) -> None:
    exchange.shared.files.open(effect, exchange.handle)


def _send_file(exchange: _Exchange, effect: SendFile) -> None:
    exchange.client.begin_file(effect.message, effect.file)


def _close_file(exchange: _Exchange, effect: CloseFile) -> None:
    effect.file.close()


def _body(exchange: _Exchange, effect: m.ResponseBody) -> None:
    exchange.client.body(effect)


def _answer(exchange: _Exchange, effect: Answer) -> None:
    _log.log(
        _LEVELS.get(effect.status, logging.WARNING),
        "%s: answering %d: %s",
        exchange.stream.channel,
        effect.status,
        effect.why,
    )
    exchange.shared.counters.add("requests_refused", label=str(effect.status))
    exchange.client.answer(effect.status)


def _abort(exchange: _Exchange, effect: Abort) -> None:
    if effect.error:
        _log.error("%s: aborting the connection: %s", exchange.stream.channel, effect.why)
        if exchange.shared.tracing is not None:
            exchange.shared.tracing.failed(exchange.stream.identity, effect.why)
    else:
        exchange.shared.merged_log.add("ending the event stream", effect.why, exchange.stream.channel)
    exchange.client.abort()


def _finish(exchange: _Exchange, effect: Finish) -> None:
    text = "%s: the client has its whole response, but the application has not ended it: %s"
    _log.warning(text, exchange.stream.channel, effect.why)
    exchange.client.finish()


def _send_message(exchange: _Exchange, effect: m.WebSocketSend) -> None:
    if exchange.websocket is not None:
        exchange.websocket.send_message(effect)


def _close(exchange: _Exchange, effect: m.WebSocketClose | CloseClient) -> None:
    if exchange.websocket is not None:
        exchange.websocket.close(effect.code, effect.reason)
        paused = exchange.shared.paused
        if paused is not None:
            # Its other effects come first.
            exchange.shared.clusters.soon(partial(paused.closing, exchange))


def _unsaid(exchange: _Exchange, effect: Undelivered) -> None:
    text = "%s: %d messages of a client that has left are lost: %s"
    _log.error(text, exchange.stream.channel, effect.count, effect.why)


def _close_client(exchange: _Exchange, effect: CloseClient) -> None:
    if effect.is_logged:
        exchange.shared.merged_log.add(f"closing the WebSocket with {effect.code}", effect.why, exchange.stream.channel)
    else:
        _log.warning("%s: closing the WebSocket with %d: %s", exchange.stream.channel, effect.code, effect.why)
    _close(exchange, effect)


#: What is done about each effect.
EFFECTS: Final[Mapping[type, Callable[[Any, Any], None]]] = {
    m.ResponseBody: _body,
    m.ResponseFile: _open_file,
    SendFile: _send_file,
    CloseFile: _close_file,
    m.WebSocketSend: _send_message,
    m.WebSocketClose: _close,
    CloseClient: _close_client,
    Answer: _answer,
    Abort: _abort,
    Finish: _finish,
    Undelivered: _unsaid,
}
