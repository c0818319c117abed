"""A server under test: the processes of ``ifserver``, and what a test does to them."""

from __future__ import annotations

import itertools
import os
import re
import secrets
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final
from weakref import WeakSet

from ifserver.testing import processes
from ifserver.testing.processes import Output, Process, ServerError

__all__ = ["SERVERS", "Server", "ServerError"]

#: How long it may take to start, to lose a worker or to replace all, in seconds. A busy machine of a CI takes long.
_TIMEOUT_S: Final = 60.0
#: How long what is under way may take when a server ends, in seconds; then it is cut. Nobody waits for it any more.
_PATIENCE_S: Final = 5.0
#: How often is looked for what is not notified, in seconds.
_LOOK_S: Final = 0.02
#: How long nothing is written when a process has written everything, in seconds.
_SETTLED_S: Final = 0.1
#: What a supervisor logs of new workers that do not get ready.
_NOT_REPLACED: Final = "the old workers go on"
#: What is logged about a Redis that does not answer; clients would get 503.
_UNREACHABLE: Final = "trying again"
#: How the line begins in which the command prints why it ends.
_ERROR: Final = "ifserver: error: "

#: The servers that were started here and are still known to somebody. The pytest plugin shows what they write.
SERVERS: WeakSet[Server] = WeakSet()
_numbers = itertools.count()


class Server:
    """ifserver with an application, in processes of its own, from `start` to `stop`; or for the length of a block::

        with Server("mysite.asgi:application", workers=2) as server:
            httpx.get(f"{server.url}/")

    Without `redis` it is ``ifserver run``, with the broker in its memory. Otherwise it is ``ifserver serve`` and
    ``ifserver worker``. One worker runs, unless the setting ``workers`` has another number.

    The processes import what this one can import. They get its environment, but for the variables of ifserver's
    settings, and read no ``ifserver.toml``: what a test needs, it gives. They end with this process, however that ends.

    Args:
        application: ASGI 3 or WSGI: ``module:attribute``, or an object that a module has as an attribute.
        redis: the URL of a Redis; or of several, which make up one cluster. Other servers there are not disturbed:
            each has a prefix of its own, unless the setting ``prefix`` is given.
        host: where to listen.
        port: 0: any that is free.
        environment: variables that are added to those of this process; None: that one is removed.
        config: a file with settings, such as ``ifserver.toml``; those given here take precedence.
        cwd: the current folder of the processes.
        timeout: how long it may take to start, and to replace workers, in seconds.
        settings: by the names of flags or settings: ``queue_timeout=1``, ``resumable=["/ws/*"]``.

    Raises:
        TypeError: the application cannot be found by a name, or a setting is unknown.
    """

    def __init__(
        self,
        application: Any,
        *,
        redis: str | Sequence[str] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        environment: Mapping[str, str | None] | None = None,
        config: str | os.PathLike[str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        timeout: float = _TIMEOUT_S,
        **settings: Any,
    ) -> None:
        __tracebackhide__ = True
        # Only here, so that a run of tests without a server does not pay for it.
        from ifserver.testing import options

        given = {"IFSERVER_WORKER_PROCESSES": "1", **options.variables(settings)}
        self._cwd = os.path.abspath(cwd or ".")
        folder = os.path.join(self._cwd, given.get("IFSERVER_WORKER_APP_DIR", "."))
        #: How the workers find the application.
        self.application = options.name_of(application, folder)
        self._environment = options.without_settings(os.environ, self._cwd) | {
            "PYTHONPATH": processes.import_path(),
            "PYTHONUNBUFFERED": "1",
        }
        for name, value in (environment or {}).items():
            self._environment.pop(name, None)
            if value is not None:
                self._environment[name] = value
        if config is not None:
            given["IFSERVER_CONFIG"] = os.path.abspath(config)
        self._commands: tuple[list[str], ...] = (["run", self.application],)
        if redis is not None:
            urls = [redis] if isinstance(redis, str) else redis
            # There may be a password in it, so it is no argument.
            given["IFSERVER_LAYER_CLUSTERS"] = f"main={','.join(urls)}"
            given.setdefault("IFSERVER_LAYER_PREFIX", f"ifserver-test-{secrets.token_hex(8)}:")
            self._commands = (["serve"], ["worker", self.application])
        self._environment |= given
        self._is_tls = "IFSERVER_LISTEN_CERTFILE" in given
        self._timeout_s = timeout
        self._output = Output()
        #: Which one of those that were made here.
        self.number = next(_numbers)
        #: How much had been written before the test that runs now. The pytest plugin keeps it.
        self.written_before = 0
        #: The server, and behind it the supervisor of the workers if it is a process of its own.
        self._processes: list[Process] = []
        self.host = host
        #: While it runs, the port where it listens.
        self.port = port

    def __enter__(self) -> Server:
        return self if self._processes else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __str__(self) -> str:
        return self.url

    # What it is.

    @property
    def url(self) -> str:
        """Where it is: ``http://127.0.0.1:54321``. ``https`` with a certificate."""
        return f"http{self._place}"

    @property
    def ws_url(self) -> str:
        """The same for WebSockets: ``ws://127.0.0.1:54321``."""
        return f"ws{self._place}"

    @property
    def _place(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'s' if self._is_tls else ''}://{host}:{self.port}"

    @property
    def output(self) -> str:
        """What all of its processes have written so far: the log, tracebacks, and what the application prints."""
        return self._output.text()

    @property
    def pid(self) -> int:
        """The process id of the server, which keeps the connections.

        Raises:
            ServerError: it does not run.
        """
        return self._running()[0].pid

    @property
    def workers(self) -> list[int]:
        """The process ids of the workers, and of old ones that still end.

        Raises:
            ServerError: it does not run.
        """
        return processes.workers_of(self._running()[-1].pid)

    @property
    def written(self) -> int:
        """How many characters of `output` there were so far."""
        return self._output.written

    def output_since(self, count: int) -> str:
        """`output` but for its first `count` characters."""
        return self._output.text(count)

    def settled_output(self, since: int) -> str:
        """`output_since`, once nothing has been written for a moment: for people, who would miss the traceback that
        comes behind a response."""
        end, seen = time.monotonic() + _SETTLED_S * 10, -1
        while seen != self.written and time.monotonic() < end:
            seen = self.written
            time.sleep(_SETTLED_S)
        return self.output_since(since)

    def wait_for_output(self, pattern: str, since: int = 0) -> re.Match[str]:
        """Wait until a regular expression is found in what was written since. A response may be faster than what the
        application has written before it.

        Raises:
            ServerError: it is not found in time.
        """
        __tracebackhide__ = True
        found = self._output.wait(pattern, since, self._timeout_s)
        if found is None:
            raise ServerError(f"not written within {self._timeout_s:g} s: {pattern!r}\n{self.output_since(since)}")
        return found

    # What is done to it.

    def start(self) -> Server:
        """Start it, and wait until it answers requests; the server itself.

        Raises:
            ServerError: it runs already, or it cannot: the application does not load, for example.
            OSError: the address cannot be had, or there is no folder `cwd`.
        """
        __tracebackhide__ = True
        if self._processes:
            raise ServerError(f"ifserver runs already, at {self.url}")
        SERVERS.add(self)
        end = time.monotonic() + self._timeout_s
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            with socket.create_server((self.host, self.port), family=family) as listening:
                self.port = listening.getsockname()[1]
                fd = listening.fileno()
                for command in self._commands:
                    fds = [] if command[0] == "worker" else [fd]
                    words = [*command, *(f"--fd={each}" for each in fds)]
                    self._processes.append(Process(words, self._environment, self._output, cwd=self._cwd, pass_fds=fds))
            # Nobody else listens there now, so that clients are refused as soon as the server has ended.
            for process in self._processes:
                if not process.wait_ready(end):
                    self._processes.remove(process)
                    raise _not_ready(process, self._output, self._timeout_s)
            if _UNREACHABLE in self.output:
                _check_nodes(self._environment, self._cwd, end)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End it, as Ctrl-C does: open connections are closed, and the application's lifespan ends. What takes longer
        than 5 seconds is cut off. Does nothing if it does not run.

        Raises:
            ServerError: it has ended by itself before.
        """
        __tracebackhide__ = True
        ended = [process for process in self._processes if process.status is not None]
        statuses = [process.status for process in ended]
        while self._processes:
            self._processes.pop(0).end(_PATIENCE_S)
        if ended:
            raise ServerError(f"ifserver has ended by itself ({_ending(statuses[0])}):\n{self.output}")

    def kill(self) -> None:
        """End it with SIGKILL, and its workers with it: connections are cut. Does nothing if it does not run."""
        for process in self._processes:
            process.signal(signal.SIGKILL)
        while self._processes:
            self._processes.pop().close()

    def kill_worker(self, pid: int | None = None) -> int:
        """Kill a worker with SIGKILL, as the kernel does that is out of memory. Returns when another is started in its
        place, which may not have loaded the application yet: requests wait for it.

        Args:
            pid: which one, of `workers`; None: the first, for which is waited if there is none yet.

        Returns:
            The process id of the one that was killed.

        Raises:
            ServerError: there is none, or no other takes its place in time.
        """
        __tracebackhide__ = True
        end = time.monotonic() + self._timeout_s
        while not (before := self.workers):
            _look_again(self, end, "no worker runs")
        killed = before[0] if pid is None else pid
        if killed not in before:
            raise ServerError(f"process {killed} is no worker; these are: {before}")
        os.kill(killed, signal.SIGKILL)
        while not set(self.workers).difference(before):
            _look_again(self, end, f"no other worker has taken the place of {killed}")
        return killed

    def restart_workers(self) -> None:
        """Replace all workers, as a deploy does (SIGHUP): each old one ends when a new one is ready. Returns when all
        old ones have ended.

        Raises:
            ServerError: new ones do not get ready, or old ones do not end in time.
        """
        __tracebackhide__ = True
        end, written, old = time.monotonic() + self._timeout_s, self.written, self.workers
        self._running()[-1].signal(signal.SIGHUP)
        while set(old).intersection(self.workers):
            if _NOT_REPLACED in self.output_since(written):
                raise ServerError(f"the workers were not replaced:\n{self.output}")
            _look_again(self, end, "the old workers have not ended")

    def _running(self) -> list[Process]:
        __tracebackhide__ = True
        if not self._processes:
            raise ServerError("ifserver does not run")
        for process in self._processes:
            if process.status is not None:
                raise ServerError(f"ifserver has ended by itself ({_ending(process.status)}):\n{self.output}")
        return self._processes


def _look_again(server: Server, end: float, what: str) -> None:
    __tracebackhide__ = True
    if time.monotonic() > end:
        raise ServerError(f"{what}, after {server._timeout_s:g} s:\n{server.output}")
    time.sleep(_LOOK_S)


def _check_nodes(environment: Mapping[str, str], cwd: str, end: float) -> None:
    __tracebackhide__ = True
    output = Output()
    check = Process(["check"], environment, output, cwd=cwd)
    try:
        check.wait_ready(end)  # it ends by itself
        status = check.status
    finally:
        check.close()
    if status != 0:
        raise ServerError(f"ifserver cannot start: the Redis is not fit for use\n\n{output.text()}")


def _not_ready(process: Process, output: Output, timeout_s: float) -> ServerError:
    status = process.status
    process.close()  # its output is whole then
    text = output.text()
    if status is None:
        return ServerError(f"ifserver was not ready within {timeout_s:g} s:\n{text}")
    errors = [line for line in text.splitlines() if line.startswith(_ERROR)]
    why = errors[-1].removeprefix(_ERROR) if errors else _ending(status)
    return ServerError(f"ifserver cannot start: {why}\n\nWhat it has written:\n{text}")


def _ending(status: int | None) -> str:
    from ifserver.process.children import ending_of  # with what starts processes, only here

    return ending_of(status)
