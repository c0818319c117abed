"""The pytest plugin, in runs of pytest as a user's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.running import ROOT
from tests.testing.test_server import LIMIT_S, gone

#: Two test files: of a user whose application is in the second.
CONFTEST = """
import sys
import pytest

@pytest.fixture(scope="module")
def site(ifserver_server_factory):
    with ifserver_server_factory("tests.testing.apps:asgi", environment={"GREETING": "of the module"}) as server:
        yield server

def pytest_sessionfinish(session):
    costly = ("twisted", "uvloop", "msgspec", "ifserver.config", "ifserver.services", "ifserver.testing.server")
    print("loaded:", [name for name in costly if name in sys.modules])
"""
TESTS = """
import httpx

async def application(scope, receive, send):
    if scope["path"] == "/raise":
        raise LookupError("what the application raises")
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"of the test"})

def get(server, path="/"):
    answer = httpx.get(server.url + path, timeout=60)
    answer.raise_for_status()
    return answer.text.split(maxsplit=1)[-1]

def test_several(ifserver_server, site):
    servers = [ifserver_server(application), ifserver_server("tests.testing.apps:wsgi"), site]
    assert [get(server) for server in servers] == ["the test", "/", "of the module"]
    print("pids:", *(server.pid for server in servers))

def test_module(site):
    print("pids:", site.pid)
    assert get(site) == "of the module"
"""
FAILING = """
from test_it import application, get

def test_raises(ifserver_server, site):
    get(site)
    get(ifserver_server(application), "/raise")

def test_block():
    from ifserver.testing import Server
    with Server(application) as server:
        get(server, "/raise")

def test_does_not_load(ifserver_server):
    ifserver_server("tests.testing.apps:failing")

def test_local(ifserver_server):
    async def local(scope, receive, send):
        pass
    ifserver_server(local)

def test_says_nothing_of_servers(site):
    assert not site
"""
WAITING = """
import threading
from test_it import application

def test_waits(ifserver_server, site):
    server = ifserver_server(application)
    print("started:", server.pid, *server.workers, site.pid, flush=True)
    threading.Event().wait(120)
"""


def start(folder: Path, *options: str, **files: str) -> subprocess.Popen[str]:
    """A run of pytest in `folder`, with these files."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").touch()
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # Most of the time would go into plugins that are not needed here.
    environment |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "ifserver.testing.plugin", "-W", "error", "-rA", *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, *options: str, **files: str) -> tuple[int, str]:
    """Its exit code and all of its output."""
    with start(folder, *options, **files) as process:
        output, _ = process.communicate(timeout=LIMIT_S)
    return process.returncode, output


def test_a_run_without_a_server_imports_nothing_of_it(tmp_path: Path) -> None:
    status, output = run(tmp_path, test_it="def test_nothing(): pass")
    assert status == 0, output
    assert "loaded: []" in output


@pytest.mark.parametrize("options", [(), ("-p", "xdist", "-n", "2"), ("--import-mode=importlib",)])
def test_several_servers_of_several_scopes(tmp_path: Path, options: tuple[str, ...]) -> None:
    status, output = run(tmp_path, *options, test_it=TESTS)
    assert (status, "2 passed" in output) == (0, True), output
    gone(*(int(pid) for line in re.findall(r"pids: ([\d ]+)", output) for pid in line.split()))


def test_what_fails_shows_what_servers_have_written(tmp_path: Path) -> None:
    status, output = run(tmp_path, "test_failing.py", test_it=TESTS, test_failing=FAILING)
    assert (status, "5 failed" in output) == (1, True), output
    tests = dict(re.findall(r"^_+ (test_\w+) _+\n((?:.|\n)*?)(?=^_+ test_|^=)", output, re.MULTILINE))
    section = r"- ifserver at http://127.0.0.1:\d+, test_it:application, call -(.|\n)*LookupError: what the application"
    for name in ("test_raises", "test_block"):
        assert len(re.findall(section, tests[name])) == 1, output
    assert "tests.testing.apps:asgi" in tests["test_raises"]
    assert "cannot start: application 'tests.testing.apps:failing': ZeroDivisionError" in tests["test_does_not_load"]
    assert "ifserver at" not in tests["test_does_not_load"]
    assert "<locals>.local at" in tests["test_local"]
    assert "Put it at the top level of a module" in tests["test_local"]
    # It has written nothing while that test ran.
    assert "ifserver at" not in tests["test_says_nothing_of_servers"]
    # Only the frame of the test itself is shown.
    assert "server.py" not in tests["test_does_not_load"]
    assert "options.py" not in tests["test_local"]


def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    with start(tmp_path, "-s", "test_waiting.py", test_it=TESTS, test_waiting=WAITING) as process:
        assert process.stdout is not None
        found = (re.search(r"started: ([\d ]+)", line) for line in process.stdout)
        pids = next(match[1].split() for match in found if match)
        assert len(pids) == 3
        process.kill()
    gone(*map(int, pids))
