"""What the live view's charts show: once a second, a few numbers of one process, made of what is counted anyway.

Nothing here grows with the number of connections or streams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import Final, Protocol

from ifserver.front.request_metrics import RequestMetrics
from ifserver.front.server import InterfaceServer
from ifserver.metrics import STREAMS_CLOSED, STREAMS_OPENED, Counters, quantile
from ifserver.process.supervisor import Supervisor

__all__ = [
    "Figures",
    "ServerFigures",
    "SupervisorFigures",
    "errors_of",
    "open_websockets",
    "taken_by",
    "tallies_of",
]

#: The quantile of times that is shown: one request in twenty took longer.
_PART: Final = 0.95
#: The first status that is an error of the site.
_FIRST_ERROR: Final = 500


class Figures(Protocol):
    """The figures of one process."""

    #: Their names, in order (docs/howto/monitoring.rst).
    names: Sequence[str]

    def take(self, elapsed_s: float) -> Mapping[str, float]:
        """What they are now; rates and times are those of the last `elapsed_s`. NaN: there was nothing to measure."""


class ServerFigures:
    """Of an interface server: answers and errors per second, times in seconds, and what is open."""

    names: Sequence[str] = ("requests", "errors", "queue_wait", "first_byte", "websockets", "connections")

    def __init__(self, server: InterfaceServer) -> None:
        self._server = server
        self._requests = self._errors = 0
        self._queue_wait: list[int] = []
        self._first_byte: list[int] = []
        self.take(1.0)

    def take(self, elapsed_s: float) -> Mapping[str, float]:
        server, tallies = self._server, tallies_of(self._server)
        requests = sum(sum(tally.requests.values()) for tally in tallies)
        errors = errors_of(tallies)
        queue_wait = _summed([tally.queue_wait.counts for tally in tallies])
        first_byte = _summed([tally.first_byte.counts for tally in tallies])
        figures = {
            "requests": (requests - self._requests) / elapsed_s,
            "errors": (errors - self._errors) / elapsed_s,
            "queue_wait": _quantile(queue_wait, self._queue_wait),
            "first_byte": _quantile(first_byte, self._first_byte),
            "websockets": open_websockets(server.exchanges.counters),
            "connections": len(server.connections),
        }
        self._requests, self._errors, self._queue_wait, self._first_byte = requests, errors, queue_wait, first_byte
        return figures


class SupervisorFigures:
    """Of a supervisor: what its workers have taken per second, and how they stand."""

    names: Sequence[str] = ("taken", "unanswered", "open", "free", "ready")

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        #: What each living worker has taken since its start, by its process id.
        self._taken: dict[int, int] = {}
        self.take(1.0)

    def take(self, elapsed_s: float) -> Mapping[str, float]:
        taken, gauges = {}, dict.fromkeys(("streams_held", "streams_unanswered", "slots_free"), 0)
        ready = 0
        for worker in self._supervisor.workers:
            counters = Counters(worker.ledger.cells)
            taken[worker.child.pid] = taken_by(counters)
            ready += worker.ready
            counted = counters.gauges()
            for name in gauges:
                gauges[name] += counted[name]
        new = sum(count - self._taken.get(pid, 0) for pid, count in taken.items())
        self._taken = taken
        return {
            "taken": max(0, new) / elapsed_s,
            "unanswered": gauges["streams_unanswered"],
            "open": gauges["streams_held"] - gauges["streams_unanswered"],
            "free": gauges["slots_free"],
            "ready": ready,
        }


def tallies_of(server: InterfaceServer) -> list[RequestMetrics]:
    """What is counted of its clients: one tally, and where there are pools, one more for each of them."""
    return [server.exchanges.tally, *dict.fromkeys((server.exchanges.tallies or {}).values())]


def errors_of(tallies: Sequence[RequestMetrics]) -> int:
    """How many requests were answered with an error of the site."""
    return sum(count for tally in tallies for status, count in tally.requests.items() if status >= _FIRST_ERROR)


def open_websockets(counters: Counters) -> int:
    """WebSockets that are open, or about to be."""
    return counters.cells[STREAMS_OPENED["websocket"]] - counters.cells[STREAMS_CLOSED["websocket"]]


def taken_by(counters: Counters) -> int:
    """Requests and WebSockets that a worker has begun with."""
    return sum(counters.cells[cell] for cell in STREAMS_OPENED.values())


def _summed(many: Sequence[Sequence[int]]) -> list[int]:
    return [sum(counts) for counts in zip(*many, strict=True)]


def _quantile(now: Sequence[int], before: Sequence[int]) -> float:
    """Of what was counted since `before`; NaN: nothing was."""
    since = [n - b for n, b in zip(now, before, strict=True)] if before else now
    found = quantile(since, _PART)
    return nan if found is None else found
