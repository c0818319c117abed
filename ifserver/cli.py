"""The command ``ifserver``: which command is to run, and exit codes. The commands themselves are `ifserver.commands`.

Exit codes: 0 for an end that was asked for, 2 for what the operator has to mend (one line says what), 3 when the
application's startup has failed, 1 for anything else.
"""

from __future__ import annotations

# First of all, for it must come before Twisted.
import ifserver.net.standard_library  # noqa: F401

# isort: split
import argparse
import gc
import importlib
import os
import sys
from collections.abc import Callable
from typing import Final

from ifserver import logs
from ifserver.config import arguments
from ifserver.config.command_line import VIEWERS
from ifserver.config.settings import LogSettings
from ifserver.errors import ConfigurationError, IfserverError
from ifserver.net.lean_imports import begin_twisted
from ifserver.process import addresses, own_process, systemd

__all__ = ["main"]

#: The modules of the commands, each with a function ``main``. Only the one that is given is imported.
_MODULES: Final = {
    **{
        name: f"ifserver.commands.{name}"
        for name in ("run", "serve", "worker", "publish", "check", "settings", "child")
    },
    **dict.fromkeys(VIEWERS, "ifserver.observe.viewer.command"),
    "completion": "ifserver.commands.completion",
}
#: Those that have no settings, or read them by themselves: they are given the words as they are.
_OF_WORDS: Final = (*VIEWERS, "completion")


def main(argv: list[str] | None = None) -> int:
    """The command ``ifserver``; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        # Before anything is started, which must not be told the same.
        manager, handed = systemd.take(os.environ, os.getpid()), addresses.become_successor(os.environ)
        if words[:1] == ["child"]:
            begin_twisted()
            return _main_of("child")(words[1:])
        if words and words[0] in _OF_WORDS:
            gc.enable()
            return _main_of(words[0])(words)
        given = arguments.parse(words)
        given.words, given.manager, given.handed = words, manager, handed
        return _carry_out(given)
    except IfserverError as error:
        from ifserver.services.lifecycle import failed

        return failed(error)
    except KeyboardInterrupt:
        return 0  # before there was anything to end


def _carry_out(given: argparse.Namespace) -> int:
    try:
        if given.command != "settings":
            begin_twisted()
            logs.configure(given.configuration.make(LogSettings))
        return _main_of(given.command)(given)
    except ConfigurationError as error:
        # What is found out only now: a file that cannot be opened, an endpoint that nobody knows.
        raise given.configuration.error(str(error)) from error


def _main_of(command: str) -> Callable[[object], int]:
    main: Callable[[object], int] = importlib.import_module(_MODULES[command]).main
    # What it begins, it ends.
    own_process.raise_again()
    return main
