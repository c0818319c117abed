"""Writes the pages of docs/reference that follow from the code: ``python docs/generate.py``.

The page of settings is made by ``ifserver settings --rst``. A test compares all of them with what is in the repository.
"""

from __future__ import annotations

import argparse
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ifserver import errors
from ifserver.config import command_line
from ifserver.observe.viewer import command as viewer

__all__ = ["PAGES"]

_FOLDER: Final = Path(__file__).parent / "reference"
_BY: Final = '.. Made by "python docs/generate.py"; a test compares them.\n\n'

_COMMANDS: Final = """\
Commands
========

What ``ifserver COMMAND --help`` shows: the flags that are used most. ``--help-all`` shows every flag, and
:doc:`/reference/settings` explains what stands behind them. :doc:`/howto/configuring` says how flags, variables and
the file go together, and :doc:`/howto/coming_from` which flags of other servers are understood as well.

``ifserver --version`` prints the version. :doc:`/reference/signals` has the exit codes.
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
    parsers = _parsers(command_line.make_parser(whole=False))
    briefs = _briefs(command_line.make_parser(whole=False))
    for name, parser in (parsers | _parsers(viewer.make_parser())).items():
        title = f"ifserver {name}"
        yield f"\n\n{title}\n{'-' * len(title)}\n\n{_filled(_escaped(parser.description or briefs[name]))}"
        for group in parser._action_groups:
            shown = [each for each in group._group_actions if each.help != argparse.SUPPRESS and not _is_help(each)]
            if not shown:
                continue
            about = {"options": "general", "positional arguments": "arguments"}.get(
                group.title or "", group.title or ""
            )
            yield f"\n*{_escaped(about[:1].upper() + about[1:])}*\n\n"
            for action in shown:
                yield f"{_names(action)}\n{_filled(_sentence(action.help or ''), '    ')}"


def _is_help(action: argparse.Action) -> bool:
    return isinstance(action, argparse._HelpAction)


def _parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    [commands] = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    return dict(commands.choices)


def _briefs(parser: argparse.ArgumentParser) -> dict[str, str]:
    [commands] = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    return {each.dest: _sentence(each.help or "") for each in commands._choices_actions}


def _names(action: argparse.Action) -> str:
    """``-p``, ``--port PORT``."""
    value = "" if action.nargs == 0 else action.metavar or ""
    if not action.option_strings:
        return f"``{value}``"
    *others, last = action.option_strings
    return ", ".join(f"``{name}``" for name in (*others, f"{last} {value}".strip()))


def _sentence(text: str) -> str:
    text = text.replace("%%", "%")
    return _escaped(text[:1].upper() + text[1:]) + "."


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


def _filled(text: str, indent: str = "") -> str:
    return (
        textwrap.fill(
            text, 120, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        + "\n"
    )


#: What makes each page, by its file.
PAGES: Final = {_FOLDER / "commands.rst": commands, _FOLDER / "errors.rst": errors_page}

if __name__ == "__main__":
    for path, make in PAGES.items():
        path.write_text(make(), "utf-8")
