"""``ifserver run``: a server with its own broker, and the workers that it supervises, on one machine."""

from __future__ import annotations

import argparse
import logging

from ifserver.commands import processes, running
from ifserver.config import arguments
from ifserver.config.settings import ListenSettings
from ifserver.process import addresses
from ifserver.process.children import Launch
from ifserver.process.fork_server import ForkServer
from ifserver.services.lifecycle import Runtime, Service

__all__ = ["main"]

_log = logging.getLogger(__name__)


def main(given: argparse.Namespace) -> int:
    """Be the server, which supervises the workers; the exit code."""
    front, workers, pools = arguments.front_settings(given), arguments.pool_workers(given), arguments.pools(given)
    listen = arguments.bind_of(given)
    fork_server = ForkServer.fork(not_for_it=_sockets(given, listen))
    if isinstance(fork_server, Launch):
        return processes.work(fork_server)
    if (listen.processes or 1) > 1:
        _log.warning("listen.processes is for ifserver serve: ifserver run starts one server")
    if workers[0].settings.pools:
        _log.warning("worker.pools is for ifserver worker: ifserver run has the workers of all pools")
    if given.configuration.has("layer.clusters"):
        _log.warning(
            "[clusters] (%s) is not used: ifserver run has its own broker in memory; for these clusters, run ifserver "
            "serve and ifserver worker",
            given.configuration.of("layer.clusters").origin,
        )
    certificate = running.certificate_of(listen)
    with addresses.opened(listen, given.manager.sockets, given.handed) as opened:

        def build(runtime: Runtime) -> Service:
            from ifserver.services.run import RunService
            from ifserver.services.server import Listening

            listening = Listening(
                opened.sockets, listen.endpoints, opened.files, opened.taken_over, certificate, opened.predecessor
            )
            log = running.log_settings(given)
            service = RunService(runtime, front, workers, listening, log, fork_server.spawn, pools)
            opened.broker = service.broker_path
            return service

        try:
            return running.run_command(build, given, opened)
        finally:
            fork_server.close()


def _sockets(given: argparse.Namespace, listen: ListenSettings) -> tuple[int, ...]:
    """The descriptors of the listening sockets that were given to the command. Where the workers held them too, clients
    would wait in vain while the server has stopped listening and the workers have not ended."""
    handed = () if given.handed is None else (*given.handed.sockets, given.handed.ready_fd)
    return (*handed, *listen.fd, *(each.fd for each in given.manager.sockets))
