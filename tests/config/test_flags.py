"""Every setting but secrets has a flag, and no flag means two things."""

from __future__ import annotations

import pytest

from ifserver.config import flags, other_servers
from ifserver.config.configuration import SECTIONS, all_settings


def flag(name: str, command: str) -> list[str]:
    """The paths that a flag of a command sets."""
    [found] = [each for each in flags.flags_of(command) if name in each.names]
    return [setting.path for setting in found.settings]


@pytest.mark.parametrize("command", flags.COMMANDS)
def test_every_setting_of_a_command_has_a_flag_and_no_name_is_used_twice(command: str) -> None:
    sections = flags.COMMANDS[command]
    found = list(flags.flags_of(command))
    own = [each.settings[0].path for each in found if len(each.settings) == 1]
    without = {"listen.processes", "worker.admin", "worker.admin_hosts", "worker.pools"} if command == "run" else set()
    assert sorted(own) == sorted(
        path
        for path, setting in all_settings().items()
        if setting.section in sections and path not in without and not setting.secret
    )
    others = list(flags.others_of(command))
    names = [name for each in (*found, *others) for name in each.names] + [each.name for each in flags.SHORTHANDS]
    names += other_servers.ADVICE
    assert len(names) == len(set(names))


def test_the_settings_command_has_all_sections() -> None:
    assert set(flags.COMMANDS["settings"]) == set(SECTIONS)


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
    paths = {*flags.COMMON, *flags.UNLIMITED, *flags._ALIASES, *(each.path for each in flags.SHORTHANDS)}
    paths |= {path for paths in other_servers.NAMES for path in paths}
    assert paths <= set(all_settings())


def test_what_help_shows_is_short() -> None:
    assert {path for path in flags.COMMON if len(all_settings()[path].summary) > 120} == set()
