"""What the log calls a stream."""

from __future__ import annotations

from typing import Final

from ifserver import headers
from ifserver.messages import HttpRequest, ToWorkers

__all__ = ["request_id_of", "shown"]

#: As much of a request's id as is logged, in bytes.
_MAX_ID: Final = 128


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
