"""Where settings come from, but for the command line: a Django project, the file and the environment.

The file wins against the project, and the environment against both. The file is TOML: one table for each section, one
for the clusters and one for each pool::

    [front]
    max_body_bytes = "1GiB"

    [clusters]
    east = ["redis://10.0.0.1", "redis://10.0.0.2"]

"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from ifserver import channels
from ifserver.config.configuration import (
    CONFIG_VARIABLE,
    FILE,
    Configuration,
    Given,
    checked,
    given_text,
    located,
    unknown,
)
from ifserver.config.pools import DEFAULT, POOLS, settings_of_pool
from ifserver.config.schema import Setting
from ifserver.config.settings import SECTIONS, all_settings
from ifserver.config.values import NONE, from_toml
from ifserver.errors import ChannelNameError, ConfigurationError

#: Sections of settings, as a file has them.
Tables: TypeAlias = Mapping[str, Any]
_Lines: TypeAlias = dict[tuple[str, ...], int]
#: Where a section, or a key of one, was given.
_Origin: TypeAlias = Callable[..., str]

#: The table of the clusters.
_CLUSTERS: Final = "clusters"
#: The end of an error of tomllib's.
_PLACE: Final = re.compile(r"(.*) \((?:at line (\d+), column \d+|at end of document)\)")

_PREFIX: Final = "IFSERVER_"
#: Hands the settings of a Django project to the command that ``manage.py`` becomes (`encode_project`).
PROJECT_VARIABLE: Final = "IFSERVER_PROJECT"
#: Variables that begin so are no settings, but read elsewhere: passwords (`ifserver.config.node_urls.Credentials`), and
#: what ``manage.py`` hands over (`PROJECT_VARIABLE`, `ifserver.django.launch`).
_NO_SETTINGS: Final = ("IFSERVER_REDIS_", PROJECT_VARIABLE, "IFSERVER_RUNSERVER")
#: What Kubernetes puts into every container where a service is called ``ifserver`` or ``ifserver-...``; and the value
#: of its ``..._PORT``, a name that could be ours.
_KUBERNETES: Final = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_KUBERNETES_PORT: Final = re.compile(r"(tcp|udp|sctp)://.*")
_PORT: Final = "PORT"
#: Where a platform that sets PORT expects to reach us.
_PORT_HOST: Final = "0.0.0.0"

#: The settings of Django, in a process in which Django is set up.
_project: Mapping[str, Given] = {}


def configuration(environ: Mapping[str, str]) -> Configuration:
    """All settings, for programs that are not started by the command ``ifserver``.

    Raises:
        ConfigurationError: the file cannot be read, or a value in it or in the environment cannot be.
    """
    file, in_file = from_settings_file(None, environ)
    return Configuration(from_project(environ) | in_file | from_environment(environ), file)


# The file.


def from_settings_file(path: str | None, environ: Mapping[str, str]) -> tuple[str | None, dict[str, Given]]:
    """The file that is named or found, None if there is none, and its settings.

    Raises:
        ConfigurationError: it cannot be read, or a value in it cannot be.
    """
    named, by = (path, "--config") if path is not None else (environ.get(CONFIG_VARIABLE) or None, CONFIG_VARIABLE)
    file = FILE if named is None else named
    try:
        text = Path(file).read_text("utf-8-sig")
    except FileNotFoundError as error:
        if named is None:
            return None, {}
        raise ConfigurationError(f"{by} {file!r}: {error.strerror}") from error
    except OSError as error:
        raise ConfigurationError(f"{file if named is None else f'{by} {file!r}'}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file}: not UTF-8 at byte {error.start}") from error
    return file, from_file(text, file)


def from_file(text: str, file: str) -> dict[str, Given]:
    """The settings in a file. `file` is its name for errors.

    Raises:
        ConfigurationError: it is no TOML, a key is no setting, or a value cannot be.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _no_toml(str(error), text, file) from None
    lines = _lines(text)
    return from_tables(tables, lambda *names: f"{file}:{lines[names]}", "a table, [{}]")


def from_tables(tables: Mapping[str, Any], origin: _Origin, form: str) -> dict[str, Given]:
    """The settings in tables, in the types of TOML.

    Args:
        origin: returns where a section, or a key of one, was given.
        form: what a section must be, with ``{}`` for its name.

    Raises:
        ConfigurationError: a key is no setting, or a value cannot be.
    """
    given: dict[str, Given] = {}
    for section, table in tables.items():
        if section not in SECTIONS and section not in (_CLUSTERS, POOLS):
            raise located(origin(section), _unknown(section))
        if not isinstance(table, Mapping):
            raise located(origin(section), f"{section}: expected {form.format(section)}")
        if section == _CLUSTERS:
            clusters = [_cluster(name, urls, origin(section, name)) for name, urls in table.items()]
            # An empty table is one of the example's, to be filled.
            given |= {"layer.clusters": Given(tuple(clusters), origin(section))} if clusters else {}
        elif section == POOLS:
            for name, settings in table.items():
                given |= _pool(name, settings, origin, form)
        else:
            given |= _section(section, table, origin)
    return given


def _no_toml(problem: str, text: str, file: str) -> ConfigurationError:
    """tomllib's error, with the place in front."""
    place = _PLACE.fullmatch(problem)
    if place is None:
        return ConfigurationError(f"{file}: {problem}")
    return located(f"{file}:{place[2] or len(text.splitlines())}", place[1])


def _section(section: str, table: Mapping[str, Any], origin: _Origin) -> dict[str, Given]:
    given: dict[str, Given] = {}
    for name, value in table.items():
        path, where = f"{section}.{name}", origin(section, name)
        setting = all_settings().get(path)
        if setting is None or path == "layer.clusters":
            raise located(where, _unknown(path))
        given |= _read(setting, value, where)
    return given


def _pool(pool: str, table: object, origin: _Origin, form: str) -> dict[str, Given]:
    """The settings of a pool; and that there is one, where it has none."""
    where = origin(POOLS, pool)
    try:
        channels.check_node_name(pool)
    except ChannelNameError:
        raise located(where, f"{POOLS}: not a pool's name: {pool!r} (1 to 64 letters, digits, '-' and '_')") from None
    if pool == DEFAULT:
        raise located(where, f"{POOLS}.{pool}: [worker] describes the default pool")
    if not isinstance(table, Mapping):
        raise located(where, f"{POOLS}.{pool}: expected {form.format(f'{POOLS}.{pool}')}")
    given: dict[str, Given] = {f"{POOLS}.{pool}": Given(None, where)}
    settings = settings_of_pool(pool)
    for name, value in table.items():
        where = origin(POOLS, pool, name)
        if name not in settings:
            raise located(where, unknown(f"{POOLS}.{pool}.{name}", [each.path for each in settings.values()]))
        given |= _read(settings[name], value, where)
    return given


def _read(setting: Setting, value: object, origin: str) -> dict[str, Given]:
    """The value of a setting that stands at `origin`, by its path."""
    try:
        read = from_toml(setting, value)
    except ConfigurationError as error:
        problem = f"expected {setting.kind.value}" if setting.secret else str(error)
        raise located(origin, f"{setting.path}: {problem}") from None
    return {setting.path: checked(setting, read, origin)}


def _unknown(name: str) -> str:
    """The error's text for a key or a table that does not exist. Somebody may have left out the section."""
    paths = [path for path in all_settings() if path != "layer.clusters"]
    whole = next((path for path in paths if path.split(".")[1] == name), None)
    if whole is not None:
        return f"{name}: unknown; did you mean {whole}?"
    return unknown(name, [*paths, *SECTIONS, _CLUSTERS, POOLS])


def _cluster(name: str, urls: object, origin: str) -> Given:
    """A cluster as ``NAME=URL[,URL...]``. Errors never show the URLs, in which passwords may be."""
    try:
        channels.check_node_name(name)
    except ChannelNameError as error:
        raise located(origin, f"{_CLUSTERS}: {error}") from None
    texts: list[Any] = urls if isinstance(urls, list) else [urls]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise located(origin, f"{_CLUSTERS}.{name}: expected a URL or a list of URLs")
    return Given(f"{name}={','.join(texts)}", origin)


def _lines(text: str) -> _Lines:
    """The line on which each table and each key of a table begins, and each key of a pool's table.

    tomllib does not report them. So it gets statement after statement: a line alone, or, while that is no TOML, with
    those that follow. What cannot end with a line goes on in the next: lists, and texts in three quotes. So a part of a
    statement is never taken for a whole one, and nothing but tomllib judges what is TOML.
    """
    lines: _Lines = {}
    table: tuple[str, ...] = ()
    statement, begin = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement += f"{line}\n"
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        names = _names(parsed)
        if statement.lstrip().startswith("["):
            table = max(names, key=len)
            names = {table[:depth] for depth in range(1, len(table) + 1)}
        else:
            names = {(*table, *name) for name in names} | {table[:1]} - {()}
        for name in names:
            lines.setdefault(name[: 3 if name[0] == POOLS else 2], begin)
        statement, begin = "", number + 1
    return lines


def _names(parsed: object, above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """The tables and keys in `parsed`, each with the tables that it is in."""
    if not isinstance(parsed, dict):
        return set()
    found = set()
    for name, value in parsed.items():
        found |= {(*above, name)} | _names(value, (*above, name))
    return found


# The environment.


def from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    """What the variables ``IFSERVER_...`` hold. An empty one counts as not set.

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


# A Django project.


def from_django(tables: object) -> dict[str, Given]:
    """The settings in ``IFSERVER = {...}`` of Django's settings: sections and keys as in a file.

    Raises:
        ConfigurationError: it is no dict, a key is no setting, or a value cannot be; it begins with
            ``IFSERVER["front"]["max_headers"]``.
    """
    if not isinstance(tables, Mapping):
        raise ConfigurationError(f"IFSERVER: expected a dict of sections, got {type(tables).__name__}")
    return from_tables(_plain(tables), lambda *names: "IFSERVER" + "".join(f'["{name}"]' for name in names), "a dict")


def _plain(value: Any) -> Any:
    """A Python value in the types of TOML, which has no None and no tuples."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None:
        return NONE
    if isinstance(value, timedelta):
        return value.total_seconds()
    # A path, or a text of Django's that is translated later; of anything else the error shows what it is.
    return value if isinstance(value, str | int | float) else str(value)


def set_project(tables: Tables) -> None:
    """From now on, these of Django's settings hold in this process.

    Raises:
        ConfigurationError: as `from_django`.
    """
    global _project
    _project = from_django(tables)


def encode_project(tables: Tables, defaults: Tables) -> str:
    """The value of `PROJECT_VARIABLE`: ``IFSERVER`` of Django's settings, and what follows from others of them."""
    return msgspec.json.encode([_plain(tables), _plain(defaults)]).decode()


def from_project(environ: Mapping[str, str]) -> dict[str, Given]:
    """The settings of the Django project from which this process was started, or which is set up in it.

    Raises:
        ConfigurationError: as `from_django`.
    """
    text = environ.get(PROJECT_VARIABLE)
    if text is None:
        return dict(_project)
    tables, defaults = msgspec.json.decode(text)
    return from_tables(defaults, lambda *names: "manage.py", "a dict") | from_django(tables)
