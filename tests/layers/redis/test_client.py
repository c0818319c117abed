"""A connection for a few questions, with a Redis that is this test."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import hiredis
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ifserver.errors import NodeRefused, NodeUnreachable
from ifserver.layers.redis import connection, node, readers, subscriber, views
from ifserver.layers.redis.client import GROUPS, MESSAGES, VIEWS, Client, connect, lacking, try_a_message
from ifserver.layers.redis.connection import Server
from ifserver.net.endpoints import StreamClientEndpoint
from tests.layers.fakes import FakeTransport
from tests.layers.helpers import LOOP, async_test
from tests.redis_server import Monitor, RedisServer

PATIENCE_S = 2.0


class Place:
    """A connection, and its other side."""

    def __init__(self, username: str | None = None, password: str | None = None, database: int = 0) -> None:
        self.clock = Clock()
        self.transport = FakeTransport()
        self.client = Client(Server("east-1", "p:", username, password, database), self.clock, PATIENCE_S)
        self.client.makeConnection(self.transport)

    def asked(self) -> list[Any]:
        """The commands that were sent since the last time."""
        reader = hiredis.Reader()
        reader.feed(self.transport.taken())
        commands = []
        while (command := reader.gets()) is not False:
            commands.append(command)
        return commands

    def lose(self) -> None:
        self.client.connectionLost(Failure(ConnectionDone()))

    def end(self) -> None:
        """Nothing is left behind."""
        closed = outcome(self.client.close())
        if self.transport.aborting and not closed:
            self.lose()
        assert closed == [None]
        assert self.clock.getDelayedCalls() == []


def outcome(deferred: Deferred[Any]) -> list[Any]:
    results: list[Any] = []
    deferred.addCallbacks(results.append, lambda failure: results.append(failure.value))
    return results


def only(error: BaseException) -> tuple[type, str]:
    return type(error), str(error)


def test_answers_come_to_their_questions() -> None:
    place = Place()
    assert place.asked() == []
    first, second = map(outcome, place.client.ask_together(("GET", "a"), ("PTTL", b"b", 1, 0.5)))
    third = outcome(place.client.ask("PING"))
    assert place.asked() == [[b"GET", b"a"], [b"PTTL", b"b", b"1", b"0.5"], [b"PING"]]
    place.client.dataReceived(b"$1\r\nx\r\n:")
    place.client.dataReceived(b"1\r\n-ERR no\r\n")
    assert (first, second) == ([b"x"], [1])
    assert [only(each) for each in third] == [(NodeRefused, "ERR no")]
    place.end()


@pytest.mark.parametrize(
    ("login", "commands"),
    [
        ((None, "geheim", 0), [[b"AUTH", b"geheim"]]),
        (("me", "geheim", 3), [[b"AUTH", b"me", b"geheim"], [b"SELECT", b"3"]]),
        ((None, None, 3), [[b"SELECT", b"3"]]),
    ],
)
def test_it_logs_in_first(login: tuple[Any, ...], commands: list[Any]) -> None:
    place = Place(*login)
    pong = outcome(place.client.ask("PING"))
    assert place.asked() == [*commands, [b"PING"]]
    place.client.dataReceived(b"+OK\r\n" * len(commands) + b"+PONG\r\n")
    assert pong == [b"PONG"]
    place.end()


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        (
            b"-WRONGPASS not geheim\r\n-ERR x\r\n",
            "AUTH: WRONGPASS not *** The password is that of the URL, or else of IFSERVER_REDIS_PASSWORD, or "
            "IFSERVER_REDIS_PASSWORD_EAST_1 for this node alone",
        ),
        (b"+OK\r\n-ERR DB index is out of range\r\n", "SELECT: ERR DB index is out of range"),
    ],
)
def test_who_is_not_let_in_asks_nothing_more(answers: bytes, error: str) -> None:
    place = Place("me", "geheim", 99)
    pong = outcome(place.client.ask("PING"))
    place.client.dataReceived(answers)
    assert [only(each) for each in pong] == [(NodeUnreachable, error)]
    assert place.transport.aborting
    assert [only(each) for each in outcome(place.client.ask("PING"))] == [(NodeUnreachable, error)]
    place.lose()
    place.end()


def test_patience_ends_some_time_after_the_last_answer() -> None:
    place = Place()
    first, second = map(outcome, place.client.ask_together(("A",), ("B",)))
    place.clock.advance(PATIENCE_S - 0.1)
    place.client.dataReceived(b"+x\r\n")
    place.clock.advance(PATIENCE_S - 0.1)
    assert (first, second) == ([b"x"], [])
    place.clock.advance(0.2)
    assert [only(each) for each in second] == [(NodeUnreachable, "no answer for 2 s")]
    assert place.transport.aborting
    place.end()


def test_a_lost_connection_fails_what_was_asked() -> None:
    place = Place()
    asked = outcome(place.client.ask("A"))
    place.lose()
    [error] = asked
    assert only(error) == (NodeUnreachable, "the connection broke: Connection was closed cleanly.")
    assert place.client.lost is error
    assert outcome(place.client.ask("A")) == [error]
    place.end()


@pytest.mark.parametrize("data", [b"HTTP/1.1 400\r\n", b"+one\r\n+too many\r\n"])
def test_what_is_no_redis_is_left(data: bytes) -> None:
    place = Place()
    first = outcome(place.client.ask("A"))
    place.client.dataReceived(data)
    assert place.transport.aborting
    assert only(place.client.lost or KeyError()) == (NodeUnreachable, "it does not speak Redis' protocol")
    assert len(first) == 1
    place.end()


def test_an_answer_that_nobody_waits_for_any_more_is_passed_over() -> None:
    place = Place()
    first, second = place.client.ask_together(("A",), ("B",))
    first.cancel()
    assert [type(each) for each in outcome(first)] == [CancelledError]
    place.client.dataReceived(b"+x\r\n+y\r\n")
    assert outcome(second) == [b"y"]
    place.end()


class Refusing:
    """An endpoint whose attempts fail."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def connect(self, factory: Any) -> Deferred[Any]:
        failed: Deferred[Any] = Deferred()
        failed.errback(self._error)
        return failed


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("no route"), (NodeUnreachable, "cannot connect: no route")),
        (OSError(), (NodeUnreachable, "cannot connect: OSError")),
        (CancelledError(), (CancelledError, "")),
        (NodeUnreachable("no Sentinel"), (NodeUnreachable, "no Sentinel")),
    ],
)
def test_why_there_is_no_connection(error: Exception, expected: tuple[type, str]) -> None:
    endpoint: Any = Refusing(error)
    server = Server("east-1", "p:", None, None, 0)
    [found] = outcome(Deferred.fromCoroutine(connect(endpoint, server, Clock(), PATIENCE_S)))
    assert only(found) == expected


# Rights.


#: All that a user needs; docs/howto/redis.rst says so too.
_COMMANDS = (
    "rpush blmpop lmpop lrem lpos llen pexpire eval set mget info time lindex zadd zrangebyscore zremrangebyscore "
    "publish subscribe unsubscribe"
)
_GROUPS = {"PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE"}
NEEDED = [*(f"+{name}" for name in _COMMANDS.split()), "~ifserver:*", "&ifserver:*"]
MAY_ASK = ["+acl|whoami", "+acl|dryrun"]


class AclPlace:
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
async def place() -> AsyncIterator[AclPlace]:
    place = AclPlace()
    yield place
    await place.close()


@pytest.mark.parametrize("more", [[], MAY_ASK])
@async_test
async def test_a_user_with_just_the_needed_rights_lacks_none_and_leaves_nothing(
    place: AclPlace, more: list[str]
) -> None:
    client = await place.client(*NEEDED, *more)
    await try_a_message(client, "ifserver:")
    assert await lacking(client, "ifserver:") == {}
    keys = place.server.command("KEYS", "*")
    assert [key for key in keys if not key.endswith(b":alive")] == []
    assert all(place.server.command("PTTL", key) in range(101) for key in keys)


def test_every_command_that_a_node_uses_is_asked_for() -> None:
    modules = (node, connection, readers, subscriber, views)
    sources = [Path(module.__file__).read_text() for module in modules]
    used = {name for source in sources for name in re.findall(r'\(b"([A-Z]{3,})"', source)}
    assert {"RPUSH", "BLMPOP", "LREM", "PEXPIRE", "EVAL", "MGET", "TIME", "PUBLISH", "SUBSCRIBE"} <= used
    assert used - {name.upper() for name in _COMMANDS.split()} == set()


@pytest.mark.parametrize("more", [[], MAY_ASK])
@pytest.mark.parametrize("right", [word for word in NEEDED if word.startswith("+") and word != "+llen"])
@async_test
async def test_one_that_is_missing_is_named(place: AclPlace, right: str, more: list[str]) -> None:
    client = await place.client(*NEEDED, *more, f"-{right[1:]}")
    found = await lacking(client, "ifserver:")
    name = right[1:].upper()
    assert {each.name: why for each, why in found.items()} == {name: "the user has no right to the command"}
    [missing] = found
    viewed = name == "LINDEX" or name.startswith("Z")
    assert missing.needed_for == (VIEWS if viewed else GROUPS if name in _GROUPS else MESSAGES)


@async_test
async def test_a_script_needs_the_right_to_what_it_does(place: AclPlace) -> None:
    client = await place.client(*NEEDED, "-llen")
    assert [right.name for right in await lacking(client, "ifserver:")] == ["LLEN", "EVAL"]


@pytest.mark.parametrize("more", [[], MAY_ASK])
@async_test
async def test_keys_need_rights_too(place: AclPlace, more: list[str]) -> None:
    client = await place.client(*NEEDED, *more)
    found = await lacking(client, "other:")
    keys = {right.name for right, why in found.items() if why == "the user has no right to the keys"}
    assert keys == {name.upper() for name in _COMMANDS.split()} - {"INFO", "TIME"} - _GROUPS
    channels = {right.name for right, why in found.items() if why == "the user has no right to the channels"}
    assert channels == {"PUBLISH", "SUBSCRIBE"}
    assert len(found) == len(keys | channels)


@async_test
async def test_who_may_ask_tries_nothing(place: AclPlace) -> None:
    client = await place.client(*NEEDED, *MAY_ASK)
    monitor = Monitor(place.server)
    await lacking(client, "ifserver:")
    assert {command[0].upper() for command in monitor.commands()} == {"ACL"}


@async_test
async def test_a_message_that_is_not_taken_says_why(place: AclPlace) -> None:
    client = await place.client(*NEEDED)
    place.server.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(NodeRefused, match="OOM command not allowed"):
        await try_a_message(client, "ifserver:")
