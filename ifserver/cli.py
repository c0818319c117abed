"""The command: arguments, signals and exit codes. It installs the reactor (`ifserver.process.reactor`).

Exit codes: 0 for an end that was asked for, 2 for what the operator has to mend (one line says what), 3 when the
application's startup has failed, 1 for anything else.
"""

from __future__ import annotations

# First of all, for it must come before Twisted.
import ifserver.net.standard_library  # noqa: F401

# isort: split
import argparse
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ifserver import logs
from ifserver.config import arguments as a
from ifserver.config import flags
from ifserver.config.command_line import VIEWERS
from ifserver.config.settings import ListenSettings, LogSettings
from ifserver.errors import ConfigurationError, IfserverError
from ifserver.process import addresses, children, handover, malloc, systemd
from ifserver.process.children import Launch
from ifserver.process.systemd import Herald, Manager, counted

# Twisted, asyncio and what needs them are imported by the commands that use them: the help must be quick.
if TYPE_CHECKING:
    import socket

    from ifserver.config.rereading import Reading
    from ifserver.config.schema import Settings
    from ifserver.net.tls import Certificate
    from ifserver.process.addresses import Addresses
    from ifserver.process.children import Child
    from ifserver.process.fork_server import ForkServer, Standby
    from ifserver.services.lifecycle import Control, Runtime, Service
    from ifserver.worker.application import ASGIApplication

__all__ = ["main"]

#: Nobody manages this process.
_NOBODY: Final = Manager()

_log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """The command ``ifserver``; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        # Before anything is started, which must not be told the same.
        manager, handed = systemd.take(os.environ, os.getpid()), handover.become_successor(os.environ)
        if words[:1] == ["child"]:
            return _child(words)
        if words and words[0] in VIEWERS:
            gc.enable()
            return _viewer(words)
        given = a.parse(words)
        given.words, given.manager, given.handed = words, manager, handed
        return _carry_out(given)
    except IfserverError as error:
        from ifserver.services.lifecycle import failed

        return failed(error)
    except KeyboardInterrupt:
        return 0  # before there was anything to end


def _carry_out(given: argparse.Namespace) -> int:
    commands = {"run": _run, "serve": _serve, "worker": _worker, "check": _check, "settings": _settings}
    try:
        if given.command != "settings":
            logs.configure(_log_settings(given))
        return commands[given.command](given)
    except ConfigurationError as error:
        # What is found out only now: a file that cannot be opened, an endpoint that nobody knows.
        raise given.configuration.error(str(error)) from error


def _run(given: argparse.Namespace) -> int:
    front, worker, listen = a.front_settings(given), a.worker_settings(given), a.bind_of(given)
    standby = _standby()
    if not standby.pid:
        _leave_sockets(given, listen)
        return _supervise_forked(standby)
    if (listen.processes or 1) > 1:
        _log.warning("listen.processes is for ifserver serve: ifserver run starts one server")
    if given.configuration.has("layer.clusters"):
        _log.warning(
            "[clusters] (%s) is not used: ifserver run has its own broker in memory; for these clusters, run ifserver "
            "serve and ifserver worker",
            given.configuration.of("layer.clusters").origin,
        )
    certificate = _certificate(listen)
    with addresses.opened(listen, given.manager.sockets, given.handed) as opened:

        def build(runtime: Runtime) -> Service:
            from ifserver.services.server import Listening, RunService

            listening = Listening(opened.sockets, listen.endpoints, opened.files, opened.taken_over, certificate)
            return RunService(runtime, front, worker, listening, _log_settings(given), standby)

        return _live(build, given, opened)


def _certificate(listen: ListenSettings) -> Certificate | None:
    if listen.certfile is None:
        return None
    from ifserver.net.tls import Certificate

    return Certificate(listen.certfile, listen.keyfile)


def _serve(given: argparse.Namespace) -> int:
    settings, listen = _settings_of(given), a.bind_of(given)
    front, layer = a.front_settings(given), a.layer_settings(given)
    count = listen.processes or 1
    certificate = _certificate(listen)
    with addresses.opened(listen, given.manager.sockets, given.handed, count) as opened:

        def build(runtime: Runtime) -> Service:
            from ifserver.services.multi_server import MultiServerService
            from ifserver.services.server import Listening, ServeService

            listening = Listening(opened.sockets, listen.endpoints, opened.files, opened.taken_over, certificate)
            if count > 1:
                return MultiServerService(runtime, count, settings, listening, given.words)
            return ServeService(runtime, front, layer, listening)

        return _live(build, given, opened)


def _worker(given: argparse.Namespace) -> int:
    layer, worker = a.layer_settings(given), a.worker_settings(given)
    server = _fork_server()
    if isinstance(server, Launch):
        return _work(server)

    def build(runtime: Runtime) -> Service:
        from ifserver.services.supervisor import SupervisorService

        return SupervisorService(runtime, layer, worker, _log_settings(given), server.spawn)

    return _live(build, given)


def _standby() -> Standby:
    """A process that will be the supervisor: forked now, since nothing can be forked once there is a loop."""
    from ifserver.process.fork_server import Standby

    _import_shared()
    return Standby.fork()


def _fork_server(not_for_it: socket.socket | None = None) -> ForkServer | Launch:
    """The process that starts the workers of this supervisor; in each of them, what it is to do."""
    from ifserver.process.fork_server import ForkServer

    _import_shared()
    return ForkServer.fork(not_for_it)


def _check(given: argparse.Namespace) -> int:
    layer = a.layer_settings(given)

    def build(runtime: Runtime) -> Service:
        from ifserver.services.check import CheckService

        return CheckService(runtime, layer, sys.stdout, given.json)

    return _live(build)


def _viewer(words: list[str]) -> int:
    """A command that looks at what runs elsewhere."""
    from ifserver.observe.viewer import command

    return command.main(words)


def _settings(given: argparse.Namespace) -> int:
    from ifserver.config import manual

    configuration = given.configuration
    if given.example or given.rst:
        text = manual.example() if given.example else manual.rst()
    else:
        manual.check(configuration, os.environ)
        text = (manual.json if given.json else manual.table)(configuration, os.environ)
    print(text, end="")
    return 0


def _child(words: list[str]) -> int:
    """A process that another one of ours has started (`ifserver.process`)."""
    if len(words) != 3 or not words[2].isdecimal():
        raise ConfigurationError("'child' is what ifserver itself starts")
    fd = int(words[2])
    if words[1] == "server":
        return _member(fd)
    if words[1] == "fork-server":
        from ifserver.process import fork_server

        _import_shared()
        return _work(fork_server.become(fd))
    launch = children.become_child(fd)
    if launch.role == "worker":
        return _work(launch)
    server = _fork_server()
    return _work(server) if isinstance(server, Launch) else _supervise(launch, server)


def _leave_sockets(given: argparse.Namespace, listen: ListenSettings) -> None:
    """Close the listening sockets that were given to the command. Where a supervisor and its workers held them too,
    clients would wait in vain while the server has stopped listening and the workers have not ended."""
    handed = () if given.handed is None else (*given.handed.sockets, given.handed.ready_fd)
    for fd in {*handed, *listen.fd, *(each.fd for each in given.manager.sockets)}:
        with contextlib.suppress(OSError):
            os.close(fd)


def _import_shared() -> None:
    """Import what a worker needs: what is imported before a fork is imported once, and its memory is shared."""
    import uvloop  # noqa: F401

    from ifserver.process import reactor  # noqa: F401
    from ifserver.services import worker  # noqa: F401


def _supervise_forked(standby: Standby) -> int:
    """The supervisor of ``run``, which is this process by now."""
    server = _fork_server(standby.socket)
    return _work(server) if isinstance(server, Launch) else _supervise(standby.wait(), server)


def _supervise(launch: Launch, server: ForkServer) -> int:
    """Be the supervisor of ``run``."""
    from ifserver.services.lifecycle import Control

    logs.configure(launch.log)

    def build(runtime: Runtime) -> Service:
        from ifserver.services.supervisor import SupervisorService

        return SupervisorService(runtime, launch.layer, launch.worker, launch.log, server.spawn, launch.ready_fd)

    try:
        return _live_with(build, lambda runtime: Control(reread=dict, is_child=True))
    finally:
        server.close()


def _work(launch: Launch) -> int:
    """Be a worker."""
    from ifserver.services.lifecycle import Control

    logs.configure(launch.log, python_warnings=False)

    def build(runtime: Runtime) -> Service:
        from ifserver.services.worker import WorkerService
        from ifserver.worker.application import load_for
        from ifserver.worker.broken import Broken
        from ifserver.worker.wsgi import interface_of

        application: ASGIApplication
        try:
            application = load_for(launch.worker)
        except ConfigurationError as error:
            if not launch.worker.reload:
                raise
            application = Broken.not_loaded(error)
        else:
            children.report_loaded(launch.ready_fd, interface_of(launch.worker, application))
        logs.enable()
        return WorkerService(runtime, launch, application)

    try:
        return _live_with(build, lambda runtime: Control(is_child=True))
    except ConfigurationError as error:
        children.report_failure(launch.ready_fd, str(error))
        if not launch.first:
            # The application was found when its supervisor started, so the whole traceback is worth having.
            _log.error("%s", error, exc_info=error.__cause__)
        return 2


def _member(fd: int) -> int:
    """One of several servers."""
    from ifserver.services.lifecycle import Control

    launch = handover.become_server(fd)
    logs.configure(launch.log)

    def build(runtime: Runtime) -> Service:
        from ifserver.services.multi_server import MemberService

        return MemberService(runtime, launch)

    control = Control(reread=_rereading(launch.words), log_at=logs.at, is_child=True, is_member=True)
    return _live_with(build, lambda runtime: control)


# The reactor.


def _live(
    build: Callable[[Runtime], Service], given: argparse.Namespace | None = None, opened: Addresses | None = None
) -> int:
    """Run what `build` makes, which an operator has started; the exit code."""
    from ifserver.services.lifecycle import Control

    if given is None:
        return _live_with(build, lambda runtime: Control())
    manager: Manager = given.manager

    def control(runtime: Runtime) -> Control:
        def succeed(ready: Callable[[], None], ended: Callable[[], None]) -> Child:
            assert opened is not None

            def is_ready() -> None:
                opened.given_away()
                ready()

            return handover.start_successor(opened.handover(), manager.environment(), runtime.loop, is_ready, ended)

        if given.configuration.file is not None:
            _log.info("settings from %s", os.path.abspath(given.configuration.file))
        ready_fd = None if given.handed is None else given.handed.ready_fd
        return Control(
            _settings_of(given), _rereading(given.words), logs.at, None if opened is None else succeed, ready_fd
        )

    return _live_with(build, control, manager)


def _live_with(
    build: Callable[[Runtime], Service], control: Callable[[Runtime], Control], manager: Manager = _NOBODY
) -> int:
    """Install the reactor, and run what `build` makes until it ends or is told to; the exit code."""
    from ifserver.services.lifecycle import Lifecycle

    malloc.keep_freed(os.environ)
    gc.enable()
    runtime = _install_reactor()
    service = build(runtime)
    herald = Herald(
        manager.notifier(),
        runtime.reactor,
        manager.watchdog_s,
        lambda: counted(service.counts()),
        service.well,
        lambda: time.monotonic_ns() // 1000,
    )
    lifecycle = Lifecycle(service, runtime, herald, control(runtime))
    handlers = lifecycle.handlers()
    for number, handler in handlers.items():
        # Who has us started by nohup, or in the background of a script, wants these two to do nothing. The others are
        # not left to whoever that was: our own parent may need them.
        if number not in (signal.SIGHUP, signal.SIGINT) or signal.getsignal(number) is not signal.SIG_IGN:
            runtime.loop.add_signal_handler(number, handler, number)
    runtime.loop.call_soon(lifecycle.begin)
    runtime.reactor.run(installSignalHandlers=False)
    for number in (*handlers, signal.SIGINT):
        # Python's own end puts the default handlers back, by which a late signal would spoil the exit code.
        signal.signal(number, signal.SIG_IGN)
    return lifecycle.status


def _settings_of(given: argparse.Namespace) -> Reading:
    """The sections that the command uses."""
    read: dict[str, Callable[[argparse.Namespace], Settings]] = {
        "listen": a.bind_of, "front": a.front_settings, "layer": a.layer_settings, "worker": a.worker_settings,
        "log": _log_settings,
    }  # fmt: skip
    return {section: read[section](given) for section in flags.COMMANDS[given.command]}


def _log_settings(given: argparse.Namespace) -> LogSettings:
    log: LogSettings = given.configuration.make(LogSettings)
    return log


def _rereading(words: Sequence[str]) -> Callable[[], Reading]:
    """Reads the settings anew, by the same command line."""

    def reread() -> Reading:
        try:
            return _settings_of(a.parse(words))
        except SystemExit as error:
            raise ConfigurationError("the command line is not understood any more") from error

    return reread


def _install_reactor() -> Runtime:
    import asyncio

    import uvloop

    from ifserver.process import reactor
    from ifserver.services.lifecycle import Runtime

    loop = uvloop.new_event_loop()
    # For applications that ask for the loop while they are imported.
    asyncio.set_event_loop(loop)
    return Runtime(reactor.install(loop), loop)
