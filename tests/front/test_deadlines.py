"""Deadlines, on a clock that the tests turn."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import task
from twisted.internet.task import Clock

from ifserver.front.deadlines import Deadlines, SlowClients
from ifserver.metrics import Counters
from ifserver.net.sockets import taken_by_peer


class Fixture:
    """Deadlines of ten seconds, and who expired when."""

    def __init__(self, seconds: float = 10.0) -> None:
        self.clock = Clock()
        self.expired: list[tuple[float, str]] = []
        self.deadlines: Deadlines[str] = Deadlines(self.clock, seconds, self._expire)
        self.then: dict[str, object] = {}

    def _expire(self, item: str) -> None:
        self.expired.append((self.clock.seconds(), item))
        then = self.then.pop(item, None)
        if callable(then):
            then()

    def run(self, seconds: int) -> None:
        """Turn the clock second by second."""
        for _ in range(seconds):
            self.clock.advance(1)


@pytest.fixture
def fix() -> Fixture:
    return Fixture()


def test_each_item_expires_after_its_own_time(fix: Fixture) -> None:
    fix.deadlines.add("a")
    fix.run(4)
    fix.deadlines.add("b")
    fix.run(30)
    assert fix.expired == [(10, "a"), (14, "b")]
    assert len(fix.deadlines) == 0


def test_what_is_discarded_does_not_expire(fix: Fixture) -> None:
    for item in ("a", "b"):
        fix.deadlines.add(item)
    fix.deadlines.pop("a", None)
    fix.deadlines.pop("never added", None)
    assert "a" not in fix.deadlines
    assert "b" in fix.deadlines
    fix.run(30)
    assert fix.expired == [(10, "b")]


def test_to_add_again_is_to_begin_anew(fix: Fixture) -> None:
    fix.deadlines.add("a")
    fix.run(3)
    fix.deadlines.add("b")
    fix.run(3)
    fix.deadlines.add("a")
    assert len(fix.deadlines) == 2
    fix.run(30)
    assert fix.expired == [(13, "b"), (16, "a")]


def test_any_number_of_items_needs_one_timer_and_none_leaves_none(fix: Fixture) -> None:
    for number in range(100):
        fix.deadlines.add(str(number))
        fix.deadlines.pop(str(number - 1), None)
    assert len(fix.clock.getDelayedCalls()) == 1
    fix.run(30)
    assert fix.expired == [(10, "99")]
    assert fix.clock.getDelayedCalls() == []


def test_to_stop_forgets_all_and_more_may_come(fix: Fixture) -> None:
    fix.deadlines.stop()
    fix.deadlines.add("a")
    fix.deadlines.stop()
    assert len(fix.deadlines) == 0
    assert fix.clock.getDelayedCalls() == []
    fix.deadlines.add("b")
    fix.run(30)
    assert fix.expired == [(10, "b")]


def test_what_an_expired_item_discards_does_not_expire_beside_it(fix: Fixture) -> None:
    fix.deadlines.add("a")
    fix.deadlines.add("b")
    fix.then["a"] = lambda: fix.deadlines.pop("b", None)
    fix.run(30)
    assert fix.expired == [(10, "a")]


def test_what_an_expired_item_begins_anew_has_its_whole_time(fix: Fixture) -> None:
    fix.deadlines.add("a")
    fix.deadlines.add("b")
    fix.then["a"] = lambda: (fix.deadlines.add("b"), fix.deadlines.add("a"))
    fix.run(25)
    assert fix.expired == [(10, "a"), (20, "b"), (20, "a")]


def test_what_an_expired_item_adds_delays_none_of_the_others(fix: Fixture) -> None:
    fix.deadlines.add("a")
    fix.run(2)
    fix.deadlines.add("b")
    fix.then["a"] = lambda: fix.deadlines.add("c")
    fix.run(30)
    assert fix.expired == [(10, "a"), (12, "b"), (20, "c")]


def test_an_expired_item_may_stop_all(fix: Fixture) -> None:
    fix.deadlines.add("a")
    fix.deadlines.add("b")
    fix.then["a"] = fix.deadlines.stop
    fix.run(30)
    assert fix.expired == [(10, "a")]
    assert fix.clock.getDelayedCalls() == []


def test_an_expired_item_that_fails_costs_the_others_nothing(fix: Fixture) -> None:
    def fail() -> None:
        raise RuntimeError("boom")

    for item in ("a", "b"):
        fix.deadlines.add(item)
    fix.run(1)
    fix.deadlines.add("c")
    fix.then["a"] = fail
    fix.run(8)
    with pytest.raises(RuntimeError, match="boom"):
        fix.clock.advance(1)
    fix.run(1)
    assert [item for _, item in fix.expired] == ["a", "b", "c"]


def test_no_time_at_all_expires_in_the_next_turn() -> None:
    fix = Fixture(seconds=0.0)
    for item in ("a", "b"):
        fix.deadlines.add(item)
    fix.then["a"] = lambda: fix.deadlines.pop("b", None)
    assert fix.expired == []
    fix.clock.advance(0)
    assert fix.expired == [(0, "a")]


@given(
    st.floats(0.001, 1000),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["add", "discard"]), st.floats(0, 50)), max_size=30),
)
def test_nothing_expires_early_or_twice_and_nothing_is_forgotten(
    seconds: float, steps: list[tuple[str, str, float]]
) -> None:
    fix = Fixture(seconds)
    since: dict[str, float] = {}
    for item, what, wait in steps:
        if what == "add":
            fix.deadlines.add(item)
            since[item] = fix.clock.seconds()
        else:
            fix.deadlines.pop(item, None)
            since.pop(item, None)
        fix.clock.advance(wait)
        for when, expired in fix.expired:
            assert since.pop(expired) + seconds <= when
        fix.expired.clear()
        # Whoever is left still has time.
        assert all(item in fix.deadlines and began + seconds > fix.clock.seconds() for item, began in since.items())
        assert len(fix.deadlines) == len(since)


@pytest.mark.parametrize(("seconds", "due"), [(4.0, [4.0, 5.0]), (20.0, [20.0, 21.0]), (0.5, [1.5, 1.5])])
def test_deadlines_that_have_begun_get_the_new_length(seconds: float, due: list[float]) -> None:
    clock, expired = Clock(), list[float]()
    deadlines: Deadlines[str] = Deadlines(clock, 10.0, lambda _: expired.append(clock.seconds()))
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
    deadlines: Deadlines[str] = Deadlines(clock, 10.0, expired.append)
    deadlines.change(10.0)
    deadlines.change(2.0)
    assert clock.getDelayedCalls() == []
    deadlines.add("a")
    clock.advance(2.0)
    assert expired == ["a"]


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
