"""A minute of chaos, always with the same faults. ``make chaos`` goes on for long, with all of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.running import ROOT

#: Each of them happens at least once; the seed is one with which they do not last long.
KINDS = (
    "kill worker", "kill supervisor", "kill server", "freeze worker", "restore node", "flush node", "reset connections",
)  # fmt: skip
SEED = 228
#: As many as a minute has room for.
FAULTS = 13
#: Compared with the usual number. The faults are the same, and it costs half as much CPU.
CLIENTS = 0.5
#: Whoever waits for a last word that was lost waits so long in the end.
QUEUE_TIMEOUT_S = 6


@pytest.mark.timeout(600)
def test_nothing_happens_that_the_design_does_not_allow() -> None:
    kinds = [word for kind in KINDS for word in ("--kind", kind)]
    numbers = ["--seed", str(SEED), "--faults", str(FAULTS), "--queue-timeout", str(QUEUE_TIMEOUT_S)]
    numbers += ["--clients", str(CLIENTS)]
    command = [sys.executable, "-m", "tests.chaos", *numbers, *kinds]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    assert "all is well" in done.stdout
    for kind in KINDS:
        assert f" {kind}: " in done.stdout
