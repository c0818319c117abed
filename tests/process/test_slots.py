"""Slots and the children in them, on a clock that the test turns."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver.process.slots import RestartPolicy, Slot, SlotChild, Worker
from ifserver.worker_ledger import Ledger

POLICY = RestartPolicy(first_s=0.1, longest_s=1.0, long_life_s=10.0, at_once=False)


class Stage:
    def __init__(self, policy: RestartPolicy = POLICY) -> None:
        self.clock = Clock()
        self.failing = False
        self.started = 0
        self.slot: Slot[SlotChild] = Slot(self._start, "server", policy, self.clock)

    def _start(self, slot: Slot[SlotChild]) -> SlotChild:
        if self.failing:
            raise OSError(11, "Resource temporarily unavailable")
        self.started += 1
        return SlotChild(slot, self.clock.seconds())


def test_a_slot_is_ready_with_its_child() -> None:
    stage = Stage()
    slot = stage.slot
    assert not slot.ready
    slot.fill()
    child = slot.current
    assert child is not None
    assert (child.slot, slot.ready, child.ready_for_s(5.0)) == (slot, False, 0.0)
    child.ready_at = 2.0
    assert (slot.ready, child.ready_for_s(5.0)) == (True, 3.0)


def test_a_child_that_cannot_be_started_is_tried_again_and_the_old_one_is_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    stage.slot.fill()
    stage.failing = True
    stage.slot.fill()
    assert stage.slot.current is None
    assert "cannot start a server: [Errno 11] Resource temporarily unavailable; trying again in 0.1 s" in caplog.text
    stage.failing = False
    stage.clock.advance(0.13)
    assert stage.slot.current is not None


def test_filling_a_slot_takes_the_place_of_a_later_start_and_so_does_giving_up() -> None:
    stage = Stage()
    stage.slot.fill_later(1.0)
    stage.slot.fill()
    assert stage.clock.getDelayedCalls() == []
    stage.slot.fill_later(1.0)
    stage.slot.cancel()
    stage.slot.cancel()
    assert stage.clock.getDelayedCalls() == []
    assert stage.started == 1


@pytest.mark.parametrize("at_once", [False, True])
def test_delays_double_until_a_child_has_lived_long(at_once: bool) -> None:
    slot = Stage(POLICY._replace(at_once=at_once)).slot
    for expected in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        assert 0.7 * expected <= slot.delay_s(9.9) <= 1.3 * expected
    delay_s = slot.delay_s(10.0)
    assert delay_s == 0.0 if at_once else 0.07 <= delay_s <= 0.13
    assert slot.crashes == (0 if at_once else 1)


@pytest.mark.parametrize(
    ("written", "inbox", "process"),
    [
        (b"!east.k3v9x2aq7m", "!east.k3v9x2aq7m", "k3v9x2aq7m"),
        (b"http.request", "", ""),
        (b"nonsense!", "", ""),
        (b"", "", ""),
    ],
)
def test_a_worker_s_inbox_is_what_it_has_written_if_that_is_one(written: bytes, inbox: str, process: str) -> None:
    memory = bytearray(Ledger.size(1))
    slot: Any = None
    worker = Worker(slot, Ledger(memory, 1), 0.0, slot)
    assert (worker.inbox, worker.process) == ("", "")
    memory[9] = 1
    memory[32 : 33 + len(written)] = written + b"\n"
    assert (worker.inbox, worker.process) == (inbox, process)
