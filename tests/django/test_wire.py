"""Messages as bytes."""

from __future__ import annotations

import enum
from typing import Any

import pytest
from channels.exceptions import MessageTooLarge
from hypothesis import given
from hypothesis import strategies as st

from ifserver.django.wire import (
    UNDECODABLE,
    Change,
    Changed,
    Letter,
    Sent,
    as_message,
    decode_letter,
    encode,
    local_part,
    pack,
    subject_of,
    unpack,
)
from ifserver.messages import Broadcast

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


# To draw a bigger one costs a tenth of a second.
@given(st.dictionaries(st.text(), PLAIN, max_size=4))
def test_what_is_packed_is_unpacked(message: dict[str, Any]) -> None:
    packed = pack(message, 1 << 30)
    assert unpack(packed) == message
    assert unpack(packed) is not unpack(packed)
    with pytest.raises(MessageTooLarge, match=rf"a message of {len(packed)} bytes, at most {len(packed) - 1} are"):
        pack(message, len(packed) - 1)


class Number(int):
    """As of a library."""


class Fraction(float):
    """As of a library."""


class Data(bytes):
    """As of a library."""


class Colour(enum.IntEnum):
    RED = 3


@pytest.mark.parametrize(
    ("value", "plain"), [(Number(7), 7), (Fraction(1.5), 1.5), (Data(b"x"), b"x"), (Colour.RED, 3), ({1, 2}, [1, 2])]
)
def test_subclasses_of_plain_types_arrive_as_these(value: Any, plain: Any) -> None:
    arrived = unpack(pack({"value": value}, 1000))["value"]
    assert arrived == plain
    assert type(arrived) is type(plain)


def test_what_cannot_be_packed_is_named() -> None:
    with pytest.raises(TypeError, match="a message for a channel cannot hold object <object object"):
        pack({"value": object()}, 1000)
    with pytest.raises(TypeError, match="a message must be a dict, got str"):
        pack("text", 1000)


@pytest.mark.parametrize("letter", [Sent("0", b"x"), Change("0", "g", True, "!reply.x", 7), Changed(7, "no rights")])
def test_letters(letter: Letter) -> None:
    assert decode_letter(encode(letter)) == letter


@given(st.binary())
def test_bytes_that_are_no_letter(payload: bytes) -> None:
    try:
        decode_letter(payload)
    except UNDECODABLE:
        pass


@pytest.mark.parametrize(
    "payload", [b"", b"\x90", b"\xc1", b"\xa1x", b"\x81\xa1\xff\x01", b"\x91" * 100_000, b"\x81\x80\x01"]
)
def test_bytes_that_are_no_message(payload: bytes) -> None:
    with pytest.raises(UNDECODABLE):
        unpack(payload)


def test_names() -> None:
    assert subject_of("specific.abc.1f!0") == "!specific.abc.1f"
    assert local_part("specific.abc.1f!0") == "0"


@pytest.mark.parametrize(
    ("what", "is_http", "message"),
    [
        (("ä", None, None), False, {"type": "websocket.send", "text": "ä"}),
        ((None, b"x", None), False, {"type": "websocket.send", "bytes": b"x"}),
        (("ä", None, None), True, {"type": "http.response.body", "body": "ä".encode(), "more_body": True}),
        ((None, b"x", None), True, {"type": "http.response.body", "body": b"x", "more_body": True}),
        ((None, None, (4000, "out")), True, {"type": "websocket.close", "code": 4000, "reason": "out"}),
    ],
)
def test_what_servers_write_as_a_message(what: tuple[Any, ...], is_http: bool, message: dict[str, Any]) -> None:
    assert as_message(Broadcast("publisher0", 0, "", *what, None), is_http) == message
