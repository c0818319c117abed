"""Repeated errors: the first of them, and how many there were."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver.logs.repeats import MergedLogLines, Repeats, ThreadClock


class Kept(logging.Handler):
    """Keeps what it is handed."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.closed = False

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def close(self) -> None:
        self.closed = True
        super().close()

    @property
    def said(self) -> list[str]:
        """What was said since the last call."""
        said, self.records = [record.getMessage() for record in self.records], []
        return said


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(kept: Kept, clock: Clock) -> Iterator[logging.Logger]:
    logger = logging.Logger("some.logger")
    logger.addHandler(Repeats(kept, clock))
    yield logger
    logger.handlers[0].close()


def test_the_first_is_told_and_the_others_are_counted(log: logging.Logger, kept: Kept, clock: Clock) -> None:
    for number in range(500):
        log.error("!a.b.%d: answering %d: %s", number, 503, "it is full")
    assert kept.said == ["!a.b.0: answering 503: it is full"]
    clock.advance(9.9)
    assert kept.said == []
    clock.advance(0.1)
    [record] = kept.records
    assert (record.name, record.levelno) == ("some.logger", logging.ERROR)
    assert kept.said == ["... and 499 more like this, the last: !a.b.499: answering 503: it is full"]


def test_then_it_is_news_again(log: logging.Logger, kept: Kept, clock: Clock) -> None:
    for _ in range(3):
        log.error("x")
        log.error("x")
        clock.advance(10)
    assert kept.said == ["x", "... and 1 more like this, the last: x"] * 3
    assert not clock.getDelayedCalls()


def test_a_late_timer_changes_nothing(log: logging.Logger, kept: Kept, clock: Clock) -> None:
    log.error("x")
    log.error("x")
    clock.rightNow = 10.5  # and nobody is called
    log.error("x")
    assert kept.said == ["x", "... and 1 more like this, the last: x", "x"]
    assert not clock.getDelayedCalls()


def test_what_comes_once_needs_no_timer(log: logging.Logger, kept: Kept, clock: Clock) -> None:
    log.error("x")
    assert not clock.getDelayedCalls()
    clock.advance(10)
    log.error("x")
    assert kept.said == ["x", "x"]


def test_streams_and_numbers_do_not_make_a_difference_but_words_do(log: logging.Logger, kept: Kept) -> None:
    log.warning("%s: answering %d: %s", "!a.b.1", 503, "it is full")
    log.warning("%s: answering %d: %s", "!a.b.2", 503, "it is full")
    log.warning("%s: answering %d: %s", "!a.b.3", 504, "nobody has answered")
    log.warning("node %s is gone", "east")
    log.warning("node %s is gone", "west")
    log.error("node %s is gone", "west")
    assert len(kept.said) == 5


def test_what_happens_in_good_order_is_always_told(log: logging.Logger, kept: Kept) -> None:
    for _ in range(3):
        log.info("listening on %s", "x")
    assert len(kept.said) == 3


def raised(call: Any) -> tuple[Any, Any, Any]:
    try:
        call()
    except Exception as error:
        return type(error), error, error.__traceback__
    raise AssertionError


def here(name: str) -> None:
    raise KeyError(name)


def there(name: str) -> None:
    raise KeyError(name)


def wrapped(call: Any) -> None:
    try:
        call("a")
    except KeyError as error:
        raise ValueError from error


def test_an_exception_of_another_type_or_place_is_another(log: logging.Logger, kept: Kept) -> None:
    def tell(call: Any) -> None:
        log.error("it raised", exc_info=raised(call))

    for _ in range(2):
        tell(lambda: here("a"))
    assert len(kept.said) == 1
    tell(lambda: int("x"))
    tell(lambda: there("a"))
    assert len(kept.said) == 2
    log.error("it raised")
    assert kept.said == ["it raised"]


def test_what_an_exception_was_raised_from_counts_as_well(log: logging.Logger, kept: Kept) -> None:
    for call in (here, there, here):
        log.error("it raised", exc_info=raised(lambda call=call: wrapped(call)))
    assert len(kept.said) == 2


def test_the_end_tells_what_was_counted(kept: Kept, clock: Clock) -> None:
    log = logging.Logger("x")
    repeats = Repeats(kept, clock)
    log.addHandler(repeats)
    for _ in range(3):
        log.error("x")
    assert repeats.statistics() == {"log_kinds": 1, "log_untold": 2}
    repeats.close()
    assert kept.said == ["x", "... and 2 more like this, the last: x"]
    assert kept.closed
    assert not clock.getDelayedCalls()


def test_a_flood_of_different_lines_is_told_and_not_kept(log: logging.Logger, kept: Kept, clock: Clock) -> None:
    repeats = log.handlers[0]
    assert isinstance(repeats, Repeats)
    for number in range(1000):
        log.error("x %s", f"word{number}")
    assert len(kept.said) == 1000
    assert repeats.statistics()["log_kinds"] == 256
    clock.advance(10)
    log.error("another")
    assert repeats.statistics()["log_kinds"] == 1


def test_a_thread_keeps_the_time_where_there_is_no_reactor() -> None:
    clock, called = ThreadClock(), threading.Event()
    assert clock.seconds() <= clock.seconds()
    timer = clock.callLater(0, called.set)
    assert called.wait(120)
    never = clock.callLater(3600, called.clear)
    assert never.active()
    never.cancel()
    assert not never.active()
    timer.cancel()


# What happens to many streams at once is one line.


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


def test_of_too_many_kinds_each_is_logged_at_once(caplog: pytest.LogCaptureFixture) -> None:
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
    logging.getLogger("ifserver.logs.repeats").setLevel(logging.WARNING)
    try:
        MergedLogLines(clock).add("offered", "why", "!s.1")
    finally:
        logging.getLogger("ifserver.logs.repeats").setLevel(logging.NOTSET)
    assert clock.getDelayedCalls() == []
