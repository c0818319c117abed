"""Receiving: everything that interface servers send to this process, handed to its streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from ifserver.layers.accounting import Accounting
from ifserver.layers.inbox_delivery import InboxDelivery
from ifserver.messages import Release, Sync, ToApplication, Window, decode_for_worker
from ifserver.metrics import Counters
from ifserver.worker.asgi_stream import Stream

__all__ = ["Inbox"]

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
        #: Called with messages that have come, as `ifserver.layers.inbox_home.Resident` says.
        self.deliver = InboxDelivery(decode_for_worker, self._hand_on, _server, accounting, counters).deliver

    def _hand_on(self, message: _Message, inbox: str) -> str | None:
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


def _server(message: _Message) -> str:
    """The server that has sent a message: its process, or its inbox."""
    return message.sender if isinstance(message, Sync) else message.stream.partition(".")[0]
