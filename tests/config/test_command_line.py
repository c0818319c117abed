"""The parser of the command line and its help: every setting but secrets has a flag, and no flag means two things."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

import pytest

from ifserver.config import command_line, other_servers
from ifserver.config.command_line import COMMANDS, VIEWERS, make_parser, names_of
from ifserver.config.settings import SECTIONS, all_settings


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


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_common_flags_and_on_demand_all_of_them(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    brief, whole = help_of(command, False, capsys), help_of(command, True, capsys)
    for flag in command_line.flags_of(command):
        # A switch is shown by the one of its two names that changes something.
        names = {*flag.names, *(command_line.switched_off(name) for name in flag.names if name.startswith("--"))}
        assert any(name in whole for name in names), flag.names
        if any(setting.common for setting in flag.settings):
            assert any(name in brief for name in names), flag.names
    assert len(brief) < len(whole)


def test_every_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    listed = capsys.readouterr().out
    assert {*COMMANDS, *VIEWERS, "completion"} == set(re.findall(r"^ {4}(\w+)", listed, re.MULTILINE))
    assert all("--config" not in names_of(name) for name in COMMANDS), "which is no setting"


def flag(name: str, command: str) -> list[str]:
    """The paths that a flag of a command sets."""
    [found] = [each for each in command_line.flags_of(command) if name in each.names]
    return [setting.path for setting in found.settings]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_of_a_command_has_a_flag_and_no_name_is_used_twice(command: str) -> None:
    sections = COMMANDS[command].sections
    found = list(command_line.flags_of(command))
    own = [each.settings[0].path for each in found if len(each.settings) == 1]
    without = {"listen.processes", "worker.admin", "worker.admin_hosts", "worker.pools"} if command == "run" else set()
    assert sorted(own) == sorted(
        path
        for path, setting in all_settings().items()
        if setting.section in sections and path not in without and not setting.secret
    )
    others = list(command_line.others_of(command))
    names = [name for each in (*found, *others) for name in each.names] + [
        each.name for each in command_line.SHORTHANDS
    ]
    names += other_servers.ADVICE
    assert len(names) == len(set(names))


def test_the_settings_command_has_all_sections() -> None:
    assert set(COMMANDS["settings"].sections) == set(SECTIONS)


@pytest.mark.parametrize(
    ("name", "command", "paths"),
    [
        ("--keep-alive-timeout", "serve", ["front.keep_alive_timeout_s"]),
        ("--http-timeout", "run", ["front.response_timeout_s"]),
        ("--max-body-bytes", "run", ["front.max_body_bytes"]),
        ("--processes", "run", ["worker.processes"]),
        ("--drain-timeout", "serve", ["front.drain_timeout_s"]),
        ("--drain-timeout", "worker", ["worker.drain_timeout_s"]),
        ("--drain-timeout", "run", ["front.drain_timeout_s", "worker.drain_timeout_s"]),
        ("--front-drain-timeout", "run", ["front.drain_timeout_s"]),
        ("--worker-drain-timeout", "worker", ["worker.drain_timeout_s"]),
    ],
)
def test_what_a_flag_means(name: str, command: str, paths: list[str]) -> None:
    assert flag(name, command) == paths


def test_tables_name_settings_that_exist() -> None:
    paths = {each.path for each in command_line.SHORTHANDS}
    paths |= {path for command in COMMANDS.values() for path in command.without}
    paths |= {path for paths in other_servers.NAMES for path in paths}
    assert paths <= set(all_settings())


def test_what_help_shows_is_short() -> None:
    assert {path for path, each in all_settings().items() if each.common and len(each.summary) > 120} == set()
