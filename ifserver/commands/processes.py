"""A worker's process.

It is forked (`ifserver.process.fork_server`). So whoever forks imports this module first: all that a worker needs is
imported with it, once, and its memory is shared. What only a server or a supervisor needs is imported later, and
workers do not have it.
"""

from __future__ import annotations

import logging
import os

from ifserver import logs
from ifserver.commands import running
from ifserver.errors import ConfigurationError
from ifserver.groups.link import work_with
from ifserver.observe import import_tracing
from ifserver.process import children
from ifserver.process.children import Launch
from ifserver.services.lifecycle import Control, Runtime, Service
from ifserver.services.nodes import import_nodes
from ifserver.services.worker import WorkerService
from ifserver.worker.application import ASGIApplication, load_for
from ifserver.worker.load_error_page import LoadErrorPage
from ifserver.worker.wsgi import interface_of

__all__ = ["work"]

_log = logging.getLogger(__name__)


def work(launch: Launch) -> int:
    """Be a worker; the exit code."""
    logs.configure(launch.log, python_warnings=False)

    def build(runtime: Runtime) -> Service:
        application: ASGIApplication
        os.environ.update(launch.environment)
        if launch.worker.tracing:
            import_tracing("worker.tracing")
        # While there are no threads of the application, which may import the same (`ifserver.net.lean_imports`).
        import_nodes(launch.layer)
        try:
            application = load_for(launch.worker)
        except ConfigurationError as error:
            if not launch.worker.reload:
                raise
            application = LoadErrorPage.not_loaded(error)
        else:
            children.report_loaded(launch.ready_fd, interface_of(launch.worker, application))
        logs.enable()
        service = WorkerService(runtime, launch, application)
        work_with(runtime.loop, service.clusters, launch.layer)
        return service

    try:
        return running.run(build, lambda runtime: Control(is_child=True))
    except ConfigurationError as error:
        children.report_failure(launch.ready_fd, str(error))
        if not launch.first:
            # The application was found when its supervisor started, so the whole traceback is worth having.
            _log.error("%s", error, exc_info=error.__cause__)
        return 2
