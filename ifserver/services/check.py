"""``ifserver check``: asks every node, loads the applications, and shows what it has found in a table, or as JSON.

The exit code is 1 when something would not work, and 0 when there are warnings only. Nothing that is written has a
password in it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from ifserver.config.pools import PoolSettings, PoolWorkers, hidden_by, workers_of
from ifserver.errors import ConfigurationError
from ifserver.net.endpoints import StreamClientEndpoint
from ifserver.process import children
from ifserver.services.service import Runtime, Service

if TYPE_CHECKING:
    from ifserver.config.node_urls import NodeSettings
    from ifserver.config.settings import LayerSettings, WorkerSettings
    from ifserver.layers.redis.check import Report


#: More than an error, which is one line (`ifserver.worker.application`).
_REPORT_BYTES: Final = 4096
_MIB: Final = 1024 * 1024
_HEAD: Final = (
    "NODE", "WHERE", "VERSION", "ROLE", "LATENCY", "CLOCK", "MEMORY", "EVICTION", "PERSISTENCE", "CLIENTS", "RIGHTS",
)  # fmt: skip
_SENTINEL_HEAD: Final = ("NODE", "SENTINEL", "PRIMARY", "FAILOVERS", "QUORUM", "SENTINELS", "REPLICAS")
_POOL_HEAD: Final = ("POOL", "APPLICATION", "INTERFACE", "TAKES")
_UNKNOWN: Final = "-"


# The applications.


class Finding(msgspec.Struct):
    """Something that operators should know of a pool."""

    level: str
    text: str


class PoolReport(msgspec.Struct, kw_only=True):
    """What was found out about a pool."""

    #: Empty: there are no pools.
    pool: str
    application: str
    #: ``asgi`` or ``wsgi``; empty: it could not be loaded.
    interface: str = ""
    takes: str
    findings: list[Finding] = msgspec.field(default_factory=list)

    @property
    def fit(self) -> bool:
        """Whether its workers would run."""
        return not any(finding.level == "problem" for finding in self.findings)


def examine_pools(pools: Sequence[PoolSettings], worker: WorkerSettings) -> list[PoolReport]:
    """Load the application of each pool, or the only one where there are no pools.

    Each is imported in a process of its own, with the environment of its pool, as its workers will. It forks, so there
    must be no other thread and no loop.
    """
    reports = []
    workers = workers_of(pools, worker)
    if not pools:
        [each] = workers
        interface, problem = _load(each)
        findings = [Finding("problem", problem)] if problem else []
        application = each.settings.application
        return [
            PoolReport(pool="", application=application, interface=interface, takes="everything", findings=findings)
        ]
    for pool, each in zip(pools, workers, strict=True):
        interface, problem = _load(each)
        report = PoolReport(
            pool=pool.name, application=pool.application, interface=interface, takes=pool.rules or "everything"
        )
        if problem:
            report.findings.append(Finding("problem", problem))
        of = next((other for other in pools if other.name == pool.canary_of), pool)
        if interface == "wsgi" and "websocket" in of.protocols:
            why = "it is WSGI: the handshake of a WebSocket gets there as a GET request, and any answer denies it"
            report.findings.append(Finding("note", f'{why}; protocols = ["http"] leaves WebSockets to other pools'))
        before = hidden_by(pool, pools)
        if before is not None:
            report.findings.append(Finding("warning", f"it gets nothing: pool {before} is before it, and takes all"))
        reports.append(report)
    return reports


def _load(workers: PoolWorkers) -> tuple[str, str]:
    """The interface of an application, and why it cannot be loaded; one of them is empty."""
    # Only here: sites that have no application on this machine do without what workers need.
    from ifserver.worker.application import load_for
    from ifserver.worker.wsgi import interface_of

    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        os.close(reading)
        # What is printed while it is imported must not get between our own output, which may be JSON.
        os.dup2(2, 1)
        children.die_with_parent(parent)
        os.environ.update(workers.environment)
        try:
            result = interface_of(workers.settings, load_for(workers.settings)), ""
        except ConfigurationError as error:
            result = "", str(error)
        os.write(writing, msgspec.msgpack.encode(result)[:_REPORT_BYTES])
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        data = file.read1(_REPORT_BYTES)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not data:
        return "", f"application {workers.settings.application!r}: the process that imported it has ended ({status})"
    found: tuple[str, str] = msgspec.msgpack.decode(data, type=tuple[str, str])
    return found


# The nodes.


class CheckService(Service):
    """Asks every node once, writes what it has found to `out`, and ends."""

    def __init__(
        self,
        runtime: Runtime,
        layer: LayerSettings | None,
        out: TextIO,
        json: bool = False,
        pools: Sequence[PoolReport] = (),
    ) -> None:
        super().__init__(runtime)
        self._layer = layer
        self._pools = pools
        self._out = out
        self._json = json

    async def start(self) -> None:
        layer = self._layer
        nodes = [] if layer is None else [(layer, node) for cluster in layer.clusters for node in cluster.nodes]
        reports = await asyncio.gather(*(self._examine(*each) for each in nodes))
        compare(reports)
        self._out.write((as_json if self._json else as_table)(reports, self._pools))
        self.ended.set_result(0 if _all_fit(reports, self._pools) else 1)

    async def stop(self) -> None:
        """Nothing is left to be ended."""

    def stop_now(self) -> None:
        """Nothing is left to be ended."""

    async def _examine(self, layer: LayerSettings, node: NodeSettings) -> Report:
        # Only here: the client of Redis imports the reactor, which must have been installed.
        from ifserver.layers.redis.check import Report, examine

        if node.kind != "redis":
            return await self._check_listening(
                node, Report(node=node.name, where=node.where, version="embedded", role="primary")
            )
        names = [each.name for cluster in layer.clusters for each in cluster.nodes]
        asking = examine(node, layer.prefix, self.runtime.reactor, time.time, self.runtime.loop, names)
        return await self.runtime.future(Deferred.fromCoroutine(asking))

    async def _check_listening(self, node: NodeSettings, report: Report) -> Report:
        """Of an embedded broker, whether it listens."""
        endpoint = StreamClientEndpoint(self.runtime.loop, path=node.path)
        try:
            await self.runtime.future(endpoint.connect(Factory.forProtocol(_Closing)))
        except Exception as error:  # whatever the endpoint makes of it
            report.role = ""
            report.add("problem", f"cannot connect: {error}")
        return report


class _Closing(Protocol):
    """Closes the connection at once."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


def compare(reports: Sequence[Report]) -> None:
    """Add what shows only when nodes are seen together."""
    from ifserver.layers.redis.check import SKEW_S

    clocks = sorted((report.skew_ms, report.node) for report in reports if report.skew_ms is not None)
    if clocks and clocks[-1][0] - clocks[0][0] > SKEW_S * 1000:
        (least, slow), (most, fast) = clocks[0], clocks[-1]
        ahead = next(report for report in reports if report.node == fast)
        ahead.add("warning", f"its clock is {(most - least) / 1000:.1f} s ahead of that of node {slow}")
    places: dict[tuple[str, int], str] = {}
    for report in reports:
        first = places.setdefault((report.run_id, report.database), report.node)
        if report.run_id and first != report.node:
            text = f"it is the same database of the same Redis as node {first}: they take each other's messages"
            report.add("warning", f"{text}; give each node a database of its own")


def as_json(reports: Sequence[Report], pools: Sequence[PoolReport] = ()) -> str:
    """All that was found out, in the units of the names."""
    found: dict[str, Any] = {"fit": _all_fit(reports, pools), "nodes": reports}
    if pools:
        found["pools"] = pools
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"


def as_table(reports: Sequence[Report], pools: Sequence[PoolReport] = ()) -> str:
    """A line for each node, one for each Sentinel and each pool, and below them the findings: problems first."""
    tables = [_aligned([_HEAD, *map(_row, reports)])] if reports else []
    sentinels = [
        (
            report.node,
            each.where,
            each.primary or _UNKNOWN,
            *(_text(number) for number in (each.config_epoch, each.quorum, each.sentinels, each.replicas)),
        )
        for report in reports
        for each in report.sentinels
    ]
    if sentinels:
        tables.append(_aligned([_SENTINEL_HEAD, *sentinels]))
    if pools:
        rows = [(each.pool or _UNKNOWN, each.application, each.interface or _UNKNOWN, each.takes) for each in pools]
        tables.append(_aligned([_POOL_HEAD, *rows]))
    findings: list[tuple[str, Sequence[Any]]] = [(report.node, report.findings) for report in reports]
    findings += [(_named(each), each.findings) for each in pools]
    lines = [
        (f"{level}:", f"{name}:", finding.text)
        for level in ("problem", "warning", "note")
        for name, found in findings
        for finding in found
        if finding.level == level
    ]
    if not reports:
        text = "no cluster is configured, so that no node was checked; ifserver run needs none"
        lines.append(("note:", "nodes:", text))
    tables.append(_aligned(lines) + _verdict(reports, pools))
    return "\n".join(tables)


def _all_fit(reports: Sequence[Report], pools: Sequence[PoolReport]) -> bool:
    return all(report.fit for report in reports) and all(report.fit for report in pools)


def _verdict(reports: Sequence[Report], pools: Sequence[PoolReport]) -> str:
    bad = [report.node for report in reports if not report.fit]
    bad += [_named(each) for each in pools if not each.fit]
    return f"not fit for use: {', '.join(bad)}\n" if bad else "everything would work\n"


def _named(report: PoolReport) -> str:
    return f"pool {report.pool}" if report.pool else "the application"


def _row(report: Report) -> tuple[str, ...]:
    rights = report.missing_rights
    return (
        report.node,
        report.where,
        report.version or _UNKNOWN,
        report.role or _UNKNOWN,
        _UNKNOWN if report.latency_ms is None else f"{report.latency_ms:.2f} ms",
        _UNKNOWN if report.skew_ms is None else f"{report.skew_ms:+.1f} ms",
        _memory(report),
        report.eviction or _UNKNOWN,
        report.persistence or _UNKNOWN,
        _UNKNOWN if report.clients is None else f"{report.clients} of {_text(report.max_clients)}",
        _UNKNOWN if rights is None else f"{len(rights)} missing" if rights else "all",
    )


def _memory(report: Report) -> str:
    if report.memory_bytes is None:
        return _UNKNOWN
    limit = f" of {report.max_memory_bytes / _MIB:.0f}" if report.max_memory_bytes else ""
    return f"{report.memory_bytes / _MIB:.1f}{limit} MiB"


def _text(number: int | None) -> str:
    return _UNKNOWN if number is None else str(number)


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """The rows as lines, in columns; the last column is as wide as it likes."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )
