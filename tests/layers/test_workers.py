"""Which nodes have workers: who reads where, and who is free."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from ifserver import status
from ifserver.errors import NodeError, NodeRefused, NodeUnreachable
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Limits, Node, Reading
from ifserver.layers.workers import ASK_S, FRESH_S, FreeWorkers, WorkerPresence
from ifserver.status import with_facts
from tests.layers.fakes import ToldNode

LIMITS = Limits(100, 600.0)
REQUEST, CONNECT = "http.request", "websocket.connect"


class SlowNode(MemoryNode):
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
        self.east, self.west = self.nodes = [SlowNode(name, self.clock) for name in ("east", "west")]
        self.told: list[dict[str, frozenset[str] | None]] = []
        self.readership = WorkerPresence(self.nodes[:count], self.clock, lambda new: self.told.append(dict(new)))

    def news(self, seconds: float = 0.0) -> dict[str, set[str] | None]:
        """What is told within `seconds`."""
        for _ in range(round(seconds / ASK_S)):
            self.clock.advance(ASK_S)
        told, self.told = self.told, []
        return {name: None if read is None else set(read) for each in told for name, read in each.items()}

    def beat(self, node: SlowNode, *reads: str, process: str = "ssssssssss") -> None:
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


# Free workers.


def beat(*children: status.Child) -> bytes:
    facts = status.Facts(
        process="s", kind="supervisor", host="h", pid=1, version="1", node="n", started_at=0.0, children=children
    )
    return with_facts(b"child", status.encode(facts))


FREE = beat(status.Child(pid=1, ready=True, free=0), status.Child(pid=2, ready=True, free=3))
BUSY = beat(status.Child(pid=1, ready=True, free=0), status.Child(pid=2, ready=False, free=3))


class Asked(ToldNode):
    """A node whose census the test decides."""

    def __init__(self, name: str = "n") -> None:
        super().__init__(name)
        self.answers: list[Deferred[dict[str, bytes]]] = []
        self.questions = 0

    def census(self) -> Deferred[dict[str, bytes]]:
        self.questions += 1
        return self.answers.pop(0) if self.answers else succeed({})


class Seeking:
    def __init__(self) -> None:
        self.clock = Clock()
        self.found: list[str] = []
        self.node = Asked()
        self.workers = FreeWorkers(self.clock, self._found)

    def _found(self, node: Node, pool: str) -> None:
        self.found.append(node.name)

    def seek(self, answer: Deferred[dict[str, bytes]]) -> None:
        self.node.answers.append(answer)
        self.workers.seek([self.node], "default")


def test_a_node_with_free_workers_is_found_and_that_holds_for_a_while() -> None:
    stage = Seeking()
    stage.seek(succeed({"a": BUSY, "b": FREE}))
    assert stage.found == ["n"]
    assert stage.workers.are_on("n", "default")
    assert not stage.workers.are_on("another", "default")
    stage.clock.advance(2.0)
    assert not stage.workers.are_on("n", "default")


def test_only_workers_of_the_pool_count() -> None:
    stage = Seeking()
    reports = status.Child(pid=1, ready=True, free=3, pool="reports")
    stage.seek(succeed({"a": beat(reports)}))
    assert stage.found == []
    stage.node.answers.append(succeed({"a": beat(reports)}))
    stage.workers.seek([stage.node], "reports")
    assert stage.found == ["n"]
    assert (stage.workers.are_on("n", "reports"), stage.workers.are_on("n", "default")) == (True, False)


@pytest.mark.parametrize("value", [BUSY, b"child", b"", b"child\nno facts"], ids=["busy", "names", "empty", "other"])
def test_others_do_not_count(value: bytes) -> None:
    stage = Seeking()
    stage.seek(succeed({"a": value}))
    assert stage.found == []
    assert not stage.workers.are_on("n", "default")


def test_it_is_asked_once_a_second_and_only_who_is_there() -> None:
    stage = Seeking()
    for _ in range(10):
        stage.workers.seek([stage.node], "default")
        stage.clock.advance(0.25)
    assert stage.node.questions == 3
    stage.node.connected = False
    stage.clock.advance(1.0)
    stage.workers.seek([stage.node], "default")
    assert stage.node.questions == 3


def test_a_node_that_does_not_answer_is_asked_again_and_a_refusal_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Seeking()
    for error in (NodeUnreachable("gone"), NodeRefused("NOPERM"), NodeRefused("NOPERM")):
        stage.seek(fail(error))
        stage.clock.advance(1.0)
    assert len(caplog.messages) == 1
    assert "node n" in caplog.text
    assert "NOPERM" in caplog.text
    stage.seek(succeed({"b": FREE}))
    assert stage.found == ["n"]
