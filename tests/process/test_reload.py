"""The reloader, with real files on a real loop."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ifserver.process import reload
from ifserver.process.reload import Reloader, Wanted
from tests.process.test_children import ROOT, run


class Watching:
    """A reloader of `folder` that sees changes; only inside `run`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.restarts = 0
        self._restarted = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.reloader = Reloader([str(folder)], Wanted(), self._restart, self._loop)

    def _restart(self) -> None:
        self.restarts += 1
        self._restarted.set()

    async def next_restart(self) -> None:
        await self._restarted.wait()
        self._restarted.clear()

    async def started(self) -> None:
        """Start it, and return once it sees what is changed (nobody tells when the watching thread has begun)."""
        self.reloader.start()
        for number in range(1000):
            (self.folder / "begin.py").write_text(str(number))
            try:
                async with asyncio.timeout(0.2):
                    await self.next_restart()
            except TimeoutError:
                continue
            return
        raise AssertionError("nothing was seen")

    async def quiet(self) -> None:
        """Return once all that was changed before has been seen."""
        count = self.restarts
        (self.folder / "end.py").write_text("")
        while self.restarts == count:
            await self.next_restart()

    async def stop(self) -> None:
        await self.reloader.stop().asFuture(self._loop)


def test_a_change_of_a_python_file_restarts_and_is_logged_by_its_relative_path(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "site" / "pages").mkdir(parents=True)
    caplog.set_level(logging.INFO)

    async def main() -> None:
        watching = Watching(tmp_path)
        await watching.started()
        caplog.clear()
        (tmp_path / "site" / "pages" / "views.py").write_text("x = 1")
        await watching.next_restart()
        await watching.stop()

    run(main)
    assert "site/pages/views.py changed: restarting the workers" in caplog.messages
    assert not [record for record in caplog.records if record.name.startswith("watchfiles")]


def test_other_files_and_folders_that_are_not_ours_do_not_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ignored = [
        ".venv/lib/x.py",
        "__pycache__/x.py",
        "node_modules/a/x.py",
        ".git/x.py",
        "x.pyc",
        "notes.txt",
        "db.sqlite3",
    ]
    for name in ignored:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    caplog.set_level(logging.INFO)

    async def main() -> None:
        watching = Watching(tmp_path)
        await watching.started()
        caplog.clear()
        for name in ignored:
            (tmp_path / name).write_text("x = 1")
        await watching.quiet()
        await watching.stop()

    run(main)
    assert set(caplog.messages) <= {
        "end.py changed: restarting the workers",
        # What `started` wrote may be seen twice.
        "begin.py changed: restarting the workers",
        "begin.py and 1 more changed: restarting the workers",
    }


@pytest.mark.parametrize(
    "path",
    [
        "main.py",
        "site/pages/views.py",
        ".env",
        "site/.env",
        "pages/templates/home.html",
        "pages/templates/pages/mail/body.txt",
        "jinja2/page.j2",
        "locale/de/LC_MESSAGES/django.mo",
    ],
)
def test_what_is_watched(path: str) -> None:
    assert Wanted()(path)


@pytest.mark.parametrize(
    "path",
    [
        "notes.txt",
        "media/upload.html",
        "static/app.js",
        "db.sqlite3",
        "locale/de/LC_MESSAGES/django.po",
        "templates.txt",
        ".venv/lib/main.py",
        ".git/.env",
        "venv/lib/python3.12/site-packages/django/templates/a.html",
        "node_modules/a/main.py",
        ".hidden.py",
        "main.pyc",
        "pages/templates/.home.html.swp",
        "pages/templates/home.html~",
        "pages/templates/4913",
        "pages/templates/#home.html#",
        "pages/templates/home.html___jb_tmp___",
    ],
)
def test_what_is_not_watched(path: str) -> None:
    assert not Wanted()(path)


def test_patterns_that_are_watched_too() -> None:
    wanted = Wanted(["*.yaml", "conf/*.toml", "fixtures", ".flaskenv", "./data/seed/"])
    for path in (
        "a/b.yaml",
        "conf/a.toml",
        "x/conf/a.toml",
        "a/fixtures/b/c.bin",
        ".flaskenv",
        "data/seed/x/y",
        "a.py",
    ):
        assert wanted(path), path
    for path in ("a.toml", "conf/x/a.toml", "data/a", ".a.yaml", "node_modules/a.yaml"):
        assert not wanted(path), path


def test_patterns_that_are_not_watched_win() -> None:
    wanted = Wanted(["*.yaml", "static"], ["media", "*_gen.py", "site/data", "*.mo", ".env"])
    for path in ("media/a.py", "a/media/b.yaml", "x_gen.py", "site/data/a/b.py", "a.mo", ".env"):
        assert not wanted(path), path
    for path in ("a.py", "data/a.py", "a.yaml", "static/app.js"):
        assert wanted(path), path


def test_what_is_never_watched_can_be_by_its_own_pattern() -> None:
    assert Wanted([".*"])(".hidden.py")
    assert Wanted(["node_modules"])("node_modules/a/b.js")


def test_several_folders_each_by_what_is_below_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    main_folder, library = tmp_path / "site", tmp_path / "site" / "node_modules" / "library"
    library.mkdir(parents=True)
    caplog.set_level(logging.INFO)

    async def main() -> None:
        watching = Watching(library)
        watching.reloader._folders.insert(0, str(main_folder))
        await watching.started()
        caplog.clear()
        (library / "part.py").write_text("x = 1")
        await watching.next_restart()
        (main_folder / "node_modules" / "other.py").write_text("x = 1")
        (main_folder / "main.py").write_text("x = 1")
        while "main.py changed: restarting the workers" not in caplog.messages:
            await watching.next_restart()
        await watching.stop()

    run(main)
    assert "part.py changed: restarting the workers" in caplog.messages
    assert "other.py" not in caplog.text


def test_a_folder_below_one_that_is_ignored_is_watched(tmp_path: Path) -> None:
    folder = tmp_path / "node_modules" / "site"
    folder.mkdir(parents=True)

    async def main() -> None:
        watching = Watching(folder)
        await watching.started()
        await watching.stop()

    run(main)


def test_files_that_are_written_together_restart_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> int:
        watching = Watching(tmp_path)
        await watching.started()
        caplog.clear()
        before = watching.restarts
        for number in range(50):
            (tmp_path / f"module_{number:02}.py").write_text("x = 1")
        await watching.next_restart()
        await watching.stop()
        return watching.restarts - before

    assert run(main) <= 2
    assert any("module_00.py and 49 more changed" in message for message in caplog.messages)


def test_a_folder_that_does_not_exist_is_logged_and_stops_cleanly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        watching = Watching(tmp_path / "missing")
        watching.reloader.start()
        await watching.stop()

    run(main)
    assert "so changes are not noticed" in caplog.text


def test_a_restart_that_fails_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        watching = Watching(tmp_path)
        await watching.started()

        def fail() -> None:
            raise RuntimeError("no processes left")

        watching.reloader._restart = fail
        task: Any = watching.reloader._task
        (tmp_path / "x.py").write_text("")
        await task
        await watching.stop()

    run(main)
    assert "no processes left" in caplog.text


def test_stop_before_start() -> None:
    async def main() -> None:
        await (
            Reloader(["."], Wanted(), lambda: None, asyncio.get_running_loop())
            .stop()
            .asFuture(asyncio.get_running_loop())
        )

    run(main)


def test_watchfiles_is_not_imported_until_it_is_asked_for() -> None:
    text = "import sys, ifserver.process.reload; sys.exit('watchfiles' in sys.modules or 'anyio' in sys.modules)"
    subprocess.run([sys.executable, "-c", text], check=True, env={**os.environ, "PYTHONPATH": ROOT})
    tops = {node for node in ast.parse(inspect.getsource(reload)).body if isinstance(node, ast.Import | ast.ImportFrom)}
    assert "watchfiles" not in {getattr(node, "module", None) for node in tops}
