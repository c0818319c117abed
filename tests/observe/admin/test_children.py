"""Children that are seen: what they hold, from their start to their end."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

import pytest

from ifserver.config.node_urls import parse_cluster
from ifserver.config.settings import LayerSettings, WorkerSettings
from ifserver.metrics import Counters
from ifserver.observe.admin.children import Nursery
from ifserver.process import children
from ifserver.process.children import Launch
from ifserver.status import Child
from tests.process.test_children import open_fds

INBOX = "!east.k3v9x2aq7m"
SLOTS = 4


class FakeProcess:
    """A child that the test plays."""

    def __init__(self, pid: int, launch: Launch, ready: Callable[[], None], ended: Callable[[], None]) -> None:
        self.pid = pid
        self.ready = ready
        self.ended = ended
        assert launch.ledger_fd is not None
        self.ledger = children.open_ledger(os.dup(launch.ledger_fd), SLOTS)
        self.counters = Counters(self.ledger.cells)


class Stage:
    def __init__(self) -> None:
        self.failing = False
        self.started: list[FakeProcess] = []
        self.told: list[str] = []
        self.nursery = Nursery(SLOTS, self._spawn)

    def _spawn(self, launch: Launch, loop: Any, ready: Callable[[], None], ended: Callable[[], None]) -> Any:
        if self.failing:
            raise OSError("no more processes")
        self.started.append(FakeProcess(100 + len(self.started), launch, ready, ended))
        return self.started[-1]

    def start(self) -> FakeProcess:
        """Start a child as a supervisor does."""
        ledger, fd = children.create_ledger(SLOTS)
        launch = Launch(
            role="worker",
            parent=1,
            layer=LayerSettings(clusters=(parse_cluster("east=local:x"),)),
            worker=WorkerSettings(application="a:b", max_streams=SLOTS),
            ledger_fd=fd,
        )
        try:
            loop: Any = None
            child: Any = self.nursery.spawn(
                launch, loop, lambda: self.told.append("ready"), lambda: self.told.append("ended")
            )
        finally:
            os.close(fd)
        del ledger
        return child  # type: ignore[no-any-return]


def test_a_child_from_its_start_to_its_end() -> None:
    stage = Stage()
    process = stage.start()
    assert stage.nursery.children() == (Child(pid=100),)
    process.ledger.inbox = INBOX
    process.ledger.enter("!east.front00000.1f", 0)
    process.counters.set("streams_held", 3)
    process.counters.set("streams_unanswered", 2)
    process.counters.set("slots_free", 7)
    process.ready()
    assert stage.nursery.children() == (
        Child(pid=100, process="k3v9x2aq7m", ready=True, streams=3, unanswered=2, free=7),
    )
    assert stage.nursery.held() == [("!east.front00000.1f", "k3v9x2aq7m")]
    process.ended()
    assert stage.nursery.children() == ()
    assert stage.told == ["ready", "ended"]


def test_several_are_told_apart() -> None:
    stage = Stage()
    first, second = stage.start(), stage.start()
    second.counters.set("slots_free", 5)
    assert [(child.pid, child.free) for child in stage.nursery.children()] == [(100, 0), (101, 5)]
    first.ended()
    assert [child.pid for child in stage.nursery.children()] == [101]


def test_memory_that_was_overwritten_is_no_trouble() -> None:
    stage = Stage()
    process = stage.start()
    process.ledger._buffer[9] = 1
    process.ledger._buffer[32:40] = b"nonsense"
    process.ledger.enter("!east.front00000.1f", 0)
    assert stage.nursery.children() == (Child(pid=100),)
    assert stage.nursery.held() == [("!east.front00000.1f", "")]


def test_nothing_is_left_of_those_that_could_not_be_started_or_have_ended() -> None:
    stage = Stage()
    before = open_fds()
    stage.failing = True
    with pytest.raises(OSError, match="no more processes"):
        stage.start()
    assert stage.nursery.children() == ()
    stage.failing = False
    stage.start().ended()
    stage.started.clear()
    gc.collect()
    assert open_fds() == before
