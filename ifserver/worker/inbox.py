"""Receiving: everything that interface servers send to this process, handed to its streams."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeAlias

from ifserver.errors import UndecodableError
from ifserver.layers.accounting import Accounting
from ifserver.messages import Receipt, Release, Sync, ToApplication, Window, decode_for_worker
from ifserver.metrics import DELIVERED, Counters
from ifserver.worker.asgi import Stream

__all__ = ["Inbox"]

_log = logging.getLogger(__name__)

#: What is counted.
_Message: TypeAlias = ToApplication | Window | Sync | Release


class Inbox:
    """Hands what comes to this process's inboxes to `streams`, which has them by their identity.

    Args:
        synced: is given what servers say of all the streams that they share with this process.
    """

    def __init__(
        self, streams: Mapping[str, Stream], synced: Callable[[Sync], None], accounting: Accounting, counters: Counters
    ) -> None:
        self._streams = streams
        self._synced = synced
        self._accounting = accounting
        self._counters = counters
        self._undecodable_logged = False

    def deliver(self, inbox: str, payloads: list[bytes]) -> None:
        """Messages have come to `inbox`."""
        incoming = self._accounting.incoming[inbox]
        delivered = 0
        for payload in payloads:
            try:
                message = decode_for_worker(payload)
            except UndecodableError as error:
                self._counters.add("messages_dropped", label="undecodable")
                if not self._undecodable_logged:
                    self._undecodable_logged = True
                    _log.error("dropped a message that cannot be decoded: %s", error)
                continue
            if isinstance(message, Receipt):
                self._accounting.hear(inbox, message)
                continue
            try:
                reason = self._hand_on(message)
            except Exception:
                # A bug of ours in one stream must not end the reading for all.
                _log.exception("a message could not be handled")
                reason = None
            if reason == "repeated":
                self._counters.add("messages_repeated")
                continue
            incoming[message.sender if isinstance(message, Sync) else message.stream.partition(".")[0]].count += 1
            if reason is None:
                delivered += 1
            else:
                self._counters.add("messages_dropped", label=reason)
        if delivered:
            self._counters.cells[DELIVERED] += delivered

    def _hand_on(self, message: _Message) -> str | None:
        """Hand a message to its stream. Returns why it was dropped, or None."""
        if isinstance(message, Sync):
            self._synced(message)
            return None
        stream = self._streams.get(message.stream)
        if stream is None or stream.attempt != message.attempt:
            # Usual for a stream that has just ended here, and for an attempt that another worker has by now. It does
            # not say where its server is; the server's next `Sync` does, and is answered.
            return "gone"
        if isinstance(message, Window):
            stream.consumed(message.consumed)
        elif isinstance(message, Release):
            stream.let_go()
        else:
            return stream.arrived(message)
        return None
