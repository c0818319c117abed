"""The settings that hold without a command line: those of a Django project, of the file and of the environment.

The file wins against the project, and the environment against both.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from ifserver.config.command_line import FILE
from ifserver.config.configuration import CONFIG_VARIABLE, Configuration, Given, from_environment
from ifserver.config.settings_file import from_file, from_tables
from ifserver.config.values import NONE
from ifserver.errors import ConfigurationError

__all__ = [
    "PROJECT_VARIABLE",
    "Tables",
    "configuration",
    "encode_project",
    "from_django",
    "from_project",
    "from_settings_file",
    "set_project",
]

#: Sections of settings, as a file has them.
Tables: TypeAlias = Mapping[str, Any]

#: Hands the settings of a Django project to the command that ``manage.py`` becomes (`encode_project`).
PROJECT_VARIABLE: Final = "IFSERVER_PROJECT"

#: What Django's settings say, in a process in which Django is set up.
_project: Mapping[str, Given] = {}


def configuration(environ: Mapping[str, str]) -> Configuration:
    """All settings, for programs that are not started by the command ``ifserver``.

    Raises:
        ConfigurationError: the file cannot be read, or what it or the environment says cannot be.
    """
    file, in_file = from_settings_file(None, environ)
    return Configuration(from_project(environ) | in_file | from_environment(environ), file)


def from_django(tables: object) -> dict[str, Given]:
    """What ``IFSERVER = {...}`` in Django's settings says: sections and keys as in a file.

    Raises:
        ConfigurationError: it is no dict, a key is no setting, or a value cannot be; it begins with
            ``IFSERVER["front"]["max_headers"]``.
    """
    if not isinstance(tables, Mapping):
        raise ConfigurationError(f"IFSERVER: expected a dict of sections, got {type(tables).__name__}")
    return from_tables(_plain(tables), lambda *names: "IFSERVER" + "".join(f'["{name}"]' for name in names), "a dict")


def _plain(value: Any) -> Any:
    """A Python value in the types of TOML, which has no None and no tuples."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None:
        return NONE
    if isinstance(value, timedelta):
        return value.total_seconds()
    # A path, or a text of Django's that is translated later; of anything else the error shows what it is.
    return value if isinstance(value, str | int | float) else str(value)


def set_project(tables: Tables) -> None:
    """From now on, what Django's settings say holds in this process.

    Raises:
        ConfigurationError: as `from_django`.
    """
    global _project
    _project = from_django(tables)


def encode_project(tables: Tables, defaults: Tables) -> str:
    """The value of `PROJECT_VARIABLE`: ``IFSERVER`` of Django's settings, and what follows from others of them."""
    return msgspec.json.encode([_plain(tables), _plain(defaults)]).decode()


def from_project(environ: Mapping[str, str]) -> dict[str, Given]:
    """What the Django project says from which this process was started, or which is set up in it.

    Raises:
        ConfigurationError: as `from_django`.
    """
    text = environ.get(PROJECT_VARIABLE)
    if text is None:
        return dict(_project)
    tables, defaults = msgspec.json.decode(text)
    return from_tables(defaults, lambda *names: "manage.py", "a dict") | from_django(tables)


def from_settings_file(path: str | None, environ: Mapping[str, str]) -> tuple[str | None, dict[str, Given]]:
    """The file that is named or found, None if there is none, and what it says.

    Raises:
        ConfigurationError: it cannot be read, or what it says cannot be.
    """
    named, by = (path, "--config") if path is not None else (environ.get(CONFIG_VARIABLE) or None, CONFIG_VARIABLE)
    file = FILE if named is None else named
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
