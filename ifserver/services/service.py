"""What every service is made of: the reactor and its loop, the base class, and the nodes that the settings name."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from twisted.internet.defer import Deferred

from ifserver.errors import ConfigurationError
from ifserver.layers.clusters import Clusters
from ifserver.layers.embedded.client import LocalNode
from ifserver.layers.node import Limits, Node
from ifserver.layers.placement import Policy
from ifserver.layers.subscriptions import FormerNames
from ifserver.metrics import Counters
from ifserver.net.endpoints import StreamClientEndpoint

if TYPE_CHECKING:
    from ifserver.config.configuration import CommandSettings
    from ifserver.config.node_urls import NodeSettings
    from ifserver.config.settings import LayerSettings


#: How long programs that only publish wait for nodes to be connected, in seconds.
_CONNECT_S: Final = 3.0

_T = TypeVar("_T")


class Runtime(NamedTuple):
    """What everything runs on: Twisted's asyncio reactor, and the loop below it."""

    reactor: Any
    loop: asyncio.AbstractEventLoop

    def future(self, deferred: Deferred[_T]) -> asyncio.Future[_T]:
        """`deferred` for a coroutine of asyncio's."""
        return deferred.asFuture(self.loop)


class Service(ABC):
    """Something that runs from `start` to `stop`."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        #: Has the exit status once the service has ended by itself.
        self.ended: asyncio.Future[int] = runtime.loop.create_future()
        #: Is done once it does what it is there for.
        self.got_ready: asyncio.Future[None] = runtime.loop.create_future()
        #: Whether its end has begun.
        self.ending = False
        #: Whether somebody at a terminal waits for the end, which must not take long then.
        self.quick = False
        #: Whether a successor has taken over the listening sockets.
        self.succeeded = False

    @property
    def ready(self) -> bool:
        """Whether it does what it is there for, and will go on doing so."""
        return self.got_ready.done() and not self.ending

    @abstractmethod
    async def start(self) -> None:
        """Begin. May be cancelled; `stop` follows in any case.

        Raises:
            IfserverError: it cannot be; `ConfigurationError` if that is the operator's affair.
        """

    @abstractmethod
    async def stop(self) -> None:
        """End in order: what is under way is finished, within the timeouts of the settings."""

    @abstractmethod
    def stop_now(self) -> None:
        """Let the `stop` that is under way wait for nothing."""

    def is_ready(self) -> None:
        """From now on it does what it is there for."""
        if not self.got_ready.done():
            self.got_ready.set_result(None)

    def well(self) -> bool:
        """Whether it can do what it is there for. Where that is watched, it is restarted if it cannot for long."""
        return True

    def counts(self) -> dict[str, int]:
        """How many there are of what, for people."""
        return {}

    def reload(self, new: CommandSettings) -> Collection[str]:
        """The operator has asked for new settings, or for new code; the paths of the settings that take effect."""
        return ()

    def reopen_logs(self) -> None:
        """Files that are written to have been moved away: go on in new ones."""
        return


# Nodes and clusters.


def import_nodes(layer: LayerSettings) -> None:
    """Import what these nodes need. The reactor must have been installed."""
    if any(node.kind == "redis" for cluster in layer.clusters for node in cluster.nodes):
        # Only here: a process that has no Redis starts faster, and needs less memory, without it.
        import ifserver.layers.redis.node  # noqa: F401


def clusters_of(runtime: Runtime, layer: LayerSettings, process: str, counters: Counters | None = None) -> Clusters:
    former = FormerNames()
    nodes = {
        cluster.name: [node_of(runtime, layer, node, former) for node in cluster.nodes] for cluster in layer.clusters
    }
    home = layer.home_cluster.name
    policy = Policy(layer.placement)
    return Clusters(
        process,
        nodes,
        home,
        runtime.reactor,
        runtime.loop.call_soon,
        counters or Counters(),
        policy,
        layer.broker_grace_s,
    )


async def connect(clusters: Clusters) -> None:
    """Connect to all nodes. One that cannot be reached is tried again, and does not hold up the others for long."""
    clusters.start()
    loop = asyncio.get_running_loop()
    waiting = [node.ready().asFuture(loop) for node in clusters.nodes.values()]
    await asyncio.wait(waiting, timeout=_CONNECT_S)
    for each in waiting:
        each.cancel()


def node_of(runtime: Runtime, layer: LayerSettings, node: NodeSettings, former: FormerNames) -> Node:
    limits = Limits.of(layer)
    if node.kind == "redis":
        from ifserver.layers.redis.node import redis_node  # as in `import_nodes`

        return redis_node(node, *limits, layer.prefix, runtime.reactor, runtime.loop, former)
    if node.kind == "local":
        return LocalNode(node.name, *limits, runtime.reactor, StreamClientEndpoint(runtime.loop, path=node.path))
    raise ConfigurationError(f"node {node.name}: {node.kind} is no kind of node that another process can reach")
