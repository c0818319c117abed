"""Whether a Redis, and the Sentinels that know it, will do for a node: asked as the node itself would ask.

Each question that is refused or answered badly becomes a `Finding`; no text has a password in it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import statistics
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct

from ifserver.clock import Clock, WallClock
from ifserver.config.node_urls import NodeSettings, written
from ifserver.errors import ConfigurationError, NodeError, NodeRefused, NodeUnreachable
from ifserver.layers.redis.client import GROUPS, MESSAGES, VIEWS, Client, connect, lacking, try_a_message
from ifserver.layers.redis.connection import Named
from ifserver.layers.redis.node import RedisEndpoints
from ifserver.layers.redis.sentinel import ask
from ifserver.status import decode_facts, facts_of

__all__ = ["SKEW_S", "Finding", "Report", "SentinelReport", "examine"]

#: How long Redis may take to answer, in seconds.
_PATIENCE_S: Final = 5.0
#: Questions for the time. The median is the latency; the fastest tells best how the clocks differ.
_TIMES: Final = 5
#: Difference of two clocks that is worth a word. Deadlines allow for it, but whoever compares logs does not.
SKEW_S: Final = 1.0
#: Part of a limit that is worth a word.
_NEARLY: Final = 0.8

_MIB: Final = 1024 * 1024
#: The first versions with ``BLMPOP ... COUNT``, and of Valkey the first that was tried.
_LEAST: Final[Mapping[str, tuple[int, ...]]] = {"redis": (7, 0), "valkey": (7, 2)}

Level: TypeAlias = Literal["problem", "warning", "note"]
#: How bad it is when rights for something are missing. Requests and replies do without views and groups.
_LOST: Final[Mapping[str, Level]] = {MESSAGES: "problem", VIEWS: "warning", GROUPS: "warning"}


class Finding(Struct, frozen=True):
    """What is to be said of a node. A problem means that something would not work."""

    level: Level
    text: str


class SentinelReport(Struct, frozen=True, kw_only=True):
    """What a Sentinel has said."""

    where: str
    #: Host and port of the primary; empty: it has not named one.
    primary: str = ""
    #: The number of failovers so far.
    config_epoch: int | None = None
    quorum: int | None = None
    #: How many Sentinels and replicas it knows, itself included.
    sentinels: int | None = None
    replicas: int | None = None


class Report(Struct, kw_only=True):
    """What was found out about a node; None, or nothing: it could not be."""

    node: str
    where: str
    database: int = 0
    #: Which Redis it is; empty: it does not say.
    run_id: str = ""
    version: str = ""
    role: str = ""
    #: Median of a few round trips, in milliseconds.
    latency_ms: float | None = None
    #: How far its clock is ahead of this machine's, in milliseconds.
    skew_ms: float | None = None
    memory_bytes: int | None = None
    #: 0: unlimited.
    max_memory_bytes: int | None = None
    eviction: str = ""
    persistence: str = ""
    clients: int | None = None
    max_clients: int | None = None
    #: Commands that the user may not use; None: they were not tried.
    missing_rights: list[str] | None = None
    sentinels: list[SentinelReport] = []
    findings: list[Finding] = []

    def add(self, level: Level, text: str) -> None:
        """One more finding."""
        self.findings.append(Finding(level, text))

    @property
    def fit(self) -> bool:
        """Whether everything would work."""
        return all(finding.level != "problem" for finding in self.findings)


async def examine(
    node: NodeSettings,
    prefix: str,
    clock: Clock,
    wall: WallClock,
    loop: asyncio.AbstractEventLoop,
    nodes: Collection[str] = (),
) -> Report:
    """Ask the Redis of `node`, whose keys begin with `prefix`, and its Sentinels. Raises nothing.

    Args:
        nodes: the names of all nodes of this site.
        clock: by which answers are waited for.
        wall: the clock of this machine, with which that of Redis is compared.
    """
    report = Report(node=node.name, where=node.where, database=node.database)
    examination = _Examination(node, prefix, clock, wall, report, {node.name, *nodes})
    try:
        await examination.run(RedisEndpoints(node, loop))
    except (NodeError, ConfigurationError) as error:
        report.add("problem", _hinted(str(error).removeprefix(f"node {node.name}: "), node))
    finally:
        await examination.close()
    return report


class _Examination:
    """The questions, one after the other."""

    def __init__(
        self, node: NodeSettings, prefix: str, clock: Clock, wall: WallClock, report: Report, nodes: Collection[str]
    ) -> None:
        self._node = node
        self._nodes = nodes
        self._prefix = prefix
        self._clock = clock
        self._wall = wall
        self._report = report
        self._clients: list[Client] = []

    async def run(self, places: RedisEndpoints) -> None:
        host = self._node.address[0] if self._node.address is not None else None
        if self._node.sentinel is not None:
            named = await self._ask_sentinels(places)
            host = named.address[0]
            self._report.where = written(named.address)
            client = await self._connect(places.primary(named.address), places.login(self._prefix))
        else:
            client = await self._connect(places.endpoint(), places.login(self._prefix))
        await self._describe(client)
        await self._ask_the_time(client)
        if self._report.role in ("primary", ""):
            await self._look_for_others(client)
            await self._try_rights(client)
        self._judge_exposure(host)

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            await client.close()

    async def _connect(self, endpoint: Any, login: Any) -> Client:
        client = await connect(endpoint, login, self._clock, _PATIENCE_S)
        self._clients.append(client)
        return client

    # Sentinel.

    async def _ask_sentinels(self, places: RedisEndpoints) -> Named:
        """Whom they name; of several, the one with the most failovers.

        Raises:
            NodeUnreachable: none names any.
        """
        sentinel = self._node.sentinel
        assert sentinel is not None
        found: dict[str, Named] = {}
        for place in places.sentinels():
            try:
                client = await self._connect(place.endpoint, places.sentinel_login())
                named, fields = await ask(client, sentinel.service)
            except NodeError as error:
                self._report.sentinels.append(SentinelReport(where=place.where))
                self._report.add("warning", f"Sentinel {place.where}: {error}")
                continue
            found[place.where] = named
            self._report.sentinels.append(_sentinel_report(place.where, named, fields))
            await self._ask_quorum(client, place.where, sentinel.service)
        if not found:
            raise NodeUnreachable(f"no Sentinel says where {sentinel.service!r} is")
        self._compare(found)
        return max(found.values(), key=lambda named: named.config_epoch)

    async def _ask_quorum(self, client: Client, where: str, service: str) -> None:
        try:
            await client.ask("SENTINEL", "CKQUORUM", service)
        except NodeRefused as error:
            level: Level = "note" if str(error).startswith("NOPERM") else "problem"
            self._report.add(level, f"Sentinel {where}: {error}")

    def _compare(self, found: Mapping[str, Named]) -> None:
        """Whether those that have answered agree, and whether they could do what they are for."""
        if len(set(found.values())) > 1:
            said = "; ".join(
                f"{where}: {written(named.address)} (failover {named.config_epoch})" for where, named in found.items()
            )
            self._report.add("problem", f"Sentinels do not agree on the primary: {said}")
        heard = [each for each in self._report.sentinels if each.primary]
        if max(each.sentinels or 0 for each in heard) < 3:
            self._report.add("warning", "fewer than 3 Sentinels: the loss of one may be the end of failovers")
        if not any(each.replicas for each in heard):
            self._report.add("warning", "no replica: nothing can take the primary's place")

    # Redis.

    async def _describe(self, client: Client) -> None:
        try:
            lines = (await client.ask("INFO")).decode("utf-8", "replace").split("\r\n")
        except NodeRefused as error:
            if str(error).startswith("NOAUTH"):
                raise NodeUnreachable(str(error)) from error
            self._report.add("problem", f"INFO: {error}")
            return
        info = {name: value for name, _, value in (line.partition(":") for line in lines)}
        self._judge_version(info)
        self._judge_role(info)
        self._judge_memory(info)
        self._judge_clients(info)
        await self._judge_persistence(client, info)

    def _judge_version(self, info: Mapping[str, str]) -> None:
        kind = "valkey" if "valkey_version" in info else "redis"
        version = info.get(f"{kind}_version", "")
        self._report.version = f"{kind.capitalize()} {version}"
        least = _LEAST[kind]
        if tuple(map(int, re.findall(r"[0-9]+", version)[:2])) < least:
            self._report.add("problem", f"{self._report.version} is too old: at least {'.'.join(map(str, least))}")

    def _judge_role(self, info: Mapping[str, str]) -> None:
        role = info.get("role", "")
        self._report.role = {"master": "primary", "slave": "replica"}.get(role, role)
        if role != "master":
            self._report.add("problem", f"it is a {self._report.role or 'Redis of an unknown role'}, not a primary")
        if info.get("loading", "0") != "0":
            self._report.add("problem", "it is still loading its data")
        self._report.run_id = info.get("run_id", "")
        if not self._report.run_id:
            self._report.add("problem", "its INFO has no run_id, of which keys are made")
        if info.get("cluster_enabled", "0") != "0":
            self._report.add("problem", "it is a node of a Redis Cluster, which refuses commands about several keys")

    def _judge_memory(self, info: Mapping[str, str]) -> None:
        report = self._report
        report.memory_bytes, report.max_memory_bytes = _number(info, "used_memory"), _number(info, "maxmemory")
        report.eviction = info.get("maxmemory_policy", "")
        used, most = report.memory_bytes or 0, report.max_memory_bytes
        if report.eviction not in ("", "noeviction"):
            text = f"maxmemory-policy is {report.eviction}: messages would vanish in silence; it must be noeviction"
            report.add("problem" if most else "warning", text if most else f"{text} once there is a maxmemory")
        if most == 0:
            report.add("note", "no maxmemory: it may take all the memory of its machine")
        elif most is not None and used >= _NEARLY * most:
            full = used >= most
            report.add("problem" if full else "warning", f"its memory is {'full' if full else 'nearly full'}")
        if evicted := _number(info, "evicted_keys"):
            report.add("warning", f"it has evicted {evicted} keys since it was started")

    def _judge_clients(self, info: Mapping[str, str]) -> None:
        report = self._report
        report.clients, report.max_clients = _number(info, "connected_clients"), _number(info, "maxclients")
        if report.max_clients and (report.clients or 0) >= _NEARLY * report.max_clients:
            text = f"{report.clients} of {report.max_clients} clients (maxclients) are connected"
            report.add("warning", f"{text}; each server and worker needs two or more on each node")

    async def _judge_persistence(self, client: Client, info: Mapping[str, str]) -> None:
        kinds = ["AOF"] if info.get("aof_enabled") == "1" else []
        try:
            _, save = await client.ask("CONFIG", "GET", "save")
            kinds += ["snapshots"] if save else []
            self._report.persistence = " and ".join(kinds) or "none"
        except (NodeRefused, ValueError):
            self._report.persistence = kinds[0] if kinds else "unknown"
        if kinds:
            text = "is not needed, and safe: what a restart brings back has another epoch, and is not read"
            self._report.add("note", f"persistence ({self._report.persistence}) {text}")
        if info.get("rdb_last_bgsave_status", "ok") != "ok":
            self._report.add("warning", "its last snapshot has failed: it may refuse writes because of that")

    async def _ask_the_time(self, client: Client) -> None:
        rounds: list[tuple[float, float]] = []
        for _ in range(_TIMES):
            begin, wall = self._clock.seconds(), self._wall()
            try:
                seconds, microseconds = await client.ask("TIME")
            except NodeRefused:
                return  # `_try_rights` says so
            took_s = self._clock.seconds() - begin
            rounds.append((took_s, int(seconds) + int(microseconds) / 1e6 - (wall + took_s / 2)))
        self._report.latency_ms = round(statistics.median(took for took, _ in rounds) * 1000, 3)
        skew_s = min(rounds)[1]
        self._report.skew_ms = round(skew_s * 1000, 1)
        if abs(skew_s) > SKEW_S:
            ahead = "ahead of" if skew_s > 0 else "behind"
            self._report.add("warning", f"its clock is {abs(skew_s):.1f} s {ahead} this machine's")

    async def _look_for_others(self, client: Client) -> None:
        """Whether others have the same database and prefix, or hear what is said in groups of this one."""
        alive = f"{self._prefix}alive:"
        try:
            listed = await client.ask("ZRANGEBYSCORE", alive, "-inf", "+inf")
            values = await client.ask("MGET", *(alive.encode() + name for name in listed)) if listed else []
            knowing = await client.ask("ZRANGEBYSCORE", f"{alive}groups", "-inf", "+inf")
        except NodeRefused:
            return  # `_try_rights` says so
        living = {name: decode_facts(facts_of(value)) for name, value in zip(listed, values, strict=True) if value}
        if strangers := sorted({each.node for each in living.values() if each and each.node not in self._nodes}):
            text = (
                f"processes of another site, with the node {strangers[0]}, use it too: they take each other's messages"
            )
            self._report.add("warning", f"{text}; give each site a database or a prefix of its own")
        if self._node.database and living.keys() - set(knowing):
            text = "processes of ifserver 1.0.0 use it: until they have ended, groups are shared with other databases"
            self._report.add("warning", text)

    async def _try_rights(self, client: Client) -> None:
        try:
            await try_a_message(client, self._prefix)
        except NodeRefused as error:
            if not str(error).startswith("NOPERM"):
                self._report.add("problem", f"it takes no messages: {error}")
        found = await lacking(client, self._prefix, self._node.database)
        self._report.missing_rights = [right.name for right in found]
        for needed_for, level in _LOST.items():
            for why in dict.fromkeys(found.values()):
                names = [right.name for right in found if right.needed_for == needed_for and found[right] == why]
                if names:
                    self._report.add(level, f"{', '.join(names)}: {why}; {needed_for} need it")

    def _judge_exposure(self, host: str | None) -> None:
        """Whether strangers can listen."""
        node = self._node
        if node.tls is not None or host is None or _is_near(host):
            return
        if node.password is None:
            self._report.add("warning", "it asks for no password: whoever can reach it can read and send messages")
        else:
            self._report.add("warning", "the password and all messages cross the network in the clear (TLS: rediss://)")


def _hinted(why: str, node: NodeSettings) -> str:
    """`why` a node cannot be asked, and what is the cause more often than not."""
    if node.tls is not None and "timeout" in why:
        return f"{why} Does it speak TLS on that port?"
    if node.tls is None and why.startswith("the connection broke"):
        return f"{why} Does it expect TLS on that port (rediss://)?"
    return why


def _sentinel_report(where: str, named: Named, fields: Mapping[str, str]) -> SentinelReport:
    others = _number(fields, "num-other-sentinels")
    return SentinelReport(
        where=where,
        primary=written(named.address),
        config_epoch=named.config_epoch,
        quorum=_number(fields, "quorum"),
        sentinels=None if others is None else others + 1,
        replicas=_number(fields, "num-slaves"),
    )


def _number(fields: Mapping[str, str], name: str) -> int | None:
    text = fields.get(name, "")
    return int(text) if text.isdecimal() else None


def _is_near(host: str) -> bool:
    """Whether nothing that is sent to `host` leaves this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
