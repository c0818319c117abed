"""What is written down while it happens, for the checker. All times are seconds of ``time.monotonic()``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "Echo", "Fault", "History", "Lag", "Member", "Publication", "Request", "Run", "Socket", "Trait", "runs_in",
]  # fmt: skip


class Trait(NamedTuple):
    """What a kind of fault may do to whom (docs/explanation/failures.rst); what is not named here it may not."""

    #: Whether the workers in `Fault.workers` are lost, with all that they hold.
    kills_workers: bool = False
    #: Whether the servers in `Fault.servers` are lost, with all connections of their clients.
    kills_servers: bool = False
    #: Whether what is in flight on the node may be lost.
    loses: bool = False
    #: Whether servers that can receive nowhere else may answer 503.
    refuses: bool = False
    #: How long after its end (after its beginning, where it kills) everything that it has broken is told, in seconds.
    told_s: float = 3.0
    #: How long after its end what begins then may still suffer, in seconds.
    recovery_s: float = 3.0


class Fault(NamedTuple):
    """Something that was done to the site."""

    kind: str
    what: str
    trait: Trait
    begun_at: float
    #: Infinite as long as it lasts.
    healed_at: float
    #: Numbers of servers, process ids of workers, and the node that it was done to.
    servers: frozenset[int] = frozenset()
    workers: frozenset[int] = frozenset()
    node: str | None = None


@dataclass
class Request:
    """One HTTP exchange, as its client saw it."""

    name: str
    method: str
    #: For people: ``page``, ``upload`` ...
    kind: str
    #: Number of the server, and the one node where it may receive; empty if there are more.
    server: int
    node: str
    began_at: float
    #: How long it takes where nothing is in the way.
    takes_s: float = 0.0
    ended_at: float = 0.0
    #: ``ok``, a status as ``503``, ``cut`` (in the response), ``reset`` (before it), ``refused`` (no connection),
    #: ``hung``, or ``wrong: `` and why.
    outcome: str = ""


class Echo:
    """One message of a WebSocket."""

    __slots__ = ("came_at", "number", "sent_at")

    def __init__(self, number: int, sent_at: float, came_at: float | None = None) -> None:
        self.number = number
        self.sent_at = sent_at
        self.came_at = came_at


@dataclass
class Socket:
    """One WebSocket, as its client saw it."""

    name: str
    server: int
    node: str
    began_at: float
    #: When it was accepted, and by which worker; `ended_at` and `outcome` are the handshake's otherwise.
    opened_at: float | None = None
    worker: int = 0
    echoes: list[Echo] = field(default_factory=list)
    ended_at: float = 0.0
    #: ``left`` (by its client), ``closed CODE``, ``cut``, a handshake's status, ``reset``, ``refused``, ``hung``, or
    #: ``wrong: `` and why.
    outcome: str = ""
    #: Whether it outlives its workers.
    resumable: bool = False


@dataclass
class Member:
    """A member of the group: what its WebSocket has heard."""

    socket: Socket
    #: The numbers of the messages, by the name of the request that has sent them; in the order in which they came.
    heard: dict[str, list[int]] = field(default_factory=dict)
    #: When it was told that messages were lost.
    gaps: list[float] = field(default_factory=list)


@dataclass
class Publication:
    """Messages that were sent to the group, numbered from 0."""

    request: Request
    count: int


class Run(NamedTuple):
    """One call of the application."""

    name: str
    worker: int
    began_at: float
    #: Infinite if its end was not written down: its process was killed.
    ended_at: float


class Lag(NamedTuple):
    """The clients themselves stood still, for so many seconds until then: a machine that is busy with other things."""

    at: float
    seconds: float


@dataclass
class History:
    """All of it."""

    requests: list[Request] = field(default_factory=list)
    sockets: list[Socket] = field(default_factory=list)
    runs: Sequence[Run] = ()
    faults: Sequence[Fault] = ()
    lags: list[Lag] = field(default_factory=list)
    #: Keep-alive connections that were closed between two requests: when, and by which server.
    idle_closed: list[tuple[float, int]] = field(default_factory=list)
    ended_at: float = 0.0
    #: The servers' setting, in seconds.
    queue_timeout_s: float = 30.0
    #: How many processes were ready to run, for each CPU of the machine: the highest load average of the time.
    load: float = 0.0
    members: list[Member] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)


def runs_in(folder: Path) -> list[Run]:
    """What the application's processes have written down in `folder`."""
    return [run for path in sorted(folder.iterdir()) for run in parse_runs(path.read_text().splitlines())]


def parse_runs(lines: Iterable[str]) -> list[Run]:
    """The runs of one process. An attempt may overlap with one before it, so ends go to the oldest that is open."""
    open_runs: dict[str, list[Run]] = {}
    done: list[Run] = []
    for line in lines:
        what, name, worker, at = line.split()
        if what == "began":
            open_runs.setdefault(name, []).append(Run(name, int(worker), float(at), float("inf")))
        else:
            done.append(open_runs[name].pop(0)._replace(ended_at=float(at)))
    return done + [run for runs in open_runs.values() for run in runs]
