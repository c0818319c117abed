"""permessage-deflate: what is agreed, and what goes through it, against zlib as the other side."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifserver.front.websocket.deflate import Agreement, Compressor, CorruptMessage, Decompressor, MessageTooLarge, agree

KIB = 1024
TRAILER = b"\0\0\xff\xff"
#: "Hello" with a final block, and the empty block that belongs behind it; the same without one (RFC 7692 7.2.3).
FINAL = bytes.fromhex("f348cdc9c9070000")
PLAIN = bytes.fromhex("f248cdc9c90700")


def agreed(*offers: str, window_bits: int = 12) -> Agreement | None:
    return agree([(b"sec-websocket-extensions", offer.encode("latin-1")) for offer in offers], window_bits)


def inflated(decompressor: Decompressor, pieces: Sequence[bytes], max_bytes: int = 10_000_000) -> bytes:
    decompressor.begin(max_bytes)
    return b"".join([decompressor.decompress(piece) for piece in pieces] + [decompressor.end()])


def deflated(plain: bytes, deflater: Any = None) -> bytes:
    deflater = deflater or zlib.compressobj(wbits=-15)
    data: bytes = deflater.compress(plain) + deflater.flush(zlib.Z_SYNC_FLUSH)
    return data[:-4]


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    bounds = sorted(cut % (len(data) + 1) for cut in cuts)
    return [data[a:b] for a, b in zip([0, *bounds], [*bounds, len(data)], strict=True)]


# What is agreed.


@pytest.mark.parametrize(
    ("offer", "answer", "server", "client"),
    [
        ("", "", (12, True), (15, True)),
        ("; client_max_window_bits", "; client_max_window_bits=12", (12, True), (12, True)),
        ("; client_max_window_bits=10", "; client_max_window_bits=10", (12, True), (10, True)),
        ("; client_max_window_bits=8", "; client_max_window_bits=8", (12, True), (8, True)),
        ("; client_max_window_bits=15", "; client_max_window_bits=12", (12, True), (12, True)),
        ("; server_max_window_bits=15", "; server_max_window_bits=12", (12, True), (15, True)),
        ("; server_max_window_bits=9", "; server_max_window_bits=9", (9, True), (15, True)),
        ('; server_max_window_bits="10"', "; server_max_window_bits=10", (10, True), (15, True)),
        ("; server_no_context_takeover", "; server_no_context_takeover", (12, False), (15, True)),
        ("; client_no_context_takeover", "; client_no_context_takeover", (12, True), (15, False)),
        (
            ";\tClient_Max_Window_Bits ; server_max_window_bits=11;client_no_context_takeover",
            "; client_no_context_takeover; server_max_window_bits=11; client_max_window_bits=12",
            (11, True),
            (12, False),
        ),
    ],
)
def test_what_is_agreed(offer: str, answer: str, server: tuple[int, bool], client: tuple[int, bool]) -> None:
    said = f"permessage-deflate{answer}".encode()
    assert agreed(f"permessage-deflate{offer}") == Agreement(*server, *client, said)


@pytest.mark.parametrize(
    "parameters",
    [
        *(f"{name}={value}" for name in ("server_max_window_bits", "client_max_window_bits") for value in (
            "+9", "-9", "1_0", " 9", "09", "009", "0", "1", "7", "16", "99", "9.0", "1e1", "0xa", "9" * 5000, "x",
            "", '""', '" 9"', '"9', '9"', '"+9"', "٩", "\xb9",
        )),
        "server_max_window_bits",
        "server_max_window_bits=8",  # zlib has no such window
        "server_max_window_bits=10; server_max_window_bits=10",
        "client_max_window_bits; client_max_window_bits=10",
        "server_no_context_takeover; server_no_context_takeover",
        "server_no_context_takeover=1",
        "server_no_context_takeover=",
        "client_no_context_takeover=true",
        "unknown",
        "unknown=1",
        "",
        " ; ",
    ],
)  # fmt: skip
def test_an_offer_that_is_not_right_is_declined_and_the_next_one_is_looked_at(parameters: str) -> None:
    """RFC 7692 7.1: 1*DIGIT from 8 to 15 without leading zeros, no parameter twice, no other parameter."""
    latin = parameters.encode("utf-8").decode("latin-1")
    assert agreed(f"permessage-deflate; {latin}") is None
    assert agreed(f"permessage-deflate; {latin}, permessage-deflate") is not None
    assert agreed(f"permessage-deflate; {latin}", "Permessage-Deflate; server_max_window_bits=10") is not None


@pytest.mark.parametrize("offers", [(), ("",), ("permessage-bzip2",), ("x-permessage-deflate",), (";;=,,",)])
def test_without_an_offer_nothing_is_agreed(offers: tuple[str, ...]) -> None:
    assert agreed(*offers) is None


# Both directions.

MESSAGES = st.lists(
    st.one_of(
        st.binary(max_size=200),
        st.builds(lambda text, times: text * times, st.binary(max_size=9), st.integers(0, 9000)),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(MESSAGES, st.integers(9, 15), st.integers(1, 9), st.booleans(), st.lists(st.integers(0), max_size=4), st.data())
def test_what_is_compressed_here_is_read_by_zlib_and_by_the_other_class(
    messages: list[bytes], bits: int, level: int, takeover: bool, cuts: list[int], data: st.DataObject
) -> None:
    compressor, decompressor = Compressor(bits, level, takeover), Decompressor(bits, takeover)
    inflater = zlib.decompressobj(-15)
    for message in messages:
        payload = compressor.compress(message)
        if not takeover:
            inflater = zlib.decompressobj(-15)
        assert inflater.decompress(payload + TRAILER) == message
        assert inflated(decompressor, split(payload, cuts)) == message
        if data.draw(st.booleans()):
            compressor.drop_if_idle()


@settings(deadline=None)
@given(
    st.lists(st.tuples(MESSAGES, st.lists(st.integers(0), max_size=5)), max_size=4),
    st.sampled_from([9, 12, 15]),
    st.data(),
)
def test_any_way_in_which_zlib_ends_its_blocks_is_read(
    sent: list[tuple[list[bytes], list[int]]], bits: int, data: st.DataObject
) -> None:
    """A sender may flush as it likes, and end zlib's stream as often as it likes, and go on in the same window."""
    decompressor = Decompressor(bits, takeover=True)
    window = b""
    deflater = zlib.compressobj(wbits=-bits)
    for pieces, cuts in sent:
        payload = b""
        for piece in pieces:
            payload += deflater.compress(piece)
            window = (window + piece)[-(1 << bits) :]
            flush = data.draw(st.sampled_from([zlib.Z_NO_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_FINISH]))
            payload += deflater.flush(flush)
            if flush == zlib.Z_FINISH:
                deflater = zlib.compressobj(wbits=-bits, zdict=window)
        payload += deflater.flush(zlib.Z_SYNC_FLUSH)
        if not payload.endswith(TRAILER):
            payload += b"\0" + TRAILER
        assert inflated(decompressor, split(payload[:-4], cuts)) == b"".join(pieces)


def test_a_final_block_ends_nothing_but_itself() -> None:
    """RFC 7692 7.2.3.4, 7.2.3.5."""
    decompressor = Decompressor(15, takeover=True)
    assert inflated(decompressor, [FINAL]) == b"Hello"
    assert inflated(decompressor, [PLAIN]) == b"Hello"
    assert inflated(decompressor, [FINAL[:-1] + PLAIN]) == b"HelloHello"
    # "Hello" again, by a reference to what came before the final block.
    assert inflated(decompressor, [bytes.fromhex("f200110000")]) == b"Hello"


@pytest.mark.parametrize("takeover", [True, False])
def test_some_leave_out_the_empty_block_behind_a_final_one(takeover: bool) -> None:
    decompressor = Decompressor(15, takeover)
    for _ in range(3):
        assert inflated(decompressor, [FINAL[:-1]]) == b"Hello"
        assert inflated(decompressor, [PLAIN]) == b"Hello"
        assert inflated(decompressor, [FINAL[:-1], b""]) == b"Hello"


def test_nothing_is_kept_behind_a_final_block() -> None:
    """zlib would gather all of it, and copy it for each piece."""
    decompressor = Decompressor(15, takeover=True)
    inflated(decompressor, [FINAL])
    noise = os.urandom(200_000)
    payload = deflated(noise)
    for _ in range(3):
        assert inflated(decompressor, split(payload, range(0, len(payload), 16_000))) == noise


def test_without_takeover_nothing_of_one_message_is_known_in_the_next() -> None:
    decompressor = Decompressor(15, takeover=False)
    assert inflated(decompressor, [PLAIN]) == b"Hello"
    with pytest.raises(CorruptMessage):
        inflated(decompressor, [bytes.fromhex("f200110000")])


def reference(code: int, extra_bits: int) -> bytes:
    """A message that is the three bytes as far back as the distance's `code` tells at most (RFC 1951 3.2.5, 3.2.6)."""
    # Not the last block, and of fixed codes; length 3; the distance; the end of the block; the empty block of a flush.
    bits = "0" + "10" + "0000001" + f"{code:05b}" + "1" * extra_bits + "0000000" + "000"
    bits += "0" * (-len(bits) % 8)
    # RFC 1951 3.1.1: a byte is filled from its lowest bit on.
    return bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))


@pytest.mark.parametrize(("window_bits", "code", "extra_bits"), [(9, 17, 7), (15, 29, 13)])
def test_a_message_may_refer_to_as_much_as_the_window_holds(window_bits: int, code: int, extra_bits: int) -> None:
    window = os.urandom(1 << window_bits)
    for parts in (1, 2, 7):
        decompressor = Decompressor(window_bits, takeover=True)
        size = -(-len(window) // parts)
        for start in range(0, len(window), size):
            part = window[start : start + size]
            assert inflated(decompressor, [deflated(part)]) == part
        assert inflated(decompressor, [reference(code, extra_bits)]) == window[:3]
        decompressor = Decompressor(window_bits, takeover=True)
        inflated(decompressor, [deflated(window[1:])])
        with pytest.raises(CorruptMessage):
            inflated(decompressor, [reference(code, extra_bits)])


# What must not be.


@pytest.mark.parametrize("over", [1, 10, 50, 100, 100_000])
@pytest.mark.parametrize("limit", [1, 100, 1000, 32 * KIB, 1024 * KIB])
@pytest.mark.parametrize("unit", [b"\0", b"ab"], ids=["zeros", "ab"])
@pytest.mark.parametrize("piece_bytes", [1, 1000, 10_000_000])
def test_a_message_over_the_limit_is_refused_however_little_it_is(
    over: int, limit: int, unit: bytes, piece_bytes: int
) -> None:
    """zlib may have taken all of the input, and still hold output."""
    whole = unit * (limit // len(unit) + 1)
    for size, refused in ((limit, False), (limit + over, True)):
        plain = (whole + b"c" * over)[:size] if size <= len(whole) + over else whole
        payload = deflated(plain)
        pieces = split(payload, range(0, len(payload), piece_bytes))
        decompressor = Decompressor(15, takeover=True)
        if refused:
            with pytest.raises(MessageTooLarge):
                inflated(decompressor, pieces, limit)
        else:
            assert inflated(decompressor, pieces, limit) == plain


@settings(deadline=None)
@given(
    st.binary(max_size=6),
    st.integers(0, 3000),
    st.binary(max_size=300),
    st.integers(0, 20_000),
    st.lists(st.integers(0), max_size=4),
)
def test_exactly_what_is_over_the_limit_is_refused(
    unit: bytes, times: int, rest: bytes, limit: int, cuts: list[int]
) -> None:
    plain = unit * times + rest
    pieces = split(deflated(plain), cuts)
    decompressor = Decompressor(15, takeover=True)
    if len(plain) <= limit:
        assert inflated(decompressor, pieces, limit) == plain
    else:
        with pytest.raises(MessageTooLarge):
            inflated(decompressor, pieces, limit)


def test_what_the_trailer_makes_of_an_unfinished_block_counts_too() -> None:
    # A fixed block that is not ended: the trailer's bits are read as its symbols.
    payload = deflated(b"Hello")[:-2]
    plain = inflated(Decompressor(15, takeover=True), [payload])
    assert plain.startswith(b"Hell")
    with pytest.raises(MessageTooLarge):
        inflated(Decompressor(15, takeover=True), [payload], len(plain) - 1)


@pytest.mark.parametrize("payload", [b"\xff" * 20, b"\x07", b"\x01\x01\x00\x00\x00a", FINAL[:-1] + b"\xff\xff"])
def test_what_is_no_compressed_data_is_refused(payload: bytes) -> None:
    with pytest.raises(CorruptMessage):
        inflated(Decompressor(15, takeover=True), [payload])


def test_final_blocks_are_bounded() -> None:
    """Each costs a new stream of zlib's; an empty one is two bytes."""
    empty = b"\x03\x00"
    assert inflated(Decompressor(15, takeover=True), [empty * 999 + FINAL]) == b"Hello"
    with pytest.raises(MessageTooLarge):
        inflated(Decompressor(15, takeover=True), [empty * 600, empty * 600])


def test_an_empty_message_is_a_message() -> None:
    """RFC 7692 7.2.3.6: zlib gives nothing for it, which would swallow what comes next."""
    compressor, inflater = Compressor(15, 8, takeover=True), zlib.decompressobj(-15)
    for message in (b"a", b"", b"", b"b", b""):
        payload = compressor.compress(message)
        assert payload
        assert inflater.decompress(payload + TRAILER) == message


# What it costs.


def test_a_compressor_that_rests_keeps_nothing() -> None:
    compressor = Compressor(12, 5, takeover=True)
    assert not compressor.holds_context
    message = json.dumps({"type": "chat.message", "text": "hello world", "room": 17}).encode()
    alone, following = compressor.compress(message), compressor.compress(message)
    assert len(following) < len(alone) / 3
    assert compressor.holds_context
    assert not compressor.drop_if_idle()  # it was used since it was asked last
    assert len(compressor.compress(message)) < len(alone) / 3
    assert not compressor.drop_if_idle()
    assert compressor.drop_if_idle()
    assert not compressor.holds_context
    assert compressor.compress(message) == alone


def test_without_takeover_nothing_is_kept_at_all() -> None:
    compressor = Compressor(12, 5, takeover=False)
    assert compressor.compress(b"a" * 100) == compressor.compress(b"a" * 100)
    assert not compressor.holds_context
    decompressor = Decompressor(12, takeover=False)
    inflated(decompressor, [deflated(b"a" * 100)])
    assert (decompressor._inflater, decompressor._recent) == (None, b"")


def test_between_messages_a_decompressor_keeps_its_window_and_nothing_more() -> None:
    decompressor = Decompressor(12, takeover=True)
    for size in (100, 100_000, 10):
        inflated(decompressor, [deflated(os.urandom(size))])
        assert decompressor._inflater is None
        assert len(decompressor._recent) <= 4096


def test_a_large_message_is_compressed_and_what_follows_can_be_read() -> None:
    compressor, inflater = Compressor(12, 5, takeover=True), zlib.decompressobj(-15)
    large = b"".join(b"%d " % number for number in range(60_000))
    assert len(large) > 256 * KIB
    for message in (b"some words", large, b"some words", large, b"some words"):
        payload = compressor.compress(message)
        assert inflater.decompress(payload + TRAILER) == message
        assert len(payload) < len(message) / 2 or len(message) < 20
