"""Stand-ins for what is around a node: transports, endpoints, the end of a turn, and a node that answers as told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Limits, Pushed
from tests.layers.helpers import ROOMY

__all__ = ["FakeEndpoint", "FakeTransport", "FakeTurn", "ToldNode"]


class FakeTransport(StringTransport):
    """Keeps what is written; is lost only when a test says so."""

    aborting = False

    def abortConnection(self) -> None:
        self.aborting = self.disconnecting = True

    def writeSequence(self, data: Any) -> None:
        for piece in data:
            self.write(piece)

    def taken(self) -> bytes:
        """What was written since the last time."""
        data: bytes = self.value()
        self.clear()
        return data


@implementer(IStreamClientEndpoint)
class FakeEndpoint:
    """Connects to nothing, when it is told to."""

    def __init__(self) -> None:
        #: Attempts that were neither accepted nor refused.
        self.attempts: list[tuple[Any, Deferred[Any]]] = []
        self.count = 0
        self.transport = FakeTransport()
        self._proxy: Any = None

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        attempt: Deferred[Any] = Deferred(lambda _: self.attempts.clear())
        self.attempts.append((protocolFactory, attempt))
        self.count += 1
        return attempt

    def accept(self) -> Any:
        """Let the attempt succeed; the protocol is returned."""
        factory, attempt = self.attempts.pop()
        self.transport = FakeTransport()
        self._proxy = factory.buildProtocol(None)
        self._proxy.makeConnection(self.transport)
        attempt.callback(self._proxy)
        return self._proxy._protocol

    def refuse(self, error: Exception) -> None:
        """Let the attempt fail."""
        self.attempts.pop()[1].errback(Failure(error))

    def receive(self, data: bytes) -> None:
        """Bytes arrive."""
        self._proxy.dataReceived(data)

    def lose(self) -> None:
        """The connection is lost."""
        self._proxy.connectionLost(Failure(ConnectionDone()))


class FakeTurn:
    """The end of a turn of the event loop (`ifserver.clock.Soon`), when it is told that it has come."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []

    def __call__(self, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def end(self) -> int:
        """Make the calls; returns how many there were."""
        calls, self._calls = self._calls, []
        for call in calls:
            call()
        return len(calls)


class ToldNode(MemoryNode):
    """A node in memory whose pushes are answered when, and with what, a test says; and that can be unreachable."""

    def __init__(self, name: str = "east-1") -> None:
        super().__init__(name, ROOMY, ROOMY, Clock(), "epoch")
        self.running = False
        self.start()
        self.pushes: list[tuple[str, list[bytes], Deferred[Pushed]]] = []
        self.connected = True
        #: How long it has been unreachable.
        self.gone_s = 0.0
        self._ready: list[Deferred[None]] = []

    def unreachable_s(self) -> float:
        return self.gone_s

    def start(self) -> None:
        self.running = True

    def stop(self) -> Deferred[None]:
        self.running = False
        return succeed(None)

    def ready(self) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        self._ready.append(waiting)
        return waiting

    def become_ready(self) -> None:
        """It is connected again."""
        ready, self._ready = self._ready, []
        for waiting in ready:
            waiting.callback(None)

    def push(self, channel: str, payloads: Sequence[bytes], limits: Limits | None = None) -> Deferred[Pushed]:
        pushing: Deferred[Pushed] = Deferred()
        self.pushes.append((channel, list(payloads), pushing))
        return pushing

    def asked(self) -> list[tuple[str, list[bytes]]]:
        """What is to be pushed and not yet answered."""
        return [(channel, payloads) for channel, payloads, _ in self.pushes]

    def answer(self, result: Pushed | Exception) -> None:
        """Answer the oldest push."""
        _, _, pushing = self.pushes.pop(0)
        if isinstance(result, Exception):
            pushing.errback(result)
        else:
            pushing.callback(result)
