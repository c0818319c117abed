"""``manage.py ifserver``: the command ``ifserver``, with the settings of the Django project."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, SystemCheckError
from django.db import connections

from ifserver.config import arguments
from ifserver.config.command_line import COMMANDS, VIEWERS
from ifserver.config.sources import PROJECT_VARIABLE, encode_project
from ifserver.django import checks, launch
from ifserver.django.launch import application_of
from ifserver.errors import ConfigurationError

__all__ = ["Command"]

#: What this command takes itself; everything else is for ifserver.
_OWN: Final = ("--settings", "--pythonpath")
_OWN_SWITCHES: Final = ("--traceback", "--no-color", "--force-color", "--skip-checks", "--version", "--help", "-h")
#: Exit code for what has to be corrected first, as of the command ifserver: service managers do not try it again.
_TO_CORRECT: Final = 2
#: The commands for which the site must be fit.
_SERVE: Final = ("run", "serve", "worker")


class Command(BaseCommand):  # type: ignore[misc]
    """The command ``ifserver``, whose settings may stand in Django's: ``IFSERVER = {"front": {...}, ...}``."""

    help = (
        "Runs the site with ifserver, for production: ifserver run, with ASGI_APPLICATION, or else WSGI_APPLICATION. "
        "Options are those of ifserver run (--help-all shows them). A flag takes precedence over a "
        "variable (IFSERVER_...), that over ifserver.toml, and that over IFSERVER in Django's settings. Other commands "
        "of ifserver may be given: manage.py ifserver worker, serve, settings, check, publish, status, top, pause, "
        "resume, pool."
    )
    #: A worker would import the whole site for them; ours look at settings alone.
    requires_system_checks = ()

    def run_from_argv(self, argv: list[str]) -> None:
        own, words = _divided(argv[2:])
        super().run_from_argv([*argv[:2], *own, "--", *words])

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--skip-checks", action="store_true", help="Skip the system checks of ifserver.")
        parser.add_argument("words", nargs="*", metavar="OPTIONS", help="of ifserver")

    def handle(self, *args: Any, **options: Any) -> None:
        words = list(options["words"])
        if not words or words[0] not in (*COMMANDS, *VIEWERS):
            words.insert(0, "run")
        serves = words[0] in _SERVE
        if serves and not settings.DEBUG and not settings.ALLOWED_HOSTS:
            raise CommandError("You must set settings.ALLOWED_HOSTS if DEBUG is False.", returncode=_TO_CORRECT)
        environ = dict(os.environ)
        try:
            environ[PROJECT_VARIABLE] = encode_project(_tables(), _defaults())
            if words[0] not in VIEWERS:
                # What is wrong is said before this process is gone.
                configuration = arguments.parse(words, environ).configuration
                checks.use(configuration)
        except ConfigurationError as error:
            raise CommandError(str(error), returncode=_TO_CORRECT) from error
        if serves and not options["skip_checks"]:
            try:
                self.check(tags=[checks.TAG], include_deployment_checks=True)
            except SystemCheckError as error:
                error.returncode = _TO_CORRECT
                raise
            if settings.DEBUG:
                self.stderr.write(
                    self.style.WARNING("WARNING: DEBUG is on: every visitor may see your settings and code.")
                )
        extra = [path for path in _paths() if path not in environ.get("PYTHONPATH", "").split(os.pathsep)]
        if extra:
            environ["PYTHONPATH"] = os.pathsep.join([*extra, *filter(None, [environ.get("PYTHONPATH")])])
        connections.close_all()
        if getattr(self, "_called_from_command_line", False):
            launch.become(words, environ)
        status = launch.child(words, environ, ())
        if status:
            raise CommandError("ifserver has ended with an error", returncode=status)


def _divided(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is for Django, and what is for ifserver."""
    own: list[str] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in _OWN:
            own += [word, *[value for value in [next(rest, None)] if value is not None]]
        elif word.partition("=")[0] in _OWN or word in _OWN_SWITCHES:
            own.append(word)
        else:
            others.append(word)
    return own, others


def _tables() -> Any:
    tables = getattr(settings, "IFSERVER", {})
    if not isinstance(tables, dict):
        raise ConfigurationError(f"IFSERVER: expected a dict of sections, got {type(tables).__name__}")
    return tables


def _defaults() -> dict[str, Any]:
    """What follows from other settings of Django, where nobody says otherwise."""
    worker = {"app_dir": _folder()}
    application = application_of(use_asgi=True) or application_of(use_asgi=False)
    if application is not None:
        worker["application"] = application
    return {"worker": worker}


def _folder() -> str:
    """Where ``manage.py`` is."""
    return os.path.abspath(sys.path[0]) if sys.path and os.path.isdir(sys.path[0] or ".") else os.getcwd()


def _paths() -> list[str]:
    """Folders that ``manage.py`` or ``--pythonpath`` has put into ``sys.path``, which a new Python has not."""
    prefixes = {Path(prefix) for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    return [
        path
        for path in sys.path[1:]
        if os.path.isdir(path) and not any(Path(path).is_relative_to(prefix) for prefix in prefixes)
    ]
