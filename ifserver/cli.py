"""The command: arguments, signals and exit codes. The only file that installs a reactor.

Exit codes: 0 for an end that was asked for, 2 for what the operator has to mend (one line says what), 3 when the
application's startup has failed, 1 for anything else.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ifserver import arguments as a
from ifserver import processes, sockets
from ifserver.errors import ConfigurationError, IfserverError

if TYPE_CHECKING:
    from ifserver.service import Runtime, Service

__all__ = ["main"]

#: By --verbosity.
_LEVELS: Final = ("warning", "info", "debug", "debug")
#: What tells a process to end.
_ENDS: Final = (signal.SIGINT, signal.SIGTERM)

_log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """The command ``ifserver``; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        if words[:1] == ["child"]:
            return _child(words)
        given = a.parse(words)
        _log_to_stderr(_LEVELS[given.verbosity], with_twisted=given.verbosity > 2)
        return {"run": _run, "serve": _serve, "worker": _worker}[given.command](given)
    except IfserverError as error:
        return _failed(error)
    except KeyboardInterrupt:
        return 0  # before there was anything to end


def _run(given: argparse.Namespace) -> int:
    front, worker = a.front_settings(given), a.worker_settings(given)
    bind = a.bind_of(given)
    with _bound(bind) as (bound, files):
        _check_application(worker.application, worker.app_dir)

        def build(runtime: Runtime) -> Service:
            from ifserver.service import Listening, RunService

            listening = Listening(bound, bind.endpoints, files)
            return RunService(runtime, front, worker, listening, _LEVELS[given.verbosity])

        return _live(build)


def _serve(given: argparse.Namespace) -> int:
    front, layer = a.front_settings(given), a.layer_settings(given)
    bind = a.bind_of(given)
    with _bound(bind) as (bound, files):

        def build(runtime: Runtime) -> Service:
            from ifserver.service import Listening, ServeService

            return ServeService(runtime, front, layer, Listening(bound, bind.endpoints, files))

        return _live(build)


def _worker(given: argparse.Namespace) -> int:
    layer, worker = a.layer_settings(given), a.worker_settings(given)
    _check_application(worker.application, worker.app_dir)

    def build(runtime: Runtime) -> Service:
        from ifserver.service import SupervisorService

        return SupervisorService(runtime, layer, worker, _LEVELS[given.verbosity])

    return _live(build)


def _child(words: list[str]) -> int:
    """A process that another one of ours has started (`ifserver.processes.spawn`)."""
    if len(words) != 3 or not words[2].isdecimal():
        raise ConfigurationError("'child' is what ifserver itself starts")
    launch = processes.become_child(int(words[2]))
    _log_to_stderr(launch.log_level)
    if launch.role == "supervisor":

        def build_supervisor(runtime: Runtime) -> Service:
            from ifserver.service import SupervisorService

            return SupervisorService(runtime, launch.layer, launch.worker, launch.log_level, launch.ready_fd)

        return _live(build_supervisor)

    def build_worker(runtime: Runtime) -> Service:
        from ifserver.service import WorkerService
        from ifserver.worker.application import load

        try:
            application = load(launch.worker.application, launch.worker.app_dir)
        except ConfigurationError as error:
            # Here the whole traceback is worth having: the application was found when its supervisor started.
            _log.error("%s", error, exc_info=error.__cause__)
            raise
        _enable_logs()
        return WorkerService(runtime, launch, application)

    return _live(build_worker)


@contextmanager
def _bound(bind: a.Bind) -> Iterator[tuple[list[socket.socket], list[sockets.UnixFile]]]:
    """The sockets that are listened on, and their files. What was not started leaves no file behind either."""
    bound, files = [sockets.inherit(fd) for fd in bind.fds], []
    try:
        if bind.unix is not None:
            sock, file = sockets.bind_unix(bind.unix)
            bound.append(sock)
            if file is not None:
                files.append(file)
        if bind.tcp is not None:
            bound += sockets.bind_tcp(*bind.tcp)
        yield bound, files
    finally:
        for file in files:
            file.remove()


def _check_application(application: str, app_dir: str) -> None:
    from ifserver.worker.application import check

    problem = check(application, app_dir)
    if problem is not None:
        raise ConfigurationError(problem)


# The reactor.


def _live(build: Callable[[Runtime], Service]) -> int:
    """Install the reactor, and run what `build` makes until it ends or is told to; the exit code."""
    runtime = _install_reactor()
    service = build(runtime)
    life = _Life(service, runtime)
    for number in _ENDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            runtime.loop.add_signal_handler(number, life.told_to_end, number)
    runtime.loop.call_soon(life.begin)
    runtime.reactor.run(installSignalHandlers=False)
    for number in _ENDS:
        # Python's own end puts the default handlers back, by which a late signal would spoil the exit code.
        signal.signal(number, signal.SIG_IGN)
    return life.status


def _install_reactor() -> Runtime:
    import uvloop
    from twisted.internet import asyncioreactor

    loop = uvloop.new_event_loop()
    # For applications that ask for the loop while they are imported.
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)
    from twisted.internet import reactor

    from ifserver.service import Runtime

    return Runtime(reactor, loop)


class _Life:
    """A service from its start to its end, and what signals do to it."""

    def __init__(self, service: Service, runtime: Runtime) -> None:
        self.status = 0
        self._service = service
        self._runtime = runtime
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start the service."""
        self._task = self._runtime.loop.create_task(self._run())

    def told_to_end(self, number: signal.Signals) -> None:
        """SIGINT or SIGTERM: end in order. A second Ctrl-C: at once.

        Not a second SIGTERM: service managers send it to every process of a group, and our parent sends it as well.
        """
        if not self._told.is_set():
            _log.info("%s: ending", number.name)
            self._told.set()
        elif number == signal.SIGINT:
            _log.warning("%s again: ending at once", number.name)
            self._service.stop_now()

    async def _run(self) -> None:
        try:
            self.status = await self._start_and_wait()
            await self._service.stop()
        except Exception:
            _log.exception("this is a defect of ifserver")
            self.status = 1
        finally:
            self._runtime.reactor.stop()

    async def _start_and_wait(self) -> int:
        starting = asyncio.create_task(self._service.start())
        told = asyncio.create_task(self._told.wait())
        try:
            await asyncio.wait((starting, told), return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                return 0
            starting.result()
            await asyncio.wait((self._service.ended, told), return_when=asyncio.FIRST_COMPLETED)
            return self._service.ended.result() if self._service.ended.done() else 0
        except IfserverError as error:
            return _failed(error)
        finally:
            starting.cancel()
            told.cancel()


# What people see.


def _failed(error: IfserverError) -> int:
    print(f"ifserver: error: {error}", file=sys.stderr)
    return 2 if isinstance(error, ConfigurationError) else 3


def _log_to_stderr(level: str, with_twisted: bool = False) -> None:
    """Log to standard error. The application's own logging is its own affair."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s [%(process)d] %(message)s"))
    for name, least in (("ifserver", level), ("twisted", "debug" if with_twisted else "warning")):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(least.upper())
    from twisted.logger import STDLibLogObserver, globalLogBeginner

    globalLogBeginner.beginLoggingTo([STDLibLogObserver()], redirectStandardIO=False, discardBuffer=True)


def _enable_logs() -> None:
    """Undo what ``logging.config.dictConfig`` does to loggers that it was not told of, by its default."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] in ("ifserver", "twisted") and isinstance(logger, logging.Logger):
            logger.disabled = False
