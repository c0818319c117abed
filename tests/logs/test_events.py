"""Events: what the log says and is kept as well."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from ifserver.logs import events
from ifserver.logs.events import MAX_EVENTS, Mark
from ifserver.status import Event
from tests.logs.kept import no_events

LOG = logging.getLogger("ifserver.tests.events")


class Time:
    """The time of day, as the test has it."""

    now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> Iterator[Time]:
    with no_events():
        time = Time()
        monkeypatch.setattr(events, "time", time)
        yield time


def test_an_event_is_a_line_and_is_kept(day: Time, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        events.report(LOG, logging.WARNING, Mark.WORKER_KILLED, "worker %d was killed", 7)
        events.report(LOG, logging.INFO, Mark.PAUSED, "100%")
    [line] = caplog.records
    assert (line.getMessage(), line.name, line.filename) == ("worker 7 was killed", LOG.name, "test_events.py")
    # Also what the log is too quiet for.
    killed, paused = events.recent()
    assert (killed.at, killed.kind, killed.label, killed.text) == (
        1000.0,
        "fault",
        "worker killed",
        "worker 7 was killed",
    )
    assert (paused.text, paused.number - killed.number) == ("100%", 1)
    assert events.recent(1) == (paused,)


def test_what_happens_at_once_is_one_event(day: Time) -> None:
    for pid in range(8):
        events.keep(Mark.WORKER_KILLED, f"worker {pid}")
        day.now += 0.1
    events.keep(Mark.NODE_LOST, "node a")
    day.now += 1.0
    events.keep(Mark.WORKER_KILLED, "worker 8")
    assert [(each.text, each.times) for each in events.recent()] == [("worker 0", 8), ("node a", 1), ("worker 8", 1)]


def test_what_comes_and_goes_is_one_event_a_minute(day: Time) -> None:
    for _ in range(40):
        events.keep(Mark.BEHIND, "all workers are busy")
        events.keep(Mark.IN_TIME, "taken in time again")
        day.now += 3.0
    assert [each.times for each in events.recent()] == [21, 21, 19, 19]
    # A text of its own is another event.
    events.keep(Mark.BEHIND, "something else")
    assert events.recent()[-1].times == 1


def test_they_are_bounded_and_have_no_secrets(day: Time) -> None:
    for number in range(MAX_EVENTS + 5):
        events.keep(Mark.NODE_LOST, f"node {number}")
        day.now += 2.0
    day.now -= 2.0
    assert len(events.recent()) == MAX_EVENTS
    events.keep(Mark.STARTED, "redis://user:secret@host/ " + "x" * 1000 + "\nTraceback")
    [last] = events.recent(1)
    assert last.text.startswith("redis://***@host/ x")
    assert len(last.text) == 200
    day.now += 2.0
    events.keep(Mark.STARTED, "")
    assert events.recent(1)[0].text == ""


def test_old_ones_are_told_no_more(day: Time) -> None:
    events.keep(Mark.STARTED, "old")
    day.now += events.MAX_AGE_S - 1
    events.keep(Mark.STOPPING, "new")
    assert [each.text for each in events.recent()] == ["old", "new"]
    day.now += 2
    assert [each.text for each in events.recent()] == ["new"]


def test_marks_have_a_known_kind_and_a_short_label() -> None:
    assert {mark.kind for mark in Mark} == {"deploy", "fault", "mended", "order"}
    assert max(len(mark.label) for mark in Mark) <= 16
    assert len({mark.label for mark in Mark}) == len(Mark)
    assert Event(number=1, at=0.0, kind="fault", label="x", text="y").times == 1
