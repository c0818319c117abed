"""The test cases and fixtures for Django: the tests of a Channels site, as Django and pytest-django run them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.running import ROOT

SITE = Path(__file__).parent / "notes_site"
LIMIT_S = 240
PYTEST = ("-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider", "-p", "pytest_django.plugin", "-p", "xdist")
SITE_OPTIONS = ("-p", "ifserver.testing.plugin", "--ds", "mysite.settings", "-n", "2")


def run(*words: str, **variables: str) -> tuple[int, str]:
    """Run Python in the site's folder; the exit code, and all of the output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **variables}
    done = subprocess.run(
        [sys.executable, "-W", "error", *words],
        cwd=SITE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_runner_of_django_in_two_processes(tmp_path: Path) -> None:
    status, output = run("manage.py", "test", "--parallel", "2", NOTES_FOLDER=str(tmp_path))
    assert (status, "Ran 12 tests" in output) == (0, True), output
    # All test databases are gone, so nobody has made others.
    assert list(tmp_path.iterdir()) == []


def test_a_test_that_fails_has_the_error_of_the_site(tmp_path: Path) -> None:
    test = "notes.tests.HttpTests.test_fails"
    status, output = run("manage.py", "test", test, NOTES_FOLDER=str(tmp_path), NOTES_FAIL="1")
    assert status == 1
    assert "What ifserver has written meanwhile:\n" in output, output
    assert "Internal Server Error: /broken/\n" in output
    assert "LookupError: what the view raises" in output


def test_a_database_in_memory_is_an_error_that_says_what_to_do() -> None:
    status, output = run("manage.py", "test", "notes.tests.HttpTests")
    assert status == 1
    assert "HttpTests: the test database 'default' is SQLite in memory" in output, output
    assert "DATABASES['default']['TEST'] = {'NAME': BASE_DIR / 'test.sqlite3'}" in output


@pytest.mark.skipif(importlib.util.find_spec("pytest_django") is None, reason="pytest-django is not installed")
def test_pytest_django_in_two_processes(tmp_path: Path) -> None:
    files = (
        "notes/tests.py::SettingsTests",
        "notes/pytest_tests.py",
        "-c",
        os.devnull,
        "--rootdir",
        ".",
        "-p",
        "no:cacheprovider",
    )
    status, output = run("-m", "pytest", *PYTEST, *SITE_OPTIONS, *files, NOTES_FOLDER=str(tmp_path))
    assert (status, "8 passed" in output) == (0, True), output
    assert list(tmp_path.iterdir()) == []


def told(settings: str, *words: str) -> tuple[int, str]:
    """What a site says that has been told to a worker; `settings` are changed by the test."""
    program = f"""
import pickle, django
from django.conf import settings
{settings}
from ifserver.django.tested_site import Site
site = Site.of_tests({{"default": "test"}}, "refused", True, False)
print(site.module, {{name: pickle.loads(value) for name, value in site.settings.items()}}, site.environment().keys())
"""
    return run("-c", program, *words, DJANGO_SETTINGS_MODULE="mysite.settings")


def test_workers_are_told_the_settings_that_differ() -> None:
    status, output = told("settings.GREETING = 'changed'; settings.LANGUAGE_CODE = 'de'; settings.USE_TZ = True")
    assert (status, output) == (
        0,
        "mysite.settings {'GREETING': 'changed', 'LANGUAGE_CODE': 'de'} "
        "dict_keys(['_IFSERVER_TESTED_SITE', 'DJANGO_SETTINGS_MODULE'])\n",
    )


def test_a_site_without_a_module_of_settings_tells_all() -> None:
    status, output = told("settings.configure(DATABASES={'default': {}}, GREETING='configured')")
    assert status == 0, output
    assert output.startswith("None {'DATABASES': {'default': {")
    assert "'GREETING': 'configured'" in output


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            "settings.GREETING = lambda: None",
            "GREETING was changed by the tests, but workers cannot be told its value",
        ),
        ("import os; settings.GREETING = os.urandom(200_000)", "too long to be told to workers, above all GREETING"),
    ],
)
def test_what_workers_cannot_be_told_is_an_error(settings: str, complaint: str) -> None:
    status, output = told(settings)
    assert status == 1
    assert complaint in output


def test_the_site_is_for_workers_only() -> None:
    status, output = run("-c", "from ifserver.django.tested_site import application")
    assert status == 1
    assert "which only they start" in output
