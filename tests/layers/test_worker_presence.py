"""Who reads where, by what nodes answer: in time, late, and not at all."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from ifserver.errors import NodeError, NodeRefused, NodeUnreachable
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Limits, Reading
from ifserver.layers.worker_presence import ASK_S, FRESH_S, WorkerPresence

LIMITS = Limits(100, 600.0)
REQUEST, CONNECT = "http.request", "websocket.connect"


class Node(MemoryNode):
    """Answers late, or with an error, if it is told to."""

    def __init__(self, name: str, clock: Clock) -> None:
        super().__init__(name, LIMITS, LIMITS, clock, "epoch")
        self.questions = 0
        self.error: NodeError | None = None
        self.slow = False
        self._late: list[Deferred[list[Reading]]] = []
        self.start()

    def readers(self) -> Deferred[list[Reading]]:
        self.questions += 1
        if self.error is not None:
            return fail(self.error)
        if self.slow:
            self._late.append(Deferred())
            return self._late[-1]
        return super().readers()

    def answer(self) -> None:
        """Answer what was asked."""
        self.slow = False
        late, self._late = self._late, []
        for each in late:
            super().readers().chainDeferred(each)


class Stage:
    """A server that asks the nodes east and west."""

    def __init__(self, count: int = 2) -> None:
        self.clock = Clock()
        self.east, self.west = self.nodes = [Node(name, self.clock) for name in ("east", "west")]
        self.told: list[dict[str, frozenset[str] | None]] = []
        self.readership = WorkerPresence(self.nodes[:count], self.clock, lambda new: self.told.append(dict(new)))

    def news(self, seconds: float = 0.0) -> dict[str, set[str] | None]:
        """What is told within `seconds`."""
        for _ in range(round(seconds / ASK_S)):
            self.clock.advance(ASK_S)
        told, self.told = self.told, []
        return {name: None if read is None else set(read) for each in told for name, read in each.items()}

    def beat(self, node: Node, *reads: str, process: str = "ssssssssss") -> None:
        node.beat(process, b"", 3.0, reads)


@pytest.fixture
def stage() -> Stage:
    stage = Stage()
    stage.beat(stage.east, REQUEST)
    stage.readership.start()
    assert stage.news() == {"east": {REQUEST}, "west": set()}
    return stage


def test_what_is_read_is_told_when_it_is_new(stage: Stage) -> None:
    stage.beat(stage.east, REQUEST)
    assert stage.news(ASK_S) == {}
    stage.beat(stage.west, REQUEST, CONNECT)
    stage.beat(stage.west, CONNECT, process="rrrrrrrrrr")
    assert stage.news(ASK_S) == {"west": {REQUEST, CONNECT}}
    stage.beat(stage.west)
    assert stage.news(ASK_S) == {"west": {CONNECT}}


def test_a_reader_that_says_nothing_more_is_gone(stage: Stage) -> None:
    assert stage.news(FRESH_S - ASK_S) == {}
    assert stage.news(ASK_S) == {"east": set()}
    stage.beat(stage.east, REQUEST)
    assert stage.news(ASK_S) == {"east": {REQUEST}}


def test_a_node_that_is_gone_says_nothing_of_its_readers(stage: Stage) -> None:
    stage.east.connected = False
    assert stage.news(2 * ASK_S) == {"east": None}
    stage.east.connected = True
    stage.beat(stage.east, REQUEST)
    assert stage.news(ASK_S) == {"east": {REQUEST}}


def test_after_a_connection_was_lost_readers_have_time_to_find_the_node_again(stage: Stage) -> None:
    stage.east.connected = False
    stage.news(1.0)
    stage.east.connected, stage.east.losses = True, 1
    assert stage.news(0.8) == {}
    stage.beat(stage.east, REQUEST)
    assert stage.news(ASK_S) == {"east": {REQUEST}}
    stage.west.losses = 1
    assert stage.news(0.8) == {"east": set()}, "what the last word says is too old"
    assert stage.news(1.0) == {}


def test_an_answer_that_is_late_brings_readers_and_takes_none_away(stage: Stage) -> None:
    stage.east.slow = stage.west.slow = True
    stage.news(0.8)
    stage.beat(stage.west, REQUEST)
    stage.east.answer()
    stage.west.answer()
    assert stage.news() == {"west": {REQUEST}}
    assert stage.news(0.8) == {}, "the others' beats had to wait as well"
    assert stage.news(0.4) == {"east": set(), "west": set()}


def test_a_node_that_is_silent_is_not_waited_for(stage: Stage) -> None:
    stage.west.slow = True
    assert stage.news(FRESH_S + ASK_S) == {"east": set()}
    assert stage.news(ASK_S) == {"west": None}
    assert stage.west.questions == 2
    stage.west.answer()
    stage.beat(stage.west, REQUEST)
    assert stage.news(0.4) == {"west": {REQUEST}}


def test_those_that_come_and_go_on_several_nodes_are_told_at_once(stage: Stage) -> None:
    stage.east.slow = stage.west.slow = True
    for node in stage.nodes:
        stage.beat(node, CONNECT)
    stage.news(ASK_S)
    stage.east.answer()
    assert stage.told == []
    stage.west.answer()
    assert stage.told == [{"east": frozenset({CONNECT}), "west": frozenset({CONNECT})}]


@pytest.mark.parametrize("age_s", [-3600.0, FRESH_S, 3600.0])
def test_a_word_of_another_time_is_none(stage: Stage, age_s: float) -> None:
    """The clock of the node was set since, or whoever said it is gone."""
    stage.news(FRESH_S)
    stage.west.readers = lambda: Deferred()  # type: ignore[method-assign]
    stage.east.readers = lambda: _succeed([Reading((REQUEST,), age_s)])  # type: ignore[method-assign]
    assert stage.news(2 * ASK_S) == {}


def _succeed(readings: Any) -> Deferred[list[Reading]]:
    answer: Deferred[list[Reading]] = Deferred()
    answer.callback(readings)
    return answer


def test_that_a_node_refuses_is_logged_once_until_it_answers(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.east.error = NodeRefused("node east: no right to ZRANGEBYSCORE")
    assert stage.news(1.0)["east"] is None
    assert caplog.messages == [
        "node east does not say who reads there: node east: no right to ZRANGEBYSCORE; see `ifserver check` for the "
        "rights it asks"
    ]
    stage.east.error = NodeUnreachable("node east: there is no connection")
    stage.news(1.0)
    stage.east.error = None
    stage.beat(stage.east, REQUEST)
    assert stage.news(ASK_S) == {"east": {REQUEST}}
    assert len(caplog.messages) == 1
    assert caplog.records[0].levelno == logging.WARNING


def test_with_one_node_there_is_nothing_to_ask_and_after_the_end_nothing_is_told() -> None:
    alone = Stage(count=1)
    alone.readership.start()
    assert alone.news(2.0) == {}
    assert alone.east.questions == 0
    alone.readership.stop()
    stage = Stage()
    stage.readership.start()
    stage.east.slow = True
    stage.news(ASK_S)
    stage.readership.stop()
    stage.readership.stop()
    stage.beat(stage.east, REQUEST)
    stage.east.answer()
    assert stage.news(2.0) == {}
