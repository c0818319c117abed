"""The channel layer for Channels (docs/howto/channel_layer.rst)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from ifserver.channels import plain
from ifserver.django import wire
from ifserver.django.hub import Hub, hub_of
from ifserver.django.layer_options import UNUSED, mistakes
from ifserver.django.old_connections import share_closing
from ifserver.django.queues import UNDECODABLE, QueueClosed
from ifserver.django.wire import for_servers, pack, unpack
from ifserver.errors import ConfigurationError
from ifserver.groups.link import current
from ifserver.worker.stream import OVER, Stream, running

__all__ = ["ChannelLayer"]

#: Far below what a node takes, and what a Redis keeps for a subscriber (``client-output-buffer-limit pubsub``).
_MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024

_log = logging.getLogger(__name__)


class ChannelLayer(BaseChannelLayer):  # type: ignore[misc]
    """A channel layer on the nodes of ifserver: those of the worker that this runs in, else those of the settings.

    Nothing has to be configured in a worker. It may be used from any thread and any event loop.

    Args:
        expiry: how long a message waits for its receiver at most, in seconds.
        group_expiry: how long a channel is kept from which nobody receives, in seconds, if it was made outside of a
            stream. One of a stream ends with that.
        capacity: how many messages wait on a channel at most.
        channel_capacity: the same for channels by their names: globs or compiled patterns, the first that matches.
        max_message_bytes: how large a message may be, as MessagePack.
        by_server: whether interface servers write what is sent to groups as ``websocket.send``, ``websocket.close`` and
            ``http.response.body``. Otherwise all goes to the consumers.
        others: options of channels_redis, which are named in the log and not used.

    Raises:
        ConfigurationError: an option is not known, or its value cannot be; or the site asks for encryption, which is
            the nodes' affair (``rediss://``).
    """

    extensions = ("groups", "flush")

    def __init__(
        self,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        max_message_bytes: int = _MAX_MESSAGE_BYTES,
        by_server: bool = True,
        **others: Any,
    ) -> None:
        options = {
            "expiry": expiry,
            "group_expiry": group_expiry,
            "capacity": capacity,
            "channel_capacity": channel_capacity,
            "max_message_bytes": max_message_bytes,
            "by_server": by_server,
        }
        wrong = mistakes(options | others)
        if wrong:
            raise ConfigurationError(f"CHANNEL_LAYERS: {'; '.join(wrong)}")
        super().__init__(expiry=expiry, capacity=capacity, channel_capacity=channel_capacity)
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.group_expiry = group_expiry
        self.max_message_bytes = max_message_bytes
        self.by_server = by_server
        share_closing()
        unused = [name for name in others if name in UNUSED]
        if unused:
            _log.info("CHANNEL_LAYERS: not used: %s; messages go through ifserver's own nodes", ", ".join(unused))

    def require_valid_channel_name(self, name: Any, receive: bool = False) -> bool:
        """As in Channels, which lets pass what no node takes: digits of other scripts, and a line's end."""
        super().require_valid_channel_name(name, receive=False)
        if not (name.isascii() and name.isprintable()):
            raise TypeError(self.invalid_name_error.format("Channel"))
        return True

    def require_valid_group_name(self, name: Any) -> bool:
        """As in Channels, but for digits of other scripts and a line's end."""
        super().require_valid_group_name(name)
        if not (name.isascii() and name.isprintable()):
            raise TypeError(self.invalid_name_error.format("Group"))
        return True

    async def new_channel(self, prefix: str = "specific") -> str:
        """A new channel of this process, which hears what is sent to it from then on.

        In a stream, the name is the stream's, and ends with it. It is the same when another worker goes on with the
        stream, so it may be kept in a database. Elsewhere the name is this process's, and ends with it, or at `close`.
        """
        hub = self._hub()
        stream = _stream_of(hub)
        return await hub.on_loop(hub.new_channel(plain(prefix).rstrip("."), stream, self))

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """Send `message` to a channel. To a specific one that there is not (any more): to nobody.

        Raises:
            ChannelFull: as many wait there as may. Of a specific channel of another process nobody knows; there what is
                too much is dropped, and that process says so in its log.
            MessageTooLarge: it has more than `max_message_bytes`.
            TypeError: the name is no channel's, or the message no dict of plain values.
            NodeError: no node has taken it, or nobody knows.
        """
        self.require_valid_channel_name(channel)
        channel = plain(channel)
        packed = pack(message, self.max_message_bytes)
        hub = self._hub()
        if "!" not in channel:
            await hub.on_loop(self._send_to_normal(hub, channel, packed))
            return
        own = hub.channels.get(channel)
        if own is None or (own.owner is not None and own.owner.phase in OVER):
            # Not here; or its stream is over here, and may go on elsewhere.
            await hub.on_loop(hub.send(channel, packed))
        elif not own.queue.put(packed):
            raise ChannelFull(channel)

    async def receive(self, channel: str) -> dict[str, Any]:
        """The next message of a channel; waits for it. Safe to cancel.

        Raises:
            ValueError: it is a specific channel that this process has not, or no longer.
        """
        hub = self._hub()
        if hub.channels.get(channel) is None:  # (those that there are have passed)
            self.require_valid_channel_name(channel, receive=True)
            channel = plain(channel)
        while True:
            own = hub.channels.get(channel)
            if own is None:
                self.require_valid_channel_name(channel, receive=True)
                if "!" in channel:
                    raise ValueError(f"{channel} is no channel of this process: new_channel() makes one")
                packed = await hub.normal.receive(channel)
            else:
                if own.is_of_another_attempt(_stream_of(hub)):
                    raise ValueError(f"{channel} is no channel of this attempt: another one has the stream")
                try:
                    packed = await own.queue.get()
                except QueueClosed:
                    raise ValueError(f"{channel} has ended") from None
            try:
                return unpack(packed)
            except wire.UNDECODABLE:
                hub.drops.add(f"channel {channel}", UNDECODABLE)

    async def group_add(self, group: str, channel: str) -> None:
        """Let a channel hear what is sent to `group`. Returns when it does, also if another process has the channel.

        If it is the channel of a stream that an interface server can write to, the stream becomes a member there too.
        A normal channel is a member by this process: by each of several that have added it, it gets a copy.

        Raises:
            TypeError: one of the names is none.
            NodeError: no node has taken it.
            TimeoutError: the process that has the channel does not answer.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        group, channel = plain(group), plain(channel)
        hub = self._hub()
        await hub.on_loop(hub.add(group, channel, self.limits(channel)))

    async def group_discard(self, group: str, channel: str) -> None:
        """Let a channel hear nothing more of `group`. It need not be a member. Raises as `group_add`.

        A normal channel stays a member by other processes that have added it.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        group, channel = plain(group), plain(channel)
        hub = self._hub()
        await hub.on_loop(hub.discard(group, channel))

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send `message` to each channel of `group`.

        A ``websocket.send``, ``websocket.close`` or ``http.response.body`` (without ``more_body: False``) that has
        nothing but what ASGI knows is written by the interface servers, without a consumer, to all members that are
        streams of theirs.

        Raises:
            MessageTooLarge: it has more than `max_message_bytes`.
            TypeError: the name is no group's, or the message no dict of plain values.
            ApplicationError: it is for servers, and a value in it is wrong.
            NodeError: no node has taken it, or nobody knows.
        """
        self.require_valid_group_name(group)
        what = for_servers(message, self.max_message_bytes) if self.by_server else None
        if what is None:
            what = {"message": pack(message, self.max_message_bytes)}
        hub = self._hub()
        await hub.on_loop(hub.publish(plain(group), what))

    async def flush(self) -> None:
        """Empty the queues of this process, let its channels leave all groups, and throw away what waits on the normal
        channels that it has used."""
        hub = self._hub()
        await hub.on_loop(hub.flush())

    async def close(self) -> None:
        """End all channels of this process that no stream will end, with their membership of groups."""
        hub = self._hub()
        await hub.on_loop(hub.close())

    def _hub(self) -> Hub:
        return hub_of(current())

    def limits(self, channel: str) -> tuple[int, float]:
        """Capacity of a channel, and how long a message waits there at most, in seconds."""
        return self.get_capacity(channel), self.expiry

    async def _send_to_normal(self, hub: Hub, channel: str, packed: bytes) -> None:
        pushed = await hub.normal.push(channel, packed, *self.limits(channel)).asFuture(hub.link.loop)
        if not pushed.taken:
            raise ChannelFull(channel)


def _stream_of(hub: Hub) -> Stream | None:
    """The stream in which this is called. A process that was forked in one has none: the stream is its parent's."""
    return running.get(None) if hub.link.in_worker else None
