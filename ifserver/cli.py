"""The command ``ifserver``: which command is to run, and exit codes. The commands themselves are `ifserver.commands`.

Exit codes: 0 for an end that was asked for, 2 for what the operator has to correct (one line names it), 3 when the
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
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ifserver import logs
from ifserver.config import arguments
from ifserver.config.command_line import VIEWERS
from ifserver.config.settings import LogSettings
from ifserver.errors import ConfigurationError, IfserverError
from ifserver.net.lean_imports import begin_twisted
from ifserver.process import addresses, children, own_process, systemd

#: The function of each command, and what is imported for it: nothing else is. Until then Ctrl-C ends it at once.
_MAINS: Final[Mapping[str, tuple[str, ...]]] = {
    "run": ("ifserver.commands.processes:run", "ifserver.services.worker"),
    "serve": ("ifserver.commands.processes:serve", "ifserver.services.multi_server"),
    "worker": ("ifserver.commands.processes:worker", "ifserver.services.worker"),
    "check": ("ifserver.commands.one_shot:check", "ifserver.services.check"),
    "settings": ("ifserver.commands.one_shot:settings", "ifserver.config.manual"),
    **{name: (f"ifserver.commands.one_shot:{name}",) for name in ("publish", "completion")},
    **dict.fromkeys(VIEWERS, ("ifserver.observe.viewer.command:main",)),
}
#: Those that have no settings, or read them by themselves: they are given the words as they are.
_OF_WORDS: Final = (*VIEWERS, "completion")


def main(argv: list[str] | None = None) -> int:
    """The command ``ifserver``; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        # Before anything is started, which must not get the same.
        manager, handed = systemd.take(os.environ, os.getpid()), addresses.become_successor(os.environ)
        if words[:1] == ["child"]:
            begin_twisted()
            return _be_child(words[1:])
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


def _be_child(words: Sequence[str]) -> int:
    """``ifserver child ROLE FD``: a process that another one of ours has started (`ifserver.process.children`)."""
    if len(words) != 2 or not words[1].isdecimal():
        raise ConfigurationError("'child' is what ifserver itself starts")
    role, fd = words[0], int(words[1])
    if role == "server":
        from ifserver.commands.processes import serve_as_child

        own_process.raise_again()
        return serve_as_child(fd)
    # First of all, it ends with its parent. Imports take long.
    launch = None if role == "fork-server" else children.become_child(fd)
    from ifserver.process import fork_server
    from ifserver.services.worker import work

    own_process.raise_again()
    return work(fork_server.become(fd) if launch is None else launch)


def _main_of(command: str) -> Callable[[object], int]:
    function, *modules = _MAINS[command]
    module, _, name = function.partition(":")
    main: Callable[[object], int] = getattr(importlib.import_module(module), name)
    for each in modules:
        importlib.import_module(each)
    # What it begins, it ends.
    own_process.raise_again()
    return main
