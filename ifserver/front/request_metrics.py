"""What an interface server counts of its clients: cheaply, since it is counted for every request.

Numbers in lists and dictionaries, which are made into metrics when somebody asks (`ifserver.observe.admin`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict

from ifserver.metrics import BOUNDS_S, Histogram

__all__ = ["RequestMetrics"]


class RequestMetrics:
    """The clients of one server, so far; where there are pools, those of one pool.

    Args:
        pool: its name, for people; empty: there are none, or none has had the request.
    """

    __slots__ = (
        "_before",
        "duration",
        "first_byte",
        "http_bytes_in",
        "http_bytes_out",
        "pool",
        "queue_wait",
        "requests",
        "websocket_bytes_in",
        "websocket_bytes_out",
    )

    def __init__(self, pool: str = "") -> None:
        self.pool = pool
        #: Requests that were answered, by their status; 0: the client had left, or was cut off, before there was one.
        self.requests: defaultdict[int, int] = defaultdict(int)
        #: From its offer until somebody spoke about a request; from the request's head until the response began, and
        #: until it was complete.
        self.queue_wait = Histogram(BOUNDS_S)
        self.first_byte = Histogram(BOUNDS_S)
        self.duration = Histogram(BOUNDS_S)
        #: Bytes as they are on the wire, TLS not counted; handshakes of WebSockets are HTTP, but for our answer.
        self.http_bytes_in = self.http_bytes_out = 0
        self.websocket_bytes_in = self.websocket_bytes_out = 0
        #: What `since` leaves out.
        self._before: tuple[int, int, list[int]] = (0, 0, [0] * len(self.first_byte.counts))

    def mark(self) -> None:
        """Let `since` count from now on."""
        requests, errors = self._answers()
        self._before = requests, errors, list(self.first_byte.counts)

    def since(self) -> tuple[int, int, list[int]]:
        """Requests that were answered since the `mark`, those of them with a 5xx, and how long it took until their
        responses began, by the buckets of `BOUNDS_S`."""
        requests, errors = self._answers()
        before, errors_before, times_before = self._before
        times = [now - then for now, then in zip(self.first_byte.counts, times_before, strict=True)]
        return requests - before, errors - errors_before, times

    def _answers(self) -> tuple[int, int]:
        requests = self.requests
        return (
            sum(count for status, count in requests.items() if status),
            sum(count for status, count in requests.items() if status >= 500),
        )

    def claimed(self, waited_s: float) -> None:
        """Somebody has spoken about a request, `waited_s` after its offer."""
        # This and `answered` are the way of every request, so `Histogram.observe` is written out: a call costs as much
        # as all it does.
        queue_wait = self.queue_wait
        queue_wait.counts[bisect_left(BOUNDS_S, waited_s)] += 1
        queue_wait.sum_s += waited_s

    def answered(self, status: int, began_at: float, first_at: float, now: float) -> None:
        """A response is over, whole or not. `first_at` is 0 for one that has not begun."""
        self.requests[status] += 1
        if first_at:
            waited_s = first_at - began_at
            first_byte = self.first_byte
            first_byte.counts[bisect_left(BOUNDS_S, waited_s)] += 1
            first_byte.sum_s += waited_s
        took_s = now - began_at
        duration = self.duration
        duration.counts[bisect_left(BOUNDS_S, took_s)] += 1
        duration.sum_s += took_s
