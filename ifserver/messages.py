"""Every message that crosses a channel, and its codec.

Messages are frozen and check themselves when they are decoded. On the wire a payload is one byte of format version
and a MessagePack array ``[tag, field, ...]``; new fields go to the end and get a default, so that a release can read
what its predecessor sent. Field names are those of the ASGI specification.

Fields that many messages share:

``stream``
    Identity of the stream, ``process.stream`` (`ifserver.channels.identity`).
``attempt``
    Which offer of the request this is about, from 0.
``worker``
    Inbox of the worker process that speaks for the stream; its process part is the identity. A supervisor that speaks
    for its child names the child.
``seq``
    Position of the message in its direction of this attempt, from 0. The messages without it may be
    overtaken.
``deadline``
    By the clock of the node of the reply channel (`ifserver.layers.node.Node.clock`), in seconds: after it nobody need
    start the request. Only a backstop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

from ifserver import channels
from ifserver.errors import UndecodableError

__all__ = [
    "DIED",
    "DRAINED",
    "FORMAT",
    "GIVEN_BACK",
    "SERVER_LOST",
    "STOPPED",
    "UNDECODABLE",
    "UNREAD",
    "Broadcast",
    "Claim",
    "Disconnect",
    "FileDeclined",
    "FileTaken",
    "GroupGap",
    "GroupJoin",
    "GroupJoined",
    "GroupLeave",
    "Headers",
    "HttpRequest",
    "Message",
    "Position",
    "Receipt",
    "Release",
    "RequestBody",
    "ResponseBody",
    "ResponseFile",
    "ResponseStart",
    "Sync",
    "SyncEntry",
    "ToApplication",
    "ToServer",
    "ToStream",
    "ToWorker",
    "ToWorkers",
    "WebSocketAccept",
    "WebSocketClose",
    "WebSocketConnect",
    "WebSocketReceive",
    "WebSocketSend",
    "Window",
    "decode_broadcast",
    "decode_for_server",
    "decode_for_worker",
    "decode_request",
    "encode",
    "is_counted",
]

Headers: TypeAlias = list[tuple[bytes, bytes]]
# What comes from a node is checked while it is decoded, so that nothing behind that can fail by it.
#: What is counted, from 0: far more than there ever is, and sums of it are still 64-bit integers.
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**62)]
#: Finite, and not below 0.
Seconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=1e12)]
#: Messages sent, and requests pulled.
Position: TypeAlias = tuple[Count, Count]
#: A stream, a process or an inbox. What is no such name is nobody's, and cannot be sent to.
Name: TypeAlias = Annotated[str, Meta(max_length=channels.MAX_LENGTH)]
ReplyChannel: TypeAlias = Annotated[str, Meta(pattern=channels.REPLY_CHANNEL, max_length=channels.MAX_LENGTH)]
#: Of a WebSocket (RFC 6455 7.4); 0: there is none.
CloseCode: TypeAlias = Annotated[int, Meta(ge=0, le=4999)]

#: Reasons of a `Release` by which a worker gives a stream back in good order: it drains, or has to stop.
DRAINED: Final = "drained"
STOPPED: Final = "stopped"
#: The reason of a worker whose loop stood still while the request lay unread. It has begun nothing, and will not: the
#: server may have taken the request for vanished and offered it once more.
UNREAD: Final = "unread"
#: The same of an event stream (``text/event-stream``) that has begun: its client connects again, so nothing has failed.
EVENTS_STOPPED: Final = "events stopped"
GIVEN_BACK: Final = (DRAINED, STOPPED, UNREAD, EVENTS_STOPPED)
#: The reason of those who say that the worker is dead.
DIED: Final = "died"
#: The reason of a worker that takes the server for dead. Where it was only frozen, it hears this when it wakes.
SERVER_LOST: Final = "dead"

#: The first byte of every payload.
FORMAT: Final = 1
_FORMAT_BYTE: Final = bytes([FORMAT])
_SMALL_BYTES: Final = 2048

#: What msgspec raises where bytes are not what they should be; the last one where they are nested too deeply.
UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all messages."""


# To a request channel.


class HttpRequest(Message, tag=1, frozen=True, array_like=True, gc=False):
    """A client's request, with the first bytes of its body; `more_body`: whether `RequestBody` follows the claim."""

    reply_channel: ReplyChannel
    attempt: Count
    deadline: float
    http_version: str
    method: str
    scheme: str
    path: str
    raw_path: bytes
    query_string: bytes
    root_path: str
    headers: Headers
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    body: bytes
    more_body: bool
    #: Whether the server may send a file by itself, if it is asked to (`ResponseFile`).
    files: bool = False


class WebSocketConnect(Message, tag=2, frozen=True, array_like=True, gc=False):
    """A client's WebSocket handshake; it is answered when the application accepts or denies."""

    reply_channel: ReplyChannel
    attempt: Count
    deadline: float
    http_version: str
    scheme: str
    path: str
    raw_path: bytes
    query_string: bytes
    root_path: str
    headers: Headers
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    subprotocols: list[str]
    #: Whether the WebSocket outlives its worker (see docs/explanation/architecture.rst, Resumption).
    resumable: bool = False
    #: Of an open WebSocket whose worker is gone: how many of its messages that worker had which may have been consumed
    #: or not; they are not sent again. None: the WebSocket is new.
    unconfirmed: Count | None = None


# To an interface server's inbox.


class Claim(Message, tag=10, frozen=True, array_like=True, gc=False):
    """`worker` has the stream now and is its only speaker; `supervisor` is the process that watches over it.

    `by` is the process that speaks for the worker; empty: it speaks itself.
    """

    stream: Name
    attempt: Count
    worker: Name
    supervisor: Name
    by: Name = ""


class ResponseStart(Message, tag=11, frozen=True, array_like=True, gc=False):
    """Status, headers and the first body bytes of a response, or of the denial of a WebSocket handshake."""

    stream: Name
    attempt: Count
    worker: Name
    seq: Count
    status: int
    headers: Headers
    body: bytes
    more_body: bool


class ResponseBody(Message, tag=12, frozen=True, array_like=True, gc=False):
    """A further piece of the response's body, 64 KiB at most."""

    stream: Name
    attempt: Count
    worker: Name
    seq: Count
    body: bytes
    more_body: bool


class WebSocketAccept(Message, tag=13, frozen=True, array_like=True, gc=False):
    """Complete the handshake, and send the client's frames to `channel`."""

    stream: Name
    attempt: Count
    worker: Name
    seq: Count
    channel: Name
    subprotocol: str | None
    headers: Headers
    #: Whether the WebSocket is resumable from now on: what the connect said counts no more.
    resumable: bool = False


class WebSocketSend(Message, tag=14, frozen=True, array_like=True, gc=False):
    """One message to the client: `text`, or where that is None, `data`."""

    stream: Name
    attempt: Count
    worker: Name
    seq: Count
    text: str | None
    data: bytes | None


class WebSocketClose(Message, tag=15, frozen=True, array_like=True, gc=False):
    """Close the WebSocket with `code` and `reason`."""

    stream: Name
    attempt: Count
    worker: Name
    seq: Count
    code: Count
    reason: str


class GroupJoin(Message, tag=16, frozen=True, array_like=True, gc=False):
    """Make the stream a member of `group`; answered with `GroupJoined`. A WebSocket, or a response that has begun.

    `gaps`: whether to report with `GroupGap` that something sent to the group may be lost.
    """

    stream: Name
    attempt: Count
    worker: Name
    seq: Count
    group: str
    gaps: bool = False
    #: What the application says of this member, for `ifserver.groups.members`.
    tag: str = ""


class GroupLeave(Message, tag=17, frozen=True, array_like=True, gc=False):
    """The stream is no member of `group` from here on. Not answered."""

    stream: Name
    attempt: Count
    worker: Name
    seq: Count
    group: str


class ResponseFile(Message, tag=18, frozen=True, array_like=True, gc=False):
    """A whole response whose body is `count` bytes of a file, from `offset` on. Answered with `FileTaken` if the server
    sends it, and with `FileDeclined` if it cannot, and nothing has been sent.

    `path` is absolute and without symbolic links. The server must find the same file there: the other fields tell which
    the worker has opened, as stat(2) calls them.
    """

    stream: Name
    attempt: Count
    worker: Name
    seq: Count
    status: int
    headers: Headers
    path: bytes
    offset: Count
    count: Count
    device: int
    inode: int
    size: Count
    modified_ns: int


# To a worker's inbox.


class RequestBody(Message, tag=20, frozen=True, array_like=True, gc=False):
    """A further piece of the request's body, 64 KiB at most."""

    stream: Name
    attempt: Count
    seq: Count
    body: bytes
    more_body: bool


class WebSocketReceive(Message, tag=21, frozen=True, array_like=True, gc=False):
    """One message from the client: `text`, or where that is None, `data`."""

    stream: Name
    attempt: Count
    seq: Count
    text: str | None
    data: bytes | None


class Disconnect(Message, tag=22, frozen=True, array_like=True, gc=False):
    """The client has left. `code` and `reason` are the WebSocket's (RFC 6455 7.1.5), 0 and empty for HTTP.

    `answerable`: it has broken the WebSocket protocol, and is still there. What the application says before it learns
    of that is sent, and the worker then says `Release`, for which the server waits with its close frame.
    """

    stream: Name
    attempt: Count
    seq: Count
    code: CloseCode
    reason: str
    answerable: bool = False


class GroupJoined(Message, tag=23, frozen=True, array_like=True, gc=False):
    """The stream is a member of `group`: it hears what is sent there from now on. Otherwise `error` says why not."""

    stream: Name
    attempt: Count
    seq: Count
    group: str
    error: str = ""


class GroupGap(Message, tag=24, frozen=True, array_like=True, gc=False):
    """Broadcasts to `group` were lost on their way to this member: so many, or `count` is None if that is not known."""

    stream: Name
    attempt: Count
    seq: Count
    group: str
    count: Count | None


class FileTaken(Message, tag=25, frozen=True, array_like=True, gc=False):
    """The server has opened the file of a `ResponseFile`, and sends it: nothing more is said of the stream."""

    stream: Name
    attempt: Count
    seq: Count


class FileDeclined(Message, tag=26, frozen=True, array_like=True, gc=False):
    """It has not: the worker answers as if it had not asked."""

    stream: Name
    attempt: Count
    seq: Count


# To both. `worker` is the worker of the stream, whichever side speaks.


class Window(Message, tag=30, frozen=True, array_like=True, gc=False):
    """The receiver has consumed `consumed` units of this attempt in all (`ifserver.flow_control`)."""

    stream: Name
    attempt: Count
    worker: Name
    consumed: Count


class SyncEntry(Message, frozen=True, array_like=True, gc=False):
    """Where one stream stands: how many messages were sent, and how much was consumed, by the sender of the `Sync`."""

    stream: Name
    attempt: Count
    sent: Count
    consumed: Count


class Sync(Message, tag=31, frozen=True, array_like=True, gc=False):
    """Where streams stand that two processes share. `sender` is the inbox of the one that speaks, to be answered there;
    `supervisor` is that of a worker, and empty for a server. `moves` counts how often the sender has given its streams
    another address: of two that disagree, the one with the higher number knows where it receives now."""

    sender: Name
    supervisor: Name
    entries: list[SyncEntry]
    moves: Count = 0


class Receipt(Message, tag=33, frozen=True, array_like=True, gc=False):
    """How many messages the process with the inbox `sender` has sent to `inbox` before this one, and how many requests
    that are to be answered there it has pulled: `reached` by now, `since` what was confirmed last. Of what comes from
    there to `sender` it has settled `confirmed`; None: that is not what this is about. `answer`: it can be answered.
    Not counted itself (`ifserver.layers.accounting`)."""

    inbox: Name
    sender: Name
    since: Position
    reached: Position
    confirmed: Position | None
    answer: bool


class Release(Message, tag=32, frozen=True, array_like=True, gc=False):
    """The stream has ended here, or was never known: let go of it. Never answered.

    `reason` is for the logs, but for those of `GIVEN_BACK`: the worker gives the stream back in good order, behind the
    `sent` messages that it has sent, with the total of units that it has consumed. `by` as in `Claim`.
    """

    stream: Name
    attempt: Count
    worker: Name
    reason: str
    consumed: Count = 0
    sent: Count = 0
    by: Name = ""


# In a group.


class Broadcast(Message, tag=40, frozen=True, array_like=True, gc=False):
    """What is sent to a group: a WebSocket message of `text` or of `data`, a `close` with its code and reason, or a
    `message` for applications, which is MessagePack of a dict. Or it does `ask` who is in the group: in which group to
    answer, and whether all members are to be named. One of the five is there, the others are None.

    `publisher` is the process that sends it, and `number` its position among all that this process sends to the group
    (`ifserver.layers.groups`). `exclude` is the identity of a stream that does not get it; empty: all members do.
    """

    publisher: Name
    number: Count
    exclude: Name
    text: str | None = None
    data: bytes | None = None
    close: tuple[CloseCode, str] | None = None
    message: bytes | None = None
    ask: tuple[str, bool] | None = None


ToWorkers: TypeAlias = HttpRequest | WebSocketConnect
#: About one stream, to an interface server.
ToStream: TypeAlias = (
    Claim
    | ResponseStart
    | ResponseBody
    | ResponseFile
    | WebSocketAccept
    | WebSocketSend
    | WebSocketClose
    | GroupJoin
    | GroupLeave
    | Window
    | Release
)
ToServer: TypeAlias = ToStream | Sync | Receipt
#: About one stream, in its sequence, to a worker.
ToApplication: TypeAlias = (
    RequestBody | WebSocketReceive | Disconnect | GroupJoined | GroupGap | FileTaken | FileDeclined
)
ToWorker: TypeAlias = ToApplication | Window | Sync | Release | Receipt

_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """The payload of `message`.

    Raises:
        UnicodeEncodeError: a text holds a lone surrogate, which UTF-8 cannot express.
    """
    return _FORMAT_BYTE + _encoder.encode(message)


_RECEIPT_HEAD: Final = encode(Receipt("", "", (0, 0), (0, 0), None, False))[:3]


def is_counted(payload: bytes) -> bool:
    """Whether the message in `payload` is one that the accounting counts: not a `Receipt`."""
    return not payload.startswith(_RECEIPT_HEAD)


def _decoder_of(kinds: Any) -> Callable[[bytes], Any]:
    """Returns what decodes a payload that holds one of `kinds`, and raises UndecodableError where it does not."""
    decoder = msgspec.msgpack.Decoder(kinds)

    def decode(payload: bytes) -> Any:
        if payload[:1] != _FORMAT_BYTE:
            raise UndecodableError(f"format version {payload[:1].hex() or 'missing'}, expected {FORMAT:02x}")
        try:
            # To copy a small one is cheaper than to look at it.
            return decoder.decode(payload[1:] if len(payload) < _SMALL_BYTES else memoryview(payload)[1:])
        except UNDECODABLE as error:
            raise UndecodableError(str(error)) from error

    return decode


#: The message in a payload from a request channel, from a server's inbox, and from a worker's inbox.
decode_request: Final[Callable[[bytes], ToWorkers]] = _decoder_of(ToWorkers)
decode_for_server: Final[Callable[[bytes], ToServer]] = _decoder_of(ToServer)
decode_for_worker: Final[Callable[[bytes], ToWorker]] = _decoder_of(ToWorker)
_decode_broadcast: Final[Callable[[bytes], Broadcast]] = _decoder_of(Broadcast)


def decode_broadcast(payload: bytes) -> Broadcast:
    """The broadcast in a payload.

    Raises:
        UndecodableError: it is none, or says nothing, or more than one thing.
    """
    broadcast = _decode_broadcast(payload)
    said = (broadcast.text, broadcast.data, broadcast.close, broadcast.message, broadcast.ask)
    if said.count(None) != len(said) - 1:
        raise UndecodableError("a broadcast has one of text, data, close, message and ask")
    return broadcast
