"""The connection that hears groups: with a Redis that is this test, and with real ones that do all they can to it."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import hiredis
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from ifserver.errors import NodeRefused, NodeUnreachable
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.redis.connection import ANSWER_S, Named, Server
from ifserver.layers.redis.node import RedisNode
from ifserver.layers.redis.readers import PAUSES
from ifserver.layers.redis.subscriber import GroupLink, group_key
from ifserver.layers.subscriptions import FormerNames, Subscriptions
from ifserver.net.endpoints import StreamClientEndpoint
from tests.layers.fakes import FakeEndpoint, FakeTurn
from tests.layers.helpers import LOOP, ROOMY, async_test, error_of, eventually, listen, within
from tests.redis_server import Monitor, RedisServer

TIME = b"*2\r\n$4\r\n1000\r\n$1\r\n0\r\n"


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def push(kind: bytes, group: str, last: bytes) -> bytes:
    """What Redis sends of a group."""
    return b"*3\r\n" + bulk(kind) + bulk(group_key("p:", group)) + last


def outcome(deferred: Deferred[Any]) -> list[Any]:
    results: list[Any] = []
    deferred.addCallbacks(results.append, lambda failure: results.append(failure.value))
    return results


class Fake:
    """A link whose Redis is this test."""

    def __init__(self, database: int = 0) -> None:
        self.clock = Clock()
        self.endpoint = FakeEndpoint()
        self.looks = 0
        self.former = FormerNames()
        self.database = database
        node = MemoryNode("east-1", ROOMY, ROOMY, self.clock, "epoch")
        self.ear = listen(node)
        server = Server("east-1", "p:", None, None, database)
        self.subscriptions = Subscriptions(node, self.clock, server.unreachable)
        self.link = GroupLink(
            server, self.clock, lambda: self.endpoint, self.subscriptions, self._look, PAUSES, self.former
        )

    def _look(self) -> None:
        self.looks += 1

    def open(self, epoch: bytes = b"first") -> None:
        """Accept the connection, and say who Redis is."""
        self.endpoint.accept()
        if self.database:
            assert self.asked() == [[b"SELECT", b"%d" % self.database]]
            self.endpoint.receive(b"+OK\r\n")
        assert self.asked() == [[b"INFO", b"server", b"replication", b"persistence"], [b"TIME"]]
        self.endpoint.receive(bulk(b"run_id:" + epoch) + TIME)

    def asked(self) -> list[Any]:
        """The commands since the last time."""
        reader = hiredis.Reader()
        reader.feed(self.endpoint.transport.taken())
        commands = []
        while (command := reader.gets()) is not False:
            commands.append(command)
        return commands

    def subscribe(self, *groups: str) -> list[Any]:
        result = outcome(self.subscriptions.subscribe(groups))
        self.link.needed()
        self.clock.advance(0)
        return result

    def stop(self) -> None:
        stopped = outcome(self.link.stop())
        if not stopped:
            self.endpoint.lose()
        assert stopped == [None]
        assert self.clock.getDelayedCalls() == []


def test_there_is_no_connection_before_the_first_group() -> None:
    fake = Fake()
    fake.link.start()
    assert fake.endpoint.count == 0
    fake.stop()
    fake = Fake()
    fake.subscribe("a")
    assert fake.endpoint.count == 0
    fake.link.start()
    fake.link.needed()
    assert fake.endpoint.count == 1
    fake.stop()


def test_a_command_is_answered_once_for_each_group() -> None:
    fake = Fake()
    fake.link.start()
    first = fake.subscribe("a", "b")
    fake.open()
    second = fake.subscribe("c")
    assert fake.asked() == [[b"SUBSCRIBE", b"p:group:a", b"p:group:b"], [b"SUBSCRIBE", b"p:group:c"]]
    fake.endpoint.receive(push(b"subscribe", "a", b":1\r\n"))
    fake.endpoint.receive(push(b"message", "a", bulk(b"x")))
    assert fake.ear.heard == [("a", b"x")]
    assert first == []
    fake.endpoint.receive(push(b"subscribe", "b", b":2\r\n"))
    assert (first, second) == ([None], [])
    fake.endpoint.receive(b"-NOPERM User app has no permissions\r\n")
    [error] = second
    assert isinstance(error, NodeRefused)
    assert not fake.endpoint.transport.aborting
    fake.subscriptions.unsubscribe(["a"])
    fake.clock.advance(0)
    assert fake.asked() == [[b"UNSUBSCRIBE", b"p:group:a"]]
    fake.endpoint.receive(push(b"unsubscribe", "a", b":1\r\n"))
    fake.endpoint.receive(push(b"message", "b", bulk(b"y")) + push(b"message", "b", bulk(b"\r\n")))
    assert fake.ear.heard[1:] == [("b", b"y"), ("b", b"\r\n")]
    fake.stop()


def test_groups_of_other_databases_have_other_names_and_both_while_others_know_the_former_ones() -> None:
    fake = Fake(database=7)
    fake.link.start()
    fake.subscribe("a")
    fake.open()
    # Nothing is subscribed to before it is known under which names.
    fake.former.found("west", True)
    assert fake.asked() == []
    fake.link.use_former_names(True)
    assert fake.asked() == [[b"SUBSCRIBE", b"p:group@7:a", b"p:group:a"]]
    fake.former.found("west", False)
    assert fake.asked() == [[b"UNSUBSCRIBE", b"p:group:a"]]
    fake.subscribe("b")
    assert fake.asked() == [[b"SUBSCRIBE", b"p:group@7:b"]]
    fake.link.use_former_names(False)
    fake.former.found("east-1", True)
    assert fake.asked() == [[b"SUBSCRIBE", b"p:group:a", b"p:group:b"]]
    fake.former.found("west", True)
    fake.former.found("east-1", False)
    fake.subscriptions.unsubscribe(["a"])
    fake.clock.advance(0)
    assert fake.asked() == [[b"UNSUBSCRIBE", b"p:group@7:a", b"p:group:a"]]
    fake.stop()


def test_no_two_sites_have_the_same_names() -> None:
    keys = [
        group_key(prefix, group, database)
        for prefix in ("", "p:", "p:group@1:", "1:", "group:")
        for group in ("a", "group", "!control")
        for database in (0, 1, 11)
    ]
    assert len(set(keys)) == len(keys)


def test_a_redis_that_is_silent_is_asked_and_left() -> None:
    fake = Fake()
    fake.link.start()
    fake.subscribe("a")
    fake.open()
    fake.asked()
    fake.endpoint.receive(push(b"subscribe", "a", b":1\r\n"))
    for _ in range(3):
        fake.clock.advance(5.0)
        assert fake.asked() == [[b"UNSUBSCRIBE", b"p:group:!ping"]]
        fake.endpoint.receive(push(b"unsubscribe", "!ping", b":1\r\n"))
    fake.clock.advance(5.0)
    assert fake.asked() == [[b"UNSUBSCRIBE", b"p:group:!ping"]]
    fake.clock.advance(ANSWER_S)
    fake.clock.advance(0.2)
    assert fake.endpoint.transport.aborting
    fake.endpoint.lose()
    fake.clock.advance(1.0)
    fake.open()
    fake.endpoint.receive(push(b"subscribe", "a", b":1\r\n"))
    assert fake.ear.interruptions == ["a"]
    assert fake.link.statistics() == {"group_connections_lost": 1, "groups": 1, "heard": 0, "interruptions": 1}
    fake.stop()


def test_a_connection_of_another_epoch_is_left_and_makes_the_node_look() -> None:
    fake = Fake()
    fake.link.start()
    fake.link.epoch_is("first")
    fake.subscribe("a")
    fake.open()
    assert fake.looks == 0
    fake.link.epoch_is("first")
    assert not fake.endpoint.transport.aborting
    fake.link.epoch_is("second")
    assert fake.endpoint.transport.aborting
    fake.endpoint.lose()
    fake.clock.advance(1.0)
    fake.open(b"third")
    assert fake.looks == 1
    fake.link.epoch_is("third")
    assert not fake.endpoint.transport.aborting
    fake.link.leave_unless(Named(("10.0.0.1", 6379), 1))
    assert fake.endpoint.transport.aborting
    fake.endpoint.lose()
    fake.stop()


@pytest.mark.parametrize("bad", [b"?\r\n", b":1\r\n", push(b"subscribe", "a", b":1\r\n")])
def test_what_is_not_redis_protocol_costs_the_connection(bad: bytes) -> None:
    fake = Fake()
    fake.link.start()
    fake.subscribe("a")
    fake.open()
    fake.endpoint.receive(push(b"subscribe", "a", b":1\r\n"))
    fake.endpoint.receive(bad)
    assert fake.endpoint.transport.aborting
    fake.endpoint.lose()
    fake.stop()


# Real ones.


class Place:
    """A Redis, and nodes that ask it."""

    def __init__(self) -> None:
        self._nodes: list[RedisNode] = []
        self.server: RedisServer

    def start(self, **options: Any) -> None:
        self.server = RedisServer(**options)
        self.server.start()

    async def node(self, **options: Any) -> RedisNode:
        endpoint = StreamClientEndpoint(LOOP, path=self.server.path)
        node = RedisNode("east-1", ROOMY, ROOMY, reactor, lambda: endpoint, **options)
        self._nodes.append(node)
        node.start()
        await within(node.ready())
        return node

    async def close(self) -> None:
        self.server.kill()
        await within(gatherResults([node.stop() for node in self._nodes]))
        self.server.remove()


@pytest_twisted.async_yield_fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    yield place
    await place.close()


@async_test
async def test_databases_and_prefixes_are_sites_of_their_own(place: Place) -> None:
    place.start()
    nodes = [await place.node(**options) for options in ({}, {"database": 1}, {"database": 2}, {"prefix": "other:"})]
    ears = [listen(node) for node in nodes]
    for node in nodes:
        await node.subscribe(["g", "!control"])
    for i, node in enumerate(nodes):
        assert await node.publish("g", b"%d" % i) == 1
        assert await node.publish("!control", b"%d" % i) == 1
        await eventually(lambda i=i: len(ears[i].heard) == 2)  # type: ignore[misc]
    assert [ear.heard for ear in ears] == [[("g", b"%d" % i), ("!control", b"%d" % i)] for i in range(4)]


def beat_of_1_0_0(server: RedisServer, database: int, life_s: float = 1000.0) -> None:
    """A process that knows groups by their former names."""
    for command in ("SET ifserver:alive:0123456789 x", f"ZADD ifserver:alive: {time.time() + life_s} 0123456789"):
        server.command(*command.split(), database=database)


@async_test
async def test_beside_processes_of_1_0_0_groups_have_both_names(place: Place) -> None:
    place.start()
    # As a process of 1.0.0 does, whatever its database.
    old = await place.node()
    listen(old)
    await old.subscribe(["g"])
    beat_of_1_0_0(place.server, 1)
    node = await place.node(database=1)
    ear = listen(node)
    await node.subscribe(["g", "h"])
    assert await old.publish("g", b"of the former") == 2
    await eventually(lambda: ear.of("g") == [b"of the former"])
    # Whoever hears both names tells by the number that it is the same.
    assert await node.publish("g", b"of the latter") == 2
    await eventually(lambda: ear.of("g")[1:] == [b"of the latter"] * 2)
    await eventually(lambda: listen(old).of("g")[1:] == [b"of the latter"])
    # Processes that say of themselves where groups are are no reason.
    await node.beat("abcdefghjk", b"", 1000.0)
    beat_of_1_0_0(place.server, 1, life_s=-1.0)
    place.server.command("ZREM", "ifserver:alive:", "0123456789", database=1)
    node._look()
    number = functools.partial(place.server.command, "PUBSUB", "NUMSUB", "ifserver:group:h")
    await eventually(lambda: number()[1] == 0, "that it leaves the former names")
    assert await node.publish("g", b"x") == 1
    assert await old.publish("g", b"y") == 1
    await eventually(lambda: b"x" in ear.of("g"))
    # One is started once more: the new release is taken back.
    beat_of_1_0_0(place.server, 1)
    node._look()
    await eventually(lambda: number()[1] == 1, "that it hears the former names again")
    assert await old.publish("g", b"z") == 2
    await eventually(lambda: ear.of("g")[-1] == b"z")
    assert ear.interruptions == []


@async_test
async def test_where_it_may_not_be_asked_who_is_alive_groups_have_both_names(place: Place) -> None:
    place.start()
    place.server.command("ACL", "SETUSER", "app", "reset", "on", ">geheim", "-@all", *RIGHTS, "+select", "&ifserver:*")
    old, node = await place.node(), await place.node(username="app", password="geheim", database=1)
    ear = listen(node)
    await node.subscribe(["g"])
    assert await old.publish("g", b"x") == 1
    await eventually(lambda: ear.of("g") == [b"x"])


def pubsub_clients(server: RedisServer) -> int:
    return len(server.command("CLIENT", "LIST", "TYPE", "pubsub").splitlines())


@async_test
async def test_ten_thousand_groups_are_a_few_commands_and_one_connection(place: Place) -> None:
    place.start()
    node = await place.node()
    ear = listen(node)
    assert pubsub_clients(place.server) == 0
    monitor = Monitor(place.server)
    groups = [f"g{i}" for i in range(10_000)]
    await gatherResults([node.subscribe([group]) for group in groups])
    assert pubsub_clients(place.server) == 1
    commands = [command for command in monitor.commands() if command[0] == "SUBSCRIBE"]
    assert [len(command) for command in commands] == [5001, 5001]
    place.server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually(lambda: len(ear.interruptions) == 10_000, "that it is told")
    assert place.server.command("PUBSUB", "NUMSUB", "ifserver:group:g7")[1] == 1
    for group in groups:
        node.unsubscribe([group])
    await eventually(lambda: place.server.command("PUBSUB", "CHANNELS", "*") == [], "the end of its groups")


@async_test
async def test_who_reads_too_slowly_is_disconnected_told_and_goes_on(place: Place) -> None:
    place.start(client_output_buffer_limit="pubsub 1mb 0 0")
    node, other = await place.node(), await place.node()
    ear = listen(node)
    await node.subscribe(["g"])
    transport: Any = node._groups._connection.transport  # type: ignore[union-attr]
    transport.pauseProducing()
    payload = bytes(64 * 1024)
    while pubsub_clients(place.server):
        await other.publish("g", payload)
    transport.resumeProducing()
    await eventually(lambda: ear.interruptions == ["g"], "that it is told")
    before = len(ear.heard)
    await other.publish("g", b"next")
    await eventually(lambda: len(ear.heard) > before, "the next")
    assert ear.heard[-1] == ("g", b"next")
    assert node.statistics()["group_connections_lost"] == 1


RIGHTS = ["+info", "+time", "+publish", "+subscribe", "+unsubscribe"]


@async_test
async def test_a_user_needs_three_rights_and_a_pattern_of_channels(place: Place) -> None:
    place.start()
    place.server.command("ACL", "SETUSER", "app", "reset", "on", ">geheim", "-@all", *RIGHTS, "&ifserver:*")
    node = await place.node(username="app", password="geheim")
    ear = listen(node)
    await node.subscribe(["g", "h"])
    assert await node.publish("g", b"x") == 1
    await eventually(lambda: ear.heard)
    assert node._groups._connection is not None
    node._groups._connection.ping()
    node.unsubscribe(["h"])
    await eventually(lambda: not node._groups._connection.waiting)  # type: ignore[union-attr]
    assert await node.publish("h", b"x") == 0
    assert place.server.command("ACL", "LOG") == []


@async_test
async def test_a_right_that_is_missing_is_told(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.start()
    place.server.command("ACL", "SETUSER", "app", "reset", "on", ">geheim", "-@all", *RIGHTS, "&ifserver:*")
    place.server.command("ACL", "SETUSER", "app", "-publish", "-subscribe")
    node = await place.node(username="app", password="geheim")
    ear = listen(node)
    for asked in (node.publish("g", b"x"), node.subscribe(["g"]), node.subscribe(["g", "h"])):
        error = await error_of(asked)
        assert isinstance(error, NodeRefused)
        assert "NOPERM" in str(error)
    assert node.statistics()["publishes_refused"] == 1
    place.server.command("ACL", "SETUSER", "app", "+publish", "+subscribe")
    await node.subscribe(["g"])
    with caplog.at_level(logging.INFO):
        place.server.command("ACL", "SETUSER", "app", "resetchannels", "&other:*")
        await eventually(lambda: "channel" in caplog.text, "a log line")
        place.server.command("ACL", "SETUSER", "app", "resetchannels", "&ifserver:*")
        await eventually(lambda: ear.interruptions == ["g"], "that it is told")
    assert await node.publish("g", b"x") == 1
    await eventually(lambda: ear.heard == [("g", b"x")])
    assert "node east-1 (groups): " in caplog.text
    assert "geheim" not in caplog.text


@async_test
async def test_what_is_published_in_one_turn_is_one_write(place: Place) -> None:
    place.start()
    node = await place.node()
    node.soon = turn = FakeTurn()
    writes: list[bytes] = []
    sending: Any = node._sending
    write = sending.transport.write

    def count(data: bytes) -> None:
        writes.append(data)
        write(data)

    sending.transport.write = count
    publishing = [node.publish("g", b"%d" % i) for i in range(20)]
    assert writes == []
    turn.end()
    assert len(writes) == 1
    assert await gatherResults(publishing) == [0] * 20
    # Nothing was sent of what is to leave when the connection has gone.
    late = node.publish("g", b"x")
    place.server.kill()
    await eventually(lambda: not node.connected)
    turn.end()
    assert isinstance(await error_of(late), NodeUnreachable)
    assert node.statistics()["publishes_unreachable"] == 1


@async_test
async def test_the_prefix_keeps_sites_apart(place: Place) -> None:
    place.start()
    one, two = await place.node(prefix="one:"), await place.node(prefix="two:")
    listen(one)
    listen(two)
    await gatherResults([one.subscribe(["g"]), two.subscribe(["g"])])
    assert await one.publish("g", b"x") == 1
    await eventually(lambda: listen(one).heard == [("g", b"x")])
    assert place.server.command("PUBSUB", "CHANNELS") in (
        [b"one:group:g", b"two:group:g"],
        [b"two:group:g", b"one:group:g"],
    )
    assert listen(two).heard == []
