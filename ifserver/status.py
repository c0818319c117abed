"""What processes report of themselves, and what people are shown of all of them. Pure.

A beat carries the `Facts` of its process, behind the names of its children (`with_facts`). An admin
endpoint puts those of all processes together with what the nodes report and with its own streams: the `Status`, which
``ifserver status``, ``ifserver top`` and the page show. Times of day are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from ifserver.messages import UNDECODABLE, Count, Seconds

__all__ = [
    "MAX_FACT_EVENTS",
    "MAX_GROUPS",
    "MAX_STREAMS",
    "Child",
    "ClusterStatus",
    "Event",
    "Facts",
    "GroupStatus",
    "History",
    "NodeStatus",
    "Paused",
    "PoolStatus",
    "Pools",
    "QueueStatus",
    "Status",
    "StreamStatus",
    "decode_facts",
    "decode_status",
    "encode",
    "encode_status",
    "facts_of",
    "names_of",
    "value_of",
    "with_facts",
]

Kind: TypeAlias = Literal["server", "supervisor"]

#: Streams that are shown of one process: more than people look at, and as much as can be sent every second.
MAX_STREAMS: Final = 2_000
#: Groups that are shown of one server.
MAX_GROUPS: Final = 100
#: Events in the facts of one process: those of the last seconds, for others keep them.
MAX_FACT_EVENTS: Final = 8


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that operators look for beside the figures (`ifserver.logs.events`)."""

    #: Counts up in its process.
    number: Count
    #: When it happened, by the wall clock of its process.
    at: Seconds
    #: ``deploy``, ``fault``, ``mended`` or ``order``; other releases may have more.
    kind: str
    #: The same in a few words.
    label: str
    text: str
    #: How often it has happened since then.
    times: Count = 1
    #: The process that reports it; in its own facts it is left out.
    process: str = ""


class Child(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One worker process, as its supervisor sees it."""

    pid: Count
    #: The name under which it receives; empty until it has one.
    process: str = ""
    #: Whether it has reported that it is ready.
    ready: bool = False
    #: Streams whose application runs, those of them that have not begun to answer, and requests that it may still take.
    streams: Count = 0
    unanswered: Count = 0
    free: Count = 0
    #: Streams that it has begun since its start.
    taken: Count = 0
    #: Empty: there are no pools.
    pool: str = ""


class Facts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One server or supervisor."""

    process: str
    kind: Kind
    host: str
    pid: Count
    version: str
    #: The node of its inbox.
    node: str
    #: By its wall clock.
    started_at: Seconds
    #: Of a server: whether it listens for clients, how many there are, and how long a request may wait for a worker.
    listening: bool = False
    connections: Count = 0
    streams: Count = 0
    queue_timeout_s: Seconds = 0.0
    #: Of a server: requests that it has answered, those of them with a status of 500 or more, and open WebSockets.
    requests: Count = 0
    errors: Count = 0
    websockets: Count = 0
    #: Of a server: how long each pool will be paused, in seconds (empty name: all pools), and how many requests wait
    #: for the end of that.
    paused: dict[str, Seconds] = {}
    waiting: Count = 0
    #: Of a supervisor.
    children: tuple[Child, ...] = ()
    #: What it and its workers have counted, where it has no admin endpoint of its own (``run``).
    counts: dict[str, Count] = {}
    #: What has happened last in this process, `MAX_FACT_EVENTS` at most, oldest first.
    events: tuple[Event, ...] = ()


class QueueStatus(Struct, frozen=True, kw_only=True):
    """A request channel of one node."""

    channel: str
    length: int
    #: How long the oldest request has waited, in seconds; None: there is none, or it is not known.
    age_s: float | None


class NodeStatus(Struct, frozen=True, kw_only=True):
    """One node, as this process sees it."""

    name: str
    #: Whether it answered just now, and how long that took, in seconds.
    answers: bool
    round_trip_s: float | None
    #: How long it has been unreachable, in seconds.
    unreachable_s: float
    #: Why it does not answer.
    why: str
    queues: tuple[QueueStatus, ...]


class ClusterStatus(Struct, frozen=True, kw_only=True):
    """One cluster."""

    name: str
    home: bool
    nodes: tuple[NodeStatus, ...]


class StreamStatus(Struct, frozen=True, kw_only=True):
    """One stream of this process. A supervisor knows `channel` and `owner` only."""

    channel: str
    kind: str
    state: str = ""
    #: Since its beginning, in seconds.
    age_s: float | None = None
    #: Process name of the worker that has it; empty: nobody.
    owner: str = ""
    method: str = ""
    #: Without the query, which may hold secrets.
    path: str = ""
    #: Bytes that its client has not taken yet.
    unsent_bytes: int = 0
    #: The pool that it is for, where there are pools.
    pool: str | UnsetType = UNSET


class PoolStatus(Struct, frozen=True, kw_only=True):
    """One pool, beside those with which it shares requests."""

    name: str
    #: The pool of whose requests it takes a share; empty: it is no canary.
    canary_of: str
    #: None: it shares its requests with no other.
    weight: float | None
    #: Whether an operator has ordered the weight; else it is that of the settings.
    is_ordered: bool
    #: Requests that were answered, and those of them with a 5xx.
    requests: int
    errors: int
    #: The time until the response began that half of them, 95 % and 99 % did not exceed, in seconds; None: there were
    #: none.
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None


class Paused(Struct, frozen=True, omit_defaults=True):
    """What all servers together have answered about pauses."""

    #: How many servers have answered, of how many that were asked.
    servers: int
    asked: int
    #: How long each pool will be paused, in seconds. Empty name: all pools.
    pools: dict[str, float]
    #: Requests that wait for the end of it, and those of the pools that are paused that still run.
    waiting: int
    under_way: int
    #: Whose pause has been ended by this. None: that was not asked for.
    resumed: list[str] | None = None


class Pools(Struct, frozen=True):
    """What all servers together have answered about pools."""

    servers: int
    asked: int
    #: For how long they have counted, in seconds: that one which has for the longest time.
    counted_s: float
    #: Whether they share requests in the same way.
    agreed: bool
    pools: list[PoolStatus]
    #: Workers that are ready, by pool.
    workers: dict[str, int]


class GroupStatus(Struct, frozen=True, kw_only=True):
    """One group, as a server sees it."""

    name: str
    #: How many of the server's streams are in it.
    members: int


class History(Struct, frozen=True, kw_only=True):
    """Figures of one process over the last minutes, one value a second: `None` where there is none."""

    #: The number of the first value of each series; the first one that was ever taken has 0.
    first: int
    #: When the last one was taken, by the wall clock, and how far apart they are, in seconds.
    last_at: float
    every_s: float
    #: By name (docs/howto/monitoring.rst).
    series: dict[str, list[float | None]]


class Status(Struct, frozen=True, kw_only=True):
    """All that one process can report."""

    #: When it was made, by the wall clock of that process.
    now: float
    me: Facts
    #: Why this process is not ready; empty: it is.
    unready: tuple[str, ...]
    clusters: tuple[ClusterStatus, ...]
    #: All that were seen on any node, this process too.
    processes: tuple[Facts, ...]
    #: The oldest of its streams, `MAX_STREAMS` at most, and how many there are in all.
    streams: tuple[StreamStatus, ...]
    streams_total: int
    #: What this process has counted, and where it is the parent of workers, they: by who has counted it.
    counts: dict[str, dict[str, int]]
    #: The largest groups of its streams, `MAX_GROUPS` at most, how many there are in all, and the sum of their members.
    groups: tuple[GroupStatus, ...] = ()
    groups_total: int = 0
    group_members: int = 0
    #: The pools, as this process has counted them; and for how long it has, in seconds: since a canary has begun to get
    #: a share, or the process was started.
    pools: tuple[PoolStatus, ...] = ()
    pools_counted_s: float = 0.0
    #: What has happened in any process that was seen, as far as it is still kept, oldest first.
    events: tuple[Event, ...] = ()
    #: What it has measured; only for those that ask for it.
    history: History | None = None


_decode_facts = msgspec.msgpack.Decoder(Facts).decode
_decode_status = msgspec.json.Decoder(Status).decode
#: Facts as they stand in a beat.
encode = msgspec.msgpack.Encoder().encode
#: A status as JSON.
encode_status = msgspec.json.Encoder().encode


def decode_facts(text: bytes) -> Facts | None:
    """The facts in a beat; None: it has none, or they are of a release that reports other things."""
    try:
        return _decode_facts(text)
    except UNDECODABLE:
        return None


def decode_status(text: bytes) -> Status:
    """A status.

    Raises:
        ValueError: it is none.
    """
    return _decode_status(text)


#: What separates the names in the value of a beat.
_SEPARATOR: Final = b","
#: Behind it follow facts for people. Who looks for names reads no further.
_FACTS: Final = b"\n"


def value_of(processes: Sequence[str]) -> bytes:
    """The value of the beat of a supervisor that has these living children."""
    return _SEPARATOR.join(process.encode() for process in processes)


def with_facts(value: bytes, facts: bytes) -> bytes:
    """The value of a beat that reports `Facts` as well."""
    return value + _FACTS + facts if facts else value


def names_of(value: bytes) -> set[str]:
    """The living children that the value of a beat names."""
    names = value.partition(_FACTS)[0]
    return {name.decode("ascii", "replace") for name in names.split(_SEPARATOR) if name}


def facts_of(value: bytes) -> bytes:
    """The facts in the value of a beat; empty where it has none."""
    return value.partition(_FACTS)[2]
