"""What comes to this server's inboxes: every reply to every connection goes through here.

And the worker processes that hold streams of this server: what they are sent, and what their death means.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, get_args

from ifserver import channels
from ifserver import messages as m
from ifserver.errors import ChannelNameError
from ifserver.layers.accounting import SYNC_S, Account, Correspondent, InboxDelivery, epoch_of

if TYPE_CHECKING:
    from ifserver.clock import Clock, Timer
    from ifserver.front.exchanges.attempt import UnresolvedAttempts
    from ifserver.front.exchanges.exchange import Exchange
    from ifserver.layers.clusters import Clusters
    from ifserver.layers.presence import Watched

__all__ = ["WorkerProcess", "WorkerReplies", "Workers"]

#: How long a process may take, beyond ``broker_grace_s``, to name who watches over it, in seconds.
_UNWATCHED_S: Final = 10.0

_log = logging.getLogger(__name__)


def _itself_or_supervisor(message: Any) -> str:
    sender: str = message.by or message.worker
    return sender


_SENDERS: Final[Mapping[type, Callable[[Any], str]]] = {
    **dict.fromkeys(get_args(m.ToStream), attrgetter("worker")),
    m.Claim: _itself_or_supervisor,
    m.Release: _itself_or_supervisor,
    m.Sync: attrgetter("sender"),
}


def _sender(message: Any) -> str:
    """Who has sent a message: a process, or its inbox."""
    return _SENDERS[type(message)](message)


class WorkerReplies:
    """Hands each message to its exchange, and the address of this server to those that name it.

    A `ifserver.layers.inbox.Resident`.

    Args:
        registry: the exchanges that are open, by the identities of their streams.
    """

    def __init__(
        self, clusters: Clusters, registry: Mapping[str, Exchange], workers: Workers, unresolved: UnresolvedAttempts
    ) -> None:
        self._clusters = clusters
        self._registry = registry
        self._workers = workers
        self._unresolved = unresolved
        self._delivery = InboxDelivery(
            m.decode_for_server, self._hand_on, _sender, clusters.accounting, clusters.counters
        )
        # Streams that do not exist, and the workers that were sent a `Release` of them in this batch.
        self._released: set[tuple[str, int, str]] = set()

    def deliver(self, inbox: str, payloads: list[bytes]) -> None:
        self._delivery.deliver(inbox, payloads)
        self._released.clear()

    def _hand_on(self, message: Any, inbox: str) -> str | None:
        """Hand a message to its exchange. Returns why it was dropped, or None."""
        if type(message) is m.Sync:
            self._sync(message)
            return None
        exchange = self._registry.get(message.stream)
        if exchange is not None:
            reason = exchange.receive(message)
        else:
            if not isinstance(message, m.Release | m.Window):
                self._release(message.stream, message.attempt, message.worker)
            reason = "gone"
        if reason == "gone":
            self._late(message.stream, message.attempt, message.worker, inbox)
        return reason

    def moved(self) -> None:
        """New streams name another inbox from now on; and those that are not claimed yet."""
        for exchange in list(self._registry.values()):
            if exchange.attempt.list is not None:
                exchange.attempt.take_back()

    def names(self, inbox: str) -> bool:
        """Whether any stream names this inbox."""
        return any(channels.inbox_of(exchange.stream.channel) == inbox for exchange in self._registry.values())

    def readdress(self, inbox: str) -> None:
        """The node of this inbox is lost: the streams that name it name the present one from now on."""
        for exchange in list(self._registry.values()):
            if channels.inbox_of(exchange.stream.channel) == inbox:
                exchange.stream.update_address(self._clusters.home.inbox)
        self._workers.tell_everything()

    def _sync(self, sync: m.Sync) -> None:
        address = self._workers.address(sync)
        for entry in sync.entries:
            exchange = self._registry.get(entry.stream)
            if exchange is None or exchange.stream.attempt != entry.attempt:
                self._late(entry.stream, entry.attempt, sync.sender, self._clusters.home.inbox)
            if exchange is None:
                self._release(entry.stream, entry.attempt, sync.sender)
                continue
            exchange.receive_sync(entry, address, sync.supervisor)

    def _late(self, stream: str, attempt: int, worker: str, inbox: str) -> None:
        """`worker` has had an attempt that is over here."""
        if self._unresolved.claimed(stream, attempt):
            self._clusters.accounting.incoming[inbox][worker].spoken_of += 1

    def _release(self, stream: str, attempt: int, worker: str) -> None:
        """The stream has ended here: a worker that still has it is to release it."""
        # Once for all that came together: a worker that sends a body learns of its end only after it has sent more.
        if (stream, attempt, worker) in self._released:
            return
        self._released.add((stream, attempt, worker))
        try:
            if self._clusters.follow(worker):
                return  # what the stream has sent last may wait for the node where the worker was
            self._clusters.send(worker, m.encode(m.Release(stream, attempt, worker, "gone")))
        except ChannelNameError as error:
            _log.error("the sender of a message about %r cannot be answered at %r: %s", stream, worker, error)


class WorkerProcess(Correspondent):
    """One worker process."""

    __slots__ = ("accounts", "eldest", "inbox", "moves", "supervisor", "timer", "unwatched")

    def __init__(self, inbox: str, now: float, epoch: str | None) -> None:
        super().__init__(now, epoch)
        self.inbox = inbox
        #: How often it has moved, as far as is known.
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
        """Send nothing any more."""
        for process in self._workers.values():
            if process.timer is not None:
                process.timer.cancel()
        self._workers.clear()

    def claimed(self, exchange: Exchange, renamed: bool) -> None:
        """The stream of `exchange` has another claimant than before, or knows more of it; None: it has none now.

        Args:
            renamed: whether it has learnt that claimant's address only now. Streams that do not know of a move yet have
                an old one, which shows nothing of where their claimant is.
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
        """Where the worker receives that has sent `sync`, which may come later than what it has sent since."""
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
        """A worker process is dead: its streams are lost. One that was only frozen releases them when it wakes."""
        process = self._workers.get(name)
        if process is None:
            return
        for exchange in list(process.accounts):
            stream = exchange.stream
            worker = stream.worker or process.inbox
            release = m.Release(stream.identity, stream.attempt, worker, m.DIED)
            self._send(worker, release)
            exchange.receive(release)

    def tell_everything(self) -> None:
        """Send all workers the account of all that we share with them soon, from our address of now."""
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
        # It is known by several addresses while some streams do not know of its move.
        inboxes = {each.stream.worker or process.inbox for each in process.accounts} | {process.inbox}
        if all(map(self._clusters.outages.is_missing, inboxes)):
            _log.warning("process %s is presumed dead: its node is gone, and it receives on no other", name)
            self.lost(name)
            return
        if self._is_unwatched(process):
            _log.warning("process %s is presumed dead: it has not named the supervisor that watches over it", name)
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
        """Whether it must have died before it could name its supervisor, so that none can be asked for it. It does so
        with every stream that is a second old, and again when it learns that we have moved.

        Looks are counted, and not seconds: if we were frozen, what it has sent is read first.
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
            _log.error("a worker cannot be sent a message: %s", error)
