"""What a connection has sent, and when it is parsed: by a parser of numbers, each in a line of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ifserver.front.websocket.inflow import STEP_UNITS, TURN_UNITS, Inflow

#: Steps for which nothing but themselves is charged.
MOST_STEPS = TURN_UNITS // STEP_UNITS


class Socket:
    """A transport that can be paused, and must not be twice."""

    reading = True

    def pauseProducing(self) -> None:
        assert self.reading
        self.reading = False

    def resumeProducing(self) -> None:
        assert not self.reading
        self.reading = True


class Later:
    """A call in a later turn."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call: Callable[[], Any] | None = call

    def cancel(self) -> None:
        assert self.call is not None
        self.call = None

    def active(self) -> bool:
        return self.call is not None


class Numbers(Inflow):
    """Takes a line in each step; stops behind the numbers in `stops`."""

    def __init__(self, stops: frozenset[int] = frozenset()) -> None:
        self.timers: list[Later] = []
        self.transport: Any = Socket()
        self.data = b""
        self.seen: list[int] = []
        self.over = False
        self.cost = 0
        self._stops = stops

    def call_later(self, delay: float, call: Callable[..., Any], *args: Any) -> Later:
        assert (delay, args) == (0, ())
        assert not any(timer.active() for timer in self.timers), "two turns at once"
        self.timers.append(Later(call))
        return self.timers[-1]

    def ended(self) -> bool:
        return self.over

    def parse_step(self) -> bool:
        line, newline, rest = self.data.partition(b"\n")
        if not newline:
            return False
        self.data = rest
        self.seen.append(int(line))
        self.spend(self.cost)
        if self.seen[-1] in self._stops:
            self.stop_reading()
        return bool(rest)

    def turn(self) -> None:
        """Let a turn of the event loop pass."""
        timers, self.timers = self.timers, []
        for timer in timers:
            call, timer.call = timer.call, None
            if call is not None:
                call()


def lines(count: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(count))


def test_few_are_parsed_at_once() -> None:
    numbers = Numbers()
    numbers.receive(b"1\n2\n3")
    assert (numbers.seen, numbers.data) == ([1, 2], b"3")
    numbers.receive(b"4\n")
    assert (numbers.seen, numbers.is_read, numbers.will_go_on) == ([1, 2, 34], True, False)
    assert numbers.transport.reading
    assert numbers.timers == []


def test_many_take_several_turns_and_meanwhile_the_socket_is_not_read() -> None:
    numbers = Numbers()
    numbers.receive(lines(5 * MOST_STEPS))
    turns = 0
    while numbers.will_go_on:
        before = len(numbers.seen)
        assert not numbers.is_read
        assert not numbers.transport.reading
        numbers.turn()
        assert len(numbers.seen) - before <= MOST_STEPS
        turns += 1
    assert 5 <= turns <= 7
    assert numbers.seen == list(range(5 * MOST_STEPS))
    assert numbers.transport.reading
    assert numbers.is_read


def test_bytes_cost_too() -> None:
    numbers = Numbers()
    numbers.receive(b"7" * TURN_UNITS + b"\n8\n")
    assert numbers.seen == []
    assert numbers.will_go_on


def test_and_what_the_parser_says_that_they_have_cost() -> None:
    numbers = Numbers()
    numbers.cost = TURN_UNITS
    numbers.receive(lines(3))
    assert numbers.seen == [0]
    numbers.turn()
    assert numbers.seen == [0, 1]


def test_when_the_stream_wants_no_more_nothing_is_parsed_that_was_read() -> None:
    numbers = Numbers(frozenset({1, 3}))
    numbers.receive(lines(6))
    for seen in ([0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]):
        assert numbers.seen == seen
        assert numbers.is_stopped is not numbers.transport.reading
        assert not numbers.will_go_on
        numbers.resume_reading()
        assert numbers.seen == seen  # in the next turn, not within what the stream does now
        numbers.turn()
    assert numbers.transport.reading
    numbers.resume_reading()
    assert numbers.transport.reading


def test_what_comes_from_a_transport_that_was_paused_waits_behind_the_rest() -> None:
    numbers = Numbers(frozenset({1}))
    numbers.receive(lines(4))
    numbers.receive(b"4\n5\n")
    numbers.resume_reading()
    numbers.receive(b"6\n")
    numbers.turn()
    assert numbers.seen == [0, 1, 2, 3, 4, 5, 6]
    assert numbers.transport.reading


def test_a_stop_between_two_turns_holds() -> None:
    numbers = Numbers()
    numbers.receive(lines(3 * MOST_STEPS))
    numbers.stop_reading()
    before = list(numbers.seen)
    numbers.turn()
    assert numbers.seen == before
    assert not numbers.will_go_on
    assert not numbers.transport.reading
    numbers.resume_reading()
    while numbers.will_go_on:
        numbers.turn()
    assert numbers.seen == list(range(3 * MOST_STEPS))
    assert numbers.transport.reading


def test_at_its_end_the_rest_is_of_no_use() -> None:
    numbers = Numbers()
    numbers.receive(lines(3 * MOST_STEPS))
    numbers.over = True
    before = list(numbers.seen)
    numbers.turn()
    assert numbers.seen == before
    assert not numbers.will_go_on


def test_a_turn_can_be_forgotten() -> None:
    numbers = Numbers()
    numbers.receive(lines(3 * MOST_STEPS))
    numbers.forget_turn()
    numbers.forget_turn()
    assert [timer.active() for timer in numbers.timers] == [False]


#: What happens: so many bytes come, if they are read; a turn passes (0); the stream wants more (-1), or no more (-2).
EVENTS = st.lists(st.one_of(st.integers(1, 3000), st.integers(-2, 0)), max_size=30)


@given(EVENTS, st.integers(0, 3 * MOST_STEPS), st.frozensets(st.integers(0, 3 * MOST_STEPS), max_size=6))
def test_any_split_any_stop_and_any_turn_give_the_same(events: list[int], count: int, stops: frozenset[int]) -> None:
    numbers = Numbers(stops)
    unread = lines(count)
    for event in [*events, *[10**6, 0, -1, 0, 0, 0, 0, 0, 0] * 10]:
        if event > 0 and numbers.transport.reading:
            numbers.receive(unread[:event])
            unread = unread[event:]
        elif event == 0:
            numbers.turn()
        elif event == -1:
            numbers.resume_reading()
        elif event == -2:
            numbers.stop_reading()
    assert numbers.seen == list(range(count))
    assert numbers.is_read
    assert numbers.transport.reading
