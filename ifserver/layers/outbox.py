"""What one process sends to inboxes on one node: in order per inbox, in batches, not dropped while it is bounded."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from twisted.python.failure import Failure

from ifserver import channels
from ifserver.clock import Clock, Soon
from ifserver.errors import ChannelNameError, NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.layers.base import Node, Pushed, check
from ifserver.metrics import Counters

__all__ = ["Entry", "Outbox"]

#: A batch stays below what a node answers within a millisecond or two, and below Lua's limit on arguments.
_BATCH_MESSAGES: Final = 500
_BATCH_BYTES: Final = 1024 * 1024
#: First pause after a full inbox or a refusal, and the longest.
_RETRY_S: Final = 0.05
_RETRY_MAX_S: Final = 1.0

_log = logging.getLogger(__name__)

#: A payload, what is called when the node has it, and whether it is counted.
Entry: TypeAlias = "tuple[bytes, Callable[[], None] | None, bool]"


class Accountant(Protocol):
    """Who keeps the books of what is sent (`ifserver.layers.accounting.Books`)."""

    def sent(self, inbox: str, count: int) -> None:
        """The node has taken `count` messages for `inbox`."""

    def doubted(self, inbox: str) -> None:
        """The node has taken messages for `inbox`, or it has not."""


class _Lane:
    """The way to one inbox. At most one push is under way, so that nothing overtakes what has to be repeated."""

    __slots__ = ("capacity", "dropped", "flying", "given_up", "inbox", "retries", "scheduled", "waiting")

    def __init__(self, inbox: str, capacity: int) -> None:
        self.inbox = inbox
        #: Messages that may wait here.
        self.capacity = capacity
        self.waiting: deque[Entry] = deque()
        self.flying: list[Entry] = []
        self.scheduled = False
        #: Whether what was here is sent elsewhere; nothing more happens here then.
        self.given_up = False
        #: Attempts in a row that the node has refused, in whole or in part.
        self.retries = 0
        self.dropped = 0


class Outbox:
    """Sends to the inboxes of one node.

    A full inbox and an unreachable node make messages wait here, in order; a push in doubt is repeated before anything
    later (the receiver drops the double by its ``seq``). What waits is bounded by the windows of the streams, and by
    the capacity of an inbox; beyond that it is dropped, counted and logged.
    """

    def __init__(self, node: Node, clock: Clock, soon: Soon, counters: Counters, books: Accountant) -> None:
        self.node = node
        self._books = books
        self._clock = clock
        self._soon = soon
        self._counters = counters
        self._lanes: dict[str, _Lane] = {}
        self._dirty: list[_Lane] = []
        self._flush_scheduled = False

    def send(self, inbox: str, payload: bytes, taken: Callable[[], None] | None = None, counted: bool = True) -> None:
        """Send `payload` to `inbox` at the end of this turn; `taken` is called when the node has it.

        Args:
            counted: whether it is a message, or what the books say of messages.

        Raises:
            ChannelNameError: `inbox` is no name of one.
        """
        lane = self._lanes.get(inbox)
        if lane is None:
            if not channels.is_inbox(check(inbox)):
                raise ChannelNameError(f"not an inbox: {inbox!r}")
            lane = self._lanes[inbox] = _Lane(inbox, self.node.limits(inbox).capacity)
        if len(lane.waiting) >= lane.capacity:
            if not counted:
                return
            self._counters.add("messages_sent")
            self._counters.add("messages_dropped", label="full")
            lane.dropped += 1
            if lane.dropped == 1:
                _log.error("dropping messages for %s: %d already wait for it", inbox, len(lane.waiting))
            return
        lane.waiting.append((payload, taken, counted))
        self._schedule(lane)

    def take(self, inbox: str) -> list[Entry]:
        """All that still waits for `inbox`, in order, to be sent elsewhere; also what is under way and may be there."""
        lane = self._lanes.get(inbox)
        if lane is None:
            return []
        self._counters.add("messages_in_doubt", len(lane.flying))
        self._counters.shift("messages_flying", -len(lane.flying))
        if lane.flying:
            self._books.doubted(inbox)
        taken = [*lane.flying, *lane.waiting]
        lane.waiting.clear()
        lane.flying = []
        lane.given_up = True
        del self._lanes[inbox]
        return taken

    def waiting(self) -> int:
        """Messages that the node has not taken yet, of those that are counted."""
        return sum(map(self.ahead, self._lanes))

    def ahead(self, inbox: str) -> int:
        """Those of them that are for `inbox`."""
        lane = self._lanes.get(inbox)
        return 0 if lane is None else sum(entry[2] for entry in (*lane.flying, *lane.waiting))

    def flush_soon(self) -> None:
        """Let all that is sent by what is scheduled now leave right behind that, and not a turn of the loop later."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._soon(self._flush)

    def _schedule(self, lane: _Lane) -> None:
        if lane.scheduled or lane.flying:
            return
        lane.scheduled = True
        self._dirty.append(lane)
        self.flush_soon()

    def _flush(self) -> None:
        self._flush_scheduled = False
        dirty, self._dirty = self._dirty, []
        for lane in dirty:
            lane.scheduled = False
            if not lane.given_up:
                self._push(lane)

    def _push(self, lane: _Lane) -> None:
        waiting, flying, size = lane.waiting, lane.flying, 0
        while waiting and len(flying) < _BATCH_MESSAGES and size < _BATCH_BYTES:
            entry = waiting.popleft()
            size += len(entry[0])
            flying.append(entry)
        self._counters.shift("messages_flying", len(flying))
        pushing = self.node.push(lane.inbox, [entry[0] for entry in flying])
        pushing.addCallbacks(self._pushed, self._failed, callbackArgs=(lane,), errbackArgs=(lane,))

    def _pushed(self, result: Pushed, lane: _Lane) -> None:
        if lane.given_up:
            return
        flying, lane.flying = lane.flying, []
        self._counters.shift("messages_flying", -len(flying))
        sent = 0
        for _, taken, counted in flying[: result.taken]:
            sent += counted
            if taken is not None:
                taken()
        if sent:
            self._counters.add("messages_sent", sent)
            self._books.sent(lane.inbox, sent)
        if result.taken < len(flying):
            lane.waiting.extendleft(reversed(flying[result.taken :]))
            self._again_later(lane)
        else:
            lane.retries = 0
            self._next(lane)

    def _failed(self, failure: Failure, lane: _Lane) -> None:
        failure.trap(NodeUnreachable, PushInDoubt, NodeRefused)
        if lane.given_up:
            return
        self._counters.shift("messages_flying", -len(lane.flying))
        if failure.check(PushInDoubt):
            self._counters.add("messages_in_doubt", len(lane.flying))
            self._books.doubted(lane.inbox)
        lane.waiting.extendleft(reversed(lane.flying))
        lane.flying = []
        if failure.check(NodeRefused):
            if not lane.retries:
                _log.warning("messages for %s wait: %s", lane.inbox, failure.getErrorMessage())
            self._again_later(lane)
        else:
            lane.scheduled = True
            self.node.ready().addCallback(lambda _: self._resume(lane))

    def _again_later(self, lane: _Lane) -> None:
        lane.scheduled = True
        pause = min(_RETRY_S * 2**lane.retries, _RETRY_MAX_S)
        lane.retries = min(lane.retries + 1, 10)
        self._clock.callLater(pause * random.uniform(0.7, 1.3), self._resume, lane)

    def _resume(self, lane: _Lane) -> None:
        lane.scheduled = False
        if not lane.given_up:
            self._next(lane)

    def _next(self, lane: _Lane) -> None:
        if lane.waiting:
            self._schedule(lane)
        elif not lane.flying and not lane.scheduled:
            self._lanes.pop(lane.inbox, None)
            if lane.dropped:
                _log.error("dropped %d messages for %s", lane.dropped, lane.inbox)
