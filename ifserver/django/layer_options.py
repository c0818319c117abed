"""What ``CONFIG`` of the channel layer may say. Pure: the system checks need neither Channels nor a layer for it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["BACKENDS", "OPTIONS", "UNUSED", "mistakes"]

#: Names by which settings have our layer.
BACKENDS: Final = ("ifserver.django.ChannelLayer", "ifserver.django.layer.ChannelLayer")
#: Options of channels_redis that mean nothing here.
UNUSED: Final = ("hosts", "prefix", "serializer_format", "random_prefix_length", "on_disconnect", "on_reconnect")


def mistakes(config: object) -> list[str]:
    """What cannot be in the options of a layer, one text for each that is wrong."""
    if not isinstance(config, Mapping):
        return [f"expected a dict of options, got {config!r}"]
    found = []
    for name, value in config.items():
        if name == "symmetric_encryption_keys":
            if value:
                # The value is a secret.
                found.append(f"{name}: messages are not encrypted here; use rediss:// nodes")
        elif name == "channel_capacity":
            found += _wrong_capacities(value)
        elif name in _EXPECTED:
            expected, fits = _EXPECTED[name]
            if not fits(value):
                found.append(f"{name}: expected {expected}, got {value!r}")
        elif name not in UNUSED:
            found.append(f"ifserver.django.ChannelLayer has no option {name}")
    return found


def _wrong_capacities(value: object) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, Mapping):
        return [f"channel_capacity: expected a dict of names and capacities, got {value!r}"]
    found = []
    expected, fits = _EXPECTED["capacity"]
    for pattern, capacity in value.items():
        if not isinstance(pattern, str | re.Pattern):
            found.append(f"channel_capacity: expected a glob or a compiled pattern, got {pattern!r}")
        elif not fits(capacity):
            found.append(f"channel_capacity[{pattern!r}]: expected {expected}, got {capacity!r}")
    return found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


_COUNT: Final = ("a whole number of at least 1", _is_count)
_TIME: Final = ("a number of seconds above 0", _is_time)
#: What an option must be: in words, and whether a value is that.
_EXPECTED: Final[Mapping[Any, tuple[str, Callable[[object], bool]]]] = {
    "expiry": _TIME,
    "group_expiry": _TIME,
    "capacity": _COUNT,
    "max_message_bytes": _COUNT,
    "by_server": ("True or False", lambda value: isinstance(value, bool)),
}
OPTIONS: Final = (*_EXPECTED, "channel_capacity")
