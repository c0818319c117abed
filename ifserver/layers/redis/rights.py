"""Which of the commands that a Redis node uses its user may not use."""

from __future__ import annotations

import secrets
from typing import Final, NamedTuple

from ifserver.errors import NodeRefused
from ifserver.layers.redis.client import Client, Command
from ifserver.layers.redis.subscriber import group_key

__all__ = ["GROUPS", "MESSAGES", "VIEWS", "Right", "lacking", "try_a_message"]

#: What a right is needed for.
MESSAGES: Final = "messages"
VIEWS: Final = "views of all processes and the search for free workers"
GROUPS: Final = "groups"


class Right(NamedTuple):
    """A command that is used, with keys of the kind that it is used on."""

    name: str
    command: Command
    needed_for: str = MESSAGES


def _rights(prefix: str, database: int = 0) -> tuple[Right, ...]:
    """Every command that a node uses, in an order in which they leave nothing behind when they are really sent."""
    key = f"{prefix}check:{secrets.token_hex(8)}"
    beat, census = f"{key}:alive", f"{key}:census"
    group = group_key(prefix, f"!check.{secrets.token_hex(8)}", database)
    return (
        Right("RPUSH", ("RPUSH", key, "x")),
        Right("PEXPIRE", ("PEXPIRE", key, 10_000)),
        Right("LLEN", ("LLEN", key)),
        Right("EVAL", ("EVAL", "return redis.call('LLEN', KEYS[1])", 1, key)),
        Right("LINDEX", ("LINDEX", key, 0), VIEWS),
        Right("LPOS", ("LPOS", key, "x")),
        Right("LREM", ("LREM", key, 1, "x")),
        Right("LMPOP", ("LMPOP", 1, key, "LEFT", "COUNT", 10)),
        Right("BLMPOP", ("BLMPOP", 0.001, 1, key, "LEFT", "COUNT", 10)),
        Right("SET", ("SET", beat, "x", "PX", 100)),
        Right("MGET", ("MGET", beat)),
        Right("ZADD", ("ZADD", census, 1, "x"), VIEWS),
        Right("ZRANGEBYSCORE", ("ZRANGEBYSCORE", census, 0, 2), VIEWS),
        Right("ZREMRANGEBYSCORE", ("ZREMRANGEBYSCORE", census, 0, 2), VIEWS),
        Right("INFO", ("INFO", "server")),
        Right("TIME", ("TIME",)),
        Right("PUBLISH", ("PUBLISH", group, "x"), GROUPS),
        # Last, for there is little else that a connection may do that has subscribed.
        Right("SUBSCRIBE", ("SUBSCRIBE", group), GROUPS),
        Right("UNSUBSCRIBE", ("UNSUBSCRIBE", group), GROUPS),
    )


async def lacking(client: Client, prefix: str, database: int = 0) -> dict[Right, str]:
    """The rights that the user of `client` lacks, each with why.

    Redis is asked (``ACL DRYRUN``) by a user who may ask; otherwise each command is sent.
    """
    user = await _user(client)
    found: dict[Right, str] = {}
    for right in _rights(prefix, database):
        why = await _why_not(client, right, user)
        if why is not None:
            found[right] = why
    return found


async def try_a_message(client: Client, prefix: str) -> None:
    """Push a message and take it back.

    Raises:
        NodeRefused: it was not taken, for whatever reason.
    """
    push, expire, *_ = _rights(prefix)
    for command in (push.command, expire.command, ("LREM", push.command[1], 1, "x")):
        await client.ask(*command)


async def _user(client: Client) -> str | None:
    """The user's name, if the user may ask what users may do."""
    try:
        user: str = (await client.ask("ACL", "WHOAMI")).decode()
        await client.ask("ACL", "DRYRUN", user, "PING")
    except NodeRefused:
        return None
    return user


async def _why_not(client: Client, right: Right, user: str | None) -> str | None:
    """Why `right` is missing; None: it is not."""
    try:
        if user is None:
            await client.ask(*right.command)
            return None
        answer = (await client.ask("ACL", "DRYRUN", user, *right.command)).decode()
        return None if answer == "OK" else _meant(answer)
    except NodeRefused as error:
        return _meant(str(error))


def _meant(refusal: str) -> str:
    """What Redis means: its versions say it differently, and quote the key, which is of no interest."""
    if "permission" not in refusal:
        return refusal
    what = next((what for what in ("channel", "key") if what in refusal), None)
    return f"the user has no right to the {f'{what}s' if what is not None else 'command'}"
