"""Pools: requests of one site that have workers of their own, and which requests those are. Pure.

::

    [pools.reports]
    application = "mysite.wsgi:application"
    paths = ["/reports/*"]

    [pools.reports-next]
    application = "mysite_next.wsgi:application"
    canary_of = "reports"
    weight = 5

A request is for the first pool whose rules it fits, or for one of its canaries, which take a share of its requests.
What fits none is for the *default* pool, which runs ``worker.application`` as if there were no pools; where that is not
given, it is answered 404.

Weights are relative: 95 and 5 are the same as 19 and 1. A canary whose weight is not
given has 0; the pool itself has what its canaries leave of 100.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct, structs

from ifserver import channels
from ifserver.config import checks
from ifserver.config.schema import Count, Setting, Settings, check, settings_of
from ifserver.config.settings import WorkerSettings
from ifserver.errors import ConfigurationError

#: The table of the pools, and how each of its tables is called where any is meant.
POOLS: Final = "pools"
#: The pool that [worker] describes.
DEFAULT: Final = channels.DEFAULT_POOL
#: The name of the pool that ``worker.http`` makes.
HTTP: Final = "http"
#: The settings that decide which requests a pool takes.
_RULES: Final = ("protocols", "paths", "hosts", "methods", "order", "canary_of", "weight")
#: The settings of [worker] that a pool may override.
_SHARED: Final = ("processes", "threads", "concurrency")
_PROTOCOLS: Final = ("http", "websocket")
#: What weights that were not given make up for.
_WHOLE: Final = 100.0
#: The rules of a pool that takes everything.
_NO_RULES: Final[Mapping[str, Any]] = {"protocols": _PROTOCOLS, "paths": (), "hosts": (), "methods": ()}

#: A host name or an IP address, with the characters of patterns.
_HOST: Final = re.compile(r"[a-z0-9_.:*?\[\]!-]+")
_PORT: Final = re.compile(r"[^:]*:\d+")


def _problem_of_protocol(text: str) -> str:
    return "" if text in _PROTOCOLS else "expected http or websocket"


def _problem_of_host(text: str) -> str:
    if _PORT.fullmatch(text):
        return "expected a pattern of host names, without a port"
    if not _HOST.fullmatch(text.lower()):
        return "expected a pattern of host names, for example *.example.com"
    return checks.problem_of_brackets(text)


def _problem_of_method(text: str) -> str:
    if checks.problem_of_header_name(text):
        return "expected a method, for example POST"
    return "" if text == text.upper() else f"methods are compared as they are: did you mean {text.upper()}?"


class PoolSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pool: requests that have workers of their own, and the application that these run. The first pool that fits a
    request takes it; what fits none goes to worker.application, or is answered 404 where that is not given. Pools are
    given in a file only, in this order."""

    name: str
    #: Its place among those of the file; 0 where it is in none, and behind them all.
    order: int = 0
    application: Annotated[
        str,
        "The application of this pool, as worker.application. The same one may be in several.",
        check(checks.problem_of_application),
    ]
    protocols: Annotated[tuple[str, ...], "What it takes: http, websocket, or both.", check(_problem_of_protocol)] = (
        _PROTOCOLS
    )
    paths: Annotated[
        tuple[str, ...],
        "Paths that it takes: patterns with * (any characters, slashes too), ? and [...], as /reports/*. They are "
        "compared with the decoded path, without root_path and the query. Empty: all.",
        check(checks.problem_of_path),
    ] = ()
    hosts: Annotated[
        tuple[str, ...],
        "Host names that it takes, by the Host header without its port: patterns as *.example.com. Empty: all.",
        check(_problem_of_host),
    ] = ()
    methods: Annotated[
        tuple[str, ...],
        "Methods that it takes, as GET; the handshake of a WebSocket is a GET. Empty: all.",
        check(_problem_of_method),
    ] = ()
    canary_of: Annotated[
        str | None,
        "The pool of whose requests this one takes a share, for example to try a new version. It has no rules of its "
        "own. none: it is no canary.",
    ] = None
    weight: Annotated[
        Annotated[float, Meta(ge=0, le=1_000_000)] | None,
        "Its share of the requests that a pool has together with its canaries, beside their weights: 95 and 5, or 19 "
        "and 1. none: of a canary 0, of the pool itself what its canaries leave of 100. ifserver pool changes it while "
        "the servers run.",
    ] = None
    processes: Annotated[Count | None, "Worker processes of this pool. none: as many as worker.processes."] = None
    threads: Annotated[Count | None, "Threads of each process, for WSGI. none: worker.threads."] = None
    concurrency: Annotated[
        Count | None,
        "Requests that one process handles at a time. none: worker.concurrency.",
    ] = None
    environment: Annotated[
        dict[str, str],
        "Variables for the environment of this pool's application. They take precedence over those "
        "of the environment and of worker.env_file.",
    ] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, setting in settings_of_pool(self.name).items():
            setting.check(getattr(self, name))
        if self.canary_of is not None:
            for name, default in _NO_RULES.items():
                if getattr(self, name) != default:
                    why = f"a canary takes what {self.canary_of} takes, and has no rules of its own"
                    raise ConfigurationError(pool_path(self.name, f"{name}: {why}"))
        if not self.protocols:
            raise ConfigurationError(pool_path(self.name, "protocols: must be http, websocket or both, got none"))

    @property
    def rules(self) -> str:
        """What it takes, for people; empty: everything."""
        if self.canary_of is not None:
            return f"canary of {self.canary_of}"
        kinds = () if set(self.protocols) == set(_PROTOCOLS) else self.protocols
        return ", ".join(dict.fromkeys((*kinds, *self.methods, *self.hosts, *self.paths)))


class PoolWorkers(Struct, frozen=True, kw_only=True):
    """What the workers of one pool run."""

    settings: WorkerSettings
    #: The name of the pool; empty: there are no pools.
    pool: str = ""
    environment: dict[str, str] = msgspec.field(default_factory=dict)


def pool_path(pool: str, name: str) -> str:
    """``pools.reports.paths``, by which errors name a setting of a pool."""
    return f"{POOLS}.{pool}.{name}"


def all_of(pools: Collection[PoolSettings]) -> set[str]:
    """The paths of all settings of the pools, and of the pools themselves."""
    return {f"{POOLS}.{pool.name}" for pool in pools} | {
        pool_path(pool.name, name) for pool in pools for name in PoolSettings.__struct_fields__
    }


def settings_of_pool(pool: str) -> Mapping[str, Setting]:
    """The settings of a pool by their names, with the paths that they have in a file."""
    found = settings_of(PoolSettings).items()
    return {name: structs.replace(setting, section=f"{POOLS}.{pool}") for name, setting in found}


def hidden_by(pool: PoolSettings, pools: Sequence[PoolSettings]) -> str | None:
    """The name of a pool before this one that takes all that this one could get; None: there is none."""
    if pool.canary_of is not None:
        return None
    before = pools[: [each.name for each in pools].index(pool.name)]
    for each in before:
        if each.canary_of is not None:
            continue
        if not (each.paths or each.hosts or each.methods) and set(pool.protocols) <= set(each.protocols):
            return each.name
    return None


def without_rules(pool: PoolSettings) -> PoolSettings:
    """`pool` for a command that has its workers, whom it does not concern which requests they get."""
    return structs.replace(pool, **_NO_RULES, order=0, canary_of=None, weight=None)


def rules_of(pools: Collection[PoolSettings]) -> set[str]:
    """The paths of the settings that decide which requests the pools take."""
    return {pool_path(pool.name, rule) for pool in pools for rule in _RULES}


def workers_of(pools: Sequence[PoolSettings], worker: WorkerSettings, wanted: Sequence[str] = ()) -> list[PoolWorkers]:
    """What the workers of each pool run, of those that are `wanted`; none named: of all.

    Raises:
        ConfigurationError: a name in `wanted` is no pool's.
    """
    if not pools:
        names, found = [DEFAULT], [PoolWorkers(settings=worker)]
    else:
        names, found = [pool.name for pool in pools], [_workers(pool, worker) for pool in pools]
    for name in wanted:
        if name not in names:
            raise ConfigurationError(f"worker.pools: no pool is named {name!r}, there are: {', '.join(names)}")
    return [each for name, each in zip(names, found, strict=True) if not wanted or name in wanted]


def _workers(pool: PoolSettings, worker: WorkerSettings) -> PoolWorkers:
    own = {name: getattr(pool, name) for name in _SHARED if getattr(pool, name) is not None}
    settings = structs.replace(worker, application=pool.application, **own)
    return PoolWorkers(settings=settings, pool=pool.name, environment=dict(pool.environment))


# Canaries.


def members_of(pools: Iterable[PoolSettings]) -> dict[str, list[str]]:
    """The pools that have canaries, by their names, each with itself and its canaries, in the order of the file."""
    found: dict[str, list[str]] = {}
    for pool in pools:
        if pool.canary_of is not None:
            found.setdefault(pool.canary_of, [pool.canary_of]).append(pool.name)
    return found


def weights_of(pools: Sequence[PoolSettings]) -> dict[str, dict[str, float]]:
    """The weights in the settings, by the pool whose requests are shared, and by pool.

    Raises:
        ValueError: they make no sense; not after `check_canaries`.
    """
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
    if of not in given and taken > _WHOLE:
        shares = ", ".join(f"{name}={weights[name]:g}" for name in canaries if weights[name])
        raise ValueError(f"more than {_WHOLE:g} where {of} has the rest of it: {shares}")
    weights[of] = given.get(of, _WHOLE - taken)
    if not any(weights.values()):
        raise ValueError(f"one of {', '.join(names)} must be more than 0")
    return weights


def check_canaries(pools: Sequence[PoolSettings]) -> None:
    """Raise `ConfigurationError` where canaries or weights make no sense."""
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
