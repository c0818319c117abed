"""What comes to this server's inboxes: every reply to every connection goes through here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final, get_args

from ifserver import channels
from ifserver import messages as m
from ifserver.errors import ChannelNameError
from ifserver.front.exchanges.attempt_accounting import UnresolvedAttempts
from ifserver.front.exchanges.exchange import Exchange
from ifserver.front.exchanges.workers import Workers
from ifserver.layers.clusters import Clusters
from ifserver.layers.inbox_delivery import InboxDelivery

__all__ = ["WorkerReplies"]

_log = logging.getLogger(__name__)


def _itself_or_supervisor(message: Any) -> str:
    speaker: str = message.by or message.worker
    return speaker


_SPEAKERS: Final[Mapping[type, Callable[[Any], str]]] = {
    **dict.fromkeys(get_args(m.ToStream), attrgetter("worker")),
    m.Claim: _itself_or_supervisor,
    m.Release: _itself_or_supervisor,
    m.Sync: attrgetter("sender"),
}


def _speaker(message: Any) -> str:
    """Who has sent a message: a process, or its inbox."""
    return _SPEAKERS[type(message)](message)


class WorkerReplies:
    """Hands each message to its stream; and lets the streams know where this server receives.

    A `ifserver.layers.inbox_home.Resident`.

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
            m.decode_for_server, self._hand_on, _speaker, clusters.accounting, clusters.counters
        )
        # Streams that do not exist, and were told of in this batch.
        self._told: set[tuple[str, int, str]] = set()

    def deliver(self, inbox: str, payloads: list[bytes]) -> None:
        self._delivery.deliver(inbox, payloads)
        self._told.clear()

    def _hand_on(self, message: Any, inbox: str) -> str | None:
        """Hand a message to its exchange. Returns why it was dropped, or None."""
        if type(message) is m.Sync:
            self._sync(message)
            return None
        exchange = self._registry.get(message.stream)
        if exchange is not None:
            reason = exchange.hear(message)
        else:
            self._nobody(message)
            reason = "gone"
        if reason == "gone":
            self._late(message.stream, message.attempt, message.worker, inbox)
        return reason

    def moved(self) -> None:
        """New streams name another inbox from now on; and those that nobody has taken yet."""
        for exchange in list(self._registry.values()):
            exchange.attempt.readdress()

    def names(self, inbox: str) -> bool:
        """Whether any stream names this inbox."""
        return any(channels.inbox_of(exchange.stream.channel) == inbox for exchange in self._registry.values())

    def readdress(self, inbox: str) -> None:
        """The node of this inbox is gone: the streams that name it name the present one from now on."""
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
            if self._clusters.follow(worker):
                return  # what the stream was told last may wait for the node where the worker was
            self._clusters.send(worker, m.encode(m.Release(stream, attempt, worker, "gone")))
        except ChannelNameError as error:
            _log.error("the sender of a message about %r cannot be answered at %r: %s", stream, worker, error)
