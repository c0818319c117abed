"""The command lines of ``ifserver`` that people are shown: in documents, in examples, and in comments of these.

::

    for words in command_lines(Path("README.rst").read_text()):
        assert words[0] in ("run", "serve", ...)
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import yaml  # type: ignore[import-untyped]

__all__ = ["arguments_in_yaml", "command_lines", "flags_named", "variables_named"]

_COMMANDS = "run|serve|worker|publish|check|settings|status|top"
#: A line that is a command: of a terminal, of a comment, of a systemd unit.
_LINE = re.compile(rf"(?:\$ |ExecStart=)?(?:[\w./$-]*/)?ifserver ((?:{_COMMANDS}|--version)\b.*)")
#: Inline literals of reStructuredText, which may go on in the next line.
_LITERAL = re.compile(r"``([^`]+)``")
#: Where what a shell reads ends for us.
_SHELL = re.compile(r"\s(?:[|;&]|&&|\d?>).*")
_FLAG = re.compile(r"(?<!\S)(--?[a-zA-Z][\w-]*)(?=$|[\s=])")
#: One that goes on is the beginning of many: ``IFSERVER_REDIS_...``.
_VARIABLE = re.compile(r"\bIFSERVER_[A-Z0-9]\w*\b(?!\.\.\.)")


def command_lines(text: str) -> list[list[str]]:
    """The arguments of every command line in `text`; words of three dots are left in."""
    joined = re.sub(r"\\\n[#\s]*", "", text)
    lines = [line.strip().lstrip("# ") for line in joined.splitlines() if line[:1] in (" ", "#", "E")]
    literals = [" ".join(literal.split()) for literal in _LITERAL.findall(text)]
    found = [match[1] for line in (*lines, *literals) if (match := _LINE.fullmatch(line)) is not None]
    return [shlex.split(_SHELL.sub("", line), comments=True) for line in found]


def flags_named(text: str) -> set[str]:
    """The flags that inline literals of `text` begin with: ``--admin HOST:PORT``."""
    return {flag for literal in _LITERAL.findall(text) for flag in _FLAG.findall(literal) if literal.startswith("-")}


def variables_named(text: str) -> set[str]:
    """The variables ``IFSERVER_...`` in `text`."""
    return set(_VARIABLE.findall(text))


def arguments_in_yaml(text: str) -> Iterator[list[str]]:
    """The lists under ``command`` and ``args`` in YAML that are our arguments, as strings."""
    for document in yaml.safe_load_all(text):
        yield from _arguments(document)


def _arguments(node: Any) -> Iterator[list[str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("command", "args") and isinstance(value, list) and re.fullmatch(_COMMANDS, str(value[0])):
                assert all(isinstance(word, str) for word in value), f"not all of this are texts: {value}"
                yield value
            else:
                yield from _arguments(value)
    elif isinstance(node, list):
        for each in node:
            yield from _arguments(each)
