"""Finding the application: ``module:attribute`` to something that can be called, or one line that says why not."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from traceback import walk_tb
from typing import Any, TypeAlias

from ifserver.errors import ConfigurationError
from ifserver.settings_checks import parse_application

__all__ = ["ASGIApplication", "Event", "Receive", "Scope", "Send", "load"]

Scope: TypeAlias = dict[str, Any]
Event: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
ASGIApplication: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Longer texts of exceptions are cut: the whole answer must fit a line, and a pipe's buffer.
_TEXT_CHARACTERS = 400


def load(application: str, app_dir: str) -> ASGIApplication:
    """Import the application that ``module:attribute`` names, with the folder `app_dir` first on ``sys.path``.

    Raises:
        ConfigurationError: it cannot be; the text is one line. What the import raised is its ``__cause__``.
    """
    module_name, attribute = parse_application(application)
    folder = _enter(app_dir)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigurationError(f"application {application!r}: {error} (looked in {folder} first)") from error
        raise _import_failed(application, error) from error
    except BaseException as error:  # it may even exit
        raise _import_failed(application, error) from error
    for position, part in enumerate(parts := attribute.split(".")):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            owner = ".".join([module_name, *parts[:position]])
            raise ConfigurationError(f"application {application!r}: {owner} has no attribute {part!r}") from error
    if not callable(found):
        raise ConfigurationError(f"application {application!r}: not callable, but of type {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _enter(app_dir: str) -> str:
    folder = str(Path(app_dir).resolve())
    if not os.path.isdir(folder):
        raise ConfigurationError(f"worker.app_dir: no such folder: {folder}")
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    return folder


def _import_failed(application: str, error: BaseException) -> ConfigurationError:
    text = _one_line(str(error))
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return ConfigurationError(f"application {application!r}: {what} ({_where(error)})")


def _where(error: BaseException) -> str:
    """``file:line`` of the innermost frame that is no part of the import system, or of the syntax error itself."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    where = "while importing it"
    for frame, line in walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        if not name.startswith("<frozen importlib") and name not in (__file__, importlib.__file__):
            where = f"{name}:{line}"
    return where


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TEXT_CHARACTERS else f"{line[:_TEXT_CHARACTERS]}..."
