"""What commands that run a service have in common, and which modules they are; ``test_cli.py`` runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ifserver import cli
from ifserver.commands import processes
from ifserver.config import arguments
from ifserver.config.command_line import COMMANDS, VIEWERS
from ifserver.config.settings import FrontSettings, LogSettings
from ifserver.errors import ConfigurationError

SERVE = ["serve", "--cluster", "east=redis://localhost", "--config"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text("[front]\nmax_headers = 7\n")
    return path


def test_every_command_has_its_function() -> None:
    assert set(cli._MAINS) == {*COMMANDS, *VIEWERS, "completion"}
    for command in cli._MAINS:
        assert callable(cli._main_of(command))


def test_the_settings_of_a_command_are_those_of_its_sections(file: Path) -> None:
    settings = arguments.command_settings(arguments.parse([*SERVE, str(file)], {}))
    assert (settings.front, settings.log) == (FrontSettings(max_headers=7), LogSettings())
    assert settings.layer is not None
    assert settings.worker is None


def test_settings_are_read_again_by_the_same_words(file: Path) -> None:
    reread = processes.reader([*SERVE, str(file)])
    file.write_text("[front]\nmax_headers = 8\n")
    assert reread().front == FrontSettings(max_headers=8)
    file.write_text("[front]\nmax_headers = -1\n")
    with pytest.raises(ConfigurationError, match=r"front\.max_headers"):
        reread()


def test_words_that_are_not_understood_any_more_are_an_error_and_no_exit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match="the command line is not understood any more"):
        processes.reader(["serve", "--such"])()
