"""Values are read from texts and from TOML, and written so that both give them back."""

from __future__ import annotations

import math
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifserver.config.schema import Kind
from ifserver.config.settings import all_settings
from ifserver.config.values import (
    from_text,
    from_toml,
    parse_duration,
    parse_size,
    show_duration,
    show_size,
    to_text,
    to_toml,
)
from ifserver.errors import ConfigurationError

SETTINGS = all_settings()


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("front.max_headers", " 7 ", 7),
        ("front.max_body_bytes", "1GiB", 2**30),
        ("front.max_body_bytes", "none", None),
        ("front.max_body_bytes", "-1", -1),
        ("front.queue_timeout_s", "2m", 120.0),
        ("front.retry_after_s", "1m", 60),
        ("front.websocket_compression", "Off", False),
        ("front.proxy_protocol", "yes", True),
        ("front.server_header", "None", None),
        ("front.server_header", " x ", " x "),
        ("front.underscores_in_headers", "allow", "allow"),
        ("front.allowed_origins", "https://a, https://b", ("https://a", "https://b")),
        ("front.allowed_origins", "none", ()),
        ("front.allowed_origins", " ", ()),
        ("listen.fd", "3, 4", (3, 4)),
        ("listen.endpoints", "tcp:1 unix:/a,b", ("tcp:1", "unix:/a,b")),
        ("log.verbosity", "3", 3),
        ("layer.clusters", "a=redis://x,redis://y  b=redis://z", ("a=redis://x,redis://y", "b=redis://z")),
        ("layer.clusters", "a=redis://x, redis://y\nb=redis://z", ("a=redis://x, redis://y", "b=redis://z")),
    ],
)
def test_a_text(path: str, text: str, value: object) -> None:
    found = from_text(SETTINGS[path], text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("front.max_headers", "many", "expected a whole number, got 'many'"),
        ("front.max_headers", "1.0", "expected a whole number, got '1.0'"),
        ("front.max_headers", "none", "expected a whole number, got 'none'"),
        ("front.max_headers", "²", "expected a whole number, got '²'"),
        ("front.max_body_bytes", "big", "expected a size such as 4096, 64KiB, 10MB or 1GiB, got 'big'"),
        ("front.queue_timeout_s", "soon", "expected a duration such as 90s, 2m or 500ms, got 'soon'"),
        ("front.retry_after_s", "1500ms", "expected whole seconds, got 1.5s"),
        ("front.proxy_protocol", "perhaps", "expected true or false, got 'perhaps'"),
        ("listen.fd", "3,x", "expected a whole number, got 'x'"),
    ],
)
def test_what_no_text_can_be(path: str, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_text(SETTINGS[path], text)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("path", "value", "read"),
    [
        ("front.max_headers", 7, 7),
        ("front.max_body_bytes", 4096, 4096),
        ("front.max_body_bytes", "4KiB", 4096),
        ("front.max_body_bytes", "none", None),
        ("front.queue_timeout_s", 2, 2.0),
        ("front.queue_timeout_s", 0.5, 0.5),
        ("front.queue_timeout_s", "2m", 120.0),
        ("front.retry_after_s", 2.0, 2),
        ("front.proxy_protocol", True, True),
        ("front.root_path", "/x", "/x"),
        ("front.allowed_origins", ["a", "b"], ("a", "b")),
        ("front.allowed_origins", "a", ("a",)),
        ("front.allowed_origins", [], ()),
        ("listen.fd", 3, (3,)),
    ],
)
def test_a_value_of_toml(path: str, value: object, read: object) -> None:
    found = from_toml(SETTINGS[path], value)
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("front.max_headers", "7", 'expected a whole number, got "7"'),
        ("front.max_headers", True, "expected a whole number, got true"),
        ("front.max_headers", 7.0, "expected a whole number, got 7.0"),
        ("front.max_body_bytes", 1.5, "expected a size, got 1.5"),
        ("front.queue_timeout_s", False, "expected a duration, got false"),
        ("front.queue_timeout_s", float("nan"), "expected a duration, got nan"),
        ("front.queue_timeout_s", float("inf"), "expected a duration, got inf"),
        ("front.proxy_protocol", "yes", 'expected true or false, got "yes"'),
        ("front.proxy_protocol", 1, "expected true or false, got 1"),
        ("front.root_path", 1, "expected a text, got 1"),
        ("front.allowed_origins", [1], "expected a list of texts, got 1"),
        ("front.root_path", {"a": 1}, 'expected a text, got {"a":1}'),
    ],
)
def test_what_no_value_of_toml_can_be(path: str, value: object, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_toml(SETTINGS[path], value)
    assert str(caught.value) == said


TEXTS = st.text(st.characters(codec="utf-8"))
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.SWITCH: st.booleans(),
    Kind.NUMBER: st.integers(-(10**17), 10**17),
    Kind.DURATION: st.floats(0, 1e300) | st.integers(0, 10**6).map(float),
    Kind.SIZE: st.integers(0, 10**17),
    Kind.TEXT: TEXTS.filter(lambda text: text.strip().lower() != "none"),
    Kind.CHOICE: TEXTS,
    Kind.TEXTS: st.lists(TEXTS).map(tuple),
    Kind.NUMBERS: st.lists(st.integers(0, 99)).map(tuple),
}
#: Settings with their values, within their limits or not.
CASES = st.sampled_from([each for each in SETTINGS.values() if each.kind in VALUES and not each.whole]).flatmap(
    lambda each: st.tuples(st.just(each), VALUES[each.kind] | (st.none() if each.optional else st.nothing()))
)


@given(CASES)
def test_what_is_written_as_toml_is_read_as_itself(case: tuple[Any, Any]) -> None:
    setting, value = case
    assert from_toml(setting, tomllib.loads(f"x = {to_toml(setting, value)}")["x"]) == value


@given(CASES.filter(lambda case: case[0].kind not in (Kind.TEXTS, Kind.TEXT)))
def test_what_is_written_as_text_is_read_as_itself(case: tuple[Any, Any]) -> None:
    setting, value = case
    assert from_text(setting, to_text(setting, value)) == value


# Durations and sizes.


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("90", 90.0),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("-1", -1.0),
        ("90s", 90.0),
        (" 90 s ", 90.0),
        ("500ms", 0.5),
        ("35ms", 0.035),
        ("2m", 120.0),
        ("1.5h", 5400.0),
        ("7d", 604_800.0),
        ("1h30m", 5400.0),
        ("1m 30s", 90.0),
        ("1s500ms", 1.5),
        ("0s", 0.0),
    ],
)
def test_a_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "soon", "s", "1 2", "1x", "-1s", "30s1m", "1m1m", "1m30", "1,5s", ".5s", "nan", "inf", "1e999", "1e999s",
     "²s", "٣s", "1M", "9" * 19, "1µs", "1ms1s"],
)  # fmt: skip
def test_no_duration(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_duration(text)
    assert str(caught.value) == f"expected a duration such as 90s, 2m or 500ms, got {text!r}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.001, "1ms"), (0.1, "100ms"), (1, "1s"), (1.5, "1.5s"), (75, "75s"), (90, "90s"), (120, "2m"),
     (600, "10m"), (3600, "1h"), (86_400, "1d"), (172_800, "2d")],
)  # fmt: skip
def test_a_duration_is_shown_in_the_largest_unit(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False) | st.integers(0, 10**9).map(float))
def test_a_duration_that_was_shown_is_read_as_itself(seconds: float) -> None:
    assert parse_duration(show_duration(seconds)) == seconds


@given(st.floats(max_value=0, allow_nan=False, allow_infinity=False))
def test_so_is_one_below_zero_which_a_limit_will_refuse(seconds: float) -> None:
    assert parse_duration(show_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["1e309", "-1e309", "1e308d"])
def test_more_than_a_number_can_be_is_none(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_duration(text)


@given(st.text(alphabet="0123456789.eE+-dhms \n²", max_size=12))
def test_whatever_is_read_is_a_number(text: str) -> None:
    try:
        assert math.isfinite(parse_duration(text))
    except ConfigurationError:
        pass


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("-1", -1),
        ("65536", 65_536),
        ("64KiB", 65_536),
        ("64kib", 65_536),
        (" 64 KiB ", 65_536),
        ("1.5MiB", 1_572_864),
        ("1GiB", 2**30),
        ("2TiB", 2**41),
        ("10MB", 10_000_000),
        ("1kB", 1000),
        ("1.001kB", 1001),
        ("5B", 5),
        ("0.5KiB", 512),
        ("999999999999999999TiB", 999_999_999_999_999_999 * 2**40),
    ],
)
def test_a_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "big", "KiB", "64K", "64M", "1 GiB x", "1,5MiB", "-", "0x10", "1e3", "²", "64KiB1B", "9" * 19, "nan"]
)
def test_no_size(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_size(text)
    assert str(caught.value) == f"expected a size such as 4096, 64KiB, 10MB or 1GiB, got {text!r}"


@pytest.mark.parametrize("text", ["0.3KiB", "1.5", "0.0001kB"])
def test_no_part_of_a_byte(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is no whole number of bytes$"):
        parse_size(text)


@given(st.integers(-(10**18) + 1, 10**18 - 1) | st.integers(0, 999).map(lambda n: n << 30))
def test_a_size_that_was_shown_is_read_as_itself(size: int) -> None:
    assert parse_size(show_size(size)) == size


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1, "1"), (1023, "1023"), (1024, "1KiB"), (1_536, "1536"), (2**30, "1GiB"), (-1, "-1")]
)
def test_a_size_is_shown_in_the_largest_unit(size: int, text: str) -> None:
    assert show_size(size) == text
