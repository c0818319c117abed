"""The application of a worker of ``manage.py runserver``: the site's own, with what runserver adds to it.

``site`` and ``http`` are factories, which ``ifserver run`` is given. Each worker calls one of them: after every edit
Django is set up anew, checks the system, and says what it finds as ``runserver`` does. What cannot be loaded is the
error that ``--reload`` shows in the terminal and in the browser.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any, Final

import django
from django.apps import apps
from django.conf import settings
from django.core.management.base import BaseCommand, SystemCheckError
from django.db import connections
from django.utils import autoreload

from ifserver import __version__
from ifserver.config.sources import encode_project
from ifserver.django import launch
from ifserver.django.launch import LaunchOptions, application_of
from ifserver.django.request_log import log_asgi, log_wsgi
from ifserver.errors import ConfigurationError
from ifserver.worker.application import import_failed, load

__all__ = ["http", "site"]

_COLORS: Final = re.compile(r"\x1b\[[0-9;]*m")
#: Whose frames are of no interest where a traceback begins: Django's, ours, and those of the import system.
_FOREIGN: Final = (
    *(f"{Path(str(module.__file__)).parent}/" for module in (django, launch, importlib)),
    "<frozen importlib",
)
#: What no new worker can do.
_CHANGED: Final = "IFSERVER in the settings has changed. It is read only when runserver starts: restart it."
#: Hides Django's own warning that runserver is for development, and ours.
_HIDE_WARNING: Final = "DJANGO_RUNSERVER_HIDE_WARNING"


def site() -> Any:
    """The site of ``ASGI_APPLICATION``, else that of ``WSGI_APPLICATION``, or Django's own where there is none."""
    return _made()


def http() -> Any:
    """The application of HTTP for a pool beside that of `site`, whose workers say what there is to say."""
    return _made(beside=True)


def _made(beside: bool = False) -> Any:
    """Set up Django, check the system, and load the application.

    Args:
        beside: whether it is that of a pool beside another one.

    Raises:
        ConfigurationError: the site cannot be loaded.
    """
    told = launch.take_told(os.environ)
    sys.argv, sys.path[:] = list(told.argv), told.path
    if told.reload:
        # As in the process that Django's own reloader starts, which projects look at.
        os.environ[autoreload.DJANGO_AUTORELOAD_ENV] = "true"
    if told.terminal:
        _read_terminal()
    subject = "django.setup()"
    try:
        django.setup()
        # Not what the settings named when runserver started: an edit may have brought ASGI_APPLICATION.
        use_asgi = not beside and told.use_asgi and application_of(use_asgi=True) is not None
        if use_asgi and not told.use_threading:
            raise ConfigurationError(launch.NO_THREADING)
        named = told.http if beside else application_of(use_asgi)
        subject = f"application {named!r}" if named is not None else "Django's WSGI application"
        output = StringIO() if beside else None
        command = BaseCommand(output, output, no_color=told.no_color, force_color=told.force_color)
        if not told.skip_checks:
            command.stdout.write("Performing system checks...\n\n")
            command.check(display_num_errors=True)
        if not beside and encode_project(getattr(settings, "IFSERVER", {}), {}) != told.project:
            command.stdout.write(command.style.WARNING(_CHANGED))
        application = _served(told, use_asgi, named)
    except SystemCheckError as error:
        text = str(error)
        if not told.reload:
            command.stderr.write(text, lambda text: text)
            text = "SystemCheckError: see above"
        raise ConfigurationError(_COLORS.sub("", text)) from None
    except BaseException as error:  # it may even exit
        if isinstance(error, ConfigurationError) and error.__cause__ is None:
            raise  # its line says it all
        failure = error if isinstance(error, ConfigurationError) else import_failed(subject, error)
        cause = _shortened(error.__cause__ or error)
        if not told.reload:
            traceback.print_exception(cause)
        raise failure from cause
    if beside:
        return application
    # Nobody need wait for this: it may import hundreds of migrations, and asks the database.
    threading.Thread(target=_introduce, args=(told, command, use_asgi), name="migrations", daemon=True).start()
    return application


def _shortened(error: BaseException) -> BaseException:
    """`error`, whose traceback begins with the site's own code where there is any."""
    own = error.__traceback__
    while own is not None and own.tb_frame.f_code.co_filename.startswith(_FOREIGN):
        own = own.tb_next
    # The place of a syntax error is no frame.
    return error.with_traceback(own) if own is not None or isinstance(error, SyntaxError) else error


def _read_terminal() -> None:
    """Let debuggers read from the terminal, whose input workers do not have."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    os.dup2(terminal, 0)
    os.close(terminal)
    # A debugger may have ended without putting it back.
    autoreload.ensure_echo_on()


def _served(told: LaunchOptions, use_asgi: bool, named: str | None) -> Any:
    """The application `named`, or Django's own, with static files and the log of requests around it."""
    application: Any
    if named is not None:
        application = load(named, os.getcwd() if not told.path[0] else told.path[0], "asgi" if use_asgi else "wsgi")
    else:
        from django.core.wsgi import get_wsgi_application

        application = get_wsgi_application()
    if told.static and apps.is_installed("django.contrib.staticfiles") and (settings.DEBUG or told.insecure):
        from django.contrib.staticfiles import handlers

        around = handlers.ASGIStaticFilesHandler if use_asgi else handlers.StaticFilesHandler
        application = around(application)
    wrap: Callable[[Any], Any] = log_asgi if use_asgi else log_wsgi
    return wrap(application)


def _introduce(told: LaunchOptions, command: BaseCommand, use_asgi: bool) -> None:
    """In a thread: look for migrations; then, once, say where the server is."""
    try:
        command.check_migrations()
    except Exception as error:
        command.stderr.write(f"The migrations cannot be checked: {type(error).__name__}: {str(error).strip()}")
    finally:
        connections.close_all()
    if not _is_first(told):
        return
    beside = f"HTTP is answered by {told.http} (WSGI)\n" if told.http is not None else ""
    command.stdout.write(
        f"{datetime.now():%B %d, %Y - %X}\n"
        f"Django version {django.get_version()}, using settings {settings.SETTINGS_MODULE!r}\n"
        f"Starting {'ASGI' if use_asgi else 'WSGI'}/ifserver version {__version__} development server at {told.url}\n"
        f"{beside}"
        "Quit the server with CONTROL-C."
    )
    if os.environ.get(_HIDE_WARNING) != "true":
        command.stdout.write(
            command.style.WARNING(
                "WARNING: This is a development server. Do not use it in a production setting. For production, run: "
                "manage.py ifserver"
            )
        )


def _is_first(told: LaunchOptions) -> bool:
    """Whether no worker has said before where the server is."""
    try:
        return os.fstat(told.first_fd).st_ino == told.first_inode and os.read(told.first_fd, 1) != b""
    except OSError:
        return False
