"""What may be given on the command line, as a parser, and its help. What a value means is `ifserver.config.arguments`'.

Each setting has a flag: its name without the unit of a time (``--keep-alive-timeout`` for
``front.keep_alive_timeout_s``). Where two sections have a setting of the same name, its section stands in front
(``--front-drain-timeout``, ``--worker-drain-timeout``), and the plain flag means each of them that the command has.
Secrets have no flags: every user of the machine can read command lines. Further names stand beside the setting
(`ifserver.config.schema.flag`); names that only other servers have are in `ifserver.config.other_servers`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

from ifserver import __version__
from ifserver.config.configuration import FILE
from ifserver.config.front_settings import LOCAL_NETWORKS
from ifserver.config.other_servers import NAMES
from ifserver.config.schema import Kind, Setting
from ifserver.config.settings import all_settings
from ifserver.config.values import NONE, to_text

_Parser: TypeAlias = argparse.ArgumentParser


class Command(NamedTuple):
    """A command that has settings."""

    #: The sections that it uses. The others in a file are read and checked, but do not concern it.
    sections: tuple[str, ...]
    #: For the list of commands, and for its own help.
    brief: str
    description: str
    #: What stands behind the settings.
    arguments: str = ""
    #: Settings of its sections that mean nothing for it, so that it has no flag for them.
    without: tuple[str, ...] = ()


COMMANDS: Final[Mapping[str, Command]] = {
    "run": Command(
        ("listen", "front", "worker", "log"),
        "server, broker and workers on this machine",
        "Run it all on this machine: no Redis.",
        " [APP]",
        # It has one server, whose admin endpoint shows the workers as well, and it has the workers of all pools.
        ("listen.processes", "worker.admin", "worker.admin_hosts", "worker.pools"),
    ),
    "serve": Command(
        ("listen", "layer", "front", "log"),
        "an interface server",
        "Run an interface server; workers are started elsewhere.",
    ),
    "worker": Command(
        ("layer", "worker", "log"),
        "worker processes",
        "Run worker processes for interface servers that run elsewhere.",
        " [APP]",
    ),
    "publish": Command(
        ("layer", "log"),
        "send something to a group",
        "Send something to every member of a group, and print to how many processes that went. It goes through the "
        "nodes of the settings, or through the admin endpoint of a server, which is the way to the members of ifserver "
        "run: --admin, or front.admin where the settings name no clusters. The endpoint's token is read from the "
        "environment, IFSERVER_FRONT_ADMIN_TOKEN, or the file.",
        " GROUP [TEXT]",
    ),
    "check": Command(
        ("layer", "log"),
        "whether the nodes are fit for use, and the applications can be loaded",
        "Ask every Redis, and every Sentinel, import the application of each pool, and show in a table what was found; "
        "exit code 1 when something would not work. Without pools, the application is imported where no cluster is "
        "configured, as for ifserver run. Passwords are best given in the environment, IFSERVER_REDIS_PASSWORD, "
        "where no list of processes shows them; none is ever printed.",
    ),
    "settings": Command(
        ("listen", "layer", "front", "worker", "log"),
        "show the settings that hold",
        "Show the settings that hold, and where each came from: the file, the environment, a flag or nowhere.",
    ),
}
#: Commands that ask what runs elsewhere; their arguments are `ifserver.observe.viewer.command`'s.
VIEWERS: Final[Mapping[str, str]] = {
    "status": "what servers, workers and nodes do at the moment",
    "top": "the same, live: sort, filter and close streams",
    "pause": "let the requests of a pool, or of all, wait in the servers",
    "resume": "let them go on",
    "pool": "the pools side by side, and how they share requests",
}
#: Shells whose users ``ifserver completion`` helps.
SHELLS: Final = ("bash", "zsh", "fish")

_METAVARS: Final = {
    Kind.NUMBER: "N",
    Kind.FRACTION: "N",
    Kind.NUMBERS: "N[,...]",
    Kind.DURATION: "TIME",
    Kind.SIZE: "SIZE",
    Kind.TEXT: "TEXT",
    Kind.TEXTS: "TEXT[,...]",
    Kind.CLUSTERS: "NAME=URL[,URL...]",
}
_TITLES: Final = {
    "listen": "where to listen (default: 127.0.0.1:8000)",
    "layer": "clusters",
    "front": "clients",
    "limits": "limits (sizes as bytes, 64KiB or 1GiB)",
    "waits": "how long to wait (in seconds, or as 500ms or 2m)",
    "worker": "workers",
    "log": "messages",
    "several": "several of these at once",
}
_EPILOG: Final = (
    f"Every setting can also be given in {FILE} and in the environment. A flag takes precedence over a "
    "variable, a variable over the file; 'ifserver settings --example' prints a file with all of them. The variable "
    "PORT is honoured where no port and no other place to listen is given; then the default host is 0.0.0.0."
)


# Flags.


class Shorthand(NamedTuple):
    """A flag without a value, which stands for a value of a setting."""

    name: str
    path: str
    text: str
    help: str
    #: Whether the setting's own flag wins against it, wherever it stands.
    weak: bool


SHORTHANDS: Final = (
    Shorthand(
        "--proxy-headers",
        "front.trusted_proxies",
        ",".join(LOCAL_NETWORKS),
        "Believe Forwarded and X-Forwarded-* of proxies on this machine, or of the --trusted-proxies",
        weak=True,
    ),
    Shorthand("--no-server-name", "front.server_header", NONE, "Send no Server header", weak=False),
)


class Flag(NamedTuple):
    """A flag of a command: its names, and the settings that it sets."""

    names: tuple[str, ...]
    settings: tuple[Setting, ...]


def flags_of(command: str) -> Iterator[Flag]:
    """The flags of a command, without `SHORTHANDS` and other servers' names."""
    settings = list(_settings_of(command))
    taken = {name for setting in settings for name in setting.flags}
    by_plain: dict[str, list[Setting]] = {}
    for setting in settings:
        by_plain.setdefault(f"--{setting.stem}", []).append(setting)
    for plain, alike in by_plain.items():
        free = plain not in taken
        for setting in alike:
            yield Flag(setting.flags + ((plain,) if free and len(alike) == 1 else ()), (setting,))
        if free and len(alike) > 1:
            yield Flag((plain,), tuple(alike))


def _settings_of(command: str) -> Iterator[Setting]:
    """The settings for which a command has flags."""
    of = COMMANDS[command]
    for path, setting in all_settings().items():
        if setting.section in of.sections and path not in of.without and not setting.secret:
            yield setting


def others_of(command: str) -> Iterator[Flag]:
    """The names that other servers have for settings of a command."""
    settings = {setting.path: setting for setting in _settings_of(command)}
    for paths, names in NAMES.items():
        if found := tuple(settings[path] for path in paths if path in settings):
            yield Flag(names, found)


def switched_off(name: str) -> str:
    """The name of the flag that turns a switch off: ``--no-reload`` for ``--reload``."""
    return f"--no-{name.removeprefix('--')}"


def names_of(command: str) -> list[str]:
    """All flags of a command."""
    return [name for flag in (*flags_of(command), *others_of(command)) for name in flag.names]


# The parser.


class _OneLine(argparse.ArgumentParser):
    """Prints what is wrong in one line, without the list of all flags, which ``--help`` has."""

    def refuse(self, message: str, command: str) -> NoReturn:
        """Exit as `error` does, where the help of `command` shows what there is."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} {command} --help)\n")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class GivenFlag(NamedTuple):
    """A flag, as it was given."""

    name: str
    settings: tuple[Setting, ...]
    text: str
    #: Whether another flag of the same setting wins against it, wherever it stands.
    weak: bool


class _NoteFlag(argparse.Action):
    """Appends a flag to ``given_flags``. `text` is the value of one that takes none."""

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        *,
        settings: tuple[Setting, ...],
        text: str | None = None,
        weak: bool = False,
        nargs: int | str | None = None,
        **rest: Any,
    ) -> None:
        nargs = nargs if text is None else 0
        super().__init__(option_strings, dest, nargs=nargs, **rest | {"default": argparse.SUPPRESS})
        self._settings = settings
        self._text = text
        self._weak = weak

    def __call__(self, parser: _Parser, namespace: argparse.Namespace, values: Any, name: str | None = None) -> None:
        text = values if self._text is None else self._text
        namespace.given_flags = [*namespace.given_flags, GivenFlag(name or "APP", self._settings, text, self._weak)]


def make_parser(whole: bool, of: str | None = None) -> _OneLine:
    """The parser of all commands; `whole`: its help shows all settings. `of`: only this one gets its settings.

    All settings of all commands are 13 ms of CPU.
    """
    parser = _OneLine(
        prog="ifserver",
        description="An interface server: it keeps the clients' connections, workers run the application.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ifserver {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, each in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=each.brief,
            description=each.description,
            epilog=_EPILOG,
            usage=f"ifserver {name} [settings]{each.arguments}",
            allow_abbrev=False,
        )
        command.set_defaults(given_flags=[])
        command.add_argument("--help-all", action="help", help="show all settings, and this")
        command.add_argument(
            "--config", metavar="FILE", help=f"file with settings (default: {FILE}, where the current folder has one)"
        )
        if name == "settings":
            _add_formats(command)
        elif name == "publish":
            _add_publication(command)
        elif name == "check":
            command.add_argument("--json", action="store_true", help="as JSON, with values in the units of their names")
        elif "worker" in each.sections:
            setting = all_settings()["worker.application"]
            command.add_argument(
                "given_flags",
                action=_NoteFlag,
                nargs="?",
                metavar="APP",
                settings=(setting,),
                help=_lower(setting.summary),
            )
        if of in (None, name):
            _add_flags(command, name, whole)
    for name, brief in VIEWERS.items():
        commands.add_parser(name, help=brief)
    _add_completion(commands)
    return parser


def _add_completion(commands: Any) -> None:
    """``completion``, which has no settings."""
    command = commands.add_parser(
        "completion",
        help="print a script that completes command lines",
        description="Print a script with which a shell completes the commands and flags of ifserver.",
        allow_abbrev=False,
    )
    command.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")


def _add_formats(parser: _Parser) -> None:
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="as JSON, with values in the units of their names")
    formats.add_argument("--example", action="store_true", help=f"print a {FILE} with every default, and comments")


def _add_publication(parser: _Parser) -> None:
    parser.add_argument("group", metavar="GROUP", help="the group's name")
    text = parser.add_argument("text", metavar="TEXT", help="what its members get; - or nothing: standard input")
    # Not with nargs="?": argparse takes that for absent when an option stands between it and the group.
    text.required = False
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--json", action="store_true", help="check that it is JSON, and send it without white space")
    kinds.add_argument("--bytes", action="store_true", help="send bytes, not a text")
    kinds.add_argument("--close", metavar="CODE[:REASON]", help="close the members' WebSockets instead")
    parser.add_argument("--exclude", metavar="STREAM", help="a member that gets nothing, by the name of its stream")
    parser.add_argument("--admin", metavar="HOST:PORT", help="publish through this admin endpoint, or its URL")


def _add_flags(parser: _Parser, command: str, whole: bool) -> None:
    groups = {key: parser.add_argument_group(title) for key, title in _TITLES.items()}
    for flag in flags_of(command):
        setting = flag.settings[0]
        shown = whole or any(each.common for each in flag.settings)
        group = groups[_group(setting) if len(flag.settings) == 1 else "several"]
        if setting.kind is Kind.SWITCH:
            _add_switch(group, flag, shown, whole)
            continue
        group.add_argument(
            *flag.names,
            dest="given_flags",
            action=_NoteFlag,
            settings=flag.settings,
            weak=len(flag.settings) > 1,
            metavar=_metavar(setting),
            help=_help(flag, whole) if shown else argparse.SUPPRESS,
        )
    for each in SHORTHANDS:
        setting = all_settings()[each.path]
        if setting.section in COMMANDS[command].sections:
            groups[_group(setting)].add_argument(
                each.name,
                dest="given_flags",
                action=_NoteFlag,
                settings=(setting,),
                text=each.text,
                weak=each.weak,
                help=_lower(each.help),
            )

    for flag in others_of(command):
        parser.add_argument(
            *flag.names,
            dest="given_flags",
            action=_NoteFlag,
            settings=flag.settings,
            weak=len(flag.settings) > 1,
            help=argparse.SUPPRESS,
        )


def _add_switch(group: Any, flag: Flag, shown: bool, whole: bool) -> None:
    """``--reload`` and ``--no-reload``. The one for the default is not shown."""
    for names, value in ((flag.names, True), (map(switched_off, flag.names), False)):
        hidden = not shown or value == flag.settings[0].default
        group.add_argument(
            *names,
            dest="given_flags",
            action=_NoteFlag,
            settings=flag.settings,
            text=str(value).lower(),
            weak=len(flag.settings) > 1,
            help=argparse.SUPPRESS if hidden else _help(flag, whole),
        )


def _group(setting: Setting) -> str:
    if setting.section != "front":
        return setting.section
    if setting.kind is Kind.DURATION:
        return "waits"
    return "limits" if setting.kind in (Kind.NUMBER, Kind.SIZE) else "front"


def _metavar(setting: Setting) -> str:
    if setting.choices:
        return f"{{{','.join(map(str, setting.choices))}}}"
    return setting.value or _METAVARS[setting.kind]


def _help(flag: Flag, whole: bool) -> str:
    first = flag.settings[0]
    if len(flag.settings) > 1:
        names = " and ".join(f"--{setting.section}-{setting.stem}" for setting in flag.settings)
        return f"{names}, where those are not given"
    default = _default(first)
    suffix = f" (default: {default})" if default else ""
    return f"{_lower(first.doc if whole else first.summary)}{suffix}".replace("%", "%%")


def _default(setting: Setting) -> str:
    """The default as text; empty where there is nothing to show. Its description has what ``none`` means."""
    if setting.default is None:
        meant = re.search(r"none: ([^.;]*(?:\.\w[^.;]*)*)", setting.doc)
        return meant[1] if meant is not None else ""
    return "" if setting.required or setting.default in ("", ()) else to_text(setting, setting.default)


def _lower(text: str) -> str:
    """`text` as it stands in a list of options, which begin with small letters."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
