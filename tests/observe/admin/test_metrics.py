"""Metrics, as Prometheus reads them; and that the board and the documentation name no others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from ifserver import channels
from ifserver.config.pools import PoolSettings
from ifserver.front.exchanges.routing import Router
from ifserver.metrics import COUNTERS
from ifserver.observe.admin.metrics import Scrape
from ifserver.status import Child, encode_status
from tests.front.exchanges.test_groups import member
from tests.front.fakes import GET, HANDSHAKE
from tests.observe.admin.stage import Stage, supervisor_facts
from tests.observe.admin.test_subject import FakeSupervisor, FakeWorker, supervisor, survey
from tests.process.test_supervisor import Stage as WorkerStage
from tests.process.test_supervisor import two_pools

ROOT = Path(__file__).resolve().parents[3]
BOARD = ROOT / "packaging/grafana/ifserver.json"
PAGE = ROOT / "docs/reference/metrics.rst"
MONITORING = ROOT / "docs/howto/monitoring.rst"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def samples(stage: Stage) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels, these in the order of their names."""
    text, _ = Scrape(stage.subject).text(survey(stage), "")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in plain(text.decode())
        for sample in family.samples
    }


def test_a_server() -> None:
    stage = Stage(parent=True)
    stage.beat(supervisor_facts(Child(pid=3, ready=True, streams=4, unanswered=3, free=97), counts={"claims": 6}))
    world = stage.world
    world.client(GET)
    world.client(HANDSHAKE)
    world.worker.job(channels.WEBSOCKET_CONNECT).accept()
    world.settle()
    world.advance(0.2)
    world.worker.job().claim()
    world.client(GET)
    world.advance(0.02)
    found = samples(stage)
    assert found["ifserver_connections", "http"] == 2
    assert found["ifserver_connections", "websocket"] == 1
    assert found["ifserver_streams", "http", "claimed"] == found["ifserver_streams", "http", "queued"] == 1
    assert found["ifserver_streams", "websocket", "open"] == 1
    assert found["ifserver_streams", "websocket", "closing"] == 0
    assert found["ifserver_requests_total", "101"] == 1
    assert found["ifserver_queue_wait_seconds_bucket", "0.1"] == 1
    assert found["ifserver_queue_wait_seconds_bucket", "0.25"] == found["ifserver_queue_wait_seconds_count",] == 2
    assert found["ifserver_queue_wait_seconds_bucket", "+Inf"] == 2
    assert found["ifserver_queue_wait_seconds_sum",] == pytest.approx(0.2)
    assert found["ifserver_node_up", "east", "east"] == 1
    assert found["ifserver_queue_length", "http.request", "east", "east"] == 1
    assert found["ifserver_processes_seen", "worker"] == 1
    assert (found["ifserver_worker_streams",], found["ifserver_worker_slots_free",]) == (4, 97)
    assert found["ifserver_worker_unanswered",] == 3
    assert found["ifserver_claims_total", "workers"] == 6
    assert found["ifserver_claims_total", "server"] == 0
    assert found["ifserver_messages_dropped_total", "gap", "workers"] == 0
    assert found["ifserver_streams_opened_total", "websocket", "server"] == 1


def test_groups() -> None:
    stage = Stage()
    for group in ("news", "news", "sports"):
        member(stage.world, group=group)
    stage.world.clusters.groups.publish("news", text="x")
    stage.world.settle()
    found = samples(stage)
    assert (found["ifserver_groups",], found["ifserver_group_members",]) == (2, 3)
    assert found["ifserver_group_deliveries_total", "server"] == 2
    assert found["ifserver_group_drops_total", "slow", "server"] == 0


def test_an_age_is_0_where_nothing_waits_and_missing_where_it_is_not_known() -> None:
    stage = Stage()
    key = "ifserver_queue_age_seconds", "http.request", "east", "east"
    assert samples(stage)[key] == 0
    stage.world.client(GET)
    stage.world.settle()
    assert key not in samples(stage)


def test_lags_are_summed_up() -> None:
    stage = Stage()
    for seconds in (0.0001, 0.02, 9.0):
        stage.world.counters.late(seconds)
    found = samples(stage)
    assert found["ifserver_loop_lag_seconds_bucket", "0.0005", "server"] == 1
    assert found["ifserver_loop_lag_seconds_bucket", "0.025", "server"] == 2
    assert found["ifserver_loop_lag_seconds_count", "server"] == 3
    assert found["ifserver_loop_lag_seconds_sum", "server"] == pytest.approx(9.0201)


def test_a_node_that_is_down() -> None:
    stage = Stage()
    stage.world.node.stop()
    stage.world.advance(3.0)
    found = samples(stage)
    assert found["ifserver_node_up", "east", "east"] == 0
    assert found["ifserver_node_unreachable_seconds", "east", "east"] == 3
    assert ("ifserver_queue_length", "http.request", "east", "east") not in found


def test_refusals_are_there_once_they_were_counted() -> None:
    stage = Stage()
    stage.world.counters.add("requests_refused", label="503")
    assert samples(stage)["ifserver_requests_refused_total", "server", "503"] == 1


def supervised(stage: Stage) -> Scrape:
    worker = FakeWorker(3, ready=True)
    worker.hold(slots_free=9)
    subject = supervisor(stage, worker)
    statistics = {
        f"workers_{state}": i for i, state in enumerate(("ready", "starting", "draining", "started", "ended"))
    }
    fake: Any = FakeSupervisor((worker,))
    fake.statistics = lambda: {**statistics, "streams_released": 9}
    subject.supervisor = fake
    return Scrape(subject)


def test_a_supervisor() -> None:
    stage = Stage()
    text = supervised(stage).text(survey(stage), "")[0].decode()
    assert 'ifserver_workers{state="starting"} 1.0' in text
    assert "ifserver_workers_started_total 3.0" in text
    assert "ifserver_streams_released_total 9.0" in text
    assert 'ifserver_claims_total{role="workers"} 5.0' in text
    assert 'ifserver_messages_sent_total{role="supervisor"} 2.0' in text
    assert "ifserver_worker_slots_free 9.0" in text
    assert "ifserver_connections{" not in text


def test_both_formats_are_well_formed() -> None:
    stage = Stage()
    stage.world.client(GET)
    for scrape in (Scrape(stage.subject), supervised(stage)):
        text, kind = scrape.text(survey(stage), OPENMETRICS)
        assert kind.startswith("application/openmetrics-text")
        strict = {family.name for family in openmetrics(text.decode())}
        text, kind = scrape.text(survey(stage), "*/*")
        assert kind.startswith("text/plain")
        assert {family.name for family in plain(text.decode())} >= strict
        for line in text.decode().splitlines():
            if line.startswith("# HELP ifserver"):
                assert line.endswith(("below.", ".", "before one."))


def test_every_counter_is_told() -> None:
    assert {f"ifserver_{name}" for name in COUNTERS} <= families()


def kinds_and_labels() -> dict[str, tuple[str, set[str]]]:
    """All metrics of ours, without what their samples have at their ends. Those without samples have no labels here."""
    stage = Stage(parent=True)
    stage.world.client(GET)
    found: dict[str, tuple[str, set[str]]] = {}
    for scrape in (Scrape(stage.subject), supervised(stage)):
        text, _ = scrape.text(survey(stage), OPENMETRICS)
        for family in openmetrics(text.decode()):
            if family.name.startswith("ifserver_"):
                _, labels = found.setdefault(family.name, (family.type, set()))
                labels |= {label for sample in family.samples for label in sample.labels} - {"le"}
    return found


def families() -> set[str]:
    """Their names."""
    return set(kinds_and_labels())


def named(text: str) -> set[str]:
    """The metrics that a text names."""
    names = re.findall(r"\bifserver_\w+", text)
    return {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in names}


def test_the_board_names_no_metric_that_does_not_exist() -> None:
    board = json.loads(BOARD.read_text("utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    queries += [str(variable.get("query")) for variable in board["templating"]["list"]]
    assert len(queries) > 10
    assert set().union(*map(named, queries)) <= families()


def test_the_documentation_explains_every_metric_and_no_other() -> None:
    assert named(MONITORING.read_text("utf-8")) <= families()
    text = PAGE.read_text("utf-8")
    assert named(text) == families()
    entries = re.findall(r"^``ifserver_(\w+)``\n    \*(\w+)\*((?:,(?: by)? ``\w+``)*)\.", text, re.M)
    told = {
        name.removesuffix("_total"): (kind, set(re.findall(r"``(\w+)``", labels))) for name, kind, labels in entries
    }
    for name, (kind, labels) in kinds_and_labels().items():
        told_kind, told_labels = told.pop(name.removeprefix("ifserver_"))
        assert (told_kind, told_labels if labels else set()) == (kind, labels), name
    assert not told


# Pools.


def pooled() -> Stage:
    stage = Stage(parent=True)
    reports = PoolSettings(name="reports", application="a:b", paths=("/reports/*",))
    stage.world.server.exchanges.route(Router([reports, PoolSettings(name="default", application="a:b")]))
    return stage


def test_what_is_counted_of_requests_is_told_of_each_pool() -> None:
    stage = pooled()
    stage.beat(supervisor_facts(Child(pid=3, ready=True, free=97, pool="reports"), Child(pid=4, pool="default")))
    world = stage.world
    world.client(GET.replace(b"/ ", b"/reports/1 "))
    world.client(b"nonsense\r\n\r\n")
    world.advance(0.2)
    world.worker.job("http.request.reports").respond(500)
    world.client(GET.replace(b"/ ", b"/reports/2 "))
    world.settle()
    found = samples(stage)
    # The labels are in the order of their names: pool, status.
    assert found["ifserver_requests_total", "reports", "500"] == 1
    assert found["ifserver_requests_total", "", "400"] == 1
    assert found["ifserver_queue_wait_seconds_count", "reports"] == 1
    assert found["ifserver_queue_wait_seconds_count", "default"] == 0
    assert found["ifserver_first_byte_seconds_bucket", "0.25", "reports"] == 1
    assert found["ifserver_worker_slots_free", "reports"] == 97
    assert found["ifserver_worker_slots_free", "default"] == 0
    assert found["ifserver_queue_length", "http.request.reports", "east", "east"] == 1
    assert found["ifserver_queue_length", "http.request", "east", "east"] == 0


def test_a_supervisor_tells_of_the_workers_of_each_pool() -> None:
    workers = WorkerStage(pools=two_pools())
    workers.start()
    stage = Stage()
    subject = supervisor(stage)
    subject.supervisor = workers.supervisor
    text = Scrape(subject).text(survey(stage), "")[0].decode()
    assert 'ifserver_workers{pool="reports",state="ready"} 1.0' in text
    assert 'ifserver_workers{pool="default",state="draining"} 0.0' in text
    assert subject.pools() == ["reports", "default"]
    assert [child.pool for child in subject.facts().children] == ["reports", "default"]


def test_the_streams_of_a_server_say_their_pools() -> None:
    stage = pooled()
    stage.world.client(GET.replace(b"/ ", b"/reports/1 "))
    assert [stream.pool for stream in stage.subject.streams()] == ["reports"]
    plain = Stage()
    plain.world.client(GET)
    assert b'"pool"' not in encode_status(plain.subject.status(survey(plain)))
