"""What a node in memory holds, for as long as it is kept, and what can be told of it without taking anything."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred, fail, succeed

from ifserver.clock import Clock, Timer
from ifserver.errors import NodeUnreachable
from ifserver.layers.node import Limits, Node, Pulled, Queue, Reading, check

__all__ = ["Entry", "MemoryStore", "Pull", "unreachable"]


@dataclass(slots=True, eq=False)
class Entry:
    """Of one channel: messages that wait, and until when they are kept; or pulls that wait. Never both."""

    messages: deque[bytes] = field(default_factory=deque)
    pulls: dict[Pull, None] = field(default_factory=dict)
    expires: float = 0.0


@dataclass(slots=True, eq=False)
class Pull:
    """A pull that waits, oldest first in the `pulls` of each of its channels."""

    names: Sequence[str]
    count: int
    result: Deferred[Pulled | None]
    timeout: Timer | None = None


@dataclass(slots=True, frozen=True)
class Beat:
    """The last beat of one process: what it said, when, and until when that counts."""

    value: bytes
    reads: tuple[str, ...]
    at: float
    until: float


class MemoryStore(Node):
    """The channels and the beats, without what is over; whoever is one says whether it runs, in `connected`."""

    def __init__(self, name: str, requests: Limits, inboxes: Limits, clock: Clock) -> None:
        super().__init__(name, requests, inboxes, clock)
        self._channels: dict[str, Entry] = {}
        #: By process.
        self._beats: dict[str, Beat] = {}
        self._expired = 0
        self._sweep: Timer | None = None

    def holds(self, channel: str, payload: bytes) -> Deferred[bool]:
        entry = self._open(channel)
        if not self.connected:
            return fail(unreachable(self.name))
        return succeed(entry is not None and payload in entry.messages)

    def beat(self, process: str, value: bytes, life_s: float, reads: Sequence[str] = ()) -> Deferred[None]:
        if not self.connected:
            return fail(unreachable(self.name))
        now = self._clock.seconds()
        self._beats[process] = Beat(value, tuple(reads), now, now + life_s)
        if self._sweep is None:
            self._sweep_later()
        return succeed(None)

    def beats(self, processes: Sequence[str]) -> Deferred[list[bytes | None]]:
        if not self.connected:
            return fail(unreachable(self.name))
        now = self._clock.seconds()
        found = [self._beats.get(process) for process in processes]
        return succeed([beat.value if beat is not None and beat.until > now else None for beat in found])

    def census(self) -> Deferred[dict[str, bytes]]:
        if not self.connected:
            return fail(unreachable(self.name))
        now = self._clock.seconds()
        return succeed({process: beat.value for process, beat in self._beats.items() if beat.until > now})

    def readers(self) -> Deferred[list[Reading]]:
        if not self.connected:
            return fail(unreachable(self.name))
        now = self._clock.seconds()
        beats = [beat for beat in self._beats.values() if beat.reads and beat.until > now]
        return succeed([Reading(beat.reads, now - beat.at) for beat in beats])

    def look(self, channel: str) -> Deferred[Queue]:
        entry = self._open(channel)
        if not self.connected:
            return fail(unreachable(self.name))
        if entry is None or not entry.messages:
            return succeed(Queue(0, None))
        return succeed(Queue(len(entry.messages), entry.messages[0]))

    def _open(self, name: str) -> Entry | None:
        """The entry of `name`, if it has one, without what has expired."""
        entry = self._channels.get(name)
        if entry is None:
            check(name)
        elif entry.messages and self._clock.seconds() >= entry.expires:
            self._expire(name, entry)
            return self._channels.get(name)
        return entry

    def _expire(self, name: str, entry: Entry) -> None:
        self._expired += len(entry.messages)
        entry.messages.clear()
        self._close_if_idle(name, entry)

    def _close_if_idle(self, name: str, entry: Entry) -> None:
        """Forget an empty channel: names are many and live shortly."""
        if not entry.messages and not entry.pulls and self._channels.get(name) is entry:
            del self._channels[name]

    def _sweep_later(self) -> None:
        # An abandoned inbox is never asked for again, so nothing but this would ever free it.
        self._sweep = self._clock.callLater(min(self._requests.expiry_s, self._inboxes.expiry_s), self._sweep_now)

    def _sweep_now(self) -> None:
        self._sweep = None
        now = self._clock.seconds()
        for name, entry in list(self._channels.items()):
            if entry.messages and now >= entry.expires:
                self._expire(name, entry)
        for process, beat in list(self._beats.items()):
            if now >= beat.until:
                del self._beats[process]
        if self._channels or self._beats:
            self._sweep_later()


def unreachable(node: str) -> NodeUnreachable:
    """The error of what was asked of a node that does not run."""
    return NodeUnreachable(f"node {node}: it does not run")
