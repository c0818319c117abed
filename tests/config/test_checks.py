"""What the texts of some settings may be, and how an error names what is wrong."""

from __future__ import annotations

import re

import pytest

from ifserver.config import checks
from ifserver.config.checks import parse_address, parse_application
from ifserver.config.settings import all_settings
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
    assert not checks.problem_of_address(text)


@pytest.mark.parametrize(
    "text", ["", ":9100", "9100", "a:", "a:b", "a:65536", "::1:9100", "[::1]", "http://a:1", "a b:1"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(f'{text!r}: expected HOST:PORT')}"):
        parse_address(text)
    assert checks.problem_of_address(text).startswith("expected HOST:PORT")


def refused(path: str, value: object) -> str:
    """The error of a setting with such a value."""
    with pytest.raises(ConfigurationError) as caught:
        all_settings()[path].check(value)
    return str(caught.value)


@pytest.mark.parametrize("text", ["x", "geheim/+=~", "a" * 500, None])
def test_tokens(text: str | None) -> None:
    all_settings()["front.admin_token"].check(text)


@pytest.mark.parametrize("text", ["", " ", "ge heim", "geheim\n", "gehäim"])
def test_what_is_no_token_and_is_not_shown(text: str) -> None:
    assert refused("front.admin_token", text) == (
        "front.admin_token: must be ASCII characters without spaces, and not empty"
    )


@pytest.mark.parametrize(
    ("path", "texts"),
    [
        ("front.resumable_paths", ("/", "/ws/*", "*", "*/ws", "/[a-z]?", "/[]]")),
        ("front.allowed_origins", ("https://example.com", "http://[::1]:8000", "null")),
        ("front.trusted_proxies", ("10.0.0.0/8", "::1")),
        ("worker.reload_include", ("*.py", ".env", "media/", "config/*.toml", "*", ".*")),
    ],
)
def test_lists(path: str, texts: tuple[str, ...]) -> None:
    all_settings()[path].check(texts)


@pytest.mark.parametrize(
    ("path", "fine", "said", "texts"),
    [
        ("front.resumable_paths", "/a", "expected a", ("", "ws/*", "?ws", "[/]ws", "/ws[", "https://example.com/ws")),
        (
            "front.allowed_origins",
            "https://example.com",
            "expected SCHEME://HOST",
            ("", "*", "example.com", "https://example.com/", "https://Example.com", "Null"),
        ),
        ("front.trusted_proxies", "::1", "has host bits set", ("10.0.0.1/8",)),
        ("front.trusted_proxies", "::1", "does not appear to be an IPv4 or IPv6 network", ("", "localhost")),
        (
            "worker.reload_exclude",
            "*.py",
            "expected a pattern of files",
            ("", ".", "..", "./", "/", "/srv/media", "../media", "a/../b"),
        ),
    ],
)
def test_what_no_text_of_a_list_may_be(path: str, fine: str, said: str, texts: tuple[str, ...]) -> None:
    for text in texts:
        assert refused(path, (fine, text)).startswith(f"{path}: {text!r}: {said}")
