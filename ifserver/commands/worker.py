"""``ifserver worker``: a supervisor and its worker processes, for servers that run elsewhere."""

from __future__ import annotations

import argparse

from ifserver.commands import processes, running
from ifserver.config import arguments
from ifserver.process.children import Launch
from ifserver.process.fork_server import ForkServer
from ifserver.services.lifecycle import Runtime, Service

__all__ = ["main"]


def main(given: argparse.Namespace) -> int:
    """Be the supervisor; the exit code."""
    layer, pools = arguments.layer_settings(given), arguments.pool_workers(given)
    server = ForkServer.fork()
    if isinstance(server, Launch):
        return processes.work(server)

    def build(runtime: Runtime) -> Service:
        from ifserver.services.supervisor import SupervisorService

        return SupervisorService(runtime, layer, pools, running.log_settings(given), server.spawn)

    return running.run_command(build, given)
