"""The worker processes that hold streams of this server: what they are told, and what their death means."""

from __future__ import annotations

import logging
from typing import Protocol

from ifserver import channels
from ifserver import messages as m
from ifserver.clock import Clock, Timer
from ifserver.errors import ChannelNameError
from ifserver.layers.clusters import Clusters
from ifserver.layers.heartbeat import Watched
from ifserver.layers.reconciliation import SYNC_S, Account, Correspondent, epoch_of
from ifserver.state_machines.stream import Stream

__all__ = ["Peer", "Peers"]

_log = logging.getLogger(__name__)


class Exchange(Protocol):
    """What a peer knows of an exchange."""

    stream: Stream
    #: The process of the claimant.
    peer: Peer | None

    def hear(self, message: m.ToStream) -> str | None:
        """A worker, or its supervisor, has something to say about the stream."""


class Peer(Correspondent):
    """One worker process."""

    __slots__ = ("accounts", "inbox", "moves", "supervisor", "timer")

    def __init__(self, inbox: str, now: float, epoch: str | None) -> None:
        super().__init__(now, epoch)
        self.inbox = inbox
        #: How often it has moved, as far as it was heard.
        self.moves = 0
        #: The process that beats for it, once it is known.
        self.supervisor = ""
        self.accounts: dict[Exchange, Account] = {}
        self.timer: Timer | None = None


class Peers:
    """All worker processes that hold streams of this server."""

    def __init__(self, clusters: Clusters, clock: Clock) -> None:
        self._clusters = clusters
        self._clock = clock
        self._peers: dict[str, Peer] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def stop(self) -> None:
        """Tell nobody any more."""
        for peer in self._peers.values():
            if peer.timer is not None:
                peer.timer.cancel()
        self._peers.clear()

    def claimed(self, exchange: Exchange, renamed: bool) -> None:
        """The stream of `exchange` has another claimant than before, or knows more of it; None: it has none now.

        Args:
            renamed: whether it has heard that claimant's address only now. Streams that have not heard of a move yet
                know an old one, which says nothing of where their claimant is.
        """
        worker, now = exchange.stream.worker, self._clock.seconds()
        peer = None if worker is None else self._peer(worker, exchange.stream.supervisor or "")
        if exchange.peer is not peer:
            self.left(exchange)
            exchange.peer = peer
            if peer is not None:
                peer.accounts[exchange] = Account(now)
        if renamed and peer is not None and worker is not None:
            peer.inbox = worker

    def address(self, sync: m.Sync) -> str:
        """Where the worker receives that has sent `sync`, which may come later than what it has said since."""
        peer = self._peers.get(channels.process_of(sync.sender))
        if peer is None:
            return sync.sender
        if sync.moves < peer.moves:
            return peer.inbox
        peer.moves = sync.moves
        return sync.sender

    def left(self, exchange: Exchange) -> None:
        """The stream of `exchange` has ended, or lost its claimant."""
        peer, exchange.peer = exchange.peer, None
        if peer is not None:
            peer.accounts.pop(exchange, None)

    def watched(self) -> Watched:
        """Whom to ask for, on which node."""
        watched: dict[str, dict[str, str]] = {}
        for process, peer in self._peers.items():
            if peer.accounts and peer.supervisor:
                watched.setdefault(channels.node_of(peer.inbox), {})[process] = peer.supervisor
        return watched

    def lost(self, process: str) -> None:
        """A worker process is dead: its streams are lost. One that was only frozen lets go of them when it wakes."""
        peer = self._peers.get(process)
        if peer is None:
            return
        for exchange in list(peer.accounts):
            stream = exchange.stream
            worker = stream.worker or peer.inbox
            release = m.Release(stream.identity, stream.attempt, worker, m.DIED)
            self._send(worker, release)
            exchange.hear(release)

    def tell_everything(self) -> None:
        """Tell all workers of all that we share with them at the next opportunity, as what we are called now."""
        for peer in self._peers.values():
            peer.tell_everything()

    def _peer(self, worker: str, supervisor: str) -> Peer:
        process = channels.process_of(worker)
        peer = self._peers.get(process)
        if peer is None:
            peer = self._peers[process] = Peer(worker, self._clock.seconds(), epoch_of(self._clusters, worker))
            peer.timer = self._clock.callLater(SYNC_S, self._tick, process, peer)
        if supervisor:
            peer.supervisor = supervisor
        return peer

    def _tick(self, process: str, peer: Peer) -> None:
        if not peer.accounts:
            del self._peers[process]
            return
        peer.timer = self._clock.callLater(SYNC_S, self._tick, process, peer)
        # It is known by several addresses while some streams have not heard of its move.
        inboxes = {each.stream.worker or peer.inbox for each in peer.accounts} | {peer.inbox}
        if all(map(self._clusters.outages.is_missing, inboxes)):
            _log.warning("process %s is presumed dead: its node is gone, and it receives on no other", process)
            self.lost(process)
            return
        now = self._clock.seconds()
        everything = peer.begin(now, epoch_of(self._clusters, peer.inbox))
        if everything is None:
            return
        # Where to, and as whom: an old stream keeps its addresses for a while when either of us has moved.
        due: dict[tuple[str, str], list[m.SyncEntry]] = {}
        for exchange, account in peer.accounts.items():
            stream = exchange.stream
            if account.is_due(now, *stream.account, stream.waits or everything):
                key = stream.worker or peer.inbox, channels.inbox_of(stream.channel)
                due.setdefault(key, []).append(
                    m.SyncEntry(stream.identity, stream.attempt, account.sent, account.consumed)
                )
        for (worker, sender), entries in due.items():
            peer.tell(self._clusters, worker, sender, "", entries)

    def _send(self, inbox: str, message: m.Message) -> None:
        try:
            self._clusters.send(inbox, m.encode(message))
        except ChannelNameError as error:
            _log.error("cannot tell a worker: %s", error)
