"""What this process has of the channel layer: its channels, their queues, and their membership of groups.

All of it is changed on the loop of the process's `Link`. What is sent to a channel of this process, and received from
one, goes through its queue, from any thread.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import islice
from threading import RLock
from typing import Any, Final, Protocol, TypeVar

from ifserver.django import wire
from ifserver.django.normal import NormalChannels
from ifserver.django.queues import EXPIRED, FULL, LOST, UNDECODABLE, Drops, Queue
from ifserver.django.subscriptions import Changes, Subscriptions
from ifserver.django.wire import (
    Change,
    Changed,
    Letter,
    Sent,
    as_message,
    decode_letter,
    encode,
    local_part,
    pack,
    subject_of,
)
from ifserver.errors import ApplicationError, ClientDisconnected, NodeError
from ifserver.groups.link import Link
from ifserver.messages import Broadcast
from ifserver.worker.asgi_http import HttpStream
from ifserver.worker.groups import ADD, DISCARD, carry_out
from ifserver.worker.stream import OVER, Stream

__all__ = ["Channel", "Hub", "Rules", "hub_of"]

#: How many channels of no stream are looked at for each that is made: some may still be used, and there are no more.
_LOOK_AT: Final = 4
#: Larger than any message.
_NO_LIMIT: Final = 1 << 62

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Rules(Protocol):
    """What a layer demands of channels."""

    #: How long a channel of no stream is kept that nobody receives from, in seconds.
    group_expiry: float

    def require_valid_channel_name(self, name: str) -> bool:
        """Raises TypeError if `name` is none."""

    def limits(self, channel: str) -> tuple[int, float]:
        """Capacity of a channel, and how long a message waits there at most, in seconds."""


class Channel:
    """A specific channel of this process."""

    __slots__ = ("groups", "name", "owner", "queue")

    def __init__(self, name: str, queue: Queue, owner: Stream | None) -> None:
        self.name = name
        self.queue = queue
        #: The stream in which it was made, and with which it ends.
        self.owner = owner
        #: Its groups, and what asks the server to write to the stream what is for servers; None: it cannot.
        self.groups: dict[str, asyncio.Task[None] | None] = {}

    def is_of_another_attempt(self, stream: Stream | None) -> bool:
        """Whether `stream` is an earlier attempt of the stream that has the channel: it goes on in this process."""
        owner = self.owner
        return (
            stream is not None
            and owner is not None
            and owner is not stream
            and owner.link.identity == stream.link.identity
        )


class Hub:
    """The channels and groups of a process whose nodes are those of `link`."""

    def __init__(self, link: Link, clock: Callable[[], float] = time.monotonic) -> None:
        self.link = link
        self._clock = clock
        self._lock = RLock()
        self.drops = Drops(link.loop, link.clusters.counters)
        self._subscriptions = Subscriptions(link.loop, link.groups, self)
        self.normal = NormalChannels(link, self._lock, clock, self.drops, self._subscriptions)
        #: Those of this process, by their names. May be read in any thread.
        self.channels: dict[str, Channel] = {}
        #: Those of no stream, about in the order of their last use.
        self._free: dict[Channel, None] = {}
        #: The channels of each stream, in the order in which they were made.
        self._streams: dict[Stream, list[Channel]] = {}
        #: The members of each group, by their names; and those of them to whom no server writes what is for servers.
        self._groups: dict[str, dict[str, Channel]] = {}
        self._unwritten: dict[str, dict[str, Channel]] = {}
        self._changes = Changes(link, self._subscriptions)
        self._tasks: set[asyncio.Task[None]] = set()

    async def on_loop(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What `work` returns, which runs on the link's loop."""
        if asyncio.get_running_loop() is self.link.loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.link.loop))

    def statistics(self) -> dict[str, int]:
        """Counts, for tests and people."""
        return {
            "channels": len(self.channels),
            "streams": len(self._streams),
            "groups": len(self._groups) + len(self.normal.members),
            "subscriptions": len(self._subscriptions),
        }

    # On the link's loop.

    async def new_channel(self, prefix: str, stream: Stream | None, rules: Rules) -> str:
        """Make a channel that receives all that is sent to it from then on.

        Args:
            prefix: what its name begins with.
            stream: with which it ends; None: with `close`.
        """
        if stream is not None and stream.task is not None and stream.task.done():
            stream = None  # something goes on that its application has started
        if stream is None:
            name = f"{prefix}.{self.link.clusters.process}!{secrets.token_hex(8)}"
        else:
            # Another worker that goes on with the stream comes to the same names.
            name = f"{prefix}.{stream.link.identity}!{len(self._streams.get(stream, ()))}"
        rules.require_valid_channel_name(name)
        capacity, expiry_s = rules.limits(name)
        expired = partial(self.drops.add, f"channel {name}", EXPIRED)
        queue = Queue(self._lock, capacity, expiry_s, self._clock, expired)
        channel = self.channels[name] = Channel(name, queue, stream)
        if stream is None:
            self._end_unused(queue.used_at - rules.group_expiry)
            self._free[channel] = None
        else:
            if stream not in self._streams:
                self._streams[stream] = []

                def end_all(stream: Stream = stream) -> None:
                    for each in self._streams.pop(stream):
                        self._end(each)

                stream.at_end = [*(stream.at_end or ()), end_all]
            self._streams[stream].append(channel)
        try:
            await asyncio.shield(self._subscriptions.hold(subject_of(name)))
        except BaseException:
            self._end(channel)  # nobody will know its name, also if the caller has been cancelled
            raise
        return name

    async def send(self, name: str, message: bytes) -> None:
        """Send to a specific channel of another process."""
        letter = encode(Sent(local_part(name), message))
        await self.link.groups.publish(subject_of(name), message=letter).asFuture(self.link.loop)

    async def add(self, group: str, name: str, limits: tuple[int, float]) -> None:
        """Make a channel a member of `group`, wherever it is; its `limits` matter if it is a normal one."""
        if "!" not in name:
            await self.normal.join(group, name, limits)
            return
        channel = self.channels.get(name)
        if channel is None:
            await self._changes.ask(name, group, True)
            return
        if group in channel.groups:
            joining = channel.groups[group]
            await asyncio.shield(self._subscriptions.ready(group))
        else:
            # From now on it is the server's to write what is for servers, so that nobody gets it twice.
            joining = channel.groups[group] = self._join_at_server(channel, group)
            self._groups.setdefault(group, {})[name] = channel
            if joining is None:
                self._unwritten.setdefault(group, {})[name] = channel
            try:
                await asyncio.shield(self._subscriptions.hold(group))
            except NodeError:
                await self.discard(group, name)
                raise
        # Also if it has failed by now, and the channel is no member any more.
        if joining is not None:
            await asyncio.shield(joining)

    async def discard(self, group: str, name: str) -> None:
        """Let a channel be no member of `group` any more, wherever it is."""
        if "!" not in name:
            self.normal.leave(group, name)
            return
        channel = self.channels.get(name)
        if channel is None:
            await self._changes.ask(name, group, False)
        elif group in channel.groups:
            joining, owner = channel.groups[group], channel.owner
            self._drop(channel, group)
            if joining is not None and owner is not None:
                await asyncio.wait([joining])
                # Unless another channel of the stream needs the server's membership.
                if all(other.groups.get(group) is None for other in self._streams.get(owner, ())):
                    await carry_out(owner, {"type": DISCARD, "group": group})

    async def publish(self, group: str, what: dict[str, Any]) -> None:
        """Send to `group` what `Groups.publish` takes."""
        await self.link.groups.publish(group, **what).asFuture(self.link.loop)

    async def flush(self) -> None:
        """Empty all queues of this process, and leave all groups."""
        for channel in list(self.channels.values()):
            channel.queue.clear()
            for group in list(channel.groups):
                await self.discard(group, channel.name)
        self.normal.leave_all()
        await self.normal.flush()

    async def close(self) -> None:
        """End what no stream will end."""
        for channel in list(self._free):
            self._end(channel)
        self.normal.leave_all()
        self.drops.log()

    def _drop(self, channel: Channel, group: str) -> None:
        if group not in channel.groups:
            return
        del channel.groups[group]
        for groups in (self._groups, self._unwritten):
            members = groups.get(group, {})
            if members.get(channel.name) is channel:
                del members[channel.name]
                if not members:
                    del groups[group]
        self._subscriptions.drop(group)

    def _end(self, channel: Channel) -> None:
        if channel.queue.is_closed:
            return
        channel.queue.close()
        for group in list(channel.groups):
            self._drop(channel, group)
        if self.channels.get(channel.name) is channel:
            del self.channels[channel.name]
        self._free.pop(channel, None)
        self._subscriptions.drop(subject_of(channel.name))

    def _end_unused(self, since: float) -> None:
        """End channels that no stream will end, and from which nobody has received since then."""
        for channel in list(islice(self._free, _LOOK_AT)):
            del self._free[channel]
            if channel.queue.used_at < since and not channel.queue.is_awaited:
                self._end(channel)
            else:
                self._free[channel] = None

    def _join_at_server(self, channel: Channel, group: str) -> asyncio.Task[None] | None:
        """Let the server write to the channel's stream what is for servers. None: it cannot."""
        stream, event = channel.owner, {"type": ADD, "group": group}
        try:
            if stream is None or not stream.is_open_for_groups(event):
                return None
        except ApplicationError:
            return None  # a response that has not begun, or whose length is known

        async def join() -> None:
            try:
                await carry_out(stream, event)
            except (ApplicationError, ClientDisconnected):
                # If it has ended meanwhile, there is nothing to log.
                if stream.phase not in OVER:
                    self._drop(channel, group)
                    raise

        return self._start(join())

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.link.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Whatever waits for it gets the error; nothing may wait any more.
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return task

    # What `Groups` receives.

    def heard(self, group: str, broadcast: Broadcast) -> None:
        """Something was sent to a group, or to a channel."""
        if group.startswith("!"):
            self._received(group, broadcast.message)
            return
        message, dropped = broadcast.message, 0
        members = self._groups.get(group)
        if message is None:
            dropped = self._put_for_servers(group, broadcast)
        elif members is not None:
            for channel in members.values():
                if not channel.queue.put(message):
                    dropped += 1
        if dropped:
            self.drops.add(f"group {group}", FULL, dropped)
        if group in self.normal.members:
            self.normal.push_to_members(group, message or pack(as_message(broadcast, False), _NO_LIMIT))

    def gap(self, group: str, missed: int | None) -> None:
        """Something was lost."""
        whose = f"channels {group[1:]}!*" if group.startswith("!") else f"group {group}"
        self.drops.add(whose, LOST, missed)

    def _put_for_servers(self, group: str, broadcast: Broadcast) -> int:
        """Give it to the members to whom no server writes it. How many had no room for it."""
        packed: dict[bool, bytes] = {}
        dropped = 0
        for channel in self._unwritten.get(group, {}).values():
            owner = channel.owner
            if owner is not None and (owner.link.identity == broadcast.exclude or owner.phase in OVER):
                continue
            is_http = isinstance(owner, HttpStream)
            if is_http not in packed:
                packed[is_http] = pack(as_message(broadcast, is_http), _NO_LIMIT)
            dropped += not channel.queue.put(packed[is_http])
        return dropped

    def _received(self, subject: str, payload: bytes | None) -> None:
        try:
            letter: Letter = decode_letter(payload or b"")
        except wire.UNDECODABLE:
            self.drops.add(f"channels {subject[1:]}!*", UNDECODABLE)
            return
        if isinstance(letter, Sent):
            channel = self.channels.get(f"{subject[1:]}!{letter.local}")
            # If it is not here, it has ended, or another channel of this prefix is.
            if channel is not None and not channel.queue.put(letter.message):
                self.drops.add(f"channel {channel.name}", FULL)
        elif isinstance(letter, Change):
            self._start(self._change(f"{subject[1:]}!{letter.local}", letter))
        else:
            self._changes.answered(letter)

    async def _change(self, name: str, change: Change) -> None:
        error = ""
        if name in self.channels:
            try:
                await (self.add(change.group, name, (0, 0.0)) if change.joins else self.discard(change.group, name))
            except Exception as raised:
                error = str(raised) or type(raised).__name__
        try:
            await self.link.groups.publish(change.reply, message=encode(Changed(change.id, error))).asFuture(
                self.link.loop
            )
        except NodeError as unsent:
            _log.warning("channel %s: the process that has changed its groups cannot be answered: %s", name, unsent)


_hubs: dict[Link, Hub] = {}


def hub_of(link: Link) -> Hub:
    """The hub of this process, whose link is `link`."""
    hub = _hubs.get(link)
    if hub is None:
        for other in list(_hubs):
            if not other.is_ours:
                _hubs.pop(other, None)  # of a process from which this one was forked
        hub = _hubs.setdefault(link, Hub(link))
    return hub
