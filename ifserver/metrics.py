"""Every counter: its name, its help and its label, in one block; and the counts of one process.

The sum over all processes of an idle system balances (`ifserver.layers.accounting`): ``messages_sent`` =
``messages_delivered`` + ``messages_dropped`` of all reasons (`balance`). After a fault it does so once those who live
have told each other what they have sent (`ifserver.layers.accounting`), and requests of which nobody has spoken have
had their time (`ifserver.front.exchanges.attempt_accounting`).

Times are counted in the buckets of a `Histogram`; `ifserver.observe.admin.metrics` makes samples for Prometheus.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

__all__ = [
    "BOUNDS_S",
    "BROADCASTS_HEARD",
    "BROADCASTS_PUBLISHED",
    "CELLS",
    "COUNTERS",
    "DELIVERED",
    "DROPPED_FULL",
    "FLYING",
    "GAUGES",
    "GROUP_DELIVERIES",
    "IN_DOUBT",
    "LAG_BOUNDS_S",
    "LOOP_LAG",
    "SENT",
    "STREAMS_CLOSED",
    "STREAMS_OPENED",
    "Cells",
    "Counters",
    "Description",
    "Histogram",
    "balance",
    "quantile",
    "total",
]

#: Upper limits of the buckets for what clients wait for, in seconds; one more has what took longer.
BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
#: The same for what should take no time at all: how late a loop is, and the round trip to a node.
LAG_BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
#: The histogram that every process has (`Counters.late`), as counters labelled by the limits of its buckets.
LOOP_LAG: Final = "loop_lag_seconds"


class Description(NamedTuple):
    """What a counter counts."""

    help: str
    #: The name of its label; empty: it has none.
    label: str = ""
    #: All that the label can be; empty: that is not known before.
    values: tuple[str, ...] = ()


_KINDS: Final = ("http", "websocket")
#: Why a message was not handed on. ``broker``: its node has lost it; ``gap``: it came behind one that was lost;
#: ``gone``: nobody waits for it any more; ``withdrawn``: its sender took it back.
_REASONS: Final = ("expired", "full", "gone", "gap", "undecodable", "broker", "withdrawn")
#: Why a node has not taken a broadcast, or not confirmed it.
_FAILURES: Final = ("unreachable", "refused", "in_doubt")

COUNTERS: Final[dict[str, Description]] = {
    "messages_sent": Description("Messages that a node has taken from this process, or that are dropped as full."),
    "messages_in_doubt": Description("Messages pushed again, or given up: the connection broke before the answer."),
    "messages_delivered": Description("Messages that this process has pulled and handed on."),
    "messages_vanished": Description("Requests that were gone from their node, of whose taker was not heard in time."),
    "messages_repeated": Description("Second copies of messages that were in doubt."),
    "messages_dropped": Description("Messages that ended otherwise.", "reason", _REASONS),
    "broadcasts_published": Description("Broadcasts that a node has taken from this process."),
    "broadcasts_failed": Description("Broadcasts that a node has not taken, or not confirmed.", "reason", _FAILURES),
    "broadcasts_heard": Description("Broadcasts that this process was handed for its groups."),
    "broadcasts_lost": Description("Broadcasts that have not come, by their numbers."),
    "broadcasts_repeated": Description("Broadcasts that had come before, or came too late."),
    "broadcasts_undecodable": Description("Broadcasts that this version does not understand."),
    "groups_interrupted": Description("Times that something may be lost of a group, however much."),
    "streams_opened": Description("Streams that this process has begun.", "kind", _KINDS),
    "streams_closed": Description("Streams that this process has ended.", "kind", _KINDS),
    "requests_refused": Description("Requests that were answered by the server itself.", "status"),
    "connections_refused": Description("Connections that were one too many.", "of"),
    "connections_cut": Description("Connections whose clients took nothing of what they were sent."),
    "files_sent": Description("Files that this server has sent by itself, or begun to."),
    "files_declined": Description("Files that it could not, so that a worker has sent them."),
    "group_deliveries": Description("Messages of groups that were written to a member."),
    "group_drops": Description("Messages of groups that a member did not get.", "reason", ("slow",)),
    "channel_layer_drops": Description(
        "Messages that the channel layer of Channels has dropped.",
        "reason",
        ("full", "expired", "lost", "undecodable", "untaken"),
    ),
    "claims": Description("Claims that were sent on their own."),
    "resumptions": Description("Open WebSockets that were offered to another worker."),
    "retries": Description("Requests that were offered once more."),
}

#: How something stands at present. The counts of streams are a worker's.
GAUGES: Final[dict[str, str]] = {
    "messages_flying": "Messages that were pushed, and not answered by their nodes yet.",
    "streams_held": "Streams whose application runs.",
    "streams_unanswered": "Those of them that hold a slot: neither begun to answer, nor waiting for their client.",
    "slots_free": "How many more requests may be taken now.",
}

_COUNTED: Final = tuple(
    (name, value)
    for name, description in COUNTERS.items()
    if description.values or not description.label
    for value in description.values or ("",)
)
#: Labels of a histogram's buckets, and of the sum, in microseconds, of what is in them.
_LAGS: Final = tuple((LOOP_LAG, label) for label in (*map(str, LAG_BOUNDS_S), "inf", "sum_us"))

#: Where each count stands whose name and label are known before: in memory that somebody else may read.
CELLS: Final[dict[tuple[str, str], int]] = {
    key: index for index, key in enumerate((*_COUNTED, *_LAGS, *((name, "") for name in GAUGES)))
}
#: Of what is counted on the way of every message (`Counters.cells`).
SENT: Final = CELLS["messages_sent", ""]
DELIVERED: Final = CELLS["messages_delivered", ""]
IN_DOUBT: Final = CELLS["messages_in_doubt", ""]
DROPPED_FULL: Final = CELLS["messages_dropped", "full"]
FLYING: Final = CELLS["messages_flying", ""]
BROADCASTS_PUBLISHED: Final = CELLS["broadcasts_published", ""]
BROADCASTS_HEARD: Final = CELLS["broadcasts_heard", ""]
STREAMS_OPENED: Final = {kind: CELLS["streams_opened", kind] for kind in _KINDS}
STREAMS_CLOSED: Final = {kind: CELLS["streams_closed", kind] for kind in _KINDS}
GROUP_DELIVERIES: Final = CELLS["group_deliveries", ""]
_FIRST_LAG: Final = CELLS[_LAGS[0]]
_SUM_OF_LAGS: Final = CELLS[_LAGS[-1]]
#: Those that only ever grow, so that they can be summed up, also over processes that have ended.
_GROWING: Final = {key: CELLS[key] for key in (*_COUNTED, *_LAGS)}

#: Memory for the counts, one number for each of `CELLS`: a list, or a ``memoryview`` of 64-bit numbers.
Cells = list[int] | memoryview
#: The most that one holds.
_MOST: Final = 2**63 - 1


class Histogram:
    """How many times fell into which bucket, and their sum.

    Args:
        bounds_s: the upper limit of each bucket, in seconds, ascending; it belongs to the bucket.
    """

    __slots__ = ("bounds_s", "counts", "sum_s")

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_s = bounds_s
        #: How many there are in each bucket, the last of which has no upper limit.
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """It took `seconds`."""
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds


def quantile(counts: Sequence[int], part: float, bounds_s: Sequence[float] = BOUNDS_S) -> float | None:
    """The time that this `part` of all did not exceed, in seconds; None: there were none.

    Within a bucket, all are taken for evenly spread, as Prometheus does. Of what took longer than the last limit no
    more is known.
    """
    wanted, below, lower = part * sum(counts), 0, 0.0
    if not wanted:
        return None
    for bound, count in zip(bounds_s, counts, strict=False):
        if count and below + count >= wanted:
            return lower + (bound - lower) * (wanted - below) / count
        below, lower = below + count, bound
    return lower


class Counters:
    """The counts of one process. Counting a name that is not in `COUNTERS` raises `KeyError`.

    Args:
        cells: where most of them are written; what it holds is counted on from. None: memory of their own.
    """

    __slots__ = ("_others", "cells")

    def __init__(self, cells: Cells | None = None) -> None:
        #: Where each count stands, by `CELLS`: ``cells[SENT] += n`` is what `add` does, without a call.
        self.cells: Cells = [0] * len(CELLS) if cells is None else cells
        self._others: Counter[tuple[str, str]] = Counter()

    def add(self, name: str, amount: int = 1, label: str = "") -> None:
        """Count `amount` more of `name`, under `label` where the counter has one."""
        cell = CELLS.get((name, label))
        if cell is not None:
            # What others say may be too much for a cell, and must not raise.
            self.cells[cell] = min(self.cells[cell] + amount, _MOST)
        elif COUNTERS[name].values or not COUNTERS[name].label:
            raise KeyError(f"{name}{{{label}}}: there is no such label")
        else:
            self._others[name, label] += amount

    def set(self, name: str, value: int) -> None:
        """What one of `GAUGES` is now."""
        if name not in GAUGES:
            raise KeyError(name)
        self.cells[CELLS[name, ""]] = value

    def gauges(self) -> dict[str, int]:
        """What each of `GAUGES` was last."""
        return {name: self.cells[CELLS[name, ""]] for name in GAUGES}

    def late(self, seconds: float) -> None:
        """The loop of this process was so late for what was due (`LOOP_LAG`). Timers may be early by a fraction of a
        millisecond: that is 0."""
        cells = self.cells
        cells[_FIRST_LAG + bisect_left(LAG_BOUNDS_S, seconds)] += 1
        cells[_SUM_OF_LAGS] += max(0, int(seconds * 1_000_000))

    def value(self, name: str, label: str = "") -> int:
        """How many there were."""
        cell = CELLS.get((name, label))
        if cell is not None:
            return self.cells[cell]
        COUNTERS[name]
        return self._others[name, label]

    def statistics(self) -> dict[str, int]:
        """All that were counted, as ``name`` or ``name{label}``."""
        cells = self.cells
        counted = {key: cells[cell] for key, cell in _GROWING.items() if cells[cell]} | self._others
        return {f"{name}{{{label}}}" if label else name: n for (name, label), n in sorted(counted.items())}

    def legacy(self) -> dict[str, int]:
        """The `statistics` of a process that has ended: what it had pushed without hearing of it is in doubt."""
        return total((self.statistics(), {"messages_in_doubt": self.gauges()["messages_flying"]}))


def total(many: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum of the `Counters.statistics` of several processes."""
    summed: Counter[str] = Counter()
    for each in many:
        summed.update(each)
    return dict(sorted(summed.items()))


def balance(statistics: Mapping[str, int]) -> int:
    """Messages that were sent and have come to nothing known, by the summed `statistics` of all processes.

    Of an idle system 0, whatever its nodes have lost. What a process that was killed had taken, or handed to a node,
    in its last moment and not counted yet is missing, on either side.
    """
    dropped = sum(n for name, n in statistics.items() if name.startswith("messages_dropped{"))
    return statistics.get("messages_sent", 0) - statistics.get("messages_delivered", 0) - dropped
