"""The last minutes of a process."""

from __future__ import annotations

from typing import Any

import pytest

from ifserver.layers.embedded.node import MemoryNode
from ifserver.logs import events
from ifserver.logs.events import Mark
from ifserver.observe.admin.recorder import KEPT, Recorder
from ifserver.observe.admin.survey import Surveyor
from ifserver.status import Event, History
from tests.front.fakes import EPOCH_S, GET, SERVER, SUPERVISOR
from tests.observe.admin.stage import Stage, supervisor_facts


class Recording(Stage):
    """A stage whose endpoint keeps what is measured."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        clock = self.world.clock
        self.recorder = Recorder(self.subject, Surveyor(self.world.clusters, clock), clock, self.world.wall)
        self.recorder.start()

    def advance(self, seconds: int) -> None:
        """A second at a time, as a process lives that is not frozen."""
        for _ in range(seconds):
            self.world.advance(1.0)

    def history(self, after: int = -1) -> History:
        return self.recorder.history(after)


@pytest.fixture
def stage() -> Recording:
    return Recording()


def test_one_value_a_second(stage: Recording) -> None:
    assert stage.history().series["requests"] == []
    stage.advance(2)
    stage.world.client(GET)
    stage.world.worker.job().respond()
    stage.advance(2)
    history = stage.history()
    assert history.series["requests"] == [0.0, 0.0, 1.0, 0.0]
    assert history.series["queue_wait"][:2] == [None, None]
    assert (history.first, history.last_at, history.every_s) == (0, EPOCH_S + 4, 1.0)
    assert stage.history(2).series["requests"] == [0.0]
    assert stage.history(2).first == 3
    # Nothing is new; and one that asks for what was never there gets all.
    assert stage.history(3).series["requests"] == stage.history(1000).series["requests"] == []


def test_a_quarter_of_an_hour(stage: Recording) -> None:
    stage.advance(KEPT + 7)
    history = stage.history()
    assert history.first == 7
    assert {len(values) for values in history.series.values()} == {KEPT}


def test_a_process_that_was_frozen_has_measured_nothing_meanwhile(stage: Recording) -> None:
    stage.advance(1)
    stage.world.client(GET)
    stage.world.worker.job().respond()
    stage.world.clock.advance(4.0)
    assert stage.history().series["requests"] == [0.0, None, None, None, 0.25]


def test_what_waits_is_asked_for_although_nobody_looks(stage: Recording) -> None:
    for _ in range(3):
        stage.world.client(GET)
    stage.advance(4)
    assert stage.history().series["waiting"][-1] == 3.0


def test_events_of_others_are_kept_when_they_are_gone(stage: Recording) -> None:
    told = Event(number=4, at=EPOCH_S - 5, kind="fault", label="worker killed", text="worker 3 was killed")
    stage.beat(supervisor_facts(events=(told,)), life_s=3.0)
    events.keep(Mark.STARTED, "here")
    stage.advance(2)
    seen = {(each.process, each.label) for each in stage.recorder.events()}
    assert seen == {(SUPERVISOR, "worker killed"), (SERVER, "started")}
    stage.advance(4)
    assert ("process gone", "fault", SUPERVISOR) in {
        (each.label, each.kind, each.process) for each in stage.recorder.events()
    }
    times = [each.at for each in stage.recorder.events()]
    assert times == sorted(times)


def test_one_that_was_stopping_is_not_missed(stage: Recording) -> None:
    told = Event(number=1, at=EPOCH_S, kind="deploy", label="stopping", text="SIGTERM: stopping")
    stage.beat(supervisor_facts(events=(told,)), life_s=3.0)
    stage.advance(6)
    assert [each.label for each in stage.recorder.events()] == ["stopping", "stopped"]


def test_a_node_that_does_not_answer_does_not_say_who_is_gone(
    stage: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.advance(2)
    monkeypatch.setattr(MemoryNode, "connected", False, raising=False)
    stage.world.node.connected = False
    stage.advance(4)
    assert stage.recorder.events() == ()
    assert stage.history().series["waiting"][-1] is None


def test_events_of_others_are_bounded(stage: Recording) -> None:
    many = tuple(Event(number=n, at=float(n), kind="fault", label="x", text="y") for n in range(500))
    stage.beat(supervisor_facts(events=many))
    stage.advance(2)
    kept = stage.recorder.events()
    assert (len(kept), kept[-1].number) == (200, 499)


def test_it_ends(stage: Recording) -> None:
    stage.recorder.stop()
    stage.advance(3)
    assert stage.history().series["requests"] == []
    stage.recorder.stop()
