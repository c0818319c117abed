"""Sending to groups, from any Python: a view, a task of Celery's, a shell, any thread (docs/howto/groups.rst).

::

    from ifserver import groups

    groups.publish("room-7", json={"text": "hello"})        # blocks until a node has taken it
    await groups.send("room-7", text="hello")               # the same for coroutines
    groups.publish("user-42", close=4001)                   # closes all of that user's WebSockets
    await groups.members("room-7")                          # how many there are, on all servers

In a worker of ifserver it goes through the worker's own nodes, so that nothing has to be configured. Elsewhere the
nodes are those of ``ifserver.toml`` and of the environment (``IFSERVER_LAYER_CLUSTERS``), as for ``ifserver worker``.
"""

from __future__ import annotations

import json as _json
from typing import Any

from twisted.internet.defer import Deferred

from ifserver import channels
from ifserver.asgi_events import as_bytes, checked_close, checked_text
from ifserver.errors import ApplicationError
from ifserver.groups.link import current
from ifserver.layers.groups import Groups
from ifserver.layers.membership import Member, Members

__all__ = ["Member", "Members", "get_members", "members", "publish", "send"]

#: How long `publish` and `get_members` wait for the nodes by default, in seconds.
_TIMEOUT_S = 5.0


def publish(
    group: str,
    *,
    text: str | None = None,
    bytes: bytes | None = None,
    json: Any = None,
    close: int | tuple[int, str] | None = None,
    exclude: str = "",
    timeout_s: float = _TIMEOUT_S,
) -> int:
    """Send something to every member of `group`, and wait until the nodes have taken it. From any thread.

    Args:
        text, bytes, json: what each member's client gets: a WebSocket message, or a piece of a response's body. `json`
            is sent as a text. Exactly one of these and `close` must be given.
        close: closes the members' WebSockets with this code, or code and reason, and cuts their responses.
        exclude: a stream that is left out, ``scope["extensions"]["ifserver.groups"]["stream"]``.
        timeout_s: how long the nodes may take, in seconds.

    Returns:
        How many processes it was handed to: servers and workers that have a member. 0: nobody was there.

    Raises:
        ChannelNameError: `group` is no name of a group.
        ValueError: none, or more than one, of the four is given; or it is not what it may be.
        NodeError: no node has taken it (`NodeUnreachable`, `NodeRefused`), or nobody knows (`PushInDoubt`): then it is
            not sent again, so that nobody gets it twice.
        TimeoutError: the nodes have not answered in time: it may have been sent.
        ConfigurationError: no nodes are configured.
        RuntimeError: it was called on the event loop of an ASGI worker, which it would block: await `send` there.
    """
    group, what = _checked(group, text, bytes, json, close, exclude)
    link = current()
    link.must_not_block("send")
    return link.ask(lambda groups: _publish(groups, group, what)).result(timeout_s)


async def send(
    group: str,
    *,
    text: str | None = None,
    bytes: bytes | None = None,
    json: Any = None,
    close: int | tuple[int, str] | None = None,
    exclude: str = "",
) -> int:
    """As `publish`, for coroutines, on any event loop. Without a limit of its own: `asyncio.timeout` sets one."""
    group, what = _checked(group, text, bytes, json, close, exclude)
    return await current().awaited(lambda groups: _publish(groups, group, what))


async def members(group: str, tags: bool = False) -> Members:
    """Who is in `group`, on all servers. For coroutines, on any event loop.

    A question goes to every server with a member, and each answers: it is made for showing who is there now and then,
    not for each message. Members are WebSockets and responses, not people: one person may have several. A resumable
    WebSocket is a member while it looks for its next worker. Who joins or leaves meanwhile may be counted or not. A
    server that does not answer within 2 s, or that cannot be reached, is missing from the answer, and a warning in the
    log has how many are.

    Args:
        tags: whether to list the members, with the tags that the application gave when it added them.

    Returns:
        `count`, the number of members; and `streams`, with `tags` a list of all of them: the `stream` and the `tag` of
        each. Without `tags` it is empty.

    Raises:
        ChannelNameError: `group` is no name of a group.
        NodeError: no node could be asked, or none has answered within 2 s.
        ConfigurationError: no nodes are configured.
    """
    group = channels.check_group(group)
    link = current()
    return await link.awaited(lambda _: link.clusters.membership.ask(group, tags))


def get_members(group: str, tags: bool = False, *, timeout_s: float = _TIMEOUT_S) -> Members:
    """As `members`, but it waits for the answer. From any thread.

    Raises:
        TimeoutError: there is no answer within `timeout_s`.
        RuntimeError: it was called on the event loop of an ASGI worker, which it would block: await `members` there.
    """
    group = channels.check_group(group)
    link = current()
    link.must_not_block("members")
    return link.ask(lambda _: link.clusters.membership.ask(group, tags)).result(timeout_s)


def _checked(
    group: str,
    text: str | None,
    data: bytes | None,
    json: Any,
    close: int | tuple[int, str] | None,
    exclude: str,
) -> tuple[str, dict[str, Any]]:
    group = channels.check_group(group)
    if [text, data, json, close].count(None) != 3:
        raise ValueError("exactly one of text, bytes, json and close must be given, and not be None")
    if json is not None:
        text = _json.dumps(json, separators=(",", ":"), ensure_ascii=False)
    try:
        if text is not None:
            text, _ = checked_text("ifserver.groups", "text", text)
        if data is not None:
            data = as_bytes("ifserver.groups", "bytes", data)
        if close is not None:
            close = checked_close(*(close if isinstance(close, tuple) else (close, "")))
    except ApplicationError as error:
        raise ValueError(str(error)) from None
    return group, {"text": text, "data": data, "close": close, "exclude": channels.plain(exclude)}


def _publish(groups: Groups, group: str, what: dict[str, Any]) -> Deferred[int]:
    return groups.publish(group, **what)
