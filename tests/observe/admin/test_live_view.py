"""The live view: the last minutes of a process, its figures, and the page as it is sent.

`tests.e2e.test_live_view` has a browser show it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from ifserver.layers.embedded.node import MemoryNode
from ifserver.logs import events
from ifserver.logs.events import Mark
from ifserver.metrics import Counters
from ifserver.observe.admin import live_view
from ifserver.observe.admin.endpoint import CLOSE_HEADER
from ifserver.observe.admin.live_view import KEPT, Recorder, ServerFigures, SupervisorFigures
from ifserver.observe.admin.survey import Surveyor
from ifserver.status import Event, History
from tests.front.fakes import EPOCH_S, GET, HANDSHAKE, SERVER, SUPERVISOR, World
from tests.observe.admin.stage import Stage, supervisor_facts
from tests.observe.admin.test_subject import FakeSupervisor, FakeWorker

# The last minutes.


class Recording(Stage):
    """A stage whose endpoint keeps what is measured."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        clock = self.world.clock
        self.recorder = Recorder(self.subject, Surveyor(self.world.clusters, clock), clock)
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


# Figures.


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
    supervisor.workers[:] = [one, new]
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


# The page.

FOLDER = Path(live_view.__file__).with_name("view")
FILES = sorted(FOLDER.iterdir())
#: Elements of SVG cannot be made without it. Nobody asks for it.
NAMESPACE = "http://www.w3.org/2000/svg"


def test_the_page_may_do_no_more_than_it_does() -> None:
    answer = Stage().ask("/")
    policy = answer.headers[b"content-security-policy"].decode()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    text = answer.body.decode()
    for tag in ("script", "style"):
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        assert len(parts) == sum(file.suffix == {"script": ".js", "style": ".css"}[tag] for file in FILES)
        digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
        hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
        assert f"{tag}-src {hashes};" in policy


def test_the_page_is_one_file_that_asks_for_nothing_else() -> None:
    body, content_type, _, _ = live_view.page()
    text = body.decode()
    assert content_type.startswith("text/html")
    assert re.findall(r"https?://|\bimport\b|@import|url\(", text.replace(NAMESPACE, "")) == []
    assert set(re.findall(r'(?:src|href)="([^"]*)"', text)) == {"data:,", "#main"}
    # What clients send never becomes HTML, and style and script are where the policy allows them.
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|\son\w+=|\sstyle=", text) == []
    assert CLOSE_HEADER in text


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_its_files_are_read_as_easily_as_the_others(file: Path) -> None:
    text = file.read_text("utf-8")
    assert len(text.splitlines()) <= 450
    assert max(map(len, text.splitlines())) <= 120
    # A file that closes its own element would end it in the page.
    assert "</script>" not in text or file.suffix == ".html"
    if file.suffix == ".js":
        assert text.startswith('"use strict";\n// ')
    if file.suffix == ".css":
        assert text.startswith("/* ")
    assert file.suffix in {".js", ".css", ".html"}


def test_every_file_is_part_of_it() -> None:
    text = FOLDER.joinpath("page.html").read_text("utf-8")
    named = re.findall(r'(?:src|href)="([a-z_]+\.(?:js|css))"', text)
    assert sorted(named) == [file.name for file in FILES if file.name != "page.html"]
    assert resources.files("ifserver.observe.admin").joinpath("view", "main.js").is_file()
