"""The worker processes that hold streams of this server: what they are told, and what their death means."""

from __future__ import annotations

import logging
from typing import Final, Protocol

from ifserver import channels
from ifserver import messages as m
from ifserver.clock import Clock, Timer
from ifserver.errors import ChannelNameError
from ifserver.layers.clusters import Clusters
from ifserver.layers.heartbeat import Watched
from ifserver.layers.reconciliation import SYNC_S, Account, Correspondent, epoch_of
from ifserver.state_machines.stream import Stream

__all__ = ["WorkerProcess", "Workers"]

#: How long a process may take, beyond ``broker_grace_s``, to name who watches over it, in seconds.
_UNWATCHED_S: Final = 10.0

_log = logging.getLogger(__name__)


class Exchange(Protocol):
    """What a `WorkerProcess` knows of an exchange."""

    stream: Stream
    #: The process of the claimant.
    worker_process: WorkerProcess | None

    def hear(self, message: m.ToStream) -> str | None:
        """A worker, or its supervisor, has something to say about the stream."""


class WorkerProcess(Correspondent):
    """One worker process."""

    __slots__ = ("accounts", "eldest", "inbox", "moves", "supervisor", "timer", "unwatched")

    def __init__(self, inbox: str, now: float, epoch: str | None) -> None:
        super().__init__(now, epoch)
        self.inbox = inbox
        #: How often it has moved, as far as it was heard.
        self.moves = 0
        #: The process that beats for it, once it is known.
        self.supervisor = ""
        #: Its oldest stream when we last looked, and how often we have looked in vain since whether it is known.
        self.eldest: Exchange | None = None
        self.unwatched = 0
        self.accounts: dict[Exchange, Account] = {}
        self.timer: Timer | None = None


class Workers:
    """All worker processes that hold streams of this server."""

    def __init__(self, clusters: Clusters, clock: Clock) -> None:
        self._clusters = clusters
        self._clock = clock
        self._workers: dict[str, WorkerProcess] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def stop(self) -> None:
        """Tell nobody any more."""
        for process in self._workers.values():
            if process.timer is not None:
                process.timer.cancel()
        self._workers.clear()

    def claimed(self, exchange: Exchange, renamed: bool) -> None:
        """The stream of `exchange` has another claimant than before, or knows more of it; None: it has none now.

        Args:
            renamed: whether it has heard that claimant's address only now. Streams that have not heard of a move yet
                know an old one, which says nothing of where their claimant is.
        """
        worker, now = exchange.stream.worker, self._clock.seconds()
        process = None if worker is None else self._process(worker, exchange.stream.supervisor or "")
        if exchange.worker_process is not process:
            self.left(exchange)
            exchange.worker_process = process
            if process is not None:
                process.accounts[exchange] = Account(now)
        if renamed and process is not None and worker is not None:
            process.inbox = worker

    def address(self, sync: m.Sync) -> str:
        """Where the worker receives that has sent `sync`, which may come later than what it has said since."""
        process = self._workers.get(channels.process_of(sync.sender))
        if process is None:
            return sync.sender
        if sync.moves < process.moves:
            return process.inbox
        process.moves = sync.moves
        return sync.sender

    def left(self, exchange: Exchange) -> None:
        """The stream of `exchange` has ended, or lost its claimant."""
        process, exchange.worker_process = exchange.worker_process, None
        if process is not None:
            process.accounts.pop(exchange, None)

    def watched(self) -> Watched:
        """Whom to ask for, on which node."""
        watched: dict[str, dict[str, str]] = {}
        for name, process in self._workers.items():
            if process.accounts and process.supervisor:
                watched.setdefault(channels.node_of(process.inbox), {})[name] = process.supervisor
        return watched

    def lost(self, name: str) -> None:
        """A worker process is dead: its streams are lost. One that was only frozen lets go of them when it wakes."""
        process = self._workers.get(name)
        if process is None:
            return
        for exchange in list(process.accounts):
            stream = exchange.stream
            worker = stream.worker or process.inbox
            release = m.Release(stream.identity, stream.attempt, worker, m.DIED)
            self._send(worker, release)
            exchange.hear(release)

    def tell_everything(self) -> None:
        """Tell all workers of all that we share with them at the next opportunity, as what we are called now."""
        for process in self._workers.values():
            process.tell_everything()

    def _process(self, worker: str, supervisor: str) -> WorkerProcess:
        name = channels.process_of(worker)
        process = self._workers.get(name)
        if process is None:
            process = self._workers[name] = WorkerProcess(
                worker, self._clock.seconds(), epoch_of(self._clusters, worker)
            )
            process.timer = self._clock.callLater(SYNC_S, self._tick, name, process)
        if supervisor:
            process.supervisor = supervisor
        return process

    def _tick(self, name: str, process: WorkerProcess) -> None:
        if not process.accounts:
            del self._workers[name]
            return
        process.timer = self._clock.callLater(SYNC_S, self._tick, name, process)
        # It is known by several addresses while some streams have not heard of its move.
        inboxes = {each.stream.worker or process.inbox for each in process.accounts} | {process.inbox}
        if all(map(self._clusters.outages.is_missing, inboxes)):
            _log.warning("process %s is presumed dead: its node is gone, and it receives on no other", name)
            self.lost(name)
            return
        if self._is_unwatched(process):
            _log.warning("process %s is presumed dead: it has not said who watches over it", name)
            self.lost(name)
            return
        now = self._clock.seconds()
        everything = process.begin(now, epoch_of(self._clusters, process.inbox))
        if everything is None:
            return
        # Where to, and as whom: an old stream keeps its addresses for a while when either of us has moved.
        due: dict[tuple[str, str], list[m.SyncEntry]] = {}
        for exchange, account in process.accounts.items():
            stream = exchange.stream
            if account.is_due(now, *stream.account, stream.waits or everything):
                key = stream.worker or process.inbox, channels.inbox_of(stream.channel)
                due.setdefault(key, []).append(
                    m.SyncEntry(stream.identity, stream.attempt, account.sent, account.consumed)
                )
        for (worker, sender), entries in due.items():
            process.tell(self._clusters, worker, sender, "", entries)

    def _is_unwatched(self, process: WorkerProcess) -> bool:
        """Whether it must have died before it could say who watches over it, so that nobody can be asked for it. It
        says so of every stream that is a second old, and again when it hears that we have moved.

        Looks are counted, and not seconds: if we were frozen, what it has said is read first.
        """
        home, eldest = self._clusters.home, next(iter(process.accounts))
        if process.supervisor or eldest is not process.eldest or home.silent or not home.node.connected:
            process.eldest, process.unwatched = eldest, 0
            return False
        process.unwatched += 1
        return process.unwatched * SYNC_S >= self._clusters.outages.grace_s + _UNWATCHED_S

    def _send(self, inbox: str, message: m.Message) -> None:
        try:
            self._clusters.send(inbox, m.encode(message))
        except ChannelNameError as error:
            _log.error("cannot tell a worker: %s", error)
