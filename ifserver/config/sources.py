"""The settings that hold without a command line: those of the file, and those of the environment, which win."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ifserver.config.command_line import FILE
from ifserver.config.configuration import CONFIG_VARIABLE, Configuration, Given, from_environment
from ifserver.config.settings_file import from_file
from ifserver.errors import ConfigurationError

__all__ = ["configuration", "from_settings_file"]


def configuration(environ: Mapping[str, str]) -> Configuration:
    """All settings, for programs that are not started by the command ``ifserver``.

    Raises:
        ConfigurationError: the file cannot be read, or what it or the environment says cannot be.
    """
    file, in_file = from_settings_file(None, environ)
    return Configuration(in_file | from_environment(environ), file)


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
