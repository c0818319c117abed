"""Groups as an application speaks of them: the events ``ifserver.group.*`` of ASGI's ``send``
(docs/howto/groups.rst)."""

from __future__ import annotations

from typing import Any, Final

from ifserver import channels
from ifserver.asgi_events import Event, as_bytes, checked_close, checked_text
from ifserver.errors import ApplicationError, ChannelNameError
from ifserver.messages import GroupLeave
from ifserver.worker.asgi_stream import Stream

__all__ = ["ADD", "DISCARD", "EVENTS", "SEND", "say"]

ADD: Final = "ifserver.group.add"
DISCARD: Final = "ifserver.group.discard"
SEND: Final = "ifserver.group.send"
#: What applications may send; ``ifserver.group.gap`` is what they receive.
EVENTS: Final = (ADD, DISCARD, SEND)

#: The longest tag, in characters.
_MAX_TAG: Final = 200


async def say(stream: Stream, event: Event) -> None:
    """Do what `event`, one of `EVENTS`, asks for.

    ``add`` returns once the stream hears all that is sent to the group. ``discard`` and ``send`` may also come when the
    client has left.

    Raises:
        ApplicationError: the event is wrong, or comes too early.
        ClientDisconnected: of ``add``: the client has left.
        NodeError: of ``send``: no node has taken it, or nobody knows whether one has.
    """
    kind = event["type"]
    group = _checked_group(kind, event.get("group"))
    if kind == ADD:
        await _add(stream, event, group)
    elif kind == DISCARD:
        if stream.may_be_member:
            stream.tell(GroupLeave(stream.identity, stream.attempt, stream.worker, stream.sent, group), None)
    else:
        text, data, close = _checked_payload(event)
        exclude = _checked_exclude(stream, event.get("exclude"))
        publishing = stream.groups.publish(group, text=text, data=data, close=close, exclude=exclude)
        await publishing.asFuture(stream.loop)


async def _add(stream: Stream, event: Event, group: str) -> None:
    tag, _ = checked_text(ADD, "tag", event.get("tag") or "")
    if len(tag) > _MAX_TAG:
        raise ApplicationError(f"{ADD}: a tag may have {_MAX_TAG} characters, got {len(tag)}")
    if not stream.is_open_for_groups(event):
        raise stream.refusal(event)
    stream.send_head()  # a response is a member from its beginning on
    join = stream.join(group, bool(event.get("gaps")), tag)
    while join.error is None:
        await stream.wait()
        if not stream.is_open_for_groups(event):
            raise stream.refusal(event)
    if join.error:
        raise ApplicationError(f"{ADD}: group {group!r}: {join.error}")


def _checked_group(kind: str, group: Any) -> str:
    if not isinstance(group, str):
        raise ApplicationError(f"{kind}: group must be a str, got {type(group).__name__}")
    try:
        return channels.check_group(group)
    except ChannelNameError as error:
        raise ApplicationError(f"{kind}: {error}") from error


def _checked_payload(event: Event) -> tuple[str | None, bytes | None, tuple[int, str] | None]:
    """Text, bytes and close of a ``send``, of which exactly one is not None."""
    text, data, close = event.get("text"), event.get("bytes"), event.get("close")
    if [text, data, close].count(None) != 2:
        raise ApplicationError(f"{SEND}: exactly one of 'text', 'bytes' and 'close' must be given and not None")
    if text is not None:
        return checked_text(SEND, "text", text)[0], None, None
    if data is not None:
        return None, as_bytes(SEND, "bytes", data), None
    code, reason = close if isinstance(close, tuple | list) and len(close) == 2 else (close, "")
    return None, None, checked_close(code, reason)


def _checked_exclude(stream: Stream, exclude: Any) -> str:
    """The identity of the stream that is left out; True: this one."""
    if not exclude:
        return ""
    if exclude is True:
        return stream.identity
    if not isinstance(exclude, str):
        raise ApplicationError(f"{SEND}: exclude must be True, or the 'stream' of a scope, got {exclude!r}")
    return channels.plain(exclude)
