"""Nodes and clusters as the settings have them: one part of every composition root."""

import asyncio
from typing import Final

from ifserver.config.node_urls import NodeSettings
from ifserver.config.settings import LayerSettings
from ifserver.errors import ConfigurationError
from ifserver.layers.clusters import Clusters
from ifserver.layers.embedded.client import LocalNode
from ifserver.layers.node import Limits, Node
from ifserver.layers.placement import Policy
from ifserver.layers.subscriptions import FormerNames
from ifserver.metrics import Counters
from ifserver.net.endpoints import StreamClientEndpoint
from ifserver.services.lifecycle import Runtime

__all__ = ["clusters_of", "connect", "import_nodes"]

#: How long programs that only publish wait for nodes to be connected, in seconds.
_CONNECT_S: Final = 3.0


def import_nodes(layer: LayerSettings) -> None:
    """Import what these nodes need. The reactor must have been installed."""
    if any(node.kind == "redis" for cluster in layer.clusters for node in cluster.nodes):
        # Only here: a process that has no Redis starts faster, and needs less memory, without it.
        import ifserver.layers.redis.endpoints  # noqa: F401


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
        from ifserver.layers.redis.endpoints import redis_node  # as in `import_nodes`

        return redis_node(node, *limits, layer.prefix, runtime.reactor, runtime.loop, former)
    if node.kind == "local":
        return LocalNode(node.name, *limits, runtime.reactor, StreamClientEndpoint(runtime.loop, path=node.path))
    raise ConfigurationError(f"node {node.name}: {node.kind} is no kind of node that another process can reach")
