"""What only a log would tell: an exception in a Deferred that nobody has seen."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.logger import globalLogPublisher

__all__ = ["no_unseen_failures"]


@contextmanager
def no_unseen_failures() -> Iterator[list[str]]:
    """Fail if there is one in the block; what is appended to the list counts as such, too."""
    seen: list[str] = []

    def observe(event: Any) -> None:
        if event.get("log_failure") is not None:
            seen.append(event["log_failure"].getTraceback())

    globalLogPublisher.addObserver(observe)
    try:
        yield seen
        gc.collect(0)  # until then nobody knows that nobody has seen it
    finally:
        globalLogPublisher.removeObserver(observe)
    assert not seen, "\n".join(seen)
