"""Durations and sizes as people write them; what is written is read back as the same number."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifserver.config.quantities import parse_duration, parse_size, show_duration, show_size
from ifserver.errors import ConfigurationError


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
