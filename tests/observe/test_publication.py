"""What a body says to publish."""

from __future__ import annotations

import pytest

from ifserver.observe.publication import Publication, parse, reached, written

JSON = "application/json"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"text": "häh"}', Publication(text="häh")),
        ('{"text": ""}', Publication(text="")),
        ('{"json": {"a": [1.10, 1e400, "ä"]}}', Publication(text='{"a":[1.10,1e400,"ä"]}')),
        ('{"json": null}', Publication(text="null")),
        ('{"base64": "AP8="}', Publication(data=b"\x00\xff")),
        ('{"close": 4001}', Publication(close=(4001, ""))),
        ('{"close": [4001, "bye"]}', Publication(close=(4001, "bye"))),
        ('{"text": "x", "exclude": "k3v9x2aq7m.1f"}', Publication(text="x", exclude="k3v9x2aq7m.1f")),
    ],
)
def test_json(body: str, expected: Publication) -> None:
    assert parse(JSON, body.encode()) == parse("Application/JSON; charset=utf-8", body.encode()) == expected


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "exactly one of"),
        (b'{"text": "a", "json": 1}', "exactly one of"),
        (b'{"text": null}', "Expected `str`, got `null` - at `$.text`"),
        (b'{"text": "\xff"}', "UTF-8"),
        (b'{"json": "\xff"}', "UTF-8"),
        (b'{"json": NaN}', "malformed"),
        (b'{"json": ' + b"[" * 500_000 + b"]" * 500_000 + b"}", "nested too deeply"),
        (b'{"base64": "a"}', "base64"),
        (b'{"close": 999}', "close: code must be one of"),
        (b'{"close": 1005}', "close: code must be one of"),
        (b'{"close": true}', "Expected `int | array`"),
        (b'{"close": [1000]}', "length 2"),
        (b'{"close": [1000, "%b"]}' % (b"x" * 124), "close: reason must have at most 123 bytes"),
        (b'{"text": "a", "exclude": 1}', "at `$.exclude`"),
        (b'{"text": "a", "channel": 1}', "unknown field `channel`"),
    ],
)
def test_json_that_says_nothing(body: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(JSON, body)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=UTF-8", "TEXT/html", 'text/x;a=b; charset="utf8"'])
def test_a_text(kind: str) -> None:
    assert parse(kind, "häh\n".encode()) == Publication(text="häh\n")
    with pytest.raises(ValueError, match="not UTF-8 at byte 1"):
        parse(kind, b"a\xff")


def test_a_text_in_another_charset() -> None:
    with pytest.raises(ValueError, match="in UTF-8, not in latin-1"):
        parse("text/plain; charset=latin-1", b"a")


@pytest.mark.parametrize(
    "kind", ["", "application/octet-stream", "application/x-www-form-urlencoded", "application/jsonx"]
)
def test_anything_else_is_bytes(kind: str) -> None:
    assert parse(kind, b"a\xff") == Publication(data=b"a\xff")


@pytest.mark.parametrize(
    "publication",
    [
        Publication(text="häh\n", exclude="k3v9x2aq7m.1f"),
        Publication(text=""),
        Publication(data=b""),
        Publication(data=bytes(range(256))),
        Publication(close=(1000, "")),
    ],
)
def test_what_is_written_is_read_again(publication: Publication) -> None:
    assert parse(JSON, written(publication)) == publication


def test_how_many_were_reached() -> None:
    said = [reached(processes) for processes in range(3)]
    assert said == ["nobody is there", "published to 1 process", "published to 2 processes"]
