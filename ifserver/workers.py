"""Composition roots of the workers: the supervisor, and each of its children (`ifserver.service` has the server's).

Modules of their own, so that a child does not load what only a server needs.
"""

import logging
import os
import time
from collections.abc import Collection

from twisted.internet.defer import Deferred

from ifserver import __version__, channels, processes
from ifserver.admin.listening import Admin
from ifserver.admin.nursery import Nursery
from ifserver.admin.subject import SupervisorSubject
from ifserver.clustering import clusters_of
from ifserver.layers.beats import with_facts
from ifserver.layers.heart import Heart
from ifserver.layers.leftovers import Leftovers
from ifserver.life import Runtime, Service
from ifserver.liveness import SUPERVISOR_LIFE_S
from ifserver.loop_lag import LoopLag
from ifserver.metrics import Counters
from ifserver.processes import Launch
from ifserver.reload import Reloader
from ifserver.rereading import Reading
from ifserver.settings import LayerSettings, LogSettings, WorkerSettings
from ifserver.supervisor import Supervisor
from ifserver.worker.application import ASGIApplication
from ifserver.worker.guard import Guard
from ifserver.worker.worker import Worker
from ifserver.worker.wsgi import adapted

__all__ = ["SupervisorService", "WorkerService"]

_log = logging.getLogger(__name__)


class SupervisorService(Service):
    """The worker processes, and whoever watches over them."""

    def __init__(
        self,
        runtime: Runtime,
        layer: LayerSettings,
        worker: WorkerSettings,
        log: LogSettings,
        ready_fd: int | None = None,
    ) -> None:
        super().__init__(runtime)
        self._settings = worker
        self._layer = layer
        self._ready_fd = ready_fd
        self._clusters = clusters_of(runtime, layer, channels.new_process_name())
        self._leftovers = Leftovers(self._clusters, runtime.reactor)
        nursery = Nursery(worker.max_streams)
        self.supervisor = Supervisor(
            worker,
            layer,
            self._clusters,
            runtime.reactor,
            runtime.loop,
            log,
            self._ready,
            self._leftovers.ended,
            spawn=nursery.spawn,
        )
        nodes, clock = self._clusters.home_nodes, runtime.reactor
        self._heart = Heart(self._clusters, lambda: nodes, clock, SUPERVISOR_LIFE_S, self._told, dict, _nobody)
        # Where a server is its parent, that one speaks for it.
        alone = ready_fd is None
        self._subject = SupervisorSubject(
            self.supervisor, nursery, self._clusters, self._heart, clock, time.time, tells_counts=not alone
        )
        self._admin = Admin(self._subject, clock, runtime.loop, worker.admin if alone else None, worker.admin_hosts)
        self._lag = LoopLag(clock, self._clusters.counters.late)
        self._reloader: Reloader | None = None
        if worker.reload:
            self._reloader = Reloader(worker.app_dir, self.supervisor.restart, runtime.loop)

    async def start(self) -> None:
        await self._admin.start()
        self._clusters.start()
        self._heart.start()
        self._lag.start()
        self.supervisor.start()
        if self._reloader is not None:
            self._reloader.start()
        if self._ready_fd is None:
            nodes = ", ".join(map(str, self._layer.home_cluster.nodes))
            _log.info("ifserver %s, supervisor %s, nodes: %s", __version__, self._clusters.process, nodes)

    async def stop(self) -> None:
        if self._reloader is not None:
            await self.runtime.future(self._reloader.stop())
        await self.runtime.future(self.supervisor.stop())
        await self.runtime.future(Deferred.fromCoroutine(self._leftovers.stop()))
        self._heart.stop()
        self._lag.stop()
        await self._admin.stop()
        await self.runtime.future(self._clusters.stop())

    def stop_now(self) -> None:
        self.supervisor.stop_now()

    def _told(self) -> bytes:
        """What its beats say: the children that live, and facts for people."""
        return with_facts(self.supervisor.living(), self._subject.told())

    def counts(self) -> dict[str, int]:
        return {"workers": self.supervisor.statistics()["workers_ready"]}

    def reload(self, new: Reading) -> Collection[str]:
        self.supervisor.replace()
        return ()

    def _ready(self) -> None:
        self.is_ready()
        started = self.supervisor.statistics()["workers_ready"]
        what = f"{started} worker{'s' if started != 1 else ''} run{'s' if started == 1 else ''}"
        _log.info("%s %s, %d streams at a time each", what, self._settings.application, self._settings.concurrency)
        if self._ready_fd is not None:
            fd, self._ready_fd = self._ready_fd, None
            processes.report_ready(fd)


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


def _nobody(process: str) -> None:
    """A supervisor asks for nobody, so nobody can be lost to it."""
