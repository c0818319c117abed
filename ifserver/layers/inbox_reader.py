"""Reads one inbox: one blocking read after another, whatever becomes of the node, and no message lost at the end."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import CancelledError, Deferred, succeed

from ifserver.clock import Clock
from ifserver.errors import NodeRefused, NodeUnreachable
from ifserver.layers.node import Node

__all__ = ["InboxReader"]

#: Messages taken at once: enough to make the node's cost per message vanish, few enough to keep a turn short. The
#: windows of their streams bound how much that can be.
COUNT: Final = 200
#: How long one read blocks, in seconds, and with it how long the end of this process may have to wait for.
WAIT_S: Final = 1.0
#: First pause after the node has refused or failed, and the longest.
RETRY_S: Final = 0.05
RETRY_MAX_S: Final = 1.0

_log = logging.getLogger(__name__)


class InboxReader:
    """Reads the channel `name` of `node`, and hands what comes to `deliver`, from `start` to `stop`."""

    def __init__(self, node: Node, name: str, deliver: Callable[[list[bytes]], None], clock: Clock) -> None:
        self._node = node
        self._name = name
        self._deliver = deliver
        self._clock = clock
        self._running = False
        #: What is waited for between two reads, and may be cancelled.
        self._between: Deferred[None] | None = None
        self._reading: Deferred[None] | None = None

    def start(self) -> None:
        """Begin to read."""
        self._running = True
        self._reading = Deferred.fromCoroutine(self._read())

    def stop(self) -> Deferred[None]:
        """Begin no further read. Fires when the outstanding one has ended; what it brings is delivered."""
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
                if pulled is None:
                    continue
                try:
                    self._deliver(pulled.payloads)
                except Exception:
                    # A bug of ours must not end the reading.
                    _log.exception("messages from %s could not be handled", self._name)

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
