"""The settings of a command: its command line, and the file and the environment.

Parses a command line by `ifserver.config.command_line`.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ifserver.config import other_servers
from ifserver.config.command_line import COMMANDS, GivenFlag, make_parser, names_of
from ifserver.config.configuration import CommandSettings, Configuration, Given, given_text
from ifserver.config.pools import without_rules, workers_of
from ifserver.config.schema import Setting
from ifserver.config.settings import FrontSettings, ListenSettings, LogSettings, WorkerSettings, all_settings
from ifserver.config.sources import from_environment, from_project, from_settings_file, with_port
from ifserver.config.values import NONE
from ifserver.errors import ConfigurationError

#: How alike a flag must be to what was given, to be what was meant (`difflib`): two letters of --port are swapped.
_ALIKE: Final = 0.75


def parse(words: Sequence[str], environ: Mapping[str, str] = os.environ) -> argparse.Namespace:
    """The arguments, and as ``configuration`` all settings.

    Exits with status 2 and one line when the arguments are wrong, and with 0 for ``--help``.

    Raises:
        ConfigurationError: a file cannot be read, or a value in it, in the environment or of a flag cannot be.
    """
    # Flags stand behind the command.
    parser = make_parser("--help-all" in words, words[0] if words and words[0] in COMMANDS else None)
    given, surplus = parser.parse_known_args(words)
    sections = COMMANDS[given.command].sections
    if surplus:
        # One may be the URL of a node, with a password.
        shown = " ".join(re.sub("//.*@", "//***@", word) for word in surplus)
        for name in (word.partition("=")[0] for word in surplus):
            if name in other_servers.ADVICE:
                parser.refuse(f"{name}: {other_servers.ADVICE[name]}", given.command)
        secrets = [setting for setting in all_settings().values() if setting.secret]
        for setting in sorted(secrets, key=lambda setting: setting.section not in sections):
            names = (f"--{setting.stem}", f"--{setting.section}-{setting.stem}")
            if any(word.startswith(names) for word in surplus):
                advice = f"{setting.path} has no flag: give it in the environment, {setting.variable}, or in a file"
                parser.refuse(advice, given.command)
        parser.refuse(f"unrecognized arguments: {shown}{_meant(surplus[0], given.command)}", given.command)
    file, in_file = from_settings_file(given.config, environ)
    settings = from_project(environ) | in_file | from_environment(environ) | _from_flags(given.given_flags)
    if "listen" in sections:
        settings = with_port(settings, environ)
    given.configuration = Configuration(settings, file)
    return given


def _meant(word: str, command: str) -> str:
    name = word.partition("=")[0]
    elsewhere = [other for other in COMMANDS if name in names_of(other) and other != "settings"]
    if elsewhere:
        return f"; {name} is a flag of {' and '.join(elsewhere)}"
    if not name.startswith("--"):
        return ""
    # Without what all have in common.
    names = [each.removeprefix("--") for each in names_of(command) if each.startswith("--")]
    close = difflib.get_close_matches(name.removeprefix("--"), names, 1, _ALIKE)
    return f"; did you mean --{close[0]}?" if close else ""


def _from_flags(given_flags: Sequence[GivenFlag]) -> dict[str, Given]:
    by_path: dict[str, list[GivenFlag]] = {}
    for each in _with_bind(given_flags):
        for setting in each.settings:
            by_path.setdefault(setting.path, []).append(each)
    return {
        path: _given(all_settings()[path], [each for each in all_given if not each.weak] or all_given)
        for path, all_given in by_path.items()
    }


def _with_bind(given_flags: Sequence[GivenFlag]) -> Iterator[GivenFlag]:
    """`given_flags`, with the other settings that ``--bind HOST:PORT`` and ``--bind unix:PATH`` mean."""
    bound = set()
    for each in given_flags:
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


def _in_our_words(setting: Setting, flag: GivenFlag) -> str:
    try:
        return other_servers.meant(setting.path, flag.name, flag.text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{flag.name}: {setting.path}: {error}") from None


def _given(setting: Setting, given_flags: Sequence[GivenFlag]) -> Given:
    """The value that the flags of one setting give: that of the last one, or of a list those of all."""
    if not setting.many:
        name, text = given_flags[-1].name, _in_our_words(setting, given_flags[-1])
        return given_text(setting, NONE if text == "-1" and setting.minus_one_is_none else text, name)
    each = [
        given_text(setting, _in_our_words(setting, each), each.name, one=setting.separator is None)
        for each in dict.fromkeys(given_flags)  # the same twice counts once
    ]
    return Given(tuple(value for given in each for value in given.value), given_flags[-1].name)


def command_settings(given: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> CommandSettings:
    """The settings of the sections that the command uses; `environ` has the passwords that the clusters' URLs have not.

    Raises:
        ConfigurationError: something is missing, or a value cannot be.
    """
    configuration: Configuration = given.configuration
    sections = COMMANDS[given.command].sections
    found: dict[str, Any] = {}
    if "worker" in sections:
        found["worker"] = worker = worker_settings(configuration)
        if given.command == "worker":
            try:
                workers_of(configuration.pools(), worker, worker.pools)
            except ConfigurationError as error:
                raise configuration.error(str(error)) from None
    if {"front", "worker"} & set(sections):
        pools = configuration.pools()
        found["pools"] = pools if "front" in sections else tuple(map(without_rules, pools))
    for section, struct in (("listen", ListenSettings), ("front", FrontSettings), ("log", LogSettings)):
        if section in sections:
            found[section] = configuration.make(struct)
    if "layer" in sections:
        found["layer"] = configuration.layer(environ)
    return CommandSettings(**found)


def worker_settings(configuration: Configuration) -> WorkerSettings:
    """The settings of the workers. Where there are pools and no other application, it is that of the first pool.

    Raises:
        ConfigurationError: the application is missing, or a value cannot be.
    """
    pools = () if configuration.has("worker.application") else configuration.pools()
    instead = {"application": pools[0].application} if pools else {}
    app_dir, reload_dirs, env_file = (
        configuration.of(f"worker.{name}").value for name in ("app_dir", "reload_dirs", "env_file")
    )
    return configuration.make(
        WorkerSettings,
        **instead,
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
