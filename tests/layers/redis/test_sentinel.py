"""Finding a primary through Sentinels: with Sentinels that are this test, and with real ones through real failovers."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import hiredis
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults, succeed
from twisted.internet.error import ConnectionAborted, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from ifserver.config.node_urls import parse_cluster
from ifserver.errors import NodeError, NodeUnreachable
from ifserver.layers.node import Pulled, Pushed
from ifserver.layers.redis.connection import Named, Server
from ifserver.layers.redis.node import RedisNode, redis_node
from ifserver.layers.redis.sentinel import ANSWER_S, Place, Sentinels, named_by
from tests.certificates import Certificates
from tests.layers.fakes import FakeTransport
from tests.layers.helpers import LOOP, ROOMY, async_test, error_of, eventually, listen, turn, within
from tests.redis_server import RedisServer, SentinelServer

FIRST = Named(("10.0.0.1", 6379), 0)
SECOND = Named(("10.0.0.2", 6379), 1)
#: What is promised: from the promotion of another primary until messages go there.
PROMISED_S = 3.0


class Wire(FakeTransport):
    """What a Sentinel reads and writes."""

    def __init__(self, sentinel: FakeSentinel, protocol: Any) -> None:
        super().__init__()
        self._sentinel = sentinel
        self._protocol = protocol
        self._commands = hiredis.Reader()

    def write(self, data: bytes) -> None:
        self._commands.feed(data)
        while (command := self._commands.gets()) is not False:
            self._sentinel.asked.append(b" ".join(command).decode())
            if not self._sentinel.silent:
                self._protocol.dataReceived(self._sentinel.answer(command))

    def abortConnection(self) -> None:
        if not self.disconnecting:
            self.disconnecting = True
            self._protocol.connectionLost(Failure(ConnectionAborted()))


@implementer(IStreamClientEndpoint)
class FakeSentinel:
    """A Sentinel that says what it is told to say."""

    def __init__(self, says: Named | bytes) -> None:
        self.says = says
        self.down = self.silent = False
        self.asked: list[str] = []
        self.wires: list[Wire] = []

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        if self.down:
            return fail(ConnectionRefusedError())
        protocol = protocolFactory.buildProtocol(None)
        self.wires.append(Wire(self, protocol))
        protocol.makeConnection(self.wires[-1])
        return succeed(protocol)

    def answer(self, command: list[bytes]) -> bytes:
        if isinstance(self.says, bytes):
            return self.says
        (host, port), config_epoch = self.says
        words: list[Any] = [host, port]
        if command[1] == b"MASTER":
            words = ["name", "main", "ip", "10.9.9.9", "config-epoch", config_epoch, "quorum", 2]
        if command[0] == b"AUTH":
            return b"+OK\r\n"
        packed: bytes = hiredis.pack_command(tuple(words))
        return packed


@implementer(IStreamClientEndpoint)
class Nowhere:
    """Connects to nothing, and keeps trying."""

    def __init__(self) -> None:
        self.attempts: list[Deferred[Any]] = []

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        self.attempts.append(Deferred())
        return self.attempts[-1]


class Site:
    """Some Sentinels, and who asks them."""

    def __init__(self, *says: Named | bytes, password: str | None = None) -> None:
        self.clock = Clock()
        self.fakes = [FakeSentinel(each) for each in says]
        self.primary = Nowhere()
        self.addresses: list[tuple[str, int]] = []
        self.moves: list[Named] = []
        places = [Place(f"s{i}", fake) for i, fake in enumerate(self.fakes, 1)]
        login = Server("east-1", "", None, password, 0, is_sentinel=True)
        self.sentinels = Sentinels("east-1", "main", places, login, self.clock, self._endpoint)

    def _endpoint(self, address: tuple[str, int]) -> Nowhere:
        self.addresses.append(address)
        return self.primary

    def start(self) -> None:
        self.sentinels.start(self.moves.append)

    def counts(self) -> list[int]:
        """How often each was asked, since the last time."""
        found = [fake.asked.count("SENTINEL MASTER main") for fake in self.fakes]
        for fake in self.fakes:
            fake.asked.clear()
        return found

    def stop(self) -> None:
        assert outcome(self.sentinels.stop()) == [None]
        assert self.clock.getDelayedCalls() == []


def outcome(deferred: Deferred[Any]) -> list[Any]:
    results: list[Any] = []
    deferred.addCallbacks(results.append, lambda failure: results.append(failure.value))
    return results


def test_a_sentinel_is_asked_for_the_primary_and_the_failovers_at_once() -> None:
    site = Site(FIRST)
    assert outcome(site.sentinels.find()) == [FIRST]
    assert site.fakes[0].asked == ["SENTINEL GET-MASTER-ADDR-BY-NAME main", "SENTINEL MASTER main"]
    assert outcome(site.sentinels.find()) == [FIRST]
    assert len(site.fakes[0].wires) == 1
    site.stop()


def test_sentinels_are_asked_in_turn_and_the_last_that_has_answered_first() -> None:
    site = Site(FIRST, FIRST, FIRST)
    site.fakes[0].down = True
    assert outcome(site.sentinels.find()) == [FIRST]
    assert site.counts() == [0, 1, 0]
    site.fakes[0].down = False
    assert outcome(site.sentinels.find()) == [FIRST]
    assert site.counts() == [0, 1, 0]
    site.fakes[1].wires[0].abortConnection()
    site.fakes[1].down = True
    assert outcome(site.sentinels.find()) == [FIRST]
    assert site.counts() == [1, 0, 0]
    site.stop()


def test_a_silent_sentinel_costs_a_second_once() -> None:
    site = Site(SECOND, FIRST)
    site.fakes[0].silent = True
    found = outcome(site.sentinels.find())
    site.clock.advance(ANSWER_S - 0.01)
    assert found == []
    site.clock.advance(0.02)
    assert found == [FIRST]
    assert outcome(site.sentinels.find()) == [FIRST]
    assert site.counts() == [1, 2]
    site.stop()


def test_who_asks_while_it_is_being_asked_shares_the_answer() -> None:
    site = Site(SECOND, FIRST)
    site.fakes[0].silent = True
    first, second, cancelled = (site.sentinels.find() for _ in range(3))
    found = [outcome(first), outcome(second)]
    cancelled.cancel()
    assert [type(each) for each in outcome(cancelled)] == [CancelledError]
    site.clock.advance(ANSWER_S)
    assert found == [[FIRST], [FIRST]]
    assert site.counts() == [1, 1]
    site.stop()


def test_none_that_knows_is_one_error_that_names_all() -> None:
    site = Site(
        b"-ERR No such master with that name\r\n",
        b"+what\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"HTTP/1.1 400\r\n",
        FIRST,
    )
    site.fakes[4].down = True
    [error] = outcome(site.sentinels.find())
    assert isinstance(error, NodeUnreachable)
    text = str(error)
    assert text.startswith(
        "no Sentinel says where 'main' is: s1: ERR No such master with that name; s2: it answers what"
    )
    assert "; s3: NOAUTH Authentication required. Set IFSERVER_REDIS_SENTINEL_PASSWORD; s4: it does not speak " in text
    assert "; s4: it does not speak Redis' protocol; s5: cannot connect: " in text
    site.stop()


def test_a_password_is_given_and_not_told() -> None:
    site = Site(FIRST, password="geheim")
    assert outcome(site.sentinels.find()) == [FIRST]
    assert site.fakes[0].asked[0] == "AUTH geheim"
    site.stop()
    site = Site(b"-WRONGPASS geheim is wrong\r\n", password="geheim")
    [error] = outcome(site.sentinels.find())
    assert str(error).endswith(
        "s1: AUTH: WRONGPASS *** is wrong The password is that of the URL, or else of IFSERVER_REDIS_SENTINEL_PASSWORD"
    )
    site.stop()


@pytest.mark.parametrize("other", [SECOND, Named(FIRST.address, 1), Named(SECOND.address, 0)])
def test_another_name_is_noticed_within_a_good_second(other: Named, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(FIRST)
    site.start()
    for _ in range(5):
        site.clock.advance(1.2)
    assert site.counts()[0] >= 6
    assert site.moves == []
    site.fakes[0].says = other
    site.clock.advance(1.2)
    assert site.moves == [other]
    site.clock.advance(1.2)
    assert site.moves == [other]
    host, port = other.address
    assert caplog.messages == [
        f"node east-1: Sentinel names another primary, {host}:{port} (failover {other.config_epoch})"
    ]
    site.stop()


def test_a_connection_that_is_being_made_to_the_last_primary_is_given_up() -> None:
    site = Site(FIRST)
    site.start()
    endpoint = site.sentinels.endpoint()
    assert named_by(endpoint) is None
    failed = outcome(endpoint.connect(None))
    assert named_by(endpoint) == FIRST
    site.fakes[0].says = SECOND
    site.clock.advance(1.2)
    assert [type(error) for error in failed] == [CancelledError]
    connected = outcome(endpoint.connect(None))
    assert named_by(endpoint) == SECOND
    site.clock.advance(1.2)
    site.primary.attempts[-1].callback("it")
    assert connected == ["it"]
    assert site.addresses == [FIRST.address, SECOND.address]
    site.stop()


def test_silence_moves_nobody_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    site = Site(FIRST)
    with caplog.at_level(logging.INFO):
        site.start()
        site.fakes[0].wires[0].abortConnection()
        site.fakes[0].down = True
        for _ in range(3):
            site.clock.advance(1.2)
        assert site.sentinels.named == FIRST
        [error] = outcome(site.sentinels.endpoint().connect(None))
        assert isinstance(error, NodeUnreachable)
        assert site.addresses == []
        site.fakes[0].down = False
        site.clock.advance(1.2)
    assert site.moves == []
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("node east-1: no Sentinel says where 'main' is: s1: cannot connect: ")
    assert caplog.messages[1] == "node east-1: Sentinel answers again"
    site.stop()


def test_it_may_be_stopped_while_it_asks() -> None:
    site = Site(FIRST, FIRST)
    site.fakes[0].silent = True
    site.start()
    connecting = outcome(site.sentinels.endpoint().connect(None))
    site.stop()
    assert [type(error) for error in connecting] == [CancelledError]
    assert site.counts() == [1, 0]


# Real ones.


def command(server: RedisServer, *words: str | int) -> Any:
    """What `server` answers; also if Sentinel throws all its clients out just then, as it does when roles change."""
    for _ in range(3):
        try:
            return server.command(*words)
        except ConnectionError as error:
            last = error
    raise last


class Watched:
    """A primary, its replica, Sentinels that watch them, and nodes that ask."""

    def __init__(self) -> None:
        self._nodes: list[RedisNode] = []
        self._servers: list[RedisServer] = []

    async def open(self, sentinels: int = 3, **options: Any) -> None:
        """Start it all; returns when everybody knows everybody."""
        self.primary = self._started(RedisServer(**options, repl_diskless_sync_delay="0"))
        tls = self.primary.tls_port
        more = {"masterauth": options["password"]} if "password" in options else {}
        more |= {"tls_replication": "yes"} if tls else {}
        port = tls or self.primary.port
        self.replica = self._started(RedisServer(**options, **more, replicaof=f"127.0.0.1 {port}"))
        await eventually(lambda: self.replica.info("replication")["master_link_status"] == "up", "replication")
        quorum, auth = sentinels // 2 + 1, options.get("password")
        self.sentinels = [SentinelServer(self.primary, quorum, auth=auth, **options) for _ in range(sentinels)]
        for sentinel in self.sentinels:
            self._started(sentinel)
        known = f"slaves=1,sentinels={sentinels}"
        for sentinel in self.sentinels:
            await eventually(lambda s=sentinel: known in s.info("sentinel")["master0"], known)  # type: ignore[misc]

    def _started(self, server: RedisServer) -> RedisServer:
        self._servers.append(server)
        server.start()
        return server

    async def node(self, scheme: str = "redis+sentinel", login: str = "", options: str = "") -> RedisNode:
        """One that is connected."""
        ports = [s.tls_port if scheme.startswith("rediss") else s.port for s in self.sentinels]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        [settings] = parse_cluster(f"east-1={scheme}://{login}{hosts}/main{options}").nodes
        node = redis_node(settings, ROOMY, ROOMY, "ifserver:", reactor, LOOP)
        self._nodes.append(node)
        node.start()
        await within(node.ready())
        return node

    async def promoted(self) -> float:
        """When the replica became a primary."""
        await eventually(lambda: command(self.replica, "ROLE")[0] == b"master", "the promotion")
        return reactor.seconds()

    def failed_over(self) -> bool:
        """Have the roles exchanged; False: not yet."""
        try:
            return bool(self.sentinels[0].command("SENTINEL", "FAILOVER", "main") == b"OK")
        except hiredis.ReplyError:  # one is in progress, or there is no good replica yet
            return False

    async def close(self) -> None:
        for server in self._servers:
            server.kill()
        await within(gatherResults([node.stop() for node in self._nodes]))
        for server in self._servers:
            server.remove()


@pytest_twisted.async_yield_fixture
async def watched() -> AsyncIterator[Watched]:
    watched = Watched()
    yield watched
    await watched.close()


async def pushed(node: RedisNode, channel: str) -> Pushed:
    """A push, as soon as there is somebody to take it."""
    while True:
        try:
            return await node.push(channel, [b"x"])
        except NodeError:
            await turn(0.01)


def lists_of(server: RedisServer, channel: str) -> list[bytes]:
    keys: list[bytes] = command(server, "KEYS", f"ifserver:*:{channel}")
    return keys


@async_test
async def test_after_a_kill_messages_go_to_the_new_primary_within_three_seconds(watched: Watched) -> None:
    await watched.open()
    node = await watched.node()
    before = node.epoch
    waiting = node.pull(("r",), 1, 20.0)
    await turn(0.05)
    watched.primary.kill()
    assert isinstance(await error_of(waiting), NodeError)
    at = await watched.promoted()
    await pushed(node, "s")
    assert await node.pull(("s",), 1, 1.0) == Pulled("s", [b"x"])
    assert reactor.seconds() - at < PROMISED_S
    assert before is not None
    assert before.endswith(".0")
    # The first failover, or a later one where Sentinels could not agree at once who was to carry it out.
    assert re.fullmatch(rf"{watched.replica.info('server')['run_id']}\.[1-9]", str(node.epoch))


@async_test
async def test_a_frozen_primary_is_left_with_all_that_waits_there(watched: Watched) -> None:
    await watched.open()
    node = await watched.node()
    watched.sentinels[0].freeze()  # as if it were on the same machine
    waiting = node.pull(("r",), 1, 20.0)
    await turn(0.05)
    watched.primary.freeze()
    doubtful = node.push("r", [b"lost"])
    at = await watched.promoted()
    assert isinstance(await error_of(doubtful), NodeError)
    assert isinstance(await error_of(waiting), NodeError)
    await pushed(node, "s")
    assert await node.pull(("s",), 1, 1.0) == Pulled("s", [b"x"])
    assert reactor.seconds() - at < PROMISED_S
    # It wakes, and still thinks that it is the primary. Nobody asks it.
    watched.primary.thaw()
    other = await watched.node()
    assert other.epoch == node.epoch
    assert await other.push("t", [b"y"]) == Pushed(1, 1)
    assert await node.pull(("t",), 1, 1.0) == Pulled("t", [b"y"])
    assert lists_of(watched.primary, "t") == []


@async_test
async def test_a_primary_that_sentinel_no_longer_names_is_left_though_it_serves(watched: Watched) -> None:
    await watched.open(sentinels=1)
    node = await watched.node()
    epochs = [node.epoch]
    await pushed(node, "r")
    waiting = node.pull(("s",), 1, 20.0)
    await eventually(watched.failed_over, "a failover")
    at = await watched.promoted()
    await eventually(lambda: node.epoch not in epochs, "another epoch")
    epochs.append(node.epoch)
    assert reactor.seconds() - at < PROMISED_S
    assert command(watched.primary, "ROLE")[0] == b"master"
    assert isinstance(await error_of(waiting), NodeError)
    # And back again: the very same process is the primary, with lists that it had before. They are not read.
    command(watched.primary, "REPLICAOF", "127.0.0.1", watched.replica.port)
    await eventually(watched.failed_over, "a failover")
    await eventually(lambda: node.epoch not in epochs and node.connected, "a third epoch")
    run_id = watched.primary.info("server")["run_id"]
    assert [epoch for epoch in (*epochs, node.epoch) if str(epoch).startswith(run_id)] == [f"{run_id}.0", f"{run_id}.2"]
    assert len(lists_of(watched.primary, "r")) == 1
    assert await node.pull(("r",), 1, 0) is None


@async_test
async def test_a_user_of_sentinel_needs_two_rights(watched: Watched) -> None:
    await watched.open(sentinels=1)
    rights = ("+sentinel|get-master-addr-by-name", "+sentinel|master")
    watched.sentinels[0].command("ACL", "SETUSER", "app", "reset", "on", ">geheim", *rights)
    node = await watched.node(options="?sentinel_username=app&sentinel_password=geheim")
    assert await node.push("r", [b"x"]) == Pushed(1, 1)


@async_test
async def test_it_is_all_encrypted_and_asks_for_passwords(watched: Watched) -> None:
    with Certificates() as files:
        await watched.open(sentinels=1, certificates=files, password="geheim")
        pem, key = files.path("client.pem"), files.path("client.key")
        options = f"?ca={files.path('ca.pem')}&cert={pem}&key={key}&sentinel_password=geheim"
        node = await watched.node("rediss+sentinel", ":geheim@", options)
        assert await node.push("r", [b"x"]) == Pushed(1, 1)
        clients = watched.primary.command("CLIENT", "LIST", "TYPE", "normal").decode()
        assert f"laddr=127.0.0.1:{watched.primary.tls_port}" in clients
        watched.primary.kill()
        await watched.promoted()
        await pushed(node, "s")
        assert await node.pull(("s",), 1, 1.0) == Pulled("s", [b"x"])


@async_test
async def test_groups_are_heard_at_the_new_primary(watched: Watched) -> None:
    await watched.open()
    node, other = await watched.node(), await watched.node()
    ear = listen(node)
    await node.subscribe(["g", "h"])
    assert await other.publish("g", b"before") == 1
    await eventually(lambda: ear.heard == [("g", b"before")])
    watched.primary.kill()
    await watched.promoted()
    await eventually(lambda: sorted(ear.interruptions) == ["g", "h"], "that it is told")
    await within(other.ready())
    assert await other.publish("g", b"after") == 1
    await eventually(lambda: ear.heard == [("g", b"before"), ("g", b"after")])


@async_test
async def test_groups_leave_a_primary_that_sentinel_no_longer_names(watched: Watched) -> None:
    await watched.open(sentinels=1)
    node = await watched.node()
    ear = listen(node)
    await node.subscribe(["g"])
    await eventually(watched.failed_over, "a failover")
    at = await watched.promoted()
    await eventually(lambda: ear.interruptions, "that it is told")
    assert reactor.seconds() - at < PROMISED_S
    assert command(watched.primary, "PUBSUB", "CHANNELS", "*group:g") == []
    assert command(watched.replica, "PUBSUB", "CHANNELS", "*group:g") == [b"ifserver:group:g"]
    await within(node.ready())
    assert await node.publish("g", b"x") == 1
    await eventually(lambda: ear.heard == [("g", b"x")])
