"""How a load went, and what it has cost."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from benchmarks.subjects import BACKEND

__all__ = ["Measurement", "Result", "result_of"]


class Result(Struct, frozen=True):
    """What was done, in how many seconds; latencies in milliseconds; failures."""

    done: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failed: int = 0


class Measurement(Struct, frozen=True):
    """One subject under one load, in one round."""

    subject: str
    load: str
    round: int
    result: Result
    #: CPU microseconds for one piece of work, of each role; and of the load generator.
    cpu_us: dict[str, float]
    client_us: float

    @property
    def total_us(self) -> float:
        """That of all roles; what a peer has behind it would be there without it."""
        return sum(us for role, us in self.cpu_us.items() if role != BACKEND)


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
