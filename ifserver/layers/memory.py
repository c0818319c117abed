"""Channels in the memory of this process: the embedded broker's store, and the model that other nodes are held to."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred, fail, succeed

from ifserver import channels
from ifserver.clock import Clock, Timer
from ifserver.errors import NodeUnreachable
from ifserver.layers.base import Limits, Node, Pulled, Pushed, Queue

__all__ = ["MemoryNode"]


@dataclass(slots=True, eq=False)
class _Channel:
    """Messages that wait, and until when they are kept; or pulls that wait. Never both."""

    messages: deque[bytes] = field(default_factory=deque)
    pulls: dict[_Pull, None] = field(default_factory=dict)
    expires: float = 0.0


@dataclass(slots=True, eq=False)
class _Pull:
    """A pull that waits, oldest first in the `pulls` of each of its channels."""

    names: Sequence[str]
    count: int
    result: Deferred[Pulled | None]
    timeout: Timer | None = None


class MemoryNode(Node):
    """A node in this process. Time comes from `clock`."""

    def __init__(self, name: str, requests: Limits, inboxes: Limits, clock: Clock, epoch: str) -> None:
        super().__init__(name, requests, inboxes)
        self._clock = clock
        self._epoch = epoch
        self._channels: dict[str, _Channel] = {}
        #: Process -> value, and until when it is kept.
        self._beats: dict[str, tuple[bytes, float]] = {}
        self._pushed = self._pulled = self._expired = self._withdrawn = 0
        self._running = False
        self._gone_at = clock.seconds()
        self._waiting: dict[Deferred[None], None] = {}
        self._sweep: Timer | None = None

    @property
    def connected(self) -> bool:
        return self._running

    def unreachable_s(self) -> float:
        return 0.0 if self._running else self._clock.seconds() - self._gone_at

    @property
    def epoch(self) -> str | None:
        return self._epoch

    def start(self) -> None:
        self._running = True
        waiting, self._waiting = self._waiting, {}
        for deferred in waiting:
            deferred.callback(None)

    def stop(self) -> Deferred[None]:
        self._running = False
        self._gone_at = self._clock.seconds()
        self._waiting.clear()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for pull in self._pulls():
            self._forget(pull)
            pull.result.errback(_unreachable(self.name))
        self._channels.clear()
        self._beats.clear()
        return succeed(None)

    def ready(self) -> Deferred[None]:
        if self._running:
            return succeed(None)
        waiting: Deferred[None] = Deferred(lambda cancelled: self._waiting.pop(cancelled, None))
        self._waiting[waiting] = None
        return waiting

    def push(self, channel: str, payloads: Sequence[bytes]) -> Deferred[Pushed]:
        entry = self._open(channel)
        if not self._running:
            return fail(_unreachable(self.name))
        if entry is None:
            entry = self._channels[channel] = _Channel()
        limits = self.limits(channel)
        messages = entry.messages
        taken = min(len(payloads), limits.capacity - len(messages))
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
        if not self._running:
            return fail(_unreachable(self.name))
        for name, entry in entries:
            if entry is not None and entry.messages:
                return succeed(self._take(name, entry, count))
        # Cancelling a pull is safe here, and only here: handing a message over is one step.
        pull = _Pull(tuple(dict.fromkeys(names)), count, Deferred(lambda _: self._forget(pull)))
        for name in pull.names:
            self._channels.setdefault(name, _Channel()).pulls[pull] = None
        pull.timeout = self._clock.callLater(wait_s, self._end, pull, None)
        return pull.result

    def end_pulls(self) -> None:
        for pull in self._pulls():
            self._end(pull, None)

    def withdraw(self, channel: str, payload: bytes) -> Deferred[bool]:
        entry = self._open(channel)
        if not self._running:
            return fail(_unreachable(self.name))
        if entry is None or payload not in entry.messages:
            return succeed(False)
        entry.messages.remove(payload)
        self._close_if_idle(channel, entry)
        self._withdrawn += 1
        return succeed(True)

    def holds(self, channel: str, payload: bytes) -> Deferred[bool]:
        entry = self._open(channel)
        if not self._running:
            return fail(_unreachable(self.name))
        return succeed(entry is not None and payload in entry.messages)

    def beat(self, process: str, value: bytes, life_s: float) -> Deferred[None]:
        if not self._running:
            return fail(_unreachable(self.name))
        self._beats[process] = value, self._clock.seconds() + life_s
        if self._sweep is None:
            self._sweep_later()
        return succeed(None)

    def beats(self, processes: Sequence[str]) -> Deferred[list[bytes | None]]:
        if not self._running:
            return fail(_unreachable(self.name))
        now = self._clock.seconds()
        found = [self._beats.get(process, (None, now)) for process in processes]
        return succeed([value if until > now else None for value, until in found])

    def roll(self) -> Deferred[dict[str, bytes]]:
        if not self._running:
            return fail(_unreachable(self.name))
        now = self._clock.seconds()
        return succeed({process: value for process, (value, until) in self._beats.items() if until > now})

    def look(self, channel: str) -> Deferred[Queue]:
        entry = self._open(channel)
        if not self._running:
            return fail(_unreachable(self.name))
        if entry is None or not entry.messages:
            return succeed(Queue(0, None))
        return succeed(Queue(len(entry.messages), entry.messages[0]))

    def clock(self) -> float:
        return self._clock.seconds()

    def statistics(self) -> dict[str, int]:
        return {
            "channels": len(self._channels),
            "messages": sum(len(entry.messages) for entry in self._channels.values()),
            "pulls": len(self._pulls()),
            "pushed": self._pushed,
            "pulled": self._pulled,
            "expired": self._expired,
            "withdrawn": self._withdrawn,
        }

    def _pulls(self) -> dict[_Pull, None]:
        """The pulls that wait, oldest first on each channel, each once."""
        return {pull: None for entry in self._channels.values() for pull in entry.pulls}

    def _open(self, name: str) -> _Channel | None:
        """The entry of `name`, if it has one, without what has expired."""
        entry = self._channels.get(name)
        if entry is None:
            channels.check(name)
        elif entry.messages and self._clock.seconds() >= entry.expires:
            self._expire(name, entry)
            return self._channels.get(name)
        return entry

    def _expire(self, name: str, entry: _Channel) -> None:
        self._expired += len(entry.messages)
        entry.messages.clear()
        self._close_if_idle(name, entry)

    def _sweep_later(self) -> None:
        # An abandoned inbox is never asked for again, so nothing but this would ever free it.
        self._sweep = self._clock.callLater(min(self._requests.expiry_s, self._inboxes.expiry_s), self._sweep_now)

    def _sweep_now(self) -> None:
        self._sweep = None
        now = self._clock.seconds()
        for name, entry in list(self._channels.items()):
            if entry.messages and now >= entry.expires:
                self._expire(name, entry)
        for process, (_, until) in list(self._beats.items()):
            if now >= until:
                del self._beats[process]
        if self._channels or self._beats:
            self._sweep_later()

    def _serve(self, name: str, entry: _Channel) -> None:
        while entry.messages and entry.pulls:
            pull = next(iter(entry.pulls))
            taken = self._take(name, entry, pull.count, keep=True)
            self._end(pull, taken)
        self._close_if_idle(name, entry)

    def _take(self, name: str, entry: _Channel, count: int, keep: bool = False) -> Pulled:
        messages = entry.messages
        payloads = [messages.popleft() for _ in range(min(count, len(messages)))]
        self._pulled += len(payloads)
        if not keep:
            self._close_if_idle(name, entry)
        return Pulled(name, payloads)

    def _end(self, pull: _Pull, result: Pulled | None) -> None:
        self._forget(pull)
        pull.result.callback(result)

    def _forget(self, pull: _Pull) -> None:
        for name in pull.names:
            entry = self._channels[name]
            del entry.pulls[pull]
            self._close_if_idle(name, entry)
        if pull.timeout is not None and pull.timeout.active():
            pull.timeout.cancel()

    def _close_if_idle(self, name: str, entry: _Channel) -> None:
        """Forget an empty channel: names are many and live shortly."""
        if not entry.messages and not entry.pulls and self._channels.get(name) is entry:
            del self._channels[name]


def _unreachable(node: str) -> NodeUnreachable:
    return NodeUnreachable(f"node {node}: it does not run")
