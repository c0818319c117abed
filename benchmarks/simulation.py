"""Servers place requests on nodes, workers pull them from there: in virtual time, by seeded chance.

Left out are that requests of one turn of a server leave as one push, and the time that a pull, a claim or a withdrawal
is on its way.
"""

from __future__ import annotations

import enum
import math
import random
from collections import deque
from collections.abc import Sequence
from random import Random
from statistics import fmean
from typing import Final

from msgspec import Struct

from benchmarks.placers import Placer, Placing, make_placer
from benchmarks.queues import Agenda, Node, Process, Request
from ifserver.layers.presence import BEAT_S
from ifserver.layers.workers import ASK_S, FRESH_S

__all__ = ["Figures", "Plan", "Workload", "percentile", "simulate"]

#: How often a server looks for requests that stand, and after how long they do, in seconds (as
#: `ifserver.front.exchanges.offers` does).
LOOK_S: Final = 0.25
SPILL_AFTER_S: Final = 1.0
#: How often queues are measured, in seconds.
SAMPLE_S: Final = 0.1
#: Shape of the heavy tail: the standard deviation of the logarithm. Of requests that take 0.1 s on average, half take
#: than 0.033 s, one in a hundred more than 1 s, one in a thousand more than 3 s.
TAIL: Final = 1.5


class Workload(enum.Enum):
    """How the times that requests take are distributed."""

    EXPONENTIAL = "exponential"
    #: Log-normal, by `TAIL`.
    HEAVY = "heavy-tailed"


class Plan(Struct, frozen=True, kw_only=True):
    """What is simulated. There is one worker process for each node.

    Raises:
        ValueError: a number is 0 or below.
    """

    placing: Placing
    nodes: int
    #: What arrives, as a part of what all workers together can do.
    load: float
    workload: Workload = Workload.EXPONENTIAL
    #: True: each node is a cluster of its own, whose worker reads nothing else, and servers spread their requests.
    #: False: one cluster, whose workers read all of its nodes.
    apart: bool = True
    #: Whether nobody reads the first node from one half to three quarters of the time. A worker of its own finishes
    #: what it has taken.
    failing: bool = False
    seconds: float = 60.0
    servers: int = 4
    #: What one worker process does at once.
    slots: int = 4
    #: What a request takes on average.
    service_s: float = 0.1
    #: Below the product's default (30 s), so that a failure of a quarter of `seconds` is long enough to reach it.
    queue_timeout_s: float = 10.0
    seed: int = 1
    #: How often it is repeated, each time with other requests. Figures are of all runs together.
    runs: int = 1

    def __post_init__(self) -> None:
        for name in ("nodes", "load", "seconds", "servers", "slots", "service_s", "queue_timeout_s", "runs"):
            if not getattr(self, name) > 0:
                raise ValueError(f"plan.{name}: must be above 0, got {getattr(self, name)}")


class Figures(Struct, frozen=True, kw_only=True):
    """What came of it: arrived = served + waiting + timed_out.

    Each request that arrived counts in the waiting times, which are in seconds: one that has timed out with the whole
    of `Plan.queue_timeout_s`, one that waits at the end with its time so far.
    """

    arrived: int
    #: Taken by a worker.
    served: int
    waiting: int
    timed_out: int
    #: How often one was withdrawn, and offered elsewhere.
    spilled: int
    mean_s: float
    p50_s: float
    p99_s: float
    max_s: float
    #: Over all nodes and the whole time.
    mean_queue: float
    longest_queue: int
    #: The 99th percentile of the waiting times of what arrived in each second.
    course_s: tuple[float, ...]
    #: The part of each run's requests that timed out.
    lost: tuple[float, ...]
    #: The part of each second's pushes, spilled requests included, that went to the first node.
    shares: tuple[float, ...]


class _Server:
    """Offers requests, and spills those that stand for too long, as `ifserver.front.exchanges` does."""

    def __init__(self, world: _World, placer: Placer) -> None:
        self._world = world
        self._placer = placer
        #: Whether it asks who reads.
        self.asks = placer.asks
        #: What stands on each node, oldest first. What no longer does is dropped when it comes to the front.
        self._standing: dict[str, deque[Request]] = {name: deque() for name in world.nodes}

    def offer(self, request: Request, but: tuple[str, ...] = ()) -> None:
        """Place `request`."""
        now = self._world.agenda.now
        node = self._world.nodes[self._placer.choose(now, but)]
        request.since = now
        if self._placer.watches:
            self._standing[node.name].append(request)
        self._placer.told(node.name, node.push(request), now)

    def claimed(self, request: Request, node: Node) -> None:
        """A worker has taken `request`."""
        self._world.served += 1
        if self._placer.watches:
            if self._oldest(node) is None:
                self._placer.emptied(node.name)
            if self._world.agenda.now - request.since < SPILL_AFTER_S:
                self._placer.claimed(node.name)

    def look(self) -> None:
        """Look for requests that have stood for too long, now and again."""
        if not self._placer.watches:
            return
        now = self._world.agenda.now
        for node in self._world.nodes.values():
            oldest = self._oldest(node)
            if oldest is not None and now - oldest.since >= SPILL_AFTER_S and self._placer.behind(node.name, now):
                self._spill(node, now)
        self._world.agenda.later(LOOK_S, self.look)

    def ask(self) -> None:
        """Ask the nodes who reads, now and again, and take back what stands where nobody does."""
        world = self._world
        now = world.agenda.now
        for name in self._placer.read({name: now - beat < FRESH_S for name, beat in world.beats.items()}):
            for request in list(self._standing[name]):
                if request.node is world.nodes[name]:
                    self._move(request, request.node, ())
        world.agenda.later(ASK_S, self.ask)

    def _move(self, request: Request, node: Node, but: tuple[str, ...]) -> None:
        self._world.spilled += 1
        node.leave(request)
        self.offer(request, but)

    def _oldest(self, node: Node) -> Request | None:
        standing = self._standing[node.name]
        while standing and standing[0].node is not node:
            standing.popleft()
        return standing[0] if standing else None

    def _spill(self, node: Node, now: float) -> None:
        for request in list(self._standing[node.name]):
            if now - request.since < SPILL_AFTER_S:
                break
            if request.node is node and not request.spilled:
                request.spilled = True
                self._move(request, node, (node.name,))


class _World:
    """Everything that one run of a plan needs."""

    def __init__(self, plan: Plan, seed: str) -> None:
        self.plan = plan
        self.agenda = Agenda()
        self.nodes = {f"node-{index}": Node(f"node-{index}") for index in range(1, plan.nodes + 1)}
        self.served = self.timed_out = self.spilled = 0
        self.requests: list[Request] = []
        self.lengths: list[int] = []
        self.shares: list[float] = []
        self._waiting: deque[Request] = deque()
        self._pushes = (0, 0)
        #: When the supervisor of each node's workers has beaten there last.
        self.beats = dict.fromkeys(self.nodes, 0.0)
        # Of its own, so that every policy gets the same requests at the same times.
        self._chance = Random(seed)
        names = list(self.nodes)
        self._servers = [
            _Server(self, make_placer(plan.placing, names, plan.apart, index, plan.servers, seed))
            for index in range(plan.servers)
        ]

    def run(self) -> None:
        """From the beginning to the end."""
        plan, later = self.plan, self.agenda.later
        nodes = list(self.nodes.values())
        for node in nodes:
            Process(self.agenda, [node] if plan.apart else self._order(nodes), plan.slots).resume()
        if plan.failing:
            later(plan.seconds / 2, nodes[0].close)
            later(plan.seconds * 3 / 4, nodes[0].open)
        for index, node in enumerate(nodes):
            later(BEAT_S * index / plan.nodes, self._beat, node)
        for index, server in enumerate(self._servers):
            later(LOOK_S * index / plan.servers, server.look)
            # A server with one node has nothing to ask.
            if plan.nodes > 1 and server.asks:
                later(ASK_S * index / plan.servers, server.ask)
        later(SAMPLE_S, self._sample)
        later(1.0, self._share)
        self._next_arrival()
        self.agenda.run_until(plan.seconds)
        for request in self.requests:
            if request.node is not None:
                request.wait_s = plan.seconds - request.arrived

    def _beat(self, node: Node) -> None:
        """Say that the node is read. Whoever can no more was killed together with the workers."""
        if node.is_open:
            self.beats[node.name] = self.agenda.now
        self.agenda.later(BEAT_S, self._beat, node)

    def _order(self, nodes: list[Node]) -> list[Node]:
        """Processes do not go round in step."""
        return self._chance.sample(nodes, len(nodes))

    def _next_arrival(self) -> None:
        plan = self.plan
        rate = plan.load * plan.nodes * plan.slots / plan.service_s
        self.agenda.later(self._chance.expovariate(rate), self._arrive)

    def _arrive(self) -> None:
        server = self._chance.choice(self._servers)
        request = Request(self.agenda.now, self._service_s(), server)
        self.requests.append(request)
        server.offer(request)
        if not self._waiting:
            self.agenda.later(self.plan.queue_timeout_s, self._expire)
        self._waiting.append(request)
        self._next_arrival()

    def _service_s(self) -> float:
        mean = self.plan.service_s
        if self.plan.workload is Workload.EXPONENTIAL:
            return self._chance.expovariate(1 / mean)
        return self._chance.lognormvariate(math.log(mean) - TAIL * TAIL / 2, TAIL)

    def _expire(self) -> None:
        """Take back the oldest request, if it still stands, and look again when the next is due."""
        waiting, timeout = self._waiting, self.plan.queue_timeout_s
        request = waiting.popleft()
        if request.node is not None:
            request.node.leave(request)
            request.wait_s = timeout
            self.timed_out += 1
        while waiting and waiting[0].node is None:
            waiting.popleft()
        if waiting:
            self.agenda.later(waiting[0].arrived + timeout - self.agenda.now, self._expire)

    def _sample(self) -> None:
        self.lengths += [node.length for node in self.nodes.values()]
        self.agenda.later(SAMPLE_S, self._sample)

    def _share(self) -> None:
        pushes = next(iter(self.nodes.values())).offers, sum(node.offers for node in self.nodes.values())
        first, every = pushes[0] - self._pushes[0], pushes[1] - self._pushes[1]
        self.shares.append(first / every if every else 0.0)
        self._pushes = pushes
        self.agenda.later(1.0, self._share)


def simulate(plan: Plan) -> Figures:
    """Carry out `plan`. The same plan gives the same figures."""
    worlds = [_run(plan, f"{plan.seed} {index}") for index in range(plan.runs)]
    requests = [request for world in worlds for request in world.requests]
    waits = sorted(request.wait_s for request in requests) or [0.0]
    lengths = [length for world in worlds for length in world.lengths] or [0]
    return Figures(
        arrived=len(requests),
        served=sum(world.served for world in worlds),
        waiting=sum(node.length for world in worlds for node in world.nodes.values()),
        timed_out=sum(world.timed_out for world in worlds),
        spilled=sum(world.spilled for world in worlds),
        mean_s=fmean(waits),
        p50_s=percentile(waits, 50),
        p99_s=percentile(waits, 99),
        max_s=waits[-1],
        mean_queue=fmean(lengths),
        longest_queue=max(lengths),
        course_s=_course(requests, plan.seconds),
        lost=tuple(world.timed_out / max(1, len(world.requests)) for world in worlds),
        shares=tuple(fmean(shares) for shares in zip(*(world.shares for world in worlds), strict=True)),
    )


def _run(plan: Plan, seed: str) -> _World:
    # The policy draws from the module `random` itself; what others would have drawn from it is put back.
    before = random.getstate()
    random.seed(seed)
    try:
        world = _World(plan, seed)
        world.run()
    finally:
        random.setstate(before)
    return world


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of `ordered` (ascending, at least one) that `percent` of them do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _course(requests: Sequence[Request], seconds: float) -> tuple[float, ...]:
    by_second: list[list[float]] = [[] for _ in range(math.ceil(seconds))]
    for request in requests:
        by_second[int(request.arrived)].append(request.wait_s)
    return tuple(percentile(sorted(waits), 99) if waits else 0.0 for waits in by_second)
