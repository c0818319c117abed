"""``ifserver check``: whether the applications can be loaded, and whether any request gets to each pool.

Each is imported in a process of its own, with the environment of its pool, as its workers will.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from ifserver.config.pools import PoolSettings, PoolWorkers, hidden_by
from ifserver.errors import ConfigurationError
from ifserver.process import children
from ifserver.worker.application import load_for
from ifserver.worker.wsgi import interface_of

__all__ = ["PoolReport", "examine"]

#: More than an error, which is one line (`ifserver.worker.application`).
_REPORT_BYTES: Final = 4096


class Finding(msgspec.Struct):
    """Something that is to be said of a pool."""

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


def examine(pools: Sequence[PoolSettings], workers: Sequence[PoolWorkers]) -> list[PoolReport]:
    """Load the application of each pool, or the only one where there are no pools.

    Forks, so that there must be no other thread and no loop.
    """
    reports = []
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
            said = "it is WSGI: the handshake of a WebSocket gets there as a GET request, and any answer denies it"
            report.findings.append(Finding("note", f'{said}; protocols = ["http"] leaves WebSockets to other pools'))
        before = hidden_by(pool, pools)
        if before is not None:
            report.findings.append(Finding("warning", f"it gets nothing: pool {before} is before it, and takes all"))
        reports.append(report)
    return reports


def _load(workers: PoolWorkers) -> tuple[str, str]:
    """The interface of an application, and why it cannot be loaded; one of them is empty."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        os.close(reading)
        # What is printed while it is imported must not get between what we say, which may be JSON.
        os.dup2(2, 1)
        children.die_with_parent(parent)
        os.environ.update(workers.environment)
        try:
            said = interface_of(workers.settings, load_for(workers.settings)), ""
        except ConfigurationError as error:
            said = "", str(error)
        os.write(writing, msgspec.msgpack.encode(said)[:_REPORT_BYTES])
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        data = file.read1(_REPORT_BYTES)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not data:
        return "", f"application {workers.settings.application!r}: the process that imported it has ended ({status})"
    found: tuple[str, str] = msgspec.msgpack.decode(data, type=tuple[str, str])
    return found
