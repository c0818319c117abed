"""What may be given on the command line, as a parser, and its help. What a value means is `ifserver.config.arguments`'.

Each setting has a flag (`ifserver.config.flags`). Names are Daphne's where Daphne has them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

from ifserver import __version__
from ifserver.config import flags
from ifserver.config.configuration import all_settings
from ifserver.config.schema import Kind, Setting
from ifserver.config.values import to_text

__all__ = ["FILE", "SHELLS", "VIEWERS", "GivenFlag", "make_parser", "names_of"]

_Parser: TypeAlias = argparse.ArgumentParser
#: The file that is read where it is found in the current folder.
FILE: Final = "ifserver.toml"

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
#: Where the kind says too little.
_METAVARS_BY_NAME: Final = {
    "host": "HOST",
    "port": "PORT",
    "unix": "PATH",
    "unix_mode": "MODE",
    "env_file": "FILE",
    "certfile": "FILE",
    "keyfile": "FILE",
    "resumable_paths": "PATTERN[,...]",
    "fd": "N",
    "endpoints": "ENDPOINT",
    "access_log": "PATH",
    "admin": "HOST:PORT",
    "admin_hosts": "NAME[,...]",
    "root_path": "PATH",
    "home": "NAME",
    "app_dir": "DIR",
    "application": "APP",
    "http": "APP",
    "pools": "NAME[,...]",
    "reload_dirs": "DIR[,...]",
    "reload_include": "GLOB[,...]",
    "reload_exclude": "GLOB[,...]",
    "trusted_proxies": "NETWORK[,...]",
    "uncounted_networks": "NETWORK[,...]",
    "proxy_protocol_networks": "NETWORK[,...]",
    "allowed_origins": "ORIGIN[,...]",
    "canary_by": "cookie|address|cookie:NAME|header:NAME",
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
_HELP: Final = {
    "run": ("server, broker and workers on this machine", "Run it all on this machine: no Redis."),
    "serve": ("an interface server", "Run an interface server; workers are started elsewhere."),
    "worker": ("worker processes", "Run worker processes for interface servers that run elsewhere."),
    "publish": (
        "send something to a group",
        "Send something to every member of a group, and say to how many processes that went. It goes through the nodes "
        "of the settings, or through the admin endpoint of a server, which is the way to the members of ifserver run: "
        "--admin, or front.admin where the settings name no clusters. The endpoint's token is read from the "
        "environment, IFSERVER_FRONT_ADMIN_TOKEN, or the file.",
    ),
    "check": (
        "whether the nodes are fit for use, and the applications can be loaded",
        "Ask every Redis, and every Sentinel, import the application of each pool, and say in a table what was found; "
        "exit code 1 when something would not work. Without pools, the application is imported where no cluster is "
        "configured, as for ifserver run. Passwords are best given in the environment, IFSERVER_REDIS_PASSWORD, "
        "where no list of processes shows them; none is ever printed.",
    ),
    "settings": (
        "show the settings that hold",
        "Show the settings that hold, and where each came from: the file, the environment, a flag or nowhere.",
    ),
}
#: What stands behind the settings.
_ARGUMENTS: Final[Mapping[str, str]] = {"run": " [APP]", "worker": " [APP]", "publish": " GROUP [TEXT]"}
_EPILOG: Final = (
    f"Every setting can also be given in {FILE} and in the environment. A flag takes precedence over a "
    "variable, a variable over the file; 'ifserver settings --example' prints a file with all of them. The variable "
    "PORT is honoured where no port and no other place to listen is given; then the default host is 0.0.0.0."
)


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


class _OneLine(argparse.ArgumentParser):
    """Says what is wrong in one line; who wants to know what there is asks with ``--help``."""

    def refuse(self, message: str, command: str) -> NoReturn:
        """Exit as `error` does, for what the help of `command` would have told."""
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


def names_of(command: str) -> list[str]:
    """All flags of a command."""
    return [name for flag in (*flags.flags_of(command), *flags.others_of(command)) for name in flag.names]


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
    for name, sections in flags.COMMANDS.items():
        brief, description = _HELP[name]
        command = commands.add_parser(
            name,
            help=brief,
            description=description,
            epilog=_EPILOG,
            usage=f"ifserver {name} [settings]{_ARGUMENTS.get(name, '')}",
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
        elif "worker" in sections:
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
    formats.add_argument("--rst", action="store_true", help=argparse.SUPPRESS)  # docs/reference/settings.rst


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
    for flag in flags.flags_of(command):
        setting = flag.settings[0]
        shown = whole or any(each.path in flags.COMMON for each in flag.settings)
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
    for each in flags.SHORTHANDS:
        setting = all_settings()[each.path]
        if setting.section in flags.COMMANDS[command]:
            groups[_group(setting)].add_argument(
                each.name,
                dest="given_flags",
                action=_NoteFlag,
                settings=(setting,),
                text=each.text,
                weak=each.weak,
                help=_lower(each.help),
            )

    for flag in flags.others_of(command):
        parser.add_argument(
            *flag.names,
            dest="given_flags",
            action=_NoteFlag,
            settings=flag.settings,
            weak=len(flag.settings) > 1,
            help=argparse.SUPPRESS,
        )


def _add_switch(group: Any, flag: flags.Flag, shown: bool, whole: bool) -> None:
    """``--reload`` and ``--no-reload``. The one that says the default is not shown."""
    for names, value in ((flag.names, True), (map(flags.switched_off, flag.names), False)):
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
    return _METAVARS_BY_NAME.get(setting.name) or _METAVARS[setting.kind]


def _help(flag: flags.Flag, whole: bool) -> str:
    first = flag.settings[0]
    if len(flag.settings) > 1:
        paths = " and ".join(f"--{setting.section}-{setting.stem}" for setting in flag.settings)
        return f"{paths}, where those are not given"
    default = _default(first)
    suffix = f" (default: {default})" if default else ""
    return f"{_lower(first.doc if whole else first.summary)}{suffix}".replace("%", "%%")


def _default(setting: Setting) -> str:
    """The default as text; empty where there is nothing to tell. Its description says what ``none`` means."""
    if setting.default is None:
        meant = re.search(r"none: ([^.;]*(?:\.\w[^.;]*)*)", setting.doc)
        return meant[1] if meant is not None else ""
    return "" if setting.required or setting.default in ("", ()) else to_text(setting, setting.default)


def _lower(text: str) -> str:
    """`text` as it stands in a list of options, which begin with small letters."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
