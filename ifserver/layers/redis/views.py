"""What is known of a Redis here, and what it can report without anything being taken: lists, who is alive, the time.

All is asked on the connection that sends, in turn with the pushes: a beat is taken before what was sent behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, FirstError, fail, gatherResults, succeed
from twisted.python.failure import Failure

from ifserver.clock import Clock
from ifserver.errors import NodeError, NodeUnreachable, PushInDoubt
from ifserver.layers.node import Limits, Node, Queue, Reading, check
from ifserver.layers.reconnection import Troubles
from ifserver.layers.redis.connection import Connection, ErrorReply, Server, lead_of, pack, pack_with

__all__ = ["REMEMBERED_S", "Key", "Keys", "Leads", "RedisViews", "first_error"]


#: How long a lead counts after it was last measured: longer than requests wait for a worker, with much to spare.
REMEMBERED_S: Final = 600.0
#: Leads that differ by less are one, or each would be remembered that a clock passes through while it is adjusted.
_STEP_S: Final = 1.0


class Leads:
    """How far the clock of a Redis is ahead of ours, in seconds: now, and before. Pure.

    Redis tells the time by the wall clock of its machine; it has no command for a clock that nobody sets. We measure
    how far it is ahead of our own monotonic clock (its *lead*), and count on from there by our own clock. So the wall
    clocks of servers and workers do not matter. But that of Redis may be set too, and then every process has the old
    lead until it measures again: with each of its beats (0.5 s), or after 5 s. Suppose that it is set by an hour:

    * Forward. A server that has the old lead sets a deadline which a worker with the new one takes for long past. So
      a request is dropped only if it is too late by the smallest lead of the last ten minutes. A server cannot have
      set its deadline by a smaller one: it measures again within seconds, and the request waits for ``queue_timeout``
      at most.
    * Back. A worker that has the old lead takes the deadline of a server with the new one for long past. So a worker
      measures again before it drops anything.

    For ten minutes after a step forward hardly any request is found to be too late. That does no harm: deadlines are
    a backstop, for requests that their server could not take back because it is gone or could not reach the node.

    One case is left: a worker that has connected after a step forward, and pulls what was offered before it, drops
    that. Then the server offers it once more, or answers 504, as with any request that is lost.
    """

    __slots__ = ("_known", "now_s")

    def __init__(self) -> None:
        #: As it was measured last; 0: it never was.
        self.now_s = 0.0
        #: Each lead that differs from the one before, and when it was last measured; oldest first.
        self._known: list[tuple[float, float]] = []

    def measured(self, lead_s: float, now: float) -> None:
        """Its lead is `lead_s` at `now`, by our clock."""
        self.now_s = lead_s
        known = self._known
        if known and abs(known[-1][0] - lead_s) < _STEP_S:
            lead_s = min(known.pop()[0], lead_s)
        known.append((lead_s, now))
        while known[0][1] < now - REMEMBERED_S:
            del known[0]

    def least_s(self, now: float) -> float:
        """The smallest lead of the last ten minutes; the last one of all, where there is none so young."""
        return min((lead_s for lead_s, at in self._known if at >= now - REMEMBERED_S), default=self.now_s)


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


#: Errors after which it is worth asking at once whether this is still a primary that serves.
_NOT_NOW: Final = ("READONLY", "LOADING", "MASTERDOWN")
#: How long the census, and who reads, are kept when nobody beats any more.
_CENSUS_LIFE_MS: Final = 60_000
#: The score of what a process no longer says: below all times, so that it is removed at once.
_OVER: Final = 0


class RedisViews(Node):
    """The questions of a Redis node. Whoever is one says on which connection they are asked, in `_sending`."""

    def __init__(self, server: Server, requests: Limits, inboxes: Limits, clock: Clock) -> None:
        super().__init__(server.node, requests, inboxes, clock)
        self._server = server
        self._leads = Leads()
        self._troubles = Troubles(server.node)
        self._keys = Keys(self.limits)
        self._readers_key = self._alive("readers")
        #: Under which name a process of ours is listed among the readers, which says what it reads.
        self._listed: dict[str, str] = {}
        #: The connection that can be used.
        self._sending: Connection | None = None

    def holds(self, channel: str, payload: bytes) -> Deferred[bool]:
        if self._sending is None:
            check(channel)
            return fail(self._server.unreachable())
        asking = self._simple((b"LPOS", self._keys[channel].key, payload), NodeUnreachable)
        return asking.addCallback(lambda place: place is not None)

    def beat(self, process: str, value: bytes, life_s: float, reads: Sequence[str] = ()) -> Deferred[None]:
        connection = self._sending
        if connection is not None and (reads or process in self._listed):
            # First, so that it is known when the beat is.
            self._list(connection, process, reads, life_s)
        command = (b"SET", self._alive(process), value, b"PX", max(1, round(life_s * 1000)))
        beating = self._simple(command, PushInDoubt).addCallback(lambda _: None)
        if connection is not None:
            # Deadlines that we set are right again soon after the clock there was set, or this machine was suspended.
            connection.ask_the_time(self._measured)
            # For `census`, which nobody's life depends on: where this is refused, the beat is a beat all the same.
            now, what = self.clock(), "to keep a census of who is alive"
            commands: Any = (
                (b"ZADD", self._alive(""), now + life_s, process),
                (b"ZREMRANGEBYSCORE", self._alive(""), b"-inf", now),
                # Nothing is left when everybody is gone.
                (b"PEXPIRE", self._alive(""), _CENSUS_LIFE_MS),
            )
            if self._server.database:
                # Before the census, so that whoever is in that and not in this is of 1.0.0 (`RedisNode._former`).
                key = self._alive("groups")
                commands = (
                    (b"ZADD", key, now + life_s, process),
                    (b"ZREMRANGEBYSCORE", key, b"-inf", now),
                    (b"PEXPIRE", key, _CENSUS_LIFE_MS),
                    *commands,
                )
            packed, others = b"".join(map(pack, commands)), (what,) * (len(commands) - 1)
            connection.ask(packed, self._done_without, None, what, also=(self._done_without, others))
        return beating

    def _list(self, connection: Connection, process: str, reads: Sequence[str], life_s: float) -> None:
        """List `process` among the readers, with the time. One that reads something else than before has another name
        there, so that it takes one question to learn what all of them read."""
        now, name = self.clock(), " ".join((process, *reads))
        before = self._listed.get(process, name)
        scored: list[Any] = [] if before == name else [_OVER, before]
        if reads:
            self._listed[process] = name
            scored += (now, name)
        else:
            del self._listed[process]
        key, what = self._readers_key, "to list who reads"
        commands: Any = (
            (b"ZADD", key, *scored),
            (b"ZREMRANGEBYSCORE", key, b"-inf", now - life_s),
            (b"PEXPIRE", key, _CENSUS_LIFE_MS),
        )
        packed = b"".join(map(pack, commands))
        connection.ask(packed, self._done_without, None, what, also=(self._done_without, (what, what)))

    def beats(self, processes: Sequence[str]) -> Deferred[list[bytes | None]]:
        if not processes:
            return succeed([])
        return self._simple((b"MGET", *map(self._alive, processes)), NodeUnreachable)

    def census(self) -> Deferred[dict[str, bytes]]:
        asking = self._simple((b"ZRANGEBYSCORE", self._alive(""), self.clock(), b"+inf"), NodeUnreachable)
        return asking.addCallback(self._with_values)

    def readers(self) -> Deferred[list[Reading]]:
        connection = self._sending
        if connection is None:
            return fail(self._server.unreachable())
        # All of them: how old they are is judged by the time there, which may have been set.
        listing = (b"ZRANGEBYSCORE", self._readers_key, b"-inf", b"+inf", b"WITHSCORES")
        time: Deferred[float] = Deferred()
        listed = self._simple(listing, NodeUnreachable)
        connection.ask_the_time(self._told_the_time, time)
        both = gatherResults([listed, time], consumeErrors=True).addErrback(first_error)
        readings: Deferred[list[Reading]] = both.addCallback(_readings)
        return readings

    def look(self, channel: str) -> Deferred[Queue]:
        if self._sending is None:
            check(channel)
            return fail(self._server.unreachable())
        key = self._keys[channel].key
        length = self._simple((b"LLEN", key), NodeUnreachable)
        oldest = self._simple((b"LINDEX", key, 0), NodeUnreachable)
        both = gatherResults([length, oldest], consumeErrors=True).addErrback(first_error)
        return both.addCallback(lambda found: Queue(*found))

    def least_clock(self) -> Deferred[float]:
        connection = self._sending
        measuring: Deferred[None] = succeed(None) if connection is None else Deferred()
        if connection is not None:
            connection.ask_the_time(self._measured, measuring)
        measuring.addErrback(lambda failure: None if failure.check(NodeError) else failure)

        def least(_: None) -> float:
            now = self._clock.seconds()
            return now + self._leads.least_s(now)

        return measuring.addCallback(least)

    def _alive(self, process: str) -> bytes:
        # Without the epoch, which says what was lost of messages: whoever is alive says so again soon enough.
        return f"{self._server.prefix}alive:{process}".encode()

    def _with_values(self, names: list[bytes]) -> Deferred[dict[str, bytes]]:
        processes = [name.decode("ascii", "replace") for name in names]

        def known(values: list[bytes | None]) -> dict[str, bytes]:
            return {name: value for name, value in zip(processes, values, strict=True) if value is not None}

        return self.beats(processes).addCallback(known)

    # Asking, and the answers.

    def _measured(self, reply: Any, result: Deferred[None] | None, asked: float) -> None:
        # Where it is refused, `Connection.look` says so.
        if type(reply) is list:
            self._lead_is(lead_of(reply, asked, self._clock.seconds()))
        if result is not None:
            result.callback(None)

    def _lead_is(self, lead_s: float) -> None:
        self.lead_s = lead_s
        self._leads.measured(lead_s, self._clock.seconds())

    def _told_the_time(self, reply: Any, result: Deferred[float], asked: float) -> None:
        self._measured(reply, None, asked)
        result.callback(int(reply[0]) + int(reply[1]) / 1e6 if type(reply) is list else self.clock())

    def _simple(self, command: tuple[Any, ...], when_lost: type[NodeError]) -> Deferred[Any]:
        """Ask what needs no more than an answer, which the Deferred fires with."""
        connection = self._sending
        if connection is None:
            return fail(self._server.unreachable())
        result: Deferred[Any] = Deferred()
        connection.ask(pack(command), self._answered, result, None, when_lost)
        return result

    def _answered(self, reply: Any, result: Deferred[Any], about: None) -> None:
        if isinstance(reply, ErrorReply):
            self._refuse(reply, result)
        else:
            result.callback(reply)

    def _done_without(self, reply: Any, result: None, what: str) -> None:
        """The answer to what is good to have: that `what` is refused is logged, and nothing else comes of it."""
        if isinstance(reply, ErrorReply):
            self._troubles.add(self._server.clean(f"it refuses {what}: {reply}"))

    def _refuse(self, reply: Any, result: Deferred[Any]) -> None:
        """Fail what Redis has answered with an error."""
        if str(reply).startswith(_NOT_NOW):
            self._look()
        result.errback(self._server.refused(reply))

    def _look(self) -> None:
        """Ask Redis at once who it is, and for the time."""
        if self._sending is not None:
            self._sending.look()


def first_error(failure: Failure) -> Failure:
    """Of questions that were asked together, why the first one failed."""
    assert isinstance(failure.value, FirstError)
    return failure.value.subFailure


def _readings(found: list[Any]) -> list[Reading]:
    """The readers that are listed (`RedisViews._list`), at this time of the node."""
    listed, now = found
    names = [name.decode("ascii", "replace").split(" ") for name in listed[::2]]
    return [Reading(tuple(name[1:]), now - float(at)) for name, at in zip(names, listed[1::2], strict=True)]
