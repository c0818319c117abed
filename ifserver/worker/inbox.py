"""Receiving: everything that interface servers send to this process, handed to its streams."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from typing import Final

from twisted.internet.defer import CancelledError, Deferred, succeed

from ifserver.clock import Clock
from ifserver.errors import NodeRefused, NodeUnreachable, UndecodableError
from ifserver.layers.base import Node
from ifserver.messages import Release, Sync, ToWorker, Window, decode_for_worker
from ifserver.metrics import Counters
from ifserver.worker.asgi import Stream

__all__ = ["Inbox"]

#: Messages to ask for at once. Their streams' windows bound how much that can be.
COUNT: Final = 100
WAIT_S: Final = 1.0
#: First pause after the node has refused or failed, and the longest.
RETRY_S: Final = 0.05
RETRY_MAX_S: Final = 1.0

_log = logging.getLogger(__name__)


class Inbox:
    """Reads the channel `name` of `node` and hands its messages to `streams`, which has them by their identity.

    Args:
        synced: is given what servers say of all the streams that they share with this process.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        streams: Mapping[str, Stream],
        synced: Callable[[Sync], None],
        clock: Clock,
        counters: Counters,
    ) -> None:
        self._node = node
        self._name = name
        self._streams = streams
        self._synced = synced
        self._clock = clock
        self._counters = counters
        self._running = False
        #: What is waited for between two reads, and may be cancelled.
        self._between: Deferred[None] | None = None
        self._reading: Deferred[None] | None = None
        self._undecodable_logged = False

    def start(self) -> None:
        """Begin to read."""
        self._running = True
        self._reading = Deferred.fromCoroutine(self._read())

    def stop(self) -> Deferred[None]:
        """Begin no further read. Fires when the outstanding one has ended; what it brings is handed on."""
        self._running = False
        if self._reading is None:
            return succeed(None)
        if self._between is not None:
            self._between.cancel()
        self._node.end_pulls()
        return self._reading

    async def _read(self) -> None:
        failures = 0
        while self._running:
            try:
                pulled = await self._node.pull((self._name,), COUNT, WAIT_S)
            except NodeUnreachable:
                failures += 1
                await self._wait(self._node.ready())
                if failures > 1:
                    await self._pause(failures - 1)
            except Exception as error:
                failures += 1
                expected = isinstance(error, NodeRefused)
                _log.error(
                    "node %s does not let us read %s: %s", self._node.name, self._name, error, exc_info=not expected
                )
                await self._pause(failures)
            else:
                failures = 0
                if pulled is not None:
                    self._receive(pulled.payloads)

    async def _pause(self, failures: int) -> None:
        if self._running:
            seconds = min(RETRY_S * 2 ** min(failures - 1, 10), RETRY_MAX_S) * random.uniform(0.7, 1.3)
            over: Deferred[None] = Deferred(lambda _: timer.cancel())
            timer = self._clock.callLater(seconds, over.callback, None)
            await self._wait(over)

    async def _wait(self, event: Deferred[None]) -> None:
        self._between = event
        try:
            if self._running:
                await event
        except CancelledError:
            pass  # by `stop`
        finally:
            self._between = None

    def _receive(self, payloads: list[bytes]) -> None:
        delivered = 0
        for payload in payloads:
            try:
                reason = self._deliver(decode_for_worker(payload))
            except UndecodableError as error:
                reason = "undecodable"
                if not self._undecodable_logged:
                    self._undecodable_logged = True
                    _log.error("dropped a message from %s: %s", self._name, error)
            except Exception:
                # A bug of ours in one stream must not end the reading for all.
                _log.exception("a message from %s could not be handled", self._name)
                reason = None
            if reason is None:
                delivered += 1
            else:
                self._counters.add("messages_dropped", label=reason)
        if delivered:
            self._counters.add("messages_delivered", delivered)

    def _deliver(self, message: ToWorker) -> str | None:
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
