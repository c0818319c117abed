"""What the log says of a stream, and which exceptions of applications it leaves out."""

from __future__ import annotations

from typing import Any, Final

from ifserver import headers
from ifserver.errors import ClientDisconnected
from ifserver.messages import HttpRequest, ToWorkers

__all__ = ["is_disconnection", "request_id_of", "shown"]

#: As much of a request's id as is logged, in bytes.
_MAX_ID: Final = 128
#: The exception by which Starlette says that it was told of a disconnect; FastAPI's tutorial lets it pass.
_DISCONNECT: Final = "WebSocketDisconnect"


def shown(request: ToWorkers, identity: str) -> str:
    """The stream of this identity: what was asked for, and the full reply channel."""
    request_id = request_id_of(request)
    what = request.method if isinstance(request, HttpRequest) else "WebSocket"
    # One that was made is in the channel's name.
    told = f", request {request_id}" if request_id and request_id != identity else ""
    return f"{what} {request.path[:200]!r} ({request.reply_channel}{told})"


def request_id_of(request: ToWorkers) -> str:
    """The id that a request carries; empty if it has none. The client's own where ``request_id`` is off."""
    given = headers.find(request.headers, b"x-request-id")
    # The application has had this list, and may have put anything there.
    known = given if type(given) is bytes else b""
    return known[:_MAX_ID].decode("latin-1").encode("unicode_escape").decode("ascii")


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
