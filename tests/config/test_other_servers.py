"""Flags of other servers: those that mean a setting of ours, and what is said of the rest."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from ifserver.config import arguments, other_servers
from ifserver.errors import ConfigurationError

RUN = ("run", "m:a")
COMING_FROM = Path(__file__).parents[2] / "docs/howto/coming_from.rst"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, and nothing of ours in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name == "PORT" or name.startswith("IFSERVER_")]:
        monkeypatch.delenv(name)
    return tmp_path


def given(*flags: str) -> dict[str, object]:
    """The values of the settings that flags of ``run`` give, by their paths."""
    configuration = arguments.parse([*RUN, *flags], {}).configuration
    found = {path: each.value for path, each in configuration._given.items()}
    del found["worker.application"]
    return found


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        ("-b 0.0.0.0:9000", {"listen.host": "0.0.0.0", "listen.port": 9000}),
        ("--bind localhost:9000", {"listen.host": "localhost", "listen.port": 9000}),
        ("-b :9000", {"listen.host": "0.0.0.0", "listen.port": 9000}),
        ("-b [::1]:9000", {"listen.host": "::1", "listen.port": 9000}),
        ("-b [::1]", {"listen.host": "::1"}),
        ("-b ::1", {"listen.host": "::1"}),
        ("-b ::", {"listen.host": "::"}),
        ("-b h", {"listen.host": "h"}),
        ("-b unix:/run/x", {"listen.unix": "/run/x"}),
        ("-b unix:///run/x", {"listen.unix": "/run/x"}),
        ("-b unix:x", {"listen.unix": "x"}),
        ("-b unix:@x", {"listen.unix": "@x"}),
        ("-b fd://3", {"listen.fd": (3,)}),
        ("-b unix:/x -b h:1 -b fd://3", {"listen.unix": "/x", "listen.host": "h", "listen.port": 1, "listen.fd": (3,)}),
        ("-b h:1 -p 2", {"listen.host": "h", "listen.port": 2}),
        ("--uds /x", {"listen.unix": "/x"}),
        ("--ssl-certfile c --ssl-keyfile k", {"listen.certfile": "c", "listen.keyfile": "k"}),
        ("-w 4", {"worker.processes": 4}),
        ("--log-level warning", {"log.verbosity": 0}),
        ("--log-level critical", {"log.verbosity": 0}),
        ("--log-level INFO", {"log.verbosity": 1}),
        ("--log-level debug", {"log.verbosity": 2}),
        ("--log-level trace", {"log.verbosity": 3}),
        ("--max-requests 5 --max-requests-jitter 2", {"worker.max_requests": 5, "worker.max_requests_jitter": 2}),
        ("--limit-max-requests 5", {"worker.max_requests": 5}),
        ("--factory --interface asgi3", {"worker.factory": True, "worker.interface": "asgi"}),
        ("--env-file .env", {"worker.env_file": ".env"}),
        ("--forwarded-allow-ips 10.0.0.1,::1", {"front.trusted_proxies": ("10.0.0.1", "::1")}),
        ("--proxy-headers --forwarded-allow-ips ::1", {"front.trusted_proxies": ("::1",)}),
        ("--timeout-keep-alive 5", {"front.keep_alive_timeout_s": 5.0}),
        ("--keep-alive 5", {"front.keep_alive_timeout_s": 5.0}),
        ("--graceful-timeout 3", {"front.drain_timeout_s": 3.0, "worker.drain_timeout_s": 3.0}),
        (
            "--timeout-graceful-shutdown 3 --worker-drain-timeout 4",
            {"front.drain_timeout_s": 3.0, "worker.drain_timeout_s": 4.0},
        ),
        ("--ws-max-size 77", {"front.max_websocket_message_bytes": 77}),
        ("--ws-per-message-deflate false", {"front.websocket_compression": False}),
        ("--header-map dangerous", {"front.underscores_in_headers": "allow"}),
        ("--access-logfile -", {"front.access_log": "-"}),
    ],
)
def test_what_can_mean_one_thing_is_accepted(flags: str, settings: dict[str, object]) -> None:
    assert given(*flags.split()) == settings


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("-b 8000", "-b: listen.host: expected a host, got '8000'; a port is given as -p 8000"),
        ("-b h:99999", "-b: listen.port: must be at most 65535, got 99999"),
        ("-b h:1 -b h:2", "-b: 'h:2': there is one --bind; -e adds other addresses"),
        (
            "--forwarded-allow-ips *",
            "--forwarded-allow-ips: front.trusted_proxies: name your proxies' networks; everybody is 0.0.0.0/0,::/0, "
            "and not '*'",
        ),
        (
            "--log-level loud",
            "--log-level: log.verbosity: expected critical, error, warning, info, debug, trace, got 'loud'",
        ),
        (
            "-e DJANGO_SETTINGS_MODULE=x",
            "-e: listen.endpoints: expected an endpoint of Twisted; variables are set with --env-file FILE",
        ),
        ("--interface asgi2", "--interface: worker.interface: must be auto, asgi or wsgi, got 'asgi2'"),
    ],
)
def test_what_cannot_be(flags: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        given(*flags.split())
    assert str(caught.value) == said


@pytest.mark.parametrize("form", ["m:a {}", "m:a {} x", "{} x m:a", "m:a {}=x"])
def test_what_means_nothing_here_is_told_what_to_use(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    for flag, advice in other_servers.ADVICE.items():
        with pytest.raises(SystemExit) as ended:
            arguments.parse(["run", *form.format(flag).split()], {})
        assert ended.value.code == 2, flag
        assert capsys.readouterr().err == f"ifserver: error: {flag}: {advice} (see ifserver run --help)\n"


def test_advice_names_flags_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments.parse(["settings", "--help-all"], {})
    known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", capsys.readouterr().out))
    named = {flag for text in other_servers.ADVICE.values() for flag in re.findall(r"(?<!\S)--?[a-z][\w-]*", text)}
    assert named - known == set()


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_flag_of_another_command_is_said_to_be_one(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    flag = "--workers" if command == "serve" else "--port"
    with pytest.raises(SystemExit):
        arguments.parse([command, flag, "1"], {})
    other = "run and worker" if command == "serve" else "run and serve"
    assert f"; {flag} is a flag of {other} (see" in capsys.readouterr().err


def test_what_run_would_not_heed_is_none_of_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, command in (("--listen-processes", "serve"), ("--worker-admin", "worker"), ("--cluster", "serve and")):
        with pytest.raises(SystemExit):
            arguments.parse([*RUN, flag, "2"], {})
        assert f"; {flag} is a flag of {command}" in capsys.readouterr().err


def test_an_env_file_is_looked_for_at_the_start(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^--env-file: worker\.env_file: no such file: 'nowhere'$"):
        arguments.command_settings(arguments.parse([*RUN, "--env-file", "nowhere"], {}))
    (folder / ".env").touch()
    settings = arguments.command_settings(arguments.parse([*RUN, "--env-file", ".env"], {})).worker
    assert settings.env_file == str(folder / ".env")


@pytest.mark.parametrize("mode", ["66", "8", "0o7777", "rw", ""])
def test_a_mode_that_is_none(mode: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^--unix-mode: listen\.unix_mode: .*: expected an octal number such as"
    ):
        arguments.command_settings(arguments.parse([*RUN, "--unix-mode", mode], {}))
