"""The wire format of the embedded broker.

A frame is four bytes, big-endian, that tell the length of the MessagePack behind them: one of the structs below. The
broker greets with `Hello`; whatever it is asked with an `id` it answers once, in whatever order the answers become
known. What is too long for one frame comes in several, of which all but the last say that there is `more`. Unasked it
sends what is published in the groups of a connection. A frame that is too long, or that does not decode, closes that
connection and no other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct
from twisted.internet.protocol import Protocol

from ifserver.clock import Soon
from ifserver.errors import NodeError, NodeUnreachable, PushInDoubt
from ifserver.layers.node import MAX_PAYLOAD_BYTES, Limits, Queue, Reading

__all__ = [
    "CALLS",
    "HEADER_BYTES",
    "MAX_FRAME_BYTES",
    "VERSION",
    "Answer",
    "Ask",
    "Brought",
    "Call",
    "Cutter",
    "EndPulls",
    "Hello",
    "Interrupted",
    "Malformed",
    "Nothing",
    "Peer",
    "Published",
    "Pull",
    "Push",
    "Refused",
    "Result",
    "Taken",
    "decode_answer",
    "decode_ask",
    "frame",
    "packed",
    "pieces_of",
]

#: Broker and clients are of the same release in practice; a reload that mixes two must fail with a clear word.
VERSION: Final = 5
#: Payloads are put into one frame until it holds this much, so that a frame is at most one payload longer. As much as
#: uvloop reads at once: frames that come in several reads have to be joined.
PIECE_BYTES: Final = 256 * 1024
#: What a payload costs in a frame beside its bytes, at most.
_PAYLOAD_OVERHEAD: Final = 8
#: The longest frame: a piece, one payload of the largest size, and names.
MAX_FRAME_BYTES: Final = MAX_PAYLOAD_BYTES + 2 * PIECE_BYTES
#: From what size on a copy costs more than a view does.
_VIEWED_BYTES: Final = 16 * 1024
HEADER_BYTES: Final = 4

_Count: TypeAlias = Annotated[int, Meta(ge=1)]
# Bounded, since no event loop has a timer for "infinity".
_Wait: TypeAlias = Annotated[float, Meta(ge=0, le=1e6)]


# What a node asks.


class Push(Struct, frozen=True, array_like=True, tag=1, gc=False):
    id: int
    channel: str
    payloads: list[bytes]
    more: bool
    #: With the last piece.
    limits: Limits | None = None


class Pull(Struct, frozen=True, array_like=True, tag=2, gc=False):
    id: int
    names: list[str]
    count: _Count
    wait_s: _Wait


class EndPulls(Struct, frozen=True, array_like=True, tag=3, gc=False):
    pass


class Call(Struct, frozen=True, array_like=True, tag=4, gc=False):
    """One of `CALLS`."""

    id: int
    name: str
    arguments: Raw


# What the broker answers.


class Hello(Struct, frozen=True, array_like=True, tag=16, gc=False):
    version: int
    epoch: str


class Taken(Struct, frozen=True, array_like=True, tag=17, gc=False):
    id: int
    taken: int
    length: int


class Brought(Struct, frozen=True, array_like=True, tag=18, gc=False):
    id: int
    channel: str
    payloads: list[bytes]
    more: bool


class Nothing(Struct, frozen=True, array_like=True, tag=19, gc=False):
    id: int


class Result(Struct, frozen=True, array_like=True, tag=20, gc=False):
    """What a `Call` has brought."""

    id: int
    value: Raw


class Refused(Struct, frozen=True, array_like=True, tag=21, gc=False):
    id: int
    why: str


# What the broker sends unasked.


class Published(Struct, frozen=True, array_like=True, tag=22, gc=False):
    group: str
    payload: bytes


class Interrupted(Struct, frozen=True, array_like=True, tag=23, gc=False):
    """The client has not read fast enough, so that something was dropped of these groups."""

    groups: list[str]


Ask: TypeAlias = Push | Pull | EndPulls | Call
Answer: TypeAlias = Hello | Taken | Brought | Nothing | Result | Refused | Published | Interrupted

_encode = msgspec.msgpack.Encoder().encode
decode_ask = msgspec.msgpack.Decoder(Ask).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


class Kind(NamedTuple):
    """How a call goes over the wire."""

    decode_arguments: Callable[[Raw], Sequence[Any]]
    decode_result: Callable[[Raw], Any]
    #: What it fails with if the connection breaks before the answer.
    when_lost: type[NodeError]
    #: Whether it is about the connection, and not about the node alone.
    of_connection: bool = False


def _kind(
    arguments: Any, result: Any, when_lost: type[NodeError] = NodeUnreachable, of_connection: bool = False
) -> Kind:
    decoder = msgspec.msgpack.Decoder
    return Kind(decoder(arguments).decode, decoder(result).decode, when_lost, of_connection)


#: The methods of `ifserver.layers.node.Node` that are called by name, with their arguments and results. To push and to
#: pull are frames of their own: they come in pieces, and are most of all.
CALLS: Final[Mapping[str, Kind]] = {
    "withdraw": _kind(tuple[str, bytes], bool, PushInDoubt),
    "holds": _kind(tuple[str, bytes], bool),
    "beat": _kind(tuple[str, bytes, _Wait, list[str]], None, PushInDoubt),
    "beats": _kind(tuple[list[str]], list[bytes | None]),
    "publish": _kind(tuple[str, bytes], int, PushInDoubt),
    "subscribe": _kind(tuple[list[str]], None, of_connection=True),
    "unsubscribe": _kind(tuple[list[str]], None, of_connection=True),
    "census": _kind(tuple[()], dict[str, bytes]),
    "readers": _kind(tuple[()], list[Reading]),
    "look": _kind(tuple[str], Queue),
}


class Malformed(Exception):
    """The other side does not keep to the protocol."""


def frame(message: Ask | Answer) -> bytes:
    """The frame of `message`."""
    body = _encode(message)
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def packed(value: object) -> Raw:
    """The arguments of a `Call`, or the value of a `Result`."""
    return Raw(_encode(value))


def pieces_of(payloads: Sequence[bytes]) -> list[Sequence[bytes]]:
    """`payloads` in as many parts as it takes to keep the frames below their limit; usually one."""
    if len(payloads) <= 1 or sum(map(len, payloads)) + _PAYLOAD_OVERHEAD * len(payloads) <= PIECE_BYTES:
        return [payloads]
    pieces: list[Sequence[bytes]] = []
    piece: list[bytes] = []
    size = 0
    for payload in payloads:
        piece.append(payload)
        size += len(payload) + _PAYLOAD_OVERHEAD
        if size >= PIECE_BYTES:
            pieces.append(piece)
            piece, size = [], 0
    if piece:
        pieces.append(piece)
    return pieces


class Cutter:
    """Cuts a stream of bytes into the bodies of its frames. Every byte is copied a constant number of times."""

    __slots__ = ("_have", "_kept", "_need")

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._have = 0
        self._need = HEADER_BYTES

    def cut(self, data: bytes) -> list[bytes | memoryview]:
        """The bodies that are complete with `data`.

        Raises:
            Malformed: a frame is too long.
        """
        if self._kept:
            self._kept.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            data = b"".join(self._kept)
            self._kept = []
        bodies: list[bytes | memoryview] = []
        position, end, need = 0, len(data), HEADER_BYTES
        view = data if end < _VIEWED_BYTES else memoryview(data)
        while end - position >= HEADER_BYTES:
            start = position + HEADER_BYTES
            size = int.from_bytes(data[position:start], "big")
            if size > MAX_FRAME_BYTES:
                raise Malformed(f"a frame of {size} bytes, at most {MAX_FRAME_BYTES} are allowed")
            if start + size > end:
                need = HEADER_BYTES + size
                break
            position = start + size
            bodies.append(view[start:position])
        if position < end:
            self._kept = [data[position:]]
            self._have, self._need = end - position, need
        return bodies


class Peer(Protocol, ABC):
    """What both ends of a connection have in common."""

    transport: Any

    def __init__(self) -> None:
        self._cutter = Cutter()
        self._parts: dict[int, list[bytes]] = {}
        self._unsent: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        try:
            for body in self._cutter.cut(data):
                self.message_received(body)
        except (Malformed, msgspec.DecodeError, RecursionError) as error:
            self.malformed(str(error))

    def write_soon(self, data: bytes, soon: Soon) -> None:
        """Write `data` together with all else that is to be written then."""
        self._unsent.append(data)
        if len(self._unsent) == 1:
            soon(self.flush)

    def flush(self) -> None:
        """Write it now."""
        unsent, self._unsent = self._unsent, []
        self.transport.write(b"".join(unsent))

    def whole(self, message: Push | Brought) -> list[bytes] | None:
        """The payloads of what has come in one frame or in several; None while more are to come."""
        if not message.more and not self._parts:
            return message.payloads
        payloads = self._parts.setdefault(message.id, [])
        payloads += message.payloads
        return None if message.more else self._parts.pop(message.id)

    @abstractmethod
    def message_received(self, body: bytes | memoryview) -> None:
        """One frame has arrived.

        Raises:
            Malformed, msgspec.DecodeError: it is not what the protocol knows.
        """

    @abstractmethod
    def malformed(self, why: str) -> None:
        """The other side does not keep to the protocol: close the connection."""
