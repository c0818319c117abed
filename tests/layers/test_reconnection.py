"""What is tried again: connections, and periodic work."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ifserver.layers.reconnection import CATCH_UP_S, Link, Pauses, Periodic, Troubles
from tests.layers.fakes import FakeEndpoint

PAUSES = Pauses(first_s=1.0, longest_s=30.0)


class Place:
    """A link, and what is at its other end."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.endpoint = FakeEndpoint()
        self.told: list[str] = []
        self.link = Link(self.endpoint, Protocol, self.clock, PAUSES, self.told.append)

    def pause(self) -> float:
        """How long it waits until the next attempt, which is made."""
        [call] = self.clock.getDelayedCalls()
        seconds: float = call.getTime() - self.clock.seconds()
        self.clock.advance(seconds)
        return seconds


def fired(deferred: Deferred[Any]) -> list[Any]:
    results: list[Any] = []
    deferred.addBoth(results.append)
    return results


@given(st.integers(1, 10_000))
def test_pauses_grow_and_are_bounded(attempts: int) -> None:
    seconds = PAUSES.after(attempts)
    assert min(0.5 * 2.0 ** min(attempts - 1, 6), 10.0) <= seconds <= 30.0
    if attempts == 1:
        assert seconds <= 1.5


def test_it_tries_again_ever_more_seldom() -> None:
    place = Place()
    place.link.start()
    pauses = []
    for _ in range(9):
        place.endpoint.refuse(ConnectionRefusedError())
        pauses.append(place.pause())
    assert place.endpoint.count == 10
    for n, pause in enumerate(pauses):
        middle = min(2.0**n, 20.0)
        assert middle / 2 <= pause <= middle * 1.5
    assert place.told == ["cannot connect: Connection was refused by other side."] * 9
    place.link.stop()


def test_a_connection_that_is_never_settled_counts_as_a_failure() -> None:
    place = Place()
    place.link.start()
    pauses = []
    for _ in range(6):
        place.endpoint.accept()
        assert not place.link.up
        place.endpoint.lose()
        pauses.append(place.pause())
    assert pauses[5] >= 10.0 > 1.5 >= pauses[0]
    place.endpoint.accept()
    place.link.settle()
    place.link.unsettle()
    place.endpoint.lose()
    assert place.pause() <= 1.5
    place.link.stop()


def test_ready_fires_when_it_is_settled() -> None:
    place = Place()
    waiting, cancelled = place.link.ready(), place.link.ready()
    results, failures = fired(waiting), fired(cancelled)
    cancelled.cancel()
    assert failures[0].check(CancelledError)
    place.link.start()
    place.endpoint.accept()
    assert results == []
    place.link.settle()
    assert results == [None]
    assert fired(place.link.ready()) == [None]
    place.link.unsettle()
    assert fired(place.link.ready()) == []


def test_stop_before_the_start_is_at_once() -> None:
    place = Place()
    waiting = fired(place.link.ready())
    assert fired(place.link.stop()) == [None]
    assert waiting == []
    assert place.clock.getDelayedCalls() == []


def test_stop_while_it_connects_ends_the_attempt() -> None:
    place = Place()
    place.link.start()
    assert fired(place.link.stop()) == [None]
    assert place.endpoint.attempts == []
    assert place.told == []
    assert place.clock.getDelayedCalls() == []


def test_stop_while_it_pauses_ends_the_pause() -> None:
    place = Place()
    place.link.start()
    place.endpoint.refuse(OSError())
    assert place.told == ["cannot connect: OSError"]
    assert fired(place.link.stop()) == [None]
    assert place.clock.getDelayedCalls() == []


def test_stop_fires_when_the_connection_is_lost() -> None:
    place = Place()
    place.link.start()
    place.endpoint.accept()
    first, second = fired(place.link.stop()), fired(place.link.stop())
    assert place.endpoint.transport.disconnecting
    assert not place.endpoint.transport.aborting
    assert first == second == []
    place.endpoint.lose()
    assert first == second == [None]
    assert fired(place.link.stop()) == [None]
    assert place.clock.getDelayedCalls() == []
    assert place.endpoint.count == 1


def test_whoever_hears_of_the_loss_may_stop_it() -> None:
    place = Place()
    stopped: list[Any] = []

    class Stops(Protocol):
        def connectionLost(self, reason: Failure = connectionDone) -> None:
            place.link.stop().addBoth(stopped.append)

    place.link = Link(place.endpoint, Stops, place.clock, PAUSES, place.told.append)
    place.link.start()
    place.endpoint.accept()
    place.endpoint.lose()
    assert stopped == [None]
    assert place.clock.getDelayedCalls() == []


def test_stop_may_be_called_by_whom_stop_has_just_told() -> None:
    place = Place()
    place.link.start()
    place.endpoint.accept()
    again: list[list[Any]] = []
    place.link.stop().addCallback(lambda _: again.append(fired(place.link.stop())))
    place.endpoint.lose()
    assert again == [[None]]


def test_a_peer_that_does_not_read_is_cut_off_after_a_while() -> None:
    place = Place()
    place.link.start()
    place.endpoint.accept()
    stopped = fired(place.link.stop())
    place.clock.advance(0.9)
    assert not place.endpoint.transport.aborting
    place.clock.advance(0.1)
    assert place.endpoint.transport.aborting
    place.endpoint.lose()
    assert stopped == [None]


def test_abort_makes_it_connect_anew() -> None:
    place = Place()
    place.link.abort()  # nothing to abort
    place.link.start()
    place.endpoint.accept()
    place.link.abort()
    assert place.endpoint.transport.aborting
    place.endpoint.lose()
    place.pause()
    assert place.endpoint.count == 2
    place.link.stop()


def test_a_connection_that_is_lost_before_its_attempt_has_succeeded_is_made_anew_once() -> None:
    place = Place()
    place.link.start()
    factory, attempt = place.endpoint.attempts.pop()
    protocol = factory.buildProtocol(None)
    protocol.makeConnection(place.endpoint.transport)
    protocol.connectionLost(Failure(ConnectionDone()))
    assert place.clock.getDelayedCalls() == []
    attempt.callback(protocol)
    place.pause()
    assert place.endpoint.count == 2
    place.link.stop()


def test_an_attempt_that_fails_after_it_had_a_connection_is_repeated_once() -> None:
    place = Place()
    place.link.start()
    factory, attempt = place.endpoint.attempts.pop()
    protocol = factory.buildProtocol(None)
    protocol.makeConnection(place.endpoint.transport)
    attempt.errback(Failure(ConnectionRefusedError()))
    protocol.connectionLost(Failure(ConnectionDone()))
    place.pause()
    assert place.endpoint.count == 2
    place.link.stop()


def test_an_attempt_that_succeeds_although_it_was_cancelled_is_closed() -> None:
    place = Place()
    place.link.start()
    factory, attempt = place.endpoint.attempts.pop()
    made: Deferred[Any] = Deferred(lambda cancelled: cancelled.callback(None))
    place.endpoint.connect = lambda factory: made  # type: ignore[method-assign]
    attempt.errback(Failure(ConnectionRefusedError()))
    place.clock.advance(2.0)
    factory.buildProtocol(None).makeConnection(place.endpoint.transport)
    stopped = fired(place.link.stop())
    assert place.endpoint.transport.disconnecting
    assert stopped == []


def test_troubles_are_logged_once_each_until_they_are_over(caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles("east-1")
    with caplog.at_level(logging.INFO):
        for why in ("a", "b", "a", "a"):
            troubles.add(why)
        assert [record.getMessage() for record in caplog.records] == [
            "node east-1: a; trying again",
            "node east-1: b; trying again",
        ]
        troubles.over()
        assert caplog.records[-1].getMessage() == "node east-1: connected after 4 failed attempts"
        caplog.clear()
        troubles.over()
        assert caplog.records == [], "that it can be used is what everybody expects"
        troubles.add("a")
        assert caplog.records[-1].getMessage() == "node east-1: a; trying again"


@pytest.mark.parametrize("refused_first", [False, True])
def test_a_node_that_goes_and_comes_back_is_one_warning_and_one_line(
    refused_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    troubles = Troubles("east-1")
    refused, lost = (lambda: troubles.add("cannot connect: refused.")), (lambda: troubles.lost("connection lost."))
    with caplog.at_level(logging.INFO):
        for call in (refused, lost, refused) if refused_first else (lost, refused, refused):
            call()
        troubles.over()
        first = "cannot connect: refused; trying again" if refused_first else "connection lost; connecting again"
        assert caplog.messages == [f"node east-1: {first}", "node east-1: connected after 2 failed attempts"]
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
        caplog.clear()
        troubles.lost("connection lost")
        troubles.add("NOAUTH")
        troubles.over()
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO"], "something else"
        caplog.clear()
        troubles.lost("connection lost")
        troubles.over()
        assert caplog.messages[-1] == "node east-1: connected"


def test_a_peer_that_makes_up_new_troubles_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles("east-1")
    with caplog.at_level(logging.INFO):
        for i in range(1000):
            troubles.add(f"number {i}")
    assert len(caplog.records) == 20


# Periodic work.


EVERY_S = 0.25


class Stage:
    """Notes when it looks."""

    def __init__(self, go_on: bool = True) -> None:
        self.clock = Clock()
        self.looks: list[float] = []
        self.go_on = go_on
        self.rounds = Periodic(self.clock, EVERY_S, self.look)
        self.rounds.start()

    def look(self) -> bool:
        self.looks.append(self.clock.seconds())
        return self.go_on


def test_it_looks_again_and_again() -> None:
    stage = Stage()
    for _ in range(4):
        stage.clock.advance(EVERY_S)
    assert stage.looks == [0.25, 0.5, 0.75, 1.0]
    stage.rounds.stop()
    assert stage.clock.getDelayedCalls() == []


def test_who_has_begun_does_not_begin_again() -> None:
    stage = Stage()
    stage.rounds.start()
    assert len(stage.clock.getDelayedCalls()) == 1


def test_it_ends_when_there_is_nothing_to_look_for_and_can_begin_anew() -> None:
    stage = Stage(go_on=False)
    stage.clock.advance(EVERY_S)
    assert stage.clock.getDelayedCalls() == []
    stage.rounds.start()
    stage.clock.advance(EVERY_S)
    assert stage.looks == [0.25, 0.5]


def test_who_comes_late_reads_first() -> None:
    stage = Stage()
    stage.clock.advance(5.0)
    assert stage.looks == []
    stage.clock.advance(CATCH_UP_S)
    assert stage.looks == [5.0 + CATCH_UP_S]
    # A little late is not late.
    stage.clock.advance(1.9 * EVERY_S)
    assert len(stage.looks) == 2


def test_who_is_always_late_looks_all_the_same() -> None:
    stage = Stage()
    for _ in range(6):
        stage.clock.advance(1.0)
    assert stage.looks == [2.0, 4.0, 6.0]


def test_it_can_be_stopped_while_it_reads() -> None:
    stage = Stage()
    stage.clock.advance(5.0)
    stage.rounds.stop()
    assert stage.clock.getDelayedCalls() == []


def test_a_look_that_fails_is_not_the_last() -> None:
    stage = Stage()

    def fail() -> bool:
        raise ZeroDivisionError

    rounds = Periodic(stage.clock, EVERY_S, fail)
    rounds.start()
    stage.rounds.stop()
    try:
        stage.clock.advance(EVERY_S)
    except ZeroDivisionError:
        pass
    assert len(stage.clock.getDelayedCalls()) == 1
