"""Clients that take nothing are told from those that are slow, over real sockets of the kernel's."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest
from twisted.internet import task

from ifserver.front.slow_clients import SlowClients
from ifserver.metrics import Counters
from ifserver.net.sockets import taken_by_peer


class Transport:
    """A transport as far as `taken_by_peer` looks at it."""

    def __init__(self, sock: socket.socket | None) -> None:
        self._sock = sock

    def getHandle(self) -> Any:
        return self._sock


class Connection:
    def __init__(self, transport: Any = None) -> None:
        self.transport = transport
        self.aborted = 0

    def abort(self) -> None:
        self.aborted += 1


def unsent() -> tuple[task.Clock, SlowClients, Counters]:
    clock, counters = task.Clock(), Counters()
    return clock, SlowClients(clock, 10.0, counters), counters


def test_who_takes_nothing_is_cut_once() -> None:
    clock, watch, counters = unsent()
    connection = Connection()
    watch.begin(connection)
    clock.advance(1.0)
    clock.advance(9.9)
    assert not connection.aborted
    clock.advance(0.1)
    assert connection.aborted == 1
    clock.advance(100.0)
    assert connection.aborted == 1
    assert counters.value("connections_cut") == 1
    assert len(watch) == 0


def test_who_has_taken_enough_is_forgotten() -> None:
    clock, watch, _ = unsent()
    connection = Connection()
    watch.begin(connection)
    clock.advance(9.0)
    watch.end(connection)
    watch.end(connection)
    clock.advance(100.0)
    assert not connection.aborted
    assert len(watch) == 0


def test_to_begin_again_is_to_begin_anew() -> None:
    clock, watch, _ = unsent()
    connection = Connection()
    watch.begin(connection)
    clock.advance(1.0)
    clock.advance(9.0)
    watch.begin(connection)
    clock.advance(1.0)
    clock.advance(9.0)
    assert not connection.aborted
    clock.advance(1.0)
    assert connection.aborted == 1


def test_the_end_forgets_all() -> None:
    clock, watch, _ = unsent()
    connection = Connection()
    watch.begin(connection)
    clock.advance(1.0)
    watch.begin(Connection())
    watch.stop()
    clock.advance(100.0)
    assert not connection.aborted
    assert clock.getDelayedCalls() == []


def full(family: int) -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection, of which the first can send no more."""
    with socket.socket(family) as listening:
        listening.bind(("127.0.0.1", 0) if family == socket.AF_INET else "")
        listening.listen()
        other = socket.socket(family)
        other.connect(listening.getsockname())
        ours, _ = listening.accept()
    ours.setblocking(False)
    try:
        while True:
            ours.send(b"x" * 65536)
    except BlockingIOError:
        return ours, other


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_a_slow_client_is_told_from_one_that_is_stuck(family: int) -> None:
    ours, other = full(family)
    with ours, other:
        other.settimeout(120)
        clock, watch, _ = unsent()
        connection = Connection(Transport(ours))
        watch.begin(connection)
        clock.advance(1.0)
        for _ in range(3):
            # It takes far too little for the sender to be told that there is room.
            before = taken_by_peer(connection.transport)
            while taken_by_peer(connection.transport) == before:
                other.recv(16384)
            clock.advance(10.0)
            assert not connection.aborted
        while not connection.aborted:
            clock.advance(10.0)  # a last acknowledgement may be on its way


class Taking(Transport):
    """One whose peer takes what the test says."""

    family = socket.AF_INET
    taken = 0

    def getHandle(self) -> Any:
        return self

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return bytes(size - 8) + self.taken.to_bytes(8, sys.byteorder)


@pytest.mark.parametrize(("rate", "is_cut"), [(0, True), (1, True), (499, True), (500, False), (5000, False)])
def test_who_takes_too_little_is_cut(rate: int, is_cut: bool) -> None:
    clock, watch, _ = unsent()
    connection = Connection(Taking(None))
    watch.begin(connection)
    for _ in range(100):
        clock.advance(1.0)
        connection.transport.taken += rate
    assert bool(connection.aborted) is is_cut


def test_most_are_gone_before_the_kernel_is_asked() -> None:
    clock, watch, _ = unsent()
    asked = []
    connection = Connection(Transport(None))
    connection.transport.getHandle = lambda: asked.append(True)
    watch.begin(connection)
    assert len(watch) == 1
    clock.advance(0.9)
    watch.end(connection)
    assert len(watch) == 0
    clock.advance(100.0)
    assert not asked
    assert not connection.aborted


def test_where_nothing_is_told_time_alone_counts() -> None:
    assert taken_by_peer(Connection()) is None
    assert taken_by_peer(Transport(None)) is None


def test_what_is_below_tls_is_asked() -> None:
    ours, other = socket.socketpair()
    with ours, other:
        above = Connection(Transport(ours))
        empty = taken_by_peer(above)
        assert empty is not None
        ours.send(b"x")
        assert taken_by_peer(above) != empty


def test_how_long_is_waited_can_be_changed_meanwhile() -> None:
    clock = task.Clock()
    unsent: SlowClients = SlowClients(clock, 100.0, Counters())
    connection = Connection()
    unsent.begin(connection)
    clock.advance(1.0)
    unsent.change(5.0)
    clock.advance(5.0)
    assert connection.aborted
