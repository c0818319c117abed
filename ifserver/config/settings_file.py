"""Settings from a file: TOML, one table for each section, one for the clusters and one for each pool. Pure.

It is handed the text.

::

    [front]
    max_body_bytes = "1GiB"

    [clusters]
    east = ["redis://10.0.0.1", "redis://10.0.0.2"]

"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, Final

from ifserver import channels
from ifserver.config.configuration import SECTIONS, Given, all_settings, checked, located, unknown
from ifserver.config.pools import DEFAULT, POOLS, settings_of_pool
from ifserver.config.schema import Setting
from ifserver.config.values import from_toml
from ifserver.errors import ChannelNameError, ConfigurationError

__all__ = ["CLUSTERS", "from_file", "from_tables"]

#: The table of the clusters.
CLUSTERS: Final = "clusters"
_PLACE: Final = re.compile(r"(.*) \((?:at line (\d+), column \d+|at end of document)\)")

_Lines = dict[tuple[str, ...], int]
#: Where a section, or a key of one, was given.
_Origin = Callable[..., str]


def from_file(text: str, file: str) -> dict[str, Given]:
    """What a file says. `file` is its name for errors.

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
    """What tables say, in the types of TOML.

    Args:
        origin: says where a section, or a key of one, was given.
        form: what a section must be, with ``{}`` for its name.

    Raises:
        ConfigurationError: a key is no setting, or a value cannot be.
    """
    given: dict[str, Given] = {}
    for section, table in tables.items():
        if section not in SECTIONS and section not in (CLUSTERS, POOLS):
            raise located(origin(section), _unknown(section))
        if not isinstance(table, Mapping):
            raise located(origin(section), f"{section}: expected {form.format(section)}")
        if section == CLUSTERS:
            clusters = [_cluster(name, urls, origin(section, name)) for name, urls in table.items()]
            # An empty table is one of the example's, to be filled.
            given |= {"layer.clusters": Given(tuple(clusters), origin(section))} if clusters else {}
        elif section == POOLS:
            for name, settings in table.items():
                given |= _pool(name, settings, origin, form)
        else:
            given |= _section(section, table, origin)
    return given


def _no_toml(said: str, text: str, file: str) -> ConfigurationError:
    """What tomllib says, with the place in front."""
    place = _PLACE.fullmatch(said)
    if place is None:
        return ConfigurationError(f"{file}: {said}")
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
    """What is said of a pool; and that there is one, where nothing is."""
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
        said = f"expected {setting.kind.value}" if setting.secret else str(error)
        raise located(origin, f"{setting.path}: {said}") from None
    return {setting.path: checked(setting, read, origin)}


def _unknown(name: str) -> str:
    """What is said of a key or a table that does not exist. Somebody may have left out the section."""
    paths = [path for path in all_settings() if path != "layer.clusters"]
    whole = next((path for path in paths if path.split(".")[1] == name), None)
    if whole is not None:
        return f"{name}: unknown; did you mean {whole}?"
    return unknown(name, [*paths, *SECTIONS, CLUSTERS, POOLS])


def _cluster(name: str, urls: object, origin: str) -> Given:
    """A cluster as ``NAME=URL[,URL...]``. Errors never show the URLs, in which passwords may be."""
    try:
        channels.check_node_name(name)
    except ChannelNameError as error:
        raise located(origin, f"{CLUSTERS}: {error}") from None
    texts: list[Any] = urls if isinstance(urls, list) else [urls]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise located(origin, f"{CLUSTERS}.{name}: expected a URL or a list of URLs")
    return Given(f"{name}={','.join(texts)}", origin)


def _lines(text: str) -> _Lines:
    """The line on which each table and each key of a table begins, and each key of a pool's table.

    tomllib does not tell. So statement after statement is handed to it: a line alone, or, while that is no TOML, with
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
