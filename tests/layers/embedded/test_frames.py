"""The wire format of the embedded broker, cut wherever it can be cut."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifserver.layers.embedded import frames
from ifserver.layers.embedded.frames import (
    Answer,
    Ask,
    Brought,
    Call,
    Cutter,
    EndPulls,
    Hello,
    Malformed,
    Nothing,
    Pull,
    Push,
    Refused,
    Result,
    Taken,
    decode_answer,
    decode_ask,
    frame,
    packed,
    pieces_of,
)

ASKS: list[Ask] = [
    Push(1, "r", [b"", bytes(range(256))], False),
    Push(2, "r", [], True),
    Pull(3, ["r", "s"], 1, 0.0),
    EndPulls(),
    Call(2**60, "withdraw", packed(("r", b"x"))),
    Call(5, "holds", packed(("!east-1.0123456789", b"y" * 300))),
]
ANSWERS: list[Answer] = [
    Hello(1, "epoch"),
    Taken(1, 2, 3),
    Brought(3, "r", [b"x", b""], True),
    Nothing(4),
    Result(5, packed(True)),
    Refused(6, "no such name"),
]
STREAM = b"".join(map(frame, ASKS))


@pytest.mark.parametrize("ask", ASKS)
def test_asks_survive_the_way(ask: Ask) -> None:
    [body] = Cutter().cut(frame(ask))
    assert decode_ask(body) == ask


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_survive_the_way(answer: Answer) -> None:
    [body] = Cutter().cut(frame(answer))
    assert decode_answer(body) == answer


def test_a_stream_may_be_cut_at_every_byte() -> None:
    for position in range(len(STREAM) + 1):
        cutter = Cutter()
        bodies = cutter.cut(STREAM[:position]) + cutter.cut(STREAM[position:])
        assert [decode_ask(body) for body in bodies] == ASKS


def test_a_stream_may_come_byte_by_byte() -> None:
    cutter = Cutter()
    bodies = [body for i in range(len(STREAM)) for body in cutter.cut(STREAM[i : i + 1])]
    assert [decode_ask(body) for body in bodies] == ASKS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_may_be_cut_anyhow(positions: list[int]) -> None:
    cutter = Cutter()
    edges = [0, *sorted(positions), len(STREAM)]
    bodies = [body for a, b in pairwise(edges) for body in cutter.cut(STREAM[a:b])]
    assert [decode_ask(body) for body in bodies] == ASKS


def test_a_long_frame_is_put_together_once() -> None:
    data = frame(Push(1, "r", [bytes(1000)], False))
    cutter = Cutter()
    assert cutter.cut(data[:4]) == []
    for i in range(4, len(data) - 1):
        assert cutter.cut(data[i : i + 1]) == []
        assert len(cutter._kept) == i - 2  # joined with the header alone, when that told the length
    [body] = cutter.cut(data[-1:])
    assert body == data[4:]


def test_a_frame_that_is_too_long_is_refused_before_it_arrives() -> None:
    longest = frames.MAX_FRAME_BYTES
    assert Cutter().cut(longest.to_bytes(4, "big")) == []
    with pytest.raises(Malformed, match="at most"):
        Cutter().cut((longest + 1).to_bytes(4, "big"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"GET / HTTP/1.1",
        msgspec.msgpack.encode([99, 1]),
        msgspec.msgpack.encode([1, 1, "r"]),
        msgspec.msgpack.encode([1, 1, "r", ["no bytes"], False]),
        msgspec.msgpack.encode([2, 1, ["r"], 0, 1.0]),
        msgspec.msgpack.encode([2, 1, ["r"], 1, -1.0]),
        msgspec.msgpack.encode([2, 1, ["r"], 1, float("inf")]),
        msgspec.msgpack.encode([2, 1, ["r"], 1, float("nan")]),
        msgspec.msgpack.encode([16, 1, "epoch", 1.0]),
    ],
)
def test_what_is_no_ask_does_not_decode(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_ask(body)


@given(st.lists(st.integers(0, 40), max_size=30))
def test_pieces_hold_everything_and_are_not_too_long(sizes: list[int]) -> None:
    payloads = [bytes([i]) * size for i, size in enumerate(sizes)]
    before = frames.PIECE_BYTES
    frames.PIECE_BYTES = 50  # type: ignore[misc]  # so that few bytes make many pieces
    try:
        pieces = pieces_of(payloads)
    finally:
        frames.PIECE_BYTES = before  # type: ignore[misc]
    assert [payload for piece in pieces for payload in piece] == payloads
    assert pieces
    for piece in pieces:
        # Without its last payload a piece is not full.
        assert sum(map(len, piece[:-1])) + 8 * len(piece[:-1]) < 50
