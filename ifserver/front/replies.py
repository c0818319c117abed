"""What comes to this server's inboxes: every reply to every connection goes through here."""

from __future__ import annotations

import logging

from ifserver import channels
from ifserver import messages as m
from ifserver.errors import ChannelNameError, UndecodableError
from ifserver.front.peers import Peers
from ifserver.front.registry import Registry
from ifserver.layers.clusters import Clusters

__all__ = ["Replies"]

_log = logging.getLogger(__name__)


class Replies:
    """Hands each message to its stream; and lets the streams know where this server receives.

    A `ifserver.layers.home.Resident`.
    """

    def __init__(self, clusters: Clusters, registry: Registry, peers: Peers) -> None:
        self._clusters = clusters
        self._registry = registry
        self._peers = peers
        # Streams that do not exist, and were told of in this batch.
        self._told: set[tuple[str, int, str]] = set()

    def deliver(self, payloads: list[bytes]) -> None:
        """Messages have come."""
        delivered = sum(map(self._deliver, payloads))
        if delivered:
            self._clusters.counters.add("messages_delivered", delivered)
        self._told.clear()

    def moved(self) -> None:
        """New streams name another inbox from now on; and those that nobody has taken yet."""
        self._registry.move(self._clusters.home.inbox)
        for exchange in self._registry.all():
            exchange.readdress()

    def names(self, inbox: str) -> bool:
        """Whether any stream names this inbox."""
        return any(channels.inbox_of(exchange.stream.channel) == inbox for exchange in self._registry.all())

    def readdress(self, inbox: str) -> None:
        """The node of this inbox is gone: the streams that name it name the present one from now on."""
        for exchange in self._registry.all():
            if channels.inbox_of(exchange.stream.channel) == inbox:
                exchange.stream.readdress(self._clusters.home.inbox)
        self._peers.tell_everything()

    def _deliver(self, payload: bytes) -> bool:
        """Hand one message over. Whatever is wrong with it concerns its own stream, never the reader.

        False says that it was dropped, which is counted.
        """
        try:
            message = m.decode_for_server(payload)
        except UndecodableError as error:
            self._clusters.counters.add("messages_dropped", label="undecodable")
            _log.error("dropped a message in the inbox of %s that is none: %s", self._clusters.process, error)
            return False
        try:
            if type(message) is m.Sync:
                self._sync(message)
                return True
            exchange = self._registry.get(message.stream)  # type: ignore[union-attr]
            if exchange is not None:
                return exchange.hear(message)
            self._nobody(message)
        except Exception:
            _log.exception("a message of type %s could not be handled", type(message).__name__)
            return True
        return False

    def _sync(self, sync: m.Sync) -> None:
        for entry in sync.entries:
            exchange = self._registry.get(entry.stream)
            if exchange is None:
                self._tell_gone(entry.stream, entry.attempt, sync.sender)
                continue
            try:
                exchange.hear_sync(entry, sync.sender, sync.supervisor)
            except Exception:
                _log.exception("%s: what a worker says of it could not be handled", entry.stream)

    def _nobody(self, message: m.ToServer) -> None:
        """The stream has ended here: whoever still speaks about it should let go."""
        self._clusters.counters.add("messages_dropped", label="gone")
        if not isinstance(message, m.Release | m.Window | m.Sync):
            self._tell_gone(message.stream, message.attempt, message.worker)

    def _tell_gone(self, stream: str, attempt: int, worker: str) -> None:
        # Once for all that came together: a worker that sends a body does not hear of its end before it has sent more.
        if (stream, attempt, worker) in self._told:
            return
        self._told.add((stream, attempt, worker))
        try:
            self._clusters.send(worker, m.encode(m.Release(stream, attempt, worker, "gone")))
        except ChannelNameError as error:
            _log.error("a message about %s came from nowhere: %s", stream, error)
