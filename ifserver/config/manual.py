"""The settings for people: as a table, as JSON, and as a file to begin with. Pure.

Nothing here shows a password: clusters are shown as their nodes (`ifserver.config.node_urls.NodeSettings`), secrets as
three asterisks.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from ifserver.config.configuration import DEFAULT, Configuration, Given
from ifserver.config.pools import POOLS, PoolSettings, settings_of_pool
from ifserver.config.schema import Kind, Setting, settings_of
from ifserver.config.settings import SECTIONS, FrontSettings, ListenSettings, LogSettings, all_settings
from ifserver.config.values import to_toml

#: What is shown of a secret.
_HIDDEN: Final = "***"
_WIDTH: Final = 100
_HEAD: Final = """\
# Settings of ifserver. Every line that begins with "#" and a name holds a default: take the "#" away to change it.
#
# ifserver.toml is read from the current folder, any other file with --config FILE or IFSERVER_CONFIG. A variable
# takes precedence over the file, a flag over both. A time is a number of seconds or a text such as "500ms", "90s" or
# "2m"; a size is a number of bytes or a text such as "64KiB" or "1GiB". "none" stands for nothing, where a setting may
# be without a value.
"""


def check(configuration: Configuration, environ: Mapping[str, str]) -> None:
    """Raise `ConfigurationError` when one of the settings cannot be. What is missing is not missed here."""
    configuration.make(ListenSettings)
    configuration.make(FrontSettings)
    configuration.make(LogSettings)
    if configuration.has("layer.clusters"):
        configuration.layer(environ)
    configuration.pools()
    if configuration.has("worker.application"):
        configuration.make(SECTIONS["worker"])


def table(configuration: Configuration, environ: Mapping[str, str]) -> str:
    """Setting, value and origin, one line each, below the file's name."""
    rows = [("setting", "value", "from")]
    for setting, given in _settings(configuration):
        rows.append((setting.path, _value(configuration, setting, given, environ), given.origin))
    for setting, given in _pools(configuration):
        rows.append((setting.path, to_toml(setting, given.value), given.origin))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{path:{widths[0]}}  {value:{widths[1]}}  {origin}" for path, value, origin in rows]
    return "\n".join([f"file: {configuration.file or 'none'}", "", *lines]) + "\n"


def _value(configuration: Configuration, setting: Setting, given: Given, environ: Mapping[str, str]) -> str:
    if setting.kind is Kind.CLUSTERS:
        clusters = _clusters(configuration, environ)
        return "; ".join(f"{name}: {', '.join(nodes)}" for name, nodes in clusters.items()) or "-"
    if setting.secret and given.value is not None:
        return _HIDDEN
    return "-" if given.value is msgspec.NODEFAULT else to_toml(setting, given.value)


def json(configuration: Configuration, environ: Mapping[str, str]) -> str:
    """The same for programs. Values are in the units of their names; what is missing and what is off is null."""
    found: dict[str, dict[str, Any]] = {}
    for setting, (value, origin) in _settings(configuration):
        if setting.kind is Kind.CLUSTERS:
            value = _clusters(configuration, environ)
        elif setting.secret and value is not None:
            value = _HIDDEN
        found[setting.path] = {"value": None if value is msgspec.NODEFAULT else value, "from": origin}
    for setting, (value, origin) in _pools(configuration):
        found[setting.path] = {"value": value, "from": origin}
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"


def _settings(configuration: Configuration) -> Iterator[tuple[Setting, Given]]:
    """All settings, with the address that is listened on where none was given."""
    tcp = configuration.make(ListenSettings).tcp
    address = {} if tcp is None else dict(zip(("listen.host", "listen.port"), tcp, strict=True))
    for path, setting in all_settings().items():
        given = configuration.of(path)
        yield setting, given if given.value is not None else given._replace(value=address.get(path))


def _clusters(configuration: Configuration, environ: Mapping[str, str]) -> dict[str, list[str]]:
    return {cluster.name: list(map(str, cluster.nodes)) for cluster in configuration.clusters(environ)}


def _pools(configuration: Configuration) -> Iterator[tuple[Setting, Given]]:
    """The settings of all pools that the file has, with what of them may be shown."""
    for name, origins in configuration.pools_given().items():
        for setting in settings_of_pool(name).values():
            given = origins.get(setting.path, Given(setting.default, DEFAULT))
            if setting.kind is Kind.VARIABLES:
                # Passwords may be among them.
                given = Given(dict.fromkeys(given.value, _HIDDEN), given.origin)
            yield setting, given


# The file to begin with.


def example() -> str:
    """A file with every default, each behind a ``#``."""
    return "".join(_example())


def _example() -> Iterator[str]:
    yield _HEAD
    for section, struct in SECTIONS.items():
        yield f"\n\n{_comment(struct.__doc__ or '')}[{section}]\n"
        for setting in settings_of(struct).values():
            if setting.kind is not Kind.CLUSTERS:
                value = '"mysite.asgi:application"' if setting.required else to_toml(setting, setting.default)
                yield f"\n{_comment(description(setting))}#{setting.name} = {value}\n"
    clusters = all_settings()["layer.clusters"]
    yield f'\n\n{_comment(clusters.doc)}[clusters]\n\n#main = ["redis://127.0.0.1:6379"]\n'
    yield f"\n\n{_comment(' '.join((PoolSettings.__doc__ or '').split()))}#[{POOLS}.reports]\n"
    for setting in settings_of_pool("reports").values():
        default = '"mysite.wsgi:application"' if setting.required else to_toml(setting, setting.default)
        yield f"\n{_comment(setting.doc)}#{setting.name} = {default}\n"


def description(setting: Setting) -> str:
    """The whole text about a setting."""
    choices = f" One of: {', '.join(map(str, setting.choices))}." if setting.choices else ""
    return f"{setting.doc}{choices if setting.kind is Kind.NUMBER else ''}"


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)
