"""``/metrics``: everything that is counted, made into samples for Prometheus at each scrape.

Each family is named here, once, with its help; what counters mean is in `ifserver.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf, isinf
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ifserver.metrics import COUNTERS, LAG_BOUNDS_S, LOOP_LAG
from ifserver.observe.admin.subject import ServerSubject, SupervisorSubject, states_of, tallies_of, unsent_bytes
from ifserver.state_machines import http, websocket

if TYPE_CHECKING:
    from ifserver.front.request_metrics import RequestMetrics
    from ifserver.front.server import InterfaceServer
    from ifserver.metrics import Histogram
    from ifserver.observe.admin.subject import Subject
    from ifserver.observe.admin.survey import Survey
    from ifserver.status import Child, Facts

__all__ = ["Scrape"]

_PREFIX: Final = "ifserver_"
#: The label of what is counted for each pool, where there are pools.
_POOL: Final = ("pool",)
_STATES: Final = [("http", state.name.lower()) for state in http.State if state is not http.State.DONE] + [
    ("websocket", state.name.lower()) for state in websocket.State if state is not websocket.State.DONE
]


class Scrape(Collector):
    """The metrics of `subject`."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._survey: Survey | None = None
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        # Memory, CPU time and open files of this process.
        ProcessCollector(registry=self._registry)

    def text(self, survey: Survey, accept: str) -> tuple[bytes, str]:
        """The metrics as text, in a format that `accept` allows (Prometheus' own, or OpenMetrics), and its type."""
        encoder, content_type = choose_encoder(accept)
        self._survey = survey
        try:
            return encoder(self._registry), content_type
        finally:
            self._survey = None

    def describe(self) -> list[Metric]:
        return []  # no other collector is registered whose names could be the same

    def collect(self) -> Iterator[Metric]:
        survey, subject = self._survey, self._subject
        if survey is None:
            return
        yield _info(subject.facts())
        counts = subject.counts(survey)
        yield from _counters(counts)
        yield _loop_lag(counts)
        yield from _nodes(survey)
        yield _round_trips(subject, survey)
        yield _gauge(
            "messages_waiting", "Messages to processes that no node has taken yet.", subject.clusters.waiting()
        )
        yield _processes(survey)
        yield from _slots(subject.supervisors(survey), subject.pools())
        if isinstance(subject, ServerSubject):
            yield from _clients(subject)
        if isinstance(subject, SupervisorSubject):
            yield from _workers(subject)


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, help, value=value)


def _by_label(name: str, help: str, labels: Sequence[str], values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, help, labels=labels)
    for label, value in values.items():
        family.add_metric(label, value)
    return family


def _histogram(name: str, help: str, labels: Sequence[str], histograms: Mapping[Any, Histogram]) -> Metric:
    family = HistogramMetricFamily(_PREFIX + name, help, labels=labels)
    for label, histogram in histograms.items():
        family.add_metric(label, *_buckets(histogram.bounds_s, histogram.counts, histogram.sum_s))
    return family


def _buckets(bounds: Sequence[float], counted: Sequence[int], sum_s: float) -> tuple[list[tuple[str, float]], float]:
    """As Prometheus has them: each bucket with all that are below it."""
    total = 0.0
    found = []
    for bound, count in zip((*bounds, inf), counted, strict=True):
        total += count
        found.append(("+Inf" if isinf(bound) else str(bound), total))
    return found, sum_s


def _info(facts: Facts) -> Metric:
    labels = {"process": facts.process, "kind": facts.kind, "version": facts.version, "host": facts.host}
    help = "1, and in its labels which process this is."
    return _by_label("process_info", help, tuple(labels), {tuple(labels.values()): 1})


def _counters(counts: Mapping[str, Mapping[str, int]]) -> Iterator[Metric]:
    for name, description in COUNTERS.items():
        labels = ("role", description.label) if description.label else ("role",)
        family = CounterMetricFamily(_PREFIX + name, description.help, labels=labels)
        for role, counted in counts.items():
            if not description.label:
                family.add_metric((role,), counted.get(name, 0))
                continue
            # Those that are known are there from the first, or no rate of them could be had when it matters.
            values = dict.fromkeys(description.values, 0)
            start = f"{name}{{"
            values |= {key[len(start) : -1]: n for key, n in counted.items() if key.startswith(start)}
            for value, n in values.items():
                family.add_metric((role, value), n)
        yield family


def _loop_lag(counts: Mapping[str, Mapping[str, int]]) -> Metric:
    help = "How late event loops were for what was due, looked at twice a second. Of several workers: all together."
    family = HistogramMetricFamily(_PREFIX + LOOP_LAG, help, labels=("role",))
    for role, counted in counts.items():
        buckets = [counted.get(f"{LOOP_LAG}{{{bound}}}", 0) for bound in (*LAG_BOUNDS_S, "inf")]
        sum_s = counted.get(f"{LOOP_LAG}{{sum_us}}", 0) / 1e6
        family.add_metric((role,), *_buckets(LAG_BOUNDS_S, buckets, sum_s))
    return family


def _nodes(survey: Survey) -> Iterator[Metric]:
    nodes = [(cluster.name, node) for cluster in survey.clusters for node in cluster.nodes]
    of_node, of_queue = ("cluster", "node"), ("cluster", "node", "channel")
    up = {(cluster, node.name): float(node.answers) for cluster, node in nodes}
    yield _by_label("node_up", "Whether the node has answered just now.", of_node, up)
    silent = {(cluster, node.name): node.unreachable_s for cluster, node in nodes}
    yield _by_label("node_unreachable_seconds", "How long the node has given no sign of life.", of_node, silent)
    lengths, ages = {}, {}
    for cluster, node in nodes:
        for queue in node.queues:
            key = cluster, node.name, queue.channel
            lengths[key] = float(queue.length)
            if queue.age_s is not None or not queue.length:
                ages[key] = queue.age_s or 0.0
    yield _by_label("queue_length", "Requests that wait on the node for a worker.", of_queue, lengths)
    yield _by_label("queue_age_seconds", "How long the oldest of them has waited; 0: none waits.", of_queue, ages)


def _round_trips(subject: Subject, survey: Survey) -> Metric:
    help = "How long a node takes to answer, measured by beats, twice a second."
    family = HistogramMetricFamily(_PREFIX + "node_round_trip_seconds", help, labels=("cluster", "node"))
    for cluster in survey.clusters:
        for node in cluster.nodes:
            measured = subject.heartbeat.round_trips[node.name]
            family.add_metric((cluster.name, node.name), *_buckets(measured.bounds_s, measured.counts, measured.sum_s))
    return family


def _processes(survey: Survey) -> Metric:
    seen = {("server",): 0.0, ("supervisor",): 0.0, ("worker",): float(survey.workers())}
    for facts in survey.processes.values():
        seen[(facts.kind,)] += 1
    return _by_label(
        "processes_seen", "Living processes that are seen on any node; workers: that are ready.", ("kind",), seen
    )


def _slots(supervisors: Iterable[Facts], pools: Sequence[str]) -> Iterator[Metric]:
    children = [child for facts in supervisors for child in facts.children]
    counted: tuple[tuple[str, str, Callable[[Child], int]], ...] = (
        ("worker_streams", "Streams that the workers hold.", lambda child: child.streams),
        (
            "worker_unanswered",
            "Those of them that hold a slot: neither begun to answer, nor waiting for their client.",
            lambda child: child.unanswered,
        ),
        (
            "worker_slots_free",
            "How many more requests the workers would take now.",
            lambda child: child.free if child.ready else 0,
        ),
    )
    for name, help, count in counted:
        if not pools:
            yield _gauge(name, help, sum(map(count, children)))
            continue
        values = dict.fromkeys(((pool,) for pool in pools), 0.0)
        for child in children:
            values[child.pool,] = values.get((child.pool,), 0.0) + count(child)
        yield _by_label(name, help, _POOL, values)


def _workers(subject: SupervisorSubject) -> Iterator[Metric]:
    workers, statistics = subject.supervisor.workers, subject.supervisor.statistics()
    states: dict[tuple[str, ...], float]
    labels: tuple[str, ...] = ("state",)
    if pools := subject.pools():
        labels = "state", *_POOL
        states = {(state, pool): float(count) for pool in pools for state, count in workers.states(pool).items()}
    else:
        states = {(state,): float(statistics[f"workers_{state}"]) for state in ("ready", "starting", "draining")}
    yield _by_label("workers", "Worker processes of this supervisor.", labels, states)
    for name, help in (
        ("workers_started", "Worker processes that were started."),
        ("workers_ended", "Worker processes that have ended, for whatever reason."),
        ("streams_released", "Streams that were held by a worker when it ended, and were given back."),
    ):
        yield CounterMetricFamily(_PREFIX + name, help, value=statistics[name])


def _requests(server: InterfaceServer) -> Iterator[Metric]:
    """What is counted of requests; where there are pools, of those of each, and with an empty name of the rest."""
    labels: tuple[str, ...] = ()
    tallies: dict[tuple[str, ...], RequestMetrics] = {(): server.exchanges.tally}
    if server.exchanges.tallies is not None:
        labels = _POOL
        tallies = {(tally.pool,): tally for tally in tallies_of(server)}
    requests = CounterMetricFamily(
        _PREFIX + "requests",
        "Requests by the status of the answer; 0: the client left before one.",
        labels=("status", *labels),
    )
    for label, tally in tallies.items():
        for status, count in sorted(tally.requests.items()):
            requests.add_metric((str(status), *label), count)
    yield requests
    for name, help, histograms in (
        (
            "queue_wait_seconds",
            "From a request's offer until a worker had it.",
            {label: tally.queue_wait for label, tally in tallies.items()},
        ),
        (
            "first_byte_seconds",
            "From a request's head until its response began.",
            {label: tally.first_byte for label, tally in tallies.items()},
        ),
        (
            "request_duration_seconds",
            "From a request's head until its response was complete.",
            {label: tally.duration for label, tally in tallies.items()},
        ),
    ):
        yield _histogram(name, help, labels, histograms)


def _clients(subject: ServerSubject) -> Iterator[Metric]:
    server = subject.server
    tally = server.exchanges.tally
    websockets = sum(each.kind == "websocket" for each in server.connections)
    connections = {("http",): float(len(server.connections) - websockets), ("websocket",): float(websockets)}
    paused = {(pool or "all",): left_s for pool, left_s in server.exchanges.pauses.left_s().items()}
    yield _by_label("pause_left_seconds", "How long a pool will be paused. all: every pool.", _POOL, paused)
    shares = {} if server.exchanges.router is None else server.exchanges.router.weights
    weights = {(name,): weight for each in shares.values() for name, weight in each.items()}
    yield _by_label("pool_weight", "The weights of pools that share requests.", _POOL, weights)
    yield _gauge("paused_requests", "Requests that wait for the end of a pause.", server.exchanges.pauses.waiting)
    yield _by_label("connections", "Clients' connections that are open.", ("kind",), connections)
    exchanges = server.exchanges.registry.values()
    states = dict.fromkeys(_STATES, 0.0) | states_of(exchanges)
    yield _by_label("streams", "Streams by what they wait for.", ("kind", "state"), states)
    unsent = sum(map(unsent_bytes, exchanges))
    yield _gauge("unsent_bytes", "Bytes that clients have not taken yet, in this process' memory.", unsent)
    yield _gauge("slow_clients", "Connections whose clients do not take what is due to them.", len(server.slow_clients))
    groups = subject.group_sizes()
    yield _gauge("groups", "Groups that streams of this server are in.", len(groups))
    yield _gauge(
        "group_members", "Memberships of this server's streams: one in two groups counts twice.", sum(groups.values())
    )
    yield from _requests(server)
    for name, help, http_bytes, websocket_bytes in (
        ("received_bytes", "Bytes that clients have sent.", tally.http_bytes_in, tally.websocket_bytes_in),
        ("sent_bytes", "Bytes that were sent to clients.", tally.http_bytes_out, tally.websocket_bytes_out),
    ):
        family = CounterMetricFamily(_PREFIX + name, help, labels=("kind",))
        family.add_metric(("http",), http_bytes)
        family.add_metric(("websocket",), websocket_bytes)
        yield family
