"""Reading an inbox on a node in memory that fails when it is told to."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from ifserver.errors import NodeRefused, NodeUnreachable
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.inbox_reader import COUNT, RETRY_MAX_S, RETRY_S, WAIT_S, InboxReader
from ifserver.layers.node import Limits, Pulled

INBOX = "!east.k3v9x2aq7m"
LIMITS = Limits(1000, 600.0)


class Node(MemoryNode):
    """Fails as often as it was told to."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("east", LIMITS, LIMITS, clock, "epoch")
        self.failures: list[Exception] = []
        self.asked = 0

    def pull(self, names: Sequence[str], count: int, wait_s: float) -> Deferred[Pulled | None]:
        assert (list(names), count, wait_s) == ([INBOX], COUNT, WAIT_S)
        self.asked += 1
        return fail(self.failures.pop(0)) if self.failures else super().pull(names, count, wait_s)


class Stage:
    """An inbox that is read."""

    def __init__(self, start: bool = True) -> None:
        self.clock = Clock()
        self.node = Node(self.clock)
        self.node.start()
        self.heard: list[bytes] = []
        self.reader = InboxReader(self.node, INBOX, self.heard.extend, self.clock)
        if start:
            self.reader.start()

    def push(self) -> None:
        self.node.push(INBOX, [b"x"])


def test_a_defect_of_who_is_given_the_messages_does_not_end_the_reading(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    node = Node(clock)
    node.start()
    InboxReader(node, INBOX, lambda payloads: payloads[1].split(), clock).start()  # type: ignore[arg-type, return-value]
    node.push(INBOX, [b"x"])
    assert "IndexError" in caplog.text
    assert node.asked == 2


def test_reading_goes_on_after_a_second_without_messages() -> None:
    stage = Stage()
    for _ in range(3):
        stage.clock.advance(WAIT_S)
    stage.push()
    assert stage.heard == [b"x"]
    assert stage.node.asked == 5


def test_a_node_that_is_not_there_is_read_when_it_is() -> None:
    stage = Stage()
    stage.node.stop()
    stage.clock.advance(10.0)
    stage.node.start()
    stage.push()
    assert stage.heard == [b"x"]


def test_a_node_that_says_it_is_there_and_fails_is_asked_more_and_more_seldom() -> None:
    stage = Stage(start=False)
    stage.node.failures = [NodeUnreachable("gone")] * 12
    stage.reader.start()
    pauses = []
    while stage.node.failures:
        (call,) = stage.clock.getDelayedCalls()
        pauses.append(call.getTime() - stage.clock.seconds())
        stage.clock.advance(pauses[-1])
    assert len(pauses) == 10, "the second attempt is made at once"
    assert RETRY_S * 0.7 <= pauses[0] <= RETRY_S * 1.3
    assert RETRY_MAX_S * 0.7 <= pauses[-1] <= RETRY_MAX_S * 1.3
    stage.push()
    assert stage.heard == []
    stage.clock.advance(RETRY_MAX_S * 1.3)
    assert stage.heard == [b"x"]


@pytest.mark.parametrize(("error", "traceback"), [(NodeRefused("OOM"), False), (ValueError("a defect"), True)])
def test_a_node_that_refuses_is_logged_and_asked_again_later(
    error: Exception, traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(start=False)
    stage.node.failures = [error]
    stage.reader.start()
    stage.push()
    assert stage.heard == []
    (record,) = caplog.records
    assert record.getMessage() == f"node east does not let us read {INBOX}: {error}"
    assert bool(record.exc_info) is traceback
    stage.clock.advance(RETRY_S * 1.3)
    assert stage.heard == [b"x"]


def test_stop_ends_the_read_that_waits() -> None:
    stage = Stage()
    stopped = stage.reader.stop()
    assert stopped.called
    stage.push()
    assert stage.heard == []
    assert stage.reader.stop().called


def test_what_the_last_read_brings_is_handed_on() -> None:
    stage = Stage()
    stage.node.end_pulls = lambda: None  # type: ignore[method-assign]
    stopped = stage.reader.stop()
    assert not stopped.called
    stage.push()
    assert stage.heard == [b"x"]
    assert stopped.called


@pytest.mark.parametrize("how", ["not there", "pause"])
def test_stop_does_not_wait_for_a_node(how: str) -> None:
    stage = Stage(start=False)
    if how == "pause":
        stage.node.failures = [NodeRefused("OOM")]
    else:
        stage.node.stop()
    stage.reader.start()
    assert stage.reader.stop().called
    assert stage.clock.getDelayedCalls() == []


def test_stop_before_start_fires_at_once() -> None:
    assert Stage(start=False).reader.stop().called
