"""Canaries: pools that take a share of another pool's requests, and how large the shares are. Pure.

::

    [pools.web]
    application = "mysite.asgi:application"

    [pools.web-next]
    application = "mysite_next.asgi:application"
    canary_of = "web"
    weight = 5

Weights say how requests are shared, and nothing else: 95 and 5 are the same as 19 and 1. A canary whose weight is not
given has 0; the pool itself has what its canaries leave of 100.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ifserver.config.pools import PoolSettings, pool_path
from ifserver.errors import ConfigurationError

__all__ = ["WHOLE", "check_canaries", "members_of", "shared_out", "weights_of"]

#: What weights that were not given make up for.
WHOLE: Final = 100.0


def members_of(pools: Iterable[PoolSettings]) -> dict[str, list[str]]:
    """The pools that have canaries, by their names, each with itself and its canaries, in the order of the file."""
    found: dict[str, list[str]] = {}
    for pool in pools:
        if pool.canary_of is not None:
            found.setdefault(pool.canary_of, [pool.canary_of]).append(pool.name)
    return found


def weights_of(pools: Sequence[PoolSettings]) -> dict[str, dict[str, float]]:
    """The weights in the settings, by the pool whose requests are shared, and by pool; `check_canaries` lets them
    pass."""
    given = {pool.name: pool.weight for pool in pools}
    return {
        of: shared_out(names, {name: weight for name in names if (weight := given.get(name)) is not None})
        for of, names in members_of(pools).items()
    }


def shared_out(names: Sequence[str], given: Mapping[str, float]) -> dict[str, float]:
    """The weights of a pool and of its canaries, of which some are `given`.

    Raises:
        ValueError: nobody would have anything, or the canaries more than there is.
    """
    of, *canaries = names
    weights = {of: 0.0} | {name: given.get(name, 0.0) for name in canaries}
    taken = sum(weights.values())
    if of not in given and taken > WHOLE:
        said = ", ".join(f"{name}={weights[name]:g}" for name in canaries if weights[name])
        raise ValueError(f"more than {WHOLE:g} where {of} has the rest of it: {said}")
    weights[of] = given.get(of, WHOLE - taken)
    if not any(weights.values()):
        raise ValueError(f"one of {', '.join(names)} must be more than 0")
    return weights


def check_canaries(pools: Sequence[PoolSettings]) -> None:
    """Let pass pools whose canaries and weights make sense.

    Raises:
        ConfigurationError: they do not.
    """
    by_name = {pool.name: pool for pool in pools}
    members = members_of(pools)
    for pool in pools:
        of, path = pool.canary_of, pool_path(pool.name, "canary_of")
        if of is None:
            if pool.weight is not None and pool.name not in members:
                raise ConfigurationError(
                    f"{pool_path(pool.name, 'weight')}: it shares its requests with no pool: one must have "
                    f'canary_of = "{pool.name}"'
                )
            continue
        if of not in by_name or of == pool.name:
            others = ", ".join(name for name in by_name if name != pool.name)
            raise ConfigurationError(f"{path}: no other pool is named {of!r}, there are: {others or 'none'}")
        if by_name[of].canary_of is not None:
            raise ConfigurationError(f"{path}: {of} is a canary itself, of {by_name[of].canary_of}")
    for names in members.values():
        try:
            weights_of([by_name[name] for name in names])
        except ValueError as error:
            raise ConfigurationError(f"{pool_path(names[1], 'weight')}: {error}") from None
