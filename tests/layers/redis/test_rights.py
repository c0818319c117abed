"""Which rights a user lacks: asked of a Redis that may be asked, and tried on one that may not."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from ifserver.errors import NodeRefused
from ifserver.layers.redis import connection, keys, node, readers, subscriber, views
from ifserver.layers.redis.client import Client, connect
from ifserver.layers.redis.connection import Server
from ifserver.layers.redis.rights import GROUPS, MESSAGES, VIEWS, lacking, try_a_message
from ifserver.net.endpoints import StreamClientEndpoint
from tests.layers.helpers import LOOP, async_test
from tests.redis_server import Monitor, RedisServer

#: All that a user needs; docs/howto/redis.rst says so too.
_COMMANDS = (
    "rpush blmpop lmpop lrem lpos llen pexpire eval set mget info time lindex zadd zrangebyscore zremrangebyscore "
    "publish subscribe unsubscribe"
)
_GROUPS = {"PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE"}
NEEDED = [*(f"+{name}" for name in _COMMANDS.split()), "~ifserver:*", "&ifserver:*"]
MAY_ASK = ["+acl|whoami", "+acl|dryrun"]


class Place:
    """A Redis with a user ``app``, and connections of that user."""

    def __init__(self) -> None:
        self.server = RedisServer()
        self.server.start()
        self._clients: list[Client] = []

    async def client(self, *rights: str) -> Client:
        """A connection with these rights and no others."""
        self.server.command("ACL", "SETUSER", "app", "reset", "on", ">geheim", *rights)
        server = Server("east-1", "ifserver:", "app", "geheim", 0)
        client = await connect(StreamClientEndpoint(LOOP, path=self.server.path), server, reactor, 10.0)
        self._clients.append(client)
        return client

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        self.server.remove()


@pytest_twisted.async_yield_fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    yield place
    await place.close()


@pytest.mark.parametrize("more", [[], MAY_ASK])
@async_test
async def test_a_user_with_just_the_needed_rights_lacks_none_and_leaves_nothing(place: Place, more: list[str]) -> None:
    client = await place.client(*NEEDED, *more)
    await try_a_message(client, "ifserver:")
    assert await lacking(client, "ifserver:") == {}
    keys = place.server.command("KEYS", "*")
    assert [key for key in keys if not key.endswith(b":alive")] == []
    assert all(place.server.command("PTTL", key) in range(101) for key in keys)


def test_every_command_that_a_node_uses_is_asked_for() -> None:
    modules = (node, connection, keys, readers, subscriber, views)
    sources = [Path(module.__file__).read_text() for module in modules]
    used = {name for source in sources for name in re.findall(r'\(b"([A-Z]{3,})"', source)}
    assert {"RPUSH", "BLMPOP", "LREM", "PEXPIRE", "EVAL", "MGET", "TIME", "PUBLISH", "SUBSCRIBE"} <= used
    assert used - {name.upper() for name in _COMMANDS.split()} == set()


@pytest.mark.parametrize("more", [[], MAY_ASK])
@pytest.mark.parametrize("right", [word for word in NEEDED if word.startswith("+") and word != "+llen"])
@async_test
async def test_one_that_is_missing_is_named(place: Place, right: str, more: list[str]) -> None:
    client = await place.client(*NEEDED, *more, f"-{right[1:]}")
    found = await lacking(client, "ifserver:")
    name = right[1:].upper()
    assert {each.name: why for each, why in found.items()} == {name: "the user has no right to the command"}
    [missing] = found
    viewed = name == "LINDEX" or name.startswith("Z")
    assert missing.needed_for == (VIEWS if viewed else GROUPS if name in _GROUPS else MESSAGES)


@async_test
async def test_a_script_needs_the_right_to_what_it_does(place: Place) -> None:
    client = await place.client(*NEEDED, "-llen")
    assert [right.name for right in await lacking(client, "ifserver:")] == ["LLEN", "EVAL"]


@pytest.mark.parametrize("more", [[], MAY_ASK])
@async_test
async def test_keys_need_rights_too(place: Place, more: list[str]) -> None:
    client = await place.client(*NEEDED, *more)
    found = await lacking(client, "other:")
    keys = {right.name for right, why in found.items() if why == "the user has no right to the keys"}
    assert keys == {name.upper() for name in _COMMANDS.split()} - {"INFO", "TIME"} - _GROUPS
    channels = {right.name for right, why in found.items() if why == "the user has no right to the channels"}
    assert channels == {"PUBLISH", "SUBSCRIBE"}
    assert len(found) == len(keys | channels)


@async_test
async def test_who_may_ask_tries_nothing(place: Place) -> None:
    client = await place.client(*NEEDED, *MAY_ASK)
    monitor = Monitor(place.server)
    await lacking(client, "ifserver:")
    assert {command[0].upper() for command in monitor.commands()} == {"ACL"}


@async_test
async def test_a_message_that_is_not_taken_says_why(place: Place) -> None:
    client = await place.client(*NEEDED)
    place.server.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(NodeRefused, match="OOM command not allowed"):
        await try_a_message(client, "ifserver:")
