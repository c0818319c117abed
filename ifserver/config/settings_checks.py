"""What is in the texts of some settings: an application, an address, origins. Pure.

Errors say what is wrong with the text; where a `path` is asked for, it is that of the setting, which they name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ifserver.errors import ConfigurationError

__all__ = [
    "check_address",
    "check_name_of_clients",
    "check_origins",
    "check_paths",
    "check_patterns",
    "check_token",
    "parse_address",
    "parse_application",
    "problem_of_brackets",
    "problem_of_path",
]

#: RFC 6454 6.2; in lower case, as browsers write it.
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.\-]*://[a-z0-9\-._~\[\]:%]+|null")
#: RFC 6750 2.1, and whatever else can stand in a header without quotes.
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
#: RFC 9110 5.6.2, of which the name of a cookie is one too (RFC 6265 4.1.1).
_NAME_OF_CLIENTS: Final = re.compile(r"cookie|address|(?:cookie|header):[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: An opening bracket without its closing one, which a pattern would take for itself.
_OPEN: Final = re.compile(r"\[!?\]?[^\]]*\Z")
_ADDRESS: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:\[\]/]+)):([0-9]{1,5})")


def parse_application(text: str) -> tuple[str, str]:
    """Module and attribute of ``module:attribute``, or of ``module:factory()``.

    Raises:
        ConfigurationError: it is not of that form.
    """
    module, colon, attribute = text.removesuffix("()").partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise ConfigurationError(
            f"application {text!r}: expected MODULE:ATTRIBUTE, for example mysite.asgi:application"
        )
    return module, attribute


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port``, of an IPv6 address ``[::1]:port``.

    Raises:
        ConfigurationError: it is not of that form.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found[3]) > 65_535:
        raise ConfigurationError(f"{text!r}: expected HOST:PORT, for example 127.0.0.1:9100")
    return found[1] or found[2], int(found[3])


def check_address(text: str | None, path: str) -> None:
    """Let pass what `parse_address` takes, and None.

    Raises:
        ConfigurationError: it is no address.
    """
    if text is not None:
        try:
            parse_address(text)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error}") from None


def check_origins(texts: Iterable[str], path: str) -> None:
    """Let pass origins as browsers write them (RFC 6454 6.2), ``null`` included.

    Raises:
        ConfigurationError: one of them is none.
    """
    for text in texts:
        if not _ORIGIN.fullmatch(text):
            raise ConfigurationError(
                f"{path}: {text!r}: expected SCHEME://HOST[:PORT], for example https://example.com"
            )


def check_paths(texts: Iterable[str], path: str) -> None:
    """Let pass patterns of paths that can fit the path of a request.

    Raises:
        ConfigurationError: one of them fits none.
    """
    for text in texts:
        problem = problem_of_path(text)
        if problem:
            raise ConfigurationError(f"{path}: {text!r}: {problem}")


def problem_of_path(text: str) -> str:
    """Why no path of a request can fit this pattern; empty: some can."""
    if not text.startswith(("/", "*")):
        return "expected a pattern of paths, which begins with / or *, for example /reports/*"
    return problem_of_brackets(text)


def problem_of_brackets(text: str) -> str:
    """What is wrong with the brackets of a pattern; empty: nothing."""
    return "expected a ] for each [ of a pattern" if _OPEN.search(text) else ""


def check_patterns(texts: Iterable[str], path: str) -> None:
    """Let pass patterns of files that can fit a file.

    Raises:
        ConfigurationError: one is empty, or means the folder itself or one above it.
    """
    for text in texts:
        if {".", ".."} & set(text.split("/")) or text.startswith("/") or not text:
            raise ConfigurationError(
                f"{path}: {text!r}: expected a pattern of files, for example *.yaml or config/*.toml"
            )


def check_token(text: str | None, path: str) -> None:
    """Let pass a bearer token, and None.

    Raises:
        ConfigurationError: it cannot stand in a header. The error does not show it.
    """
    if text is not None and not _TOKEN.fullmatch(text):
        raise ConfigurationError(f"{path}: must be ASCII characters without spaces, and not empty")


def check_name_of_clients(text: str, path: str) -> None:
    """Let pass by what clients can be told apart.

    Raises:
        ConfigurationError: it is nothing of that.
    """
    if not _NAME_OF_CLIENTS.fullmatch(text):
        raise ConfigurationError(f"{path}: {text!r}: expected cookie, address, cookie:NAME or header:NAME")
