"""The ways in which each site is served: ifserver's, and those of the servers beside it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.e2e.running import LIMIT_S, Running, eventually
from tests.foreign.site import Needs, Project
from tests.redis_server import RedisServer

__all__ = ["PEERS", "WAYS", "Served", "Way", "serving"]

_ASGI: Final = "mysite.asgi:application"
_WSGI: Final = "mysite.wsgi:application"
_BOTH: Final = Needs.ASGI | Needs.SOCKETS
#: Where they say where they listen.
_LISTENS: Final = (
    r"(?:listening on .*?|development server at |Uvicorn running on |Listening at: )http://127\.0\.0\.1:(\d+)"
    r"|Listening on TCP address 127\.0\.0\.1:(\d+)"
)


@dataclass(frozen=True)
class Way:
    """How a site is served.

    Args:
        offers: what scenarios may need.
        commands: each starts a process; the first one listens. Those that begin with ``manage.py`` are commands of the
            site, others are programs of the environment.
        redis: whether servers and workers talk through Redis.
        environment: variables of all processes.
    """

    name: str
    offers: Needs
    commands: Sequence[str]
    redis: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    def can(self, needs: Needs) -> bool:
        """Whether a scenario can be run that needs this."""
        return needs in self.offers


#: WebSockets by ASGI, HTTP by WSGI.
_POOLS: Final = Needs.SOCKETS | Needs.WSGI
WAYS: Final = (
    Way("runserver", _BOTH | Needs.RUNSERVER, ("manage.py runserver 127.0.0.1:0",)),
    Way("runserver --noasgi", Needs.WSGI | Needs.RUNSERVER, ("manage.py runserver 127.0.0.1:0 --noasgi",)),
    Way("runserver --http", _POOLS | Needs.RUNSERVER, (f"manage.py runserver 127.0.0.1:0 --http {_WSGI}",)),
    Way("run", _BOTH | Needs.WORKERS, ("manage.py ifserver -p 0 -w 2",)),
    Way("run, WSGI", Needs.WSGI | Needs.WORKERS, (f"ifserver run {_WSGI} -p 0 -w 2 --threads 4",)),
    Way("run --http", _POOLS | Needs.WORKERS, (f"manage.py ifserver -p 0 -w 1 --http {_WSGI} --threads 4",)),
    Way(
        "Redis", _BOTH | Needs.WORKERS, ("manage.py ifserver serve -p 0", "manage.py ifserver worker -w 2"), redis=True
    ),
    Way(
        "Redis, worker.http",
        _POOLS | Needs.WORKERS,
        ("manage.py ifserver serve -p 0", "manage.py ifserver worker -w 1 --threads 4"),
        redis=True,
        environment={"IFSERVER_WORKER_HTTP": _WSGI},
    ),
)
PEERS: Final = (
    Way("uvicorn", _BOTH, (f"uvicorn {_ASGI} --port 0 --timeout-graceful-shutdown 1",)),
    Way("daphne", _BOTH, (f"daphne {_ASGI} -p 0",)),
    Way("gunicorn", Needs.WSGI, (f"gunicorn {_WSGI} -b 127.0.0.1:0 -w 2 --threads 4",)),
)


class _Process(Running):
    """One of the processes. What the site logs is its own affair: scenarios look at what they expect."""

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(LIMIT_S)
        eventually(lambda: not self.left(), "all that it started has ended")
        for words in ("never retrieved", "was destroyed but it is pending", "defect of ifserver"):
            assert words not in self.output, self.output


@dataclass(frozen=True)
class Served:
    """A site that is served."""

    project: Project
    way: Way
    processes: Sequence[Running]
    port: int
    environment: dict[str, str]

    @property
    def url(self) -> str:
        """Where it is: ``http://127.0.0.1:54321``."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """The same for WebSockets."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def is_asgi(self) -> bool:
        """Whether HTTP is run by ASGI."""
        return Needs.ASGI in self.way.offers

    @property
    def output(self) -> str:
        """What all processes have written."""
        return "".join(process.output for process in self.processes)

    def kill_workers(self) -> None:
        """Kill every worker with SIGKILL; others take their places."""
        for pid in self.processes[-1].workers():
            os.kill(pid, signal.SIGKILL)

    def manage(self, *words: str) -> str:
        """Run another command of the site, which finds what this one has."""
        return self.project.manage(*words, **self.environment)

    @contextmanager
    def edited(self, name: str, old: str, new: str) -> Iterator[None]:
        """A file of the site as it is after an edit, in the block."""
        path = self.project.folder / name
        text = path.read_text()
        assert old in text, f"{old!r} is not in {path}"
        path.write_text(text.replace(old, new))
        try:
            yield
        finally:
            path.write_text(text)


def _command(project: Project, line: str) -> list[str]:
    program, *words = line.split()
    if program == "manage.py":
        return project.command(*words)
    return [str(Path(sys.executable).with_name(program)), *words]


@contextmanager
def serving(project: Project, way: Way, redis: RedisServer) -> Iterator[Served]:
    """The site, served in a way. In production, DEBUG is off.

    Raises:
        AssertionError: it does not start; or it does not end in good order.
    """
    redis.command("FLUSHALL")
    environment = {
        **project.environment,
        "SITE_DEBUG": "1" if Needs.RUNSERVER in way.offers else "0",
        "SITE_REDIS_PORT": str(redis.port),
        **way.environment,
        **({"IFSERVER_LAYER_CLUSTERS": f"main=redis://127.0.0.1:{redis.port}"} if way.redis else {}),
    }
    with ExitStack() as stack:
        processes = [
            stack.enter_context(_Process(_command(project, line), cwd=project.folder, environment=environment))
            for line in way.commands
        ]
        port = int(next(filter(None, processes[0].said(_LISTENS).groups())))
        if Needs.WORKERS in way.offers:
            ready = r"\d+ workers? runs? " if way.redis else "ready: requests are answered"
            processes[-1].said(ready)
        yield Served(project, way, processes, port, environment)
