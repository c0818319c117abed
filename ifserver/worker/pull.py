"""Taking requests: one outstanding read on each node of the home cluster, for no more than there are free slots.

The next read of a node leaves when everything that the last one brought has had its first turn. So a worker whose
application keeps the loop busy takes nothing meanwhile, and what waits is taken by an idle one. What was taken together
waits for each other; so the longer first turns last, as a rule, the fewer are taken at once. And what is not answered
in its first turn stays: so few are taken at once where that is the rule, and more where it is not.
"""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from ifserver.clock import Clock, Soon, Timer
from ifserver.errors import NodeRefused, NodeUnreachable, UndecodableError
from ifserver.layers.node import Node, Pulled
from ifserver.messages import ToWorkers, decode_request
from ifserver.metrics import Counters
from ifserver.worker_ledger import Ledger

__all__ = ["Puller", "SupervisorWatch", "Taker"]

#: How long a request may have lain unread before it is given back and not begun, in seconds: a server offers once more
#: what was taken and not claimed for 1.5 s (`ifserver.front.exchanges.offers`), and a blocked worker claims
#: within 0.8 s.
LATE_S: Final = 0.5
#: How long a read waits for a message, and with it how long the end of a worker may be held up by one.
WAIT_S: Final = 1.0
#: The same while there are fewer free slots than nodes, so that the reads go round the nodes.
ROUND_WAIT_S: Final = 0.05
#: How many times as many messages a read asks for at most: when the ones before it came back full, or as long as no
#: more than one of them will be left to be answered after its first turn, going by those before.
GROWTH: Final = 4
#: How long the first turns of what one read brings may take together, going by those before, in seconds: to read more
#: often costs some 30 us each time, which is little beside this.
TURNS_S: Final = 0.001
#: What counts is the CPU time that they take: the kernel may have given the core to others meanwhile. But when they
#: last so much longer, in seconds, they have waited for something, and kept the loop waiting.
BLOCKED_S: Final = 0.05
#: Of how many requests their means are, of the time of a first turn and of the share that is left to be answered then;
#: the older count less.
TURNS: Final = 64
#: First pause after a node has refused, or has failed twice in a row, and the longest.
RETRY_S: Final = 0.05
RETRY_MAX_S: Final = 1.0
#: How often this process shows its supervisor that its loop turns; and how long the supervisor's beat may stand still.
TURN_S: Final = 0.25
_STILL_S: Final = 1.0

_log = logging.getLogger(__name__)


class Taker(Protocol):
    """The worker that requests are pulled for."""

    #: How many of the requests that were taken have not begun to be answered.
    unanswered: int

    def free(self) -> int:
        """How many more could be taken right now; below 0 as well as at 0: none."""

    def open(self, requests: list[ToWorkers]) -> None:
        """Begin what one read has brought, oldest first."""

    def give_back(self, requests: list[ToWorkers]) -> None:
        """Begin none of these: they may have lain unread for so long that they were offered once more."""

    def expired(self, requests: list[ToWorkers]) -> None:
        """Nobody will answer these, since it is too late for that."""


class _Source:
    """A node, and how to ask it next. At any time it is being read, or rests, or waits until it can be read again."""

    __slots__ = ("batch", "begun_at", "brought", "failures", "node", "ready", "timer", "turn")

    def __init__(self, node: Node, turn: int, batch: int) -> None:
        self.node = node
        #: Messages to ask for at once.
        self.batch = batch
        #: When the last read began.
        self.begun_at = 0.0
        #: Messages that the last read has brought.
        self.brought = 0
        self.turn = turn
        self.failures = 0
        self.ready: Deferred[None] | None = None
        self.timer: Timer | None = None


class Puller:
    """Reads the request channels.

    Args:
        nodes: the nodes of the home cluster.
        urgent: the request channel that is read before all others.
        names: the other ones; which of them comes first changes with every read.
        batch: messages to ask for at once; up to `GROWTH` times as many while reads come back full, for then all
            workers have enough to do, and while requests are answered in their first turn, for then little is gained
            by giving them to others. Each read costs as much as what it brings.
        clock_of: the clock of the node that a reply channel names, by which its server sets deadlines.
        least_clock_of: the earliest time that its server may take it to be there (`Node.least_clock`).
        cpu_s: the CPU time that this thread has used, in seconds (``time.thread_time``).
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        urgent: str,
        names: Sequence[str],
        batch: int,
        worker: Taker,
        clock_of: Callable[[str], float],
        least_clock_of: Callable[[str], Deferred[float]],
        clock: Clock,
        cpu_s: Callable[[], float],
        soon: Soon,
        counters: Counters,
    ) -> None:
        self._rotations = [(urgent, *names[i:], *names[:i]) for i in range(len(names))]
        self._sources = [_Source(node, i % len(names), batch) for i, node in enumerate(nodes)]
        self._batch = batch
        self._worker = worker
        self._clock_of = clock_of
        self._least_clock_of = least_clock_of
        self._clock = clock
        self._cpu_s = cpu_s
        self._soon = soon
        self._counters = counters
        #: Nodes that wait for a free slot. When one is freed, `read_resting` is called if there are any.
        self.resting: deque[_Source] = deque()
        #: Nodes whose read has ended in this turn.
        self._returned: list[_Source] = []
        #: The mean time of a first turn and of sending its messages, in seconds; and the share of requests that
        #: were not answered in it.
        self._turn_s = 0.0
        self._left = 1.0
        #: What was taken in this turn of the loop; how many others were unanswered then, and since when, by the clock
        #: and by the thread's CPU time.
        self._taken = self._unanswered_before = 0
        self._taken_at = self._taken_cpu_s = 0.0
        #: When the loop was seen to turn last, while somebody looks; and when it was seen to turn again after it stood
        #: still, until it turns once more.
        self._turned_at = math.inf
        self._stalled_at = 0.0
        #: Outstanding reads, and the sum of what they ask for.
        self.reads = 0
        self.asked = 0
        self._running = False
        self._held = False
        self._stopped: Deferred[None] | None = None
        self._undecodable: set[str] = set()

    def start(self) -> None:
        """Begin to read."""
        self._running = True
        self.resting.extend(self._sources)
        self.read_resting()

    def hold(self) -> None:
        """Begin no further read until `resume`."""
        self._held = True

    def resume(self) -> None:
        """Read again."""
        self._held = False
        self.read_resting()

    def turned(self) -> None:
        """The loop turns. Called several times within `LATE_S`."""
        now = self._clock.seconds()
        self._stalled_at = now if now - self._turned_at > LATE_S else 0.0
        self._turned_at = now

    def stop(self) -> Deferred[None]:
        """Begin no further read. Fires when the outstanding ones have ended; what they bring is handed on."""
        self._running = False
        for source in self._sources:
            if source.ready is not None:
                source.ready.cancel()
            if source.timer is not None:
                source.timer.cancel()
                source.timer = None
        if not self.reads:
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        self._stopped = stopped
        for source in self._sources:
            source.node.end_pulls()
        return stopped

    def read_resting(self) -> None:
        """Read as many of the nodes that rest as there are slots for."""
        resting = self.resting
        while resting and self._running and not self._held:
            free = self._worker.free()
            left = free - self.asked
            if left <= 0:
                return
            scarce = free < self.reads + len(resting)
            source = resting.popleft()
            batch = source.batch
            if 2 * source.brought >= self._batch:
                # Only while many come at once: else little is gained, and a rush that follows may be of another kind.
                most = self._batch * GROWTH
                batch = max(batch, most if most * self._left <= 1 else int(1 / self._left))
            if batch * self._turn_s > TURNS_S:
                batch = int(TURNS_S / self._turn_s)
            # One is kept for each of the nodes that follow.
            count = 1 if scarce else max(1, min(batch, left - len(resting)))
            names = self._rotations[source.turn]
            source.turn = (source.turn + 1) % len(self._rotations)
            self.reads += 1
            self.asked += count
            source.begun_at = self._clock.seconds()
            source.node.pull(names, count, ROUND_WAIT_S if scarce else WAIT_S).addCallbacks(
                self._brought, self._failed, (source, count), errbackArgs=(source, count)
            )

    def _brought(self, pulled: Pulled | None, source: _Source, count: int) -> None:
        """A read of `count` has ended. The node is read again once the tasks that are ready now have had their turn."""
        self.reads -= 1
        self.asked -= count
        source.failures = 0
        brought = source.brought = 0 if pulled is None else len(pulled.payloads)
        if brought < count:
            source.batch = self._batch
        elif brought == source.batch:
            source.batch = min(source.batch * 2, self._batch * GROWTH)
        if pulled is not None:
            self._take(source, pulled)
        if not self._returned:
            self._soon(self._turn)
        self._returned.append(source)
        if self._stopped is not None:
            self._look_whether_stopped()

    def _take(self, source: _Source, pulled: Pulled) -> None:
        node, taken_at = source.node, self._clock.seconds()
        now = taken_at + node.lead_s
        late: dict[str, list[ToWorkers]] = {}
        requests: list[ToWorkers] = []
        for payload in pulled.payloads:
            try:
                request = decode_request(payload)
            except UndecodableError as error:
                self._counters.add("messages_dropped", label="undecodable")
                if pulled.channel not in self._undecodable:
                    self._undecodable.add(pulled.channel)
                    _log.error("dropped a message from %s of node %s: %s", pulled.channel, node.name, error)
                continue
            # The nearer clock first, since it is nearly always right that there is time left. That there is none has to
            # be asked for, since the clock of a node may have been set.
            if now > request.deadline and self._clock_of(request.reply_channel) > request.deadline:
                late.setdefault(request.reply_channel.partition(".")[0], []).append(request)
            else:
                requests.append(request)
        # What seems to be too late counts as asked for until the time of its node is known.
        self.reads += len(late)
        self.asked += sum(map(len, late.values()))
        if requests and taken_at - source.begun_at > LATE_S and self._stood_still(source, taken_at):
            self._worker.give_back(requests)
        elif requests:
            if not self._taken:
                self._unanswered_before = self._worker.unanswered
                self._taken_at, self._taken_cpu_s = taken_at, self._cpu_s()
            self._taken += len(requests)
            self._open(requests)
        for each in late.values():
            self._least_clock_of(each[0].reply_channel).addCallback(self._time_known, each)

    def _stood_still(self, source: _Source, now: float) -> bool:
        """Whether what the last read of `source` has brought may have lain there, since the loop stood still."""
        # What came meanwhile may be read before the timers that are due, or after them.
        return now - self._turned_at > LATE_S or self._stalled_at - source.begun_at > LATE_S

    def _open(self, requests: list[ToWorkers]) -> None:
        try:
            self._worker.open(requests)
        except Exception:
            # A bug of ours must not end the reading of a node.
            _log.exception("requests of %s and others could not be handled", requests[0].reply_channel)

    def _time_known(self, now: float, requests: list[ToWorkers]) -> None:
        """Drop those of `requests` that are too late, now that it is known (`ifserver.layers.redis.views`)."""
        self.reads -= 1
        self.asked -= len(requests)
        expired = [request for request in requests if now > request.deadline]
        in_time = [request for request in requests if now <= request.deadline]
        if expired:
            self._counters.add("messages_dropped", len(expired), "expired")
            self._worker.expired(expired)
        if in_time:
            self._open(in_time)
        self.read_resting()
        self._look_whether_stopped()

    def _turn(self) -> None:
        taken, self._taken = self._taken, 0
        if taken:
            cpu_s, took_s = self._cpu_s() - self._taken_cpu_s, self._clock.seconds() - self._taken_at
            turn_s = max(cpu_s, took_s - BLOCKED_S) / taken
            left = min(1.0, max(0, self._worker.unanswered - self._unanswered_before) / taken)
            weight = min(1.0, taken / TURNS)
            self._turn_s += (turn_s - self._turn_s) * weight
            self._left += (left - self._left) * weight
        self.resting.extend(self._returned)
        self._returned.clear()
        self.read_resting()

    def _look_whether_stopped(self) -> None:
        if self._stopped is not None and not self.reads:
            stopped, self._stopped = self._stopped, None
            stopped.callback(None)

    def _failed(self, failure: Failure, source: _Source, count: int) -> None:
        self.reads -= 1
        self.asked -= count
        source.failures += 1
        if failure.check(NodeRefused):
            _log.warning("node %s refuses to be read: %s", source.node.name, failure.getErrorMessage())
            self._later(source)
        elif not failure.check(NodeUnreachable):
            _log.error("reading node %s failed:\n%s", source.node.name, failure.getTraceback())
            self._later(source)
        elif self._running:
            # The node itself logs that it is unreachable.
            source.ready = source.node.ready()
            source.ready.addCallbacks(self._ready, self._not_ready, (source,), errbackArgs=(source,))
        self._look_whether_stopped()

    def _ready(self, _: None, source: _Source) -> None:
        source.ready = None
        if source.failures > 1:
            self._later(source)
        else:
            self._rest(source)

    def _not_ready(self, failure: Failure, source: _Source) -> None:
        source.ready = None  # cancelled by `stop`

    def _later(self, source: _Source) -> None:
        if self._running:
            seconds: float = min(RETRY_S * 2 ** (source.failures - 1), RETRY_MAX_S)
            source.timer = self._clock.callLater(seconds * random.uniform(0.7, 1.3), self._retry, source)

    def _retry(self, source: _Source) -> None:
        source.timer = None
        self._rest(source)

    def _rest(self, source: _Source) -> None:
        self.resting.append(source)
        self.read_resting()


class SupervisorWatch:
    """Shows this process to its supervisor and watches the supervisor's beat, from `start` to `stop`."""

    def __init__(self, shared: Ledger, puller: Puller, clock: Clock) -> None:
        self._shared = shared
        self._puller = puller
        self._clock = clock
        self._beats = -1
        self._beaten_at = clock.seconds()
        self._holding = False
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin."""
        self._tick()

    def stop(self) -> None:
        """End."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _tick(self) -> None:
        self._timer = self._clock.callLater(TURN_S, self._tick)
        self._shared.turn()
        self._puller.turned()
        now, beats = self._clock.seconds(), self._shared.beats
        # It counts: where it is we who stood still, it has beaten meanwhile.
        if beats != self._beats:
            self._beats, self._beaten_at = beats, now
            if self._holding:
                self._holding = False
                _log.info("the supervisor responds again: taking requests again")
                self._puller.resume()
        elif not self._holding and now - self._beaten_at >= _STILL_S:
            self._holding = True
            _log.warning("the supervisor does not respond: taking no requests until it does")
            self._puller.hold()
