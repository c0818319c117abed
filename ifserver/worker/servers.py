"""The interface servers whose streams this process holds: what they and we tell each other once a second."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from msgspec.structs import replace

from ifserver import channels
from ifserver.clock import Clock, Timer
from ifserver.layers.clusters import Clusters
from ifserver.layers.heart import Watched
from ifserver.messages import Release, Sync, SyncEntry, encode
from ifserver.streams.account import EVERYTHING_S, SYNC_ENTRIES, SYNC_S, Account
from ifserver.worker.asgi import LOST, Stream

__all__ = ["Servers"]

#: The reason of a `Release` for a stream that is not held here.
_GONE: Final = "gone"

_log = logging.getLogger(__name__)


class _Server:
    """One interface server, as long as it has streams here."""

    __slots__ = ("due", "epoch", "everything", "everything_at", "silent", "telling")

    def __init__(self, now: float, epoch: str | None) -> None:
        self.everything_at = now + EVERYTHING_S
        self.epoch = epoch
        #: Whether a `Sync` is under way to it.
        self.telling = False
        #: For this second: whether it is told nothing, or of all that it shares with us, and what it is told, by the
        #: inbox of ours that the streams name: an old stream keeps it for a while when we have moved.
        self.silent = self.everything = False
        self.due: dict[str, list[SyncEntry]] = {}

    def begin(self, now: float, epoch: str | None) -> None:
        """Another second has passed."""
        self.due = {}
        # The node has not taken the last one. It never will if there was no more room for it to wait for the node, so
        # this lasts for a minute at most.
        self.silent = self.telling and now < self.everything_at
        self.everything = not self.silent and (now >= self.everything_at or epoch != self.epoch)
        if self.everything:
            self.everything_at, self.epoch = now + EVERYTHING_S, epoch

    def told(self) -> None:
        """The node has the last of what was under way."""
        self.telling = False


class Servers:
    """All of them, from `start` to `stop`.

    Args:
        streams: what this process holds, by identity.
        supervisor: the process that watches over this one.
        lost: is called for a server that must be dead.
    """

    def __init__(
        self,
        clusters: Clusters,
        streams: Mapping[str, Stream],
        supervisor: str,
        lost: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._clusters = clusters
        self._streams = streams
        self._supervisor = supervisor
        self._lost = lost
        self._clock = clock
        self._accounts: dict[Stream, Account] = {}
        #: By their inboxes.
        self._servers: dict[str, _Server] = {}
        #: Inboxes on nodes that are not configured here, of which was complained.
        self._unknown: set[str] = set()
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._servers)

    def start(self) -> None:
        """Begin to tell."""
        self._timer = self._clock.callLater(SYNC_S, self._tick)

    def stop(self) -> None:
        """Tell no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def watched(self) -> Watched:
        """Which servers to ask for, on which node: those that had streams here when we last looked."""
        watched: dict[str, dict[str, str]] = {}
        for inbox in self._servers:
            process = channels.process_of(inbox)
            watched.setdefault(channels.node_of(inbox), {})[process] = process
        return watched

    def hear(self, sync: Sync) -> None:
        """A server tells how far its streams are."""
        if channels.node_of(sync.sender) not in self._clusters.nodes:
            self._complain(sync.sender)
            return
        for entry in sync.entries:
            stream = self._streams.get(entry.stream)
            if stream is not None and stream.attempt < entry.attempt:
                stream.let_go()
                stream = None
            if stream is None or (stream.attempt == entry.attempt and stream.phase is LOST):
                # Where the application still runs we have let go of it as well, and the server has not heard it.
                release = Release(entry.stream, entry.attempt, self._clusters.home.inbox, _GONE)
                self._clusters.send(sync.sender, encode(release))
            elif stream.attempt == entry.attempt:
                self._follow(stream, sync.sender)
                if stream.compare(entry.sent):
                    stream.consumed(entry.consumed)

    def tell_everything(self) -> None:
        """Tell all servers of all that we share with them at the next opportunity, as what we are called now."""
        for server in self._servers.values():
            server.everything_at = 0.0

    def _complain(self, inbox: str) -> None:
        """A server cannot be told anything where it receives now. What it had said before holds on."""
        if inbox not in self._unknown:
            self._unknown.add(inbox)
            _log.error("a server receives at %s by now, on a node that is not configured here", inbox)

    def _follow(self, stream: Stream, sender: str) -> None:
        """The server says at which inbox it is answered, about a stream of its own."""
        old = stream.server
        if old != sender and channels.process_of(old) == channels.process_of(sender):
            stream.server = sender
            self._clusters.redirect(old, sender)

    def _epoch(self, server: str) -> str:
        """Changes when what was sent in either direction may be lost."""
        return f"{self._clusters.home.node.epoch} {self._clusters.nodes[channels.node_of(server)].epoch}"

    def _tick(self) -> None:
        self._timer = self._clock.callLater(SYNC_S, self._tick)
        now = self._clock.seconds()
        accounts, self._accounts = self._accounts, {}
        servers, self._servers = self._servers, {}
        for stream in self._streams.values():
            if stream.phase is LOST:
                continue
            account = self._accounts[stream] = accounts.get(stream) or Account(now)
            server = self._servers.get(stream.server)
            if server is None:
                epoch = self._epoch(stream.server)
                server = self._servers[stream.server] = servers.get(stream.server) or _Server(now, epoch)
                server.begin(now, epoch)
            if not server.silent and account.is_due(now, *stream.account, server.everything or stream.waits):
                server.due.setdefault(stream.worker, []).append(
                    SyncEntry(stream.identity, stream.attempt, account.sent, account.consumed)
                )
        missing = [inbox for inbox in self._servers if self._clusters.is_missing(inbox)]
        for inbox in missing:
            process = channels.process_of(inbox)
            _log.warning("server %s is dead: its node is gone, and it has named no other", process)
            self._lost(process)
            del self._servers[inbox]
        for named, server in self._servers.items():
            for sender, entries in server.due.items():
                elsewhere = self._clusters.elsewhere(named)
                if not elsewhere:
                    self._tell(named, sender, entries, server)
                else:
                    # This overtakes what waits for the server at its old address, so it must not speak of that.
                    entries = [replace(entry, sent=0) for entry in entries]
                    for inbox in elsewhere:
                        self._tell(inbox, sender, entries, server)

    def _tell(self, inbox: str, sender: str, entries: list[SyncEntry], server: _Server) -> None:
        for start in range(0, len(entries), SYNC_ENTRIES):
            last = start + SYNC_ENTRIES >= len(entries)
            server.telling = True
            sync = Sync(sender, self._supervisor, entries[start : start + SYNC_ENTRIES])
            self._clusters.send(inbox, encode(sync), server.told if last else None)
