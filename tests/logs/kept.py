"""Events of one test only: they belong to the process, as the log does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ifserver.logs import events

__all__ = ["no_events"]


@contextmanager
def no_events() -> Iterator[None]:
    """Nothing has happened yet, and nothing is left of what happens in this block."""
    kept = list(events._events)
    events._events.clear()
    try:
        yield
    finally:
        events._events.clear()
        events._events.extend(kept)
