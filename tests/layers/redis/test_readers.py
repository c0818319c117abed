"""The connections on which pulls wait, with a Redis that is this test."""

from __future__ import annotations

from typing import Any

import hiredis
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ifserver.errors import NodeRefused, NodeUnreachable
from ifserver.layers.node import Pulled
from ifserver.layers.reconnection import Troubles
from ifserver.layers.redis.connection import ANSWER_S, Server
from ifserver.layers.redis.readers import Readers
from tests.layers.fakes import FakeEndpoint

TIME = b"*2\r\n$4\r\n1000\r\n$1\r\n0\r\n"


class Place:
    """Reading connections of a node whose epoch the test sets."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.endpoints: list[FakeEndpoint] = []
        self.looks = 0
        server = Server("east-1", "p:", None, None, 0)
        self.readers = Readers(server, self.clock, self._endpoint, Troubles("east-1"), self._look)
        self.readers.epoch = "first"

    def _endpoint(self) -> FakeEndpoint:
        self.endpoints.append(FakeEndpoint())
        return self.endpoints[-1]

    def _look(self) -> None:
        self.looks += 1

    def pull(self, *names: str, wait_s: float = 1.0) -> list[Any]:
        """Where the result appears, or the exception."""
        return outcome(self.readers.pull(names, 5, wait_s))

    def open(self, endpoint: FakeEndpoint, epoch: bytes = b"first") -> None:
        """Accept the attempt to connect, and say who Redis is."""
        endpoint.accept()
        info = b"run_id:" + epoch
        endpoint.receive(b"$%d\r\n%s\r\n" % (len(info), info) + TIME)
        assert len(asked(endpoint)) == 2 + bool(self.readers.statistics()["pulls"])


def asked(endpoint: FakeEndpoint) -> list[Any]:
    reader = hiredis.Reader()
    reader.feed(endpoint.transport.value())
    commands = []
    while (command := reader.gets()) is not False:
        commands.append(command)
    return commands


def outcome(deferred: Deferred[Any]) -> list[Any]:
    results: list[Any] = []
    deferred.addCallbacks(results.append, lambda failure: results.append(failure.value))
    return results


def test_a_pull_makes_a_connection_and_the_next_uses_it() -> None:
    place = Place()
    result = place.pull("r", "s")
    [endpoint] = place.endpoints
    place.open(endpoint)
    assert asked(endpoint)[-1] == [b"BLMPOP", b"1.0", b"2", b"p:first:r", b"p:first:s", b"LEFT", b"COUNT", b"5"]
    endpoint.receive(b"*2\r\n$9\r\np:first:s\r\n*1\r\n$1\r\nx\r\n")
    assert result == [Pulled("s", [b"x"])]
    assert place.readers.statistics() == {"readers": 1, "pulls": 0, "pulled": 1}
    result = place.pull("r", wait_s=0.0001)
    assert asked(endpoint)[-1][:2] == [b"BLMPOP", b"0.001"]
    endpoint.receive(b"*-1\r\n")
    assert result == [None]
    place.pull("r", wait_s=0)
    assert asked(endpoint)[-1][:2] == [b"LMPOP", b"1"]
    assert len(place.endpoints) == 1
    assert place.looks == 0


def test_a_connection_of_another_epoch_is_not_used() -> None:
    place = Place()
    place.pull("r")
    [endpoint] = place.endpoints
    place.open(endpoint)
    endpoint.receive(b"*-1\r\n")
    place.readers.epoch = "second"
    result = place.pull("r")
    assert endpoint.transport.aborting
    assert len(asked(endpoint)) == 3
    endpoint.lose()
    place.clock.advance(0.2)
    place.open(endpoint, b"second")
    assert asked(endpoint)[-1][3] == b"p:second:r"
    endpoint.receive(b"*-1\r\n")
    assert result == [None]
    assert place.looks == 0


def test_a_connection_that_finds_another_epoch_makes_the_node_look() -> None:
    place = Place()
    result = place.pull("r")
    [endpoint] = place.endpoints
    place.open(endpoint, b"second")
    assert place.looks == 1
    assert asked(endpoint)[-1][3] == b"p:second:r"
    endpoint.receive(b"*2\r\n$10\r\np:second:r\r\n*1\r\n$1\r\nx\r\n")
    assert result == [Pulled("r", [b"x"])]


def test_a_refused_pull_is_told_and_costs_its_connection() -> None:
    place = Place()
    result = place.pull("r")
    [endpoint] = place.endpoints
    place.open(endpoint)
    endpoint.receive(b"-UNBLOCKED force unblock\r\n")
    assert [type(error) for error in result] == [NodeRefused]
    assert "UNBLOCKED" in str(result[0])
    assert endpoint.transport.aborting
    assert place.readers.statistics()["pulls"] == 0
    # The next one waits for the new connection of the same reader.
    result = place.pull("s")
    endpoint.lose()
    place.clock.advance(0.2)
    place.open(endpoint)
    endpoint.receive(b"*-1\r\n")
    assert result == [None]
    assert len(place.endpoints) == 1


def test_a_lost_connection_fails_its_pull_and_not_the_next() -> None:
    place = Place()
    first = place.pull("r")
    [endpoint] = place.endpoints
    place.open(endpoint)
    endpoint.lose()
    assert [type(error) for error in first] == [NodeUnreachable]
    second = place.pull("r")
    place.clock.advance(0.2)
    place.open(endpoint)
    endpoint.receive(b"*-1\r\n")
    assert second == [None]


def test_pulls_do_not_wait_for_a_connection_for_ever() -> None:
    place = Place()
    result = place.pull("r")
    place.clock.advance(ANSWER_S)
    assert [type(error) for error in result] == [NodeUnreachable]
    results = [place.pull("r"), place.pull("s")]
    place.readers.give_back()
    assert [type(result[0]) for result in results] == [NodeUnreachable] * 2
    assert place.readers.statistics()["pulls"] == 0


def test_stop_ends_those_that_wait_in_every_way() -> None:
    place = Place()
    connecting, reading = place.pull("r"), place.pull("s")
    place.endpoints[1].accept()
    info = b"run_id:first"
    place.endpoints[1].receive(b"$%d\r\n%s\r\n" % (len(info), info) + TIME)
    stopped = outcome(place.readers.stop())
    assert [type(error) for error in connecting] == [NodeUnreachable]
    assert reading == stopped == []
    place.endpoints[1].lose()
    assert [type(error) for error in reading] == [NodeUnreachable]
    assert stopped == [None]
    assert place.clock.getDelayedCalls() == []


def test_no_more_than_four_are_kept() -> None:
    place = Place()
    results = [place.pull("r") for _ in range(6)]
    for endpoint in place.endpoints:
        endpoint.accept()
        info = b"run_id:first"
        endpoint.receive(b"$%d\r\n%s\r\n" % (len(info), info) + TIME + b"*-1\r\n")
    assert results == [[None]] * 6
    closing = [endpoint for endpoint in place.endpoints if endpoint.transport.disconnecting]
    assert len(closing) == 2
    assert place.readers.statistics()["readers"] == 6
    for endpoint in closing:
        endpoint.lose()
    assert place.readers.statistics()["readers"] == 4
