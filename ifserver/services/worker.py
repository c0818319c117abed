"""Composition root of one worker process: settings in, a running worker out.

A module of its own: a worker loads nothing that only its supervisor (`ifserver.services.supervisor`) or a server needs.
"""

import os
import time

from ifserver import channels
from ifserver.clock import LoopLag
from ifserver.metrics import Counters
from ifserver.observe import import_tracing
from ifserver.process import children
from ifserver.process.children import Launch
from ifserver.services.lifecycle import Runtime, Service
from ifserver.services.nodes import clusters_of
from ifserver.worker.application import ASGIApplication, Receive, Scope, Send
from ifserver.worker.application_failure import is_expected
from ifserver.worker.asgi_stream import running
from ifserver.worker.lifespan import StartupFailed
from ifserver.worker.load_error_page import LoadErrorPage
from ifserver.worker.supervisor_watch import SupervisorWatch
from ifserver.worker.worker import Worker
from ifserver.worker.wsgi import WSGIAdapter, adapted

__all__ = ["WorkerService"]


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
        # Whoever asks twice has the supervisor, which kills.
        os._exit(0)

    def _note(self) -> None:
        """Let the supervisor see how much is held here."""
        holds = self.worker.statistics()
        self._counters.set("streams_held", holds["streams"])
        self._counters.set("streams_unanswered", holds["unanswered"])
        self._counters.set("slots_free", max(0, holds["free"]))


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
