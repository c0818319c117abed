"""The events that streams receive besides messages, and the effects that they ask for.

A stream receives *events*: the messages of its worker, and the classes under "Events" below. It returns *effects*, in
order: messages that are meant for its client as they are (a `ResponseStart` is "begin this response"), and the classes
under "Effects". Nothing here does anything; ``front/exchanges/carry_out.py`` carries effects out.
"""

from __future__ import annotations

import enum
from typing import Any, Final, TypeAlias

from msgspec import Struct

from ifserver import messages as m

__all__ = [
    "CONTINUE",
    "ENDED",
    "FAIL",
    "RESUME_READING",
    "STOP_READING",
    "WAIT_LAST_WORDS",
    "WAIT_NOTHING",
    "WAIT_RESPONSE",
    "WAIT_RESUMPTION",
    "WAIT_WORKER",
    "WITHDRAW",
    "Abort",
    "Answer",
    "Answered",
    "BodyReceived",
    "ClaimTimedOut",
    "ClientFailed",
    "ClientLeft",
    "CloseClient",
    "CloseFile",
    "Dropped",
    "Effect",
    "Effects",
    "FileOpened",
    "FileRefused",
    "Finish",
    "Flushed",
    "Gap",
    "Join",
    "Joined",
    "Leave",
    "MessageReceived",
    "Offer",
    "OfferRefused",
    "Resume",
    "Send",
    "SendFile",
    "Signal",
    "TimedOut",
    "Undelivered",
    "Wait",
    "Waiting",
    "Withdrawn",
    "packed",
    "unpacked",
]

# Events: what the client, the node and the clock do.


class BodyReceived(Struct, frozen=True, gc=False):
    """The client sent a further piece of its request's body; `more_body`: another will follow."""

    body: bytes
    more_body: bool


class MessageReceived(Struct, frozen=True, gc=False):
    """The client sent a WebSocket message: `text`, or where that is None, `data`."""

    text: str | None
    data: bytes | None


def packed(message: MessageReceived) -> MessageReceived | bytes:
    """A message to be kept: a text in UTF-8, unless it is ASCII. One emoji in it, and Python needs four bytes for each
    character."""
    text = message.text
    return message if text is None or text.isascii() else text.encode()


def unpacked(kept: MessageReceived | bytes) -> MessageReceived:
    """The message that was `packed`."""
    return MessageReceived(kept.decode(), None) if isinstance(kept, bytes) else kept


class ClientLeft(Struct, frozen=True, gc=False):
    """The client has left, or its WebSocket has closed with `code` and `reason` (RFC 6455 7.1.5)."""

    code: int = 1006
    reason: str = ""


class ClientFailed(Struct, frozen=True, gc=False):
    """The client has broken the WebSocket protocol, which is to be closed with `code` and `reason` (RFC 6455 7.1.7)."""

    code: int
    reason: str


class Flushed(Struct, frozen=True, gc=False):
    """A message with `payload_bytes` has been handed to the kernel's socket."""

    payload_bytes: int


class Answered(Struct, frozen=True, gc=False):
    """The client has the whole response (RFC 9110 8.6: by its length), though the worker has not ended it."""


class OfferRefused(Struct, frozen=True, gc=False):
    """The node did not take the offer; `in_doubt`: it may have. `status` is the answer if it did not."""

    in_doubt: bool
    why: str
    status: int = 503


class TimedOut(Struct, frozen=True, gc=False):
    """What the last `Wait` was for did not come in time."""


class ClaimTimedOut(Struct, frozen=True, gc=False):
    """A worker took the request and did not claim it in time, or its node has lost it."""


class Withdrawn(Struct, frozen=True, gc=False):
    """The answer to `WITHDRAW`: whether the request was still there."""

    was_there: bool


class Joined(Struct, frozen=True, gc=False):
    """The answer to `Join` of `attempt`: the stream is a member of `group`; with an `error` it is not."""

    attempt: int
    group: str
    error: str = ""


class Gap(Struct, frozen=True, gc=False):
    """The stream is a member of `group`, of whose broadcasts `count` were lost on their way here; None: nobody knows
    how many, if any."""

    group: str
    count: int | None


class FileOpened(Struct, frozen=True, gc=False):
    """The file of a `ResponseFile` is open: `file` must be sent or closed."""

    message: m.ResponseFile
    file: Any


class FileRefused(Struct, frozen=True, gc=False):
    """The file is not here, is another one, or must not be sent from here."""

    message: m.ResponseFile


# Effects.


class Waiting(enum.Enum):
    """What a stream waits for, which decides how long."""

    # Members are keys of tables, and the hash that an Enum brings along is written in Python.
    __hash__ = object.__hash__

    WORKER = "to be taken by a worker"
    RESPONSE = "the response to begin"
    RESUMPTION = "the next worker of an open WebSocket to accept it"
    LAST_WORDS = "what the application still sends to a client that has broken the protocol"
    NOTHING = "nothing in particular"


class Wait(Struct, frozen=True, gc=False):
    """Forget the last `Wait`, and report `TimedOut` when this one has lasted for too long."""

    waiting: Waiting


class Offer(Struct, frozen=True, gc=False):
    """Offer this on a request channel once more: it is the next attempt. `why` is for the log."""

    request: m.ToWorkers
    why: str


class Resume(Struct, frozen=True, gc=False):
    """Offer this: an open WebSocket looks for its next worker. `tries` attempts in a row have failed; `why` is for the
    log."""

    request: m.WebSocketConnect
    tries: int
    why: str


class Send(Struct, frozen=True, gc=False):
    """Send `message` to the inbox of a worker."""

    inbox: str
    message: m.Message


class Join(Struct, frozen=True, gc=False):
    """Make the stream a member of `group`, and report `Joined`; with `gaps` also `Gap`. `tag` is for people."""

    attempt: int
    group: str
    gaps: bool
    tag: str


class Leave(Struct, frozen=True, gc=False):
    """End the membership in `group`."""

    group: str


class SendFile(Struct, frozen=True, gc=False):
    """Send the client the response of `message`, whose body is in `file`, which is closed then."""

    message: m.ResponseFile
    file: Any


class CloseFile(Struct, frozen=True, gc=False):
    """Close `file`, which nobody needs any more."""

    file: Any


class Answer(Struct, frozen=True, gc=False):
    """Answer the client in the server's own name; `why` is for the log."""

    status: int
    why: str


class Abort(Struct, frozen=True, gc=False):
    """Cut the client's connection so that a response that is not complete can not look whole; `why` is for the log.

    Not an `error` where nothing is lost: a client of events connects again.
    """

    why: str
    error: bool = True


class Finish(Struct, frozen=True, gc=False):
    """The response was complete, and the worker will not end it any more; `why` is for the log."""

    why: str


class CloseClient(Struct, frozen=True, gc=False):
    """Close the client's WebSocket in the server's own name. `is_logged`: the reason is in the log already."""

    code: int
    reason: str
    why: str
    is_logged: bool = False


class Undelivered(Struct, frozen=True, gc=False):
    """`count` messages of a client that has left reach no application; `why` is for the log."""

    count: int
    why: str


class Dropped(Struct, frozen=True, gc=False):
    """The message that arrived was not handed on; to be counted. Always the first effect.

    `reason` is one of ``messages_dropped``, or ``repeated``.
    """

    reason: str


class Signal(enum.Enum):
    """Effects that need no details."""

    #: Send ``100 Continue`` (RFC 9110 10.1.1).
    CONTINUE = enum.auto()
    #: Stop reading this client's socket.
    STOP_READING = enum.auto()
    #: Read it again.
    RESUME_READING = enum.auto()
    #: Take the request back from the node, and report `Withdrawn`.
    WITHDRAW = enum.auto()
    #: Close the WebSocket of a client that has broken the protocol, with the code of `ClientFailed`.
    FAIL = enum.auto()
    #: The stream has ended: forget it.
    ENDED = enum.auto()


CONTINUE: Final = Signal.CONTINUE
STOP_READING: Final = Signal.STOP_READING
RESUME_READING: Final = Signal.RESUME_READING
WITHDRAW: Final = Signal.WITHDRAW
FAIL: Final = Signal.FAIL
ENDED: Final = Signal.ENDED

WAIT_WORKER: Final = Wait(Waiting.WORKER)
WAIT_RESPONSE: Final = Wait(Waiting.RESPONSE)
WAIT_RESUMPTION: Final = Wait(Waiting.RESUMPTION)
WAIT_LAST_WORDS: Final = Wait(Waiting.LAST_WORDS)
WAIT_NOTHING: Final = Wait(Waiting.NOTHING)

Effect: TypeAlias = (
    m.Message
    | Wait
    | Offer
    | Resume
    | Send
    | Join
    | Leave
    | SendFile
    | CloseFile
    | Answer
    | Abort
    | Finish
    | CloseClient
    | Undelivered
    | Dropped
    | Signal
)
Effects: TypeAlias = tuple[Effect, ...]
