"""How ``manage.py`` becomes ifserver: it replaces itself by the command ``ifserver run``.

``manage.py`` has imported the settings and the models by the time its command runs. A worker that was forked from it
would go on with that code after every edit, and threads that apps have started would not be there. So ``manage.py``
executes the command (execve(2)): the process keeps its id and its terminal, the server and the fork server contain no
code of the site, and each worker imports it anew. The site is not imported a second time for system checks: a worker
does them, with the code that it has loaded (`ifserver.django.serving`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Final

import msgspec
from django.conf import settings

from ifserver.process import children, own_process

__all__ = ["NO_THREADING", "LaunchOptions", "application_of", "become", "child", "command_line", "take_told", "tell"]

#: Tells the workers of ``runserver`` what was asked for.
VARIABLE: Final = "IFSERVER_RUNSERVER"
#: What ``runserver`` says of an option that ASGI leaves without a meaning.
NO_THREADING: Final = "--nothreading is for WSGI: with ASGI, add --noasgi."


class LaunchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the workers of ``manage.py runserver`` are told."""

    #: ``sys.argv`` and ``sys.path`` of ``manage.py``, which settings may look at, and apps may need.
    argv: tuple[str, ...]
    path: tuple[str, ...]
    #: Whether ASGI_APPLICATION is run where the settings name one, and WSGI in more than one thread.
    use_asgi: bool
    use_threading: bool
    #: The application that answers HTTP beside that of WebSockets.
    http: str | None
    #: ``IFSERVER`` of the settings, as it was when ``runserver`` started.
    project: str
    #: Where clients find the server.
    url: str
    #: A pipe with one byte, and its number in the kernel. The worker that gets the byte says that the server runs.
    first_fd: int
    first_inode: int
    #: Whether an edit replaces the workers.
    reload: bool
    #: Whether static files are served: where DEBUG is on, and where it is not.
    static: bool
    insecure: bool
    skip_checks: bool
    no_color: bool
    force_color: bool
    #: Whether the worker may read from the terminal, for debuggers.
    terminal: bool


def tell(what: LaunchOptions) -> dict[str, str]:
    """The variables by which the workers are told."""
    return {VARIABLE: msgspec.json.encode(what).decode()}


def take_told(environ: MutableMapping[str, str]) -> LaunchOptions:
    """In a worker: what it was told, which is no affair of the processes that it starts."""
    return msgspec.json.decode(environ.pop(VARIABLE), type=LaunchOptions)


def application_of(use_asgi: bool) -> str | None:
    """What the settings name as application, as ``MODULE:ATTRIBUTE``; None: they name none."""
    name = getattr(settings, "ASGI_APPLICATION" if use_asgi else "WSGI_APPLICATION", None)
    if name is None:
        return None
    return ":".join(str(name).rsplit(".", 1))


def command_line(words: Sequence[str], module: str = "ifserver") -> list[str]:
    """What starts the command ``ifserver`` with these arguments, by a Python with the options of this one (``-X``)."""
    python, *rest = [*children.program()[:-1], module]
    return [python, *subprocess._args_from_interpreter_flags(), *rest, *words]  # type: ignore[attr-defined]


def become(words: Sequence[str], environ: Mapping[str, str]) -> None:
    """Be the command ``ifserver`` from now on. Does not return.

    Raises:
        OSError: it cannot be executed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    command = command_line(words)
    own_process.postpone()
    os.execve(command[0], command, dict(environ))


def child(words: Sequence[str], environ: Mapping[str, str], fds: Sequence[int]) -> int:
    """Run the command as a child of this process, which goes on behind it; the exit code.

    It ends with this process, which may be killed while it waits.

    Args:
        fds: what the child inherits.
    """
    command = command_line([str(os.getpid()), *words], "ifserver.testing.child")
    process = subprocess.Popen(command, env=dict(environ), pass_fds=fds)
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                pass  # Ctrl-C has reached the child as well, which ends now
    finally:
        process.kill()
        process.wait()
