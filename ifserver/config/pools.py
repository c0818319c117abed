"""Pools: requests of one site that have workers of their own, and which requests those are. Pure.

::

    [pools.reports]
    application = "mysite.wsgi:application"
    paths = ["/reports/*"]

A request is for the first pool whose rules it fits, or for one of its canaries (`ifserver.config.canaries`). What fits
none is for the *default* pool, which runs ``worker.application`` as if there were no pools; where that is not given, it
is answered 404.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct, structs

from ifserver import channels
from ifserver.config.schema import Setting, Settings, settings_of
from ifserver.config.settings import WorkerSettings
from ifserver.config.settings_checks import parse_application, problem_of_brackets, problem_of_path
from ifserver.errors import ConfigurationError

__all__ = [
    "DEFAULT",
    "HTTP",
    "POOLS",
    "RULES",
    "PoolSettings",
    "PoolWorkers",
    "all_of",
    "hidden_by",
    "pool_path",
    "settings_of_pool",
    "without_rules",
    "workers_of",
]

#: The table of the pools, and how each of its tables is called where any is meant.
POOLS: Final = "pools"
#: The pool that [worker] describes.
DEFAULT: Final = channels.DEFAULT_POOL
#: The name of the pool that ``worker.http`` makes.
HTTP: Final = "http"
#: What says which requests a pool takes.
RULES: Final = ("protocols", "paths", "hosts", "methods", "order", "canary_of", "weight")
#: What [worker] says where a pool does not.
_SHARED: Final = ("processes", "threads", "concurrency")
_PROTOCOLS: Final = ("http", "websocket")
#: The rules of a pool that takes everything.
_NO_RULES: Final[Mapping[str, Any]] = {"protocols": _PROTOCOLS, "paths": (), "hosts": (), "methods": ()}

#: RFC 9110 9.1 and 5.6.2.
_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: A host name or an IP address, with the characters of patterns.
_HOST: Final = re.compile(r"[a-z0-9_.:*?\[\]!-]+")
_PORT: Final = re.compile(r"[^:]*:\d+")


class PoolSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pool: requests that have workers of their own, and the application that these run. The first pool that fits a
    request takes it; what fits none goes to worker.application, or is answered 404 where that is not given. Pools are
    given in a file only, in this order."""

    name: str
    #: Its place among those of the file; 0 where it is in none, and behind them all.
    order: int = 0
    application: Annotated[str, "The application of this pool, as worker.application. The same one may be in several."]
    protocols: Annotated[tuple[str, ...], "What it takes: http, websocket, or both."] = _PROTOCOLS
    paths: Annotated[
        tuple[str, ...],
        "Paths that it takes: patterns with * (any characters, slashes too), ? and [...], as /reports/*. They are "
        "compared with the decoded path, without root_path and the query. Empty: all.",
    ] = ()
    hosts: Annotated[
        tuple[str, ...],
        "Host names that it takes, by the Host header without its port: patterns as *.example.com. Empty: all.",
    ] = ()
    methods: Annotated[
        tuple[str, ...], "Methods that it takes, as GET; the handshake of a WebSocket is a GET. Empty: all."
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
    processes: Annotated[
        Annotated[int, Meta(ge=1)] | None, "Worker processes of this pool. none: as many as worker.processes says."
    ] = None
    threads: Annotated[
        Annotated[int, Meta(ge=1)] | None, "Threads of each process, for WSGI. none: as worker.threads says."
    ] = None
    concurrency: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        "Requests that one process handles at a time. none: as worker.concurrency says.",
    ] = None
    environment: Annotated[
        dict[str, str],
        "Variables for the environment of this pool's application. They take precedence over those "
        "of the environment and of worker.env_file.",
    ] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            parse_application(self.application)
        except ConfigurationError as error:
            raise ConfigurationError(pool_path(self.name, str(error))) from None
        for name, problem_of in _CHECKS.items():
            for text in getattr(self, name):
                problem = problem_of(text)
                if problem:
                    raise ConfigurationError(pool_path(self.name, f"{name}: {text!r}: {problem}"))
        if self.canary_of is not None:
            for name, default in _NO_RULES.items():
                if getattr(self, name) != default:
                    said = f"a canary takes what {self.canary_of} takes, and has no rules of its own"
                    raise ConfigurationError(pool_path(self.name, f"{name}: {said}"))
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


def _problem_of_protocol(text: str) -> str:
    return "" if text in _PROTOCOLS else "expected http or websocket"


def _problem_of_host(text: str) -> str:
    if _PORT.fullmatch(text):
        return "expected a pattern of host names, without a port"
    if not _HOST.fullmatch(text.lower()):
        return "expected a pattern of host names, for example *.example.com"
    return problem_of_brackets(text)


def _problem_of_method(text: str) -> str:
    if not _METHOD.fullmatch(text):
        return "expected a method, for example POST"
    return "" if text == text.upper() else f"methods are compared as they are: did you mean {text.upper()}?"


_CHECKS: Final = {
    "protocols": _problem_of_protocol,
    "paths": problem_of_path,
    "hosts": _problem_of_host,
    "methods": _problem_of_method,
}
