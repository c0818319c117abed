"""Limits and waits that are changed while somebody waits."""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from ifserver.front.live import LiveAdmission, LiveDeadlines, LiveUnsent
from ifserver.metrics import Counters
from ifserver.settings import FrontSettings


@pytest.mark.parametrize(("seconds", "due"), [(4.0, [4.0, 5.0]), (20.0, [20.0, 21.0]), (0.5, [1.5, 1.5])])
def test_deadlines_that_have_begun_get_the_new_length(seconds: float, due: list[float]) -> None:
    clock, expired = Clock(), list[float]()
    deadlines: LiveDeadlines[str] = LiveDeadlines(clock, 10.0, lambda _: expired.append(clock.seconds()))
    deadlines.add("a")
    clock.advance(1.0)
    deadlines.add("b")
    deadlines.change(seconds)
    for _ in range(60):
        clock.advance(0.5)
    assert expired == due
    assert clock.getDelayedCalls() == []


def test_a_change_without_anybody_waiting() -> None:
    clock, expired = Clock(), list[str]()
    deadlines: LiveDeadlines[str] = LiveDeadlines(clock, 10.0, expired.append)
    deadlines.change(10.0)
    deadlines.change(2.0)
    assert clock.getDelayedCalls() == []
    deadlines.add("a")
    clock.advance(2.0)
    assert expired == ["a"]


class Connection:
    transport = None
    aborted = False

    def abort(self) -> None:
        self.aborted = True


def test_clients_that_take_nothing() -> None:
    clock = Clock()
    unsent = LiveUnsent(clock, 100.0, Counters())
    connection = Connection()
    unsent.begin(connection)
    clock.advance(1.0)
    unsent.change(5.0)
    clock.advance(5.0)
    assert connection.aborted


def test_who_may_connect() -> None:
    clock = Clock()
    admission = LiveAdmission(FrontSettings(max_connections_per_client=2), clock, Counters())
    address = IPv4Address("TCP", "192.0.2.1", 1)
    key = admission.key(address)
    admission.enter(key)
    assert not admission.refuses(key, 1)
    admission.change(FrontSettings(max_connections_per_client=1, uncounted_networks=("198.51.100.0/24",)))
    assert admission.refuses(key, 1)
    admission.leave(key)
    assert not admission.refuses(key, 1)
    assert admission.key(IPv4Address("TCP", "198.51.100.1", 1)) is None
    admission.change(FrontSettings(max_connections=5))
    assert admission.refuses(None, 5)
