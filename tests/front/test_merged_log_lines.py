"""What happens to many streams at once is one line in the log."""

from __future__ import annotations

import logging

import pytest
from twisted.internet.task import Clock

from ifserver.front.merged_log_lines import MergedLogLines


def test_what_happens_to_many_streams_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    lines = MergedLogLines(clock)
    for number in range(3):
        lines.add("offered to another worker", "worker !x has died", f"!s.{number}")
    lines.add("closing the WebSocket with 1012", "worker !x has died", "!s.9")
    assert caplog.messages == []
    clock.advance(0.25)
    assert caplog.messages == [
        "!s.0 and 2 more: offered to another worker: worker !x has died",
        "!s.9: closing the WebSocket with 1012: worker !x has died",
    ]
    lines.add("offered to another worker", "worker !x has died", "!s.7")
    clock.advance(0.25)
    assert caplog.messages[2:] == ["!s.7: offered to another worker: worker !x has died"]
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert clock.getDelayedCalls() == []


def test_what_happens_to_one_stream_again_and_again_is_one_stream(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    lines = MergedLogLines(clock)
    for channel in ("!s.1", "!s.2", "!s.1", "!s.1"):
        lines.add("the open WebSocket gets another worker", "worker !x is stopping", channel)
    clock.advance(0.25)
    assert caplog.messages == ["!s.1 and 1 more: the open WebSocket gets another worker: worker !x is stopping"]


def test_of_too_many_kinds_each_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    lines = MergedLogLines(clock)
    for number in range(64):
        lines.add("offered", f"why {number}", "!s.1")
    lines.add("offered", "one more", "!s.2")
    assert caplog.messages == ["!s.2: offered: one more"]
    lines.add("offered", "why 0", "!s.3")
    clock.advance(0.25)
    assert "!s.1 and 1 more: offered: why 0" in caplog.messages
    assert len(caplog.messages) == 65


def test_where_nobody_reads_it_nothing_is_counted() -> None:
    clock = Clock()
    logging.getLogger("ifserver.front.merged_log_lines").setLevel(logging.WARNING)
    try:
        MergedLogLines(clock).add("offered", "why", "!s.1")
    finally:
        logging.getLogger("ifserver.front.merged_log_lines").setLevel(logging.NOTSET)
    assert clock.getDelayedCalls() == []
