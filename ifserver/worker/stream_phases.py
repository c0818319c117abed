"""How far a stream has come."""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["ANSWERING", "DONE", "HELD", "LOST", "OFFERED", "OPEN", "OVER", "SILENT", "Phase"]


class Phase(enum.Enum):
    """How far a stream has come; the value completes "the event is not expected now: ..."."""

    #: The application has sent nothing.
    SILENT = "no response has been started"
    #: It has sent the start of a response, which is held until the first of its body, or for a short while.
    HELD = "the response's body is due"
    #: The server was asked to send a file by itself, as the whole response, and has not said whether it does.
    OFFERED = "a file is being sent"
    #: Part of the response is on its way.
    ANSWERING = "the response's body is not complete"
    #: The WebSocket is accepted.
    OPEN = "the WebSocket is open"
    #: The last message is on its way.
    DONE = "the response is complete, or the WebSocket closed"
    #: The client has left, the server has let go or is gone, or it was told to let go.
    LOST = "the client has left"


# A member of an Enum costs several times as much to look up as a global, and these are looked up for every event.
SILENT: Final = Phase.SILENT
HELD: Final = Phase.HELD
OFFERED: Final = Phase.OFFERED
ANSWERING: Final = Phase.ANSWERING
OPEN: Final = Phase.OPEN
DONE: Final = Phase.DONE
LOST: Final = Phase.LOST
#: Nothing more is said about the stream.
OVER: Final = (DONE, LOST)
