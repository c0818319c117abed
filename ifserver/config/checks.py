"""What is in the texts of some settings: an application, an address, origins, patterns. Pure.

`problem_of_...` return what is wrong with a text, in a few words; empty: nothing (`ifserver.config.schema.check`).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from ifserver.errors import ConfigurationError

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 5.6.2
_HEADER_NAME: Final = re.compile(_TOKEN)
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
#: RFC 6454 6.2; in lower case, as browsers write it.
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.\-]*://[a-z0-9\-._~\[\]:%]+|null")
#: RFC 6750 2.1, and whatever else can stand in a header without quotes.
_BEARER: Final = re.compile(r"[\x21-\x7e]+")
#: The name of a cookie is a token, too (RFC 6265 4.1.1).
_CLIENT_KEY: Final = re.compile(rf"cookie|address|(?:cookie|header):{_TOKEN}")
#: An opening bracket without its closing one, which a pattern would take for itself.
_OPEN: Final = re.compile(r"\[!?\]?[^\]]*\Z")
_ADDRESS: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:\[\]/]+)):([0-9]{1,5})")
#: chmod(1); a socket's file has no use for more bits.
_MODE: Final = re.compile(r"(0|0o)?[0-7]{3}")


def parse_application(text: str) -> tuple[str, str]:
    """Module and attribute of ``module:attribute``, or of ``module:factory()``.

    Raises:
        ConfigurationError: it is not of that form.
    """
    if problem := problem_of_application(text):
        raise ConfigurationError(f"application {text!r}: {problem}")
    module, _, attribute = text.removesuffix("()").partition(":")
    return module, attribute


def problem_of_application(text: str) -> str:
    module, colon, attribute = text.removesuffix("()").partition(":")
    if colon and all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        return ""
    return "expected MODULE:ATTRIBUTE, for example mysite.asgi:application"


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port``, of an IPv6 address ``[::1]:port``.

    Raises:
        ConfigurationError: it is not of that form.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found[3]) > 65_535:
        raise ConfigurationError(f"{text!r}: {problem_of_address(text)}")
    return found[1] or found[2], int(found[3])


def problem_of_address(text: str) -> str:
    found = _ADDRESS.fullmatch(text)
    return "expected HOST:PORT, for example 127.0.0.1:9100" if found is None or int(found[3]) > 65_535 else ""


def problem_of_network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        return str(error).removeprefix(repr(text)).removeprefix(text).strip()
    return ""


def problem_of_origin(text: str) -> str:
    """Browsers write origins as in RFC 6454 6.2, ``null`` included."""
    return "" if _ORIGIN.fullmatch(text) else "expected SCHEME://HOST[:PORT], for example https://example.com"


def problem_of_path(text: str) -> str:
    """Why no path of a request can fit this pattern."""
    if not text.startswith(("/", "*")):
        return "expected a pattern of paths, which begins with / or *, for example /reports/*"
    return problem_of_brackets(text)


def problem_of_brackets(text: str) -> str:
    return "expected a ] for each [ of a pattern" if _OPEN.search(text) else ""


def problem_of_files(text: str) -> str:
    """Why no file can fit this pattern: it is empty, or means the folder itself or one above it."""
    if text and not text.startswith("/") and not {".", ".."} & set(text.split("/")):
        return ""
    return "expected a pattern of files, for example *.yaml or config/*.toml"


def problem_of_token(text: str) -> str:
    """A bearer token must be able to stand in a header."""
    return "" if _BEARER.fullmatch(text) else "must be ASCII characters without spaces, and not empty"


def problem_of_client_key(text: str) -> str:
    """By what clients are recognized (``front.canary_by``)."""
    return "" if _CLIENT_KEY.fullmatch(text) else "expected cookie, address, cookie:NAME or header:NAME"


def problem_of_mode(text: str) -> str:
    return "" if _MODE.fullmatch(text) else "expected an octal number such as 660"


def problem_of_root_path(text: str) -> str:
    return "" if not text or text.startswith("/") else "must begin with '/'"


def problem_of_header_value(text: str) -> str:
    return "" if _HEADER_VALUE.fullmatch(text) else "not a header's value"


def problem_of_header_name(text: str) -> str:
    return "" if _HEADER_NAME.fullmatch(text) else "not a header's name"
