"""Composition root of one worker process: settings in, a running worker out.

A module of its own: a worker loads nothing that only its supervisor (`ifserver.supervisors`) or a server needs.
"""

import os
import time

from ifserver import channels, processes
from ifserver.clustering import clusters_of
from ifserver.life import Runtime, Service
from ifserver.loop_lag import LoopLag
from ifserver.metrics import Counters
from ifserver.processes import Launch
from ifserver.worker.application import ASGIApplication
from ifserver.worker.guard import Guard
from ifserver.worker.worker import Worker
from ifserver.worker.wsgi import adapted

__all__ = ["WorkerService"]


class WorkerService(Service):
    """One worker process."""

    def __init__(self, runtime: Runtime, launch: Launch, application: ASGIApplication) -> None:
        super().__init__(runtime)
        assert launch.ledger_fd is not None
        self._ready_fd = launch.ready_fd
        settings, application = adapted(launch.worker, application)
        ledger = processes.open_ledger(launch.ledger_fd, settings.max_streams)
        counters = Counters(ledger.cells)
        self._clusters = clusters_of(runtime, launch.layer, channels.new_process_name(), counters)
        self.worker = Worker(
            settings,
            self._clusters,
            application,
            ledger,
            launch.supervisor,
            runtime.reactor,
            runtime.loop,
            time.thread_time,
        )
        self._guard = Guard(ledger, self.worker, runtime.reactor)
        self._counters = counters
        self._lag = LoopLag(runtime.reactor, counters.late, self._note)

    async def start(self) -> None:
        self._clusters.start()
        await self.worker.start()
        self._guard.start()
        self._lag.start()
        processes.report_ready(self._ready_fd)

    async def stop(self) -> None:
        await self.worker.stop()
        await self.runtime.future(self._clusters.stop())

    def stop_now(self) -> None:
        # Whoever asks twice has the supervisor, which kills.
        os._exit(0)

    def _note(self) -> None:
        """Let the supervisor see how much is held here."""
        holds = self.worker.statistics()
        self._counters.set("streams_held", holds["streams"])
        self._counters.set("streams_unanswered", holds["unanswered"])
        self._counters.set("slots_free", max(0, holds["free"]))
