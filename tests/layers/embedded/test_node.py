"""What is special about a node in memory: time that a test can turn, and hands that reach in while it works."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from ifserver.errors import NodeUnreachable
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Limits, Pulled, Pushed
from tests.layers.helpers import INBOX, ROOMY


def make(requests: Limits = ROOMY, inboxes: Limits = ROOMY) -> tuple[MemoryNode, Clock]:
    clock = Clock()
    node = MemoryNode("east-1", requests, inboxes, clock, "epoch")
    node.start()
    return node, clock


def result_of(deferred: Deferred[Any]) -> Any:
    """What `deferred` has fired with; fails if it has not."""
    results: list[Any] = []
    deferred.addCallback(results.append)
    assert results, "it has not fired"
    return results[0]


def failure_of(deferred: Deferred[Any]) -> BaseException:
    failures: list[Any] = []
    deferred.addErrback(failures.append)
    assert failures, "it has not failed"
    return failures[0].value


def test_the_pull_that_waits_longest_is_served_first() -> None:
    node, _ = make()
    first, second, third = node.pull(("s", "r"), 1, 9.0), node.pull(("r",), 1, 9.0), node.pull(("r", "s"), 5, 9.0)
    node.push("r", [b"1", b"2", b"3", b"4"])
    assert [result_of(pull).payloads for pull in (first, second, third)] == [[b"1"], [b"2"], [b"3", b"4"]]


def test_a_pull_ends_exactly_when_its_time_is_over() -> None:
    node, clock = make()
    pulling = node.pull(("r",), 1, 1.0)
    clock.advance(0.999)
    assert not pulling.called
    clock.advance(0.001)
    assert result_of(pulling) is None
    assert clock.getDelayedCalls() == []


def test_a_channel_named_twice_counts_once() -> None:
    node, clock = make()
    pulling = node.pull(("r", "r"), 1, 1.0)
    clock.advance(1.0)
    assert result_of(pulling) is None
    assert node.statistics()["channels"] == 0


def test_cancelling_a_pull_takes_it_out() -> None:
    node, clock = make()
    pulling = node.pull(("r", "s"), 1, 1.0)
    pulling.cancel()
    assert isinstance(failure_of(pulling), CancelledError)
    node.push("s", [b"x"])
    assert result_of(node.pull(("r", "s"), 1, 1.0)) == Pulled("s", [b"x"])
    assert [call.getTime() for call in clock.getDelayedCalls()] == [60.0]  # the sweep alone


def test_who_is_served_may_push_and_pull_at_once() -> None:
    node, _ = make()
    seen: list[bytes] = []

    def take(pulled: Pulled | None) -> None:
        assert pulled is not None
        seen.extend(pulled.payloads)
        if len(seen) < 7:
            node.push("r", [b"again-%d" % len(seen)])
            node.pull(("r",), 1, 9.0).addCallback(take)

    for _ in range(2):
        node.pull(("r",), 1, 9.0).addCallback(take)
    assert result_of(node.push("r", [b"a", b"b", b"c"])) == Pushed(3, 3)
    assert seen[:3] == [b"a", b"b", b"c"]
    assert len(seen) == len(set(seen))
    waiting = result_of(node.pull(("r",), 99, 0)).payloads if node.statistics()["messages"] else []
    assert node.statistics()["pushed"] == len(seen) + len(waiting)


def test_stop_fails_the_pulls_and_forgets_the_messages() -> None:
    node, clock = make()
    pulls = [node.pull(("r", "s"), 1, 1.0), node.pull(("s",), 1, 1.0)]
    node.push("t", [b"x"])
    assert result_of(node.stop()) is None
    assert [type(failure_of(pull)) for pull in pulls] == [NodeUnreachable] * 2
    assert node.statistics()["messages"] == 0
    assert clock.getDelayedCalls() == []
    assert not node.connected


def test_ready_waits_for_the_start() -> None:
    node = MemoryNode("east-1", ROOMY, ROOMY, Clock(), "epoch")
    waiting, cancelled = node.ready(), node.ready()
    cancelled.cancel()
    assert isinstance(failure_of(cancelled), CancelledError)
    assert isinstance(failure_of(node.push("r", [b"x"])), NodeUnreachable)
    node.start()
    assert result_of(waiting) is None
    assert result_of(node.ready()) is None


class Model(RuleBasedStateMachine):
    """A node beside plain lists, with pulls that wait and pulls that do not."""

    names = st.sampled_from(["r", "s", INBOX])
    payloads = st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=4)

    def __init__(self) -> None:
        super().__init__()
        self.node, self.clock = make(Limits(5, 1e6), Limits(5, 1e6))
        self.lists: dict[str, list[bytes]] = {"r": [], "s": [], INBOX: []}
        #: Pulls that wait, oldest first.
        self.waiting: list[tuple[list[str], int, Deferred[Pulled | None]]] = []

    @rule(name=names, payloads=payloads)
    def push(self, name: str, payloads: list[bytes]) -> None:
        mine = self.lists[name]
        taken = payloads[: 5 - len(mine)]
        mine += taken
        expected = Pushed(len(taken), len(mine))
        served = []
        for pull in list(self.waiting):
            names, count, pulling = pull
            if mine and name in names:
                served.append((pulling, Pulled(name, mine[:count])))
                del mine[:count]
                self.waiting.remove(pull)
        assert result_of(self.node.push(name, payloads)) == expected
        for pulling, pulled in served:
            assert result_of(pulling) == pulled

    @rule(names=st.lists(names, min_size=1, max_size=3), count=st.integers(1, 3))
    def pull(self, names: list[str], count: int) -> None:
        pulling = self.node.pull(names, count, 1e5)
        for name in names:
            if self.lists[name]:
                assert result_of(pulling) == Pulled(name, self.lists[name][:count])
                del self.lists[name][:count]
                return
        assert not pulling.called
        self.waiting.append((names, count, pulling))

    @rule()
    def end_pulls(self) -> None:
        self.node.end_pulls()
        for _, _, pulling in self.waiting:
            assert result_of(pulling) is None
        self.waiting.clear()

    @rule(name=names, payload=st.sampled_from([b"a", b"b", b"c"]))
    def withdraw(self, name: str, payload: bytes) -> None:
        mine = self.lists[name]
        assert result_of(self.node.holds(name, payload)) is (payload in mine)
        assert result_of(self.node.withdraw(name, payload)) is (payload in mine)
        if payload in mine:
            mine.remove(payload)

    @invariant()
    def counts_agree(self) -> None:
        statistics = self.node.statistics()
        assert statistics["messages"] == sum(map(len, self.lists.values()))
        assert statistics["pulls"] == len(self.waiting)
        assert statistics["pushed"] == statistics["pulled"] + statistics["withdrawn"] + statistics["messages"]
        awaited = {name for names, _, _ in self.waiting for name in names}
        assert statistics["channels"] == len(awaited | {name for name, mine in self.lists.items() if mine})


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# What can be seen of it, and for how long it is kept.


def test_time_to_live_belongs_to_the_list_and_is_renewed_after_a_third() -> None:
    node, clock = make(Limits(10, 90.0))
    node.push("r", [b"a"])
    clock.advance(29)
    node.push("r", [b"b"])
    clock.advance(60.5)
    assert result_of(node.holds("r", b"a")) is True
    clock.advance(0.5)
    assert result_of(node.holds("r", b"b")) is False
    node.push("r", [b"c"])
    clock.advance(31)
    node.push("r", [b"d"])
    clock.advance(89)
    assert result_of(node.pull(("r",), 5, 0)) == Pulled("r", [b"c", b"d"])
    assert node.statistics()["expired"] == 2


def test_an_abandoned_channel_is_forgotten_by_itself() -> None:
    node, clock = make(Limits(10, 5.0), Limits(10, 60.0))
    node.push("r", [b"a"])
    node.push(INBOX, [b"a", b"b"])
    assert node.statistics()["channels"] == 2
    clock.pump([1.0] * 10)
    assert node.statistics()["channels"] == 1
    clock.pump([1.0] * 60)
    assert node.statistics()["channels"] == 0
    assert node.statistics()["expired"] == 3
    assert clock.getDelayedCalls() == []


def test_empty_channels_leave_nothing_behind() -> None:
    node, clock = make()
    for i in range(50):
        name = f"r-{i}"
        pulling = node.pull((name, "s"), 1, 1.0)
        node.push(name, [b"x"])
        assert result_of(pulling) == Pulled(name, [b"x"])
        node.push(name, [])
        node.push(name, [b"x"])
        node.withdraw(name, b"x")
        node.pull((name,), 1, 1.0)
    clock.advance(1.0)
    assert node.statistics()["channels"] == node.statistics()["pulls"] == 0


@pytest.mark.parametrize("name", ["r", INBOX])
def test_capacity_counts_what_has_not_expired(name: str) -> None:
    node, clock = make(Limits(2, 5.0), Limits(2, 5.0))
    assert result_of(node.push(name, [b"a", b"b", b"c"])) == Pushed(2, 2)
    clock.advance(5.0)
    assert result_of(node.push(name, [b"d"])) == Pushed(1, 1)


def test_a_beat_that_is_over_is_forgotten_by_itself() -> None:
    node, clock = make(Limits(10, 5.0), Limits(10, 60.0))
    node.beat("1111111111", b"a", 3.0)
    node.beat("2222222222", b"b", 8.0)
    clock.advance(3.0)
    assert result_of(node.beats(["1111111111", "2222222222"])) == [None, b"b"]
    assert result_of(node.census()) == {"2222222222": b"b"}
    clock.pump([1.0] * 7)
    assert result_of(node.census()) == {}
    assert clock.getDelayedCalls() == []
