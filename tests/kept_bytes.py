"""How much memory something keeps."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["LETTERS", "kept_at_most", "wide"]

#: How long `wide` is.
LETTERS = 100_000


def wide(last: str) -> str:
    """A text of which Python needs four bytes for each character, and UTF-8 one."""
    return "x" * (LETTERS - 2) + "\N{GRINNING FACE}" + last


@contextmanager
def kept_at_most(count: int) -> Iterator[None]:
    """What is done keeps no more than `count` bytes."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert kept <= count
