"""A Redis 7 or Valkey 7.2 as a node.

One connection sends; each pull that waits has a connection to itself (`ifserver.layers.redis_readers`).

Keys are prefix + epoch + ``:`` + channel. The epoch is the server's ``run_id``, new at every start: a Redis that loads
a snapshot gives back messages that had been popped, under keys that nobody reads any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.interfaces import IStreamClientEndpoint

from ifserver.clock import Clock, Timer
from ifserver.errors import NodeError, NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.layers.base import MAX_BATCH_BYTES, Limits, Node, Pulled, Pushed, check
from ifserver.layers.link import Link, Troubles
from ifserver.layers.redis_connection import Connection, ErrorReply, Server, pack
from ifserver.layers.redis_readers import PAUSES, Readers

__all__ = ["RedisNode"]

#: How often the sending connection asks whether it still speaks with the same Redis (design: clusters, Epoch).
_EPOCH_S: Final = 5.0
#: More than this in one ``RPUSH`` would let others wait for milliseconds; and it is no longer all or nothing if split.
_PLAIN_MESSAGES: Final = 1000
_PLAIN_BYTES: Final = 4 * 1024 * 1024
#: Channels of which length and expiry are remembered. One that is forgotten costs its next push a script.
_MAX_KEYS: Final = 10_000

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

#: Errors after which it is worth asking at once whether this is still a primary that serves.
_NOT_NOW: Final = ("READONLY", "LOADING", "MASTERDOWN")

_log = logging.getLogger(__name__)


class _Key:
    """What is known of the list of one channel."""

    __slots__ = ("capacity", "expiry_ms", "flying", "key", "length", "pexpire", "plain", "renew_at", "renew_s")

    def __init__(self, key: bytes, limits: Limits) -> None:
        self.key = key
        self.capacity = limits.capacity
        #: Up to this length the list is appended to without a look at its capacity.
        self.plain = limits.capacity * 3 // 4
        #: The length last told. Not known is as good as full: others may have filled it.
        self.length = limits.capacity
        #: Messages in pushes that are under way.
        self.flying = 0
        self.expiry_ms = max(1, int(limits.expiry_s * 1000))
        self.renew_s = limits.expiry_s / 3
        #: When a third of the time to live that was last set here has passed.
        self.renew_at = 0.0
        self.pexpire = pack((b"PEXPIRE", key, self.expiry_ms))


class _Keys(dict[str, _Key]):
    """What is known of the lists of the current epoch, by their channels' names; a name that is not there is checked.

    Indexing is the whole way of a push to its key, without a call unless the channel is new.
    """

    def __init__(self, limits: Callable[[str], Limits]) -> None:
        super().__init__()
        self._limits = limits
        #: What the keys begin with.
        self.prefix = b""

    def __missing__(self, channel: str) -> _Key:
        check(channel)
        while len(self) >= _MAX_KEYS:
            del self[next(iter(self))]
        key = self[channel] = _Key(self.prefix + channel.encode(), self._limits(channel))
        return key


class RedisNode(Node):
    """One Redis primary, reached through endpoints that `endpoint` makes, one for each connection.

    Args:
        prefix: of every key, so that a Redis can be shared with other things.
        username: of an ACL user; None for Redis' default user.
        password: None if Redis asks for none. Never in a log or an error.
        database: the number to ``SELECT``.
    """

    def __init__(
        self,
        name: str,
        requests: Limits,
        inboxes: Limits,
        clock: Clock,
        endpoint: Callable[[], IStreamClientEndpoint],
        *,
        prefix: str = "ifserver:",
        username: str | None = None,
        password: str | None = None,
        database: int = 0,
    ) -> None:
        super().__init__(name, requests, inboxes)
        self._server = Server(name, prefix, username, password, database)
        self._clock = clock
        self._lead_s = 0.0
        self._troubles = Troubles(name)
        self._link = Link(
            endpoint(),
            lambda: Connection(self._server, clock, self._looked, self._closed),
            clock,
            PAUSES,
            self._troubles.add,
        )
        self._sending: Connection | None = None
        self._epoch: str | None = None
        self._epoch_timer: Timer | None = None
        self._keys = _Keys(self.limits)
        self._readers = Readers(self._server, clock, endpoint, self._troubles, self._look)
        self._stopped = False
        self._pushed = self._withdrawn = self._scripts = self._lost = 0

    @property
    def connected(self) -> bool:
        return self._sending is not None

    @property
    def epoch(self) -> str | None:
        return self._epoch

    def start(self) -> None:
        self._link.start()

    def stop(self) -> Deferred[None]:
        self._stopped = True
        self._disconnect()
        return gatherResults([self._link.stop(), self._readers.stop()]).addCallback(lambda _: None)

    def ready(self) -> Deferred[None]:
        return Deferred() if self._stopped else self._link.ready()

    def push(self, channel: str, payloads: Sequence[bytes]) -> Deferred[Pushed]:
        connection = self._sending
        if connection is None:
            check(channel)
            return fail(self._server.unreachable())
        key = self._keys[channel]
        count = len(payloads)
        result: Deferred[Pushed] = Deferred()
        if key.length + key.flying + count <= key.plain and (count == 1 or _is_plain(payloads)):
            command, answered = pack((b"RPUSH", key.key, *payloads)), self._appended
        else:
            # No more than can fit: the list has at least no messages.
            payloads = payloads[: key.capacity]
            if sum(map(len, payloads)) > MAX_BATCH_BYTES:
                return fail(NodeRefused(f"node {self.name}: a batch of more than {MAX_BATCH_BYTES} bytes"))
            script = (b"EVAL", _PUSH_SCRIPT, 1, key.key, key.capacity, key.expiry_ms)
            command, answered = pack((*script, *payloads)), self._script_ran
            self._scripts += 1
        key.flying += count
        connection.ask(command, answered, result, (key, count), PushInDoubt)
        return result

    def pull(self, names: Sequence[str], count: int, wait_s: float) -> Deferred[Pulled | None]:
        for name in names:
            check(name)
        if self._sending is None:
            return fail(self._server.unreachable())
        return self._readers.pull(names, count, wait_s)

    def end_pulls(self) -> None:
        """Does nothing: pulls end by their timeout.

        ``CLIENT UNBLOCK`` that arrives before the read does nothing, closing the connection loses what Redis has just
        popped for it, and both the command and the question for one's client id are rights that an application's user
        should not have.
        """

    def withdraw(self, channel: str, payload: bytes) -> Deferred[bool]:
        return self._ask_about(channel, payload, withdrawing=True)

    def holds(self, channel: str, payload: bytes) -> Deferred[bool]:
        return self._ask_about(channel, payload, withdrawing=False)

    def beat(self, process: str, value: bytes, life_s: float) -> Deferred[None]:
        command = (b"SET", self._alive(process), value, b"PX", max(1, round(life_s * 1000)))
        return self._simple(command, PushInDoubt).addCallback(lambda _: None)

    def beats(self, processes: Sequence[str]) -> Deferred[list[bytes | None]]:
        if not processes:
            return succeed([])
        return self._simple((b"MGET", *map(self._alive, processes)), NodeUnreachable)

    def clock(self) -> float:
        return self._clock.seconds() + self._lead_s

    def statistics(self) -> dict[str, int]:
        return {
            "connected": int(self.connected),
            "waiting": len(self._sending.waiting) if self._sending is not None else 0,
            "keys": len(self._keys),
            "pushed": self._pushed,
            "withdrawn": self._withdrawn,
            "scripts": self._scripts,
            "connections_lost": self._lost,
            **self._readers.statistics(),
        }

    def _ask_about(self, channel: str, payload: bytes, withdrawing: bool) -> Deferred[bool]:
        connection = self._sending
        if connection is None:
            check(channel)
            return fail(self._server.unreachable())
        key = self._keys[channel].key
        result: Deferred[bool] = Deferred()
        command = (b"LREM", key, 1, payload) if withdrawing else (b"LPOS", key, payload)
        when_lost = PushInDoubt if withdrawing else NodeUnreachable
        connection.ask(pack(command), self._told, result, withdrawing, when_lost)
        return result

    def _alive(self, process: str) -> bytes:
        # Without the epoch, which says what was lost of messages: whoever is alive says so again soon enough.
        return f"{self._server.prefix}alive:{process}".encode()

    def _simple(self, command: tuple[Any, ...], when_lost: type[NodeError]) -> Deferred[Any]:
        connection = self._sending
        if connection is None:
            return fail(self._server.unreachable())
        result: Deferred[Any] = Deferred()
        connection.ask(pack(command), self._answered, result, None, when_lost)
        return result

    # Answers on the sending connection.

    def _answered(self, reply: Any, result: Deferred[Any], about: None) -> None:
        if isinstance(reply, ErrorReply):
            self._refuse(reply, result)
        else:
            result.callback(reply)

    def _appended(self, reply: Any, result: Deferred[Pushed], about: tuple[_Key, int]) -> None:
        key, count = about
        key.flying -= count
        if type(reply) is not int:
            self._refuse(reply, result)
            return
        key.length = reply
        self._pushed += count
        now = self._clock.seconds()
        if reply == count or now >= key.renew_at:
            key.renew_at = now + key.renew_s
            if self._sending is not None:
                self._sending.ask(key.pexpire, self._expires, None)
        result.callback(Pushed(count, reply))

    def _script_ran(self, reply: Any, result: Deferred[Pushed], about: tuple[_Key, int]) -> None:
        key, count = about
        key.flying -= count
        if type(reply) is not list:
            self._refuse(reply, result)
            return
        taken, key.length = reply[:2]
        if len(reply) > 2:
            self._expires(ErrorReply(reply[2].decode()), None, None)
        if taken:
            self._pushed += taken
            key.renew_at = self._clock.seconds() + key.renew_s
        result.callback(Pushed(taken, key.length))

    def _expires(self, reply: Any, result: None, about: None) -> None:
        if isinstance(reply, ErrorReply):
            self._troubles.add(self._server.clean(f"it refuses PEXPIRE: {reply}"))

    def _told(self, reply: Any, result: Deferred[bool], withdrawing: bool) -> None:
        if isinstance(reply, ErrorReply):
            self._refuse(reply, result)
        elif withdrawing:
            self._withdrawn += reply
            result.callback(reply > 0)
        else:
            result.callback(reply is not None)

    def _refuse(self, reply: Any, result: Deferred[Any]) -> None:
        if str(reply).startswith(_NOT_NOW):
            self._look()
        result.errback(self._server.refused(reply))

    # What the connections call.

    def _look(self) -> None:
        if self._sending is not None:
            self._sending.look()

    def _looked(self, connection: Connection, lead_s: float) -> None:
        if self._stopped:
            return
        self._lead_s = lead_s
        if self._epoch not in (None, connection.epoch):
            _log.warning("node %s: it was restarted or replaced, what was queued there is lost", self.name)
            self._keys.clear()
        self._epoch = self._readers.epoch = connection.epoch
        self._keys.prefix = self._server.prefix_of(self._epoch)
        if self._epoch_timer is not None and self._epoch_timer.active():
            self._epoch_timer.cancel()
        self._epoch_timer = self._clock.callLater(_EPOCH_S, connection.look)
        if self._sending is None:
            self._sending = connection
            self._troubles.over()
            self._link.settle()

    def _closed(self, connection: Connection, why: str) -> None:
        if self._stopped:
            return
        if connection is not self._sending:
            self._troubles.add(why)
            return
        self._lost += 1
        _log.warning("node %s: %s", self.name, why)
        self._disconnect()

    def _disconnect(self) -> None:
        self._sending = None
        self._link.unsettle()
        # Others push meanwhile, and what was flying may have landed.
        self._keys.clear()
        if self._epoch_timer is not None and self._epoch_timer.active():
            self._epoch_timer.cancel()
        self._readers.give_back()


def _is_plain(payloads: Sequence[bytes]) -> bool:
    """Whether a batch may go in one ``RPUSH``. (None at all may not: Redis calls that a syntax error.)"""
    return 0 < len(payloads) <= _PLAIN_MESSAGES and sum(map(len, payloads)) <= _PLAIN_BYTES
