"""The settings that hold, and where each came from: file < environment < flag. Pure.

Each source gives a `Given` for each path that it knows (``front.max_body_bytes``); the last one wins. An error names
the place: ``ifserver.toml:12: front.max_body_bytes: must be at least 0, got -1``.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from ifserver.config.canaries import check_canaries
from ifserver.config.node_urls import ClusterSettings, parse_cluster
from ifserver.config.pools import DEFAULT as DEFAULT_POOL
from ifserver.config.pools import HTTP, POOLS, PoolSettings, pool_path, settings_of_pool
from ifserver.config.schema import Kind, Setting, Settings, section_of, settings_of
from ifserver.config.settings import (
    LOCAL_NETWORKS,
    FrontSettings,
    LayerSettings,
    ListenSettings,
    LogSettings,
    WorkerSettings,
)
from ifserver.config.values import from_text
from ifserver.errors import ConfigurationError

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT",
    "SECTIONS",
    "Configuration",
    "Given",
    "all_settings",
    "checked",
    "from_environment",
    "given_text",
    "located",
    "unknown",
    "with_port",
]

_S = TypeVar("_S", bound=Settings)

#: The sections of a file, in the order in which they are explained.
SECTIONS: Final[Mapping[str, type[Settings]]] = {
    section_of(struct): struct for struct in (ListenSettings, FrontSettings, LayerSettings, WorkerSettings, LogSettings)
}
#: Where a value came from that nobody gave.
DEFAULT: Final = "default"
#: Names the file.
CONFIG_VARIABLE: Final = "IFSERVER_CONFIG"

_PREFIX: Final = "IFSERVER_"
#: Variables that begin so are no settings, but read elsewhere: passwords (`ifserver.config.node_urls.Credentials`), and
#: what ``manage.py`` hands over (`ifserver.config.sources`, `ifserver.django.launch`).
_NO_SETTINGS: Final = ("IFSERVER_REDIS_", "IFSERVER_PROJECT", "IFSERVER_RUNSERVER")
#: What Kubernetes puts into every container where a service is called ``ifserver`` or ``ifserver-...``; and the value
#: of its ``..._PORT``, a name that could be ours.
_KUBERNETES: Final = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_KUBERNETES_PORT: Final = re.compile(r"(tcp|udp|sctp)://.*")

#: The first word of an error; it matches always.
_WORD: Final = re.compile(r"[\w.-]*")
#: Settings that errors name by their flags.
_BY_FLAG: Final = {"--endpoint": "listen.endpoints", "--fd": "listen.fd"}
_PORT: Final = "PORT"
#: Where a platform that sets PORT expects to reach us.
_PORT_HOST: Final = "0.0.0.0"


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
#: The form in which a value is kept.
_TIDIED: Final[Mapping[str, Callable[[Any], Any]]] = {
    "front.allowed_origins": lambda origins: tuple(origin.lower() for origin in origins),
    "front.root_path": lambda path: path.rstrip("/"),
}


@functools.cache
def all_settings() -> Mapping[str, Setting]:
    """Every setting by its path."""
    return {setting.path: setting for struct in SECTIONS.values() for setting in settings_of(struct).values()}


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
            tidied = _TIDIED.get(path)
            return found if tidied is None else Given(tidied(found.value), found.origin)
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
        found = [self._pool(name, given, place) for place, (name, given) in enumerate(tables)]
        http = self._given.get("worker.http")
        if http is not None and http.value is not None:
            other = self._given.get(f"{POOLS}.{HTTP}")
            if other is not None:
                raise located(http.origin, f"worker.http: there is a pool {HTTP!r} already ({other.origin})")
            found.append(self._made_pool(HTTP, application=http.value, protocols=("http",)))
        if found and self.has("worker.application"):
            application = self._given["worker.application"].value
            found.append(self._made_pool(DEFAULT_POOL, application=application))
        try:
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
        return self._made_pool(name, order=place, **values)

    def _made_pool(self, name: str, **values: Any) -> PoolSettings:
        try:
            return PoolSettings(name=name, **values)
        except ConfigurationError as error:
            said = str(error)
            # What is wrong with the applications of these two is known by the settings that they come from.
            for pool, path in ((HTTP, "worker.http"), (DEFAULT_POOL, "worker.application")):
                if name == pool and f"{POOLS}.{pool}" not in self._given:
                    said = said.replace(pool_path(pool, "application"), path, 1)
            raise self.error(said) from None

    def has(self, path: str) -> bool:
        """Whether a setting was given."""
        return path in self._given

    def error(self, said: str) -> ConfigurationError:
        """An error that begins with a setting's path or flag, with the place where its value was given in front."""
        word = _WORD.match(said)[0]  # type: ignore[index]
        path = _BY_FLAG.get(word, word)
        given = self._given.get(path)
        if given is None or (path != word and given.origin.startswith("-")):
            return ConfigurationError(said)
        return located(given.origin, f"{path}{said.removeprefix(word)}")


def _cluster(given: Given, environ: Mapping[str, str]) -> ClusterSettings:
    try:
        return parse_cluster(given.value, environ)
    except ConfigurationError as error:
        if given.origin.startswith("-"):
            raise
        said = str(error).removeprefix("--cluster").removeprefix(":").strip()
        raise located(given.origin, f"clusters: {said}") from None


def _missing(setting: Setting) -> str:
    if setting.path == "worker.application":
        return (
            "an application is missing: give APP, for example mysite.asgi:application, or set "
            f"worker.application in ifserver.toml or {setting.variable}"
        )
    if setting.kind is Kind.CLUSTERS:
        return f"a cluster is missing: give --cluster NAME=URL, or [clusters] in ifserver.toml, or {setting.variable}"
    return f"{setting.path}: must be given"


def located(origin: str, said: str) -> ConfigurationError:
    """An error in what `origin` gave."""
    return ConfigurationError(f"{origin}: {said}")


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
    """`value`, if it is within the setting's limits.

    Raises:
        ConfigurationError: it is not.
    """
    if setting.kind is Kind.CLUSTERS:
        return Given(tuple(Given(text, origin) for text in value), origin)
    try:
        setting.check(value)
    except ConfigurationError as error:
        raise located(origin, str(error)) from None
    return Given(value, origin)


# The environment.


def from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    """What the variables ``IFSERVER_...`` say. An empty one says nothing.

    Raises:
        ConfigurationError: one is no setting, or its value cannot be.
    """
    by_variable = {setting.variable: setting for setting in all_settings().values()}
    given = {}
    for name, text in sorted(environ.items()):
        setting = by_variable.get(name)
        if setting is None:
            if name.startswith(_PREFIX) and not _is_elsewhere(name, text):
                raise ConfigurationError(unknown(name, [*by_variable, CONFIG_VARIABLE]))
        elif text and not _is_kubernetes(name, text):
            given[setting.path] = given_text(setting, text, name)
    return given


def _is_elsewhere(name: str, text: str) -> bool:
    return name == CONFIG_VARIABLE or name.startswith(_NO_SETTINGS) or _is_kubernetes(name, text)


def _is_kubernetes(name: str, text: str) -> bool:
    if name.endswith("_PORT") and _KUBERNETES_PORT.fullmatch(text):
        return True
    return _KUBERNETES.fullmatch(name) is not None


def with_port(given: Mapping[str, Given], environ: Mapping[str, str]) -> dict[str, Given]:
    """`given`, and the address that platforms mean by PORT where nothing more specific was given.

    Raises:
        ConfigurationError: it is no port.
    """
    found = dict(given)
    text = environ.get(_PORT, "")
    if text and not any(f"listen.{name}" in given for name in ("port", "unix", "fd", "endpoints")):
        found["listen.port"] = given_text(all_settings()["listen.port"], text, _PORT)
        found.setdefault("listen.host", Given(_PORT_HOST, _PORT))
    return found


def unknown(name: str, known: Iterable[str]) -> str:
    """What is said of a name that is no setting's."""
    close = difflib.get_close_matches(name, list(known), 1)
    shown = name if name.isprintable() else repr(name)
    return f"{shown}: unknown{f'; did you mean {close[0]}?' if close and _alike(name, close[0]) else ''}"


def _alike(one: str, other: str) -> bool:
    """Whether names are also alike without their sections, or the ``IFSERVER_`` that all variables have in common."""
    differ = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    same = next(differ, min(len(one), len(other)))
    size = 1 + max(one.rfind(separator, 0, same) for separator in "._")
    return difflib.SequenceMatcher(None, one[size:], other[size:]).ratio() >= 0.5
