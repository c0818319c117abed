"""Durations and sizes as people write them: ``90s``, ``1h30m``, ``64KiB``. Pure.

Each reader has a writer, and what that wrote is read back as the very same number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from ifserver.errors import ConfigurationError

__all__ = ["parse_duration", "parse_size", "show_duration", "show_size"]

#: Seconds of each unit of time, the largest first.
_SECONDS: Final[Mapping[str, float]] = {"d": 86_400, "h": 3_600, "m": 60, "s": 1, "ms": 0.001}
#: Bytes of each unit of size, the largest first. A bare K or M would mean either.
_BINARY: Final[Mapping[str, int]] = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}
_BYTES: Final[Mapping[str, int]] = {
    **{unit.lower(): size for unit, size in _BINARY.items()}, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip

_NUMBER: Final = r"[0-9]{1,18}(?:\.[0-9]{1,25})?(?:e[+-]?[0-9]{1,3})?"
_PLAIN: Final = re.compile(rf"-?{_NUMBER}")
_PART: Final = re.compile(rf"({_NUMBER}) ?(ms|[dhms]) ?")
_PARTS: Final = re.compile(rf"(?:{_NUMBER} ?(?:ms|[dhms]) ?)+")
_SIZE: Final = re.compile(r"(-?)([0-9]{1,18})(?:\.([0-9]{1,18}))? ?([a-zA-Z]*)")


def parse_duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``500ms``, ``2m``, ``1h30m`` or ``7d``; a bare number counts seconds.

    Raises:
        ConfigurationError: it is none.
    """
    stripped = text.strip()
    if _PLAIN.fullmatch(stripped):
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
