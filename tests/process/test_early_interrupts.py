"""Ctrl-C while the command starts: with the real command, which gets the signal while it imports something."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ifserver.process import early_interrupts
from tests.e2e.running import APPS, LIMIT_S

#: Sends SIGINT to itself when it imports the module that is named.
COMMAND = """
import os, signal, sys
name = sys.argv.pop(1)
def hook(event, arguments):
    if event == "import" and arguments[0] == name:
        print("interrupted", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(hook)
from ifserver.__main__ import main
sys.exit(main())
"""


def interrupted(module: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command, interrupted when it imports `module`."""
    command = [sys.executable, "-c", COMMAND, module, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=cwd)


@pytest.mark.parametrize(
    "module", ["ifserver.net.lean_imports", "msgspec", "ifserver.cli", "uvloop", "ifserver.services.run"]
)
def test_it_ends_quietly_and_with_success(module: str, tmp_path: Path) -> None:
    done = interrupted(
        module, "run", "zoo:app", "--bind", f"unix:{tmp_path}/socket", "--app-dir", str(APPS), cwd=tmp_path
    )
    assert (done.returncode, "interrupted" in done.stdout) == (0, True)
    assert "Traceback" not in done.stderr
    assert "is ready" not in done.stderr
    assert not (tmp_path / "socket").exists()


def test_a_command_that_is_no_service_ends_too(tmp_path: Path) -> None:
    for module, words in (("msgspec", ["settings"]), ("ifserver.config.manual", ["settings"])):
        done = interrupted(module, *words, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


def test_who_ignores_it_goes_on_to() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        early_interrupts.end_at_once()
        early_interrupts.raise_again()
        assert early_interrupts.keep() == []
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_comes_meanwhile_is_kept() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        early_interrupts.end_at_once()
        early_interrupts.raise_again()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        kept = early_interrupts.keep()
        signal.raise_signal(signal.SIGINT)
        assert kept == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
