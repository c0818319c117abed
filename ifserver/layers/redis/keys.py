"""What a Redis node remembers of its lists, so that most pushes need not ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ifserver.layers.node import Limits, check
from ifserver.layers.redis.connection import pack, pack_with

__all__ = ["Key", "Keys"]

#: Appends what fits, in one step. An error of ``PEXPIRE`` comes third, since the messages are there by then. ``unpack``
#: cannot pass more than some 8,000 values. Sent as a whole each time: Redis knows it by its hash, and ``EVALSHA`` of a
#: script that was flushed would be repeated behind later pushes.
_PUSH_SCRIPT: Final = b"""\
local length = redis.call('LLEN', KEYS[1])
local taken = math.max(0, math.min(#ARGV - 2, ARGV[1] - length))
for i = 3, taken + 2, 1000 do
length = redis.call('RPUSH', KEYS[1], unpack(ARGV, i, math.min(i + 999, taken + 2)))
end
if taken > 0 then
local expires = redis.pcall('PEXPIRE', KEYS[1], ARGV[2])
if type(expires) == 'table' then return {taken, length, expires.err} end
end
return {taken, length}"""

#: Channels of which length and expiry are remembered. One that is forgotten costs its next push a script.
_MAX_KEYS: Final = 10_000


class Key:
    """What is known of the list of one channel."""

    __slots__ = (
        "capacity",
        "expiry_ms",
        "flying",
        "key",
        "length",
        "limits",
        "pexpire",
        "plain",
        "renew_at",
        "renew_s",
        "was_empty",
    )

    def __init__(self, key: bytes, limits: Limits) -> None:
        self.key = key
        self.limits = limits
        self.capacity = limits.capacity
        #: Up to this length the list is appended to without a look at its capacity.
        self.plain = limits.capacity * 3 // 4
        #: The length last told. Not known is as good as full: others may have filled it.
        self.length = limits.capacity
        #: Messages in pushes that are under way.
        self.flying = 0
        self.expiry_ms = max(1, int(limits.expiry_s * 1000))
        self.renew_s = limits.expiry_s / 3
        #: Whether the last push found no list there, so that Redis made one, without a time to live. The next will find
        #: none either, most likely: somebody waits for what comes.
        self.was_empty = False
        #: When a third of the time to live that was last set here has passed.
        self.renew_at = 0.0
        self.pexpire = pack((b"PEXPIRE", key, self.expiry_ms))

    def push_what_fits(self, payloads: Sequence[bytes]) -> bytes:
        """A packed command that appends what the capacity allows; it answers how many that was, and the length."""
        return pack_with((b"EVAL", _PUSH_SCRIPT, 1, self.key, self.capacity, self.expiry_ms), payloads)


class Keys(dict[str, Key]):
    """What is known of the lists of the current epoch, by their channels' names; a name that is not there is checked.

    Indexing is the whole way of a push to its key, without a call unless the channel is new.
    """

    def __init__(self, limits: Callable[[str], Limits]) -> None:
        super().__init__()
        self._limits = limits
        #: What the keys begin with.
        self.prefix = b""

    def __missing__(self, channel: str) -> Key:
        check(channel)
        return self._add(channel, self._limits(channel))

    def with_limits(self, channel: str, limits: Limits) -> Key:
        """What is known of a channel that has limits of its own."""
        key = self.get(channel)
        if key is None or key.limits != limits:
            check(channel)
            key = self._add(channel, limits)
        return key

    def _add(self, channel: str, limits: Limits) -> Key:
        while len(self) >= _MAX_KEYS:
            del self[next(iter(self))]
        key = self[channel] = Key(self.prefix + channel.encode(), limits)
        return key
