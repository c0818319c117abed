"""What a site is here: the folder that its own starter makes, some files over it, and scenarios that its users know.

A scenario is a function that talks to a site that is served, as its users do, and asserts what they should see.
"""

from __future__ import annotations

import enum
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.foreign.ways import Served

__all__ = ["PASSWORD", "USER", "Needs", "Project", "Scenario", "Site"]

OVERLAYS = Path(__file__).resolve().parent / "overlays"
#: Who may do anything in each site.
USER = "ada"
PASSWORD = "correct horse"


class Needs(enum.Flag):
    """What a scenario needs of the way in which its site is served."""

    NOTHING = 0
    #: Views that are async, or streams without an end: HTTP by ASGI.
    ASGI = enum.auto()
    #: HTTP by WSGI.
    WSGI = enum.auto()
    #: WebSockets, whoever runs HTTP.
    SOCKETS = enum.auto()
    #: ``manage.py runserver``.
    RUNSERVER = enum.auto()
    #: ifserver in production, whose workers may be killed.
    WORKERS = enum.auto()


@dataclass(frozen=True)
class Scenario:
    """One thing that works, or does not."""

    name: str
    run: Callable[[Served], None]
    needs: Needs


@dataclass
class Site:
    """A site that nobody here wrote.

    Args:
        name: also of its folder below ``overlays``, whose files are put over those of the starter.
        start: the command that makes it in the current folder; its first word is a program of the environment.
        apps: those of the overlay that have models.
        settings: the file to whose end the settings of the overlay are added.
        environment: for all its processes.
    """

    name: str
    start: Sequence[str] = ("django-admin", "startproject", "mysite", ".")
    settings: str = "mysite/settings.py"
    apps: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    scenarios: list[Scenario] = field(default_factory=list)

    def scenario(self, name: str, needs: Needs = Needs.NOTHING) -> Callable[[Callable[[Served], None]], None]:
        """Decorates a function that is a scenario of this site."""

        def add(run: Callable[[Served], None]) -> None:
            self.scenarios.append(Scenario(name, run, needs))

        return add

    def made(self, folder: Path) -> Project:
        """Make the site in a folder, with its database, its static files and one user.

        Raises:
            subprocess.CalledProcessError: a command of the site has failed; its output was shown.
        """
        folder.mkdir(parents=True)
        program, *words = self.start
        subprocess.run([str(Path(sys.executable).with_name(program)), *words], cwd=folder, check=True)
        settings = folder / self.settings
        tails = [OVERLAYS / "settings.py", OVERLAYS / self.name / "settings.py"]
        settings.write_text("\n\n".join([settings.read_text(), *(path.read_text() for path in tails)]))
        for source in (OVERLAYS / "common", OVERLAYS / self.name / "files"):
            shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        project = Project(self, folder)
        if self.apps:
            project.manage("makemigrations", *self.apps)
        for command in ("migrate", "collectstatic --no-input", "createsuperuser --no-input"):
            project.manage(*command.split(), "-v", "0")
        return project


@dataclass(frozen=True)
class Project:
    """A site in its folder."""

    site: Site
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Of all its processes. ifserver is the one that is installed, not the one around these tests."""
        return {
            "PYTHONPATH": "",
            # Python takes what was compiled in the same second, and has the same length, for the same.
            "PYTHONDONTWRITEBYTECODE": "1",
            "DJANGO_SUPERUSER_USERNAME": USER,
            "DJANGO_SUPERUSER_EMAIL": "ada@example.com",
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
            **self.site.environment,
        }

    def command(self, *words: str) -> list[str]:
        """The command line of ``manage.py`` with these words."""
        return [sys.executable, str(self.folder / "manage.py"), *words]

    def manage(self, *words: str, **environment: str) -> str:
        """Run ``manage.py``; what it writes.

        Raises:
            subprocess.CalledProcessError: it has failed; its output was shown.
        """
        done = subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env={**os.environ, **self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            print(done.stdout, flush=True)
            done.check_returncode()
        return done.stdout
