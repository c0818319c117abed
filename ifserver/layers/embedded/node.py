"""Channels in the memory of this process: the embedded broker's store, and the model that other nodes are held to."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.defer import Deferred, fail, succeed

from ifserver.clock import Clock, Timer
from ifserver.errors import NodeUnreachable
from ifserver.layers.node import Limits, Node, Pulled, Pushed, Queue, Reading, check, check_group

__all__ = ["Entry", "MemoryNode", "MemoryStore", "Pull", "Relay", "unreachable"]


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
    """The last beat of one process: what it reported, when, and until when that counts."""

    value: bytes
    reads: tuple[str, ...]
    at: float
    until: float


class MemoryStore(Node):
    """The channels and the beats, without what is over, and what can be seen of them without taking anything."""

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


class Relay(Protocol):
    """Hands what is published to other processes."""

    def relay(self, group: str, payload: bytes) -> int:
        """Hand it to those that have subscribed; returns how many there are."""


class MemoryNode(MemoryStore):
    """A node in this process. Time comes from `clock`."""

    def __init__(self, name: str, requests: Limits, inboxes: Limits, clock: Clock, epoch: str) -> None:
        super().__init__(name, requests, inboxes, clock)
        self.epoch = epoch
        self._pushed = self._pulled = self._withdrawn = 0
        self._gone_at = clock.seconds()
        self._waiting: dict[Deferred[None], None] = {}
        #: Who serves this node to other processes.
        self.relay: Relay | None = None
        #: The groups of this process.
        self._groups: set[str] = set()
        self._subscribing: list[Deferred[None]] = []
        #: What was published in them and is still to be delivered: a subscriber may publish.
        self._undelivered: deque[tuple[str, bytes]] = deque()
        self._delivering = self._stopped = False
        self._delivered = self._interruptions = 0

    def unreachable_s(self) -> float:
        return 0.0 if self.connected else self._clock.seconds() - self._gone_at

    def start(self) -> None:
        self.connected = True
        if self._stopped:
            self._stopped = False
            self._interruptions += len(self._groups)
            if self._groups and self.subscriber is not None:
                self.subscriber.interrupted(list(self._groups))
        subscribing, self._subscribing = self._subscribing, []
        for deferred in subscribing:
            if not deferred.called:
                deferred.callback(None)
        waiting, self._waiting = self._waiting, {}
        for deferred in waiting:
            deferred.callback(None)

    def stop(self) -> Deferred[None]:
        self.connected = False
        self._stopped = True
        self._gone_at = self._clock.seconds()
        self._undelivered.clear()
        subscribing, self._subscribing = self._subscribing, []
        for deferred in subscribing:
            if not deferred.called:
                deferred.errback(unreachable(self.name))
        self._waiting.clear()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for pull in self._pulls():
            self._forget(pull)
            pull.result.errback(unreachable(self.name))
        self._channels.clear()
        self._beats.clear()
        return succeed(None)

    def ready(self) -> Deferred[None]:
        if self.connected:
            return succeed(None)
        waiting: Deferred[None] = Deferred(lambda cancelled: self._waiting.pop(cancelled, None))
        self._waiting[waiting] = None
        return waiting

    def push(self, channel: str, payloads: Sequence[bytes], limits: Limits | None = None) -> Deferred[Pushed]:
        entry = self._open(channel)
        if not self.connected:
            return fail(unreachable(self.name))
        if entry is None:
            entry = self._channels[channel] = Entry()
        if limits is None:
            limits = self.limits(channel)
        messages = entry.messages
        # Where processes set limits that differ, there may be more than these allow.
        taken = max(0, min(len(payloads), limits.capacity - len(messages)))
        if taken:
            now = self._clock.seconds()
            # As Redis does it: the time to live belongs to the list, and is renewed when a third of it has passed.
            if not messages or entry.expires - now < limits.expiry_s * 2 / 3:
                entry.expires = now + limits.expiry_s
            messages.extend(payloads if taken == len(payloads) else payloads[:taken])
            self._pushed += taken
            if self._sweep is None:
                self._sweep_later()
        pushed = Pushed(taken, len(messages))
        self._serve(channel, entry)
        return succeed(pushed)

    def pull(self, names: Sequence[str], count: int, wait_s: float) -> Deferred[Pulled | None]:
        entries = [(name, self._open(name)) for name in names]
        if not self.connected:
            return fail(unreachable(self.name))
        for name, entry in entries:
            if entry is not None and entry.messages:
                taken = self._take(name, entry, count)
                self._close_if_idle(name, entry)
                return succeed(taken)
        # Cancelling a pull is safe here, and only here: handing a message over is one step.
        pull = Pull(tuple(dict.fromkeys(names)), count, Deferred(lambda _: self._forget(pull)))
        for name in pull.names:
            self._channels.setdefault(name, Entry()).pulls[pull] = None
        pull.timeout = self._clock.callLater(wait_s, self._end, pull, None)
        return pull.result

    def end_pulls(self) -> None:
        for pull in self._pulls():
            self._end(pull, None)

    def withdraw(self, channel: str, payload: bytes) -> Deferred[bool]:
        entry = self._open(channel)
        if not self.connected:
            return fail(unreachable(self.name))
        if entry is None or payload not in entry.messages:
            return succeed(False)
        entry.messages.remove(payload)
        self._close_if_idle(channel, entry)
        self._withdrawn += 1
        return succeed(True)

    def _publish(self, group: str, payload: bytes) -> Deferred[int]:
        if not self.connected:
            return fail(unreachable(self.name))
        count = 0 if self.relay is None else self.relay.relay(group, payload)
        if group in self._groups and self.subscriber is not None:
            count += 1
            self._undelivered.append((group, payload))
            if not self._delivering:
                self._deliver()
        return succeed(count)

    def _deliver(self) -> None:
        self._delivering = True
        try:
            while self._undelivered:
                group, payload = self._undelivered.popleft()
                if group in self._groups and self.subscriber is not None:
                    self._delivered += 1
                    self.subscriber.published(group, payload)
        finally:
            self._delivering = False

    def subscribe(self, groups: Sequence[str]) -> Deferred[None]:
        for group in groups:
            check_group(group)
        if self._stopped:
            return fail(unreachable(self.name))
        self._groups.update(groups)
        if self.connected:
            return succeed(None)
        subscribing: Deferred[None] = Deferred()
        self._subscribing.append(subscribing)
        return subscribing

    def unsubscribe(self, groups: Sequence[str]) -> None:
        for group in groups:
            self._groups.discard(check_group(group))

    def statistics(self) -> dict[str, int]:
        return {
            "channels": len(self._channels),
            "messages": sum(len(entry.messages) for entry in self._channels.values()),
            "pulls": len(self._pulls()),
            "pushed": self._pushed,
            "pulled": self._pulled,
            "expired": self._expired,
            "withdrawn": self._withdrawn,
            **self.publishes,
            "groups": len(self._groups),
            "heard": self._delivered,
            "interruptions": self._interruptions,
        }

    def _pulls(self) -> dict[Pull, None]:
        """The pulls that wait, oldest first on each channel, each once."""
        return {pull: None for entry in self._channels.values() for pull in entry.pulls}

    def _serve(self, name: str, entry: Entry) -> None:
        if not entry.messages and not entry.pulls:
            self._close_if_idle(name, entry)
        while entry.messages and entry.pulls:
            pull = next(iter(entry.pulls))
            taken = self._take(name, entry, pull.count)
            self._forget(pull)
            pull.result.callback(taken)

    def _take(self, name: str, entry: Entry, count: int) -> Pulled:
        messages = entry.messages
        payloads = [messages.popleft() for _ in range(min(count, len(messages)))]
        self._pulled += len(payloads)
        return Pulled(name, payloads)

    def _end(self, pull: Pull, result: Pulled | None) -> None:
        self._forget(pull)
        pull.result.callback(result)

    def _forget(self, pull: Pull) -> None:
        for name in pull.names:
            entry = self._channels[name]
            del entry.pulls[pull]
            if not entry.pulls and not entry.messages:
                del self._channels[name]
        if pull.timeout is not None and pull.timeout.active():
            pull.timeout.cancel()
