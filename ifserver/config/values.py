"""The value of a setting: read from the text of a flag or a variable, or from what TOML holds; written as TOML. Pure.

Durations and sizes are as people write them: ``90s``, ``1h30m``, ``64KiB``. What is written here is read as itself.

Errors describe what is wrong with the value. The caller, which knows the setting's path and where it was given, puts
these in front.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ifserver.config.schema import Kind, Setting
from ifserver.errors import ConfigurationError

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


# Durations and sizes.

#: Seconds of each unit of time, the largest first.
_SECONDS: Final[Mapping[str, float]] = {"d": 86_400, "h": 3_600, "m": 60, "s": 1, "ms": 0.001}
#: Bytes of each unit of size, the largest first. A bare K or M would mean either.
_BINARY: Final[Mapping[str, int]] = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}
_BYTES: Final[Mapping[str, int]] = {
    **{unit.lower(): size for unit, size in _BINARY.items()}, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip

_NUMBER: Final = r"[0-9]{1,18}(?:\.[0-9]{1,25})?(?:e[+-]?[0-9]{1,3})?"
_BARE: Final = re.compile(rf"-?{_NUMBER}")
_PART: Final = re.compile(rf"({_NUMBER}) ?(ms|[dhms]) ?")
_PARTS: Final = re.compile(rf"(?:{_NUMBER} ?(?:ms|[dhms]) ?)+")
_SIZE: Final = re.compile(r"(-?)([0-9]{1,18})(?:\.([0-9]{1,18}))? ?([a-zA-Z]*)")


def parse_duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``500ms``, ``2m``, ``1h30m`` or ``7d``; a bare number counts seconds.

    Raises:
        ConfigurationError: it is none.
    """
    stripped = text.strip()
    if _BARE.fullmatch(stripped):
        seconds = float(stripped)
    elif _PARTS.fullmatch(stripped):
        parts = [(float(number), unit) for number, unit in _PART.findall(stripped)]
        sizes = [_SECONDS[unit] for _, unit in parts]
        # ``1m1h`` is the slip that it looks like.
        if sizes != sorted(set(sizes), reverse=True):
            raise _no_duration(text)
        # A division is rounded right where a multiplication by 0.001 is not.
        seconds = sum(number / 1000 if unit == "ms" else number * _SECONDS[unit] for number, unit in parts)
    else:
        raise _no_duration(text)
    if not math.isfinite(seconds):
        raise _no_duration(text)
    return seconds


def _no_duration(text: str) -> ConfigurationError:
    return ConfigurationError(f"expected a duration such as 90s, 2m or 500ms, got {text!r}")


def show_duration(seconds: float) -> str:
    """`seconds`, finite, in the largest unit of which it is a whole number."""
    if seconds < 0:
        return repr(float(seconds))
    for unit, size in _SECONDS.items():
        if size >= 1 and seconds % size == 0 and seconds / size < 1e15:
            return f"{seconds / size:.0f}{unit}" if seconds else "0s"
    thousandths = f"{seconds * 1000:.0f}ms"
    return thousandths if seconds < 1 and parse_duration(thousandths) == seconds else f"{float(seconds)!r}s"


def parse_size(text: str) -> int:
    """Bytes of ``65536``, ``64KiB``, ``1.5 MiB`` or ``10MB``; case does not matter, a bare number counts bytes.

    Raises:
        ConfigurationError: it is none, or no whole number of bytes.
    """
    size = _SIZE.fullmatch(text.strip())
    unit = _BYTES.get((size[4] or "B").lower()) if size is not None else None
    if size is None or unit is None:
        raise ConfigurationError(f"expected a size such as 4096, 64KiB, 10MB or 1GiB, got {text!r}")
    sign, whole, fraction, _ = size.groups("")
    scale: int = 10 ** len(fraction)
    number, rest = divmod(int(whole + fraction) * unit, scale)
    if rest:
        raise ConfigurationError(f"{text!r} is no whole number of bytes")
    return -number if sign else number


def show_size(number: int) -> str:
    """`number` of bytes in the largest unit of which it is a whole number."""
    if number > 0:
        for unit, size in _BINARY.items():
            if number % size == 0 and unit != "B":
                return f"{number // size}{unit}"
    return str(number)
