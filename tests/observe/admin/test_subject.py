"""What a supervisor tells of itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock

from ifserver.layers.clusters import Clusters
from ifserver.layers.heartbeat import Heartbeat
from ifserver.metrics import Counters
from ifserver.observe.admin.subject import SupervisorSubject
from ifserver.observe.admin.survey import Survey, Surveyor
from ifserver.process.slots import Worker
from ifserver.status import Child, StreamStatus
from ifserver.worker_ledger import Ledger
from tests.observe.admin.stage import Stage
from tests.process.test_supervisor import Stage as WorkerStage


def survey(stage: Stage) -> Survey:
    found: list[Any] = []
    Surveyor(stage.world.clusters, stage.world.clock, stage.subject.pools).survey().addCallback(found.append)
    [one] = found
    assert isinstance(one, Survey)
    return one


class FakeWorker:
    """A worker whose memory is the test's."""

    inbox = Worker.inbox
    process = Worker.process

    def __init__(self, pid: int, ready: bool = False, inbox: str = "") -> None:
        self.child = SimpleNamespace(pid=pid)
        self.ready = ready
        self.memory = bytearray(Ledger.size(8))
        self.ledger = Ledger(self.memory, 8)
        self.pool = SimpleNamespace(name="")
        if inbox:
            self.ledger.inbox = inbox

    def hold(self, **gauges: int) -> None:
        for name, value in gauges.items():
            Counters(self.ledger.cells).set(name, value)


class FakeSupervisor:
    def __init__(self, workers: tuple[FakeWorker, ...]) -> None:
        self.workers = list(workers)
        self.pools: list[Any] = []

    def counts(self) -> dict[str, int]:
        return {"claims": 5}

    def statistics(self) -> dict[str, int]:
        return {}


def supervisor(stage: Stage, *workers: FakeWorker, tells_counts: bool = False) -> SupervisorSubject:
    clock = Clock()
    nodes: Any = {"east": [stage.world.node]}
    clusters = Clusters("sssssssss0", nodes, "east", clock, lambda call: call(), Counters())
    clusters.counters.add("messages_sent", 2)
    heartbeat = Heartbeat(clusters, list, clock, 3.0, bytes, dict, print)
    fake: Any = FakeSupervisor(workers)
    return SupervisorSubject(fake, clusters, heartbeat, clock, stage.world.wall, tells_counts)


def test_a_supervisor() -> None:
    stage = Stage()
    worker, starting = FakeWorker(3, True, "!east.1111111111"), FakeWorker(4)
    worker.ledger.enter("!east.front00000.1", 0)
    worker.hold(streams_held=3, streams_unanswered=2, slots_free=7)
    subject = supervisor(stage, worker, starting)
    facts = subject.facts()
    children = (
        Child(pid=3, process="1111111111", ready=True, streams=3, unanswered=2, free=7),
        Child(pid=4),
    )
    assert (facts.kind, facts.children, facts.counts) == ("supervisor", children, {})
    found = survey(stage)
    assert subject.unready(found) == []
    assert subject.counts(found) == {"supervisor": {"messages_sent": 2}, "workers": {"claims": 5}}
    assert subject.supervisors(found) == [facts]
    assert subject.streams() == [StreamStatus(channel="!east.front00000.1", kind="", owner="1111111111")]
    assert not subject.close("!east.front00000.1")
    assert (subject.group_sizes(), subject.members("news"), subject.section) == ({}, [], "worker")


def test_a_worker_that_has_overwritten_its_memory_is_no_trouble() -> None:
    worker = FakeWorker(3)
    worker.memory[9] = 1
    worker.memory[32:40] = b"nonsense"
    worker.ledger.enter("!east.front00000.1", 0)
    subject = supervisor(Stage(), worker)
    assert subject.facts().children == (Child(pid=3),)
    assert subject.streams() == [StreamStatus(channel="!east.front00000.1", kind="", owner="")]


def test_the_workers_are_those_that_live_oldest_first() -> None:
    workers = WorkerStage(processes=2)
    subject = supervisor(Stage())
    subject.supervisor = workers.supervisor
    first, _ = workers.start(ready=False)
    assert [(child.pid, child.ready) for child in subject.facts().children] == [(101, False), (102, False)]
    first.say_ready()
    workers.supervisor.restart()
    assert [(child.pid, child.ready) for child in subject.facts().children] == [
        (101, True),
        (102, False),
        (103, False),
    ]
    first.end()
    assert [child.pid for child in subject.facts().children] == [102, 103]


def test_a_supervisor_that_has_no_endpoint_tells_its_counts() -> None:
    facts = supervisor(Stage(), tells_counts=True).facts()
    assert facts.counts == {"claims": 5, "messages_sent": 2}


def test_a_supervisor_without_workers_is_not_ready() -> None:
    stage = Stage()
    subject = supervisor(stage, FakeWorker(3))
    assert subject.unready(survey(stage)) == ["no worker of this supervisor is ready"]
    stage.world.node.stop()
    assert len(subject.unready(survey(stage))) == 2
