"""What one process sends to inboxes: in order per inbox, in batches, not dropped while it is bounded."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeAlias

from twisted.python.failure import Failure

from ifserver import channels
from ifserver.clock import Clock, Soon
from ifserver.errors import ChannelNameError, NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.layers.node import Node, Pushed
from ifserver.logs import events
from ifserver.metrics import DROPPED_FULL, FLYING, IN_DOUBT, SENT, Counters

__all__ = ["Entry", "Outbox"]

#: A batch stays below what a node answers within a millisecond or two, and below Lua's limit on arguments.
_BATCH_MESSAGES: Final = 500
_BATCH_BYTES: Final = 1024 * 1024
#: First pause after a full inbox or a refusal, and the longest.
_RETRY_S: Final = 0.05
_RETRY_MAX_S: Final = 1.0
#: Queues that are kept while they are empty, for the next message to the same inbox.
_EMPTY_QUEUES: Final = 200

_log = logging.getLogger(__name__)

#: A payload, what is called when it waits here no longer, and whether it is counted.
Entry: TypeAlias = "tuple[bytes, Callable[[], None] | None, bool]"


class Accountant(Protocol):
    """Who accounts for what is sent (`ifserver.layers.accounting.Accounting`)."""

    def sent(self, inbox: str, count: int) -> None:
        """The node has taken `count` messages for `inbox`."""

    def doubted(self, inbox: str) -> None:
        """The node has taken messages for `inbox`, or it has not."""


class _Queue:
    """What is sent to one inbox. At most one push is under way, so that nothing overtakes what has to be repeated."""

    __slots__ = ("capacity", "dropped", "flying", "given_up", "inbox", "node", "retries", "scheduled", "waiting")

    def __init__(self, inbox: str, node: Node) -> None:
        self.inbox = inbox
        self.node = node
        #: Messages that may wait here.
        self.capacity = node.limits(inbox).capacity
        self.waiting: deque[Entry] = deque()
        self.flying: list[Entry] = []
        self.scheduled = False
        #: Whether what was here is sent elsewhere; nothing more happens here then.
        self.given_up = False
        #: Attempts in a row that the node has refused, in whole or in part.
        self.retries = 0
        self.dropped = 0


class Outbox:
    """Sends to the inboxes of all nodes that are configured.

    A full inbox and an unreachable node make messages wait here, in order; a push in doubt is repeated before anything
    later (the receiver drops the double by its ``seq``). What waits is bounded by the windows of the streams, and by
    the capacity of an inbox; beyond that it is dropped, counted and logged.

    Args:
        nodes: by their names.
    """

    def __init__(
        self, nodes: Mapping[str, Node], clock: Clock, soon: Soon, counters: Counters, accounting: Accountant
    ) -> None:
        self._nodes = nodes
        self._accounting = accounting
        self._clock = clock
        self._soon = soon
        self._cells = counters.cells
        #: By their inboxes.
        self._queues: dict[str, _Queue] = {}
        self._dirty: list[_Queue] = []
        self._flush_scheduled = False

    def send(self, inbox: str, payload: bytes, done: Callable[[], None] | None = None, counted: bool = True) -> None:
        """Send `payload` to `inbox` at the end of this turn.

        Args:
            done: is called when it waits here no longer: the node has it, or it was dropped.
            counted: whether it is a message, or what the accounting says of messages.

        Raises:
            ChannelNameError: `inbox` is no name of one, or its node is not configured.
        """
        queue = self._queues.get(inbox) or self._open(inbox)
        waiting = queue.waiting
        if len(waiting) >= queue.capacity:
            if counted:
                self._drop(queue)
            if done is not None:
                done()  # whoever waits for it would wait for ever
            return
        waiting.append((payload, done, counted))
        if not (queue.scheduled or queue.flying):
            self._schedule(queue)

    def _open(self, inbox: str) -> _Queue:
        try:
            node = self._nodes[channels.node_of(inbox)]
        except KeyError:
            known = ", ".join(sorted(self._nodes))
            raise ChannelNameError(
                f"channel {inbox!r} has its home on no configured node; there are: {known}"
            ) from None
        if not channels.is_inbox(channels.check(inbox)):
            raise ChannelNameError(f"not an inbox: {inbox!r}")
        queue = self._queues[inbox] = _Queue(inbox, node)
        return queue

    def _drop(self, queue: _Queue) -> None:
        self._cells[SENT] += 1
        self._cells[DROPPED_FULL] += 1
        queue.dropped += 1
        if queue.dropped == 1:
            text = "dropping messages for %s: %d already wait for it"
            events.report(_log, logging.ERROR, events.Mark.MESSAGES_DROPPED, text, queue.inbox, len(queue.waiting))

    def take(self, inbox: str) -> list[Entry]:
        """All that still waits for `inbox`, in order, to be sent elsewhere; also what is under way and may be there."""
        queue = self._queues.pop(inbox, None)
        if queue is None:
            return []
        self._in_doubt(queue)
        taken = [*queue.flying, *queue.waiting]
        queue.waiting.clear()
        queue.flying = []
        queue.given_up = True
        return taken

    def unsent(self) -> list[str]:
        """The inboxes for which anything waits."""
        return [inbox for inbox, queue in self._queues.items() if queue.waiting or queue.flying]

    def stop_waiting(self, inbox: str) -> None:
        """Call what is to be called when it waits here no longer: nobody waits for that any more. Should the node come
        back, it is sent all the same."""
        queue = self._queues[inbox]
        entries = [*queue.flying, *queue.waiting]
        queue.flying, queue.waiting = (
            [(payload, None, counted) for payload, _, counted in queue.flying],
            deque((payload, None, counted) for payload, _, counted in queue.waiting),
        )
        for _, done, _ in entries:
            if done is not None:
                done()

    def waiting(self) -> int:
        """Messages that the node has not taken yet, of those that are counted."""
        return sum(map(self.ahead, self._queues))

    def ahead(self, inbox: str) -> int:
        """Those of them that are for `inbox`."""
        queue = self._queues.get(inbox)
        return 0 if queue is None else sum(entry[2] for entry in (*queue.flying, *queue.waiting))

    def flush_soon(self) -> None:
        """Let all that is sent by what is scheduled now leave right behind that, and not a turn of the loop later."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._soon(self._flush)

    def _schedule(self, queue: _Queue) -> None:
        queue.scheduled = True
        self._dirty.append(queue)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        dirty, self._dirty = self._dirty, []
        for queue in dirty:
            queue.scheduled = False
            waiting, flying, size = queue.waiting, queue.flying, 0
            while waiting and len(flying) < _BATCH_MESSAGES and size < _BATCH_BYTES:
                entry = waiting.popleft()
                size += len(entry[0])
                flying.append(entry)
            if flying:
                self._cells[FLYING] += len(flying)
                pushing = queue.node.push(queue.inbox, [entry[0] for entry in flying])
                pushing.addCallbacks(self._pushed, self._failed, callbackArgs=(queue,), errbackArgs=(queue,))

    def _pushed(self, result: Pushed, queue: _Queue) -> None:
        if queue.given_up:
            return
        flying, queue.flying = queue.flying, []
        self._cells[FLYING] -= len(flying)
        sent = 0
        for _, done, counted in flying[: result.taken]:
            sent += counted
            if done is not None:
                done()
        if sent:
            self._cells[SENT] += sent
            self._accounting.sent(queue.inbox, sent)
        if result.taken < len(flying):
            queue.waiting.extendleft(reversed(flying[result.taken :]))
            self._again_later(queue)
            return
        queue.retries = 0
        if queue.waiting or queue.dropped or len(self._queues) > _EMPTY_QUEUES:
            self._next(queue)

    def _failed(self, failure: Failure, queue: _Queue) -> None:
        failure.trap(NodeUnreachable, PushInDoubt, NodeRefused)
        if queue.given_up:
            return
        if failure.check(PushInDoubt):
            self._in_doubt(queue)
        else:
            self._cells[FLYING] -= len(queue.flying)
        queue.waiting.extendleft(reversed(queue.flying))
        queue.flying = []
        if failure.check(NodeRefused):
            if not queue.retries:
                _log.warning("messages for %s wait: %s", queue.inbox, failure.getErrorMessage())
            self._again_later(queue)
        else:
            queue.scheduled = True
            queue.node.ready().addCallback(lambda _: self._resume(queue))

    def _in_doubt(self, queue: _Queue) -> None:
        """The node has taken what is under way, or it has not."""
        flying = len(queue.flying)
        if flying:
            self._cells[FLYING] -= flying
            self._cells[IN_DOUBT] += flying
            self._accounting.doubted(queue.inbox)

    def _again_later(self, queue: _Queue) -> None:
        queue.scheduled = True
        pause = min(_RETRY_S * 2**queue.retries, _RETRY_MAX_S)
        queue.retries = min(queue.retries + 1, 10)
        self._clock.callLater(pause * random.uniform(0.7, 1.3), self._resume, queue)

    def _resume(self, queue: _Queue) -> None:
        queue.scheduled = False
        if not queue.given_up:
            self._next(queue)

    def _next(self, queue: _Queue) -> None:
        """Nothing is under way: go on with what waits."""
        if queue.scheduled or queue.flying:
            return
        if queue.waiting:
            self._schedule(queue)
            return
        if queue.dropped:
            _log.error("dropped %d messages for %s", queue.dropped, queue.inbox)
            queue.dropped = 0
        if len(self._queues) > _EMPTY_QUEUES:
            del self._queues[queue.inbox]
