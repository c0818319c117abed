"""The ledger, on plain memory."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ifserver import channels
from ifserver.errors import ChannelNameError, IfserverError
from ifserver.metrics import Counters
from ifserver.worker_ledger import Buffer, Ledger, LedgerFull

INBOX = "!east-1.k3v9x2aq7m"
OTHER_INBOX = "!east-2.k3v9x2aq7m"
CHANNEL = "!front.0123456789.1f"
LONGEST = "!" + "n" * 64 + ".0123456789." + "z" * (channels.MAX_LENGTH - 1 - 64 - 12)

attempts = st.integers(-(2**63), 2**64 - 1)


def ledger(slots: int = 3) -> tuple[bytearray, Ledger]:
    memory = bytearray(Ledger.size(slots))
    return memory, Ledger(memory, slots)


@pytest.mark.parametrize(
    "make",
    [bytearray, lambda size: memoryview(bytearray(size)), lambda size: mmap.mmap(-1, size)],
    ids=["bytearray", "memoryview", "mmap"],
)
def test_another_reader_of_the_same_memory_sees_what_was_entered(make: Callable[[int], Buffer]) -> None:
    memory = make(Ledger.size(2))
    writer, reader = Ledger(memory, 2), Ledger(memory, 2)
    writer.inbox = INBOX
    slot = writer.enter(CHANNEL, 0)
    writer.enter(LONGEST, 7)
    assert reader.inbox == INBOX
    assert reader.entries() == [(CHANNEL, 0), (LONGEST, 7)]
    writer.clear(slot)
    assert reader.entries() == [(LONGEST, 7)]


def test_the_longest_name_is_as_long_as_the_grammar_allows() -> None:
    assert channels.check(LONGEST) == LONGEST
    assert len(LONGEST) == channels.MAX_LENGTH


@given(attempts)
def test_every_attempt_fits_beside_the_longest_name(attempt: int) -> None:
    _, written = ledger()
    written.enter(LONGEST, attempt)
    written.enter(CHANNEL, 1)
    assert written.entries() == [(LONGEST, attempt), (CHANNEL, 1)]


@pytest.mark.parametrize("name", ["!front.0123456789." + "z" * 220, "!frönt.0123456789.1"])
def test_what_is_no_channel_name_is_refused_and_takes_no_slot(name: str) -> None:
    memory, written = ledger(1)
    before = bytes(memory)
    with pytest.raises(ChannelNameError):
        written.enter(name, 0)
    assert bytes(memory) == before
    written.enter(CHANNEL, 0)


def test_a_full_ledger_refuses_until_a_slot_is_cleared() -> None:
    _, written = ledger(2)
    slot = written.enter(CHANNEL, 0)
    written.enter(CHANNEL, 1)
    with pytest.raises(LedgerFull, match="all 2 slots"):
        written.enter(CHANNEL, 2)
    written.clear(slot)
    written.enter(CHANNEL, 3)
    assert written.entries() == [(CHANNEL, 3), (CHANNEL, 1)]
    assert issubclass(LedgerFull, IfserverError)


def test_a_shorter_name_leaves_nothing_of_the_longer_one_before_it() -> None:
    _, written = ledger(1)
    written.clear(written.enter(LONGEST, 12345))
    written.enter(CHANNEL, 0)
    assert written.entries() == [(CHANNEL, 0)]


def test_the_inbox_may_move_and_is_empty_at_first() -> None:
    _, written = ledger()
    assert written.inbox == ""
    for inbox in (INBOX, OTHER_INBOX, INBOX):
        written.inbox = inbox
        assert written.inbox == inbox


def test_an_inbox_must_be_a_channel_name() -> None:
    _, written = ledger()
    with pytest.raises(ChannelNameError):
        written.inbox = "!no.such\n"


def test_the_memory_must_be_large_enough() -> None:
    with pytest.raises(ValueError, match="needs 1248 bytes, got 1247"):
        Ledger(bytearray(1247), 1)


def test_memory_with_something_else_in_it_is_refused() -> None:
    memory, _ = ledger(1)
    memory[8] = 1
    with pytest.raises(ValueError, match="no ledger of this version"):
        Ledger(memory, 1)


def test_what_a_process_counts_can_be_read_by_another() -> None:
    memory, child = ledger(1)
    Counters(child.cells).add("messages_dropped", 3, "gone")
    child.enter("!east.0123456789.1", 0)
    assert Counters(Ledger(memory, 1).cells).statistics() == {"messages_dropped{gone}": 3}
    assert child.entries() == [("!east.0123456789.1", 0)]


class Torn:
    """Memory whose owner is killed after it has written `left` more bytes."""

    def __init__(self, memory: bytearray) -> None:
        self.memory = memory
        self.left = 1 << 30

    def __len__(self) -> int:
        return len(self.memory)

    def __getitem__(self, key: int | slice) -> int | bytearray:
        return self.memory[key]

    def __setitem__(self, key: int | slice, value: int | bytes) -> None:
        data = bytes([value]) if isinstance(value, int) else value
        start = key.start or 0 if isinstance(key, slice) else key
        data = data[: self.left]
        self.left -= len(data)
        self.memory[start : start + len(data)] = data


@given(left=st.integers(0, 210), used_before=st.booleans())
def test_a_writer_that_is_killed_between_any_two_bytes_leaves_the_other_entries_readable(
    left: int, used_before: bool
) -> None:
    memory = bytearray(Ledger.size(3))
    torn = Torn(memory)
    written = Ledger(torn, 3)  # type: ignore[arg-type]
    written.enter(CHANNEL, 1)
    if used_before:
        written.clear(written.enter(LONGEST, 5))
    torn.left = left
    written.enter(LONGEST, 2)
    whole = left >= len(f"2 {LONGEST}\n") + 1
    assert Ledger(memory, 3).entries() == [(CHANNEL, 1), *[(LONGEST, 2)] * whole]


@given(left=st.integers(0, 30))
def test_an_inbox_is_the_old_one_or_the_new_one_whenever_its_writer_is_killed(left: int) -> None:
    memory = bytearray(Ledger.size(1))
    torn = Torn(memory)
    written = Ledger(torn, 1)  # type: ignore[arg-type]
    written.inbox = INBOX
    torn.left = left
    written.inbox = OTHER_INBOX
    assert Ledger(memory, 1).inbox == (OTHER_INBOX if left > len(OTHER_INBOX) + 1 else INBOX)


@given(st.binary(max_size=Ledger.size(3) - 9))
def test_reading_survives_whatever_stands_in_the_memory(noise: bytes) -> None:
    memory = bytearray(Ledger.size(3))
    read = Ledger(memory, 3)
    memory[9 : 9 + len(noise)] = noise
    for channel, attempt in read.entries():
        assert isinstance(channel, str)
        assert isinstance(attempt, int)
    assert isinstance(read.inbox, str)


class Model(RuleBasedStateMachine):
    """A ledger of four slots beside a dictionary."""

    SLOTS = 4

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.ledger = ledger(self.SLOTS)
        self.held: dict[int, tuple[str, int]] = {}
        self.count = 0

    @precondition(lambda self: len(self.held) < self.SLOTS)
    @rule(attempt=attempts, padding=st.integers(0, 150))
    def enter(self, attempt: int, padding: int) -> None:
        self.count += 1
        channel = f"!front.0123456789.{self.count:x}{'0' * padding}"
        slot = self.ledger.enter(channel, attempt)
        assert slot not in self.held
        self.held[slot] = (channel, attempt)

    @precondition(lambda self: len(self.held) == self.SLOTS)
    @rule()
    def enter_when_full(self) -> None:
        with pytest.raises(LedgerFull):
            self.ledger.enter(CHANNEL, 0)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.held)))
        self.ledger.clear(slot)
        del self.held[slot]

    @invariant()
    def reads_the_same(self) -> None:
        entries = Ledger(self.memory, self.SLOTS).entries()
        assert sorted(entries) == sorted(self.held.values())


TestModel = Model.TestCase


def test_beats_and_turns_are_counted_apart_and_seen_by_the_other_side() -> None:
    memory, child = ledger()
    supervisor = Ledger(memory, 3)
    assert (child.beats, supervisor.turns) == (0, 0)
    child.inbox = INBOX
    child.enter(CHANNEL, 0)
    before = bytes(memory[32:]), child.entries()
    for _ in range(300):
        supervisor.beat()
    child.turn()
    assert (child.beats, supervisor.beats, supervisor.turns, child.turns) == (300, 300, 1, 1)
    assert (bytes(memory[32:]), child.entries(), child.inbox) == (*before, INBOX)


def test_a_supervisor_that_opens_the_memory_later_goes_on_counting() -> None:
    memory, child = ledger()
    Ledger(memory, 3).beat()
    Ledger(memory, 3).beat()
    assert child.beats == 2
    assert memory[16:32] == (2).to_bytes(8, "little") + bytes(8)
