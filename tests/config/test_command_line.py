"""The parser of the command line and its help, without the settings that are made of it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

import pytest

from ifserver.config import flags
from ifserver.config.command_line import VIEWERS, make_parser, names_of


def parse(*words: str) -> argparse.Namespace:
    return make_parser(whole=False).parse_args(words)


def help_of(command: str, whole: bool, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        make_parser(whole).parse_args([command, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["run"], []),
        (["run", "a:b"], [("APP", ["worker.application"], "a:b", False)]),
        (["serve", "--port", "1", "--port=2"], [("--port", ["listen.port"], text, False) for text in "12"]),
        (["run", "--reload", "--no-reload"], [("--reload", ["worker.reload"], "true", False),
                                              ("--no-reload", ["worker.reload"], "false", False)]),
        (["run", "--drain-timeout", "3"],
         [("--drain-timeout", ["front.drain_timeout_s", "worker.drain_timeout_s"], "3", True)]),
    ],
)  # fmt: skip
def test_flags_are_noted_in_the_order_in_which_they_are_given(words: Sequence[str], given: list[Any]) -> None:
    noted = [(each.name, [setting.path for setting in each.settings], each.text, each.weak)
             for each in parse(*words).given_flags]  # fmt: skip
    assert noted == given


def test_what_is_wrong_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("run", "--port")
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "ifserver run: error: argument -p/--port: expected one argument (see ifserver run --help)\n"
    )


@pytest.mark.parametrize("command", flags.COMMANDS)
def test_help_shows_common_flags_and_on_demand_all_of_them(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    brief, whole = help_of(command, False, capsys), help_of(command, True, capsys)
    for flag in flags.flags_of(command):
        # A switch is shown by the one of its two names that changes something.
        names = {*flag.names, *(flags.switched_off(name) for name in flag.names if name.startswith("--"))}
        assert any(name in whole for name in names), flag.names
        if any(setting.path in flags.COMMON for setting in flag.settings):
            assert any(name in brief for name in names), flag.names
    assert len(brief) < len(whole)


def test_every_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    listed = capsys.readouterr().out
    assert {*flags.COMMANDS, *VIEWERS, "completion"} == set(re.findall(r"^ {4}(\w+)", listed, re.MULTILINE))
    assert all("--config" not in names_of(name) for name in flags.COMMANDS), "which is no setting"
