"""What the texts of some settings may be, and how an error names what is wrong."""

from __future__ import annotations

import re

import pytest

from ifserver.config.settings_checks import (
    check_address,
    check_origins,
    check_paths,
    check_patterns,
    check_token,
    parse_address,
    parse_application,
)
from ifserver.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a:b", ("a", "b")),
        ("a:b.c()", ("a", "b.c")),
        ("my.site.asgi:make.app", ("my.site.asgi", "make.app")),
        ("_a1:ä", ("_a1", "ä")),
    ],
)
def test_an_application(text: str, parts: tuple[str, str]) -> None:
    assert parse_application(text) == parts


@pytest.mark.parametrize(
    "text", ["", "a", ":", "a:", ":b", "a.:b", ".a:b", "a:b:c", "a-b:c", "a:b(1)", "a:()", "a/b.py:c", "1:a"]
)
def test_no_application(text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(f'application {text!r}: expected MODULE:ATTRIBUTE')}"):
        parse_application(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9100", ("127.0.0.1", 9100)),
        ("[::1]:0", ("::1", 0)),
        ("admin.example:65535", ("admin.example", 65_535)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
    check_address(text, "x")


@pytest.mark.parametrize(
    "text", ["", ":9100", "9100", "a:", "a:b", "a:65536", "::1:9100", "[::1]", "http://a:1", "a b:1"]
)
def test_what_is_no_address(text: str) -> None:
    said = f"{text!r}: expected HOST:PORT"
    with pytest.raises(ConfigurationError, match=f"^{re.escape(said)}"):
        parse_address(text)
    with pytest.raises(ConfigurationError, match=f"^x: {re.escape(said)}"):
        check_address(text, "x")


def test_there_may_be_no_address() -> None:
    check_address(None, "x")


@pytest.mark.parametrize("text", ["x", "geheim/+=~", "a" * 500, None])
def test_tokens(text: str | None) -> None:
    check_token(text, "front.admin_token")


@pytest.mark.parametrize("text", ["", " ", "ge heim", "geheim\n", "gehäim"])
def test_what_is_no_token_and_is_not_shown(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_token(text, "front.admin_token")
    assert str(caught.value) == "front.admin_token: must be ASCII characters without spaces, and not empty"


def test_paths() -> None:
    check_paths(["/", "/ws/*", "*", "*/ws", "/[a-z]?", "/[]]"], "x")


@pytest.mark.parametrize("text", ["", "ws/*", "?ws", "[/]ws", "/ws[", "https://example.com/ws"])
def test_paths_that_fit_nothing(text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(f'x: {text!r}: expected a')}"):
        check_paths(["/a", text], "x")


def test_origins() -> None:
    check_origins(["https://example.com", "http://[::1]:8000", "null"], "x")


@pytest.mark.parametrize("text", ["", "*", "example.com", "https://example.com/", "https://Example.com", "Null"])
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(f'x: {text!r}: expected SCHEME://HOST')}"):
        check_origins(["https://example.com", text], "x")


def test_patterns() -> None:
    check_patterns(["*.py", ".env", "media/", "config/*.toml", "*", ".*"], "x")


@pytest.mark.parametrize("text", ["", ".", "..", "./", "/", "/srv/media", "../media", "a/../b"])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(f'x: {text!r}: expected a pattern')}"):
        check_patterns(["*.py", text], "x")
