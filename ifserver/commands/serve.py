"""``ifserver serve``: an interface server, or several that share their addresses."""

from __future__ import annotations

import argparse

from ifserver import logs
from ifserver.commands import running
from ifserver.config import arguments
from ifserver.process import addresses
from ifserver.services.lifecycle import Control, Runtime, Service
from ifserver.services.multi_server import MemberService, MultiServerService
from ifserver.services.server import Listening, ServeService

__all__ = ["main", "serve_as_child"]


def main(given: argparse.Namespace) -> int:
    """Be the server, or the parent of several; the exit code."""
    settings, listen = running.settings_of(given), arguments.bind_of(given)
    front, layer, pools = arguments.front_settings(given), arguments.layer_settings(given), arguments.pools(given)
    count = listen.processes or 1
    certificate = running.certificate_of(listen)
    with addresses.opened(listen, given.manager.sockets, given.handed, count) as opened:

        def build(runtime: Runtime) -> Service:
            listening = Listening(opened.sockets, listen.endpoints, opened.files, opened.taken_over, certificate)
            if count > 1:
                return MultiServerService(runtime, count, settings, listening, given.words)
            return ServeService(runtime, front, layer, listening, pools)

        return running.run_command(build, given, opened)


def serve_as_child(fd: int) -> int:
    """Be one of several servers; the exit code. The descriptor is that of its `ServerLaunch`."""
    launch = addresses.become_server(fd)
    logs.configure(launch.log)
    control = Control(reread=running.rereading(launch.words), log_at=logs.at, is_child=True, is_member=True)
    return running.run(lambda runtime: MemberService(runtime, launch), lambda runtime: control)
