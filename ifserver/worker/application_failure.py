"""What becomes of a stream whose application raises, or returns before its answer is whole: 500, or the end of it.

Once the response has begun, an error can only cut the connection, and an open WebSocket is closed with 1011
(`ifserver.worker.asgi_websocket`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from ifserver.errors import ClientDisconnected
from ifserver.messages import STOPPED, Headers, ResponseStart
from ifserver.worker.asgi_stream import Stream
from ifserver.worker.stream_phases import ANSWERING, DONE, LOST, OFFERED, OVER

__all__ = ["AnsweringStream", "is_disconnection", "is_expected"]

_ERROR_BODY: Final = b"Internal Server Error"
_ERROR_HEADERS: Final[Headers] = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", b"%d" % len(_ERROR_BODY)),
]
#: The exception by which Starlette says that it was told of a disconnect; FastAPI's tutorial lets it pass.
_DISCONNECT: Final = "WebSocketDisconnect"

_log = logging.getLogger(__name__)


class AnsweringStream(Stream):
    """A stream whose application may fail."""

    __slots__ = ()

    def _ended(self, error: BaseException | None) -> None:
        """The application has raised `error`, or returned before its answer was whole."""
        cancelled, phase = self._cancelled, self.phase
        if error is None:
            if not cancelled:
                _log.error("%s: the application has returned, but %s", self, phase.value, extra=self._about)
        elif not (cancelled and isinstance(error, asyncio.CancelledError)) and not is_expected(self, error):
            _log.error("%s: the application has raised", self, exc_info=error, extra=self._about)
        if cancelled:
            # Not its fault, whatever it has made of the cancellation: where nothing was answered, another worker can.
            self.release(STOPPED)
        elif phase not in OVER:
            self.break_off()

    def _answer_500(self, head: bool = False) -> None:
        """Answer 500, or cut the response off if anything of it has left."""
        if self.phase is ANSWERING or self.phase is OFFERED:
            self.release("failed")
            return
        body = b"" if head else _ERROR_BODY
        start = ResponseStart(self.identity, self.attempt, self.worker, self.sent, 500, _ERROR_HEADERS, body, False)
        self.tell(start, len(body), last=True)
        self.move(DONE)


def is_expected(stream: Stream, error: BaseException) -> bool:
    """Whether the application has raised `error` since its client has left, which is no failure."""
    return stream.phase is LOST and is_disconnection(error)


def is_disconnection(error: BaseException) -> bool:
    """Whether `error` is, or has come of, the `ClientDisconnected` that ``send()`` has raised, or says itself that
    ``receive()`` has returned a disconnect.

    Frameworks raise one of their own instead (Starlette's ``ClientDisconnect``), or wrap it in an `ExceptionGroup`.
    """
    seen: set[int] = set()
    rest: list[Any] = [error]
    while rest:
        error = rest.pop()
        if isinstance(error, ClientDisconnected) or type(error).__name__ == _DISCONNECT:
            return True
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            rest += (error.__cause__, error.__context__)
            if isinstance(error, BaseExceptionGroup):
                rest += error.exceptions
    return False
