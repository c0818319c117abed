"""The interface servers whose streams this process holds: what they and we tell each other once a second."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from ifserver import channels
from ifserver.clock import Clock, Timer
from ifserver.layers.clusters import Clusters
from ifserver.layers.heartbeat import Watched
from ifserver.layers.reconciliation import SYNC_S, Account, Correspondent, epoch_of
from ifserver.messages import Release, Sync, SyncEntry, encode
from ifserver.worker.asgi_stream import Stream
from ifserver.worker.stream_phases import LOST

__all__ = ["Servers"]

#: The reason of a `Release` for a stream that is not held here.
_GONE: Final = "gone"
#: Nodes that are not configured here, of which is complained.
_MOST_UNKNOWN: Final = 100

_log = logging.getLogger(__name__)


class _Server(Correspondent):
    """One interface server, as long as it has streams here."""

    __slots__ = ("due", "everything")

    def __init__(self, now: float, epoch: str | None) -> None:
        super().__init__(now, epoch)
        #: For this second: whether it is told of everything, or (None) of nothing; and what it is told, by the inbox of
        #: ours that the streams name: an old stream keeps it for a while when we have moved.
        self.everything: bool | None = None
        self.due: dict[str, list[SyncEntry]] = {}

    def turn(self, now: float, epoch: str | None) -> None:
        """Another second has passed."""
        self.due = {}
        self.everything = self.begin(now, epoch)


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
        #: How often each of them has moved, by its process, as far as it was heard.
        self._moves: dict[str, int] = {}
        #: Nodes that are not configured here, of which was complained.
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
        node = channels.node_of(sync.sender)
        if node not in self._clusters.nodes:
            self._complain(node)
            return
        process = channels.process_of(sync.sender)
        # What was said before it moved may have waited for its node, and come after what it has said since.
        is_late = sync.moves < self._moves.get(process, 0)
        if sync.moves and not is_late:
            self._moves[process] = sync.moves
        more_waits = not is_late and self._clusters.follow(sync.sender)
        for entry in sync.entries:
            stream = self._streams.get(entry.stream)
            if stream is not None and stream.attempt < entry.attempt:
                stream.let_go()
                stream = None
            if stream is None and more_waits:
                continue  # it may have ended here, and its last messages wait for the node where the server was
            if stream is None or (stream.attempt == entry.attempt and stream.phase is LOST):
                # Where the application still runs we have let go of it as well, and the server has not heard it.
                release = Release(entry.stream, entry.attempt, self._clusters.home.inbox, _GONE)
                self._clusters.send(sync.sender, encode(release))
            elif stream.attempt == entry.attempt:
                if not is_late:
                    self._follow(stream, sync.sender)
                if stream.compare(entry.sent):
                    stream.consumed(entry.consumed)

    def tell_everything(self) -> None:
        """Tell all servers of all that we share with them at the next opportunity, as what we are called now."""
        for server in self._servers.values():
            server.tell_everything()

    def _complain(self, node: str) -> None:
        """A server cannot be told anything where it receives now: its streams go on with its old address."""
        if node not in self._unknown and len(self._unknown) < _MOST_UNKNOWN:
            self._unknown.add(node)
            _log.error("a server receives on node %r, which is not configured here", node)

    def _follow(self, stream: Stream, sender: str) -> None:
        """The server says at which inbox it is answered, about a stream of its own."""
        old = stream.server
        if old != sender and channels.process_of(old) == channels.process_of(sender):
            stream.server = sender
            self._clusters.redirect(old, sender)
            server = self._servers.get(sender)
            if server is None:
                server = self._servers[sender] = _Server(self._clock.seconds(), epoch_of(self._clusters, sender))
            # Where we have moved ourselves, it may have missed that.
            server.tell_everything()

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
                epoch = epoch_of(self._clusters, stream.server)
                server = self._servers[stream.server] = servers.get(stream.server) or _Server(now, epoch)
                server.turn(now, epoch)
            everything = server.everything
            if everything is not None and account.is_due(now, *stream.account, everything or stream.waits):
                server.due.setdefault(stream.worker, []).append(
                    SyncEntry(stream.identity, stream.attempt, account.sent, account.consumed)
                )
        if self._moves:
            present = {channels.process_of(inbox) for inbox in self._servers}
            self._moves = {process: moves for process, moves in self._moves.items() if process in present}
        missing = [inbox for inbox in self._servers if self._clusters.outages.is_missing(inbox)]
        # One that has moved is still known to some streams by its old address.
        present = {channels.process_of(inbox) for inbox in self._servers.keys() - set(missing)}
        for inbox in missing:
            process = channels.process_of(inbox)
            if process not in present:
                _log.warning("server %s is presumed dead: its node is gone, and it receives on no other", process)
                self._lost(process)
                del self._servers[inbox]
        self._clusters.forget_missing()
        for named, server in self._servers.items():
            for sender, entries in server.due.items():
                server.tell(self._clusters, named, sender, self._supervisor, entries)
