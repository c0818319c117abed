"""Files of variables for the application: ``--env-file``. Pure.

One variable a line, as ``NAME=VALUE``; ``export`` may stand in front. Empty lines, and lines that begin with ``#``, are
skipped. A value without quotes ends before `` #``. In single quotes all characters mean themselves. In double quotes
``\\n``, ``\\r``, ``\\t``, ``\\"``, ``\\\\`` and ``\\$`` are escapes. A value in quotes may have several lines.

What tools read differently is an error: ``${NAME}`` is not replaced by a variable's value, so it needs single quotes.
"""

from __future__ import annotations

import re
from typing import Final

from ifserver.errors import ConfigurationError

_NAME: Final = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*")
_SINGLE: Final = re.compile(r"'([^']*)'")
_DOUBLE: Final = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_PLAIN: Final = re.compile(r"(?:[^\s#]|[ \t]+(?=[^\s#])|(?<=\S)#)*")
#: What may stand behind a value.
_REST: Final = re.compile(r"[ \t\r]*(?:(?<=[ \t])#[^\n]*)?(?:\n|\Z)")
_NOTHING: Final = re.compile(r"(?:[ \t\r]*(?:#[^\n]*)?\n)*[ \t]*(?:#[^\n]*\Z)?")
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}


def parse_env(text: str, file: str) -> dict[str, str]:
    """The variables in `text`. `file` is its name for errors. Of two lines for one variable the last one counts.

    Raises:
        ConfigurationError: a line is no variable; the text names the line and shows no value.
    """
    found: dict[str, str] = {}
    at = _NOTHING.match(text).end()  # type: ignore[union-attr]
    while at < len(text):
        where = f"{file}:{text.count(chr(10), 0, at) + 1}"
        name = _NAME.match(text, at)
        if name is None:
            raise ConfigurationError(f"{where}: expected NAME=VALUE")
        value, at = _value(text, name.end(), f"{where}: {name[1]}")
        rest = _REST.match(text, at)
        if rest is None:
            raise ConfigurationError(f"{where}: {name[1]}: something follows the quotes")
        if "\0" in value:
            raise ConfigurationError(f"{where}: {name[1]}: a variable cannot hold a NUL character")
        found[name[1]] = value
        at = _NOTHING.match(text, rest.end()).end()  # type: ignore[union-attr]
    return found


def _value(text: str, at: int, where: str) -> tuple[str, int]:
    """The value that begins at `at`, and where it ends."""
    quote = text[at : at + 1]
    if quote == "#" and text[at - 1] == "=":
        raise ConfigurationError(f"{where}: a value that begins with # needs quotes")
    matched = {"'": _SINGLE, '"': _DOUBLE}.get(quote, _PLAIN).match(text, at)
    if matched is None:
        raise ConfigurationError(f"{where}: the value's {quote} is not closed")
    if quote == "'":
        return matched[1], matched.end()
    inner = matched[1] if quote == '"' else matched[0]
    if re.search(r"(?<!\\)\$\{", inner):
        raise ConfigurationError(f"{where}: ${{...}} is not replaced by a variable's value; put it in single quotes")
    if quote == '"':
        inner = _ESCAPE.sub(lambda escape: _ESCAPES.get(escape[1], escape[0]), inner)
    return inner, matched.end()
