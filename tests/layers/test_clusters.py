"""Where a request is offered, where a reply goes, and what is told when a node does not take it."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from ifserver import channels, status
from ifserver.errors import ChannelNameError, NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.layers.clusters import Clusters
from ifserver.layers.node import Node, Pushed, Refusal
from ifserver.layers.placement import Policy
from ifserver.metrics import Counters
from ifserver.status import with_facts
from tests.layers.fakes import FakeTurn, ToldNode

PROCESS = "0123456789"


class Offered:
    """Whoever offers one request."""

    def __init__(self, place: Place, payload: bytes) -> None:
        self.place = place
        self.payload = payload
        self.nodes: list[ToldNode] = []
        #: Whether it is still to be offered.
        self.wanted = True

    def placed(self, node: Node) -> None:
        assert isinstance(node, ToldNode)
        self.nodes.append(node)

    def wants(self, payload: bytes) -> bool:
        assert payload == self.payload
        return self.wanted

    def refused(self, payload: bytes, why: Refusal) -> None:
        assert payload == self.payload
        self.place.refused.append((payload, why))


class Place:
    """A process whose nodes answer as the test says."""

    def __init__(self, home: int = 3, away: int = 1, policy: Policy = Policy.HOME_FIRST) -> None:
        self.east = [ToldNode(f"east-{i}") for i in range(1, home + 1)]
        self.west = [ToldNode(f"west-{i}") for i in range(1, away + 1)]
        self.turn = FakeTurn()
        self.counters = Counters()
        nodes: Any = {"east": self.east, "west": self.west}
        self.clock = Clock()
        self.clusters = Clusters(PROCESS, nodes, "east", self.clock, self.turn, self.counters, policy)
        self.refused: list[tuple[bytes, Refusal]] = []
        self.offered: list[Offered] = []

    def offer(self, payload: bytes, channel: str = "http.request", but: tuple[str, ...] = ()) -> ToldNode:
        """Offer one request; the node that it is placed on."""
        offered = Offered(self, payload)
        self.offered.append(offered)
        self.clusters.offer(channel, payload, offered, frozenset(but))
        return offered.nodes[-1]

    def pushed_to(self, length: dict[str, int]) -> str:
        """Offer one request, answer with the node's length, and return its name."""
        node = self.offer(b"x")
        self.turn.end()
        node.answer(Pushed(1, length[node.name]))
        return node.name


def test_a_process_lives_on_one_node_of_its_home_cluster() -> None:
    homes = Counter(Place().clusters.home.node.name for _ in range(200))
    assert set(homes) == {"east-1", "east-2", "east-3"}
    clusters = Place().clusters
    assert clusters.home.inbox == channels.make_inbox(clusters.home.node.name, PROCESS)
    assert [node.name for node in clusters.home_nodes] == ["east-1", "east-2", "east-3"]
    assert sorted(clusters.nodes) == ["east-1", "east-2", "east-3", "west-1"]


def test_a_reply_goes_to_the_node_in_its_name() -> None:
    place = Place()
    taken: list[str] = []
    place.clusters.send(f"!west-1.{PROCESS}", b"w", lambda: taken.append("w"))
    place.clusters.send(f"!east-2.{PROCESS}", b"e")
    assert place.clusters.waiting() == 2
    place.turn.end()
    assert place.west[0].asked() == [(f"!west-1.{PROCESS}", [b"w"])]
    assert place.east[1].asked() == [(f"!east-2.{PROCESS}", [b"e"])]
    place.west[0].answer(Pushed(1, 1))
    assert taken == ["w"]
    assert place.clusters.waiting() == 1


@pytest.mark.parametrize("name", ["!north-1.0123456789", "!", "", "r"])
def test_an_unknown_node_is_an_error_that_names_those_there_are(name: str) -> None:
    place = Place()
    with pytest.raises(ChannelNameError) as raised:
        place.clusters.send(name, b"x")
    assert repr(name) in str(raised.value)
    assert "east-1, east-2, east-3, west-1" in str(raised.value)


@pytest.mark.parametrize("name", ["?east-1.0123456789", "!east-1.a b", "!east-1."])
def test_what_is_no_inbox_of_a_node_is_an_error_too(name: str) -> None:
    with pytest.raises(ChannelNameError):
        Place().clusters.send(name, b"x")


def test_requests_of_one_turn_leave_as_one_push_for_each_channel() -> None:
    place = Place(home=1)
    for payload, channel in [(b"1", "http.request"), (b"w", "websocket.connect"), (b"2", "http.request")]:
        assert place.offer(payload, channel) is place.east[0]
    assert place.east[0].asked() == []
    place.turn.end()
    assert place.east[0].asked() == [("http.request", [b"1", b"2"]), ("websocket.connect", [b"w"])]
    place.east[0].answer(Pushed(2, 2))
    place.east[0].answer(Pushed(1, 1))
    assert place.refused == []
    assert place.counters.value("messages_sent") == 3
    place.offer(b"3")
    place.turn.end()
    assert place.east[0].asked() == [("http.request", [b"3"])]


def test_a_full_channel_refuses_the_rest() -> None:
    place = Place(home=1, away=0)
    for payload in (b"1", b"2", b"3"):
        place.offer(payload)
    place.turn.end()
    place.east[0].answer(Pushed(1, 10))
    assert place.refused == [(b"2", Refusal.FULL), (b"3", Refusal.FULL)]
    assert place.counters.value("messages_sent") == 1


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (NodeUnreachable("gone"), Refusal.UNREACHABLE),
        (NodeRefused("out of memory"), Refusal.UNREACHABLE),
        (PushInDoubt("broken"), Refusal.IN_DOUBT),
    ],
)
def test_what_a_node_did_not_take_is_told(error: Exception, why: Refusal) -> None:
    place = Place(home=1, away=0)
    for payload in (b"1", b"2"):
        place.offer(payload)
    place.turn.end()
    place.east[0].answer(error)
    assert place.refused == [(b"1", why), (b"2", why)]
    assert place.counters.value("messages_sent") == 0


def test_of_two_nodes_the_shorter_queue_is_chosen() -> None:
    place = Place(home=2)
    lengths = {"east-1": 50, "east-2": 3}
    # One that is not known yet counts as empty.
    assert {place.pushed_to(lengths), place.pushed_to(lengths)} == set(lengths)
    assert Counter(place.pushed_to(lengths) for _ in range(50)) == {"east-2": 50}
    # A length is that of its channel.
    others = {place.offer(b"w", "websocket.connect").name for _ in range(100)}
    assert others == {"east-1", "east-2"}


def test_two_of_many_nodes_are_compared() -> None:
    place = Place(home=4)
    lengths = {f"east-{i}": i for i in range(1, 5)}
    known = {place.pushed_to(lengths) for _ in range(100)}
    assert known == set(lengths)
    chosen = Counter(place.pushed_to(lengths) for _ in range(3000))
    # The longest loses to whichever it meets; of six pairs the shortest is in three, the next wins two, the third one.
    assert "east-4" not in chosen
    for name, share in [("east-1", 1500), ("east-2", 1000), ("east-3", 500)]:
        assert abs(chosen[name] - share) < 200


def lose(*nodes: ToldNode) -> None:
    """They have been unreachable for a second."""
    for node in nodes:
        node.connected, node.gone_s = False, 1.0


def test_a_node_that_is_not_connected_is_not_chosen() -> None:
    place = Place(home=3)
    lose(place.east[0], place.east[2])
    assert {place.offer(b"x").name for _ in range(50)} == {"east-2"}
    # Nor is one that is back, before it has been tried.
    place.east[0].connected = True
    assert {place.offer(b"x").name for _ in range(50)} == {"east-2"}


def test_a_node_that_is_being_connected_to_is_bypassed_and_well(caplog: pytest.LogCaptureFixture) -> None:
    # As at every start: a client may be faster than the connections to the nodes.
    place = Place(home=2, away=1)
    place.east[0].connected = False
    assert {place.offer(b"x").name for _ in range(50)} == {"east-2"}
    place.east[1].connected = False
    assert {place.offer(b"x").name for _ in range(50)} == {"west-1"}
    place.west[0].connected = False
    place.offer(b"x")
    place.turn.end()
    for node in (*place.east, *place.west):
        while node.asked():
            node.answer(NodeUnreachable("gone"))
        node.connected = True
    assert {place.offer(b"x").name for _ in range(50)} == {"east-1", "east-2"}
    assert not caplog.records


def test_with_no_node_connected_the_one_that_is_asked_says_so() -> None:
    place = Place(home=2, away=1)
    for node in place.east + place.west:
        node.connected = False
    node = place.offer(b"x")
    place.turn.end()
    assert node.asked() == [("http.request", [b"x"])]


# Where else.


def test_what_home_does_not_take_goes_elsewhere() -> None:
    place = Place(home=2, away=1)
    first = place.offer(b"1")
    place.turn.end()
    first.answer(Pushed(0, 10_000))
    (offered,) = place.offered
    second = offered.nodes[1]
    assert {first.name, second.name} == {"east-1", "east-2"}
    place.turn.end()
    second.answer(NodeUnreachable("gone"))
    assert offered.nodes[2] is place.west[0]
    place.turn.end()
    assert place.west[0].asked() == [("http.request", [b"1"])]
    assert place.refused == []
    place.west[0].answer(Pushed(0, 10_000))
    assert place.refused == [(b"1", Refusal.FULL)]


def test_what_is_not_wanted_any_more_goes_nowhere_else() -> None:
    place = Place(home=2, away=1)
    node = place.offer(b"1")
    place.turn.end()
    place.offered[0].wanted = False
    node.answer(Pushed(0, 10_000))
    assert place.refused == [(b"1", Refusal.FULL)]
    place.turn.end()
    assert [each.asked() for each in place.east + place.west] == [[], [], []]


def test_what_is_in_doubt_goes_nowhere_else() -> None:
    place = Place(home=2, away=1)
    node = place.offer(b"1")
    place.turn.end()
    node.answer(PushInDoubt("broken"))
    assert place.refused == [(b"1", Refusal.IN_DOUBT)]
    place.turn.end()
    assert [each.asked() for each in place.east + place.west] == [[], [], []]


def test_an_unwell_node_gets_one_request_now_and_then() -> None:
    place = Place(home=2, away=0)
    lose(place.east[0])
    assert {place.offer(b"x").name for _ in range(20)} == {"east-2"}
    place.east[0].connected = True
    probes = 0
    for _ in range(400):
        place.clock.advance(0.01)
        probes += place.offer(b"x") is place.east[0]
    # After a growing pause of 0.7 to 1.3 s at most.
    assert 3 <= probes <= 7
    place.clusters.choice.claimed(place.east[0], "http.request")
    assert {place.offer(b"x").name for _ in range(50)} == {"east-1", "east-2"}


def test_a_silent_node_is_unwell(caplog: pytest.LogCaptureFixture) -> None:
    place = Place(home=2, away=0)
    silent = place.offer(b"x")
    place.turn.end()
    place.clock.advance(0.9)
    for _ in range(3):
        place.clock.advance(0.25)
    assert "silent" in caplog.text
    assert place.offer(b"y") is not silent
    silent.answer(Pushed(1, 1))
    place.clock.advance(0.25)


def test_a_node_is_not_silent_whose_answer_was_not_read_yet(caplog: pytest.LogCaptureFixture) -> None:
    place = Place(home=2, away=0)
    asked = place.offer(b"x")
    place.turn.end()
    # This process was frozen: its timers come before what it has to read.
    place.clock.advance(3)
    assert caplog.text == ""
    asked.answer(Pushed(1, 1))
    place.clock.advance(0.25)
    assert caplog.text == ""


def test_before_any_worker_has_come_that_requests_wait_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    alone = Place(home=1, away=0)
    (node,) = alone.east
    for _ in range(2):
        alone.clusters.choice.behind(node, "http.request")
    assert caplog.messages == ["waiting for the first worker: requests wait until it is ready"]
    alone.clusters.choice.claimed(node, "http.request")
    alone.clusters.choice.behind(node, "http.request")
    alone.clusters.choice.claimed(node, "http.request")
    assert caplog.messages[1:] == [
        "requests are taken in time again",
        "requests have waited for more than 1 s: all workers are busy, or gone",
        "requests are taken in time again",
    ]
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING", "INFO"]
    alone.clusters.choice.log_waiting_at = logging.INFO
    alone.clusters.choice.behind(node, "http.request")
    assert caplog.records[-1].levelname == "INFO"
    caplog.clear()
    place = Place(home=2, away=0)
    place.clusters.choice.behind(place.east[0], "http.request")
    assert caplog.messages == ["waiting for the first worker on node east-1: requests wait until it is ready"]
    place.clusters.choice.claimed(place.east[1], "http.request")
    place.clusters.choice.claimed(place.east[0], "http.request")
    place.clusters.choice.behind(place.east[0], "http.request")
    assert caplog.messages[-1] == "node east-1 is behind: requests are offered elsewhere"


def test_home_comes_first_as_long_as_one_of_its_nodes_is_well() -> None:
    place = Place(home=2, away=2)
    assert {place.offer(b"x").name for _ in range(50)} == {"east-1", "east-2"}
    assert place.clusters.choice.behind(place.east[0], "http.request")
    assert {place.offer(b"x").name for _ in range(20)} == {"east-2"}
    assert place.clusters.choice.behind(place.east[1], "http.request")
    assert {place.offer(b"x").name for _ in range(50)} == {"west-1", "west-2"}
    # There is too much for all: the last one would only be idle.
    assert place.clusters.choice.behind(place.west[0], "http.request")
    assert not place.clusters.choice.behind(place.west[1], "http.request")
    assert {place.offer(b"x").name for _ in range(50)} == {"west-2"}
    # With nobody well, home is as good as any.
    place.west[1].connected = False
    place.clusters.offer("http.request", b"x", Offered(place, b"x"))
    assert {place.offer(b"x").name for _ in range(50)} == {"east-1", "east-2"}


def test_a_pool_whose_workers_are_too_slow_is_no_affair_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    reports = "http.request.reports"
    place = Place(home=2, away=0)
    place.clusters.choice.claimed(place.east[0], "http.request")
    assert place.clusters.choice.behind(place.east[0], reports)
    assert {place.offer(b"x", reports).name for _ in range(20)} == {"east-2"}
    assert {place.offer(b"x", "websocket.connect.reports").name for _ in range(20)} == {"east-2"}, "the same workers"
    assert {place.offer(b"x").name for _ in range(50)} == {"east-1", "east-2"}
    # What others claim says nothing of them.
    place.clusters.choice.claimed(place.east[0], "http.request")
    assert {place.offer(b"x", reports).name for _ in range(20)} == {"east-2"}
    place.clusters.choice.claimed(place.east[0], reports)
    assert {place.offer(b"x", reports).name for _ in range(50)} == {"east-1", "east-2"}
    assert caplog.messages == [
        "node east-1 is behind: requests of pool reports are offered elsewhere",
        "node east-1 is well again: requests of pool reports are offered there",
    ]


def test_a_node_that_is_silent_is_so_for_all_pools(caplog: pytest.LogCaptureFixture) -> None:
    place = Place(home=2, away=0)
    for channel in ("http.request", "http.request.reports"):
        place.offer(b"x", channel)
    place.clusters.choice.unwell(place.east[0], "silent")
    for channel in ("http.request", "http.request.reports"):
        assert {place.offer(b"x", channel).name for _ in range(20)} == {"east-2"}
    assert caplog.messages == ["node east-1 is silent: requests are offered elsewhere"]


def test_a_cluster_that_is_behind_as_a_whole_is_not_crowded_on_its_last_nodes() -> None:
    place = Place(home=4, away=0)
    for node in place.east:
        place.clusters.choice.behind(node, "http.request")
    assert {place.offer(b"x").name for _ in range(50)} == {"east-3", "east-4"}


def test_with_nobody_well_to_spread_means_to_spread() -> None:
    place = Place(home=2, away=2, policy=Policy.SPREAD)
    for node in (*place.east, *place.west):
        node.connected = False
        place.offer(b"x")
    names = {place.offer(b"x").name for _ in range(100)}
    assert names == {"east-1", "east-2", "west-1", "west-2"}


def test_what_was_told_of_a_queue_is_forgotten_when_nothing_of_ours_stands_there() -> None:
    place = Place(home=1, away=1, policy=Policy.SPREAD)
    lengths = {"east-1": 50, "west-1": 3}
    assert {place.pushed_to(lengths), place.pushed_to(lengths)} == set(lengths)
    assert place.pushed_to(lengths) == "west-1"
    place.clusters.choice.emptied(place.east[0], "websocket.connect")
    assert place.pushed_to(lengths) == "west-1"
    place.clusters.choice.emptied(place.east[0], "http.request")
    assert place.pushed_to(lengths) == "east-1"


def test_spread_takes_the_shorter_queue_wherever_it_is() -> None:
    place = Place(home=1, away=1, policy=Policy.SPREAD)
    lengths = {"east-1": 50, "west-1": 3}
    assert {place.pushed_to(lengths), place.pushed_to(lengths)} == set(lengths)
    assert Counter(place.pushed_to(lengths) for _ in range(50)) == {"west-1": 50}


def test_what_was_withdrawn_from_a_node_is_not_offered_there_again() -> None:
    place = Place(home=2, away=1)
    assert {place.offer(b"x", but=("east-1",)).name for _ in range(20)} == {"east-2"}
    assert {place.offer(b"x", but=("east-1", "east-2")).name for _ in range(20)} == {"west-1"}


def test_start_and_stop_are_for_every_node() -> None:
    place = Place()
    for node in place.clusters.nodes.values():
        node.stop()
    place.clusters.start()
    for node in place.east + place.west:
        assert node.running
    stopped: list[Any] = []
    place.clusters.stop().addCallback(stopped.append)
    assert stopped == [[None] * 4]
    for node in place.east + place.west:
        assert not node.running


# Processes that move.


def inbox(node: str) -> str:
    return channels.make_inbox(node, "9876543210")


def test_what_waits_for_a_process_follows_it() -> None:
    place = Place()
    taken: list[int] = []
    for i in range(3):
        place.clusters.send(inbox("west-1"), b"%d" % i, lambda i=i: taken.append(i))
    place.clusters.redirect(inbox("west-1"), inbox("east-2"))
    place.clusters.send(inbox("east-2"), b"3", lambda: taken.append(3))
    place.turn.end()
    assert place.west[0].asked() == []
    assert place.east[1].asked() == [(inbox("east-2"), [b"0", b"1", b"2", b"3"])]
    place.east[1].answer(Pushed(4, 4))
    assert taken == [0, 1, 2, 3]
    place.clusters.redirect("!north-1.9876543210", inbox("east-2"))


def test_a_process_is_followed_from_nodes_that_have_been_gone_for_the_grace() -> None:
    place = Place(away=2)
    for node in ("west-1", "west-2", "east-2"):
        place.clusters.send(inbox(node), node.encode())
    place.clusters.send(channels.make_inbox("west-1", "0123456789"), b"of another")
    west_1, west_2 = place.west[:2]
    west_1.gone_s, west_2.gone_s = 30.0, 29.9
    assert place.clusters.follow(inbox("east-2"))
    assert not place.clusters.follow(inbox("north-1"))
    west_2.gone_s = 0.9
    assert not place.clusters.follow(inbox("east-2")), "it is taken where it was sent"
    west_2.gone_s = 30.0
    assert not place.clusters.follow(inbox("east-2"))
    place.turn.end()
    assert place.east[1].asked() == [(inbox("east-2"), [b"east-2", b"west-1", b"west-2"])]
    assert west_1.asked() == [(channels.make_inbox("west-1", "0123456789"), [b"of another"])]
    assert west_2.asked() == []


def test_nobody_waits_for_what_is_to_be_sent_to_a_process_that_must_be_dead() -> None:
    place = Place()
    sent: list[str] = []
    for node in ("east-1", "east-2"):
        place.clusters.send(inbox(node), b"x", partial(sent.append, node))
    for second in range(37):
        assert sent == []
        place.east[0].gone_s = float(second)
        place.clusters.forget_missing()
        place.clock.advance(1.0)
    assert sent == ["east-1"]


@pytest.mark.parametrize(("to", "where"), [("west-1", "west-1"), ("north", "east-1")])
def test_what_waits_follows_its_owner_but_to_no_node_that_is_unknown(to: str, where: str) -> None:
    place = Place(home=1, away=1)
    owner = "9876543210"
    place.clusters.send(channels.make_inbox("east-1", owner), b"1")
    place.clusters.redirect(channels.make_inbox("east-1", owner), channels.make_inbox(to, owner))
    place.turn.end()
    told = {node.name: node.asked() for node in (*place.east, *place.west) if node.asked()}
    assert told == {where: [(channels.make_inbox(where, owner), [b"1"])]}


def read_by(place: Place, **channels: str | None) -> None:
    """Of each node which channels are read there, with blanks between; None: it is not known."""
    readers = {
        name.replace("_", "-"): None if read is None else frozenset(read.split()) for name, read in channels.items()
    }
    place.clusters.choice._readers_changed(readers)


def test_nodes_that_nobody_reads_are_offered_nothing_while_another_is_read(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    place = Place(home=2, away=1)
    changed: list[str] = []
    place.clusters.choice.unread_changed = lambda: changed.append("!")
    east, west = place.east[0], place.west[0]
    read_by(place, east_1="", east_2="", west_1="http.request")
    assert {place.offer(b"x").name for _ in range(20)} == {"west-1"}
    assert place.clusters.choice.is_unread(east, "http.request")
    assert not place.clusters.choice.is_unread(west, "http.request")
    assert not place.clusters.choice.is_unread(east, "websocket.connect")
    assert place.clusters.choice.has_better(east, "http.request")
    assert not place.clusters.choice.has_better(west, "http.request")
    assert not place.clusters.choice.behind(east, "http.request"), "it is taken back anyway"
    assert place.clusters.choice.not_again_on(west, "http.request", frozenset({"west-1"})) is None
    read_by(place, east_1="http.request", east_2="http.request")
    assert {place.offer(b"x").name for _ in range(20)} == {"east-1", "east-2"}
    read_by(place, east_1="")
    assert changed == ["!", "!", "!"]
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [
        ("INFO", "no worker reads node east-1: requests are offered elsewhere"),
        ("INFO", "no worker reads node east-2: requests are offered elsewhere"),
        ("INFO", "workers read node east-1: requests are offered there"),
        ("INFO", "workers read node east-2: requests are offered there"),
        ("WARNING", "no worker reads node east-1: requests are offered elsewhere"),
    ]


def test_where_nobody_reads_anywhere_a_request_waits_and_no_node_is_behind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    place = Place(home=1, away=1)
    east, west = place.east[0], place.west[0]
    read_by(place, east_1="", west_1="")
    for node in (east, west, east):
        assert not place.clusters.choice.behind(node, "http.request")
    assert place.offer(b"x") is east
    assert caplog.messages == ["waiting for the first worker: requests wait until it is ready"]
    place.clusters.choice.claimed(west, "http.request")
    read_by(place, west_1="http.request")
    read_by(place, west_1="")
    caplog.clear()
    for _ in range(2):
        place.clusters.choice.behind(east, "http.request")
    assert caplog.messages == ["no worker reads http.request on any node: requests wait until one does"]
    read_by(place, west_1=None)
    assert place.clusters.choice.behind(east, "http.request"), "somebody may read the other one"


def test_what_a_full_node_refuses_is_not_left_where_nobody_reads() -> None:
    place = Place(home=1, away=1)
    read_by(place, east_1="", west_1="http.request")
    assert place.offer(b"1") is place.west[0]
    place.turn.end()
    place.west[0].answer(Pushed(0, 10))
    assert place.refused == [(b"1", Refusal.FULL)]


def test_while_the_only_node_that_is_read_is_gone_requests_wait_elsewhere() -> None:
    place = Place(home=1, away=1)
    read_by(place, east_1="", west_1="http.request")
    offered = place.offer(b"1")
    place.turn.end()
    offered.answer(NodeUnreachable("gone"))
    place.turn.end()
    assert place.east[0].asked() == [("http.request", [b"1"])]
    place.west[0].connected = False
    assert place.offer(b"2") is place.east[0]


def test_where_no_node_is_well_those_with_free_workers_are_found() -> None:
    place = Place(home=1, away=1)
    east, west = place.east[0], place.west[0]
    for node in (east, west):
        assert place.clusters.choice.behind(node, "http.request") is (node is east)
    assert place.clusters.choice.not_again_on(east, "http.request", frozenset({"east-1"})) is None
    assert not place.clusters.choice.workers_are_free_beside(east, "http.request")
    facts = status.Facts(
        process="s", kind="supervisor", host="h", pid=1, version="1", node="west-1", started_at=0.0,
        children=(status.Child(pid=2, ready=True, free=1),),
    )  # fmt: skip
    west.census = lambda: succeed({"s": with_facts(b"", status.encode(facts))})  # type: ignore[method-assign]
    place.clock.advance(1.0)
    place.clusters.choice.behind(east, "http.request")
    assert place.clusters.choice.behind(east, "http.request"), "a better one is known now"
    assert place.clusters.choice.not_again_on(east, "http.request", frozenset({"east-1"})) == {"east-1"}
    assert place.clusters.choice.workers_are_free_beside(east, "http.request")
    assert not place.clusters.choice.workers_are_free_beside(west, "http.request")
