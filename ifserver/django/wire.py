"""Channels' messages as bytes, and what processes say to each other about channels that one of them holds."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec
from channels.exceptions import MessageTooLarge

from ifserver.asgi_events import as_bytes, checked_close, checked_text
from ifserver.messages import Broadcast

__all__ = [
    "UNDECODABLE",
    "Change",
    "Changed",
    "Kept",
    "Letter",
    "Sent",
    "as_message",
    "decode_kept",
    "decode_letter",
    "encode",
    "for_servers",
    "local_part",
    "pack",
    "subject_of",
    "unpack",
]


class Sent(msgspec.Struct, tag=1, array_like=True, frozen=True, gc=False):
    """A message for the channel with the local part `local`."""

    local: str
    message: bytes


class Change(msgspec.Struct, tag=2, array_like=True, frozen=True, gc=False):
    """That channel joins `group`, or leaves it. It is answered with `Changed` to `reply`."""

    local: str
    group: str
    joins: bool
    reply: str
    id: int


class Changed(msgspec.Struct, tag=3, array_like=True, frozen=True, gc=False):
    """The answer to the `Change` with that id; `error` is empty if it was done."""

    id: int
    error: str = ""


class Kept(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A message on a normal channel, and when it expires by the clock of the node that keeps it."""

    expires: float
    message: bytes


#: To the processes that have a specific channel, or wait for an answer.
Letter: TypeAlias = Sent | Change | Changed


#: What decoding raises.
UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def _plain(value: Any) -> Any:
    """What msgspec does not encode: subclasses of plain types, such as the SafeString of Django's templates."""
    if isinstance(value, str):
        return str.__str__(value)  # `str()` leaves a SafeString as it is
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    raise TypeError(f"a message for a channel cannot hold {type(value).__name__} {value!r:.80}")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_decoder = msgspec.msgpack.Decoder(dict)
encode = _encoder.encode
decode_letter = msgspec.msgpack.Decoder(Letter).decode
decode_kept = msgspec.msgpack.Decoder(Kept).decode


def pack(message: Any, limit: int) -> bytes:
    """`message` as bytes.

    Raises:
        TypeError: it is no dict, or holds what MessagePack cannot express.
        MessageTooLarge: it has more than `limit` bytes.
    """
    if not isinstance(message, dict):
        raise TypeError(f"a message must be a dict, got {type(message).__name__}")
    packed = _encoder.encode(message)
    _check_size(len(packed), limit)
    return packed


def unpack(packed: bytes) -> dict[str, Any]:
    """A message of its own for each call. Raises one of `UNDECODABLE` if it is none."""
    message: dict[str, Any] = _decoder.decode(packed)
    return message


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise MessageTooLarge(f"a message of {size} bytes, at most {limit} are allowed (max_message_bytes)")


#: What a message has at most that interface servers write. One with more is for consumers, who know what it means.
_WRITTEN: Final = {
    "websocket.send": {"type", "text", "bytes"},
    "websocket.close": {"type", "code", "reason"},
    "http.response.body": {"type", "body", "more_body"},
}


def for_servers(message: Any, limit: int) -> dict[str, Any] | None:
    """What `Groups.publish` takes, if `message` is one that interface servers write to their members; else None.

    Raises:
        ApplicationError: a value in it is wrong.
        MessageTooLarge: it has more than `limit` bytes.
    """
    kind = message.get("type") if isinstance(message, dict) else None
    known = _WRITTEN.get(kind) if isinstance(kind, str) else None
    if known is None or not known.issuperset(message):
        return None
    if kind == "websocket.close":
        return {"close": checked_close(message.get("code"), message.get("reason"))}
    text, data = message.get("text"), message.get("bytes")
    if kind == "http.response.body":
        if not message.get("more_body", True):
            return None  # only the application can end its response
        data = message.get("body", b"")
    if (text is None) is (data is None):
        return None
    if data is not None:
        data = as_bytes(f"{kind}", "the payload", data)
        _check_size(len(data), limit)
        return {"data": data}
    text, size = checked_text(f"{kind}", "text", text)
    _check_size(size, limit)
    return {"text": text}


def as_message(broadcast: Broadcast, is_http: bool) -> dict[str, Any]:
    """What servers write, as the message for a consumer for whom no server can."""
    if broadcast.close is not None:
        code, reason = broadcast.close
        return {"type": "websocket.close", "code": code, "reason": reason}
    if is_http:
        body = broadcast.data if broadcast.text is None else broadcast.text.encode()
        return {"type": "http.response.body", "body": body, "more_body": True}
    if broadcast.text is not None:
        return {"type": "websocket.send", "text": broadcast.text}
    return {"type": "websocket.send", "bytes": broadcast.data}


def subject_of(name: str) -> str:
    """The group, of ifserver's own, in which the process listens that has the specific channel `name`."""
    return f"!{name[: name.index('!')]}"


def local_part(name: str) -> str:
    """What comes behind the ``!`` of a specific channel's name."""
    return name[name.index("!") + 1 :]
