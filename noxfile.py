"""The core of the tests on other Pythons, and with the oldest dependencies: ``make pythons``, ``make lowest``."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">= 2025.10"
nox.options.default_venv_backend = "uv"
#: Those of the classifiers in setup.cfg. What is not on this machine is left out, and said.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
#: Tests with real processes that are part of the core.
END_TO_END = ("files", "groups", "losing_workers", "restarting", "resumption", "run", "streaming", "tls", "wsgi")
#: Other tests that are not: they do not depend on Python (documents), or cost more than they would tell.
LEFT_OUT = (
    *(str(path) for path in Path("tests/e2e").glob("test_*.py") if path.stem.removeprefix("test_") not in END_TO_END),
    *("tests/autobahn", "tests/benchmarks", "tests/chaos"),
    *("tests/test_documents.py", "tests/test_packaging.py", "tests/test_site.py"),
)

# They are found where they are; nothing is downloaded.
os.environ["UV_PYTHON_DOWNLOADS"] = "never"
if shutil.which("pyenv"):
    # pyenv hides all versions but the one that is chosen.
    versions = subprocess.run(
        ["pyenv", "versions", "--bare"], check=True, capture_output=True, text=True
    ).stdout.split()
    os.environ["PYENV_VERSION"] = ":".join(each for each in versions if each.startswith(PYTHONS))


def run_core(session: nox.Session) -> None:
    # Some tests install what they have built.
    session.install("pip")
    session.run("uv", "pip", "list", external=True)
    # Else each of the hundreds of processes would compile what it imports.
    environment = {"PYTHONDONTWRITEBYTECODE": ""}
    pytest = ("python", "-m", "pytest", "-n", "4", "--dist", "loadfile", "--no-loadscope-reorder")
    session.run(*pytest, *(session.posargs or ("tests", *(f"--ignore={path}" for path in LEFT_OUT))), env=environment)


@nox.session(python=PYTHONS)
def core(session: nox.Session) -> None:
    """With the newest of everything."""
    session.install("--editable", ".[test,examples,docs]")
    run_core(session)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """With the oldest of everything that setup.cfg allows, on the oldest Python."""
    session.install("--resolution", "lowest-direct", "--editable", ".[test,examples,docs]")
    run_core(session)
