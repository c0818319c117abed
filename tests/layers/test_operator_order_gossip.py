"""Orders on their way: who hears them at once, and how those learn of them who did not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ifserver.errors import NodeRefused, NodeUnreachable
from ifserver.layers import operator_order_gossip as gossip
from ifserver.layers.groups import Groups
from ifserver.layers.operator_order_gossip import GROUP, Found, OperatorOrderGossip
from ifserver.layers.operator_orders import Board, Fact, Here, Order, Pause, Weights, encode
from ifserver.metrics import Counters
from tests.layers.seats import Seat

WEB = Weights("web", {"web": 95.0, "next": 5.0})


class Place:
    """One node, and the servers that have their homes there."""

    def __init__(self, name: str = "front") -> None:
        self.name = name
        self.clock = Clock()
        self.seats: list[Seat] = []
        self.servers: list[Server] = []

    def server(self, started: bool = True, clock: Clock | None = None) -> Server:
        server = Server(f"{self.name}{len(self.servers)}", self, clock or self.clock)
        self.servers.append(server)
        if started:
            server.start()
        return server

    def published(self) -> int:
        """How often something was said to all since the last call."""
        count = sum(seat.published.count(GROUP) for seat in self.seats)
        for seat in self.seats:
            seat.published.clear()
        return count


class Server:
    """Does as it is told, and has nothing to do."""

    def __init__(self, process: str, place: Place, clock: Clock) -> None:
        self.process = process
        self.clock = clock
        self.seat = Seat(place)
        place.seats.append(self.seat)
        node: Any = self.seat
        self.groups = Groups(process, [node], node, clock, Counters())
        self.control = OperatorOrderGossip(self.groups, process, clock, lambda: 1000.0, self)
        self.facts: list[Fact] = []
        self.known = False

    def start(self) -> None:
        self.control.start().addCallback(self._knows)

    def _knows(self, _: None) -> None:
        self.known = True

    def cut_off(self) -> None:
        """It hears nothing any more, and says nothing."""
        self.seat.groups.clear()
        self.seat.connected = False

    def back(self) -> None:
        self.seat.groups.add(GROUP)
        self.seat.connected = True
        self.groups.interrupted([GROUP])

    def ordered(self, facts: Sequence[Fact]) -> None:
        self.facts += facts

    def here(self, orders: list[Order]) -> Here[Order]:
        return Here(orders, waiting=1, under_way=2)

    def order(self, *facts: Fact, now: float = 1000.0, board: Board | None = None) -> Found:
        clusters: Any = self
        found: list[Found] = []
        board = self.control.board if board is None else board
        ordering = gossip.order(clusters, self.clock, lambda: now, facts, board)
        Deferred.fromCoroutine(ordering).addCallback(found.append)
        return found[0]


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    for server in place.servers:
        server.control.stop()
    assert place.clock.getDelayedCalls() == []


def test_all_servers_hear_an_order_and_answer(place: Place) -> None:
    one, two = place.server(), place.server()
    found = one.order(Pause("", 60.0), WEB)
    assert (found.asked, len(found.here), found.waiting, found.under_way) == (2, 2, 2, 4)
    assert found.board.pauses_left_s() == {"": 60.0}
    assert one.facts == two.facts == [Pause("", 60.0), WEB]
    asked: list[Found] = []
    clusters: Any = two
    Deferred.fromCoroutine(gossip.ask(clusters, place.clock, lambda: 1000.0)).addCallback(asked.append)
    assert asked[0].board.weights() == {"web": WEB.weights}
    assert one.facts == [Pause("", 60.0), WEB]


def test_a_server_that_starts_knows_when_it_begins(place: Place) -> None:
    first = place.server()
    assert first.known
    first.order(Pause("", 60.0))
    place.clock.advance(10)
    late = place.server()
    assert late.known
    assert late.facts == [Pause("", 50.0)]


def test_a_server_knows_what_others_say_before_all_have_answered(place: Place) -> None:
    place.server().order(WEB)
    hung = place.server()
    hung.seat.subscriber = type("Nobody", (), {"published": lambda self, group, payload: None})()
    late = place.server()
    assert not late.known
    assert late.facts == [WEB]
    place.clock.advance(2)
    assert late.known


def test_a_server_that_was_cut_off_asks_when_it_is_back(place: Place) -> None:
    one, two = place.server(), place.server()
    one.order(Pause("web", 600.0))
    two.cut_off()
    one.order(Pause("web", 0.0), WEB)
    assert two.control.board.pauses_left_s()
    two.back()
    assert two.facts[-2:] == [Pause("web", 0.0), WEB]
    assert two.control.board.pauses_left_s() == {}


def test_what_is_in_force_is_repeated_by_one_of_those_who_know(place: Place) -> None:
    """So that those learn of it whose question was not heard."""
    servers = [place.server() for _ in range(5)]
    place.published()
    for _ in range(30):
        place.clock.advance(0.5)
    assert place.published() == 0, "nothing was ordered"
    servers[0].order(WEB)
    place.published()
    deaf = place.server()
    deaf.control.board = Board(place.clock, lambda: 1000.0)
    deaf.facts.clear()
    place.published()
    for _ in range(60):
        place.clock.advance(0.5)
    assert deaf.facts == [WEB]
    assert 30 / 5.5 <= place.published() <= 30 / 3


def test_nothing_is_repeated_of_what_is_over(place: Place) -> None:
    one, two = place.server(), place.server()
    one.order(Pause("", 4.0), WEB)
    two.order(Weights("web", {}))
    for _ in range(12):
        place.clock.advance(0.5)
    place.published()
    for _ in range(60):
        place.clock.advance(0.5)
    assert place.published() == 0


def test_who_says_what_is_out_of_date_is_contradicted(place: Place) -> None:
    """Also with what is over, of which nobody speaks by himself."""
    one, two = place.server(), place.server()
    one.order(Pause("web", 600.0))
    stale = place.server()
    stale.seat.groups.clear()
    one.order(Pause("web", 0.0))
    # It is heard again, and has not noticed anything.
    stale.seat.groups.add(GROUP)
    for _ in range(12):
        place.clock.advance(0.5)
    assert stale.control.board.pauses_left_s() == {}
    assert two.facts == [Pause("web", 600.0), Pause("web", 0.0)]


@pytest.mark.parametrize("skew", [-3600.0, 0.0, 3600.0])
def test_the_latest_command_wins_whatever_the_clocks_say(place: Place, skew: float) -> None:
    one, two = place.server(), place.server()
    one.order(Pause("", 60.0), now=1000.0)
    # Whoever is asked now has the other clock, and may not have heard of the first.
    for board in (None, Board(place.clock, lambda: 1000.0)):
        found = two.order(Pause("", 0.0), now=1000.0 + skew, board=board)
        assert found.board.pauses_left_s() == {}
        assert one.control.board.pauses_left_s() == {}
        one.order(Pause("", 60.0), now=1000.0)
        assert two.control.board.pauses_left_s() == {"": 60.0}


def test_what_cannot_be_read_is_logged_and_changes_nothing(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    server = place.server()
    server.groups.publish(GROUP, message=b"\xc1")
    server.groups.publish(GROUP, text="hello")
    assert "orders of process 'front0' cannot be read" in caplog.text
    caplog.clear()
    server.groups.publish(GROUP, message=b"\xc1")
    assert caplog.text == ""  # it may come every few seconds
    assert server.facts == []
    late = place.server(started=False)
    original = server.control.answer
    server.control.answer = lambda: b"nonsense"  # type: ignore[method-assign, assignment, return-value]
    late.start()
    assert "orders of another server cannot be read" in caplog.text
    server.control.answer = original  # type: ignore[method-assign]


def test_an_order_that_fails_is_known_all_the_same(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    server = place.server()
    server.ordered = lambda facts: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    assert server.order(WEB).board.weights()
    assert "an order could not be carried out" in caplog.text


def test_a_server_that_has_stopped_obeys_no_more(place: Place) -> None:
    """It has asked, and is answered when it does not want to know any more."""
    server = place.server()
    server.control.stop()
    server.control.take([Order(1.0, "a", WEB)], server.control._ears[0])
    assert server.facts == []
    assert not server.control.board.in_force


def test_a_server_that_may_not_hear_orders_works_without(place: Place) -> None:
    server = place.server(started=False)
    server.seat.subscribe = lambda groups: _failed()  # type: ignore[method-assign]
    server.start()
    assert server.known


def _failed() -> Deferred[None]:
    failed: Deferred[None] = Deferred()
    failed.errback(NodeRefused("no"))
    return failed


def test_a_question_that_cannot_be_asked_is_asked_later(place: Place) -> None:
    place.server().order(WEB)
    late = place.server(started=False)
    late.seat.refuses = NodeUnreachable("lost")
    late.start()
    assert late.known
    assert late.facts == []
    late.seat.refuses = None
    late.groups.interrupted([GROUP])
    assert late.facts == [WEB]


def test_gaps_are_asked_about_once_at_a_time(place: Place) -> None:
    hung, server = place.server(), place.server()
    hung.seat.subscriber = type("Nobody", (), {"published": lambda self, group, payload: None})()
    place.published()
    for _ in range(5):
        server.groups.interrupted([GROUP])
    assert place.published() == 1
    place.clock.advance(2)
    assert place.published() == 1
    place.clock.advance(2)
    assert place.published() == 0


def test_two_places_know_of_each_others_orders() -> None:
    """A successor hears where its predecessor does."""
    old, new = Place("old"), Place("new")
    before = old.server()
    before.order(Pause("", 60.0))
    successor = new.server(clock=old.clock)
    seat = Seat(old)
    old.seats.append(seat)
    node: Any = seat
    successor.control.join(Groups(successor.process, [node], node, old.clock, Counters()))
    assert successor.facts == [Pause("", 60.0)]
    before.order(WEB)
    assert successor.facts[1:] == [WEB]
    successor.order(Pause("", 0.0))
    assert before.facts == [Pause("", 60.0), WEB, Pause("", 0.0)]
    third = new.server(clock=old.clock)
    before.order(Pause("web", 5.0))
    assert third.facts[-1] == Pause("web", 5.0)
    for each in (before, successor, third):
        each.control.stop()
    assert old.clock.getDelayedCalls() == []


def test_answers_fit_into_a_message() -> None:
    many = [Order(1.0, "front", Pause(f"pool{n}" + "x" * 56, 1.0)) for n in range(1000)]
    assert len(encode(Here(many))) < 200_000


def test_an_order_that_nobody_can_have_meant_holds_nothing_and_the_next_counts(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = place.server(), place.server()
    for evil in (Order(math.inf, "wrong", Pause("", 60.0)), Order(1.0, "wrong", Pause("", math.inf))):
        one.groups.publish(GROUP, message=encode([[evil]]))
    one.groups.publish(GROUP, message=b"\x91" * 5000)
    assert one.facts == two.facts == []
    assert "an order of process 'wrong' about pool '' is refused" in caplog.text
    assert "orders of process 'front0' cannot be read" in caplog.text
    found = one.order(Pause("", 60.0))
    assert found.board.pauses_left_s() == {"": 60.0}
    assert two.facts == [Pause("", 60.0)]


def test_an_answer_that_cannot_be_read_costs_itself_alone(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    one, two = place.server(), place.server()

    def here(orders: list[Order]) -> Any:
        return [[], -1]

    two.here = here  # type: ignore[method-assign]
    found = one.order(Pause("", 60.0))
    assert (found.asked, len(found.here)) == (2, 1)
    assert "what server 'front1' has answered cannot be read" in caplog.text
