"""``manage.py runserver``: Django's, with ifserver in place of its server and its reloader."""

from __future__ import annotations

import argparse
import errno
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core.management.base import CommandError
from django.core.management.commands import runserver
from django.db import connections

from ifserver.config.sources import PROJECT_VARIABLE, encode_project, from_django
from ifserver.config.values import NONE
from ifserver.django import launch
from ifserver.django.launch import application_of
from ifserver.errors import ConfigurationError

__all__ = ["Command"]

#: Nobody waits for a developer who has stopped at a breakpoint.
_FOREVER: Final = "24h"
#: What of ``IFSERVER`` means nothing here, beside all but the sections below: where the server is, who sees it, and how
#: many there are. The limits for clients and applications are those of production.
_SECTIONS: Final = ("front", "worker")
_NOT_HERE: Final = (
    "access_log", "admin", "app_dir", "application", "drain_timeout_s", "factory", "interface", "pools", "processes",
    "proxy_protocol", "response_timeout_s", "shutdown_delay_s", "stall_timeout_s",
    "websocket_connect_timeout_s",
)  # fmt: skip
#: What is watched beside the rest, and what is not.
_WATCH: Final = ("reload_include", "reload_exclude")
#: In Django's words.
_ERRORS: Final = {
    errno.EACCES: "You don't have permission to access that port.",
    errno.EADDRINUSE: "That port is already in use.",
    errno.EADDRNOTAVAIL: "That IP address can't be assigned to.",
}
#: Verbosity of Django's commands -> settings of our log.
_LOG: Final = {0: ("0", "short"), 1: ("1", "short"), 2: ("1", "human"), 3: ("2", "human")}


class Command(runserver.Command):  # type: ignore[misc]
    """Options and output are Django's and Daphne's."""

    help = "Runs the site with ifserver, for development: an edit replaces the code and closes no connection."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--noasgi",
            action="store_false",
            dest="use_asgi",
            help="Run WSGI_APPLICATION, also where there is an ASGI_APPLICATION.",
        )
        parser.add_argument(
            "--http",
            metavar="MODULE:APPLICATION",
            help="Have this WSGI application answer HTTP, in threads, and ASGI_APPLICATION the WebSockets alone. "
            "Default: worker.http of IFSERVER.",
        )
        parser.add_argument(
            "--http_timeout", type=int, help="Seconds until the response to a request must begin (default: no timeout)"
        )
        parser.add_argument(
            "--websocket_handshake_timeout",
            type=int,
            help="Seconds until a WebSocket must be accepted (default: no timeout)",
        )
        parser.add_argument(
            "--websocket-max-message-size", type=int, help="Largest WebSocket message of a client, in bytes."
        )
        parser.add_argument("--websocket-max-frame-size", type=int, help=argparse.SUPPRESS)
        if apps.is_installed("django.contrib.staticfiles"):
            parser.add_argument(
                "--nostatic",
                action="store_false",
                dest="use_static_handler",
                help="Tells Django to NOT automatically serve static files at STATIC_URL.",
            )
            parser.add_argument(
                "--insecure",
                action="store_true",
                dest="insecure_serving",
                help="Allows serving static files even if DEBUG is False.",
            )

    def run(self, **options: Any) -> None:
        """Become ``ifserver run``; Django has looked at the address."""
        if options.get("shutdown_message"):
            # That is ``testserver``, whose database is known in this process alone: Django's own server has to do.
            super().run(**options)
            return
        use_asgi = options["use_asgi"] and application_of(use_asgi=True) is not None
        folder, project = _folder(), _project()
        include, exclude = (_listed(project.get("worker", {}).pop(name, ())) for name in _WATCH)
        environ = _environment(os.environ)
        http = _take_http(project, environ)
        if not use_asgi:
            if options["http"] is not None:
                raise CommandError("--http is for a site that runs an ASGI_APPLICATION beside it.")
            http = None
        elif options["http"] is not None:
            http = options["http"]
        if use_asgi and not options["use_threading"]:
            raise CommandError(launch.NO_THREADING)
        words = [*_words(options, folder), *_limits(options)]
        if http is not None:
            words += ["--http", "ifserver.django.serving:http()"]
        with self._bound() as sock:
            first = _byte()
            words += ["--fd", str(sock.fileno())]
            if options["use_reloader"]:
                watched = list(dict.fromkeys(_watched(folder)))
                words += ["--reload", *_flags("--reload-dir", watched)]
                words += _flags("--reload-include", (*_template_names(), *include))
                words += _flags("--reload-exclude", exclude)
                self.stdout.write(f"Watching for file changes in {', '.join(watched)}")
            environ = {
                **environ,
                PROJECT_VARIABLE: encode_project(project, {}),
                **launch.tell(self._told(options, http, sock.getsockname()[1], first)),
            }
            connections.close_all()
            self.stdout.flush()
            if getattr(self, "_called_from_command_line", False):
                for fd in (sock.fileno(), first):
                    os.set_inheritable(fd, True)
                launch.become(words, environ)
            # Somebody's own command goes on behind this one.
            status = launch.child(words, environ, (sock.fileno(), first))
            os.close(first)
            if status:
                raise CommandError("ifserver has ended with an error", returncode=status)

    def get_handler(self, *args: Any, **options: Any) -> Any:
        """For ``testserver``: the site with its static files."""
        handler = super().get_handler(*args, **options)
        if options.get("use_static_handler") and (settings.DEBUG or options.get("insecure_serving")):
            from django.contrib.staticfiles.handlers import StaticFilesHandler

            return StaticFilesHandler(handler)
        return handler

    def _told(self, options: Mapping[str, Any], http: str | None, port: int, first: int) -> launch.LaunchOptions:
        """What the workers are told."""
        return launch.LaunchOptions(
            argv=tuple(sys.argv),
            path=tuple(sys.path),
            use_asgi=options["use_asgi"],
            use_threading=options["use_threading"],
            http=http,
            project=encode_project(getattr(settings, "IFSERVER", {}), {}),
            url=f"{self.protocol}://{self._shown_address()}:{port}/",
            first_fd=first,
            first_inode=os.fstat(first).st_ino,
            reload=options["use_reloader"],
            static=options.get("use_static_handler", False),
            insecure=options.get("insecure_serving", False),
            skip_checks=options["skip_checks"],
            no_color=options["no_color"],
            force_color=options["force_color"],
            terminal=sys.stdin is not None and sys.stdin.isatty(),
        )

    def _bound(self) -> socket.socket:
        """A socket that listens at the address. From now on browsers may connect: they wait for the first worker."""
        sock = socket.socket(socket.AF_INET6 if self.use_ipv6 else socket.AF_INET)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self.addr, int(self.port)))
            sock.listen(socket.SOMAXCONN)
        except (OSError, OverflowError) as error:
            number = error.errno if isinstance(error, OSError) else None
            self.stderr.write(f"Error: {_ERRORS.get(number or 0, error)}")
            sys.exit(1)
        return sock

    def _shown_address(self) -> str:
        if self._raw_ipv6:
            return f"[{self.addr}]"
        return "0.0.0.0" if self.addr == "0" else str(self.addr)


def _byte() -> int:
    """A pipe with one byte in it."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"1")
    os.close(write_end)
    return read_end


def _listed(value: Any) -> list[Any]:
    """A list, of which one value may be given as that value."""
    return [value] if isinstance(value, str) else list(value)


def _flags(name: str, values: Iterable[object]) -> list[str]:
    return [word for value in values for word in (name, str(value))]


def _words(options: Mapping[str, Any], folder: str) -> list[str]:
    """The arguments of ``ifserver``, but for where it listens and what it watches."""
    verbosity, log_format = _LOG[options["verbosity"]]
    return [
        "run",
        "ifserver.django.serving:site()",
        *("--config", os.devnull, "--app-dir", folder, "--workers", "1"),
        *("--verbosity", verbosity, "--log-format", log_format, "--log-to", "stderr"),
        *("--front-drain-timeout", "0", "--stall-timeout", _FOREVER),
        *(() if options["use_threading"] else ("--threads", "1")),
    ]


def _limits(options: Mapping[str, Any]) -> list[str]:
    """What Daphne's options are called here."""
    if options["websocket_max_frame_size"] is not None:
        raise CommandError(
            "--websocket-max-frame-size: ifserver limits whole messages, however many frames they have: "
            "give --websocket-max-message-size."
        )
    words = []
    for option, name in (
        ("http_timeout", "--response-timeout"),
        ("websocket_handshake_timeout", "--websocket-connect-timeout"),
    ):
        seconds = options[option]
        if seconds is not None and seconds < 1:
            raise CommandError(f"--{option}: must be at least 1 second, got {seconds}.")
        words += [name, _FOREVER if seconds is None else str(seconds)]
    size = options["websocket_max_message_size"]
    if size is None:
        size = getattr(settings, "DAPHNE_WEBSOCKET_MAX_MESSAGE_SIZE", None)
    if size is not None:
        if size < 1:
            raise CommandError(
                f"--websocket-max-message-size: there is always a limit: give the largest size in bytes, got {size}."
            )
        words += ["--front-max-websocket-message-bytes", str(size)]
    return words


def _project() -> dict[str, Any]:
    """What of ``IFSERVER`` in the settings holds while code is written."""
    tables = getattr(settings, "IFSERVER", {})
    try:
        from_django(tables)
    except ConfigurationError as error:
        raise CommandError(str(error)) from error
    return {
        section: {
            name: value
            for name, value in tables[section].items()
            if name in _WATCH or not name.startswith((*_NOT_HERE, "reload"))
        }
        for section in _SECTIONS
        if section in tables
    }


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what says where a server in production listens."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith("IFSERVER_LISTEN_") and name != "IFSERVER_CONFIG"
    }


def _take_http(project: Mapping[str, Any], environ: dict[str, str]) -> str | None:
    """The application that answers HTTP beside ``ASGI_APPLICATION`` (``worker.http``), or None. Neither says it any
    more."""
    given: object = project.get("worker", {}).pop("http", None)
    given = environ.pop("IFSERVER_WORKER_HTTP", given)
    return None if given in (None, NONE) else str(given)


# What is watched.


def _folder() -> str:
    """Where ``manage.py`` is."""
    first = sys.path[0] if sys.path else ""
    return os.path.abspath(first) if os.path.isdir(first or ".") else os.getcwd()


def _watched(folder: str) -> Iterator[str]:
    """The folders where an edit counts: the project's, and those of apps that are developed beside it."""
    yield folder
    for app in apps.get_app_configs():
        path = Path(app.path).resolve()
        installed = any(part in ("site-packages", "dist-packages") for part in path.parts)
        if not (installed or path.is_relative_to(Path(folder).resolve()) or _is_ours_or_djangos(app.name)):
            yield str(path)


def _is_ours_or_djangos(name: str) -> bool:
    return name.partition(".")[0] in ("django", "ifserver")


def _template_names() -> Iterator[str]:
    """The names of the folders with templates, of which those named ``templates`` are watched anyway."""
    for engine in settings.TEMPLATES:
        for each in engine.get("DIRS", ()):
            yield Path(each).name
