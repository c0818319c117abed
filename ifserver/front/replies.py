"""The one reader of this server's inbox: every reply to every connection comes through here."""

from __future__ import annotations

import logging
import random
from typing import Final

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

from ifserver import messages as m
from ifserver.clock import Clock
from ifserver.errors import ChannelNameError, NodeRefused, NodeUnreachable, UndecodableError
from ifserver.front.registry import Registry
from ifserver.layers.clusters import Clusters

__all__ = ["Replies"]

#: Messages taken at once: enough to make the node's cost per message vanish, few enough to keep a turn short.
_BATCH: Final = 200
#: How long one read blocks, in seconds: what the end of this server may have to wait for.
_WAIT_S: Final = 1.0

_log = logging.getLogger(__name__)


class Replies:
    """Reads the inbox on the home node, one blocking read for all connections, and hands each message to its stream."""

    def __init__(self, clusters: Clusters, registry: Registry, clock: Clock) -> None:
        self._clusters = clusters
        self._registry = registry
        self._clock = clock
        self._stopping = False
        self._reading: Deferred[None] | None = None
        # What is waited for before the next read; it may be given up.
        self._pausing: Deferred[None] | None = None
        # Streams that do not exist, and were told of in this batch.
        self._told: set[tuple[str, int, str]] = set()

    def start(self) -> None:
        """Begin to read."""
        self._reading = Deferred.fromCoroutine(self._read()).addErrback(self._failed)

    def stop(self) -> Deferred[None]:
        """Read no more; fires when the last read has ended, whose messages are still delivered."""
        self._stopping = True
        if self._pausing is not None:
            self._pausing.cancel()
        self._clusters.home.end_pulls()
        return self._reading or succeed(None)

    async def _read(self) -> None:
        node, names = self._clusters.home, [self._clusters.inbox]
        while not self._stopping:
            try:
                pulled = await node.pull(names, _BATCH, _WAIT_S)
            except NodeUnreachable:
                if not self._stopping:
                    await self._wait_for(node.ready())
            except NodeRefused as error:
                _log.warning("%s refuses to let the inbox %s be read: %s", node.name, names[0], error)
                if not self._stopping:
                    await self._wait_for(self._pause(random.uniform(0.5, 1.0)))
            else:
                if pulled is not None:
                    for payload in pulled.payloads:
                        self._deliver(payload)
                    self._told.clear()

    async def _wait_for(self, something: Deferred[None]) -> None:
        self._pausing = something
        try:
            await something
        except CancelledError:
            pass  # by `stop`
        finally:
            self._pausing = None

    def _pause(self, seconds: float) -> Deferred[None]:
        done: Deferred[None] = Deferred(lambda _: timer.cancel())
        timer = self._clock.callLater(seconds, done.callback, None)
        return done

    def _failed(self, failure: Failure) -> None:
        _log.critical("this server hears no replies any more: %s", failure.getTraceback())

    def _deliver(self, payload: bytes) -> None:
        """Hand one message over. Whatever is wrong with it concerns its own stream, never the reader."""
        counters = self._clusters.counters
        try:
            message = m.decode_for_server(payload)
        except UndecodableError as error:
            counters.add("messages_dropped", label="undecodable")
            _log.error("dropped a message in the inbox %s that is none: %s", self._clusters.inbox, error)
            return
        try:
            if type(message) is m.Sync:
                self._sync(message)
                return
            exchange = self._registry.get(message.stream)  # type: ignore[union-attr]
            if exchange is None:
                self._nobody(message)
            else:
                counters.add("messages_delivered")
                exchange.hear(message)
        except Exception:
            _log.exception("a message of type %s could not be handled", type(message).__name__)

    def _sync(self, sync: m.Sync) -> None:
        self._clusters.counters.add("messages_delivered")
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
