"""Groups of one process: what it publishes, what its listeners hear, and what they are told is missing."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from ifserver.errors import ChannelNameError, NodeError, NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.layers import groups as module
from ifserver.layers.clusters import Clusters
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.groups import Groups
from ifserver.layers.node import Node
from ifserver.messages import Broadcast, encode
from ifserver.metrics import CELLS, Counters
from tests.layers.harnesses import HARNESSES, Harness, RedisHarness
from tests.layers.helpers import ROOMY, async_test, error_of, eventually, within
from tests.spoiled import spoiled
from tests.test_messages import IN_GROUPS

ROOT = Path(__file__).parents[2]
#: Where the second count begins.
NEXT = 1 << 32


class Told(MemoryNode):
    """A node whose publishes and subscriptions fail or wait as a test says, and that tells what was published."""

    def __init__(self, name: str, clock: Clock) -> None:
        super().__init__(name, ROOMY, ROOMY, clock, "epoch")
        self.start()
        self.fails: NodeError | None = None
        self.answers: list[Deferred[int]] | None = None
        self.refuses: NodeError | None = None
        self.holds_back = False
        self.held: list[tuple[list[str], Deferred[None]]] = []
        self.numbers: list[int] = []

    def _publish(self, group: str, payload: bytes) -> Deferred[int]:
        if self.answers is not None:
            self.answers.append(Deferred())
            return self.answers[-1]
        if self.fails is not None:
            failing: Deferred[int] = Deferred()
            failing.errback(self.fails)
            return failing
        with suppress(msgspec.DecodeError, IndexError):
            self.numbers.append(msgspec.msgpack.decode(payload[1:])[2])
        return super()._publish(group, payload)

    def subscribe(self, groups: Any) -> Deferred[None]:
        if self.refuses is not None:
            failing: Deferred[None] = Deferred()
            failing.errback(self.refuses)
            return failing
        if self.holds_back:
            self.held.append((list(groups), Deferred()))
            return self.held[-1][1]
        return super().subscribe(groups)

    def let_go(self) -> None:
        """Subscribe to what was held back."""
        held, self.held, self.holds_back = self.held, [], False
        for groups, waiting in held:
            super().subscribe(groups)
            waiting.callback(None)


class Member:
    """Hears groups (`Listener`)."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def heard(self, group: str, broadcast: Broadcast) -> None:
        self.events.append((group, broadcast.text))

    def gap(self, group: str, missed: int | None) -> None:
        self.events.append((group, missed))


class Place:
    """Nodes, and the groups of a process on them."""

    def __init__(self, nodes: int = 1, process: str = "0000000000") -> None:
        self.clock = Clock()
        self.nodes = [Told(f"east-{i}", self.clock) for i in range(1, nodes + 1)]
        self.counters = Counters()
        self.groups = Groups(process, self.nodes, self.nodes[0], self.clock, self.counters)

    def member(self, *groups: str) -> Member:
        """One who hears them."""
        member = Member()
        for group in groups:
            assert outcome(self.groups.subscribe(group, member)) == [None]
        return member

    def publish(self, group: str, text: str, **options: Any) -> list[Any]:
        return outcome(self.groups.publish(group, text=text, **options))

    def comes(self, number: int, group: str = "g", publisher: str = "other00000", node: int = 0) -> None:
        """A broadcast of another process comes, which says its number."""
        payload = encode(Broadcast(publisher, number, "", text=str(number % NEXT)))
        self.nodes[node].publish(group, payload)

    def counted(self) -> dict[str, int]:
        return self.counters.statistics()


def outcome(deferred: Deferred[Any]) -> list[Any]:
    results: list[Any] = []
    deferred.addCallbacks(results.append, lambda failure: results.append(failure.value))
    return results


# Publishing.


def test_what_is_published_is_heard_by_those_who_have_subscribed() -> None:
    place = Place()
    one, both, none = place.member("g"), place.member("g", "h"), Member()
    assert place.publish("g", "a") == [1]
    assert place.publish("h", "b") == [1]
    assert place.publish("i", "c") == [0]
    assert one.events == [("g", "a")]
    assert both.events == [("g", "a"), ("h", "b")]
    assert none.events == []
    assert place.counted() == {"broadcasts_heard": 2, "broadcasts_published": 3}
    assert place.groups.statistics() == {"groups": 2, "group_listeners": 3}


def test_whatever_is_sent_arrives_as_it_is() -> None:
    place = Place()
    heard: list[Broadcast] = []

    class Keeper(Member):
        def heard(self, group: str, broadcast: Broadcast) -> None:
            heard.append(broadcast)

    place.groups.subscribe("g", Keeper())
    place.groups.publish("g", text="ä", exclude="p.1")
    place.groups.publish("g", data=b"\xff")
    place.groups.publish("g", close=(4000, "bye"))
    place.groups.publish("g", message=b"\x80")
    assert heard == [
        Broadcast("0000000000", 0, "p.1", text="ä"),
        Broadcast("0000000000", 1, "", data=b"\xff"),
        Broadcast("0000000000", 2, "", close=(4000, "bye")),
        Broadcast("0000000000", 3, "", message=b"\x80"),
    ]


def test_what_cannot_be_sent_uses_no_number() -> None:
    place = Place()
    with pytest.raises(ChannelNameError):
        place.groups.publish("a b", text="x")
    with pytest.raises(UnicodeEncodeError):
        place.groups.publish("g", text="\ud800")
    for bad in ({}, {"text": "a", "close": (1000, "")}):
        with pytest.raises(ValueError, match="one of text"):
            place.groups.publish("g", **bad)  # type: ignore[arg-type]
    place.publish("g", "x")
    assert place.nodes[0].numbers == [0]


def test_it_is_published_on_every_node_and_fires_with_the_sum() -> None:
    place = Place(nodes=3)
    other = Groups("1111111111", place.nodes, place.nodes[2], place.clock, Counters())
    place.nodes[0].subscriber = place.groups
    for node in place.nodes:
        node.subscribe(["g"])
    assert place.publish("g", "x") == [3]
    assert [node.numbers for node in place.nodes] == [[0], [0], [0]]
    assert other.statistics()["groups"] == 0


def test_groups_are_numbered_each_on_its_own() -> None:
    place = Place()
    for group in "gghg":
        place.publish(group, "x")
    assert place.nodes[0].numbers == [0, 1, 0, 2]


def test_one_node_that_takes_it_is_enough() -> None:
    place = Place(nodes=3)
    place.member("g")
    place.nodes[1].fails = PushInDoubt("east-2 broke")
    place.nodes[2].stop()
    assert place.publish("g", "x") == [1]
    place.nodes[1].fails = NodeRefused("east-2 is full")
    assert place.publish("g", "y") == [1]
    assert place.counted() == {
        "broadcasts_failed{in_doubt}": 1,
        "broadcasts_failed{refused}": 1,
        "broadcasts_failed{unreachable}": 2,
        "broadcasts_heard": 2,
        "broadcasts_published": 2,
    }


@pytest.mark.parametrize(
    ("errors", "expected", "number"),
    [
        ([NodeUnreachable("a"), NodeUnreachable("b")], NodeUnreachable, 0),
        ([NodeUnreachable("a"), NodeRefused("b")], NodeRefused, 0),
        ([NodeRefused("a"), PushInDoubt("b")], PushInDoubt, 1),
    ],
)
def test_what_no_node_has_taken_fails_and_is_no_gap_unless_it_is_in_doubt(
    errors: list[NodeError], expected: type[NodeError], number: int
) -> None:
    place = Place(nodes=2)
    for node, error in zip(place.nodes, errors, strict=True):
        node.fails = error
    [error] = place.publish("g", "x")
    assert type(error) is expected
    assert str(error) == "a; b"
    assert "broadcasts_published" not in place.counted()
    for node in place.nodes:
        node.fails = None
    place.publish("g", "y")
    assert place.nodes[0].numbers == [number]


def test_nodes_without_a_connection_are_not_asked() -> None:
    place = Place(nodes=2)
    for node in place.nodes:
        node.stop()
    [error] = place.publish("g", "x")
    assert type(error) is NodeUnreachable
    assert "east-1" in str(error)
    assert "east-2" in str(error)
    assert place.nodes[0].statistics()["publishes_unreachable"] == 0


def test_a_node_that_does_not_answer_is_not_sent_more_and_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_UNANSWERED_BYTES", 1000)
    place = Place(nodes=2)
    answers = place.nodes[0].answers = []
    waiting = [place.publish("g", "x" * 500) for _ in range(4)]
    assert waiting == [[], [], [0], [0]]
    assert len(answers) == 2
    assert place.counted() == {"broadcasts_failed{refused}": 2, "broadcasts_published": 2}
    answers[0].callback(1)
    answers[1].errback(PushInDoubt("it broke"))
    assert waiting == [[1], [0], [0], [0]]
    place.publish("g", "x")
    assert len(answers) == 3
    assert place.groups._unanswered[place.nodes[1]] == 0


def test_a_publisher_forgets_and_begins_a_higher_count(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place()
    member = place.member("g", "h")
    place.publish("g", "1")
    place.publish("g", "2")
    place.clock.advance(50.0)
    place.publish("g", "3")
    for _ in range(4):
        place.clock.advance(40.0)
        place.publish("h", "x")
    place.publish("g", "4")
    place.publish("g", "5")
    numbers = place.nodes[0].numbers
    assert numbers[:3] == [0, 1, 2]
    assert numbers[-2] % NEXT == 0
    assert numbers[-2] >= NEXT
    assert numbers[-1] == numbers[-2] + 1
    # Whoever hears sees no gap.
    assert [text for group, text in member.events if group == "g"] == ["1", "2", "3", "4", "5"]
    assert set(place.counted()) == {"broadcasts_heard", "broadcasts_published"}


def test_what_a_publisher_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PUBLISHED_MOST", 100)
    place = Place()
    member = place.member("g5", "g999")
    for round in range(3):
        for i in range(1000):
            place.publish(f"g{i}", str(round))
    assert len(place.groups._numbers._new) + len(place.groups._numbers._old) <= 202
    assert member.events == [(group, str(round)) for round in range(3) for group in ("g5", "g999")]


# Hearing.


def test_a_listener_hears_once_however_often_it_has_subscribed() -> None:
    place = Place()
    member = place.member("g")
    place.groups.subscribe("g", member)
    place.publish("g", "x")
    assert member.events == [("g", "x")]
    place.groups.unsubscribe("g", member)
    place.groups.unsubscribe("g", member)
    place.groups.unsubscribe("never", member)
    place.publish("g", "y")
    assert member.events == [("g", "x")]
    assert place.nodes[0].statistics()["groups"] == 0


def test_the_last_who_leaves_ends_the_subscription() -> None:
    place = Place()
    one, two = place.member("g"), place.member("g")
    place.groups.unsubscribe("g", one)
    assert place.publish("g", "x") == [1]
    place.groups.unsubscribe("g", two)
    assert place.publish("g", "y") == [0]
    assert (one.events, two.events) == ([], [("g", "x")])


def test_a_listener_may_leave_while_it_hears_and_what_it_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()

    class Rude(Member):
        def heard(self, group: str, broadcast: Broadcast) -> None:
            place.groups.unsubscribe(group, self)
            place.groups.unsubscribe(group, victim)
            raise RuntimeError("rude")

        def gap(self, group: str, missed: int | None) -> None:
            raise RuntimeError("rude")

    rude, victim, bystander = Rude(), Member(), Member()
    for each in (rude, victim, bystander):
        place.groups.subscribe("g", each)
    place.groups.interrupted(["g"])
    place.publish("g", "x")
    place.publish("g", "y")
    assert victim.events == [("g", None)]
    assert bystander.events == [("g", None), ("g", "x"), ("g", "y")]
    assert caplog.text.count("RuntimeError: rude") == 2


def test_who_hears_may_publish_in_the_same_group() -> None:
    place = Place()

    class Echo(Member):
        def heard(self, group: str, broadcast: Broadcast) -> None:
            super().heard(group, broadcast)
            if broadcast.text == "ping":
                place.publish(group, "pong")

    echo = Echo()
    place.groups.subscribe("g", echo)
    member = place.member("g")
    place.publish("g", "ping")
    assert member.events == echo.events == [("g", "ping"), ("g", "pong")]
    assert "broadcasts_lost" not in place.counted()


def test_a_skipped_number_is_a_gap_and_an_older_one_is_not_heard_again(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    member = place.member("g")
    for number in (4, 5, 5, 4, 8, 6, 9, 0, 9):
        place.comes(number)
    assert member.events == [("g", "4"), ("g", "5"), ("g", 2), ("g", "8"), ("g", "9")]
    assert place.counted() == {"broadcasts_heard": 4, "broadcasts_lost": 2, "broadcasts_repeated": 5}
    assert caplog.messages == ["2 broadcasts to group g were lost"]


def test_a_new_count_is_no_gap_but_what_is_missing_at_its_beginning() -> None:
    place = Place()
    member = place.member("g")
    for number in (7, NEXT, NEXT + 1, 3 * NEXT + 2, 9, NEXT + 2):
        place.comes(number)
    assert member.events == [("g", "7"), ("g", "0"), ("g", "1"), ("g", 2), ("g", "2")]
    assert place.counted() == {"broadcasts_heard": 4, "broadcasts_lost": 2, "broadcasts_repeated": 2}


def test_publishers_and_groups_have_numbers_of_their_own() -> None:
    place = Place()
    member = place.member("g", "h")
    place.comes(5)
    place.comes(9, publisher="third00000")
    place.comes(2, group="h")
    place.comes(6)
    assert member.events == [("g", "5"), ("g", "9"), ("h", "2"), ("g", "6")]


def test_what_was_published_while_nobody_heard_is_no_gap() -> None:
    place = Place()
    member = place.member("g")
    place.comes(1)
    place.groups.unsubscribe("g", member)
    place.comes(2)
    place.groups.subscribe("g", member)
    place.comes(3)
    assert member.events == [("g", "1"), ("g", "3")]
    assert "broadcasts_lost" not in place.counted()


def test_what_is_remembered_of_publishers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RECEIVED_MOST", 50)
    place = Place()
    member = place.member("g")
    for i in range(1000):
        place.comes(7, publisher=f"{i:010}")
    assert len(member.events) == 1000
    assert len(place.groups._received._new) + len(place.groups._received._old) <= 102


def test_losses_are_logged_at_most_every_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    place.member("g")
    for number in range(0, 50, 10):
        place.comes(number)
    place.clock.advance(10.0)
    assert caplog.messages == ["9 broadcasts to group g were lost", "27 more broadcasts were lost"]
    place.clock.advance(10.0)
    assert place.clock.getDelayedCalls() == []
    place.comes(60)
    place.groups.stop()
    assert place.clock.getDelayedCalls() == []


def test_what_cannot_be_decoded_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    member = place.member("g")
    for payload in (b"", b"\x02\x90", b"\x01\x90"):
        place.nodes[0].publish("g", payload)
    place.comes(0)
    assert member.events == [("g", "0")]
    assert place.counted()["broadcasts_undecodable"] == 3
    assert len(caplog.messages) == 1


# When the node is lost, and when the home changes.


def test_an_interruption_is_told(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    member = place.member("g", "h")
    place.comes(0)
    place.nodes[0].stop()
    place.nodes[0].start()
    place.comes(2)
    assert member.events[0] == ("g", "0")
    assert sorted(member.events[1:3]) == [("g", None), ("h", None)]
    assert member.events[3:] == [("g", 1), ("g", "2")]
    assert place.counted() == {"broadcasts_heard": 2, "broadcasts_lost": 1, "groups_interrupted": 2}
    assert caplog.messages[0] == "broadcasts to 2 groups may be lost: the node did not reach us for a while"


def test_who_subscribes_waits_for_the_node() -> None:
    place = Place()
    node = place.nodes[0]
    node.holds_back = True
    one, two = Member(), Member()
    first, second = outcome(place.groups.subscribe("g", one)), outcome(place.groups.subscribe("g", two))
    cancelled, left = place.groups.subscribe("g", one), outcome(place.groups.subscribe("h", one))
    cancelled.cancel()
    assert [type(error) for error in outcome(cancelled)] == [CancelledError]
    place.groups.unsubscribe("h", one)
    assert (first, second, left) == ([], [], [None])
    node.let_go()
    assert (first, second) == ([None], [None])
    place.publish("g", "x")
    assert one.events == two.events == [("g", "x")]


def test_a_refusal_is_told_and_nobody_hears() -> None:
    place = Place()
    place.nodes[0].refuses = NodeRefused("no right")
    member = Member()
    assert [str(error) for error in outcome(place.groups.subscribe("g", member))] == ["no right"]
    assert place.groups.statistics() == {"groups": 0, "group_listeners": 0}
    place.nodes[0].refuses = None
    place.member("g")
    place.publish("g", "x")
    assert member.events == []


def test_a_bad_name_is_an_error_at_once() -> None:
    place = Place()
    with pytest.raises(ChannelNameError):
        place.groups.subscribe("a b", Member())
    assert place.groups.statistics()["groups"] == 0


def test_a_change_of_home_moves_all_and_nothing_is_heard_twice() -> None:
    place = Place(nodes=2)
    old, new = place.nodes
    member = place.member("g", "h")
    place.publish("g", "1")
    new.holds_back = True
    place.groups.moved(new)
    place.publish("g", "2")
    late, joined = outcome(place.groups.subscribe("g", member)), outcome(place.groups.subscribe("i", member))
    gone = outcome(place.groups.subscribe("j", member))
    place.groups.unsubscribe("h", member)
    place.groups.unsubscribe("j", member)
    assert (late, joined, gone) == ([], [], [None])
    # For a moment both nodes have us.
    super(Told, new).subscribe(["g"])
    assert place.publish("g", "3") == [2]
    new.let_go()
    assert (late, joined) == ([None], [None])
    assert (old.statistics()["groups"], new.statistics()["groups"]) == (0, 2 + len({"h", "j"}))
    place.publish("g", "4")
    place.publish("i", "5")
    assert member.events == [("g", "1"), ("g", "2"), ("g", "3"), ("g", None), ("g", "4"), ("i", "5")]
    assert place.counted()["broadcasts_repeated"] == 1
    assert place.counted()["groups_interrupted"] == 1


def test_a_late_copy_from_the_old_home_is_not_heard() -> None:
    place = Place(nodes=2)
    member = place.member("g")
    place.nodes[1].holds_back = True
    place.groups.moved(place.nodes[1])
    super(Told, place.nodes[1]).subscribe(["g"])
    for number, node in ((0, 0), (1, 1), (0, 1), (2, 1), (1, 0), (2, 0), (3, 0), (3, 1)):
        place.comes(number, node=node)
    assert member.events == [("g", str(i)) for i in range(4)]


def test_there_and_back_again() -> None:
    place = Place(nodes=2)
    first, second = place.nodes
    member = place.member("g")
    second.holds_back = True
    place.groups.moved(second)
    place.groups.moved(first)
    second.let_go()
    second.unsubscribe(["g"])  # the real one was told to, behind its own subscription
    place.groups.moved(first)
    place.publish("g", "x")
    assert member.events == [("g", None), ("g", "x")]
    assert (first.statistics()["groups"], second.statistics()["groups"]) == (1, 0)
    place.groups.moved(second)
    place.publish("g", "y")
    assert (first.statistics()["groups"], second.statistics()["groups"]) == (0, 1)
    assert member.events[2:] == [("g", None), ("g", "y")]


def test_a_home_without_groups_asks_for_none() -> None:
    place = Place(nodes=2)
    place.nodes[1].refuses = NodeRefused("nothing was to be asked")
    place.groups.moved(place.nodes[1])
    place.nodes[1].refuses = None
    place.member("g")
    assert [node.statistics()["groups"] for node in place.nodes] == [0, 1]


def test_a_new_home_that_refuses_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    place = Place(nodes=2)
    member = place.member("g")
    place.nodes[1].refuses = NodeRefused("no right")
    place.groups.moved(place.nodes[1])
    refused = outcome(place.groups.subscribe("h", member))
    assert [str(error) for error in refused] == ["no right"]
    assert "node east-2 does not let us subscribe to groups: no right; trying again" in caplog.text
    place.publish("g", "x")
    place.nodes[1].refuses = None
    place.clock.advance(5.0)
    place.publish("g", "y")
    assert member.events == [("g", "x"), ("g", None), ("g", "y")]
    assert [node.statistics()["groups"] for node in place.nodes] == [0, 1]
    place.nodes[0].refuses = NodeRefused("no right")
    place.groups.moved(place.nodes[0])
    place.groups.stop()
    assert place.clock.getDelayedCalls() == []


def test_a_process_that_stops_fails_those_who_wait() -> None:
    place = Place()
    place.nodes[0].refuses = NodeUnreachable("it was stopped")
    assert [str(error) for error in outcome(place.groups.subscribe("g", Member()))] == ["it was stopped"]


def test_any_numbers_in_any_order_are_heard_rising_and_accounted_for() -> None:
    rng = random.Random(7)
    for _ in range(200):
        place = Place()
        member = place.member("g")
        numbers = [rng.randrange(30) for _ in range(30)]
        for number in numbers:
            place.comes(number)
        heard = [int(text) for _, text in member.events if isinstance(text, str)]
        missed = sum(text for _, text in member.events if isinstance(text, int))
        assert heard == sorted(set(heard))
        assert missed == place.counters.value("broadcasts_lost") == heard[-1] - heard[0] + 1 - len(heard)
        assert place.counters.value("broadcasts_repeated") == len(numbers) - len(heard)


# With real nodes, and other processes.


class Site:
    """Redis nodes of one cluster, and processes that are on them."""

    def __init__(self) -> None:
        self.harnesses: list[Harness] = []
        self._clusters: list[Clusters] = []

    async def open(self, kind: str, count: int) -> None:
        for _ in range(count):
            self.harnesses.append(HARNESSES[kind]())
            await self.harnesses[-1].open()
            if kind == "local":
                await self.harnesses[-1].node()

    async def clusters(self, process: str) -> Clusters:
        """One more process, connected."""
        nodes: list[Node] = []
        for i, harness in enumerate(self.harnesses, 1):
            node = harness.make()
            node.name = f"east-{i}"
            nodes.append(node)
        clusters = Clusters(process, {"east": nodes}, "east", reactor, lambda call: call(), Counters())
        self._clusters.append(clusters)
        clusters.start()
        for node in nodes:
            await within(node.ready())
        return clusters

    async def close(self) -> None:
        for clusters in self._clusters:
            await within(clusters.home.stop())
            await within(clusters.stop())
        for harness in self.harnesses:
            await within(harness.close())


@pytest_twisted.async_yield_fixture
async def site() -> Any:
    site = Site()
    yield site
    await site.close()


class Resident:
    """A process that receives nothing of its own."""

    def deliver(self, inbox: str, payloads: list[bytes]) -> None:
        raise AssertionError(payloads)

    def moved(self) -> None:
        pass

    def names(self, inbox: str) -> bool:
        return False

    def readdress(self, inbox: str) -> None:
        pass


@async_test
async def test_a_process_whose_home_is_gone_hears_at_another_node(site: Site) -> None:
    await site.open("redis", 2)
    hearing, publishing = await site.clusters("0000000000"), await site.clusters("1111111111")
    hearing.home.start(Resident())
    member = Member()
    await within(hearing.groups.subscribe("g", member))
    sent: list[str] = []

    async def publish() -> None:
        sent.append(str(len(sent)))
        await within(publishing.groups.publish("g", text=sent[-1]))

    for _ in range(50):
        await publish()
    await eventually(lambda: ("g", "49") in member.events)
    home = int(hearing.home.node.name[-1]) - 1
    lost = site.harnesses[home]
    assert isinstance(lost, RedisHarness)
    await lost.crash()
    while ("g", None) not in member.events:
        try:
            await publish()
        except PushInDoubt:
            pass
    for _ in range(50):
        await publish()
    await eventually(lambda: member.events[-1] == ("g", sent[-1]), "the last")
    assert hearing.home.node.name != f"east-{home + 1}"
    heard = [text for _, text in member.events if isinstance(text, str)]
    assert heard == sorted(set(heard), key=int)
    missed = sum(text for _, text in member.events if isinstance(text, int))
    assert len(heard) + missed == len(sent)
    assert hearing.counters.value("broadcasts_lost") == missed
    # And when it is back nothing is heard twice.
    await lost.come_back()
    await eventually(lambda: all(node.connected for node in publishing.nodes.values()))
    for _ in range(20):
        await publish()
    await eventually(lambda: member.events[-1] == ("g", sent[-1]), "the last")
    heard = [text for _, text in member.events if isinstance(text, str)]
    assert heard == sorted(set(heard), key=int)


@pytest.mark.parametrize("kind", ["local", "redis"])
@async_test
async def test_what_other_processes_publish_arrives_in_order(site: Site, kind: str) -> None:
    await site.open(kind, 1)
    hearing = await site.clusters("0000000000")
    member = Member()
    await within(hearing.groups.subscribe("g", member))
    command = [sys.executable, "-m", "tests.layers.broadcaster", kind, site.harnesses[0].address, "g", "2000"]
    publishers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        results = [await within(deferToThread(each.communicate)) for each in publishers]
    finally:
        for each in publishers:
            each.kill()  # does nothing to one that has ended
            each.wait()
    said = [json.loads(out) for out, _ in results]
    assert [each["handed"] for each in said] == [2000, 2000]
    await eventually(lambda: len(member.events) >= 4000, "all of them")
    for each in said:
        mine = [text for _, text in member.events if text.startswith(each["process"])]
        assert mine == [f"{each['process']} {i}" for i in range(2000)]
    assert hearing.counters.statistics() == {"broadcasts_heard": 4000}


@async_test
async def test_a_publish_that_no_node_takes_fails(site: Site) -> None:
    await site.open("redis", 1)
    publishing = await site.clusters("1111111111")
    harness = site.harnesses[0]
    harness.freeze()
    in_doubt = publishing.groups.publish("g", text="x")
    failing = Deferred.fromCoroutine(error_of(in_doubt))
    await harness.crash()
    assert isinstance(await failing, PushInDoubt)
    assert isinstance(await error_of(publishing.groups.publish("g", text="x")), NodeUnreachable)
    await harness.come_back()
    await within(next(iter(publishing.nodes.values())).ready())
    assert await within(publishing.groups.publish("g", text="x")) == 0


def test_clusters_follow_their_home() -> None:
    clock = Clock()
    nodes = [Told(f"east-{i}", clock) for i in (1, 2)]
    clusters = Clusters("0000000000", {"east": nodes}, "east", clock, lambda call: succeed(call()), Counters())  # type: ignore[dict-item]
    member = Member()
    clusters.groups.subscribe("g", member)
    home = clusters.home.node
    assert home.statistics()["groups"] == 1
    home.stop()
    clusters.home.start(Resident())
    for _ in range(8):
        clock.advance(0.25)
    assert clusters.home.node is not home
    assert clusters.home.node.statistics()["groups"] == 1
    assert member.events == [("g", None)]
    clusters.home.stop()
    clusters.stop()


@pytest.mark.parametrize("message", IN_GROUPS, ids=lambda message: str(message)[:60])
def test_a_broadcast_that_is_no_good_costs_itself_alone(message: Broadcast, caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    member = place.member("g")
    # As a worker counts, where its supervisor can see it.
    place.counters.cells = memoryview(bytearray(len(CELLS) * 8)).cast("q")
    for number, payload in enumerate(spoiled(message)):
        place.groups.published("g", payload)
        place.comes(number)
        assert member.events[-1] == ("g", str(number)), payload
    assert "could not be" not in caplog.text
    place.groups.stop()
