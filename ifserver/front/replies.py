"""What comes to this server's inboxes: every reply to every connection goes through here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final, get_args

from ifserver import channels
from ifserver import messages as m
from ifserver.errors import ChannelNameError, UndecodableError
from ifserver.front.exchange import Exchange
from ifserver.front.peers import Peers
from ifserver.front.registry import Registry
from ifserver.front.unresolved import Unresolved
from ifserver.layers.clusters import Clusters
from ifserver.metrics import DELIVERED

__all__ = ["Replies"]

_log = logging.getLogger(__name__)


def _itself_or_supervisor(message: Any) -> str:
    speaker: str = message.by or message.worker
    return speaker


#: Who has sent a message of each kind: a process, or its inbox.
_SPEAKERS: Final[Mapping[type, Callable[[Any], str]]] = {
    **dict.fromkeys(get_args(m.ToStream), attrgetter("worker")),
    m.Claim: _itself_or_supervisor,
    m.Release: _itself_or_supervisor,
    m.Sync: attrgetter("sender"),
}


class Replies:
    """Hands each message to its stream; and lets the streams know where this server receives.

    A `ifserver.layers.home.Resident`.
    """

    def __init__(self, clusters: Clusters, registry: Registry[Exchange], peers: Peers, unresolved: Unresolved) -> None:
        self._clusters = clusters
        self._registry = registry
        self._peers = peers
        self._unresolved = unresolved
        # Streams that do not exist, and were told of in this batch.
        self._told: set[tuple[str, int, str]] = set()

    def deliver(self, inbox: str, payloads: list[bytes]) -> None:
        """Messages have come. Whatever is wrong with one concerns its own stream, never the reader."""
        counters, accounting, exchanges = self._clusters.counters, self._clusters.accounting, self._registry
        incoming = accounting.incoming[inbox]
        delivered = 0
        for payload in payloads:
            try:
                message = m.decode_for_server(payload)
            except UndecodableError as error:
                counters.add("messages_dropped", label="undecodable")
                _log.error("dropped a message to %s that cannot be decoded: %s", self._clusters.process, error)
                continue
            kind = type(message)
            if kind is m.Receipt:
                accounting.hear(inbox, message)  # type: ignore[arg-type]
                continue
            try:
                if kind is m.Sync:
                    self._sync(message)  # type: ignore[arg-type]
                    reason = None
                elif (exchange := exchanges.get(message.stream)) is not None:  # type: ignore[union-attr]
                    reason = exchange.hear(message)  # type: ignore[arg-type]
                else:
                    self._nobody(message)  # type: ignore[arg-type]
                    reason = "gone"
            except Exception:
                _log.exception("a message of type %s could not be handled", kind.__name__)
                reason = None
            if reason == "repeated":
                counters.add("messages_repeated")
                continue
            incoming[_SPEAKERS[kind](message)].count += 1
            if reason == "gone":
                self._late(message.stream, message.attempt, message.worker, inbox)  # type: ignore[union-attr]
            if reason is None:
                delivered += 1
            else:
                counters.add("messages_dropped", label=reason)
        if delivered:
            counters.cells[DELIVERED] += delivered
        self._told.clear()

    def moved(self) -> None:
        """New streams name another inbox from now on; and those that nobody has taken yet."""
        self._registry.move(self._clusters.home.inbox)
        for exchange in self._registry.all():
            exchange.attempt.readdress()

    def names(self, inbox: str) -> bool:
        """Whether any stream names this inbox."""
        return any(channels.inbox_of(exchange.stream.channel) == inbox for exchange in self._registry.all())

    def readdress(self, inbox: str) -> None:
        """The node of this inbox is gone: the streams that name it name the present one from now on."""
        for exchange in self._registry.all():
            if channels.inbox_of(exchange.stream.channel) == inbox:
                exchange.stream.readdress(self._clusters.home.inbox)
        self._peers.tell_everything()

    def _sync(self, sync: m.Sync) -> None:
        address = self._peers.address(sync)
        for entry in sync.entries:
            exchange = self._registry.get(entry.stream)
            if exchange is None or exchange.stream.attempt != entry.attempt:
                self._late(entry.stream, entry.attempt, sync.sender, self._clusters.home.inbox)
            if exchange is None:
                self._tell_gone(entry.stream, entry.attempt, sync.sender)
                continue
            exchange.hear_sync(entry, address, sync.supervisor)

    def _late(self, stream: str, attempt: int, worker: str, inbox: str) -> None:
        """`worker` has had an attempt that is over here."""
        if self._unresolved.heard(stream, attempt):
            self._clusters.accounting.incoming[inbox][worker].spoken_of += 1

    def _nobody(self, message: m.ToStream) -> None:
        """The stream has ended here: whoever still speaks about it should let go."""
        if not isinstance(message, m.Release | m.Window):
            self._tell_gone(message.stream, message.attempt, message.worker)

    def _tell_gone(self, stream: str, attempt: int, worker: str) -> None:
        # Once for all that came together: a worker that sends a body does not hear of its end before it has sent more.
        if (stream, attempt, worker) in self._told:
            return
        self._told.add((stream, attempt, worker))
        try:
            self._clusters.send(worker, m.encode(m.Release(stream, attempt, worker, "gone")))
        except ChannelNameError as error:
            _log.error("the sender of a message about %s cannot be answered: %s", stream, error)
