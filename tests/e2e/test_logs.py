"""What a running server says of its requests, in its logs and to those who ask."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from websockets.sync.client import connect

from ifserver.logs.journal import SOCKET
from tests.e2e.running import APPS, Running, command_line, eventually

JSON = ("--access-log-format", "json", "--server-timing", "--trusted-proxies", "127.0.0.0/8", "--workers", "1")
ID = re.compile(r"[0-9a-z]{10}\.[0-9a-z]+")


class Logged(NamedTuple):
    """A server, and its access log."""

    server: Running
    path: Path

    def entry(self, end: str) -> dict[str, Any]:
        """The line of the request whose target ends with `end`, as soon as it is there."""

        def found() -> list[dict[str, Any]]:
            entries = [json.loads(line) for line in self.path.read_text().splitlines()]
            return [entry for entry in entries if entry["target"].endswith(end)]

        [entry] = eventually(found, "its line")
        return entry


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    path = tmp_path_factory.mktemp("logs") / "access.log"
    with Running("run", "zoo:app", "-p", "0", "--access-log", str(path), *JSON, app_dir=APPS, tracebacks=1) as server:
        yield Logged(server.ready(), path)


def test_a_request_s_id_is_made_and_told_to_everybody(logged: Logged) -> None:
    response = httpx.get(f"{logged.server.url}/show?made")
    made = response.headers["x-request-id"]
    assert ID.fullmatch(made)
    assert ["x-request-id", made] in response.json()["headers"]
    entry = logged.entry("?made")
    assert entry["request_id"] == entry["stream"] == made
    assert (entry["client"], entry["method"], entry["protocol"], entry["status"]) == (
        "127.0.0.1",
        "GET",
        "HTTP/1.1",
        200,
    )
    assert entry["bytes"] == len(response.content)
    assert entry["user_agent"].startswith("python-httpx")
    assert "close_code" not in entry


def test_that_of_a_proxy_is_taken_over(logged: Logged) -> None:
    response = httpx.get(f"{logged.server.url}/show?theirs", headers={"X-Request-ID": "theirs-1"})
    assert response.headers["x-request-id"] == "theirs-1"
    assert [value for name, value in response.json()["headers"] if name == "x-request-id"] == ["theirs-1"]
    assert logged.entry("?theirs")["request_id"] == "theirs-1"


def test_an_error_of_the_application_names_the_stream_and_the_request(logged: Logged) -> None:
    response = httpx.get(f"{logged.server.url}/fails", headers={"X-Request-ID": "theirs-2"})
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "theirs-2"
    said = logged.server.said(r"GET '/fails' \(!local\.(\S+), request theirs-2\): the application has raised")
    assert said[1] == logged.entry("/fails")["stream"]


def test_server_timing(logged: Logged) -> None:
    told = httpx.get(f"{logged.server.url}/").headers["server-timing"]
    assert re.fullmatch(r'queue;dur=\d+\.\d, app;dur=\d+\.\d|app;dur=\d+\.\d;desc="queue included"', told)


def test_a_websocket_is_logged_at_its_end(logged: Logged) -> None:
    with connect(f"{logged.server.url.replace('http', 'ws', 1)}/ws?socket") as client:
        assert client.response is not None
        made = client.response.headers["x-request-id"]
        client.close(4001)
    entry = logged.entry("?socket")
    assert (entry["status"], entry["close_code"], entry["request_id"]) == (101, 4001, made)


def test_turning_a_file_over_loses_no_line(tmp_path: Path) -> None:
    path, count = tmp_path / "access.log", 60
    words = ("run", "zoo:app", "-p", "0", "--access-log", str(path), "--workers", "1")
    with Running(*words, app_dir=APPS) as server, httpx.Client(base_url=server.ready().url) as client:
        for number in range(count):
            turn = number % 20 == 10
            if turn:
                path.rename(tmp_path / f"old.{number}")
                server.process.send_signal(signal.SIGUSR1)
            client.get(f"/?number={number}")
            if turn:
                eventually(path.exists, "a new file")
    lines = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert sorted(int(re.search(r"number=(\d+)", line)[1]) for line in lines) == list(range(count))  # type: ignore[index]
    assert len(list(tmp_path.iterdir())) == 4


def test_a_full_disk_costs_no_request() -> None:
    with Running(
        "run", "zoo:app", "-p", "0", "--access-log", "/dev/full", "--workers", "1", app_dir=APPS
    ) as server, httpx.Client(base_url=server.ready().url) as client:  # fmt: skip
        assert client.get("/").status_code == 200
        server.said(r"the access log cannot be written: \[Errno 28\] No space left on device")
        for _ in range(20):
            assert client.get("/").status_code == 200
    assert server.output.count("the access log") == 1


def test_nor_does_a_reader_that_is_gone() -> None:
    words = command_line("run", "zoo:app", "-p", "0", "--access-log", "-", "--workers", "1", "--app-dir", str(APPS))
    reading, writing = os.pipe()
    os.close(reading)
    # Standard error, which is listened to, stays what it is.
    start = f"import os, sys; os.dup2({writing}, 1); os.execv(sys.argv[1], sys.argv[1:])"
    with Running([sys.executable, "-c", start, *words], pass_fds=[writing]) as server:
        os.close(writing)
        with httpx.Client(base_url=server.ready().url) as client:
            assert client.get("/").status_code == 200
            server.said(r"the access log cannot be written: \[Errno 32\] Broken pipe")
            assert client.get("/").status_code == 200
    assert server.output.count("the access log") == 1


def test_queries_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    words = ("run", "zoo:app", "-p", "0", "--access-log", str(path), "--no-access-log-queries", "--workers", "1")
    secret = {
        "Authorization": "Basic Z2VoZWlt",
        "Cookie": "session=Z2VoZWlt",
        "Referer": "http://me:Z2VoZWlt@a/b?Z2VoZWlt",
    }
    with Running(*words, app_dir=APPS) as server:
        assert httpx.get(f"{server.ready().url}/show?token=Z2VoZWlt", headers=secret).status_code == 200
    line = path.read_text()
    assert '"GET /show HTTP/1.1" 200 ' in line
    assert '"http://***@a/b"' in line
    assert "Z2VoZWlt" not in line + server.output


@pytest.mark.skipif(os.path.exists(SOCKET), reason="there is a journal here")
def test_a_journal_that_is_not_there() -> None:
    with Running("run", "zoo:app", "-p", "0", "--access-log", "journal", app_dir=APPS, status=2) as server:
        server.said(r"error: --access-log: front\.access_log: there is no journal here: /run/\S+: No such file")
        server.ended()


# The log of what happens.


def test_the_log_as_json_in_every_process() -> None:
    words = ("run", "zoo:app", "-p", "0", "--workers", "1", "--log-format", "json", "--trusted-proxies", "127.0.0.0/8")
    with Running(*words, app_dir=APPS, tracebacks=1) as server:
        url = server.said(r"listening on (http://[0-9.:]+)")[1]
        server.said("ready: requests are answered")
        assert httpx.get(f"{url}/fails", headers={"X-Request-ID": "theirs-3"}).status_code == 500
        server.said("the application has raised")
    lines = [json.loads(line) for line in server.output.splitlines()]
    [error] = [line for line in lines if line["level"] == "error"]
    assert error["logger"] == "ifserver.worker.stream"
    assert error["request_id"] == "theirs-3"
    assert error["stream"].startswith("!local.")
    assert error["exception"].endswith("RuntimeError: before the start")
    assert len({line["pid"] for line in lines}) > 1


def test_repeated_errors_are_told_once_with_a_count() -> None:
    with Running("run", "zoo:app", "-p", "0", "--workers", "1", app_dir=APPS, tracebacks=1) as server:
        with httpx.Client(base_url=server.ready().url) as client:
            for _ in range(5):
                assert client.get("/fails").status_code == 500
        server.said("the application has raised")
    assert re.search(r"\.\.\. and 4 more like this, the last: GET '/fails' \(!local\.", server.output)


@pytest.mark.skipif(os.path.exists(SOCKET), reason="there is a journal here")
def test_the_log_has_no_journal_to_go_to() -> None:
    with Running("run", "zoo:app", "-p", "0", "--log-to", "journal", app_dir=APPS, status=2) as server:
        server.said(r"error: --log-to: log\.log_to: there is no journal here: /run/\S+: No such file")
        server.ended()
