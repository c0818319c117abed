"""Groups as an application speaks of them: the events ``ifserver.group.*`` of ASGI's ``send``
(docs/howto/groups.rst)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ifserver import channels
from ifserver.asgi_events import Event, as_bytes, checked_close, checked_text
from ifserver.errors import ApplicationError, ChannelNameError
from ifserver.messages import GroupJoin, GroupLeave
from ifserver.worker.stream import unexpected

if TYPE_CHECKING:
    from ifserver.worker.stream import Stream

__all__ = ["ADD", "DISCARD", "EVENTS", "SEND", "PendingJoin", "carry_out", "take_gap"]

ADD: Final = "ifserver.group.add"
DISCARD: Final = "ifserver.group.discard"
SEND: Final = "ifserver.group.send"
#: What applications may send; ``ifserver.group.gap`` is what they receive.
EVENTS: Final = (ADD, DISCARD, SEND)

#: The longest tag, in characters.
_MAX_TAG: Final = 200


class PendingJoin:
    """A `GroupJoin` that the server has not answered yet."""

    __slots__ = ("error", "group")

    def __init__(self, group: str) -> None:
        self.group = group
        #: The answer: why the stream is no member, empty if it is; None: it has not come.
        self.error: str | None = None


async def carry_out(stream: Stream, event: Event) -> None:
    """Do what `event`, one of `EVENTS`, asks for.

    ``add`` returns once the stream receives all that is sent to the group. ``discard`` and ``send`` may also come when
    the client has left.

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
        if stream.phase in stream.MEMBER_PHASES:
            link = stream.link
            link.send(GroupLeave(link.identity, link.attempt, link.worker, link.sent, group), None)
    else:
        text, data, close = _checked_payload(event)
        exclude = _checked_exclude(stream, event.get("exclude"))
        publishing = stream.host.groups.publish(group, text=text, data=data, close=close, exclude=exclude)
        await publishing.asFuture(stream.host.loop)


async def _add(stream: Stream, event: Event, group: str) -> None:
    tag, _ = checked_text(ADD, "tag", event.get("tag") or "")
    if len(tag) > _MAX_TAG:
        raise ApplicationError(f"{ADD}: a tag may have {_MAX_TAG} characters, got {len(tag)}")
    if not stream.is_open_for_groups(event):
        raise unexpected(stream, event)
    stream.send_head()  # a response is a member from its beginning on
    link, join = stream.link, PendingJoin(group)
    stream.joins = [*(stream.joins or ()), join]
    gaps = bool(event.get("gaps"))
    link.send(GroupJoin(link.identity, link.attempt, link.worker, link.sent, group, gaps, tag), None)
    while join.error is None:
        await stream.wait()
        if not stream.is_open_for_groups(event):
            raise unexpected(stream, event)
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
        return stream.link.identity
    if not isinstance(exclude, str):
        raise ApplicationError(f"{SEND}: exclude must be True, or the 'stream' of a scope, got {exclude!r}")
    return channels.plain(exclude)


def take_gap(stream: Stream) -> Event:
    """What ``receive()`` returns about broadcasts that were lost."""
    assert stream.gaps is not None
    gap, *rest = stream.gaps
    stream.gaps = rest or None
    return {"type": "ifserver.group.gap", "group": gap.group, "count": gap.count}
