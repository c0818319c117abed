"""The settings that hold, and where each came from: file < environment < flag. Pure.

Each source gives a `Given` for each path that it knows (``front.max_body_bytes``); the last one wins. An error names
the place: ``ifserver.toml:12: front.max_body_bytes: must be at least 0, got -1``.

`CommandSettings` are those that a command uses. They can be read again while its process runs: `updated` keeps what
needs a restart, and `describe_changes` logs what has changed.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from msgspec import Struct, structs

from ifserver.config.front_settings import LOCAL_NETWORKS
from ifserver.config.node_urls import ClusterSettings, parse_cluster
from ifserver.config.pools import DEFAULT as DEFAULT_POOL
from ifserver.config.pools import HTTP, POOLS, PoolSettings, check_canaries, pool_path, settings_of_pool
from ifserver.config.schema import Kind, Setting, Settings, settings_of
from ifserver.config.settings import (
    SECTIONS,
    FrontSettings,
    LayerSettings,
    ListenSettings,
    LogSettings,
    WorkerSettings,
    all_settings,
)
from ifserver.config.values import from_text
from ifserver.errors import ConfigurationError

_S = TypeVar("_S", bound=Settings)

#: Where a value came from that was not given.
DEFAULT: Final = "default"
#: The file that is read where it is found in the current folder; and the variable that names another one.
FILE: Final = "ifserver.toml"
CONFIG_VARIABLE: Final = "IFSERVER_CONFIG"

#: Settings that errors name by their flags.
_BY_FLAG: Final = {"--endpoint": "listen.endpoints", "--fd": "listen.fd"}


class Given(NamedTuple):
    """A value, and where it came from: ``ifserver.toml:12``, a variable, a flag or `DEFAULT`.

    Clusters are a tuple of further ones: a text ``NAME=URL[,URL...]`` for each.
    """

    value: Any
    origin: str


#: What another setting means for one that was not given: the other one, and what follows from its value.
_IMPLIED: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "front.uncounted_networks": ("front.max_connections_per_client", lambda limit: ()),
    "front.proxy_protocol_networks": ("front.trusted_proxies", lambda trusted: trusted or LOCAL_NETWORKS),
    # For development: state in memory is whole with one worker, and an edit closes no WebSocket.
    "front.resumable_paths": ("worker.reload", lambda reload: ("*",) if reload else ()),
    "worker.processes": ("worker.reload", lambda reload: 1 if reload else None),
}


class Configuration:
    """All settings.

    Args:
        given: by path; what is missing has its default.
        file: the file that was read; None: there was none.
    """

    def __init__(self, given: Mapping[str, Given], file: str | None = None) -> None:
        self.file = file
        self._given = given

    def of(self, path: str) -> Given:
        """The value of a setting; of one that must be given and is not, `msgspec.NODEFAULT`."""
        found = self._given.get(path)
        if found is not None:
            return found
        if path in _IMPLIED:
            other, following = _IMPLIED[path]
            if other in self._given:
                return Given(following(self._given[other].value), f"follows from {other}")
        return Given(all_settings()[path].default, DEFAULT)

    def make(self, struct: type[_S], **instead: Any) -> _S:
        """A section; `instead` are values that are known better.

        Raises:
            ConfigurationError: one that must be given is missing, or a value cannot be.
        """
        values = dict(instead)
        for name, setting in settings_of(struct).items():
            if name in instead:
                continue
            value = self.of(setting.path).value
            if setting.required and setting.path not in self._given:
                raise ConfigurationError(_missing(setting))
            values[name] = value
        try:
            return struct(**values)
        except ConfigurationError as error:
            raise self.error(str(error)) from None

    def layer(self, environ: Mapping[str, str]) -> LayerSettings:
        """The clusters; `environ` has the passwords that their URLs have not.

        Raises:
            ConfigurationError: none is given, or a value cannot be.
        """
        if not self.has("layer.clusters"):
            raise ConfigurationError(_missing(all_settings()["layer.clusters"]))
        return self.make(LayerSettings, clusters=self.clusters(environ))

    def clusters(self, environ: Mapping[str, str]) -> tuple[ClusterSettings, ...]:
        """The clusters alone, none if none were given.

        Raises:
            ConfigurationError: one cannot be.
        """
        given = self._given.get("layer.clusters")
        return tuple(_cluster(each, environ) for each in (given.value if given is not None else ()))

    def pools(self) -> tuple[PoolSettings, ...]:
        """The pools in their order, that without a name last, if there is one; empty: there is only that.

        Raises:
            ConfigurationError: one has no application, or a value cannot be.
        """
        tables = self.pools_given().items()
        try:
            found = [self._pool(name, given, place) for place, (name, given) in enumerate(tables)]
            http = self._given.get("worker.http")
            if http is not None and http.value is not None:
                other = self._given.get(f"{POOLS}.{HTTP}")
                if other is not None:
                    raise located(http.origin, f"worker.http: there is a pool {HTTP!r} already ({other.origin})")
                found.append(PoolSettings(name=HTTP, application=http.value, protocols=("http",)))
            if found and self.has("worker.application"):
                found.append(PoolSettings(name=DEFAULT_POOL, application=self._given["worker.application"].value))
            check_canaries(found)
        except ConfigurationError as error:
            raise self.error(str(error)) from None
        return tuple(found)

    def pools_given(self) -> dict[str, dict[str, Given]]:
        """What was given of each pool, by its name and by the setting's path."""
        found: dict[str, dict[str, Given]] = {}
        for path, given in self._given.items():
            if path.startswith(f"{POOLS}."):
                found.setdefault(path.split(".")[1], {})[path] = given
        return found

    def _pool(self, name: str, given: Mapping[str, Given], place: int) -> PoolSettings:
        values = {
            key: given[setting.path].value for key, setting in settings_of_pool(name).items() if setting.path in given
        }
        if "application" not in values:
            raise located(given[f"{POOLS}.{name}"].origin, f"{pool_path(name, 'application')}: must be given")
        return PoolSettings(name=name, order=place, **values)

    def has(self, path: str) -> bool:
        """Whether a setting was given."""
        return path in self._given

    def error(self, text: str) -> ConfigurationError:
        """An error that begins with a setting's path or flag, with the place where its value was given in front."""
        word = text.split(" ")[0].removesuffix(":")
        path = _BY_FLAG.get(word, word)
        given = self._given.get(path)
        if given is None or (path != word and given.origin.startswith("-")):
            return ConfigurationError(text)
        return located(given.origin, f"{path}{text.removeprefix(word)}")


def _cluster(given: Given, environ: Mapping[str, str]) -> ClusterSettings:
    try:
        return parse_cluster(given.value, environ)
    except ConfigurationError as error:
        if given.origin.startswith("-"):
            raise
        problem = str(error).removeprefix("--cluster").removeprefix(":").strip()
        raise located(given.origin, f"clusters: {problem}") from None


def _missing(setting: Setting) -> str:
    if setting.path == "worker.application":
        return (
            "an application is missing: give APP, for example mysite.asgi:application, or set "
            f"worker.application in ifserver.toml or {setting.variable}"
        )
    if setting.kind is Kind.CLUSTERS:
        return f"a cluster is missing: give --cluster NAME=URL, or [clusters] in ifserver.toml, or {setting.variable}"
    return f"{setting.path}: must be given"


def located(origin: str, problem: str) -> ConfigurationError:
    """An error in what `origin` gave."""
    return ConfigurationError(f"{origin}: {problem}")


def given_text(setting: Setting, text: str, origin: str, *, one: bool = False) -> Given:
    """The value of a variable or a flag; of a list also `one` of its values alone, which is not taken apart.

    Raises:
        ConfigurationError: it cannot be.
    """
    try:
        text.encode()
        value = (text,) if one else from_text(setting, text)
    except UnicodeEncodeError:
        raise located(origin, f"{setting.path}: not UTF-8{'' if setting.secret else f': {text!r}'}") from None
    except ConfigurationError as error:
        raise located(origin, f"{setting.path}: {error}") from None
    return checked(setting, value, origin)


def checked(setting: Setting, value: Any, origin: str) -> Given:
    """`value`, in the form that is kept, if it is within the setting's limits.

    Raises:
        ConfigurationError: it is not.
    """
    if setting.kind is Kind.CLUSTERS:
        return Given(tuple(Given(text, origin) for text in value), origin)
    try:
        value = setting.tidy(value)
        setting.check(value)
    except ConfigurationError as error:
        raise located(origin, str(error)) from None
    return Given(value, origin)


def unknown(name: str, known: Iterable[str]) -> str:
    """The error's text for a name that is no setting's."""
    close = difflib.get_close_matches(name, list(known), 1)
    shown = name if name.isprintable() else repr(name)
    return f"{shown}: unknown{f'; did you mean {close[0]}?' if close and _alike(name, close[0]) else ''}"


def _alike(one: str, other: str) -> bool:
    """Whether names are also alike without their sections, or the ``IFSERVER_`` that all variables have in common."""
    differ = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    same = next(differ, min(len(one), len(other)))
    size = 1 + max(one.rfind(separator, 0, same) for separator in "._")
    return difflib.SequenceMatcher(None, one[size:], other[size:]).ratio() >= 0.5


# The settings of a command, which may be read again.


class CommandSettings(Struct, frozen=True, kw_only=True):
    """The settings of the sections that a command uses; those of other sections are defaults, or None."""

    listen: ListenSettings = ListenSettings()
    front: FrontSettings = FrontSettings()
    layer: LayerSettings | None = None
    worker: WorkerSettings | None = None
    log: LogSettings = LogSettings()
    pools: tuple[PoolSettings, ...] = ()

    def tables(self) -> dict[str, Settings]:
        """The sections by their names, and each pool as ``pools.NAME``."""
        sections = {name: settings for name in SECTIONS if (settings := getattr(self, name)) is not None}
        return sections | {f"{POOLS}.{pool.name}": pool for pool in self.pools}


def live_paths() -> set[str]:
    """The settings that servers take over while they run (`ifserver.config.schema.LIVE`)."""
    return {path for path, setting in all_settings().items() if setting.live}


def differences(old: CommandSettings, new: CommandSettings) -> list[str]:
    """The paths of the settings that have other values in `new` than in `old`; and pools that are in one only."""
    before, after = old.tables(), new.tables()
    return [
        f"{section}.{name}"
        for section, settings in after.items()
        for name in settings.__struct_fields__
        if section in before and getattr(settings, name) != getattr(before[section], name)
    ] + [section for section in before | after if (section in before) != (section in after)]


def updated(old: _S, new: _S) -> _S:
    """`new`, but as in `old` what needs a restart: so nothing is half changed."""
    settings = settings_of(type(old))
    kept = {name: getattr(old, name) for name, setting in settings.items() if not setting.live}
    return structs.replace(new, **kept)


def describe_changes(
    started: CommandSettings, before: CommandSettings, new: CommandSettings, live: Collection[str]
) -> list[str]:
    """What is logged about new settings. Values may be secret, and are not shown.

    Args:
        started: those with which this process was started.
        before: those that were read last.
        live: what has taken effect at once. What is in `live_paths` and not here could not be taken over, and no
            restart would help.
    """
    applied = [path for path in differences(before, new) if path in live]
    able = live_paths()
    pending = [path for path in differences(started, new) if path not in live and path not in able]
    texts = [f"changed, for what begins now: {', '.join(applied)}"] if applied else []
    texts += [f"changed, but a restart is needed for: {', '.join(pending)}"] if pending else []
    return texts or ["no setting has changed"]
