"""What nodes are asked, and what is made of their answers."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail

from ifserver import channels
from ifserver.errors import NodeRefused
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Queue
from ifserver.layers.operator_orders import Here, PoolHere
from ifserver.observe.admin.survey import ANSWER_S, Survey, Surveyor, agreed, side_by_side
from ifserver.status import Child, Facts, QueueStatus, encode, with_facts
from tests.front.fakes import GET, HANDSHAKE, SERVER
from tests.observe.admin.stage import Stage, supervisor_facts


class Node(MemoryNode):
    """Counts looks; answers them when it is told to."""

    looks = 0
    silent = False
    error: Exception | None = None

    def look(self, channel: str) -> Deferred[Queue]:
        self.looks += 1
        if self.error is not None:
            return fail(self.error)
        return Deferred() if self.silent else super().look(channel)


@pytest.fixture
def stage() -> Stage:
    return Stage(node=Node, others=("west",))


def survey(stage: Stage, surveyor: Surveyor | None = None) -> list[Any]:
    """The result, once it is there."""
    found: list[Any] = []
    (surveyor or Surveyor(stage.world.clusters, stage.world.clock)).survey().addBoth(found.append)
    return found


def test_all_is_well(stage: Stage) -> None:
    [found] = survey(stage)
    [cluster] = found.clusters
    assert (cluster.name, cluster.home) == ("east", True)
    assert [(node.name, node.answers, node.why, node.unreachable_s) for node in cluster.nodes] == [
        ("east", True, "", 0.0),
        ("west", True, "", 0.0),
    ]
    assert cluster.nodes[0].queues == tuple(
        QueueStatus(channel=channel, length=0, age_s=None)
        for channel in (channels.HTTP_REQUEST, channels.WEBSOCKET_CONNECT, channels.WEBSOCKET_RESUME)
    )
    assert set(found.processes) == {"supervisor"}
    assert found.workers() == 1


def test_what_waits_and_for_how_long(stage: Stage) -> None:
    stage.world.client(GET)
    stage.world.advance(2.5)
    for _ in range(2):
        stage.world.client(GET)
    stage.world.client(HANDSHAKE)
    stage.world.advance(0.5)
    stage.beat(server_facts(queue_timeout_s=stage.world.server.settings.queue_timeout_s))
    [found] = survey(stage)
    waiting = [queue for node in found.clusters[0].nodes for queue in node.queues if queue.length]
    assert sum(queue.length for queue in waiting) == 4
    assert max(queue.age_s for queue in waiting) == 3.0


def server_facts(**more: Any) -> Facts:
    return Facts(process=SERVER, kind="server", host="h", pid=1, version="1", node="east", started_at=0.0, **more)


def test_an_age_that_nobody_knows(stage: Stage) -> None:
    stage.world.client(GET)
    stage.world.settle()
    stage.world.node.push("websocket.connect", [b"nonsense"])
    stage.world.node.push("websocket.resume", [b"waits by another time"])
    [found] = survey(stage)
    assert {queue.age_s for node in found.clusters[0].nodes for queue in node.queues} == {None}


def test_beats_without_facts_and_with_those_of_others_tell_nothing(stage: Stage) -> None:
    stage.beat(None)
    stage.world.node.beat("1111111111", with_facts(b"", encode(supervisor_facts(process="2222222222"))), 9.0)
    stage.world.node.beat("3333333333", with_facts(b"", b"\xc1"), 9.0)
    [found] = survey(stage)
    assert found.processes == {}
    assert found.workers() == 0


def test_workers_are_those_that_are_ready(stage: Stage) -> None:
    stage.beat(supervisor_facts(Child(pid=1, ready=True), Child(pid=2), Child(pid=3, ready=True)))
    [found] = survey(stage)
    assert found.workers() == 2


def test_a_node_that_is_gone_refuses_or_is_silent(stage: Stage) -> None:
    west: Any = stage.world.others[0]
    west.error = NodeRefused("node west: NOPERM no right")
    [found] = survey(stage)
    assert (found.node("west").answers, found.node("west").why) == (False, "NOPERM no right")
    assert found.node("west").queues == ()
    west.error, west.silent = None, True
    result = survey(stage)
    stage.world.advance(ANSWER_S - 0.01)
    assert result == []
    stage.world.advance(0.01)
    assert result[0].node("west").why == "no answer within 1 s"
    west.stop()
    stage.world.advance(2.0)
    [found] = survey(stage)
    assert (found.node("west").why, found.node("west").unreachable_s) == ("there is no connection", 2.0)
    # Of the others all is known all the same.
    assert found.node("east").answers
    assert found.workers() == 1


def test_those_who_ask_at_once_get_one_answer(stage: Stage) -> None:
    surveyor = Surveyor(stage.world.clusters, stage.world.clock)
    node: Any = stage.world.node
    node.silent = True
    first, second = survey(stage, surveyor), survey(stage, surveyor)
    leaving = surveyor.survey()
    errors: list[Any] = []
    leaving.addErrback(errors.append)
    leaving.cancel()
    stage.world.advance(ANSWER_S)
    assert first == second
    assert isinstance(first[0], Survey)
    assert node.looks == 1
    assert errors[0].check(CancelledError)
    node.silent = False
    survey(stage, surveyor)
    assert node.looks == 4


def test_a_bug_is_told_to_all_who_ask(stage: Stage) -> None:
    node: Any = stage.world.node
    node.error = ZeroDivisionError()
    [failure] = survey(stage)
    assert "ZeroDivisionError" in failure.getTraceback()
    node.error = None
    [found] = survey(stage)
    assert isinstance(found, Survey)


# Pools side by side, as several servers count them.


def pool(name: str, weight: float | None, canary_of: str = "", requests: int = 0, errors: int = 0) -> PoolHere:
    return PoolHere(name, canary_of, weight, False, requests, errors, [])


OLD = Here([], pools=[pool("web", None, requests=10, errors=1)])
NEW = Here([], pools=[pool("web", 95, requests=20), pool("next", 5, "web", 1, 1)])


def test_a_server_with_older_settings_hides_nothing() -> None:
    for servers in ([OLD, NEW], [NEW, OLD]):
        web, canary = side_by_side(servers)
        assert (web.name, web.weight, web.requests, web.errors) == ("web", 95, 30, 1)
        assert (canary.name, canary.weight, canary.canary_of, canary.errors) == ("next", 5, "web", 1)


def test_whether_servers_agree() -> None:
    assert agreed([])
    assert agreed([NEW, NEW])
    assert not agreed([NEW, Here([], pools=[pool("web", 80), pool("next", 20, "web")])])
