"""Writes what follows from the code: ``python docs/generate.py``. Three pages of docs/reference, the manual page
ifserver(1), and the scripts of ``ifserver completion``. A test compares them with what is in the repository.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import shtab

from ifserver import __version__, errors
from ifserver.commands import one_shot
from ifserver.config import command_line
from ifserver.config.manual import description
from ifserver.config.pools import POOLS, PoolSettings, settings_of_pool
from ifserver.config.schema import Kind, Setting, settings_of
from ifserver.config.settings import SECTIONS, all_settings
from ifserver.config.values import to_text
from ifserver.observe.viewer import command as viewer

__all__ = ["PAGES"]

_FOLDER: Final = Path(__file__).parent / "reference"
_MANUAL: Final = Path(__file__).parents[1] / "packaging/man/ifserver.1"
_BY: Final = '.. Made by "python docs/generate.py"; a test compares them.\n\n'

_COMMANDS: Final = """\
Commands
========

What ``ifserver COMMAND --help`` shows: the flags that are used most. ``--help-all`` shows every flag, and
:doc:`/reference/settings` explains what stands behind them. :doc:`/howto/configuring` says how flags, variables and
the file go together, and :doc:`/howto/coming_from` which flags of other servers are understood as well.

``ifserver --version`` prints the version. :doc:`/reference/signals` has the exit codes.
"""

_SETTINGS: Final = """\
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

_ERRORS: Final = """\
Errors
======

What ``ifserver`` raises is in ``ifserver.errors``. An application meets a few of these: ``send()`` raises
``ClientDisconnected`` once its client has left, and ``ApplicationError`` for an event that ASGI does not allow; sending
to a group raises ``NodeError``. The others are for ifserver itself, and you see them in the log only.
:doc:`/reference/troubleshooting` has the lines of the log, :doc:`/explanation/failures` what clients get.

What an application should do:

``ClientDisconnected``
    Nothing, in most cases: let it end the handler. It is not logged as an error. Catch ``OSError`` if you want to clean
    up on any server.
``ApplicationError``
    Correct the application. The text says which rule it has broken.
``NodeError``
    Decide whether the message may be sent again: after ``NodeUnreachable`` and ``NodeRefused`` nobody has got it, after
    ``PushInDoubt`` nobody knows.
``ConfigurationError``
    Correct the setting that the text names.
"""


def commands() -> str:
    """The page of commands, from the parsers of their arguments."""
    return _BY + _COMMANDS + "".join(_commands())


def _commands() -> Iterator[str]:
    for name, parser in _parsers(whole=False).items():
        title = f"ifserver {name}"
        yield f"\n\n{title}\n{'-' * len(title)}\n\n{_filled(_escaped(parser.description or ''))}"
        for about, actions in _groups(parser):
            yield f"\n*{_escaped(about)}*\n\n"
            for action in actions:
                yield f"{_names(action)}\n{_filled(_escaped(_sentence(action)), '    ')}"


def _parsers(whole: bool) -> dict[str, argparse.ArgumentParser]:
    """The parsers of all commands, by their names; `whole`: their help shows all settings."""
    return _commands_of(command_line.make_parser(whole)) | _commands_of(viewer.make_parser())


def _commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return dict(_subparsers(parser).choices)


def _subparsers(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    [commands] = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    return commands


def _groups(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[argparse.Action]]]:
    """What a command's help shows: titles, each with its arguments."""
    for group in parser._action_groups:
        shown = [
            each
            for each in group._group_actions
            if each.help != argparse.SUPPRESS and not isinstance(each, argparse._HelpAction)
        ]
        if shown:
            title = group.title or ""
            about = {"options": "general", "positional arguments": "arguments"}.get(title, title)
            yield about[:1].upper() + about[1:], shown


def _names(action: argparse.Action) -> str:
    """``-p``, ``--port PORT``."""
    value = "" if action.nargs == 0 else action.metavar or ""
    if not action.option_strings:
        return f"``{value}``"
    *others, last = action.option_strings
    return ", ".join(f"``{name}``" for name in (*others, f"{last} {value}".strip()))


def _sentence(action: argparse.Action) -> str:
    text = (action.help or "").replace("%%", "%")
    return text[:1].upper() + text[1:] + "."


def settings() -> str:
    """The page of settings, from their annotations."""
    return _BY + _SETTINGS + "".join(_settings())


def _settings() -> Iterator[str]:
    tables = {section: (struct, settings_of(struct)) for section, struct in SECTIONS.items()}
    for section, (struct, settings) in {**tables, f"{POOLS}.NAME": (PoolSettings, settings_of_pool("NAME"))}.items():
        title = f"[{section}]"
        yield f"\n\n{title}\n{'-' * len(title)}\n\n{_filled(struct.__doc__ or '', width=116)}"
        for setting in settings.values():
            yield f"\n``{setting.name}``\n{_filled(_escaped(description(setting)), '    ', 116)}"
            yield f"\n{_filled(', '.join(_facts(setting)) + '.', '    ', 116)}"


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
    names = all_settings()[setting.path].flags
    if not names:
        yield "no flag"
        return
    if setting.kind is Kind.SWITCH and setting.default:
        names = tuple(map(command_line.switched_off, names))
    yield f"flag{'s' if len(names) > 1 else ''} {', '.join(f'``{name}``' for name in names)}"


def errors_page() -> str:
    """The page of errors, from their classes."""
    return _BY + _ERRORS + "\n\nAll errors\n----------\n\n" + "".join(_tree(errors.IfserverError, ""))


def _tree(error: type[BaseException], indent: str) -> Iterator[str]:
    others = [each.__name__ for each in error.__bases__ if each is not Exception and each.__module__ == "builtins"]
    also = f" It is {_article(others[0])}, too." if others else ""
    doc = re.sub(r"(?<!`)`(\w[\w.]*)`(?!`)", r"``\1``", inspect.getdoc(error) or "")
    yield f"{indent}``{error.__name__}``\n{_filled(' '.join(doc.split()) + also, indent + '    ')}"
    for each in error.__subclasses__():
        if each.__module__ != errors.__name__:
            continue  # a private one
        yield "\n" + "".join(_tree(each, indent + "    "))


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} ``{name}``"


def _escaped(text: str) -> str:
    return "".join(f"\\{char}" if char in "*`|\\_" else char for char in text)


def _filled(text: str, indent: str = "", width: int = 120) -> str:
    return (
        textwrap.fill(
            text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        + "\n"
    )


_MANUAL_HEAD: Final = """\
.\\" Made by "python docs/generate.py"; a test compares them.
.TH IFSERVER 1 "" "ifserver {version}" "User Commands"
.SH NAME
ifserver \\- keeps the connections of clients while workers run the application
.SH SYNOPSIS
.SY ifserver
.I command
.RI [ settings ]
.RI [ arguments ]
.YS
.SH DESCRIPTION
An interface server for ASGI and WSGI applications. The server holds the clients' connections; workers, in processes of
their own, run the application. A worker that is replaced, crashes or is killed closes no connection, as far as the
protocol allows.
.P
.B ifserver run
starts a server and its workers on this machine.
.B ifserver serve
and
.B ifserver worker
are the same parts on several machines; they meet in Redis.
.SH COMMANDS
Only the flags that are used most are listed.
.BI "ifserver " command " \\-\\-help\\-all"
shows every flag, and
.B "ifserver settings \\-\\-example"
prints a file with every setting, its default and an explanation.
"""
_MANUAL_END: Final = """\
.SH ENVIRONMENT
Every setting has a variable; its name is
.BR IFSERVER_ ,
the section and the setting:
.B IFSERVER_FRONT_MAX_BODY_BYTES
for
.BR front.max_body_bytes .
A flag takes precedence over a variable, and a variable over the file. Passwords and tokens have no flags.
.TP
.B IFSERVER_CONFIG
The file with settings.
.TP
.B IFSERVER_REDIS_PASSWORD
The password of the nodes whose URLs have none.
.TP
.B PORT
The port, where no other place to listen is given; then the default host is 0.0.0.0.
.SH FILES
.TP
.I ifserver.toml
The file with settings, where the current folder has one and no other is named.
.SH SIGNALS
.TP
.BR SIGTERM ", " SIGINT ", " SIGQUIT
It ends in order; after a second one, at once.
.TP
.B SIGHUP
The settings are read again, and workers are replaced, with the new code of the application.
.TP
.B SIGUSR1
Log files are reopened.
.TP
.B SIGUSR2
A new server takes over, with the version of ifserver that is installed now.
.SH EXIT STATUS
.TP
.B 0
It has stopped as it was told to, or has done what it should.
.TP
.B 1
Anything else.
.TP
.B 2
Something that you have to correct; the last line says what. Another start does not help.
.TP
.B 3
The application's startup has failed.
.SH EXAMPLES
.TP
.B ifserver run mysite.asgi:application
A server, and as many workers as there are CPUs.
.TP
.B ifserver serve \\-\\-cluster main=redis://10.0.0.1
A server whose workers are started elsewhere.
.TP
.B ifserver worker mysite.asgi:application \\-\\-cluster main=redis://10.0.0.1
Workers for it.
.TP
.B ifserver completion bash > ~/.local/share/bash\\-completion/completions/ifserver
Completion of command lines in bash.
"""


def manual() -> str:
    """The manual page ifserver(1), in the macros of man(7)."""
    return "".join((_MANUAL_HEAD.format(version=__version__), *_manual_of_commands(), _MANUAL_END))


def _manual_of_commands() -> Iterator[str]:
    for name, parser in _parsers(whole=False).items():
        yield f".SS ifserver {name}\n{_roff(parser.description or '')}\n"
        for about, actions in _groups(parser):
            yield f".P\n.I {_roff(about)}\n"
            for action in actions:
                names = ", ".join(rf"\fB{_roff(each)}\fR" for each in action.option_strings)
                value = _roff(str(action.metavar)) if action.nargs != 0 and action.metavar else ""
                tag = f"{names} {value}".strip()
                yield f".TP\n{tag}\n{_roff(_sentence(action))}\n"


def _roff(text: str) -> str:
    """`text`, so that no character of it is a command; hyphens stay those that can be pasted."""
    return re.sub(r"^([.'])", r"\&\1", text.replace("\\", r"\e").replace("-", r"\-"))


def script(shell: str) -> str:
    """What `shell` reads to complete command lines: all flags but those that only other servers have."""
    made: str = shtab.complete(_explained(), shell=shell, root_prefix="ifserver")
    first, _, rest = made.partition("\n\n" if shell == "zsh" else "\n")
    head = "#compdef ifserver\n" if shell == "zsh" else ""
    # What it says about itself instead is how to install it, which `ifserver completion --help` and the pages do.
    _, _, body = rest.partition("\n\n")
    assert first.startswith("#"), first
    made_by = '# Made by "python docs/generate.py" with shtab (Apache License 2.0); a test compares them.'
    return f"{head}{made_by}\n\n{body.lstrip()}"


def _explained() -> argparse.ArgumentParser:
    """The parser of all commands, with one line of help for each flag, and what may be its value."""
    parser = command_line.make_parser(whole=True)
    briefs = {each.dest: each.help or "" for each in _subparsers(parser)._choices_actions}
    for name, command in _commands_of(viewer.make_parser()).items():
        _subparsers(parser).choices[name] = command
    for name, command in _subparsers(parser).choices.items():
        command.description = briefs[name]
        for action in command._actions:
            _explain(action)
    return parser


def _explain(action: argparse.Action) -> None:
    settings: tuple[Setting, ...] = getattr(action, "_settings", ())
    if action.help != argparse.SUPPRESS and len(settings) == 1 and action.option_strings:
        action.help = settings[0].summary.replace("%", "%%")
    if settings and settings[0].choices and action.nargs != 0:
        action.choices = settings[0].choices
    if str(action.metavar).partition("[")[0] in ("FILE", "PATH", "DIR"):
        action.complete = shtab.DIRECTORY if str(action.metavar).startswith("DIR") else shtab.FILE  # type: ignore[attr-defined]


#: What makes each file.
PAGES: Final[Mapping[Path, Callable[[], str]]] = {
    _FOLDER / "commands.rst": commands,
    _FOLDER / "errors.rst": errors_page,
    _FOLDER / "settings.rst": settings,
    _MANUAL: manual,
    **{path: functools.partial(script, shell) for shell, path in one_shot.SCRIPTS.items()},
}

if __name__ == "__main__":
    for path, make in PAGES.items():
        path.write_text(make(), "utf-8")
