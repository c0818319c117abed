"""What nodes and servers answer: whether they do, what waits there, which processes live, how pools share requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.python.failure import Failure

from ifserver import channels
from ifserver.errors import IfserverError, NodeError
from ifserver.messages import decode_request
from ifserver.metrics import quantile
from ifserver.status import ClusterStatus, Facts, NodeStatus, PoolStatus, QueueStatus, decode_facts, facts_of

if TYPE_CHECKING:
    from ifserver.layers.clusters import Clusters
    from ifserver.layers.node import Node, Queue
    from ifserver.layers.operator_orders import Here, Order, PoolHere

__all__ = ["ANSWER_S", "Survey", "Surveyor", "agreed", "side_by_side"]

#: How long a node may take to answer, in seconds: probes and people wait for that.
ANSWER_S: Final = 1.0


class Survey(NamedTuple):
    """What the nodes have answered."""

    clusters: tuple[ClusterStatus, ...]
    #: By process name, as seen on any node.
    processes: dict[str, Facts]

    def node(self, name: str) -> NodeStatus:
        """One node."""
        return next(node for cluster in self.clusters for node in cluster.nodes if node.name == name)

    def workers(self) -> int:
        """How many workers are ready, of all supervisors."""
        return sum(child.ready for facts in self.processes.values() for child in facts.children)


class _Answer(NamedTuple):
    """What one node has answered, or `why` it has not."""

    node: Node
    why: str
    round_trip_s: float | None = None
    #: By their channels.
    queues: Mapping[str, Queue] = MappingProxyType({})
    census: Mapping[str, bytes] = MappingProxyType({})


class Surveyor:
    """Asks all nodes of `clusters`. A question while that is under way gets the same answer.

    Args:
        clock: the reactor.
        pools: the names of the pools whose request channels are looked at; none: there is only that without a name.
    """

    def __init__(self, clusters: Clusters, clock: Any, pools: Callable[[], Sequence[str]] = tuple) -> None:
        self._clusters = clusters
        self._clock = clock
        self._pools = pools
        self._waiting: dict[Deferred[Survey], None] = {}
        self._asking = False

    def survey(self) -> Deferred[Survey]:
        """Ask; fires within `ANSWER_S` for each of a few questions. May be cancelled."""
        waiting: Deferred[Survey] = Deferred(lambda cancelled: self._waiting.pop(cancelled, None))
        self._waiting[waiting] = None
        if not self._asking:
            self._asking = True
            Deferred.fromCoroutine(self._survey()).addBoth(self._answered)
        return waiting

    def _answered(self, result: Survey | Failure) -> None:
        self._asking = False
        waiting, self._waiting = self._waiting, {}
        for each in waiting:
            # A Failure makes it fail.
            each.callback(result)

    async def _survey(self) -> Survey:
        nodes = self._clusters.nodes.values()
        looked_at = [
            channels.of_pool(pool, name) for pool in self._pools() or [""] for name in channels.REQUEST_CHANNELS
        ]
        asking = [Deferred.fromCoroutine(self._ask(node, looked_at)) for node in nodes]
        answers = await gatherResults(asking, consumeErrors=True)
        by_name = {answer.node.name: answer for answer in answers}
        processes: dict[str, Facts] = {}
        for answer in answers:
            for process, value in answer.census.items():
                facts = decode_facts(facts_of(value))
                if facts is not None and facts.process == process:
                    processes[process] = facts
        home = {node.name for node in self._clusters.home_nodes}
        clusters = [
            ClusterStatus(
                name=name,
                home=any(node.name in home for node in members),
                nodes=tuple(_status(by_name[node.name], processes) for node in members),
            )
            for name, members in self._clusters.clusters.items()
        ]
        return Survey(tuple(clusters), processes)

    async def _ask(self, node: Node, looked_at: Sequence[str]) -> _Answer:
        if not node.connected:
            return _Answer(node, "there is no connection")
        began_at = self._clock.seconds()
        try:
            queues = {looked_at[0]: await self._within(node.look(looked_at[0]))}
            round_trip_s = self._clock.seconds() - began_at
            for channel in looked_at[1:]:
                queues[channel] = await self._within(node.look(channel))
            census = await self._within(node.census())
        except NodeError as error:
            return _Answer(node, str(error).removeprefix(f"node {node.name}: "))
        except TimeoutError:
            return _Answer(node, f"no answer within {ANSWER_S:g} s")
        return _Answer(node, "", round_trip_s, queues, census)

    def _within(self, asking: Deferred[Any]) -> Deferred[Any]:
        return asking.addTimeout(ANSWER_S, self._clock)


def _status(answer: _Answer, processes: dict[str, Facts]) -> NodeStatus:
    node = answer.node
    return NodeStatus(
        name=node.name,
        answers=not answer.why,
        round_trip_s=answer.round_trip_s,
        unreachable_s=round(node.unreachable_s(), 3),
        why=answer.why,
        queues=tuple(
            QueueStatus(channel=channel, length=queue.length, age_s=_age_s(node, channel, queue, processes))
            for channel, queue in answer.queues.items()
        ),
    )


def _age_s(node: Node, channel: str, queue: Queue, processes: dict[str, Facts]) -> float | None:
    """How long the oldest has waited: when it came follows from its deadline and its server's ``queue_timeout``."""
    if queue.oldest is None or channels.is_resumption(channel):
        return None  # open WebSockets wait longer than requests, by a time that is not known
    try:
        request = decode_request(queue.oldest)
        facts = processes.get(channels.process_of(channels.check(request.reply_channel)))
    except IfserverError:
        return None
    if facts is None:
        return None  # its server has ended
    return max(0.0, round(node.clock() - (request.deadline - facts.queue_timeout_s), 3))


# Pools.


def side_by_side(here: Sequence[Here[Order]]) -> list[PoolStatus]:
    """What several servers report of their pools, as that of one.

    The weights are those of the first that knows of any: servers read new settings one after the other.
    """
    by_name: dict[str, list[PoolHere]] = {}
    for server in here:
        for pool in server.pools:
            by_name.setdefault(pool.name, []).append(pool)
    return [_summed(pools) for pools in by_name.values()]


def agreed(here: Sequence[Here[Order]]) -> bool:
    """Whether all servers share requests in the same way."""
    shares = ({pool.name: (pool.canary_of, pool.weight) for pool in server.pools if pool.weight} for server in here)
    return len({frozenset(each.items()) for each in shares}) <= 1


def _summed(pools: Sequence[PoolHere]) -> PoolStatus:
    first = next((pool for pool in pools if pool.weight is not None), pools[0])
    times = [sum(counts) for counts in zip(*(pool.times for pool in pools), strict=False)]
    p50_s, p95_s, p99_s = (_rounded(quantile(times, part)) for part in (0.5, 0.95, 0.99))
    return PoolStatus(
        name=first.name,
        canary_of=first.canary_of,
        weight=first.weight,
        is_ordered=first.is_ordered,
        requests=sum(pool.requests for pool in pools),
        errors=sum(pool.errors for pool in pools),
        p50_s=p50_s,
        p95_s=p95_s,
        p99_s=p99_s,
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
