"""The commands: where they ask, and what they print."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ifserver.errors import ConfigurationError
from ifserver.observe.viewer import command
from tests.observe.viewer.test_client import Endpoint


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


def status(*words: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    out = io.StringIO()
    return command.main(["status", *words], environ or {}, out), out.getvalue()


def test_tables(endpoint: Endpoint) -> None:
    code, text = status("--admin", endpoint.url)
    assert code == 0
    for word in ("front00000", "http.request", "supervisor", "claimed", "GET /1"):
        assert word in text
    assert "\x1b" not in text


def test_json(endpoint: Endpoint) -> None:
    code, text = status("--admin", endpoint.url.removeprefix("http://"), "--json")
    assert (code, json.loads(text)["me"]["process"]) == (0, "front00000")


def test_of_more_streams_than_are_told_it_says_so(endpoint: Endpoint) -> None:
    found = json.loads(endpoint.answer[1])
    endpoint.answer = 200, json.dumps(found | {"streams_total": 5000}).encode()
    assert "5000 streams in all, of which these are the oldest" in status("--admin", endpoint.url)[1]


def test_groups_where_there_are_any(endpoint: Endpoint) -> None:
    assert "members" not in status("--admin", endpoint.url)[1]
    found = json.loads(endpoint.answer[1]) | {"groups": [{"name": "news", "members": 12}], "groups_total": 101}
    endpoint.answer = 200, json.dumps(found).encode()
    text = status("--admin", endpoint.url)[1]
    assert "news        12\n" in text
    assert "101 groups in all, of which these are the largest" in text


def test_the_settings_say_where(endpoint: Endpoint, tmp_path: Path) -> None:
    address = endpoint.url.removeprefix("http://")
    assert status(environ={"IFSERVER_FRONT_ADMIN": address})[0] == 0
    assert status(environ={"IFSERVER_WORKER_ADMIN": address})[0] == 0
    assert status(environ={"IFSERVER_FRONT_ADMIN": address, "IFSERVER_WORKER_ADMIN": "127.0.0.1:1"})[0] == 0
    (tmp_path / "a.toml").write_text(f'[front]\nadmin = "{address}"\n')
    assert status("--config", str(tmp_path / "a.toml"))[0] == 0


def test_nobody_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="status: no admin endpoint is named"):
        status()


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("--admin", "127.0.0.1:1") == (1, "")
    error = capsys.readouterr().err
    assert error.startswith("ifserver: error: http://127.0.0.1:1: nobody listens there")
    assert error.count("\n") == 1


def test_what_an_endpoint_refuses(endpoint: Endpoint) -> None:
    endpoint.answer = 421, b"not by this name\n"
    with pytest.raises(ConfigurationError, match=f"status: {endpoint.url}: 421: not by this name"):
        status("--admin", endpoint.url)


def test_a_reader_that_has_had_enough(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as out:
        assert command.main(["status", "--json", "--admin", endpoint.url], {}, out) == 0
    assert capsys.readouterr().err == ""


def test_top_needs_a_terminal(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError, match="needs a terminal"):
        command.main(["top", "--admin", endpoint.url], {}, io.StringIO())


@pytest.mark.parametrize("words", [["status", "--help"], ["top", "--help"]])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(words, {})
    assert caught.value.code == 0
    assert "--admin HOST:PORT" in capsys.readouterr().out
