"""What commands that run a service have in common, and which modules they are; ``test_cli.py`` runs them."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from ifserver import cli
from ifserver.commands import running
from ifserver.config import arguments, flags
from ifserver.config.command_line import VIEWERS
from ifserver.config.settings import FrontSettings, LogSettings
from ifserver.errors import ConfigurationError

SERVE = ["serve", "--cluster", "east=redis://localhost", "--config"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text("[front]\nmax_headers = 7\n")
    return path


def test_every_command_has_its_module() -> None:
    assert set(cli._MODULES) == {*flags.COMMANDS, *VIEWERS, "completion", "child"}
    for name in cli._MODULES.values():
        assert callable(importlib.import_module(name).main)


def test_the_settings_of_a_command_are_those_of_its_sections(file: Path) -> None:
    given = arguments.parse([*SERVE, str(file)], {})
    settings = running.settings_of(given)
    assert tuple(settings) == tuple(flags.COMMANDS["serve"])
    assert settings["front"] == FrontSettings(max_headers=7)
    assert settings["log"] == running.log_settings(given) == LogSettings()


def test_settings_are_read_anew_by_the_same_words(file: Path) -> None:
    reread = running.rereading([*SERVE, str(file)])
    file.write_text("[front]\nmax_headers = 8\n")
    assert reread()["front"] == FrontSettings(max_headers=8)
    file.write_text("[front]\nmax_headers = -1\n")
    with pytest.raises(ConfigurationError, match=r"front\.max_headers"):
        reread()


def test_words_that_are_not_understood_any_more_are_an_error_and_no_exit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match="the command line is not understood any more"):
        running.rereading(["serve", "--such"])()


def test_without_a_file_there_is_no_certificate() -> None:
    assert running.certificate_of(arguments.bind_of(arguments.parse(["run", "a:b"], {}))) is None
