"""The interface servers whose streams this process holds: their messages, and the reports that both sides exchange
once a second."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from ifserver import channels
from ifserver.clock import Clock, Timer
from ifserver.layers.accounting import SYNC_S, Account, Accounting, Correspondent, InboxDelivery, epoch_of
from ifserver.layers.clusters import Clusters
from ifserver.layers.presence import Watched
from ifserver.messages import SERVER_LOST, Release, Sync, SyncEntry, ToApplication, Window, decode_for_worker, encode
from ifserver.metrics import Counters
from ifserver.worker.stream import LOST, Stream
from ifserver.worker_ledger import Ledger

__all__ = ["Inbox", "Servers"]

_Message: TypeAlias = ToApplication | Window | Sync | Release

#: The reason of a `Release` for a stream that is not held here.
_GONE: Final = "gone"
#: Nodes that are not configured here, which are logged.
_MOST_UNKNOWN: Final = 100

_log = logging.getLogger(__name__)


class _Server(Correspondent):
    """One interface server, as long as it has streams here."""

    __slots__ = ("due", "everything")

    def __init__(self, now: float, epoch: str | None) -> None:
        super().__init__(now, epoch)
        #: For this second: whether everything is reported to it, or (None) nothing; and the report, by the inbox of
        #: ours that the streams name: an old stream keeps it for a while when we have moved.
        self.everything: bool | None = None
        self.due: dict[str, list[SyncEntry]] = {}

    def turn(self, now: float, epoch: str | None) -> None:
        """Another second has passed."""
        self.due = {}
        self.everything = self.begin(now, epoch)


class Inbox:
    """Hands what interface servers send to this process to `streams`, which has them by their identity.

    Args:
        synced: is given what servers report of all the streams that they share with this process.
    """

    def __init__(
        self, streams: Mapping[str, Stream], synced: Callable[[Sync], None], accounting: Accounting, counters: Counters
    ) -> None:
        self._streams = streams
        self._synced = synced
        #: Called with messages that have come, as `ifserver.layers.inbox` does it.
        self.deliver = InboxDelivery(decode_for_worker, self._hand_on, _sender, accounting, counters).deliver

    def _hand_on(self, message: _Message, inbox: str) -> str | None:
        """Hand a message to its stream. Returns why it was dropped, or None."""
        if isinstance(message, Sync):
            self._synced(message)
            return None
        stream = self._streams.get(message.stream)
        if stream is None or stream.link.attempt != message.attempt:
            # Usual for a stream that has just ended here, and for an attempt that another worker has by now. It does
            # not show where its server is; the server's next `Sync` does, and is answered.
            return "gone"
        if isinstance(message, Window):
            stream.consumed(message.consumed)
        elif isinstance(message, Release):
            stream.lose()
        else:
            return stream.arrived(message)
        return None


def _sender(message: _Message) -> str:
    """The server that has sent a message: its process, or its inbox."""
    return message.sender if isinstance(message, Sync) else message.stream.partition(".")[0]


class Servers:
    """All of them, from `start` to `stop`. A `ifserver.layers.inbox.Resident`.

    Args:
        streams: what this process holds, by identity.
        ledger: names the inbox for new streams to the supervisor.
        supervisor: the process that watches over this one.
    """

    def __init__(
        self,
        clusters: Clusters,
        streams: Mapping[str, Stream],
        ledger: Ledger,
        supervisor: str,
        counters: Counters,
        clock: Clock,
    ) -> None:
        self._clusters = clusters
        self._streams = streams
        self._supervisor = supervisor
        self._ledger = ledger
        ledger.inbox = clusters.home.inbox
        self._clock = clock
        self._inbox = Inbox(streams, self.synced, clusters.accounting, counters)
        self._accounts: dict[Stream, Account] = {}
        #: By their inboxes.
        self._servers: dict[str, _Server] = {}
        #: How often each of them has moved, by its process, as far as is known.
        self._moves: dict[str, int] = {}
        #: Nodes that are not configured here, which were logged.
        self._unknown: set[str] = set()
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._servers)

    def start(self) -> None:
        """Begin to report."""
        self._timer = self._clock.callLater(SYNC_S, self._tick)

    def stop(self) -> None:
        """Report no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def watched(self) -> Watched:
        """Which servers to ask for, on which node: those that had streams here when we last looked."""
        watched: dict[str, dict[str, str]] = {}
        for inbox in self._servers:
            process = channels.process_of(inbox)
            watched.setdefault(channels.node_of(inbox), {})[process] = process
        return watched

    # From the servers.

    def deliver(self, inbox: str, payloads: list[bytes]) -> None:
        """Messages have come."""
        self._inbox.deliver(inbox, payloads)
        # The applications that have waited for these messages go on first, and what they send leaves in the same turn.
        self._clusters.flush_soon()

    def synced(self, sync: Sync) -> None:
        """A server reports how far its streams are."""
        node = channels.node_of(sync.sender)
        if node not in self._clusters.nodes:
            self._log_unknown(node)
            return
        process = channels.process_of(sync.sender)
        # What it sent before it moved may have waited for its node, and come after what it has sent since.
        is_late = sync.moves < self._moves.get(process, 0)
        if sync.moves and not is_late:
            self._moves[process] = sync.moves
        more_waits = not is_late and self._clusters.follow(sync.sender)
        for entry in sync.entries:
            stream = self._streams.get(entry.stream)
            if stream is not None and stream.link.attempt < entry.attempt:
                stream.lose()
                stream = None
            if stream is None and more_waits:
                continue  # it may have ended here, and its last messages wait for the node where the server was
            if stream is None or (stream.link.attempt == entry.attempt and stream.phase is LOST):
                # Where the application still runs we have released it as well, and the server does not know.
                release = Release(entry.stream, entry.attempt, self._clusters.home.inbox, _GONE)
                self._clusters.send(sync.sender, encode(release))
            elif stream.link.attempt == entry.attempt:
                if not is_late:
                    self._follow(stream, sync.sender)
                if entry.sent > stream.link.received:
                    # The messages before this will never come.
                    stream.link.received = entry.sent
                    stream.release("gap")
                else:
                    stream.consumed(entry.consumed)

    def lose(self, process: str) -> None:
        """The interface server `process` is dead. One that was only frozen releases its streams when it wakes."""
        for stream in list(self._streams.values()):
            if channels.process_of(stream.link.server) == process:
                stream.release(SERVER_LOST)

    # This process's inbox.

    def moved(self) -> None:
        """New streams name another inbox from now on."""
        self._ledger.inbox = self._clusters.home.inbox

    def names(self, inbox: str) -> bool:
        """Whether any stream names this inbox."""
        return any(stream.link.worker == inbox for stream in self._streams.values())

    def readdress(self, inbox: str) -> None:
        """The node of this inbox is lost: the streams that name it name the present one from now on."""
        for stream in self._streams.values():
            if stream.link.worker == inbox:
                stream.link.worker = self._clusters.home.inbox
        for server in self._servers.values():
            server.tell_everything()

    def _log_unknown(self, node: str) -> None:
        """Nothing can be sent to a server where it receives now: its streams go on with its old address."""
        if node not in self._unknown and len(self._unknown) < _MOST_UNKNOWN:
            self._unknown.add(node)
            _log.error("a server receives on node %r, which is not configured here", node)

    def _follow(self, stream: Stream, sender: str) -> None:
        """The server reports at which inbox it is answered, about a stream of its own."""
        old = stream.link.server
        if old != sender and channels.process_of(old) == channels.process_of(sender):
            stream.link.server = sender
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
            link = stream.link
            account = self._accounts[stream] = accounts.get(stream) or Account(now)
            server = self._servers.get(link.server)
            if server is None:
                epoch = epoch_of(self._clusters, link.server)
                server = self._servers[link.server] = servers.get(link.server) or _Server(now, epoch)
                server.turn(now, epoch)
            everything = server.everything
            # One that waits for credit is reported every second.
            if everything is not None and account.is_due(
                now, link.sent, link.window.consumed, everything or not link.credit.open
            ):
                server.due.setdefault(link.worker, []).append(
                    SyncEntry(link.identity, link.attempt, account.sent, account.consumed)
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
                self.lose(process)
                del self._servers[inbox]
        self._clusters.forget_missing()
        for named, server in self._servers.items():
            for sender, entries in server.due.items():
                server.tell(self._clusters, named, sender, self._supervisor, entries)
