"""The embedded broker of another process as a node."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Raw
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from ifserver.clock import Clock
from ifserver.errors import NodeError, NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.layers.embedded.frames import (
    CALLS,
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    VERSION,
    Brought,
    Call,
    EndPulls,
    Hello,
    Interrupted,
    Malformed,
    Nothing,
    Peer,
    Published,
    Pull,
    Push,
    Refused,
    Result,
    Taken,
    decode_answer,
    frame,
    packed,
    pieces_of,
)
from ifserver.layers.node import (
    MAX_BATCH_BYTES,
    MAX_PAYLOAD_BYTES,
    Limits,
    Node,
    Pulled,
    Pulling,
    Pushed,
    Queue,
    Reading,
    check,
)
from ifserver.layers.reconnection import Link, Pauses, Troubles
from ifserver.layers.subscriptions import Subscriptions
from ifserver.logs import events

__all__ = ["LocalNode"]

#: A broker on the same machine is back in no time, or it is gone and takes this process with it.
_PAUSES: Final = Pauses(first_s=0.1, longest_s=1.0)

_log = logging.getLogger(__name__)


class LocalNode(Node):
    """The embedded broker of another process, asked through `endpoint` (production: ``StreamClientEndpoint``).

    It is on the same machine, all of whose processes have the same monotonic clock: `lead_s` stays 0.

    Args:
        once: stop when the connection is lost, which is expected and not logged.
    """

    def __init__(
        self,
        name: str,
        requests: Limits,
        inboxes: Limits,
        clock: Clock,
        endpoint: IStreamClientEndpoint,
        once: bool = False,
    ) -> None:
        super().__init__(name, requests, inboxes, clock)
        self.once = once
        self._connection = _Connection(self, endpoint, clock)
        self._call = self._connection.call
        #: Messages that the broker says it has taken from here, and given.
        self.pushed = self.pulled = 0
        self._withdrawn = 0
        #: The groups of this process.
        self.subscriptions = Subscriptions(self, clock, self._connection.error)

    def unreachable_s(self) -> float:
        return self._connection.unreachable_s()

    def start(self) -> None:
        self._connection.link.start()

    def stop(self) -> Deferred[None]:
        stopped = self._connection.stop()
        self.subscriptions.stop()
        return stopped

    def ready(self) -> Deferred[None]:
        return self._connection.link.ready()

    def push(self, channel: str, payloads: Sequence[bytes], limits: Limits | None = None) -> Deferred[Pushed]:
        check(channel)
        id = next(self._connection.ids)
        *pieces, last = pieces_of(payloads)
        if pieces and sum(map(len, payloads)) > MAX_BATCH_BYTES:
            return fail(NodeRefused(f"node {self.name}: a batch of more than {MAX_BATCH_BYTES} bytes"))
        frames = [frame(Push(id, channel, list(piece), True)) for piece in pieces]
        frames.append(frame(Push(id, channel, list(last), False, limits)))
        return self._connection.ask(id, frames, PushInDoubt, Deferred())

    def pull(self, names: Sequence[str], count: int, wait_s: float) -> Deferred[Pulled | None]:
        for name in names:
            check(name)
        id = next(self._connection.ids)
        return self._connection.ask(id, [frame(Pull(id, list(names), count, wait_s))], NodeUnreachable, Pulling())

    def end_pulls(self) -> None:
        # The broker ends those that still wait when it reads this; what it has sent before arrives before the end.
        broker = self._connection.broker
        if broker is not None:
            broker.transport.write(frame(EndPulls()))

    def withdraw(self, channel: str, payload: bytes) -> Deferred[bool]:
        check(channel)
        return self._call("withdraw", channel, payload).addCallback(self._count_withdrawn)

    def holds(self, channel: str, payload: bytes) -> Deferred[bool]:
        check(channel)
        return self._call("holds", channel, payload)

    def _publish(self, group: str, payload: bytes) -> Deferred[int]:
        return self._call("publish", group, payload, soon=True)

    def subscribe(self, groups: Sequence[str]) -> Deferred[None]:
        return self.subscriptions.subscribe(groups)

    def unsubscribe(self, groups: Sequence[str]) -> None:
        self.subscriptions.unsubscribe(groups)

    def beat(self, process: str, value: bytes, life_s: float, reads: Sequence[str] = ()) -> Deferred[None]:
        return self._call("beat", process, value, life_s, reads)

    def beats(self, processes: Sequence[str]) -> Deferred[list[bytes | None]]:
        return self._call("beats", processes)

    def census(self) -> Deferred[dict[str, bytes]]:
        return self._call("census")

    def readers(self) -> Deferred[list[Reading]]:
        return self._call("readers")

    def look(self, channel: str) -> Deferred[Queue]:
        check(channel)
        return self._call("look", channel)

    def statistics(self) -> dict[str, int]:
        broker = self._connection.broker
        return {
            "connected": int(self.connected),
            "waiting": len(broker.waiting) if broker is not None else 0,
            "pushed": self.pushed,
            "pulled": self.pulled,
            "withdrawn": self._withdrawn,
            "connections_lost": self.losses,
            **self.publishes,
            **self.subscriptions.statistics(),
        }

    def _count_withdrawn(self, was_there: bool) -> bool:
        self._withdrawn += was_there
        return was_there


class _Connection:
    """The connection of `node`, whenever there is one: calls over it, and what it means for the node."""

    def __init__(self, node: LocalNode, endpoint: IStreamClientEndpoint, clock: Clock) -> None:
        self._node = node
        self._clock = clock
        self._troubles = Troubles(node.name)
        self.link = Link(endpoint, lambda: _Broker(node, self), clock, _PAUSES, self._troubles.add)
        self.broker: _Broker | None = None
        self._stopped = False
        self._lost_at = clock.seconds()
        self.ids = itertools.count(1)

    def unreachable_s(self) -> float:
        """See `Node.unreachable_s`."""
        return 0.0 if self.broker is not None else self._clock.seconds() - self._lost_at

    def stop(self) -> Deferred[None]:
        """Disconnect for good; fires when the socket is closed."""
        self._stopped = True
        self._disconnect()
        return self.link.stop()

    def call(self, name: str, *arguments: object, soon: bool = False) -> Deferred[Any]:
        """Call a method of the node at the other end (`CALLS`)."""
        kind, id = CALLS[name], next(self.ids)
        frames = [frame(Call(id, name, packed(arguments)))]
        return self.ask(id, frames, kind.when_lost, Deferred(), kind.decode_result, soon)

    def ask(
        self,
        id: int,
        frames: list[bytes],
        when_lost: type[NodeError],
        answer: Deferred[Any],
        decode: Callable[[Raw], Any] | None = None,
        soon: bool = False,
    ) -> Deferred[Any]:
        """Send `frames`; `answer` fires with the answer to `id`, or fails with `when_lost`."""
        broker = self.broker
        if broker is None:
            return fail(self.error())
        for data in frames:
            if len(data) - HEADER_BYTES > MAX_FRAME_BYTES:
                return fail(NodeRefused(f"node {self._node.name}: a payload is longer than {MAX_PAYLOAD_BYTES} bytes"))
        broker.waiting[id] = (answer, when_lost, decode)
        for data in frames:
            if soon:
                broker.write_soon(data, self._node.soon)
            else:
                broker.transport.write(data)
        return answer

    def error(self) -> NodeError:
        """The error of what is asked while there is none."""
        return NodeUnreachable(f"node {self._node.name}: there is no connection")

    def greeted(self, broker: _Broker, hello: Hello) -> None:
        """The connection can be used."""
        if self._stopped:
            return
        node = self._node
        if node.epoch not in (None, hello.epoch):
            text = "node %s: it was restarted, what was queued there is lost"
            events.report(_log, logging.INFO, events.Mark.NODE_RESTARTED, text, node.name)
        node.epoch = hello.epoch
        self.broker = broker
        node.connected = True
        self._troubles.over()
        self.link.settle()
        node.subscriptions.connected(_Wire(broker, self.call))

    def unusable(self, broker: _Broker, why: str) -> None:
        """The connection was lost, or is about to be closed."""
        if self._node.once:
            self._node.stop()
        if broker is self.broker:
            self._node.losses += 1
            if not self._stopped:
                self._troubles.lost(f"connection lost: {why}")
            self._disconnect()
        elif not self._stopped and not broker.greeted:
            self._troubles.add(why)

    def _disconnect(self) -> None:
        if self.broker is not None:
            self._lost_at = self._clock.seconds()
        self.broker = None
        self._node.connected = False
        self.link.unsettle()
        self._node.subscriptions.lost()


class _Wire:
    """How subscriptions are made."""

    def __init__(self, broker: _Broker, call: Callable[..., Deferred[Any]]) -> None:
        self._broker = broker
        self._call = call

    def subscribe(self, groups: list[str]) -> Deferred[None]:
        return self._call("subscribe", groups)

    def unsubscribe(self, groups: list[str]) -> None:
        self._call("unsubscribe", groups).addErrback(lambda failure: failure.trap(NodeError))

    def refused(self, why: str) -> None:
        self._broker.malformed(why)


class _Broker(Peer):
    """The client's end of its connection."""

    def __init__(self, node: LocalNode, connection: _Connection) -> None:
        super().__init__()
        self._node = node
        self._connection = connection
        self.greeted = False
        #: By the id of what was asked: what waits for the answer, what it is if the connection breaks first, and how
        #: its value is decoded if it has one.
        self.waiting: dict[int, tuple[Deferred[Any], type[NodeError], Callable[[Raw], Any] | None]] = {}

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        why = reason.getErrorMessage()
        self._connection.unusable(self, why if self.greeted else f"closed before its greeting ({why})")
        waiting, self.waiting = self.waiting, {}
        for answer, when_lost, _ in waiting.values():
            answer.errback(when_lost(f"node {self._node.name}: the connection broke before the answer: {why}"))

    def malformed(self, why: str) -> None:
        self._connection.unusable(self, f"it does not keep to the protocol: {why}")
        self.transport.abortConnection()

    def message_received(self, body: bytes | memoryview) -> None:
        answer = decode_answer(body)
        if isinstance(answer, Brought):
            payloads = self.whole(answer)
            if payloads is not None:
                self._node.pulled += len(payloads)
                self._waiting(answer.id).callback(Pulled(answer.channel, payloads))
        elif isinstance(answer, Published):
            self._node.subscriptions.published(answer.group, answer.payload)
        elif isinstance(answer, Taken):
            self._node.pushed += answer.taken
            self._waiting(answer.id).callback(Pushed(answer.taken, answer.length))
        elif isinstance(answer, Nothing):
            self._waiting(answer.id).callback(None)
        elif isinstance(answer, Result):
            _, _, decode = self.waiting.get(answer.id, (None, None, None))
            if decode is None:
                raise Malformed(f"a result of what is no call: {answer.id}")
            value = decode(answer.value)  # before it is taken out: one that does not decode is not answered
            self._waiting(answer.id).callback(value)
        elif isinstance(answer, Refused):
            self._waiting(answer.id).errback(NodeRefused(f"node {self._node.name}: {answer.why}"))
        elif isinstance(answer, Interrupted):
            self._node.subscriptions.interrupted(answer.groups)
        else:
            self._greet(answer)

    def _greet(self, hello: Hello) -> None:
        if self.greeted:
            raise Malformed("it greets twice")
        if hello.version != VERSION:
            raise Malformed(f"it speaks version {hello.version}, not {VERSION}")
        self.greeted = True
        self._connection.greeted(self, hello)

    def _waiting(self, id: int) -> Deferred[Any]:
        try:
            return self.waiting.pop(id)[0]
        except KeyError:
            raise Malformed(f"it answers what was not asked: {id}") from None
