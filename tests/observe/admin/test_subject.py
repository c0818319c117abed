"""What is shown of a supervisor, and of a server."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver import channels
from ifserver.layers.clusters import Clusters
from ifserver.layers.presence import Heartbeat
from ifserver.metrics import Counters
from ifserver.observe.admin.subject import SupervisorSubject
from ifserver.observe.admin.survey import Survey, Surveyor
from ifserver.process.workers import Worker
from ifserver.status import MAX_GROUPS, MAX_STREAMS, Child, GroupStatus, StreamStatus, decode_facts
from ifserver.worker_ledger import Ledger
from tests.front.exchanges.test_groups import join, member
from tests.front.fakes import EPOCH_S, GET, HANDSHAKE, SERVER, WORKER
from tests.observe.admin.stage import Stage, supervisor_facts
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
    taken = Worker.taken

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


class FakeWorkers(list[FakeWorker]):
    def counts(self) -> dict[str, int]:
        return {"claims": 5}


class FakeSupervisor:
    def __init__(self, workers: tuple[FakeWorker, ...]) -> None:
        self.workers = FakeWorkers(workers)
        self.pools: list[Any] = []

    def statistics(self) -> dict[str, int]:
        return {}


def supervisor(stage: Stage, *workers: FakeWorker, reports_counts: bool = False) -> SupervisorSubject:
    clock = Clock()
    nodes: Any = {"east": [stage.world.node]}
    clusters = Clusters("sssssssss0", nodes, "east", clock, lambda call: call(), Counters())
    clusters.counters.add("messages_sent", 2)
    heartbeat = Heartbeat(clusters, list, clock, 3.0, bytes, dict, print)
    fake: Any = FakeSupervisor(workers)
    return SupervisorSubject(fake, clusters, heartbeat, clock, stage.world.wall, reports_counts)


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
    facts = supervisor(Stage(), reports_counts=True).facts()
    assert facts.counts == {"claims": 5, "messages_sent": 2}


def test_a_supervisor_without_workers_is_not_ready() -> None:
    stage = Stage()
    subject = supervisor(stage, FakeWorker(3))
    assert subject.unready(survey(stage)) == ["no worker of this supervisor is ready"]
    stage.world.node.stop()
    assert len(subject.unready(survey(stage))) == 2


def test_the_facts_of_a_server() -> None:
    stage = Stage(queue_timeout_s=12.0)
    stage.world.client(GET)
    stage.world.client()
    facts = decode_facts(stage.subject.encoded_facts())
    assert facts is not None
    assert (facts.process, facts.kind, facts.node) == (SERVER, "server", "east")
    assert (facts.listening, facts.connections, facts.streams, facts.queue_timeout_s) == (True, 2, 1, 12.0)
    stage.listening = False
    assert not stage.subject.facts().listening


def test_when_it_was_started_is_told_by_the_clock_as_it_is_set_now() -> None:
    stage = Stage()
    stage.world.advance(10)
    assert stage.subject.facts().started_at == EPOCH_S
    stage.world.stepped_s = 3600.0
    status = stage.subject.status(survey(stage))
    assert (status.now, status.me.started_at) == (EPOCH_S + 3610, EPOCH_S + 3600)


def test_a_server_that_drains_does_not_listen() -> None:
    stage = Stage()
    stage.world.client(GET)
    stage.world.drain()
    assert not stage.subject.facts().listening


def test_what_is_wrong_with_the_facts_does_not_end_the_beats(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage()
    monkeypatch.setattr(stage.subject, "facts", lambda: 1 / 0)
    with caplog.at_level(logging.ERROR):
        assert stage.subject.encoded_facts() == stage.subject.encoded_facts() == b""
    assert caplog.text.count("cannot be collected") == 1


def test_groups_largest_first() -> None:
    stage = Stage()
    assert stage.subject.status(survey(stage)).groups == ()
    _, job = member(stage.world, group="small", tag="ann")
    _, other = member(stage.world, group="large")
    join(job, "large")
    for i in range(MAX_GROUPS):
        join(other, f"g{i}")
    status = stage.subject.status(survey(stage))
    assert status.groups[0] == GroupStatus(name="large", members=2)
    assert [each.members for each in status.groups[1:]] == [1] * (MAX_GROUPS - 1)
    assert (status.groups_total, status.group_members) == (MAX_GROUPS + 2, MAX_GROUPS + 3)
    assert stage.subject.members("small") == [(job.stream, "ann")]
    assert stage.subject.members("nobody") == []


def test_streams_oldest_first() -> None:
    stage = Stage()
    stage.world.client(GET.replace(b" / ", b" /old?secret=1 "))
    stage.world.advance(1.0)
    stage.world.client(HANDSHAKE)
    job = stage.world.worker.job()
    job.claim()
    stage.world.advance(0.5)
    old, new = stage.subject.streams()
    assert old == StreamStatus(
        channel=job.request.reply_channel,
        kind="http",
        state="claimed",
        age_s=1.5,
        owner=channels.process_of(WORKER),
        method="GET",
        path="/old",
    )
    assert (new.kind, new.state, new.age_s, new.owner, new.path) == ("websocket", "queued", 0.5, "", "/chat")
    job.respond(body=b"x", more_body=True)
    stage.world.worker.job(channels.WEBSOCKET_CONNECT).accept()
    stage.world.settle()
    assert [each.state for each in stage.subject.streams()] == ["responding", "open"]


def test_what_a_client_has_not_taken() -> None:
    stage = Stage()
    client: Any = stage.world.client(GET)
    client.buffered = lambda: 1234
    assert [each.unsent_bytes for each in stage.subject.streams()] == [1234]


def test_of_many_streams_some_are_shown() -> None:
    stage = Stage()
    for _ in range(3):
        stage.world.client(*[GET])
    stage.world.server.exchanges.registry |= {
        str(i): exchange for i, exchange in enumerate([*stage.world.server.exchanges.registry.values()] * 1000)
    }
    status = stage.subject.status(survey(stage))
    assert (len(status.streams), status.streams_total) == (MAX_STREAMS, 3003)


def test_the_status_of_a_server() -> None:
    stage = Stage()
    status = stage.subject.status(survey(stage))
    assert status.me.process == SERVER
    assert {facts.process for facts in status.processes} == {SERVER, "supervisor"}
    assert set(status.counts) == {"server"}
    assert status.unready == ()


def test_a_parent_speaks_for_the_workers_too() -> None:
    stage = Stage(parent=True)
    for process, claims in (("1111111111", 3), ("2222222222", 4)):
        stage.beat(supervisor_facts(Child(pid=3, ready=True), process=process, counts={"claims": claims}))
    found = survey(stage)
    assert stage.subject.counts(found)["workers"] == {"claims": 7}
    assert len(stage.subject.supervisors(found)) == 3
    assert Stage().subject.supervisors(found) == []
