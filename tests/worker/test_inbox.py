"""Receiving, from a node in memory; the streams are played by the test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from ifserver.errors import NodeRefused, NodeUnreachable
from ifserver.layers.base import Limits, Pulled
from ifserver.layers.memory import MemoryNode
from ifserver.messages import Disconnect, Release, RequestBody, Sync, SyncEntry, Window, encode
from ifserver.metrics import Counters
from ifserver.worker.inbox import COUNT, RETRY_MAX_S, RETRY_S, WAIT_S, Inbox
from tests.worker.stage import STREAM, WORKER

LIMITS = Limits(1000, 600.0)


class Node(MemoryNode):
    """Fails as often as it was told to."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("east", LIMITS, LIMITS, clock, "epoch")
        self.failures: list[Exception] = []
        self.asked = 0

    def pull(self, names: Sequence[str], count: int, wait_s: float) -> Deferred[Pulled | None]:
        assert (list(names), count, wait_s) == ([WORKER], COUNT, WAIT_S)
        self.asked += 1
        return fail(self.failures.pop(0)) if self.failures else super().pull(names, count, wait_s)


class FakeStream:
    """Notes what it hears."""

    def __init__(self, attempt: int = 0) -> None:
        self.attempt = attempt
        self.heard: list[Any] = []
        self.answer: str | None = None
        self.whole = True

    def arrived(self, message: Any) -> str | None:
        if self.answer == "raise":
            raise ValueError("a defect")
        self.heard.append(message)
        return self.answer

    def consumed(self, total: int) -> None:
        self.heard.append(("consumed", total))

    def let_go(self) -> None:
        self.heard.append("let go")

    def compare(self, sent: int) -> bool:
        self.heard.append(("compare", sent))
        return self.whole


class Stage:
    """An inbox that is read."""

    def __init__(self, start: bool = True) -> None:
        self.clock = Clock()
        self.node = Node(self.clock)
        self.node.start()
        self.stream = FakeStream()
        self.streams: dict[str, Any] = {STREAM: self.stream}
        self.counters = Counters()
        self.syncs: list[Sync] = []
        self.inbox = Inbox(self.node, WORKER, self.streams, self.syncs.append, self.clock, self.counters)
        if start:
            self.inbox.start()

    def push(self, *messages: Any) -> None:
        self.node.push(WORKER, [m if isinstance(m, bytes) else encode(m) for m in messages])

    def counted(self) -> dict[str, int]:
        return self.counters.statistics()


def body(seq: int = 0, attempt: int = 0, stream: str = STREAM) -> RequestBody:
    return RequestBody(stream, attempt, seq, b"x", True)


def test_messages_go_to_their_stream_in_order() -> None:
    stage = Stage()
    leaving = Disconnect(STREAM, 0, 2, 1000, "")
    stage.push(body(0))
    stage.push(body(1), leaving)
    assert stage.stream.heard == [body(0), body(1), leaving]
    assert stage.counted() == {"messages_delivered": 3}


def test_windows_and_releases() -> None:
    stage = Stage()
    stage.push(Window(STREAM, 0, WORKER, 700), Release(STREAM, 0, WORKER, "gone"))
    assert stage.stream.heard == [("consumed", 700), "let go"]


def test_what_is_for_no_stream_or_for_another_attempt_is_gone() -> None:
    stage = Stage()
    stage.push(
        body(stream="0123456789.2"),
        body(attempt=1),
        Window(STREAM, 1, WORKER, 1),
        Release(STREAM, 2, WORKER, ""),
        Window("0123456789.2", 0, WORKER, 1),
    )
    assert stage.stream.heard == []
    assert stage.counted() == {"messages_dropped{gone}": 5}
    assert stage.node.statistics()["messages"] == 0, "nobody is answered"


def test_why_a_stream_drops_a_message_is_counted() -> None:
    stage = Stage()
    stage.stream.answer = "gap"
    stage.push(body(), body())
    assert stage.counted() == {"messages_dropped{gap}": 2}


def test_what_servers_say_of_all_streams_is_handed_on() -> None:
    stage = Stage()
    sync = Sync("!east.0123456789", "", [SyncEntry(STREAM, 0, 4, 900)])
    stage.push(sync)
    assert stage.syncs == [sync]
    assert stage.counted() == {"messages_delivered": 1}


def test_what_does_not_decode_is_dropped_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.push(b"nonsense", b"", body())
    stage.push(b"\x01\xc0")
    assert stage.stream.heard == [body()]
    assert stage.counted() == {"messages_delivered": 1, "messages_dropped{undecodable}": 3}
    assert [record.getMessage() for record in caplog.records] == [
        f"dropped a message from {WORKER}: format version 6e, expected 01"
    ]


def test_a_defect_of_ours_concerns_its_own_stream(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    other = FakeStream()
    stage.streams["0123456789.2"] = other
    stage.stream.answer = "raise"
    stage.push(body(), body(stream="0123456789.2"))
    assert len(other.heard) == 1
    assert "ValueError: a defect" in caplog.text


def test_reading_goes_on_after_a_second_without_messages() -> None:
    stage = Stage()
    for _ in range(3):
        stage.clock.advance(WAIT_S)
    stage.push(body())
    assert stage.stream.heard == [body()]
    assert stage.node.asked == 5


def test_a_node_that_is_not_there_is_read_when_it_is() -> None:
    stage = Stage()
    stage.node.stop()
    stage.clock.advance(10.0)
    stage.node.start()
    stage.push(body())
    assert stage.stream.heard == [body()]


def test_a_node_that_says_it_is_there_and_fails_is_asked_more_and_more_seldom() -> None:
    stage = Stage(start=False)
    stage.node.failures = [NodeUnreachable("gone")] * 12
    stage.inbox.start()
    pauses = []
    while stage.node.failures:
        (call,) = stage.clock.getDelayedCalls()
        pauses.append(call.getTime() - stage.clock.seconds())
        stage.clock.advance(pauses[-1])
    assert len(pauses) == 10, "the second attempt is made at once"
    assert RETRY_S * 0.7 <= pauses[0] <= RETRY_S * 1.3
    assert RETRY_MAX_S * 0.7 <= pauses[-1] <= RETRY_MAX_S * 1.3
    stage.push(body())
    assert stage.stream.heard == []
    stage.clock.advance(RETRY_MAX_S * 1.3)
    assert stage.stream.heard == [body()]


@pytest.mark.parametrize(("error", "traceback"), [(NodeRefused("OOM"), False), (ValueError("a defect"), True)])
def test_a_node_that_refuses_is_logged_and_asked_again_later(
    error: Exception, traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(start=False)
    stage.node.failures = [error]
    stage.inbox.start()
    stage.push(body())
    assert stage.stream.heard == []
    (record,) = caplog.records
    assert record.getMessage() == f"node east does not let us read {WORKER}: {error}"
    assert bool(record.exc_info) is traceback
    stage.clock.advance(RETRY_S * 1.3)
    assert stage.stream.heard == [body()]


def test_stop_ends_the_read_that_waits() -> None:
    stage = Stage()
    stopped = stage.inbox.stop()
    assert stopped.called
    stage.push(body())
    assert stage.stream.heard == []
    assert stage.inbox.stop().called


def test_what_the_last_read_brings_is_handed_on() -> None:
    stage = Stage()
    stage.node.end_pulls = lambda: None  # type: ignore[method-assign]
    stopped = stage.inbox.stop()
    assert not stopped.called
    stage.push(body())
    assert stage.stream.heard == [body()]
    assert stopped.called


@pytest.mark.parametrize("how", ["not there", "pause"])
def test_stop_does_not_wait_for_a_node(how: str) -> None:
    stage = Stage(start=False)
    if how == "pause":
        stage.node.failures = [NodeRefused("OOM")]
    else:
        stage.node.stop()
    stage.inbox.start()
    assert stage.inbox.stop().called
    assert stage.clock.getDelayedCalls() == []


def test_stop_before_start_fires_at_once() -> None:
    assert Stage(start=False).inbox.stop().called
