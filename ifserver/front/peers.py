"""The worker processes that hold streams of this server: what they are told, and what their death means."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ifserver import channels
from ifserver import messages as m
from ifserver.clock import Clock, Timer
from ifserver.errors import ChannelNameError
from ifserver.layers.clusters import Clusters
from ifserver.layers.heart import Watched
from ifserver.streams.account import EVERYTHING_S, SYNC_ENTRIES, SYNC_S, Account

if TYPE_CHECKING:
    from ifserver.front.driver import Exchange

__all__ = ["Peer", "Peers"]

_log = logging.getLogger(__name__)


class Peer:
    """One worker process."""

    __slots__ = ("accounts", "epoch", "everything_at", "inbox", "supervisor", "telling", "timer")

    def __init__(self, inbox: str, now: float, epoch: str | None) -> None:
        self.inbox = inbox
        #: The process that beats for it, once it is known.
        self.supervisor = ""
        self.accounts: dict[Exchange, Account] = {}
        self.everything_at = now + EVERYTHING_S
        self.epoch = epoch
        #: Whether a `Sync` is under way to it.
        self.telling = False
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

    def claimed(self, exchange: Exchange) -> None:
        """The stream of `exchange` has another claimant than before, or knows more of it; None: it has none now."""
        worker, now = exchange.stream.worker, self._clock.seconds()
        peer = None if worker is None else self._peer(worker, exchange.stream.supervisor or "")
        if exchange.peer is not peer:
            self.left(exchange)
            exchange.peer = peer
            if peer is not None:
                peer.accounts[exchange] = Account(now)

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
            peer.everything_at = 0.0

    def all_lost(self) -> None:
        """All worker processes have ended, with those who would have said so."""
        for process in list(self._peers):
            self.lost(process)

    def _peer(self, worker: str, supervisor: str) -> Peer:
        process = channels.process_of(worker)
        peer = self._peers.get(process)
        if peer is None:
            peer = self._peers[process] = Peer(worker, self._clock.seconds(), self._epoch(worker))
            peer.timer = self._clock.callLater(SYNC_S, self._tick, process, peer)
        peer.inbox = worker
        if supervisor:
            peer.supervisor = supervisor
        return peer

    def _epoch(self, worker: str) -> str | None:
        """Changes when what was sent in either direction may be lost."""
        node = self._clusters.nodes.get(channels.node_of(worker))
        return f"{self._clusters.home.node.epoch} {node.epoch}" if node is not None else None

    def _tick(self, process: str, peer: Peer) -> None:
        if not peer.accounts:
            del self._peers[process]
            return
        peer.timer = self._clock.callLater(SYNC_S, self._tick, process, peer)
        if self._clusters.is_missing(peer.inbox):
            _log.warning("process %s is dead: its node is gone, and it has named no other", process)
            self.lost(process)
            return
        now, epoch = self._clock.seconds(), self._epoch(peer.inbox)
        everything = now >= peer.everything_at or epoch != peer.epoch
        if peer.telling and now < peer.everything_at:
            # The node has not taken the last one. It never will if there was no more room for it to wait for the node,
            # so this lasts for a minute at most.
            return
        if everything:
            peer.everything_at, peer.epoch = now + EVERYTHING_S, epoch
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
            elsewhere = self._clusters.elsewhere(worker)
            if not elsewhere:
                self._sync(peer, worker, sender, entries)
            else:
                # This overtakes what waits for the worker at its old address, so it must not speak of that.
                entries = [replace(entry, sent=0) for entry in entries]
                for inbox in elsewhere:
                    self._sync(peer, inbox, sender, entries)

    def _sync(self, peer: Peer, inbox: str, sender: str, entries: list[m.SyncEntry]) -> None:
        for start in range(0, len(entries), SYNC_ENTRIES):
            last = start + SYNC_ENTRIES >= len(entries)
            peer.telling = True
            sync = m.Sync(sender, "", entries[start : start + SYNC_ENTRIES])
            self._send(inbox, sync, (lambda: self._told(peer)) if last else None)

    def _send(self, inbox: str, message: m.Message, taken: Callable[[], None] | None = None) -> None:
        try:
            self._clusters.send(inbox, m.encode(message), taken)
        except ChannelNameError as error:
            _log.error("cannot tell a worker: %s", error)

    def _told(self, peer: Peer) -> None:
        peer.telling = False
