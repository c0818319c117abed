"""Workers that take long to start."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver.process.slow_starts import SlowStarts


class FakeWorker:
    """What is needed of `ifserver.process.slots.Worker`."""

    started_at = 0.0
    pool = SimpleNamespace(settings=SimpleNamespace(application="a:b"))

    def __init__(self, child: Any) -> None:
        self.child = child

    def __str__(self) -> str:
        return f"worker {self.child.pid}"


class Stage:
    """A worker that starts."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.starting = SlowStarts(self.clock)
        self.child = SimpleNamespace(pid=7, loaded=False)
        self.worker: Any = FakeWorker(self.child)

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)


def test_the_log_says_after_ten_seconds_and_then_every_minute_what_is_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage()
    stage.starting.begun(stage.worker)
    stage.run(9)
    assert caplog.messages == []
    stage.run(1)
    assert caplog.messages == ["worker 7 is not ready after 10 s: it is still importing a:b"]
    stage.child.loaded = True
    stage.run(60)
    assert caplog.messages[1:] == [
        "worker 7 is not ready after 70 s: a:b has not answered lifespan.startup (with lifespan.startup.complete)"
    ]
    # Many applications need a while.
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


def test_of_one_that_is_ready_or_has_ended_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage()
    stage.starting.begun(stage.worker)
    stage.run(5)
    stage.starting.over(stage.worker)
    stage.starting.over(stage.worker)
    assert stage.clock.getDelayedCalls() == []
    assert caplog.messages == []
