"""The value of a setting: read from the text of a flag or a variable, or from what TOML holds; written as TOML. Pure.

Errors say what is wrong with the value. Whoever knows the setting's path, and where it was given, puts them in front.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from ifserver.config.quantities import parse_duration, parse_size, show_duration, show_size
from ifserver.config.schema import Kind, Setting
from ifserver.errors import ConfigurationError

__all__ = ["NONE", "from_text", "from_toml", "to_text", "to_toml"]

#: The word for None, which TOML has not.
NONE: Final = "none"
_SWITCHES: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")
_FRACTION: Final = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")
#: White space, but not that which follows a comma between two URLs.
_BETWEEN_CLUSTERS: Final = re.compile(r"(?<!,)\s+")


def from_text(setting: Setting, text: str) -> Any:
    """The value that a variable holds.

    Raises:
        ConfigurationError: it cannot be one.
    """
    word = text.strip().lower()
    if setting.many:
        return () if word in ("", NONE) else tuple(_one(setting.kind, piece) for piece in _pieces(setting, text))
    if setting.optional and word == NONE:
        return None
    return _whole(setting, _one(setting.kind, text))


def _pieces(setting: Setting, text: str) -> list[str]:
    """The texts of a list's values."""
    if setting.kind is Kind.CLUSTERS:
        return _BETWEEN_CLUSTERS.split(text.strip())
    return [piece.strip() for piece in text.split(setting.separator)]


def _one(kind: Kind, text: str) -> Any:
    """One value; of a list, one of its values."""
    stripped = text.strip()
    if kind is Kind.DURATION:
        return parse_duration(text)
    if kind is Kind.SIZE:
        return parse_size(text)
    if kind is Kind.SWITCH:
        if stripped.lower() not in _SWITCHES:
            raise ConfigurationError(f"expected true or false, got {text!r}")
        return _SWITCHES[stripped.lower()]
    if kind is Kind.FRACTION:
        if not _FRACTION.fullmatch(stripped):
            raise ConfigurationError(f"expected a number, got {text!r}")
        return float(stripped)
    if kind in (Kind.NUMBER, Kind.NUMBERS):
        if not _WHOLE.fullmatch(stripped):
            raise ConfigurationError(f"expected a whole number, got {text!r}")
        return int(stripped)
    return text


def _whole(setting: Setting, value: Any) -> Any:
    """`value`; a duration in whole seconds where the setting knows no others."""
    if not (setting.kind is Kind.DURATION and setting.whole):
        return value
    if value != int(value):
        raise ConfigurationError(f"expected whole seconds, got {show_duration(value)}")
    return int(value)


def from_toml(setting: Setting, value: object) -> Any:
    """The value that stands in a file, as TOML has read it. A list of one value may be given as that value.

    Raises:
        ConfigurationError: it cannot be one.
    """
    if setting.many:
        return tuple(_typed(setting.kind, each) for each in (value if isinstance(value, list) else [value]))
    if setting.optional and value == NONE:
        return None
    return _whole(setting, _typed(setting.kind, value))


def _typed(kind: Kind, value: object) -> Any:
    if isinstance(value, str) and kind in (Kind.DURATION, Kind.SIZE, Kind.TEXT, Kind.TEXTS, Kind.CHOICE):
        return _one(kind, value)
    if isinstance(value, bool):
        if kind is Kind.SWITCH:
            return value
    elif isinstance(value, int) and kind in (Kind.NUMBER, Kind.NUMBERS, Kind.SIZE):
        return value
    elif isinstance(value, int | float) and kind in (Kind.DURATION, Kind.FRACTION) and abs(value) < float("inf"):
        return float(value)
    elif isinstance(value, dict) and kind is Kind.VARIABLES:
        return {name: _variable(name, text) for name, text in value.items()}
    if kind is Kind.VARIABLES:
        raise ConfigurationError(f"expected {kind.value}")  # not shown: passwords may be in there
    shown = value if isinstance(value, float) else msgspec.json.encode(value).decode()
    raise ConfigurationError(f"expected {kind.value}, got {shown}")


def _variable(name: str, text: object) -> str:
    """The value of a variable of the environment; a whole number may be given as one."""
    if isinstance(text, int) and not isinstance(text, bool):
        text = str(text)
    if not name or "=" in name or "\0" in name:
        raise ConfigurationError(f"{name!r}: expected the name of a variable")
    if not isinstance(text, str) or "\0" in text:
        raise ConfigurationError(f"{name}: expected a text")
    return text


def to_toml(setting: Setting, value: Any) -> str:
    """`value` as it can be written into a file."""
    if value is None:
        return f'"{NONE}"'
    if setting.many:
        return f"[{', '.join(map(_literal, value))}]"
    if setting.kind is Kind.DURATION:
        return f'"{show_duration(value)}"'
    if setting.kind is Kind.VARIABLES:
        return f"{{{', '.join(f'{_literal(name)} = {_literal(text)}' for name, text in value.items())}}}"
    if setting.kind is Kind.SIZE:
        shown = show_size(value)
        return shown if shown.isdigit() else f'"{shown}"'
    return _literal(value)


def _literal(value: str | int | bool) -> str:
    if not isinstance(value, str):
        return str(value).lower()
    # TOML's basic strings are JSON's, but for U+007F, which must be escaped.
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007F")


def to_text(setting: Setting, value: Any) -> str:
    """`value` as it can be given to a flag or in a variable; clusters apart."""
    if value is None:
        return NONE
    if setting.many:
        return (setting.separator or " ").join(map(str, value)) or NONE
    if setting.kind is Kind.DURATION:
        return show_duration(value)
    if setting.kind is Kind.SIZE:
        return show_size(value)
    return str(value).lower() if setting.kind is Kind.SWITCH else str(value)
