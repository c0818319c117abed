"""What the plugin `tests.completeness` makes of runs that lose a test process or end early."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.completeness import LONG, in_good_order

ROOT = Path(__file__).parent.parent
LIMIT_S = 120
CONFTEST = """
from tests.completeness import Completeness

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Completeness(config))
"""
#: Five tests: two of them end their process, one by its time limit.
DEADLY = """
import os, signal, threading, pytest

def test_first(): pass
def test_killed(): os.kill(os.getpid(), signal.SIGKILL)
def test_between(): pass
@pytest.mark.timeout(0.5)
def test_hangs(): threading.Event().wait()
def test_last(): pass
"""
#: Three tests, the first of which fails.
FAILING = """
def test_fails(): assert False
def test_second(): pass
def test_third(): pass
"""


def run(folder: Path, text: str, *options: str) -> tuple[int, str, str]:
    """The exit code, all output and its last line of a run of these tests."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\ntimeout_method = thread\n")
    (folder / "test_it.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "pytest_timeout", "-p", "xdist", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # Most of the time would go into plugins that are not needed here.
    environment |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    lines = done.stdout.strip().splitlines()
    return done.returncode, done.stdout + done.stderr, lines[-1]


def test_a_test_process_that_dies_is_one_failed_test_and_the_others_run(tmp_path: Path) -> None:
    status, output, last = run(tmp_path, DEADLY, "-n", "1", "--dist", "loadfile")
    assert status == 1
    assert "2 failed, 3 passed" in last, output
    for name in ("test_killed", "test_hangs"):
        assert f"crashed while running 'test_it.py::{name}'" in output


def test_the_last_line_says_what_is_not_run_when_no_more_processes_may_be_started(tmp_path: Path) -> None:
    status, output, last = run(tmp_path, DEADLY, "-n", "1", "--dist", "loadfile", "--max-worker-restart", "0")
    assert (status, last) == (1, "3 tests were not run, of 5."), output


def test_the_last_line_says_what_is_not_run_after_the_first_failure(tmp_path: Path) -> None:
    status, output, last = run(tmp_path, FAILING, "-x")
    assert (status, last) == (1, "2 tests were not run, of 3."), output


def test_the_last_line_says_what_is_not_run_when_a_test_hangs_in_the_only_process(tmp_path: Path) -> None:
    status, output, last = run(tmp_path, DEADLY, "--deselect", "test_it.py::test_killed")
    assert (status, last) == (1, "1 test was not run, of 4."), output
    assert "FAILED test_it.py::test_hangs - it has not ended within 0.5 s" in output
    assert "in test_hangs" in output


def test_a_run_that_runs_nothing_has_nothing_to_say(tmp_path: Path) -> None:
    status, output, _ = run(tmp_path, FAILING, "--collect-only")
    assert status == 0
    assert "not run" not in output


def test_every_long_file_is_there() -> None:
    assert [name for name in LONG if not (ROOT / name).is_file()] == []


def test_long_files_begin_first_and_those_that_wait_beside_those_that_compute() -> None:
    waiting = [*LONG[:2], "tests/e2e/test_a.py", "tests/e2e/test_b.py"]
    computing = [f"tests/test_{number}.py" for number in range(8)]
    found = in_good_order([*computing, waiting[3], waiting[1], waiting[2], waiting[0]])
    assert sorted(found) == sorted([*waiting, *computing])
    assert [name for name in found if name in LONG] == [*LONG[:2]]
    assert [name for name in found if name in computing] == computing
    # Of any three, one waits.
    assert all(any(name in waiting for name in found[i : i + 3]) for i in range(len(found) - 2))
    assert in_good_order([]) == []
