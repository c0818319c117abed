"""The recordings: ``kill -9`` under an open chat, and an edit under an open chat."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from playwright.sync_api import BrowserContext

from tests.e2e.running import ROOT, Running
from tools.pictures.stage import CARET, Stage, classed

__all__ = ["edit", "kill"]

#: Where the edit is made: below this line another is typed.
_EDITED: Final = "pages/consumers.py"
_BELOW: Final = "        message = await store(*said)\n"
_TYPED: Final = '        message["text"] = message["text"].upper()'
#: What the editor shows: lines before that one, and after it.
_BEFORE, _AFTER = 7, 2
#: What stands out in a log, and how.
_KILLED: Final = (("fault", "was killed"), ("news", "is ready"), ("news", "resum"))
_EDITS: Final = (("news", "RESUME"), ("news", "changed"))


def kill(context: BrowserContext, scheme: str, folder: Path) -> Stage:
    """Two people chat. ``kill -9`` of the only worker, and they go on."""
    command = ["run", "demo.asgi:application", "-p", "0", "--workers", "1", "--resumable", "/chat/*"]
    data = {"DJANGO_SITE_DATA": str(folder / "data")}
    with Running(*command, app_dir=ROOT / "examples/django_site", environment=data) as site:
        stage = Stage(context, scheme)
        ada, grace = stage.invite(f"{site.ready().url}/chat/", "Ada", "Grace")
        shown = f"ifserver run demo.asgi:application --workers 1 --resumable '/chat/*' -p {site.port}"
        stage.call("addPane", _pane("terminal", "Terminal", shown, ("log", "shell"), 6))
        _follow(stage, site, "terminal", _KILLED, 4)

        def shell(line: str) -> None:
            stage.call("setLines", {"name": "terminal", "kind": "shell", "lines": [["", f"$ {line}"]]})

        shell(CARET)
        stage.crop()
        ada.says("Hello Grace, can you read this?")
        grace.hears("can you read this")
        grace.says("Yes, every word.")
        ada.hears("every word")
        stage.frames.clear()
        stage.hold(1.5)
        ada.types("Still there?")
        [worker] = site.workers()
        line = f"kill -9 {worker}    # the only worker"
        stage.typed(shell, line)
        stage.hold(0.8)
        subprocess.run(["bash", "-c", line], check=True)
        shell(f"{line}\n$ {CARET}")
        ada.sends()  # to nobody, as yet
        stage.until(lambda: site.output.count(" is ready after ") == 2, "there is another worker")
        for person in (ada, grace):
            person.hears("Still there?")
        stage.hold(1.0)
        grace.says("Yes. Did something happen?")
        ada.hears("Did something happen?")
        stage.hold(2.0)
        _nobody_was_disconnected(stage)
        return stage


def edit(context: BrowserContext, scheme: str, folder: Path) -> Stage:
    """Two people chat. The consumer is edited and saved, and the next message is handled by the new code."""
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("data", "__pycache__"))
    project = folder / "examples/django_site"
    # Python takes what was compiled in the same second, and has the same length, for the same.
    environment = {"DJANGO_SITE_DATA": str(folder / "data"), "DJANGO_SITE_DEBUG": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, str(project / "manage.py"), "runserver", "0"]
    with Running(command, cwd=project, environment=environment) as site:
        address = site.said(r"development server at (http://\S+)/$")[1]
        stage = Stage(context, scheme)
        ada, grace = stage.invite(f"{address}/chat/", "Ada", "Grace")
        stage.call("addPane", _pane("editor", "Editor", _EDITED, ("editor",), 10))
        stage.call("addPane", _pane("terminal", "Terminal", "manage.py runserver", ("log",), 10))
        _follow(stage, site, "terminal", _EDITS, 12)
        path = project / _EDITED
        before, after = path.read_text("utf-8").split(_BELOW)

        def editor(typed: str | None) -> None:
            first, last = (before + _BELOW).splitlines()[-_BEFORE:], after.splitlines()[:_AFTER]
            rows = [("", line) for line in first]
            rows += [] if typed is None else [("now", typed)]
            stage.call("setLines", {"name": "editor", "kind": "editor", "lines": rows + [("", line) for line in last]})

        editor(None)
        stage.crop()
        ada.says("Hello Grace, can you read this?")
        grace.hears("can you read this")
        stage.frames.clear()
        stage.hold(1.5)
        stage.call("setDetail", {"name": "editor", "detail": f"{_EDITED}, not saved"})
        stage.typed(editor, _TYPED)
        stage.hold(1.0)
        path.write_text(f"{before}{_BELOW}{_TYPED}\n{after}", "utf-8")
        editor(_TYPED)
        stage.call("setDetail", {"name": "editor", "detail": f"{_EDITED}, saved"})
        stage.until(lambda: site.output.count(" RESUME ") >= 2, "the new worker has both WebSockets")
        grace.says("Yes. Why do you ask?")
        for person in (ada, grace):
            person.hears("YES. WHY DO YOU ASK?")
        stage.hold(1.0)
        ada.says("I have changed your code.")
        grace.hears("I HAVE CHANGED YOUR CODE.")
        stage.hold(2.0)
        _nobody_was_disconnected(stage)
        return stage


def _pane(name: str, title: str, detail: str, kinds: Sequence[str], lines: int) -> dict[str, object]:
    return {"name": name, "title": title, "detail": detail, "kinds": kinds, "lines": lines}


def _follow(stage: Stage, site: Running, name: str, looks: Sequence[tuple[str, str]], lines: int) -> None:
    """Show the last lines that the site has written in each frame."""

    def refresh() -> None:
        rows = classed(site.output.splitlines()[-lines:], looks)
        stage.call("setLines", {"name": name, "kind": "log", "lines": rows})

    stage.refresh = refresh


def _nobody_was_disconnected(stage: Stage) -> None:
    """What the picture is to show."""
    for person in stage.people:
        measured = person.measured()
        assert measured["closed"] == 0, measured
        assert measured["open_s"] is not None, measured
