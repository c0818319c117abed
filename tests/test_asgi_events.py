"""What an application may send. Which event breaks which rule is in `test_http` and `test_websocket`."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifserver import asgi_events
from ifserver.asgi_events import (
    as_bytes,
    checked_close,
    checked_headers,
    checked_message,
    checked_text,
)
from ifserver.errors import ApplicationError


class Text(str):
    """Any subclass of str, as Django's SafeString."""

    __slots__ = ()

    def __str__(self) -> str:
        return self


class Data(bytes):
    """Any subclass of bytes."""


def test_headers_and_the_length_that_they_tell() -> None:
    assert checked_headers("k", []) == ([], None)
    assert checked_headers("k", [(b"X-A", b" v "), (b"Content-Length", b"007")]) == (
        [(b"x-a", b" v "), (b"content-length", b"007")],
        7,
    )


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_a_header_that_passes_is_one_line_and_what_does_not_raises(name: bytes, value: bytes) -> None:
    allowed = re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) and re.fullmatch(rb"[\t\x20-\x7e\x80-\xff]*", value)
    try:
        headers, _ = checked_headers("k", [(name, value)])
    except ApplicationError:
        assert not allowed or name.lower() == b"content-length"
    else:
        assert allowed
        assert headers == [(name.lower(), value)] or name.lower() == b"transfer-encoding"


def test_names_that_are_made_up_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi_events, "_names", {})
    for number in range(1500):
        checked_headers("k", [(b"X-%d" % number, b"")])
    assert len(asgi_events._names) == 1000
    assert checked_headers("k", [(b"X-1400", b"")])[0] == [(b"x-1400", b"")]


def test_things_that_are_bytes_become_bytes() -> None:
    headers, _ = checked_headers("k", [[Data(b"a"), bytearray(b"b")]])
    assert [(type(name), type(value)) for name, value in headers] == [(bytes, bytes)]
    for value in (b"ab", bytearray(b"ab"), memoryview(b"xabx")[1:3], Data(b"ab")):
        assert as_bytes("k", "body", value) == b"ab"
        assert type(as_bytes("k", "body", value)) is bytes
    with pytest.raises(ApplicationError, match=r"k: body must be bytes, got str 'x+'$") as error:
        as_bytes("k", "body", "x" * 1000)
    assert len(str(error.value)) < 150


@pytest.mark.parametrize(
    "headers", [5, [1], [(b"a",)], [(b"a", b"b", b"c")], [b"abc"], [None], "text", [(b"a", None)], [("a", b"b")]]
)
def test_headers_that_are_none(headers: Any) -> None:
    with pytest.raises(ApplicationError, match=r"^k: "):
        checked_headers("k", headers)


def test_texts_are_measured_as_they_are_sent() -> None:
    assert checked_text("k", "text", "abc") == ("abc", 3)
    assert checked_text("k", "text", "aü€😀") == ("aü€😀", 1 + 2 + 3 + 4)
    for value in (Text("abc"), Text("ü")):
        text, size = checked_text("k", "text", value)
        assert (type(text), text, size) == (str, value, len(value.encode()))
    with pytest.raises(ApplicationError, match=r"k: text must be a str, got bytes"):
        checked_text("k", "text", b"abc")
    with pytest.raises(ApplicationError, match=r"k: text cannot be encoded"):
        checked_text("k", "text", "a\udcff")


def test_messages() -> None:
    assert checked_message({"text": "€"}, 3) == ("€", None)
    assert checked_message({"text": "", "bytes": None}, 3) == ("", None)
    assert checked_message({"bytes": b"abc"}, 3) == (None, b"abc")
    assert checked_message({"bytes": Data(b"abc")}, 3) == (None, b"abc")
    for event in ({"text": "€a"}, {"text": "abcd"}, {"bytes": b"abcd"}, {"bytes": bytearray(4)}):
        with pytest.raises(ApplicationError, match="a message of 4 bytes, at most 3 are allowed"):
            checked_message(event, 3)
    for event in ({}, {"text": None}, {"text": "", "bytes": b""}):
        with pytest.raises(ApplicationError, match="exactly one of 'bytes' and 'text'"):
            checked_message(event, 3)


def test_close_codes_are_those_that_a_close_frame_may_hold() -> None:
    allowed = set()
    for code in range(6000):
        try:
            allowed.add(checked_close(code, None)[0])
        except ApplicationError:
            continue
    assert allowed == {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
    assert checked_close(None, None) == (1000, "")


def test_a_reason_must_fit_its_frame() -> None:
    assert checked_close(1000, "ü" * 61 + "x") == (1000, "ü" * 61 + "x")
    with pytest.raises(ApplicationError, match="at most 123 bytes"):
        checked_close(1000, "ü" * 62)
