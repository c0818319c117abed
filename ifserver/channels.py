"""The grammar of channel names, and the only place that knows where a channel's home is.

================  ========================  =================================================
kind              form                      example
================  ========================  =================================================
request channel   ``name``                  ``http.request``
of a pool         ``name.pool``             ``http.request.reports``
inbox             ``!node.process``         ``!east-1.k3v9x2aq7m``
reply channel     ``!node.process.stream``  ``!east-1.k3v9x2aq7m.1f``
================  ========================  =================================================

Names consist of letters, digits, ``.``, ``-`` and ``_`` and have at most 200 characters. A leading ``!`` marks a
channel to which exactly one process listens. A node's name has no ``.``, so the part up to the first dot says where a
message for that channel goes: there is nothing to look up and nothing to agree on.

``process.stream`` is the *identity* of a stream, the node only its present address.

A group is no channel: what is published in it goes to every process that has subscribed to it. Its name has letters,
digits, ``.``, ``-`` and ``_``, and at most 99 characters. A leading ``!`` marks a group that ifserver itself uses.
"""

from __future__ import annotations

import re
from typing import Final

from ifserver.errors import ChannelNameError

__all__ = [
    "DEFAULT_POOL",
    "HTTP_REQUEST",
    "MAX_GROUP_LENGTH",
    "MAX_LENGTH",
    "REPLY_CHANNEL",
    "REQUEST_CHANNELS",
    "WEBSOCKET_CONNECT",
    "WEBSOCKET_RESUME",
    "check",
    "check_group",
    "check_node_name",
    "check_subject",
    "identity",
    "inbox_of",
    "is_inbox",
    "is_resumption",
    "make_inbox",
    "new_process_name",
    "node_of",
    "of_pool",
    "plain",
    "pool_of",
    "process_of",
    "readdressed",
]

#: The request channel of HTTP requests.
HTTP_REQUEST: Final = "http.request"
#: The request channel of WebSocket handshakes.
WEBSOCKET_CONNECT: Final = "websocket.connect"
#: The request channel of open WebSockets that wait for their next worker. Workers read it before the others.
WEBSOCKET_RESUME: Final = "websocket.resume"
#: All of them.
REQUEST_CHANNELS: Final = (HTTP_REQUEST, WEBSOCKET_CONNECT, WEBSOCKET_RESUME)
#: The pool that has these as they are. Another one's name stands behind them.
DEFAULT_POOL: Final = "default"
#: The longest name, in characters; channels_redis and Channels 1 drew the line in the same region.
MAX_LENGTH: Final = 200
#: The longest name of a user's group, in characters: Channels' own rule.
MAX_GROUP_LENGTH: Final = 99

_REQUEST = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\Z")
_SINGLE_READER = re.compile(r"![A-Za-z0-9_-]+\.[0-9a-z]{10}(?:\.[0-9a-z]+)?\Z")
#: The reply channel of a stream, as a regular expression.
REPLY_CHANNEL: Final = r"\A![A-Za-z0-9_-]+\.[0-9a-z]{10}\.[0-9a-z]+\Z"
_SUBJECT = re.compile(r"!?[A-Za-z0-9._-]+\Z")
_GROUP = re.compile(r"[A-Za-z0-9._-]+\Z")
_NODE = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_BASE32: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's: no letter that looks like a digit
_PROCESS_LENGTH: Final = 10


def check(name: str) -> str:
    """Return `name` if it is a channel name.

    Raises:
        ChannelNameError: it is empty, too long, has a character that is not allowed, or is no full ``!`` name.
    """
    pattern = _SINGLE_READER if name.startswith("!") else _REQUEST
    if len(name) > MAX_LENGTH:
        raise ChannelNameError(
            f"channel name of {len(name)} characters, at most {MAX_LENGTH} are allowed: {name[:40]!r}..."
        )
    if not pattern.match(name):
        raise ChannelNameError(
            f"not a channel name: {name!r} (letters, digits, '.', '-', '_'; or !node.process or !node.process.stream)"
        )
    return name


def plain(name: str) -> str:
    """`name` as a str, where it may be of a subclass: Django's ``slugify`` gives a SafeString, and an application may
    have its groups in an enumeration. Nodes take neither."""
    return name if type(name) is str else str.__str__(name)


def check_group(name: str) -> str:
    """Return `name` as a plain str, if a user may call a group so.

    Raises:
        ChannelNameError: it is empty, too long, or has a character that is not allowed.
    """
    if len(name) > MAX_GROUP_LENGTH:
        raise ChannelNameError(
            f"group name of {len(name)} characters, at most {MAX_GROUP_LENGTH} are allowed: {name[:40]!r}..."
        )
    if not _GROUP.match(name):
        raise ChannelNameError(f"not a group name: {name!r} (letters, digits, '.', '-', '_')")
    return plain(name)


def check_subject(name: str) -> str:
    """Return `name` if nodes carry groups of that name: those of users, and those that ifserver itself uses.

    Raises:
        ChannelNameError: it is empty, too long, or has a character that is not allowed.
    """
    if len(name) > MAX_LENGTH or not _SUBJECT.match(name):
        raise ChannelNameError(f"not the name of a group: {name[:40]!r} (letters, digits, '.', '-', '_', or ! first)")
    return name


def check_node_name(name: str) -> str:
    """Return `name` if a node or a cluster may be called so.

    Raises:
        ChannelNameError: it is empty, longer than 64 characters, or has other characters than letters, digits, ``-``
            and ``_``.
    """
    if not _NODE.match(name):
        raise ChannelNameError(f"not a node name: {name!r} (1 to 64 letters, digits, '-' and '_')")
    return name


def new_process_name() -> str:
    """A new name for this process: 50 random bits, so that nobody receives what was meant for a predecessor."""
    import secrets  # brings hashlib along, which commands without a process do not need

    return "".join(secrets.choice(_BASE32) for _ in range(_PROCESS_LENGTH))


def make_inbox(node: str, process: str) -> str:
    """The inbox of `process` on `node`."""
    return f"!{node}.{process}"


def make_reply_channel(inbox: str, number: int) -> str:
    """The reply channel of the stream that has this number, of the process that receives at `inbox`."""
    return f"{inbox}.{number:x}"


def of_pool(pool: str, channel: str) -> str:
    """The request channel `channel` of the pool of that name; without a name, and of `DEFAULT_POOL`, `channel`."""
    return channel if pool in ("", DEFAULT_POOL) else f"{channel}.{pool}"


def of_all(pool: str) -> tuple[str, ...]:
    """All request channels of the pool of that name."""
    return tuple(of_pool(pool, name) for name in REQUEST_CHANNELS)


def pool_of(channel: str) -> str:
    """The name of the pool whose request channel this is."""
    return channel.split(".", 2)[2] if channel.count(".") > 1 else DEFAULT_POOL


def is_resumption(channel: str) -> bool:
    """Whether open WebSockets are offered on this request channel."""
    return channel.startswith(WEBSOCKET_RESUME)


def is_inbox(name: str) -> bool:
    """Whether exactly one process listens to the channel `name`."""
    return name.startswith("!")


def split(reply_channel: str) -> tuple[str, str, str]:
    """Node, inbox and identity (`identity`) of the reply channel of a stream (`REPLY_CHANNEL`)."""
    node = reply_channel.index(".")
    inbox = reply_channel.index(".", node + 1)
    return reply_channel[1:node], reply_channel[:inbox], reply_channel[node + 1 :]


def inbox_of(reply_channel: str) -> str:
    """The inbox that receives what is sent to `reply_channel` (``!node.process.stream`` or an inbox itself)."""
    end = reply_channel.find(".", reply_channel.find(".") + 1)
    return reply_channel if end < 0 else reply_channel[:end]


def node_of(name: str) -> str:
    """The node that an inbox or reply channel lives on; of another name something that is no node's, or no inbox's."""
    return name[1:].partition(".")[0]


def process_of(name: str) -> str:
    """The process that listens to an inbox or reply channel; of another name something that is nobody's."""
    return name.partition(".")[2].partition(".")[0]


def readdressed(reply_channel: str, inbox: str) -> str:
    """The reply channel of the same stream, whose process receives at `inbox` now."""
    return inbox + reply_channel[len(inbox_of(reply_channel)) :]


def identity(reply_channel: str) -> str:
    """``process.stream`` of a reply channel: what stays the same when the process moves to another node."""
    return reply_channel[reply_channel.index(".") + 1 :]
