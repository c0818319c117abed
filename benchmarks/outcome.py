"""How a load went."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

__all__ = ["Result", "result_of"]


class Result(Struct, frozen=True):
    """What was done, in how many seconds; latencies in milliseconds; failures."""

    done: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failed: int = 0


def result_of(latencies_s: Iterable[float], seconds: float, failed: int = 0) -> Result:
    """The result of pieces of work that have taken so long each, in seconds.

    Raises:
        ValueError: there was none.
    """
    ordered = sorted(latencies_s)
    if not ordered:
        raise ValueError("nothing was done")
    p50, p99 = (1e3 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return Result(len(ordered), seconds, p50, p99, failed)
