"""What is found out about a Redis, and about its Sentinels: everything that is wrong with one has a test."""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import hiredis
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from ifserver.clock import WallClock
from ifserver.config.node_urls import parse_cluster
from ifserver.layers.redis import node as redis_module
from ifserver.layers.redis.check import Finding, Report, SentinelReport, examine
from ifserver.net.endpoints import SocketEndpoint
from ifserver.status import Facts, encode
from tests.certificates import Certificates
from tests.layers.helpers import LOOP, async_test, eventually, within
from tests.layers.redis.test_client import NEEDED
from tests.redis_server import RedisServer, SentinelServer

UNLIMITED = Finding("note", "no maxmemory: it may take all the memory of its machine")


class Place:
    """Servers, and what is found out about them."""

    def __init__(self) -> None:
        self._servers: list[RedisServer] = []

    def server(self, **options: Any) -> RedisServer:
        return self.started(RedisServer(**options))

    def started(self, server: RedisServer) -> RedisServer:
        self._servers.append(server)
        server.start()
        return server

    async def examine(self, url: str, wall: WallClock = time.time) -> Report:
        clock: Any = reactor
        [node] = parse_cluster(f"east={url}").nodes
        return await within(Deferred.fromCoroutine(examine(node, "ifserver:", clock, wall, LOOP)))

    def close(self) -> None:
        for server in self._servers:
            server.remove()


@pytest_twisted.async_yield_fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    yield place
    place.close()


NOAUTH = (
    "NOAUTH Authentication required. Set IFSERVER_REDIS_PASSWORD, or IFSERVER_REDIS_PASSWORD_EAST for this node alone"
)
WRONGPASS = (
    "AUTH: WRONGPASS invalid username-password pair or user is disabled. The password is that of the URL, or else of "
    "IFSERVER_REDIS_PASSWORD, or IFSERVER_REDIS_PASSWORD_EAST for this node alone"
)


def problems(report: Report) -> list[str]:
    return [finding.text for finding in report.findings if finding.level == "problem"]


def warnings(report: Report) -> list[str]:
    return [finding.text for finding in report.findings if finding.level == "warning"]


@async_test
async def test_one_that_is_as_it_should_be(place: Place) -> None:
    server = place.server(maxmemory="100mb")
    report = await place.examine(f"redis://127.0.0.1:{server.port}")
    assert report.fit
    assert report.findings == []
    assert (report.node, report.where) == ("east", f"127.0.0.1:{server.port}")
    assert report.version == f"Redis {server.info('server')['redis_version']}"
    assert (report.role, report.eviction, report.persistence) == ("primary", "noeviction", "none")
    assert report.latency_ms is not None
    assert 0 < report.latency_ms < 1000
    assert report.skew_ms is not None
    assert abs(report.skew_ms) < 1000
    assert report.memory_bytes is not None
    assert 0 < report.memory_bytes < 100 * 1024 * 1024 == report.max_memory_bytes
    assert (report.clients, report.max_clients) == (1, int(server.info("clients")["maxclients"]))
    assert report.missing_rights == []


@async_test
async def test_nobody_is_there(place: Place) -> None:
    report = await place.examine("redis+unix:///nowhere")
    assert problems(report) == ["cannot connect: An error occurred while connecting: 2: No such file or directory."]


@pytest.mark.parametrize(
    ("login", "problem"),
    [
        (
            "",
            NOAUTH,
        ),
        (":geheim@", WRONGPASS),
        ("me:geheim@", WRONGPASS),
    ],
)
@async_test
async def test_one_that_lets_nobody_in_is_asked_no_more(place: Place, login: str, problem: str) -> None:
    server = place.server(password="right")
    report = await place.examine(f"redis+unix://{login}{server.path}")
    assert report.findings == [Finding("problem", problem)]
    assert report.missing_rights is None


@async_test
async def test_a_database_that_there_is_not(place: Place) -> None:
    server = place.server(databases="2")
    report = await place.examine(f"redis+unix://{server.path}?db=2")
    assert problems(report) == ["SELECT: ERR DB index is out of range"]


def facts(node: str, process: str) -> bytes:
    return encode(Facts(process=process, kind="server", host="h", pid=1, version="1", node=node, started_at=1.0))


@async_test
async def test_another_site_in_the_same_database(place: Place) -> None:
    server = place.server()
    url = f"redis+unix://{server.path}?db=1"
    for node, process in (("east", "0000000000"), ("other", "1111111111")):
        for key in ("alive:", "alive:groups"):
            server.command("ZADD", f"ifserver:{key}", time.time() + 100, process, database=1)
        server.command("SET", f"ifserver:alive:{process}", b"\n" + facts(node, process), database=1)
    text = "processes of another site, with the node other, use it too: they take each other's messages; "
    assert warnings(await place.examine(url)) == [f"{text}give each site a database or a prefix of its own"]
    # What is no such text, or has ended since, is nobody.
    server.command("SET", "ifserver:alive:1111111111", b"\n" + b"\x91" * 5000, database=1)
    assert warnings(await place.examine(url)) == []
    server.command("DEL", "ifserver:alive:1111111111", database=1)
    assert warnings(await place.examine(url)) == []
    server.command("ZREM", "ifserver:alive:groups", "0000000000", database=1)
    text = "processes of ifserver 1.0.0 use it: until they have ended, groups are shared with other databases"
    assert warnings(await place.examine(url)) == [text]


@async_test
async def test_tls_and_its_failures(place: Place) -> None:
    with Certificates("localhost") as files, Certificates("localhost") as others:
        server = place.server(certificates=files, tls_auth_clients="no", maxmemory="100mb")
        url, ca = f"rediss://localhost:{server.tls_port}", files.path("ca.pem")
        assert (await place.examine(f"{url}?ca={ca}")).findings == []
        for wrong, why in (
            (f"{url}?ca={others.path('ca.pem')}", "cannot connect: An error occurred while connecting: TLS: "),
            (
                f"rediss://127.0.0.1:{server.tls_port}?ca={ca}",
                "cannot connect: An error occurred while connecting: TLS: ",
            ),
            (f"{url}?ca=/nowhere.pem", "TLS: ca='/nowhere.pem': No such file or directory"),
            (f"{url}?ca={files.path('ca.pem')}&cert={ca}&key={ca}", f"TLS: cert='{ca}', key='{ca}': not what is"),
        ):
            [problem] = problems(await place.examine(wrong))
            assert problem.startswith(why)


@async_test
async def test_tls_where_there_is_none_and_none_where_there_is(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_module, "_CONNECT_S", 0.2)
    with Certificates("localhost") as files:
        server = place.server(certificates=files)
        [problem] = problems(await place.examine(f"rediss://localhost:{server.port}?ca={files.path('ca.pem')}"))
        assert problem.endswith("Does it speak TLS on that port?")
        [problem] = problems(await place.examine(f"redis://localhost:{server.tls_port}"))
        assert problem.endswith("Does it expect TLS on that port (rediss://)?")


@async_test
async def test_a_user_with_just_the_needed_rights(place: Place) -> None:
    server = place.server(maxmemory="100mb")
    server.command("ACL", "SETUSER", "app", "reset", "on", ">geheim", *NEEDED)
    report = await place.examine(f"redis+unix://app:geheim@{server.path}")
    assert report.findings == []
    assert report.persistence == "unknown"


@async_test
async def test_rights_that_are_missing(place: Place) -> None:
    server = place.server(maxmemory="100mb")
    server.command("ACL", "SETUSER", "app", "reset", "on", ">geheim", *NEEDED, "-info", "-lpos", "-time", "-zadd")
    report = await place.examine(f"redis+unix://app:geheim@{server.path}")
    assert report.missing_rights == ["LPOS", "ZADD", "INFO", "TIME"]
    first, *rest = report.findings
    assert first.text.startswith("INFO: NOPERM ")
    assert rest == [
        Finding("problem", "LPOS, INFO, TIME: the user has no right to the command; messages need it"),
        Finding(
            "warning",
            "ZADD: the user has no right to the command; "
            "views of all processes and the search for free workers need it",
        ),
    ]
    assert report.latency_ms is None


@async_test
async def test_a_replica(place: Place) -> None:
    primary = place.server()
    replica = place.server(replicaof=f"127.0.0.1 {primary.port}", maxmemory="100mb")
    report = await place.examine(f"redis+unix://{replica.path}")
    assert (report.role, report.missing_rights) == ("replica", None)
    assert report.findings == [Finding("problem", "it is a replica, not a primary")]


@async_test
async def test_memory(place: Place) -> None:
    server = place.server(maxmemory_policy="allkeys-lru")
    report = await place.examine(f"redis+unix://{server.path}")
    text = "maxmemory-policy is allkeys-lru: messages would vanish in silence; it must be noeviction"
    assert report.findings == [Finding("warning", f"{text} once there is a maxmemory"), UNLIMITED]
    server.command("CONFIG", "SET", "maxmemory", "100mb")
    assert (await place.examine(f"redis+unix://{server.path}")).findings == [Finding("problem", text)]
    server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    used = int(server.info("memory")["used_memory"])
    server.command("CONFIG", "SET", "maxmemory", used * 9 // 8)
    report = await place.examine(f"redis+unix://{server.path}")
    assert Finding("warning", "its memory is nearly full") in report.findings
    server.command("CONFIG", "SET", "maxmemory", 1)
    found = problems(await place.examine(f"redis+unix://{server.path}"))
    assert found[0] == "its memory is full"
    assert found[1].startswith("it takes no messages: OOM ")


@async_test
async def test_what_was_evicted(place: Place) -> None:
    server = place.server(maxmemory="3mb", maxmemory_policy="allkeys-lru")
    for number in range(100):
        server.command("SET", f"key-{number}", "x" * 100_000)
    server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    server.command("CONFIG", "SET", "maxmemory", "100mb")
    evicted = server.info("stats")["evicted_keys"]
    report = await place.examine(f"redis+unix://{server.path}")
    assert report.findings == [Finding("warning", f"it has evicted {evicted} keys since it was started")]


@async_test
async def test_persistence(place: Place) -> None:
    server = place.server(save="3600 1", appendonly="yes", maxmemory="100mb")
    report = await place.examine(f"redis+unix://{server.path}")
    assert report.persistence == "AOF and snapshots"
    [note] = report.findings
    assert note.level == "note"
    assert note.text.startswith("persistence (AOF and snapshots) is not needed, and safe: ")


@async_test
async def test_clients(place: Place) -> None:
    server = place.server(maxclients="4", maxmemory="100mb")
    others = [server.client() for _ in range(3)]
    report = await place.examine(f"redis+unix://{server.path}")
    for other in others:
        other.close()
    assert (report.clients, report.max_clients) == (4, 4)
    [warning] = report.findings
    assert warning.text.startswith("4 of 4 clients (maxclients) are connected; each server and worker needs ")


@pytest.mark.parametrize(("by", "text"), [(-5.0, "5.0 s ahead of"), (5.0, "5.0 s behind")])
@async_test
async def test_a_clock_that_is_wrong(place: Place, by: float, text: str) -> None:
    server = place.server(maxmemory="100mb")
    report = await place.examine(f"redis+unix://{server.path}", lambda: time.time() + by)
    assert report.findings == [Finding("warning", f"its clock is {text} this machine's")]
    assert report.skew_ms is not None
    assert abs(report.skew_ms + by * 1000) < 500


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        ({"redis_version": "6.2.14"}, "Redis 6.2.14 is too old: at least 7.0"),
        ({"redis_version": "7.2.4", "valkey_version": "7.0.9"}, "Valkey 7.0.9 is too old: at least 7.2"),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.0"}, None),
        ({"redis_version": "10.0.1"}, None),
        ({"role": "sentinel"}, "it is a sentinel, not a primary"),
        ({"loading": "1"}, "it is still loading its data"),
        ({"run_id": ""}, "its INFO has no run_id, of which keys are made"),
        ({"cluster_enabled": "1"}, "it is a node of a Redis Cluster, which refuses commands about several keys"),
        ({"rdb_last_bgsave_status": "err"}, "its last snapshot has failed: it may refuse writes because of that"),
    ],
)
@async_test
async def test_what_info_says(place: Place, tmp_path: Path, info: dict[str, str], problem: str | None) -> None:
    path = str(tmp_path / "s")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    port = await SocketEndpoint(LOOP, sock).listen(Factory.forProtocol(functools.partial(FakeRedis, info)))  # type: ignore[arg-type]
    report = await place.examine(f"redis+unix://{path}")
    await port.stopListening()
    assert [finding.text for finding in report.findings] == ([problem] if problem is not None else [])


class FakeRedis(Protocol):
    """A Redis that lets everybody do everything, and describes itself as it is told to."""

    def __init__(self, info: dict[str, str]) -> None:
        self._info = {"redis_version": "7.0.0", "role": "master", "run_id": "abc", "maxmemory": "1"} | info
        self._commands = hiredis.Reader()

    def dataReceived(self, data: bytes) -> None:
        self._commands.feed(data)
        while (command := self._commands.gets()) is not False:
            self.transport.write(self._answer(command))

    def _answer(self, command: list[bytes]) -> bytes:
        if command == [b"INFO"]:
            text = "".join(f"{name}:{value}\r\n" for name, value in self._info.items()).encode()
            return b"$%d\r\n%s\r\n" % (len(text), text)
        if command[0] == b"TIME":
            seconds = b"%d" % time.time()
            return b"*2\r\n$%d\r\n%s\r\n$1\r\n0\r\n" % (len(seconds), seconds)
        if command[0] == b"ZRANGEBYSCORE":
            return b"*0\r\n"
        return b"-ERR no\r\n" if command[0] in (b"ACL", b"CONFIG") else b"+OK\r\n"


# Sentinel.


async def known(sentinels: list[SentinelServer], text: str) -> None:
    for sentinel in sentinels:
        await eventually(lambda s=sentinel: text in s.info("sentinel")["master0"], text)  # type: ignore[misc]


def url_of(*sentinels: SentinelServer, login: str = "", options: str = "") -> str:
    hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
    return f"redis+sentinel://{login}{hosts}/main{options}"


@async_test
async def test_sentinels_that_are_as_they_should_be(place: Place) -> None:
    primary = place.server(maxmemory="100mb", repl_diskless_sync_delay="0")
    place.server(replicaof=f"127.0.0.1 {primary.port}")
    sentinels = [SentinelServer(primary) for _ in range(3)]
    for sentinel in sentinels:
        place.started(sentinel)
    await known(sentinels, "slaves=1,sentinels=3")
    report = await place.examine(url_of(*sentinels))
    assert report.findings == []
    assert report.where == f"127.0.0.1:{primary.port}"
    assert report.sentinels == [
        SentinelReport(
            where=f"127.0.0.1:{sentinel.port}",
            primary=report.where,
            config_epoch=0,
            quorum=2,
            sentinels=3,
            replicas=1,
        )
        for sentinel in sentinels
    ]
    # One is lost, and then another: what is left cannot agree on anything.
    sentinels[0].kill()
    report = await place.examine(url_of(*sentinels))
    assert report.fit
    assert [text.partition(" cannot")[0] for text in warnings(report)] == [f"Sentinel 127.0.0.1:{sentinels[0].port}:"]
    sentinels[1].kill()
    await eventually(lambda: "-sdown" in sentinels[2].log or sentinels[2].log.count("+sdown sentinel") == 2, "+sdown")
    [problem] = problems(await place.examine(url_of(*sentinels)))
    assert problem.startswith(f"Sentinel 127.0.0.1:{sentinels[2].port}: NOQUORUM ")


@async_test
async def test_sentinels_that_do_not_agree(place: Place) -> None:
    servers = [place.server(maxmemory="100mb") for _ in range(2)]
    sentinels = [SentinelServer(server, quorum=1) for server in servers]
    for sentinel in sentinels:
        place.started(sentinel)
    report = await place.examine(url_of(*sentinels))
    [problem] = problems(report)
    ports = [server.port for server in (*sentinels, *servers)]
    assert problem == (
        f"Sentinels do not agree on the primary: 127.0.0.1:{ports[0]}: 127.0.0.1:{ports[2]} (failover 0); "
        f"127.0.0.1:{ports[1]}: 127.0.0.1:{ports[3]} (failover 0)"
    )
    assert warnings(report) == [
        "fewer than 3 Sentinels: the loss of one may be the end of failovers",
        "no replica: nothing can take the primary's place",
    ]


@async_test
async def test_sentinels_that_know_nothing(place: Place) -> None:
    primary = place.server()
    sentinel = SentinelServer(primary, quorum=1, password="geheim")
    place.started(sentinel)
    url = url_of(sentinel)
    report = await place.examine(url)
    assert problems(report) == ["no Sentinel says where 'main' is"]
    assert warnings(report) == [
        f"Sentinel 127.0.0.1:{sentinel.port}: NOAUTH Authentication required. Set IFSERVER_REDIS_SENTINEL_PASSWORD"
    ]
    report = await place.examine(url.replace("/main", "/other?sentinel_password=geheim"))
    assert warnings(report) == [f"Sentinel 127.0.0.1:{sentinel.port}: ERR No such master with that name"]
    assert [each.primary for each in report.sentinels] == [""]
    report = await place.examine(f"{url}?sentinel_password=falsch")
    assert "falsch" not in str(report)
    assert warnings(report)[0].startswith(f"Sentinel 127.0.0.1:{sentinel.port}: AUTH: WRONGPASS")
    assert (await place.examine(f"{url}?sentinel_password=geheim")).fit


@pytest.mark.parametrize(
    ("url", "warning"),
    [
        ("redis://{}", "it asks for no password: whoever can reach it can read and send messages"),
        ("redis://:geheim@{}", "the password and all messages cross the network in the clear (TLS: rediss://)"),
    ],
)
@async_test
async def test_what_strangers_can_read(place: Place, url: str, warning: str) -> None:
    host = own_address()
    if host is None:
        pytest.skip("this machine has no address but its own")
    more = {"password": "geheim"} if "geheim" in url else {}
    server = place.server(bind=f"127.0.0.1 {host}", protected_mode="no", maxmemory="100mb", **more)
    report = await place.examine(url.format(f"{host}:{server.port}"))
    assert report.findings == [Finding("warning", warning)]


def own_address() -> str | None:
    """An address under which others would see this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # RFC 5737: nobody's; and a datagram that is not sent needs nobody
        except OSError:
            return None
        address: str = sock.getsockname()[0]
        return address
