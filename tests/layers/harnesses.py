"""Every kind of node, each with what the conformance suite needs to know and to do to its surroundings."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import socket
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from twisted.internet import reactor
from twisted.internet.interfaces import IListeningPort

from ifserver.config.node_urls import parse_cluster
from ifserver.layers.embedded.broker import LocalBroker
from ifserver.layers.embedded.client import LocalNode
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Node
from ifserver.layers.redis.node import redis_node
from ifserver.net.endpoints import SocketEndpoint, StreamClientEndpoint, unix_address
from tests.layers.helpers import LOOP, ROOMY, turn, within
from tests.redis_server import RedisServer, SentinelServer

if TYPE_CHECKING:
    from tests.certificates import Certificates

__all__ = [
    "HARNESSES",
    "Harness",
    "LocalHarness",
    "MemoryHarness",
    "RedisHarness",
    "SentinelHarness",
    "TlsHarness",
]

_numbers = itertools.count()


class Harness(ABC):
    """One place that holds channels, and the nodes that ask it."""

    #: Whether other processes can reach it, so that it can be lost.
    remote = True
    #: Whether `Node.end_pulls` does anything.
    ends_pulls = True

    def __init__(self) -> None:
        #: May be changed before the first node is made.
        self.requests = self.inboxes = ROOMY
        #: Where other processes find it.
        self.address = ""
        self._nodes: list[Node] = []

    async def node(self) -> Node:
        """One more node, connected."""
        node = self.make()
        self._nodes.append(node)
        node.start()
        await within(node.ready())
        return node

    async def close(self) -> None:
        """Stop everything."""
        for node in self._nodes:
            await within(node.stop())

    @abstractmethod
    async def open(self) -> None:
        """Start the place."""

    @abstractmethod
    def make(self) -> Node:
        """One more node, not started."""

    def snapshot(self) -> None:
        """Save what it holds, if it ever does; it may bring it back after a crash."""
        return

    def freeze(self) -> None:
        """Let it answer nothing more, and keep its connections."""
        raise AssertionError("it is no other process")

    async def cut(self) -> None:
        """Break all connections to it; it keeps its memory, and takes new ones."""
        raise AssertionError("it has no connections")

    async def crash(self) -> None:
        """End it at once, frozen or not."""
        raise AssertionError("it cannot crash alone")

    async def come_back(self) -> None:
        """Start it again after a crash."""
        raise AssertionError("it cannot crash alone")


class MemoryHarness(Harness):
    """Channels in this process: all who ask share one node."""

    remote = False

    async def open(self) -> None:
        self._node: MemoryNode | None = None

    def make(self) -> Node:
        if self._node is None:
            self._node = MemoryNode("east-1", self.requests, self.inboxes, reactor, "first")
        return self._node


class LocalHarness(Harness):
    """The embedded broker, here in this process but reached through its socket."""

    async def open(self) -> None:
        self.address = f"@ifserver-test-{os.getpid()}-{next(_numbers)}"
        self.broker: LocalBroker | None = None
        self._port: IListeningPort | None = None
        self._sock = self._bind()

    def _bind(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(unix_address(self.address))
        return sock

    def make(self) -> Node:
        endpoint = StreamClientEndpoint(LOOP, path=self.address)
        return LocalNode("east-1", self.requests, self.inboxes, reactor, endpoint)

    async def node(self) -> Node:
        if self.broker is None:
            await self._listen()
        return await super().node()

    async def _listen(self) -> None:
        memory = MemoryNode("east-1", self.requests, self.inboxes, reactor, f"epoch-{next(_numbers)}")
        memory.start()
        self.broker = LocalBroker(memory)
        self._port = await within(SocketEndpoint(LOOP, self._sock).listen(self.broker))

    def freeze(self) -> None:
        assert self.broker is not None
        for client in self.broker.connections:
            client.transport.pauseProducing()

    async def cut(self) -> None:
        assert self.broker is not None
        for client in list(self.broker.connections):
            client.close()

    async def crash(self) -> None:
        if self.broker is None or self._port is None:
            return
        await within(self._port.stopListening())
        await within(self.broker.close())
        await within(self.broker.node.stop())
        self._sock.close()
        self._port = None

    async def come_back(self) -> None:
        for _ in range(1000):
            try:
                self._sock = self._bind()
                break
            except OSError:  # the loop has not yet let go of the last one
                await turn()
        await self._listen()

    async def close(self) -> None:
        await super().close()
        await self.crash()
        self._sock.close()


class RedisHarness(Harness):
    """A Redis of its own."""

    ends_pulls = False

    async def open(self) -> None:
        self.server = RedisServer()
        self.server.start()
        self.address = f"redis+unix://{self.server.path}"

    def make(self) -> Node:
        [node] = parse_cluster(f"east-1={self.address}").nodes
        return redis_node(node, self.requests, self.inboxes, "ifserver:", reactor, LOOP)

    def snapshot(self) -> None:
        self.server.command("SAVE")

    def freeze(self) -> None:
        self.server.freeze()

    async def cut(self) -> None:
        for kind in ("normal", "pubsub"):
            self.server.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    async def crash(self) -> None:
        self.server.kill()

    async def come_back(self) -> None:
        self.server.start()

    async def close(self) -> None:
        self.server.kill()
        await super().close()
        self.server.remove()


class DatabaseHarness(RedisHarness):
    """A Redis in which others may have another database."""

    async def open(self) -> None:
        await super().open()
        self.address += "?db=1"


class TlsHarness(RedisHarness):
    """A Redis that is spoken to over TLS, and asks for a certificate and a password."""

    async def open(self) -> None:
        files = _certificates()
        self.server = RedisServer(password="geheim", certificates=files)
        self.server.start()
        options = f"ca={files.path('ca.pem')}&cert={files.path('client.pem')}&key={files.path('client.key')}"
        self.address = f"rediss://:geheim@localhost:{self.server.tls_port}?{options}"


@functools.cache
def _certificates() -> Certificates:
    """The same for all."""
    # Only here: the programs beside this file import it too, and have no use for what makes certificates.
    from tests.certificates import Certificates

    made = Certificates()
    atexit.register(made.remove)
    return made


class SentinelHarness(RedisHarness):
    """A Redis that a Sentinel knows. It has no replica, so nothing takes its place."""

    async def open(self) -> None:
        self.server = RedisServer()
        self.server.start()
        self._sentinel = SentinelServer(self.server, quorum=1)
        self._sentinel.start()
        self.address = f"redis+sentinel://127.0.0.1:{self._sentinel.port}/main"

    async def close(self) -> None:
        await super().close()
        self._sentinel.remove()


#: A kind of node is added by one line here.
HARNESSES: Final[dict[str, type[Harness]]] = {
    "memory": MemoryHarness,
    "local": LocalHarness,
    "redis": RedisHarness,
    "redis/1": DatabaseHarness,
    "rediss": TlsHarness,
    "sentinel": SentinelHarness,
}
