"""Messages as no release sends them: each field in turn is something else than it should be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from hypothesis import strategies as st

from ifserver import messages as m

__all__ = ["NASTY", "mangled", "spoiled"]

_DEEP: Final = msgspec.Raw(b"\x91" * 5000 + b"\x01")
#: What a field may hold that nobody has thought of.
NASTY: Final[tuple[Any, ...]] = (
    None, True, -1, 2**31, 2**62, 2**63 - 1, 2**64 - 1, -(2**63), 0.5, float("nan"), float("inf"), 1e300,
    "", ".", "!", "!.", "!east", "a\n.b", "ä" * 150, "x" * 1000, b"", b"\xff", [], {}, [None], [-1, -1],
    [2**62, 2**62], msgspec.Raw(b"\xa2\xff\xff"), _DEEP,
)  # fmt: skip


def spoiled(message: m.Message) -> Iterator[bytes]:
    """Payloads of `message`, in which one field is `NASTY`, at whatever depth, or nothing follows it."""
    fields = msgspec.msgpack.decode(m.encode(message)[1:])
    for path in _paths(fields):
        *steps, last = path
        for nasty in NASTY:
            changed = msgspec.msgpack.decode(m.encode(message)[1:])
            place = changed
            for step in steps:
                place = place[step]
            place[last] = nasty
            yield m.encode(message)[:1] + msgspec.msgpack.encode(changed)
    for count in range(len(fields)):
        yield m.encode(message)[:1] + msgspec.msgpack.encode(fields[:count])


def _paths(fields: list[Any]) -> Iterator[tuple[int, ...]]:
    for i, field in enumerate(fields):
        yield (i,)
        if isinstance(field, list):
            for path in _paths(field):
                yield i, *path


@st.composite
def mangled(draw: st.DrawFn, message: m.Message) -> bytes:
    """A payload of `message` with some other bytes in it."""
    payload = bytearray(m.encode(message))
    for _ in range(draw(st.integers(1, 3))):
        payload[draw(st.integers(0, len(payload) - 1))] = draw(st.integers(0, 255))
    return bytes(payload[: draw(st.integers(0, len(payload)))]) if draw(st.booleans()) else bytes(payload)
