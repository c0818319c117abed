"""One message for many WebSockets."""

from __future__ import annotations

import zlib

import pytest

from ifserver.front.websocket.prepared import BINARY, COMPRESSED, MAX_COMPRESSED_BYTES, TEXT, Prepared, head_of


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_heads(length: int, head: bytes) -> None:
    assert head_of(TEXT, length) == head


def test_a_text_and_bytes() -> None:
    assert Prepared("ä", None).plain == b"\x81\x02\xc3\xa4"
    assert Prepared(None, b"\xff").plain == b"\x82\x01\xff"
    assert Prepared("", None).plain == b"\x81\x00"


def test_a_message_is_compressed_once_for_each_set_of_parameters() -> None:
    message = Prepared(None, b"to be or not to be " * 10)
    frame = message.compressed(12, 5)
    assert frame[0] == 0x80 | COMPRESSED | BINARY
    assert message.compressed(12, 5) is frame
    assert message.compressed(9, 5) is not frame
    assert zlib.decompressobj(-12).decompress(frame[2:] + b"\0\0\xff\xff") == message.payload


def test_what_is_too_large_is_not_compressed() -> None:
    message = Prepared(None, bytes(MAX_COMPRESSED_BYTES + 1))
    assert message.compressed(12, 5) is message.plain
