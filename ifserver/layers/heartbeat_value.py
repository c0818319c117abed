"""What the value of a beat says: the living children of a supervisor, and facts for people. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["facts_of", "names_of", "value_of", "with_facts"]

#: What separates the names in the value of a beat.
_SEPARATOR: Final = b","
#: Behind it follow facts for people. Whoever looks for names reads no further.
_FACTS: Final = b"\n"


def value_of(processes: Sequence[str]) -> bytes:
    """The value of the beat of a supervisor that has these living children."""
    return _SEPARATOR.join(process.encode() for process in processes)


def with_facts(value: bytes, facts: bytes) -> bytes:
    """The value of a beat that tells facts as well (`ifserver.status.Facts`)."""
    return value + _FACTS + facts if facts else value


def names_of(value: bytes) -> set[str]:
    """The living children that a beat names."""
    names = value.partition(_FACTS)[0]
    return {name.decode("ascii", "replace") for name in names.split(_SEPARATOR) if name}


def facts_of(value: bytes) -> bytes:
    """The facts that a beat tells; empty where it tells none."""
    return value.partition(_FACTS)[2]
