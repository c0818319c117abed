"""A node on a real Redis: rights, keys, capacity, and everything that a Redis can do to its clients."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import hiredis
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from ifserver.config.node_urls import NodeSettings, parse_cluster
from ifserver.errors import ConfigurationError, NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.layers.node import Limits, Pulled, Pushed
from ifserver.layers.redis import node as redis_module
from ifserver.layers.redis import views
from ifserver.layers.redis.node import RedisEndpoints, RedisNode, redis_node
from ifserver.net.endpoints import StreamClientEndpoint
from tests.layers.helpers import LOOP, ROOMY, async_test, error_of, eventually, turn, within
from tests.redis_server import Monitor, RedisServer

LONG_S = 20.0
#: What `ifserver` asks of an ACL user.
RIGHTS = ["+rpush", "+blmpop", "+lmpop", "+lrem", "+lpos", "+llen", "+pexpire", "+eval", "+info", "+time"]


class Place:
    """A Redis, and nodes that ask it."""

    def __init__(self) -> None:
        self._nodes: list[RedisNode] = []
        self._servers: list[RedisServer] = []

    def server(self, **options: Any) -> RedisServer:
        server = RedisServer(**options)
        self._servers.append(server)
        server.start()
        return server

    def start(self, server: RedisServer, clock: Any = reactor, limits: Limits = ROOMY, **options: Any) -> RedisNode:
        """A node that begins to connect, over TCP."""
        address = ("127.0.0.1", server.port)
        node = RedisNode("east-1", limits, ROOMY, clock, lambda: StreamClientEndpoint(LOOP, address=address), **options)
        self._nodes.append(node)
        node.start()
        return node

    async def node(self, server: RedisServer, **options: Any) -> RedisNode:
        """A node that is connected."""
        node = self.start(server, **options)
        await within(node.ready())
        return node

    async def close(self) -> None:
        for server in self._servers:
            server.kill()
        await within(gatherResults([node.stop() for node in self._nodes]))
        for server in self._servers:
            server.remove()


@pytest_twisted.async_yield_fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    yield place
    await place.close()


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    await eventually(lambda: text in caplog.text, f"{text!r} in the log")


def blocked(server: RedisServer) -> int:
    """How many clients wait in a blocking read."""
    return int(server.info("clients")["blocked_clients"])


def key_of(node: RedisNode, channel: str) -> str:
    return f"ifserver:{node.epoch}:{channel}"


# Logging in.


@async_test
async def test_a_password(place: Place) -> None:
    server = place.server(password='ge "he\\im')
    node = await place.node(server, password='ge "he\\im')
    assert await node.push("r", [b"x"]) == Pushed(1, 1)
    assert await node.pull(("r",), 1, LONG_S) == Pulled("r", [b"x"])


@async_test
async def test_a_wrong_password_is_logged_without_it_and_tried_again(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    server = place.server(password="right")
    with caplog.at_level(logging.DEBUG):
        node = place.start(server, password="geheim")
        await logged(caplog, "node east-1: could not auth: WRONGPASS")
        refusals = int(server.info("stats")["total_error_replies"])
        await eventually(lambda: int(server.info("stats")["total_error_replies"]) > refusals + 1, "another attempt")
        assert not node.connected
        assert isinstance(await error_of(node.push("r", [b"x"])), NodeUnreachable)
        server.command("ACL", "SETUSER", "default", "resetpass", ">geheim")
        await within(node.ready())
        assert await node.push("r", [b"x"]) == Pushed(1, 1)
    assert caplog.text.count("WRONGPASS") == 1
    assert re.search(r"connected after \d+ failed attempts", caplog.text)
    assert "geheim" not in caplog.text


@async_test
async def test_a_password_that_is_missing_or_not_asked_for(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    asks, does_not_ask = place.server(password="right"), place.server()
    with caplog.at_level(logging.WARNING):
        place.start(asks)
        await logged(caplog, "it refuses INFO: NOAUTH")
        place.start(does_not_ask, password="geheim")
        await logged(caplog, "could not auth: ERR AUTH <password> called without any password configured")
    assert "geheim" not in caplog.text


@async_test
async def test_a_user_needs_no_more_than_these_rights(place: Place) -> None:
    server = place.server()
    server.command("ACL", "SETUSER", "app", "on", ">geheim", "~ifserver:*", "-@all", *RIGHTS)
    node = await place.node(server, username="app", password="geheim")
    assert await node.push("r", [b"a"]) == Pushed(1, 1)
    assert await node.push("r", [b"b"]) == Pushed(1, 2)
    assert await node.withdraw("r", b"a") is True
    assert await node.holds("r", b"b") is True
    assert await node.pull(("r",), 1, LONG_S) == Pulled("r", [b"b"])
    assert await node.pull(("r",), 1, 0) is None
    assert server.command("ACL", "LOG") == []


@async_test
async def test_a_right_that_is_missing_is_told(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    server = place.server()
    server.command("ACL", "SETUSER", "app", "on", ">geheim", "~ifserver:*", "-@all", *RIGHTS)
    node = await place.node(server, username="app", password="geheim")
    with caplog.at_level(logging.WARNING):
        server.command("ACL", "SETUSER", "app", "-pexpire", "-blmpop", "-lrem", "-lpos", "-rpush")
        assert isinstance(await error_of(node.pull(("r",), 1, LONG_S)), NodeRefused)
        assert isinstance(await error_of(node.withdraw("r", b"x")), NodeRefused)
        assert isinstance(await error_of(node.holds("r", b"x")), NodeRefused)
        found = await error_of(node.push("r", [b"x"]))
        assert isinstance(found, NodeRefused)
        # Redis 7, and Redis 8.
        assert re.search("can't run this command|has no permissions to run the 'rpush' command", str(found))
        # Without a time to live the message is there all the same, and nobody may say that it is not.
        server.command("ACL", "SETUSER", "app", "+rpush")
        assert await node.push("r", [b"x"]) == Pushed(1, 1)
        assert "it refuses PEXPIRE: ERR" in caplog.text
        server.command("ACL", "SETUSER", "app", "+blmpop")
        # A pull that was refused costs its connection, and another is made.
        assert await node.pull(("r",), 1, LONG_S) == Pulled("r", [b"x"])
        assert await node.push("r", [b"y"]) == Pushed(1, 1)
        await logged(caplog, "it refuses PEXPIRE: NOPERM")
        server.command("ACL", "SETUSER", "app", "-info")
        server.command("CLIENT", "KILL", "TYPE", "normal")
        await logged(caplog, "it refuses INFO: NOPERM")
        server.command("ACL", "SETUSER", "app", "+info")
        await within(node.ready())


@async_test
async def test_a_database(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    server = place.server()
    node = await place.node(server, database=3)
    pulling = node.pull(("s",), 1, LONG_S)
    await node.push("r", [b"x"])
    assert list(server.info("keyspace")) == ["db3"]
    await node.push("s", [b"y"])
    assert await pulling == Pulled("s", [b"y"])
    with caplog.at_level(logging.WARNING):
        place.start(server, database=99)
        await logged(caplog, "could not set dbid=99: ERR DB index is out of range")


@async_test
async def test_too_many_clients(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    server, clock = place.server(maxclients="1"), Clock()
    client = server.client()
    with caplog.at_level(logging.WARNING):
        node = place.start(server, clock=clock)

        def told() -> bool:
            return "it refuses INFO: ERR max number of clients reached" in caplog.text

        # Not at every attempt: Redis says so and closes, and what is asked after that makes the system forget it.
        await advance_until(clock, told)
        client.close()
        await advance_until(clock, lambda: node.connected)
        # There is no room for a reading connection, and the pull does not wait for one for ever.
        pulling = Deferred.fromCoroutine(error_of(node.pull(("r",), 1, 0.1)))
        assert await node.push("r", [b"x"]) == Pushed(1, 1)
        await advance_until(clock, lambda: pulling.called)
        assert isinstance(await pulling, NodeUnreachable)
        assert await node.holds("r", b"x") is True


# Keys and commands.


@async_test
async def test_redis_is_asked_for_nothing_else(place: Place) -> None:
    server = place.server()
    node = await place.node(server, prefix="pre:")
    assert await node.pull(("r",), 1, 0.001) is None
    monitor = Monitor(server)
    await node.push("r", [b"1"])
    await node.push("r", [b"2", b"3"])
    await node.holds("r", b"3")
    await node.withdraw("r", b"3")
    await node.pull(("q", "r"), 5, 1.0)
    await node.push("r", [b"4"])
    # Answered in order, so what followed the push has been carried out as well.
    await node.holds("r", b"4")
    await node.pull(("r",), 5, 0)
    r, q = f"pre:{node.epoch}:r", f"pre:{node.epoch}:q"
    commands = monitor.commands()
    assert commands.pop(0)[:1] == ["EVAL"]
    assert commands == [
        ["lua", "LLEN", r],
        ["lua", "RPUSH", r, "1"],
        ["lua", "PEXPIRE", r, "60000"],
        ["RPUSH", r, "2", "3"],
        ["LPOS", r, "3"],
        ["LREM", r, "1", "3"],
        ["BLMPOP", "1.0", "2", q, r, "LEFT", "COUNT", "5"],
        ["RPUSH", r, "4"],
        ["PEXPIRE", r, "60000"],
        ["LPOS", r, "4"],
        ["LMPOP", "1", r, "LEFT", "COUNT", "5"],
    ]


@async_test
async def test_every_list_has_a_time_to_live(place: Place) -> None:
    server = place.server()
    node = await place.node(server, limits=Limits(100, 60.0))
    await node.push("r", [b"by the script"])
    assert 0 < server.command("PTTL", key_of(node, "r")) <= 60_000
    await node.pull(("r",), 1, 0)
    await node.push("r", [b"plain"])
    await node.holds("r", b"plain")  # so that the PEXPIRE behind the push has been carried out
    assert node.statistics()["scripts"] == 1
    assert 0 < server.command("PTTL", key_of(node, "r")) <= 60_000
    # From now on the list is expected to be gone each time, rightly or not.
    for drained in (True, False, True):
        if drained:
            await node.pull(("r",), 10, 0)
        monitor = Monitor(server)
        await node.push("r", [b"plain"])
        await node.holds("r", b"plain")
        assert [words[0] for words in monitor.commands()] == ["RPUSH", "PEXPIRE", "LPOS"]
        assert 0 < server.command("PTTL", key_of(node, "r")) <= 60_000


@async_test
async def test_the_time_to_live_is_renewed_when_a_third_has_passed(place: Place) -> None:
    server = place.server()
    clock = Clock()
    node = await place.node(server, clock=clock, limits=Limits(100, 9.0))
    await node.push("r", [b"1"])
    monitor = Monitor(server)
    for advance in (2.9, 0.2, 2.0):
        clock.advance(advance)
        await node.push("r", [b"2"])
    await node.holds("r", b"2")
    assert [command[0] for command in monitor.commands()].count("PEXPIRE") == 1


@async_test
async def test_nodes_with_other_prefixes_do_not_meet(place: Place) -> None:
    server = place.server()
    node, other = await place.node(server, prefix="a:"), await place.node(server, prefix="b:")
    await node.push("r", [b"x"])
    assert await other.pull(("r",), 1, 0) is None
    assert await node.pull(("r",), 1, 0) == Pulled("r", [b"x"])


@async_test
async def test_what_a_snapshot_brings_back_is_not_read_and_expires(place: Place) -> None:
    server = place.server()
    node = await place.node(server)
    old = key_of(node, "r")
    await node.push("r", [b"popped"])
    server.command("SAVE")
    assert await node.pull(("r",), 1, LONG_S) == Pulled("r", [b"popped"])
    server.kill()
    await eventually(lambda: not node.connected)
    server.start()
    await within(node.ready())
    # Redis has it again; under the new epoch's key there is nothing.
    assert server.command("LRANGE", old, 0, -1) == [b"popped"]
    assert 0 < server.command("PTTL", old) <= 60_000
    assert await node.pull(("r",), 1, 0.05) is None
    assert await node.holds("r", b"popped") is False


@async_test
async def test_a_restart_is_told(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    server = place.server()
    node = await place.node(server)
    with caplog.at_level(logging.INFO):
        server.stop()
        await logged(caplog, "node east-1: connection lost")
        server.start()
        await within(node.ready())
        assert "what was queued there is lost" in caplog.text
    assert await node.push("r", [b"x"]) == Pushed(1, 1)


# Capacity.


@async_test
async def test_below_three_quarters_pushes_are_plain_and_above_the_script_decides(place: Place) -> None:
    server = place.server()
    node = await place.node(server, limits=Limits(8, 60.0))
    results = [await node.push("r", [b"%d" % i]) for i in range(10)]
    assert results == [Pushed(1, n) for n in range(1, 9)] + [Pushed(0, 8)] * 2
    # The first, since nothing was known, and those from the seventh on.
    assert node.statistics()["scripts"] == 5
    await node.pull(("r",), 8, 0)
    assert await node.push("r", [b"x"]) == Pushed(1, 1)
    assert await node.push("r", [b"y"]) == Pushed(1, 2)
    assert node.statistics()["scripts"] == 6


@async_test
async def test_the_script_takes_what_fits_of_a_large_batch(place: Place) -> None:
    server = place.server()
    node = await place.node(server, limits=Limits(9_500, 60.0))
    messages = [b"%d" % i for i in range(12_000)]
    assert await node.push("r", [b"first"]) == Pushed(1, 1)
    assert await node.push("r", messages) == Pushed(9_499, 9_500)
    pulled = await node.pull(("r",), 20_000, 0)
    assert pulled == Pulled("r", [b"first", *messages[:9_499]])


@async_test
async def test_a_channel_that_others_have_overfilled_takes_nothing(place: Place) -> None:
    server = place.server()
    node, other = await place.node(server, limits=Limits(8, 60.0)), await place.node(server, limits=Limits(20, 60.0))
    await node.push("r", [b"x"])
    assert (await other.push("r", [b"y"] * 15)).length == 16
    # What it knows is old, so the channel may become a little longer than it should; it tells the true length.
    assert await node.push("r", [b"x"]) == Pushed(1, 17)
    assert await node.push("r", [b"x"] * 3) == Pushed(0, 17)


@async_test
async def test_what_was_known_of_a_channel_is_forgotten_with_the_connection(place: Place) -> None:
    server = place.server()
    node = await place.node(server, limits=Limits(8, 60.0))
    await node.push("r", [b"x"])
    server.command("CLIENT", "PAUSE", 60_000, "WRITE")
    pushing = Deferred.fromCoroutine(error_of(node.push("r", [b"y"])))
    await eventually(lambda: blocked(server) == 1, "the push that is held up")
    server.command("CLIENT", "KILL", "TYPE", "normal")
    assert isinstance(await pushing, PushInDoubt)
    server.command("CLIENT", "UNPAUSE")
    # Others fill it meanwhile.
    length = server.command("RPUSH", key_of(node, "r"), *["z"] * 8)
    await within(node.ready())
    assert await node.push("r", [b"x"]) == Pushed(0, length)
    assert node.statistics()["scripts"] == 2


@async_test
async def test_channels_are_forgotten_and_learned_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_MAX_KEYS", 3)
    server = place.server()
    node = await place.node(server)
    for round in range(1, 3):
        for name in "abcde":
            assert await node.push(name, [b"x"]) == Pushed(1, round)
            assert node.statistics()["keys"] <= 3
    assert node.statistics()["scripts"] == 10


# What a Redis can do to its clients.


@async_test
async def test_a_redis_without_memory_refuses(place: Place) -> None:
    server = place.server(maxmemory_policy="noeviction")
    node = await place.node(server)
    await node.push("r", [b"small"])
    server.command("CONFIG", "SET", "maxmemory", "1")
    for payloads in ([b"plain"], [b"script"] * 1001):
        found = await error_of(node.push("r", payloads))
        assert isinstance(found, NodeRefused)
        assert "OOM" in str(found)
    # What needs no memory goes on.
    assert await node.holds("r", b"small") is True
    assert await node.pull(("r",), 5, LONG_S) == Pulled("r", [b"small"])
    server.command("CONFIG", "SET", "maxmemory", "0")
    assert await node.push("r", [b"x"]) == Pushed(1, 1)
    assert node.statistics()["connections_lost"] == 0


@async_test
async def test_a_key_that_is_no_list_is_refused(place: Place) -> None:
    server = place.server()
    node = await place.node(server)
    await node.push("r", [b"x"])
    server.command("SET", key_of(node, "r"), "no list")
    for asking in (node.push("r", [b"x"]), node.push("r", []), node.holds("r", b"x"), node.withdraw("r", b"x")):
        found = await error_of(asking)
        assert isinstance(found, NodeRefused)
        assert "WRONGTYPE" in str(found)
    assert isinstance(await error_of(node.pull(("r",), 1, 1.0)), NodeRefused)
    assert isinstance(await error_of(node.pull(("r",), 1, 0)), NodeRefused)
    server.command("DEL", key_of(node, "r"))
    assert await node.push("r", [b"y"]) == Pushed(1, 1)
    assert await node.pull(("r",), 1, LONG_S) == Pulled("r", [b"y"])
    assert node.statistics()["connections_lost"] == 0


@async_test
async def test_a_primary_that_becomes_a_replica_is_left(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    # Its own looks, every five seconds, do not come: the answer to the push is what makes it look.
    server, clock = place.server(), Clock()
    node = await place.node(server, clock=clock)
    await node.push("r", [b"x"])
    pulling = node.pull(("s",), 1, LONG_S)
    await eventually(lambda: blocked(server) == 1)
    failing = Deferred.fromCoroutine(error_of(pulling))
    with caplog.at_level(logging.WARNING):
        server.command("REPLICAOF", "127.0.0.1", "1")
        found = await error_of(node.push("r", [b"x"]))
        assert isinstance(found, NodeRefused)
        assert "READONLY" in str(found)
        await eventually(lambda: not node.connected, "the end of the connection")
        assert "it is a replica, not a primary" in caplog.text
        # Redis itself tells who waited in a read (UNBLOCKED).
        assert isinstance(await within(failing), NodeRefused)
        server.command("REPLICAOF", "NO", "ONE")
        await advance_until(clock, lambda: node.connected)
    pulling = node.pull(("r",), 1, LONG_S)
    await advance_until(clock, lambda: pulling.called)
    assert await pulling == Pulled("r", [b"x"])


@async_test
async def test_a_quiet_replica_is_noticed_at_the_next_look(place: Place) -> None:
    server, clock = place.server(), Clock()
    node = await place.node(server, clock=clock)
    server.command("REPLICAOF", "127.0.0.1", "1")
    clock.advance(4.9)
    await turn(0.02)
    assert node.connected
    clock.advance(0.1)
    await eventually(lambda: not node.connected, "the end of the connection")


@async_test
async def test_a_frozen_redis_is_given_up_and_found_again(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    server, clock = place.server(), Clock()
    node = await place.node(server, clock=clock)
    epoch = node.epoch
    assert await node.push("r", [b"before"]) == Pushed(1, 1)
    pulling = node.pull(("s",), 1, 2.0)
    await eventually(lambda: blocked(server) == 1)
    server.freeze()
    pushing, holding = node.push("r", [b"x"]), node.holds("r", b"before")
    await turn()
    failing = [Deferred.fromCoroutine(error_of(asking)) for asking in (pushing, holding, pulling)]
    with caplog.at_level(logging.WARNING):
        clock.advance(5.0)
        await turn()
        assert node.connected
        clock.advance(0.1)
        assert not node.connected
        assert "no answer for 5 s" in caplog.text
    assert isinstance(await failing[0], PushInDoubt)
    assert isinstance(await failing[1], NodeUnreachable)
    # The read was to wait for two seconds, and gets its five behind them.
    assert not failing[2].called
    clock.advance(1.8)
    await turn()
    assert not failing[2].called
    await advance_until(clock, lambda: failing[2].called)
    assert isinstance(await failing[2], NodeUnreachable)
    server.thaw()
    await advance_until(clock, lambda: node.connected)
    assert node.epoch == epoch
    pulled = await node.pull(("r",), 5, 0)
    # In doubt it was: here Redis had read it.
    assert pulled == Pulled("r", [b"before", b"x"])


@async_test
async def test_a_redis_that_was_frozen_for_a_moment_is_kept(place: Place) -> None:
    server, clock = place.server(), Clock()
    node = await place.node(server, clock=clock)
    server.freeze()
    pushing = node.push("r", [b"x"])
    await turn()
    clock.advance(5.0)
    server.thaw()
    assert await within(pushing) == Pushed(1, 1)
    clock.advance(0.1)
    assert node.connected
    assert node.statistics()["connections_lost"] == 0


@async_test
async def test_a_frozen_redis_that_accepts_is_no_ready_node(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    server, clock = place.server(), Clock()
    server.freeze()
    with caplog.at_level(logging.WARNING):
        node = place.start(server, clock=clock)
        await advance_until(clock, lambda: "no answer for 5 s" in caplog.text)
        assert not node.connected
    server.thaw()
    await advance_until(clock, lambda: node.connected)


async def advance_until(clock: Clock, condition: Any) -> None:
    """Let the node's time pass until `condition` holds."""

    def check() -> bool:
        clock.advance(0.05)
        return bool(condition())

    await eventually(check)


# Reading connections.


@async_test
async def test_idle_reading_connections_are_few_and_used_again(place: Place) -> None:
    server = place.server()
    node = await place.node(server)
    pulls = [node.pull((f"r-{i}",), 1, LONG_S) for i in range(9)]
    assert node.statistics()["pulls"] == node.statistics()["readers"] == 9
    await eventually(lambda: blocked(server) == 9)
    for i in range(9):
        await node.push(f"r-{i}", [b"x"])
    await gatherResults(pulls)
    await eventually(lambda: node.statistics()["readers"] == 4, "the end of five readers")
    assert node.statistics()["pulls"] == 0
    before = server.info("stats")["total_connections_received"]
    for _ in range(5):
        assert await node.pull(("r", "s"), 1, 0.001) is None
    # The one that asks now.
    assert int(server.info("stats")["total_connections_received"]) == int(before) + 1
    clients = server.command("CLIENT", "LIST", "TYPE", "NORMAL").decode().splitlines()
    assert len(clients) == 1 + 4 + 1


@async_test
async def test_a_pull_does_not_wait_for_a_connection_for_ever(place: Place) -> None:
    server, clock = place.server(), Clock()
    node = await place.node(server, clock=clock)
    server.freeze()
    pulling = Deferred.fromCoroutine(error_of(node.pull(("r",), 1, 1.0)))
    await turn()
    clock.advance(4.9)
    await turn()
    assert not pulling.called
    clock.advance(0.1)
    assert isinstance(await within(pulling), NodeUnreachable)
    assert node.statistics()["pulls"] == 0
    server.thaw()


@async_test
async def test_a_pull_does_not_wait_for_a_connection_to_a_node_that_is_lost(place: Place) -> None:
    server, clock = place.server(), Clock()
    node = await place.node(server, clock=clock)
    server.freeze()
    pulling = Deferred.fromCoroutine(error_of(node.pull(("r",), 1, 1.0)))
    await turn()
    server.kill()
    # No time passes for the node.
    assert isinstance(await within(pulling), NodeUnreachable)
    assert not node.connected


@async_test
async def test_a_broken_reading_connection_fails_its_pull_alone(place: Place) -> None:
    server = place.server()
    node = await place.node(server)
    pulling = node.pull(("r",), 1, LONG_S)
    await eventually(lambda: blocked(server) == 1)
    failing = Deferred.fromCoroutine(error_of(pulling))
    [line] = [c for c in server.command("CLIENT", "LIST").decode().splitlines() if "cmd=blmpop" in c]
    server.command("CLIENT", "KILL", "ID", line.split(" ", 1)[0].removeprefix("id="))
    assert isinstance(await within(failing), NodeUnreachable)
    assert node.connected
    assert node.statistics()["connections_lost"] == 0
    pulling = node.pull(("r",), 1, LONG_S)
    assert await node.push("r", [b"x"]) == Pushed(1, 1)
    assert await pulling == Pulled("r", [b"x"])


@async_test
async def test_a_payload_of_the_largest_kind(place: Place) -> None:
    server = place.server()
    node = await place.node(server)
    payload = bytes(range(256)) * (32 * 1024 * 4)
    assert await node.push("r", [payload]) == Pushed(1, 1)
    assert await node.push("r", [payload, b"x"]) == Pushed(2, 3)
    assert await node.pull(("r",), 5, LONG_S) == Pulled("r", [payload, payload, b"x"])


@async_test
async def test_a_batch_that_redis_would_not_read_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_module, "MAX_BATCH_BYTES", 5 * 1024 * 1024)
    server = place.server()
    node = await place.node(server)
    found = await error_of(node.push("r", [bytes(3 * 1024 * 1024)] * 2))
    assert isinstance(found, NodeRefused)
    assert await node.push("r", [bytes(2 * 1024 * 1024)] * 2) == Pushed(2, 2)


def test_the_helper_raises_what_redis_answers() -> None:
    with RedisServer() as server, pytest.raises(hiredis.ReplyError, match="unknown command"):
        server.command("NOSUCH")


# From settings to endpoints.


def settings(url: str) -> NodeSettings:
    [node] = parse_cluster(f"east={url}").nodes
    return node


@pytest.mark.parametrize("url", ["rediss://h?ca=/nowhere", "rediss+sentinel://h/main?ca=/nowhere"])
def test_a_file_that_is_not_there_is_an_error_that_names_the_node(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        redis_node(settings(url), ROOMY, ROOMY, "p:", reactor, LOOP)
    assert str(caught.value) == "node east: TLS: ca='/nowhere': No such file or directory"


def test_redis_and_sentinel_have_each_their_own_login() -> None:
    url = "redis+sentinel://me:geheim@a,b:1/main/2?sentinel_password=anders"
    places = RedisEndpoints(settings(url), LOOP)
    login, sentinels = places.login("p:"), places.sentinel_login()
    assert (login.node, login.prefix, login.username, login.password, login.database) == (
        "east",
        "p:",
        "me",
        "geheim",
        2,
    )
    assert (sentinels.username, sentinels.password, sentinels.database) == (None, "anders", 0)
    assert [place.where for place in places.sentinels()] == ["a:26379", "b:1"]
    assert "geheim" not in repr(login)
    assert RedisEndpoints(settings("redis://h"), LOOP).sentinels() == []


@async_test
async def test_a_node_keeps_what_the_settings_say() -> None:
    with RedisServer(password="geheim") as server:
        monitor = Monitor(server)
        urls = f"redis://:geheim@127.0.0.1:{server.port}/3", f"redis+unix://:geheim@{server.path}?db=3"
        limits = Limits(5, 30.0), Limits(10, 60.0)
        nodes = [redis_node(settings(url), *limits, "p:", reactor, LOOP) for url in urls]
        for node in nodes:
            node.start()
            await within(node.ready())
        assert (await nodes[0].push("r", [b"x"] * 7)).taken == 5
        pulled = await nodes[1].pull(("r",), 10, 1.0)
        assert pulled is not None
        assert len(pulled.payloads) == 5
        await within(gatherResults([node.stop() for node in nodes]))
        commands = monitor.commands()
    [push] = [command for command in commands if command[0] == "EVAL"]
    assert push[3].startswith("p:")
    assert commands.count(["SELECT", "3"]) == 3  # two that send, and one that reads
