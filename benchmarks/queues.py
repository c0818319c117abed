"""Nodes that hold requests, and worker processes that read them as `ifserver.worker.pull` does, in virtual time."""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final, Protocol

__all__ = ["Agenda", "Node", "Process", "Request"]

#: Requests that one read takes at most, and how long one waits while free slots are scarce (`ifserver.worker.pull`).
PULL_BATCH: Final = 8
ROUND_WAIT_S: Final = 0.05


class Agenda:
    """What happens when. Time goes from event to event."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        #: Events of one time happen in the order in which they were entered.
        self._numbers = count()

    def later(self, delay_s: float, what: Callable[..., object], *args: Any) -> None:
        """Call `what` in `delay_s` seconds."""
        heapq.heappush(self._heap, (self.now + delay_s, next(self._numbers), what, args))

    def run_until(self, end: float) -> None:
        """Let everything happen that is due before `end`."""
        heap = self._heap
        while heap and heap[0][0] < end:
            self.now, _, what, args = heapq.heappop(heap)
            what(*args)
        self.now = end


class Claims(Protocol):
    """Whoever offered a request."""

    def claimed(self, request: Request, node: Node) -> None:
        """A worker has taken it from `node`."""


class Request:
    """One request, and where it stands."""

    __slots__ = ("arrived", "node", "server", "service_s", "since", "spilled", "wait_s")

    def __init__(self, arrived: float, service_s: float, server: Claims) -> None:
        self.arrived = arrived
        self.service_s = service_s
        self.server = server
        #: Where it stands, and since when; nowhere once it is taken or has timed out.
        self.node: Node | None = None
        self.since = arrived
        self.spilled = False
        self.wait_s = 0.0


class _Read:
    """One outstanding read of one process."""

    __slots__ = ("most", "process")

    def __init__(self, process: Process, most: int) -> None:
        self.process = process
        self.most = most


class Node:
    """One list of requests, and who waits for some. What is withdrawn is skipped when it comes to the front."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.length = 0
        #: Pushes so far.
        self.offers = 0
        self._list: deque[Request] = deque()
        self._readers: OrderedDict[_Read, None] = OrderedDict()
        #: Processes that will read when that is possible again; None: it is.
        self._absent: list[Process] | None = None

    def push(self, request: Request) -> int:
        """Append `request`; the length before anybody who waits has taken it."""
        request.node = self
        self._list.append(request)
        self.offers += 1
        self.length += 1
        length = self.length
        if self._readers:
            read, _ = self._readers.popitem(last=False)
            read.process.ended(read, self)
        return length

    def take(self, most: int) -> list[Request]:
        """The oldest requests, `most` at most."""
        taken: list[Request] = []
        while self.length and len(taken) < most:
            request = self._list.popleft()
            if request.node is self:
                self.leave(request)
                taken.append(request)
        return taken

    def leave(self, request: Request) -> None:
        """`request` stands here no more."""
        request.node = None
        self.length -= 1

    def wait(self, read: _Read) -> None:
        """`read` waits for a request."""
        self._readers[read] = None

    def stop_waiting(self, read: _Read) -> bool:
        """Whether `read` was waiting here; it no longer does."""
        if read not in self._readers:
            return False
        del self._readers[read]
        return True

    @property
    def is_open(self) -> bool:
        """Whether it can be read."""
        return self._absent is None

    def refuses(self, process: Process) -> bool:
        """Whether nobody can read; then `process` does as soon as it is possible."""
        if self._absent is None:
            return False
        self._absent.append(process)
        return True

    def close(self) -> None:
        """Nobody can read any more; all reads fail."""
        self._absent = []
        while self._readers:
            read, _ = self._readers.popitem(last=False)
            read.process.ended(read, self)

    def open(self) -> None:
        """It can be read again."""
        absent, self._absent = self._absent or [], None
        for process in absent:
            process.rest(self)


class Process:
    """A worker process. Which node it reads next, and for how much, is decided as in `Puller.resume`."""

    def __init__(self, agenda: Agenda, nodes: Sequence[Node], slots: int) -> None:
        self._agenda = agenda
        self._free = slots
        #: Outstanding reads, and the sum of what they ask for.
        self._reads = 0
        self._asked = 0
        self._resting = deque(nodes)

    def resume(self) -> None:
        """Read as many of the nodes that rest as there are slots for."""
        resting = self._resting
        while resting and self._free > self._asked:
            scarce = self._free < self._reads + len(resting)
            node = resting.popleft()
            if node.refuses(self):
                continue
            # One is kept for each of the nodes that follow.
            most = 1 if scarce else max(1, min(PULL_BATCH, self._free - self._asked - len(resting)))
            if node.length:
                self._begin(node.take(most), node)
                resting.append(node)
            else:
                self._wait(_Read(self, most), node, scarce)

    def ended(self, read: _Read, node: Node) -> None:
        """`read` has ended with what is there now."""
        self._reads -= 1
        self._asked -= read.most
        self._begin(node.take(read.most), node)
        self.rest(node)

    def rest(self, node: Node) -> None:
        """`node` may be read again."""
        self._resting.append(node)
        self.resume()

    def _wait(self, read: _Read, node: Node, scarce: bool) -> None:
        self._reads += 1
        self._asked += read.most
        node.wait(read)
        # One that does not go round would only begin again.
        if scarce:
            self._agenda.later(ROUND_WAIT_S, self._expired, read, node)

    def _expired(self, read: _Read, node: Node) -> None:
        if node.stop_waiting(read):
            self.ended(read, node)

    def _begin(self, requests: list[Request], node: Node) -> None:
        for request in requests:
            self._free -= 1
            self._agenda.later(request.service_s, self._done)
            request.wait_s = self._agenda.now - request.arrived
            request.server.claimed(request, node)

    def _done(self) -> None:
        self._free += 1
        self.resume()
