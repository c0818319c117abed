"""The commands that run until they are stopped: ``run``, ``serve`` and ``worker``; and a child that is a server.

Each reads its settings, opens its sockets and forks. Then `ifserver.services.lifecycle.run` installs the reactor, and
calls ``build`` for the service. What must not be imported before that, ``build`` imports; what only one of the commands
needs, that command imports.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Sequence

from ifserver import logs
from ifserver.config import arguments
from ifserver.config.configuration import CommandSettings
from ifserver.config.pools import workers_of
from ifserver.config.settings import ListenSettings
from ifserver.errors import ConfigurationError
from ifserver.net.tls import Certificate
from ifserver.process import addresses
from ifserver.process.addresses import Addresses
from ifserver.process.children import Child, Launch
from ifserver.process.fork_server import ForkServer
from ifserver.services import lifecycle
from ifserver.services.lifecycle import Control
from ifserver.services.service import Runtime, Service

_log = logging.getLogger(__name__)


def run(given: argparse.Namespace) -> int:
    """A server with its own broker, and the workers that it supervises, on one machine; the exit code."""
    # What the workers need: they are forked, and share its memory.
    from ifserver.services.worker import work

    settings = arguments.command_settings(given)
    listen = settings.listen
    assert settings.worker is not None
    fork_server = ForkServer.fork(not_for_it=_sockets(given, listen))
    if isinstance(fork_server, Launch):
        return work(fork_server)
    if (listen.processes or 1) > 1:
        _log.warning("listen.processes is for ifserver serve: ifserver run starts one server")
    if settings.worker.pools:
        _log.warning("worker.pools is for ifserver worker: ifserver run has the workers of all pools")
    if given.configuration.has("layer.clusters"):
        _log.warning(
            "[clusters] (%s) is not used: ifserver run has its own broker in memory; for these clusters, run ifserver "
            "serve and ifserver worker",
            given.configuration.of("layer.clusters").origin,
        )
    certificate = _certificate_of(listen)
    with addresses.opened(listen, given.manager.sockets, given.handed) as opened:

        def build(runtime: Runtime) -> Service:
            from ifserver.services.run import RunService
            from ifserver.services.server import Listening

            listening = Listening(
                opened.sockets, listen.endpoints, opened.files, opened.taken_over, certificate, opened.predecessor
            )
            service = RunService(runtime, settings, listening, fork_server.spawn)
            opened.broker = service.broker_path
            return service

        try:
            return _run(build, given, settings, opened)
        finally:
            fork_server.close()


def serve(given: argparse.Namespace) -> int:
    """An interface server, or several that share their addresses; the exit code."""
    from ifserver.services.multi_server import MultiServerService
    from ifserver.services.server import Listening, ServeService

    settings = arguments.command_settings(given)
    listen = settings.listen
    count, certificate = listen.processes or 1, _certificate_of(listen)
    with addresses.opened(listen, given.manager.sockets, given.handed, count) as opened:

        def build(runtime: Runtime) -> Service:
            listening = Listening(opened.sockets, listen.endpoints, opened.files, opened.taken_over, certificate)
            if count > 1:
                return MultiServerService(runtime, count, settings, listening, given.words)
            return ServeService(runtime, settings, listening)

        return _run(build, given, settings, opened)


def serve_as_child(fd: int) -> int:
    """One of several servers; the exit code. The descriptor is that of its `ServerLaunch`."""
    from ifserver.services.multi_server import MemberService

    launch = addresses.become_server(fd)
    logs.configure(launch.settings.log)
    control = Control(reread=reader(launch.words), log_at=logs.at, is_child=True, is_member=True)
    return lifecycle.run(lambda runtime: MemberService(runtime, launch), lambda runtime: control)


def worker(given: argparse.Namespace) -> int:
    """A supervisor and its worker processes, for servers that run elsewhere; the exit code."""
    # As in `run`.
    from ifserver.services.worker import work

    settings = arguments.command_settings(given)
    layer = settings.layer
    assert layer is not None
    assert settings.worker is not None
    pools = workers_of(settings.pools, settings.worker, settings.worker.pools)
    fork_server = ForkServer.fork()
    if isinstance(fork_server, Launch):
        return work(fork_server)

    def build(runtime: Runtime) -> Service:
        from ifserver.services.supervisor import SupervisorService

        return SupervisorService(runtime, layer, pools, settings.log, fork_server.spawn)

    return _run(build, given, settings)


def _run(
    build: Callable[[Runtime], Service],
    given: argparse.Namespace,
    settings: CommandSettings,
    opened: Addresses | None = None,
) -> int:
    """Run what `build` makes, with what signals do to it; the exit code. A successor takes `opened` over."""

    def control(runtime: Runtime) -> Control:
        def succeed(ready: Callable[[], None], ended: Callable[[], None]) -> Child:
            assert opened is not None

            def is_ready() -> None:
                opened.given_away()
                ready()

            return addresses.start_successor(
                opened.handover(), given.manager.environment(), runtime.loop, is_ready, ended
            )

        if given.configuration.file is not None:
            _log.info("settings from %s", os.path.abspath(given.configuration.file))
        ready_fd = None if given.handed is None else given.handed.ready_fd
        return Control(settings, reader(given.words), logs.at, None if opened is None else succeed, ready_fd)

    return lifecycle.run(build, control, given.manager)


def reader(words: Sequence[str]) -> Callable[[], CommandSettings]:
    """What reads the settings again, by the same command line."""

    def reread() -> CommandSettings:
        try:
            return arguments.command_settings(arguments.parse(words))
        except SystemExit as error:
            raise ConfigurationError("the command line is not understood any more") from error

    return reread


def _certificate_of(listen: ListenSettings) -> Certificate | None:
    return None if listen.certfile is None else Certificate(listen.certfile, listen.keyfile)


def _sockets(given: argparse.Namespace, listen: ListenSettings) -> tuple[int, ...]:
    """The descriptors of the listening sockets that were given to the command. Where the workers held them too, clients
    would wait in vain while the server has stopped listening and the workers have not ended."""
    handed = () if given.handed is None else (*given.handed.sockets, given.handed.ready_fd)
    return (*handed, *listen.fd, *(each.fd for each in given.manager.sockets))
