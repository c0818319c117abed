"""Pools side by side: what one server or all of them have counted of each. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ifserver.layers.operator_orders import Here, Order, PoolHere
from ifserver.metrics import quantile
from ifserver.status import PoolStatus

__all__ = ["agreed", "side_by_side"]


def side_by_side(here: Sequence[Here[Order]]) -> list[PoolStatus]:
    """What several servers have said of their pools, as that of one.

    The weights are those of the first that knows of any: servers read new settings one after the other.
    """
    by_name: dict[str, list[PoolHere]] = {}
    for server in here:
        for pool in server.pools:
            by_name.setdefault(pool.name, []).append(pool)
    return [_summed(pools) for pools in by_name.values()]


def agreed(here: Sequence[Here[Order]]) -> bool:
    """Whether all servers share requests in the same way."""
    shares = ({pool.name: (pool.canary_of, pool.weight) for pool in server.pools if pool.weight} for server in here)
    return len({frozenset(each.items()) for each in shares}) <= 1


def _summed(pools: Sequence[PoolHere]) -> PoolStatus:
    first = next((pool for pool in pools if pool.weight is not None), pools[0])
    times = [sum(counts) for counts in zip(*(pool.times for pool in pools), strict=False)]
    p50_s, p95_s, p99_s = (_rounded(quantile(times, part)) for part in (0.5, 0.95, 0.99))
    return PoolStatus(
        name=first.name,
        canary_of=first.canary_of,
        weight=first.weight,
        is_ordered=first.is_ordered,
        requests=sum(pool.requests for pool in pools),
        errors=sum(pool.errors for pool in pools),
        p50_s=p50_s,
        p95_s=p95_s,
        p99_s=p99_s,
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
