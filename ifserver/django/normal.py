"""Normal channels: kept by a node of the home cluster, and received by the first who asks (``runworker``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import RLock
from typing import Final
from zlib import crc32

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from ifserver.django import wire
from ifserver.django.queues import EXPIRED, UNDECODABLE, UNTAKEN, Drops, Queue
from ifserver.django.subscriptions import Subscriptions
from ifserver.django.wire import Kept, decode_kept, encode
from ifserver.errors import NodeError
from ifserver.groups.link import Link
from ifserver.layers.node import Limits, Node, Pulled, Pushed

__all__ = ["NormalChannels"]

#: How long a pull waits for a message, in seconds: as long as those of workers.
_WAIT_S: Final = 1.0
#: How long a node that does not answer is left alone, in seconds.
_PAUSE_S: Final = 0.5
#: How much later than it expires a message is looked for that nobody has received, in seconds.
_TIDY_S: Final = 0.1
#: How much longer than its messages a list is kept: its time to live may have been set a while before the newest came.
_LONGER: Final = 2
#: Messages that are taken with one pull when all are thrown away.
_FLUSH_COUNT: Final = 1000


class _Channel:
    """A normal channel on which somebody in this process waits, or for which a message has come too late for them."""

    __slots__ = ("key", "name", "pulling", "queue", "receivers", "tidied_later")

    def __init__(self, name: str, queue: Queue) -> None:
        self.name = name
        self.key = _key(name)
        self.queue = queue
        self.receivers = 0
        #: The reads that wait, by their nodes.
        self.pulling: dict[Node, Deferred[Pulled | None] | None] = {}
        #: Whether a timer waits for what is here to expire.
        self.tidied_later = False


class NormalChannels:
    """The normal channels, as this process uses them."""

    def __init__(
        self, link: Link, lock: RLock, clock: Callable[[], float], drops: Drops, subscriptions: Subscriptions
    ) -> None:
        self._link = link
        self._lock = lock
        self._clock = clock
        self._drops = drops
        self._subscriptions = subscriptions
        #: The members of each group, with capacity and expiry.
        self.members: dict[str, dict[str, tuple[int, float]]] = {}
        self._channels: dict[str, _Channel] = {}
        #: Those that were used here, for `flush`. Bounded.
        self._used: dict[str, None] = {}

    def push(self, name: str, message: bytes, capacity: int, expiry_s: float) -> Deferred[Pushed]:
        """Let a node keep `message`. On the link's loop. What one process sends to a channel stays in order."""
        self._use(name)
        # While all nodes are there, a channel has its place on one of them.
        nodes = sorted(self._link.clusters.home_nodes, key=lambda node: crc32(f"{node.name} {name}".encode()))
        node = next((node for node in nodes if node.connected), nodes[0])
        payload = encode(Kept(node.clock() + expiry_s, message))
        return node.push(_key(name), [payload], Limits(capacity, expiry_s * _LONGER))

    async def join(self, group: str, name: str, limits: tuple[int, float]) -> None:
        """Make a channel a member of `group`."""
        members = self.members.setdefault(group, {})
        if name in members:
            await asyncio.shield(self._subscriptions.ready(group))
            return
        members[name] = limits
        try:
            await asyncio.shield(self._subscriptions.hold(group))
        except NodeError:
            self.leave(group, name)
            raise

    def leave(self, group: str, name: str) -> None:
        """Let a channel be no member of `group` any more. It need not be one."""
        members = self.members.get(group, {})
        if members.pop(name, None) is not None:
            if not members:
                del self.members[group]
            self._subscriptions.drop(group)

    def leave_all(self) -> None:
        """Leave all groups."""
        for group, members in list(self.members.items()):
            for name in list(members):
                self.leave(group, name)

    def push_to_members(self, group: str, message: bytes) -> None:
        """Let nodes keep `message` for the members of `group`. A failure is logged: nothing waits for it."""

        def done(pushed: Pushed) -> None:
            if not pushed.taken:
                self._drops.add(f"group {group}", "full")

        def failed(failure: Failure) -> None:
            failure.trap(NodeError)
            self._drops.add(f"group {group}", UNTAKEN)

        for name, limits in self.members[group].items():
            self.push(name, message, *limits).addCallbacks(done, failed)

    async def receive(self, name: str) -> bytes:
        """The next message. Safe to cancel: one that has been taken for it waits for the next receiver here."""
        call_soon = self._link.loop.call_soon_threadsafe
        with self._lock:
            channel = self._channels.get(name)
            if channel is None:
                channel = self._channels[name] = self._new(name)
            channel.receivers += 1
        try:
            call_soon(self._read, channel)
            return await channel.queue.get()
        finally:
            with self._lock:
                channel.receivers -= 1
                self._forget_if_idle(channel)
            if not channel.receivers:
                call_soon(self._end_reads, channel)

    async def flush(self) -> None:
        """Throw away what waits on the channels that were used here. On the link's loop."""
        loop = self._link.loop
        with self._lock:
            for channel in self._channels.values():
                channel.queue.clear()
        for name in list(self._used):
            for node in self._link.clusters.home_nodes:
                while await node.pull((_key(name),), _FLUSH_COUNT, 0.0).asFuture(loop) is not None:
                    pass

    def _new(self, name: str) -> _Channel:
        # It holds what was taken for receivers, so the capacity is theirs.
        queue = Queue(self._lock, 0, 0.0, self._clock, lambda count: self._drops.add(f"channel {name}", EXPIRED, count))
        return _Channel(name, queue)

    def _use(self, name: str) -> None:
        if name not in self._used:
            while len(self._used) >= _FLUSH_COUNT:
                del self._used[next(iter(self._used))]
            self._used[name] = None

    def _forget_if_idle(self, channel: _Channel) -> None:
        if not channel.receivers and not len(channel.queue) and self._channels.get(channel.name) is channel:
            del self._channels[channel.name]

    # On the link's loop.

    def _read(self, channel: _Channel) -> None:
        """Read from each node, unless that is under way, while there are fewer messages than receivers."""
        self._use(channel.name)
        for node in self._link.clusters.home_nodes:
            self._read_from(node, channel)

    def _read_from(self, node: Node, channel: _Channel) -> None:
        wanted = channel.receivers - len(channel.queue)
        if wanted <= 0 or node in channel.pulling:
            return
        channel.pulling[node] = None
        pulling = node.pull((channel.key,), wanted, _WAIT_S)
        if not pulling.called:
            channel.pulling[node] = pulling
        pulling.addCallbacks(self._pulled, self._failed, (node, channel), errbackArgs=(node, channel))

    def _pulled(self, pulled: Pulled | None, node: Node, channel: _Channel) -> None:
        channel.pulling.pop(node, None)
        if pulled is not None:
            self._keep(pulled.payloads, node, channel)
        # Not at once: a node in memory answers within the call.
        self._link.loop.call_soon(self._read_from, node, channel)

    def _failed(self, failure: Failure, node: Node, channel: _Channel) -> None:
        if failure.check(CancelledError):
            channel.pulling.pop(node, None)
            self._link.loop.call_soon(self._read_from, node, channel)
            return
        failure.trap(NodeError)
        self._link.loop.call_later(_PAUSE_S, self._try_again, node, channel)

    def _try_again(self, node: Node, channel: _Channel) -> None:
        channel.pulling.pop(node, None)
        self._read_from(node, channel)

    def _keep(self, payloads: list[bytes], node: Node, channel: _Channel) -> None:
        with self._lock:
            # Other receivers may wait by now.
            channel = self._channels.setdefault(channel.name, channel)
            now = node.clock()
            for payload in payloads:
                try:
                    kept = decode_kept(payload)
                except wire.UNDECODABLE:
                    self._drops.add(f"channel {channel.name}", UNDECODABLE)
                    continue
                if kept.expires <= now:
                    self._drops.add(f"channel {channel.name}", EXPIRED)
                    continue
                channel.queue.keep(kept.message, kept.expires - now)
            self._tidy_later(channel)
            self._forget_if_idle(channel)

    def _tidy_later(self, channel: _Channel) -> None:
        """If nobody is there to receive what has come: look again when that has expired. With the lock."""
        if channel.receivers or channel.tidied_later:
            return
        life_s = channel.queue.oldest_life_s
        if life_s is not None:
            channel.tidied_later = True
            self._link.loop.call_later(max(life_s, 0.0) + _TIDY_S, self._tidy, channel)

    def _tidy(self, channel: _Channel) -> None:
        """A message that nobody was there for may have expired."""
        with self._lock:
            channel.tidied_later = False
            channel.queue.tidy()
            self._tidy_later(channel)
            self._forget_if_idle(channel)

    def _end_reads(self, channel: _Channel) -> None:
        """Nobody waits any more. What a read has taken nevertheless is kept for the next receiver."""
        if not channel.receivers:
            for pulling in list(channel.pulling.values()):
                if pulling is not None:
                    pulling.cancel()
            with self._lock:
                self._tidy_later(channel)


def _key(name: str) -> str:
    """The request channel of a node that holds the normal channel `name`."""
    return f"channels.{name}"
