"""Windows: credit, totals, and when they are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifserver.flow_control import MESSAGE_OVERHEAD, PIECE_BYTES, WINDOW, ReceiveWindow, SendWindow, message_bytes

sizes = st.integers(0, 2 * WINDOW)


def test_a_piece_and_many_empty_messages_fit_into_a_window() -> None:
    assert 0 < MESSAGE_OVERHEAD < PIECE_BYTES < WINDOW // 2


def test_one_message_may_overdraw_the_credit_and_then_it_is_shut() -> None:
    window = SendWindow()
    window.spend(WINDOW - MESSAGE_OVERHEAD - 1)
    assert window.open
    window.spend(10 * WINDOW)
    assert not window.open


def test_a_credit_of_nothing_is_shut() -> None:
    window = SendWindow()
    window.spend(WINDOW - MESSAGE_OVERHEAD)
    assert not window.open


def test_empty_messages_are_bounded_too() -> None:
    window = SendWindow()
    count = 0
    while window.open:
        window.spend(0)
        count += 1
    assert count == WINDOW // MESSAGE_OVERHEAD


def test_an_update_says_whether_it_has_opened_the_window() -> None:
    window = SendWindow()
    assert not window.update(0)
    window.spend(WINDOW)
    assert not window.update(MESSAGE_OVERHEAD)
    assert window.update(MESSAGE_OVERHEAD + 1)
    assert not window.update(MESSAGE_OVERHEAD + 2)


def test_an_overtaken_total_changes_nothing() -> None:
    window = SendWindow()
    window.spend(1000)
    window.update(900)
    for total in (100, -5):
        window.update(total)
        assert window.consumed == 900


def test_nobody_can_have_consumed_more_than_was_sent() -> None:
    window = SendWindow()
    window.spend(100)
    window.update(2**63)
    window.spend(WINDOW)
    assert not window.open


@given(st.lists(sizes, max_size=20), st.lists(st.integers(-10, 2**40), max_size=20))
def test_totals_may_come_in_any_order(spent: list[int], totals: list[int]) -> None:
    forwards, backwards = SendWindow(), SendWindow()
    for size in spent:
        forwards.spend(size)
        backwards.spend(size)
    for total in totals:
        forwards.update(total)
    for total in reversed(totals):
        backwards.update(total)
    assert forwards.consumed == backwards.consumed <= forwards.sent


def test_a_receiver_tells_when_a_quarter_has_been_consumed() -> None:
    window = ReceiveWindow()
    quarter = WINDOW // 4
    assert window.consume(quarter - MESSAGE_OVERHEAD - 1) is None
    assert window.consume(1) == quarter + MESSAGE_OVERHEAD
    assert window.consume(quarter - 2 * MESSAGE_OVERHEAD) is None
    assert window.consume(0) == 2 * quarter + MESSAGE_OVERHEAD


@given(st.lists(sizes, max_size=50))
def test_a_sender_who_hears_its_receiver_is_never_shut_for_ever(payloads: list[int]) -> None:
    sender, receiver = SendWindow(), ReceiveWindow()
    for size in payloads:
        assert sender.open
        sender.spend(size)
        total = receiver.consume(size)
        if total is not None:
            assert total == receiver.consumed == sender.sent
            sender.update(total)


@pytest.mark.parametrize(
    ("text", "data", "size"), [("", None, 0), ("äx", None, 2), (None, b"abc", 3), (None, None, 0), ("a", b"bcd", 1)]
)
def test_the_payload_of_a_message_is_its_text_or_else_its_data(text: str | None, data: bytes | None, size: int) -> None:
    assert message_bytes(text, data) == size
