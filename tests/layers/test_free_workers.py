"""Which nodes are asked for free workers, how often, and what of their beats counts."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from ifserver import status
from ifserver.errors import NodeRefused, NodeUnreachable
from ifserver.layers.free_workers import FreeWorkers
from ifserver.layers.heartbeat_value import with_facts
from ifserver.layers.node import Node
from tests.layers.fakes import ToldNode


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


class Stage:
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
    stage = Stage()
    stage.seek(succeed({"a": BUSY, "b": FREE}))
    assert stage.found == ["n"]
    assert stage.workers.are_on("n", "default")
    assert not stage.workers.are_on("another", "default")
    stage.clock.advance(2.0)
    assert not stage.workers.are_on("n", "default")


def test_only_workers_of_the_pool_count() -> None:
    stage = Stage()
    reports = status.Child(pid=1, ready=True, free=3, pool="reports")
    stage.seek(succeed({"a": beat(reports)}))
    assert stage.found == []
    stage.node.answers.append(succeed({"a": beat(reports)}))
    stage.workers.seek([stage.node], "reports")
    assert stage.found == ["n"]
    assert (stage.workers.are_on("n", "reports"), stage.workers.are_on("n", "default")) == (True, False)


@pytest.mark.parametrize("value", [BUSY, b"child", b"", b"child\nno facts"], ids=["busy", "names", "empty", "other"])
def test_others_do_not_count(value: bytes) -> None:
    stage = Stage()
    stage.seek(succeed({"a": value}))
    assert stage.found == []
    assert not stage.workers.are_on("n", "default")


def test_it_is_asked_once_a_second_and_only_who_is_there() -> None:
    stage = Stage()
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
    stage = Stage()
    for error in (NodeUnreachable("gone"), NodeRefused("NOPERM"), NodeRefused("NOPERM")):
        stage.seek(fail(error))
        stage.clock.advance(1.0)
    assert len(caplog.messages) == 1
    assert "node n" in caplog.text
    assert "NOPERM" in caplog.text
    stage.seek(succeed({"b": FREE}))
    assert stage.found == ["n"]
