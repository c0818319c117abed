"""What comes to an inbox: it is decoded, handed on and counted, by servers and by workers alike."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from ifserver.errors import UndecodableError
from ifserver.layers.accounting import Accounting
from ifserver.messages import Receipt
from ifserver.metrics import DELIVERED, Counters

__all__ = ["HandOn", "InboxDelivery"]

#: Hands a message that has come to an inbox to whom it concerns. Returns why it was dropped (a reason of
#: ``messages_dropped``, or ``repeated``), or None.
HandOn: TypeAlias = Callable[[Any, str], str | None]

_log = logging.getLogger(__name__)


class InboxDelivery:
    """The messages to one process.

    Args:
        decode: makes a message of a payload, or raises `UndecodableError`.
        sender: the process, or the inbox, that has sent a message: there it is counted as come.
    """

    def __init__(
        self,
        decode: Callable[[bytes], Any],
        hand_on: HandOn,
        sender: Callable[[Any], str],
        accounting: Accounting,
        counters: Counters,
    ) -> None:
        self._decode = decode
        self._hand_on = hand_on
        self._sender = sender
        self._accounting = accounting
        self._counters = counters
        self._undecodable_logged = False

    def deliver(self, inbox: str, payloads: list[bytes]) -> None:
        """Messages have come to `inbox`. Whatever is wrong with one concerns its own stream, never the reader."""
        counters, decode, hand_on, sender = self._counters, self._decode, self._hand_on, self._sender
        incoming = self._accounting.incoming[inbox]
        delivered = 0
        for payload in payloads:
            try:
                message = decode(payload)
            except UndecodableError as error:
                self._undecodable(inbox, error)
                continue
            try:
                if type(message) is Receipt:
                    self._accounting.hear(inbox, message)
                    continue
                reason = hand_on(message, inbox)
            except Exception:
                _log.exception("a message of type %s could not be handled", type(message).__name__)
                if type(message) is Receipt:
                    continue
                reason = None
            if reason is None:
                delivered += 1
            elif reason == "repeated":
                counters.add("messages_repeated")
                continue
            else:
                counters.add("messages_dropped", label=reason)
            incoming[sender(message)].count += 1
        if delivered:
            counters.cells[DELIVERED] += delivered

    def _undecodable(self, inbox: str, error: UndecodableError) -> None:
        self._counters.add("messages_dropped", label="undecodable")
        if not self._undecodable_logged:
            self._undecodable_logged = True
            text = "dropped a message to %s that cannot be decoded; further ones are only counted: %s"
            _log.error(text, inbox, error)
