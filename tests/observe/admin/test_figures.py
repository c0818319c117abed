"""What the charts of the live view show."""

from __future__ import annotations

from math import isnan

from ifserver.metrics import Counters
from ifserver.observe.admin.figures import ServerFigures, SupervisorFigures
from tests.front.fakes import GET, HANDSHAKE, World
from tests.observe.admin.stage import Stage
from tests.observe.admin.test_subject import FakeSupervisor, FakeWorker


def test_a_server_at_rest_has_measured_nothing() -> None:
    figures = ServerFigures(World().server).take(1.0)
    assert [figures[name] for name in ("requests", "errors", "websockets", "connections")] == [0, 0, 0, 0]
    assert isnan(figures["queue_wait"])
    assert isnan(figures["first_byte"])
    assert tuple(figures) == ServerFigures.names


def test_the_figures_of_a_server_are_those_since_the_last_look() -> None:
    world = World()
    figures = ServerFigures(world.server)
    for status in (200, 404, 500, 503):
        client = world.client(GET)
        world.clock.advance(0.02)
        world.worker.job().respond(status)
        client.leave()
    world.settle()
    world.client(HANDSHAKE)
    taken = figures.take(2.0)
    assert (taken["requests"], taken["errors"]) == (2.0, 1.0)
    assert (taken["websockets"], taken["connections"]) == (1, 1)
    # By the buckets of the histograms: between 0.01 and 0.025 s.
    assert 0.01 < taken["queue_wait"] <= 0.025
    assert 0.01 < taken["first_byte"] <= 0.025
    again = figures.take(1.0)
    assert (again["requests"], again["errors"], again["websockets"]) == (0, 0, 1)
    assert isnan(again["queue_wait"])


def test_the_figures_of_a_supervisor() -> None:
    one, two = FakeWorker(7, ready=True), FakeWorker(8)
    for worker in (one, two):
        worker.hold(streams_held=5, streams_unanswered=2, slots_free=10)
        Counters(worker.ledger.cells).add("streams_opened", 100, "http")
    supervisor = FakeSupervisor((one, two))
    figures = SupervisorFigures(supervisor)  # type: ignore[arg-type]
    Counters(one.ledger.cells).add("streams_opened", 3, "websocket")
    Counters(two.ledger.cells).add("streams_opened", 1, "http")
    taken = {"taken": 2.0, "unanswered": 4, "open": 6, "free": 20, "ready": 1}
    assert figures.take(2.0) == taken
    # One that has ended takes nothing away, and a new one has begun at 0.
    new = FakeWorker(9, ready=True)
    Counters(new.ledger.cells).add("streams_opened", 5, "http")
    supervisor.workers = [one, new]
    assert figures.take(1.0)["taken"] == 5.0
    assert tuple(taken) == SupervisorFigures.names


def test_what_beats_tell_of_a_server() -> None:
    stage = Stage()
    client = stage.world.client(GET)
    stage.world.worker.job().respond(500)
    client.leave()
    stage.world.client(HANDSHAKE)
    facts = stage.subject.facts()
    assert (facts.requests, facts.errors, facts.websockets) == (1, 1, 1)
