"""The settings for people: as a table, as JSON, as a file to begin with, and as the documentation. Pure.

Nothing here shows a password: clusters are shown as their nodes (`ifserver.config.node_urls.NodeSettings`), secrets as
three asterisks.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from ifserver.config import flags
from ifserver.config.configuration import DEFAULT, SECTIONS, Configuration, Given, all_settings
from ifserver.config.pools import POOLS, PoolSettings, settings_of_pool
from ifserver.config.schema import Kind, Setting, settings_of
from ifserver.config.settings import FrontSettings, ListenSettings, LogSettings
from ifserver.config.values import to_text, to_toml

__all__ = ["check", "example", "json", "rst", "table"]

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
                yield f"\n{_comment(_doc(setting))}#{setting.name} = {value}\n"
    clusters = all_settings()["layer.clusters"]
    yield f'\n\n{_comment(clusters.doc)}[clusters]\n\n#main = ["redis://127.0.0.1:6379"]\n'
    yield f"\n\n{_comment(' '.join((PoolSettings.__doc__ or '').split()))}#[{POOLS}.reports]\n"
    for setting in settings_of_pool("reports").values():
        default = '"mysite.wsgi:application"' if setting.required else to_toml(setting, setting.default)
        yield f"\n{_comment(setting.doc)}#{setting.name} = {default}\n"


def _doc(setting: Setting) -> str:
    choices = f" One of: {', '.join(map(str, setting.choices))}." if setting.choices else ""
    return f"{setting.doc}{choices if setting.kind is Kind.NUMBER else ''}"


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


# The documentation.

_RST_HEAD: Final = """\
.. Made by "ifserver settings --rst" from ifserver/config/settings.py; a test compares them.

Settings
========

Every setting can be given in a file, in the environment and as a flag, but a secret not as a flag: every user of the
machine can read command lines. A flag takes precedence over a variable, a variable over the file, and the file over
the default.

* The file is TOML: ``ifserver.toml`` in the current folder, or the one that ``--config FILE`` or the variable
  ``IFSERVER_CONFIG`` names. ``ifserver settings --example`` prints one with every default. One file can serve all
  commands: each takes what concerns it.
* A **time** is a number of seconds or a text such as ``"500ms"``, ``"90s"``, ``"2m"`` or ``"1h30m"``. A **size** is a
  number of bytes or a text such as ``"64KiB"``, ``"10MB"`` or ``"1GiB"``. ``"none"`` stands for nothing, where a
  setting may be without a value.
* In variables and flags the values of a list are separated by commas (those of ``listen.endpoints`` and
  ``layer.clusters`` by white space), and a flag may be repeated. An empty variable counts as not set.
* A key, a variable ``IFSERVER_...`` or a flag that does not exist is an error, and so is a value that cannot be.
  ``IFSERVER_REDIS_...`` hold passwords and are no settings.
* A flag that two sections share has the section in front; the plain one (``--drain-timeout``) means all of them that
  the command has.
* ``ifserver settings`` shows the settings that hold, and where each came from, without passwords.

Clusters have a table of their own, in which each has a URL or a list of URLs::

    [clusters]
    east = ["redis://10.0.0.1", "redis://10.0.0.2"]
    west = "redis://10.1.0.1"

    [layer]
    home = "east"

Pools have tables too, ``[pools.NAME]`` (see the end of this page), and neither variables nor flags, but for ``--http``.

``PORT``, which platforms such as Heroku set, is the port to listen on where neither a port nor another place to listen
is given; then the host is ``0.0.0.0`` unless one is given.
"""


def rst() -> str:
    """The page ``docs/reference/settings.rst``."""
    return "".join(_rst())


def _rst() -> Iterator[str]:
    yield _RST_HEAD
    tables = {section: (struct, settings_of(struct)) for section, struct in SECTIONS.items()}
    for section, (struct, settings) in {**tables, f"{POOLS}.NAME": (PoolSettings, settings_of_pool("NAME"))}.items():
        title = f"[{section}]"
        yield f"\n\n{title}\n{'-' * len(title)}\n\n{_filled(struct.__doc__ or '')}"
        for setting in settings.values():
            yield f"\n``{setting.name}``\n{_filled(_escaped(_doc(setting)), '    ')}"
            yield f"\n{_filled(', '.join(_facts(setting)) + '.', '    ')}"


def _facts(setting: Setting) -> Iterator[str]:
    if setting.required:
        yield "No default"
    elif setting.many or setting.default in ("", {}):
        yield f"Default: {f'``{to_text(setting, setting.default)}``' if setting.default else 'empty'}"
    else:
        yield f"Default: ``{to_text(setting, setting.default)}``"
    if setting.choices and setting.kind is Kind.CHOICE:
        yield f"one of {', '.join(f'``{choice}``' for choice in setting.choices)}"
    if setting.section.startswith(POOLS):
        return  # in a file only
    yield f"variable ``{setting.variable}``"
    names = flags.names_of(setting)
    if not names:
        yield "no flag"
        return
    if setting.kind is Kind.SWITCH and setting.default:
        names = tuple(map(flags.switched_off, names))
    yield f"flag{'s' if len(names) > 1 else ''} {', '.join(f'``{name}``' for name in names)}"


def _escaped(text: str) -> str:
    """`text` with what reStructuredText would take for its own marks."""
    return "".join(f"\\{char}" if char in "*`|\\_" else char for char in text)


def _filled(text: str, indent: str = "") -> str:
    lines = textwrap.wrap(
        text, 116, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines) + "\n"
