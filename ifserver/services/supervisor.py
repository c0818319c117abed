"""Composition root of the supervisor: settings in, a running supervisor out."""

import logging
import time
from collections.abc import Collection, Sequence
from typing import Final

from twisted.internet.defer import Deferred

from ifserver import __version__, channels
from ifserver.clock import LoopLag
from ifserver.config.configuration import CommandSettings
from ifserver.config.pools import PoolWorkers
from ifserver.config.settings import LayerSettings, LogSettings
from ifserver.errors import ConfigurationError
from ifserver.layers.inbox import InboxCleanup
from ifserver.layers.presence import SUPERVISOR_LIFE_S, Heartbeat
from ifserver.logs import events
from ifserver.observe.admin import Admin
from ifserver.observe.admin.subject import SupervisorSubject
from ifserver.process.reload import Reloader, Wanted
from ifserver.process.supervisor import Spawn, Supervisor
from ifserver.process.workers import Pool
from ifserver.services.service import Runtime, Service, clusters_of
from ifserver.status import with_facts

#: Settings of workers that mean nothing without `reload`.
_FOR_RELOAD: Final = ("reload_dirs", "reload_include", "reload_exclude")

_log = logging.getLogger(__name__)


class SupervisorService(Service):
    """The worker processes, and what watches over them.

    It ends by itself, with a `ConfigurationError`, if the first workers cannot load the application.

    Args:
        pools: what there is to run (`ifserver.process.supervisor.Supervisor`).
        spawn: starts a worker.
        is_alone: whether this is all that its process does, so that nothing else reports for it.
    """

    def __init__(
        self,
        runtime: Runtime,
        layer: LayerSettings,
        pools: Sequence[PoolWorkers],
        log: LogSettings,
        spawn: Spawn,
        is_alone: bool = True,
    ) -> None:
        super().__init__(runtime)
        worker = pools[0].settings
        self._layer = layer
        self._is_alone = is_alone
        self._clusters = clusters_of(runtime, layer, channels.new_process_name())
        self._leftovers = InboxCleanup(self._clusters, runtime.reactor)
        self.supervisor = Supervisor(
            pools,
            layer,
            self._clusters,
            runtime.reactor,
            runtime.loop,
            log,
            self._ready,
            self._failed,
            self._leftovers.ended,
            spawn,
            self._readers_changed,
        )
        nodes, clock = self._clusters.home_nodes, runtime.reactor
        self._heartbeat = Heartbeat(
            self._clusters,
            lambda: nodes,
            clock,
            SUPERVISOR_LIFE_S,
            self._beat,
            dict,
            _nobody,
            self.supervisor.workers.reads,
        )
        #: What the last beat reported that the children read.
        self._reads: Sequence[str] = ()
        self._subject = SupervisorSubject(
            self.supervisor, self._clusters, self._heartbeat, clock, time.time, reports_counts=not is_alone
        )
        self._admin = Admin(
            self._subject,
            clock,
            runtime.loop,
            worker.admin if is_alone else None,
            worker.admin_hosts,
            worker.admin_token,
        )
        self._lag = LoopLag(clock, self._clusters.counters.late)
        self._reloader: Reloader | None = None
        if worker.reload:
            folders = worker.reload_dirs or (worker.app_dir,)
            wanted = Wanted(worker.reload_include, worker.reload_exclude)
            self._reloader = Reloader(folders, wanted, self.supervisor.restart, runtime.loop)
        elif unused := [name for name in _FOR_RELOAD if getattr(worker, name)]:
            _log.warning(
                "%s: not used, because worker.reload is off (--reload)", ", ".join(f"worker.{name}" for name in unused)
            )

    async def start(self) -> None:
        await self._admin.start()
        self._clusters.start()
        self._heartbeat.start()
        self._lag.start()
        if self._is_alone:
            nodes = ", ".join(map(str, self._layer.home_cluster.nodes))
            text = "ifserver %s, supervisor %s, nodes: %s"
            events.report(_log, logging.INFO, events.Mark.STARTED, text, __version__, self._clusters.process, nodes)
        self.supervisor.start()
        if self._reloader is not None:
            self._reloader.start()

    async def stop(self) -> None:
        if self._reloader is not None:
            await self.runtime.future(self._reloader.stop())
        await self.runtime.future(self.supervisor.stop())
        await self.runtime.future(Deferred.fromCoroutine(self._leftovers.stop()))
        self._heartbeat.stop()
        self._lag.stop()
        await self._admin.stop()
        await self.runtime.future(self._clusters.stop())

    def stop_now(self) -> None:
        self.supervisor.stop_now()

    def _beat(self) -> bytes:
        """What its beats report: the children that live, and facts for people."""
        return with_facts(self.supervisor.workers.living(), self._subject.encoded_facts())

    def _readers_changed(self) -> None:
        """Servers look for readers that come, and turn away from those that go: at once, and not with the next beat."""
        reads = self.supervisor.workers.reads()
        if reads != self._reads:
            self._reads = reads
            self._heartbeat.beat_now()

    def counts(self) -> dict[str, int]:
        return {"workers": self.supervisor.statistics()["workers_ready"]}

    def reload(self, new: CommandSettings) -> Collection[str]:
        self.supervisor.replace()
        return ()

    def _failed(self, why: str) -> None:
        """The application cannot be loaded."""
        if not self.ended.done():
            self.ended.set_exception(ConfigurationError(why))

    def _how(self, pool: Pool, workers: int) -> str:
        """How the workers run the application, for people."""
        settings, each = pool.settings, "" if workers == 1 else " each"
        if pool.interface == "wsgi":
            return f"WSGI, {min(settings.concurrency, settings.threads)} threads{each}"
        return f"ASGI, up to {settings.concurrency} requests at a time{each}"

    def _ready(self) -> None:
        if not self.supervisor.broken:
            for pool in self.supervisor.pools:
                started = sum(worker.ready and worker.pool is pool for worker in self.supervisor.workers)
                what = f"{started} worker{'s' if started != 1 else ''} run{'s' if started == 1 else ''}"
                _log.info("%s%s %s (%s)", pool.prefix, what, pool.settings.application, self._how(pool, started))
        self.is_ready()


def _nobody(process: str) -> None:
    """A supervisor asks for nobody, so nobody can be lost to it."""
