"""The settings that hold: those of the command line, and of the file and the environment.

Parses a command line by `ifserver.config.command_line`.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ifserver.config import flags, other_servers
from ifserver.config.command_line import GivenFlag, make_parser, names_of
from ifserver.config.configuration import (
    Configuration,
    Given,
    all_settings,
    from_environment,
    given_text,
    with_port,
)
from ifserver.config.pools import PoolSettings, PoolWorkers, workers_of
from ifserver.config.schema import Setting
from ifserver.config.settings import FrontSettings, LayerSettings, ListenSettings, WorkerSettings
from ifserver.config.sources import from_project, from_settings_file
from ifserver.config.values import NONE
from ifserver.errors import ConfigurationError

__all__ = ["bind_of", "front_settings", "layer_settings", "parse", "pool_workers", "pools", "worker_settings"]

#: How alike a flag must be to what was given, to be what was meant (`difflib`): two letters of --port are swapped.
_ALIKE: Final = 0.75


def parse(words: Sequence[str], environ: Mapping[str, str] = os.environ) -> argparse.Namespace:
    """The arguments, and as ``configuration`` all settings.

    Exits with status 2 and one line when the arguments are wrong, and with 0 for ``--help``.

    Raises:
        ConfigurationError: a file cannot be read, or what it, the environment or a flag says cannot be.
    """
    # Flags stand behind the command.
    parser = make_parser("--help-all" in words, words[0] if words and words[0] in flags.COMMANDS else None)
    given, surplus = parser.parse_known_args(words)
    sections = flags.COMMANDS[given.command]
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
                said = f"{setting.path} has no flag: give it in the environment, {setting.variable}, or in a file"
                parser.refuse(said, given.command)
        parser.refuse(f"unrecognized arguments: {shown}{_meant(surplus[0], given.command)}", given.command)
    file, in_file = from_settings_file(given.config, environ)
    settings = from_project(environ) | in_file | from_environment(environ) | _from_flags(given.given_flags)
    if "listen" in sections:
        settings = with_port(settings, environ)
    given.configuration = Configuration(settings, file)
    given.verbosity = given.configuration.of("log.verbosity").value
    return given


def _meant(word: str, command: str) -> str:
    name = word.partition("=")[0]
    elsewhere = [other for other in flags.COMMANDS if name in names_of(other) and other != "settings"]
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
    """What the flags of one setting say: the last one, or of a list all of them."""
    if not setting.many:
        name, text = given_flags[-1].name, _in_our_words(setting, given_flags[-1])
        return given_text(setting, NONE if text == "-1" and setting.path in flags.UNLIMITED else text, name)
    each = [
        given_text(setting, _in_our_words(setting, each), each.name, one=setting.separator is None)
        for each in dict.fromkeys(given_flags)  # who says the same twice means it once
    ]
    return Given(tuple(value for given in each for value in given.value), given_flags[-1].name)


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
    """The settings of the workers. Where there are pools and no other application, it is that of the first pool.

    Raises:
        ConfigurationError: the application is missing, or a value cannot be.
    """
    configuration: Configuration = given.configuration
    found = () if configuration.has("worker.application") else pools(given)
    instead = {"application": found[0].application} if found else {}
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


def pools(given: argparse.Namespace) -> tuple[PoolSettings, ...]:
    """The pools, in their order; empty: there is only that without a name.

    Raises:
        ConfigurationError: one has no application, or a value cannot be.
    """
    configuration: Configuration = given.configuration
    return configuration.pools()


def pool_workers(given: argparse.Namespace) -> list[PoolWorkers]:
    """What the workers of each pool run, of those that the command runs.

    Raises:
        ConfigurationError: an application is missing, a value cannot be, or a pool that is to be run does not exist.
    """
    worker = worker_settings(given)
    wanted = worker.pools if given.command == "worker" else ()
    try:
        return workers_of(pools(given), worker, wanted)
    except ConfigurationError as error:
        raise given.configuration.error(str(error)) from None


def _folder(configuration: Configuration, path: str, given: str) -> str:
    folder = os.path.realpath(given)
    if not os.path.isdir(folder):
        raise configuration.error(f"{path}: no such folder: {given!r}")
    return folder


def _file(configuration: Configuration, path: str, given: str) -> str:
    if not os.path.isfile(given):
        raise configuration.error(f"{path}: no such file: {given!r}")
    return os.path.abspath(given)
