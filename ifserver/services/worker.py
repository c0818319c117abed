"""Composition root of one worker process: settings in, a running worker out.

A worker is forked (`ifserver.process.fork_server`). So what forks imports this module first: all that a worker needs is
imported with it, once, and its memory is shared. What only a server or a supervisor needs is not imported here, and
workers do not have it.
"""

from __future__ import annotations

import logging
import os
import time

from ifserver import channels, logs
from ifserver.asgi_events import ASGIApplication, Receive, Scope, Send
from ifserver.clock import LoopLag
from ifserver.errors import ConfigurationError
from ifserver.groups.link import work_with
from ifserver.metrics import Counters
from ifserver.observe import import_tracing
from ifserver.process import children
from ifserver.process.children import Launch
from ifserver.services import lifecycle
from ifserver.services.lifecycle import Control
from ifserver.services.service import Runtime, Service, clusters_of, import_nodes
from ifserver.worker.application import LoadErrorPage, load_for
from ifserver.worker.lifespan import StartupFailed
from ifserver.worker.pull import SupervisorWatch
from ifserver.worker.stream import is_expected, running
from ifserver.worker.worker import Worker
from ifserver.worker.wsgi import WSGIAdapter, adapted, interface_of

_log = logging.getLogger(__name__)


class WorkerService(Service):
    """One worker process."""

    def __init__(self, runtime: Runtime, launch: Launch, application: ASGIApplication) -> None:
        super().__init__(runtime)
        assert launch.ledger_fd is not None
        self._launch = launch
        self._ledger = children.open_ledger(launch.ledger_fd, launch.worker.max_streams)
        counters = Counters(self._ledger.cells)
        self.clusters = clusters_of(runtime, launch.layer, channels.new_process_name(), counters)
        self.worker = self._worker_of(application)
        self._counters = counters
        self._lag = LoopLag(runtime.reactor, counters.late, self._note)

    def _worker_of(self, application: ASGIApplication) -> Worker:
        settings = self._launch.worker
        if not isinstance(application, LoadErrorPage):
            settings, application = adapted(settings, application)
            if settings.tracing:
                application = _traced(application, self._launch.pool)
        return Worker(
            settings,
            self.clusters,
            application,
            self._ledger,
            self._launch.supervisor,
            self.runtime.reactor,
            self.runtime.loop,
            time.thread_time,
            self._launch.pool,
        )

    async def start(self) -> None:
        self.clusters.start()
        try:
            await self.worker.start()
        except StartupFailed as error:
            if not self._launch.worker.reload:
                raise
            self.worker = self._worker_of(LoadErrorPage.not_started(error))
            await self.worker.start()
        SupervisorWatch(self._ledger, self.worker.puller, self.runtime.reactor).start()
        self._lag.start()
        if isinstance(self.worker.application, LoadErrorPage):
            children.report_broken(self._launch.ready_fd, str(self.worker.application))
        children.report_ready(self._launch.ready_fd)

    async def stop(self) -> None:
        await self.worker.stop()
        await self.runtime.future(self.clusters.stop())

    def stop_now(self) -> None:
        # The supervisor kills what does not end.
        os._exit(0)

    def _note(self) -> None:
        """Let the supervisor see how much is held here."""
        holds = self.worker.statistics()
        self._counters.set("streams_held", holds["streams"])
        self._counters.set("streams_unanswered", holds["unanswered"])
        self._counters.set("slots_free", max(0, holds["free"]))


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
        return lifecycle.run(build, lambda runtime: Control(is_child=True))
    except ConfigurationError as error:
        children.report_failure(launch.ready_fd, str(error))
        if not launch.first:
            # The application was found when its supervisor started, so the whole traceback is worth having.
            _log.error("%s", error, exc_info=error.__cause__)
        return 2


def _traced(application: ASGIApplication, pool: str) -> ASGIApplication:
    """The application with a span around each of its calls."""
    tracer = import_tracing("worker.tracing").Tracer(pool, is_expected)
    if isinstance(application, WSGIAdapter):
        application.around = tracer.span
        return application

    async def traced(scope: Scope, receive: Receive, send: Send) -> None:
        with tracer.span(running.get()):
            await application(scope, receive, send)

    return traced
