"""The command line, and the settings that hold once the file and the environment have been read as well.

Each setting has a flag (`ifserver.config.flags`). Names are Daphne's where Daphne has them.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

from ifserver import __version__
from ifserver.config import flags, other_servers
from ifserver.config.configuration import (
    CONFIG_VARIABLE,
    Configuration,
    Given,
    all_settings,
    from_environment,
    given_text,
    with_port,
)
from ifserver.config.schema import Kind, Setting
from ifserver.config.settings import FrontSettings, LayerSettings, ListenSettings, WorkerSettings
from ifserver.config.settings_file import from_file
from ifserver.config.values import NONE, to_text
from ifserver.errors import ConfigurationError

__all__ = ["VIEWERS", "bind_of", "front_settings", "layer_settings", "parse", "worker_settings"]

_Parser: TypeAlias = argparse.ArgumentParser
#: The file that is read where it is found in the current folder.
_FILE: Final = "ifserver.toml"

_METAVARS: Final = {
    Kind.NUMBER: "N",
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
    "reload_dirs": "DIR[,...]",
    "reload_include": "GLOB[,...]",
    "reload_exclude": "GLOB[,...]",
    "trusted_proxies": "NETWORK[,...]",
    "uncounted_networks": "NETWORK[,...]",
    "proxy_protocol_networks": "NETWORK[,...]",
    "allowed_origins": "ORIGIN[,...]",
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
    "check": (
        "whether the nodes are fit for use",
        "Ask every Redis, and every Sentinel, and say in a table what was found; exit code 1 when something would not "
        "work. Passwords are best given in the environment, IFSERVER_REDIS_PASSWORD, where no list of processes shows "
        "them; none is ever printed.",
    ),
    "settings": (
        "show the settings that hold",
        "Show the settings that hold, and where each came from: the file, the environment, a flag or nowhere.",
    ),
}
_EPILOG: Final = (
    f"Every setting can also be given in {_FILE} and in the environment. A flag goes before a variable, a variable "
    "before the file; 'ifserver settings --example' prints a file with all of them. The variable PORT is honoured "
    "where no port and no other place to listen is given; then the default host is 0.0.0.0."
)


#: Commands that ask what runs elsewhere; their arguments are `ifserver.observe.viewer.command`'s.
VIEWERS: Final[Mapping[str, str]] = {
    "status": "what servers, workers and nodes do at the moment",
    "top": "the same, live: sort, filter and close streams",
}


class _OneLine(argparse.ArgumentParser):
    """Says what is wrong in one line; who wants to know what there is asks with ``--help``."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class _Said(NamedTuple):
    """A flag, as it was given."""

    name: str
    settings: tuple[Setting, ...]
    text: str
    #: Whether another flag of the same setting wins against it, wherever it stands.
    weak: bool


class _Say(argparse.Action):
    """Notes a flag in ``said``. `text` is the value of one that takes none."""

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
        namespace.said = [*namespace.said, _Said(name or "APP", self._settings, text, self._weak)]


# What may be said.


def parse(words: Sequence[str], environ: Mapping[str, str] = os.environ) -> argparse.Namespace:
    """The arguments, and as ``configuration`` all settings.

    Exits with status 2 and one line when the arguments are wrong, and with 0 for ``--help``.

    Raises:
        ConfigurationError: a file cannot be read, or what it, the environment or a flag says cannot be.
    """
    parser = _parser(whole="--help-all" in words)
    given, surplus = parser.parse_known_args(words)
    sections = flags.COMMANDS[given.command]
    if surplus:
        # One may be the URL of a node, with a password.
        shown = " ".join(re.sub("//.*@", "//***@", word) for word in surplus)
        for name in (word.partition("=")[0] for word in surplus):
            if name in other_servers.ADVICE:
                parser.error(f"{name}: {other_servers.ADVICE[name]}")
        parser.error(f"unrecognized arguments: {shown}{_meant(surplus[0], given.command)}")
    file, in_file = _from_file(given.config, environ)
    settings = in_file | from_environment(environ) | _from_flags(given.said)
    if "listen" in sections:
        settings = with_port(settings, environ)
    given.configuration = Configuration(settings, file)
    given.verbosity = given.configuration.of("log.verbosity").value
    return given


def _meant(word: str, command: str) -> str:
    name = word.partition("=")[0]
    elsewhere = [other for other in flags.COMMANDS if name in _names_of(other) and other != "settings"]
    if elsewhere:
        return f"; {name} is a flag of {' and '.join(elsewhere)}"
    names = _names_of(command)
    close = difflib.get_close_matches(name, names, 1) if name.startswith("--") else ()
    return f"; did you mean {close[0]}?" if close else ""


def _names_of(command: str) -> list[str]:
    return [name for flag in (*flags.flags_of(command), *flags.others_of(command)) for name in flag.names]


def _parser(whole: bool) -> _Parser:
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
            usage=f"ifserver {name} [settings]{' [APP]' if name in ('run', 'worker') else ''}",
            allow_abbrev=False,
        )
        command.set_defaults(said=[])
        command.add_argument("--help-all", action="help", help="show all settings, and this")
        command.add_argument(
            "--config", metavar="FILE", help=f"file with settings (default: {_FILE}, where the current folder has one)"
        )
        if name == "settings":
            _add_formats(command)
        elif name == "check":
            command.add_argument("--json", action="store_true", help="as JSON, with values in the units of their names")
        elif "worker" in sections:
            setting = all_settings()["worker.application"]
            command.add_argument(
                "said", action=_Say, nargs="?", metavar="APP", settings=(setting,), help=_lower(setting.summary)
            )
        _add_flags(command, name, whole)
    for name, brief in VIEWERS.items():
        commands.add_parser(name, help=brief)
    return parser


def _add_formats(parser: _Parser) -> None:
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="as JSON, with values in the units of their names")
    formats.add_argument("--example", action="store_true", help=f"print a {_FILE} with every default, and comments")
    formats.add_argument("--rst", action="store_true", help=argparse.SUPPRESS)  # docs/settings.rst


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
            dest="said",
            action=_Say,
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
                dest="said",
                action=_Say,
                settings=(setting,),
                text=each.text,
                weak=each.weak,
                help=_lower(each.help),
            )

    for flag in flags.others_of(command):
        parser.add_argument(
            *flag.names,
            dest="said",
            action=_Say,
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
            dest="said",
            action=_Say,
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
    told = f" (default: {default})" if default else ""
    return f"{_lower(first.doc if whole else first.summary)}{told}".replace("%", "%%")


def _default(setting: Setting) -> str:
    """The default as text; empty where there is nothing to tell. Its description says what ``none`` means."""
    if setting.default is None:
        meant = re.search(r"none: ([^.;]*(?:\.\w[^.;]*)*)", setting.doc)
        return meant[1] if meant is not None else ""
    return "" if setting.required or setting.default in ("", ()) else to_text(setting, setting.default)


def _lower(text: str) -> str:
    """`text` as it stands in a list of options, which begin with small letters."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


# What was said.


def _from_flags(said: Sequence[_Said]) -> dict[str, Given]:
    by_path: dict[str, list[_Said]] = {}
    for each in _with_places(said):
        for setting in each.settings:
            by_path.setdefault(setting.path, []).append(each)
    return {
        path: _given(all_settings()[path], [each for each in all_said if not each.weak] or all_said)
        for path, all_said in by_path.items()
    }


def _with_places(said: Sequence[_Said]) -> Iterator[_Said]:
    """`said`, with the other settings that ``--bind HOST:PORT`` and ``--bind unix:PATH`` mean."""
    bound = set()
    for each in said:
        if each.settings[0].path != "listen.host":
            yield each
            continue
        try:
            places = other_servers.bind_to(each.text)
        except ConfigurationError as error:
            raise ConfigurationError(f"{each.name}: listen.host: {error}") from None
        bound |= {each.text} if "listen.port" in places else set()
        if len(bound) > 1:
            raise ConfigurationError(f"{each.name}: {each.text!r}: there is one --bind; -e adds other addresses")
        for path, text in places.items():
            yield each._replace(settings=(all_settings()[path],), text=text)


def _in_our_words(setting: Setting, said: _Said) -> str:
    try:
        return other_servers.meant(setting.path, said.name, said.text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{said.name}: {setting.path}: {error}") from None


def _given(setting: Setting, said: Sequence[_Said]) -> Given:
    """What the flags of one setting say: the last one, or of a list all of them."""
    if not setting.many:
        name, text = said[-1].name, _in_our_words(setting, said[-1])
        return given_text(setting, NONE if text == "-1" and setting.path in flags.UNLIMITED else text, name)
    each = [
        given_text(setting, _in_our_words(setting, each), each.name, one=setting.separator is None)
        for each in dict.fromkeys(said)  # who says the same twice means it once
    ]
    return Given(tuple(value for given in each for value in given.value), said[-1].name)


def _from_file(path: str | None, environ: Mapping[str, str]) -> tuple[str | None, dict[str, Given]]:
    """The file that is named or found, None if there is none, and what it says."""
    named, by = (path, "--config") if path is not None else (environ.get(CONFIG_VARIABLE) or None, CONFIG_VARIABLE)
    file = _FILE if named is None else named
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


def bind_of(given: argparse.Namespace) -> ListenSettings:
    """Where to listen.

    Raises:
        ConfigurationError: a value cannot be.
    """
    configuration: Configuration = given.configuration
    return configuration.make(ListenSettings)


def front_settings(given: argparse.Namespace) -> FrontSettings:
    """The settings of an interface server.

    Raises:
        ConfigurationError: a value cannot be.
    """
    configuration: Configuration = given.configuration
    return configuration.make(FrontSettings)


def layer_settings(given: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> LayerSettings:
    """The clusters; `environ` has the passwords that their URLs have not.

    Raises:
        ConfigurationError: there is none, or a URL or a name cannot be.
    """
    configuration: Configuration = given.configuration
    return configuration.layer(environ)


def worker_settings(given: argparse.Namespace) -> WorkerSettings:
    """The settings of the workers.

    Raises:
        ConfigurationError: the application is missing, or a value cannot be.
    """
    configuration: Configuration = given.configuration
    app_dir, reload_dirs, env_file = (
        configuration.of(f"worker.{name}").value for name in ("app_dir", "reload_dirs", "env_file")
    )
    return configuration.make(
        WorkerSettings,
        app_dir=_folder(configuration, "worker.app_dir", app_dir),
        reload_dirs=tuple(_folder(configuration, "worker.reload_dirs", each) for each in reload_dirs),
        env_file=None if env_file is None else _file(configuration, "worker.env_file", env_file),
    )


def _folder(configuration: Configuration, path: str, given: str) -> str:
    folder = os.path.realpath(given)
    if not os.path.isdir(folder):
        raise configuration.error(f"{path}: no such folder: {given!r}")
    return folder


def _file(configuration: Configuration, path: str, given: str) -> str:
    if not os.path.isfile(given):
        raise configuration.error(f"{path}: no such file: {given!r}")
    return os.path.abspath(given)
