"""From a node's settings to its endpoints: plain, with TLS, over a Unix socket, and through Sentinels."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from ifserver.clock import Clock
from ifserver.config.node_urls import Address, NodeSettings, written
from ifserver.errors import ConfigurationError
from ifserver.layers.node import Limits
from ifserver.layers.redis import sentinel
from ifserver.layers.redis.connection import Server
from ifserver.layers.redis.node import RedisNode
from ifserver.layers.redis.sentinel import Sentinels
from ifserver.layers.subscriptions import FormerNames
from ifserver.net.endpoints import StreamClientEndpoint, tls_context

__all__ = ["RedisEndpoints", "redis_node"]

#: How long a connection to Redis may take to be made, TLS included.
_CONNECT_S: Final = 5.0


class RedisEndpoints:
    """Makes the endpoints of one node.

    Raises:
        ConfigurationError: a file for TLS cannot be used; the text names the node.
    """

    def __init__(self, node: NodeSettings, loop: asyncio.AbstractEventLoop) -> None:
        self._node = node
        self._loop = loop
        self._tls: ssl.SSLContext | None = None
        if node.tls is not None:
            try:
                self._tls = tls_context(node.tls)
            except ConfigurationError as error:
                raise ConfigurationError(f"node {node.name}: {error}") from error

    def endpoint(self) -> StreamClientEndpoint:
        """One to where the settings say that the Redis is."""
        return StreamClientEndpoint(self._loop, self._node.address, self._node.path, _CONNECT_S, self._tls)

    def primary(self, address: Address) -> StreamClientEndpoint:
        """One to the primary that a Sentinel has named."""
        return StreamClientEndpoint(self._loop, address, None, _CONNECT_S, self._tls)

    def sentinels(self) -> list[sentinel.Place]:
        """Those to the Sentinels; none if there are none."""
        settings = self._node.sentinel
        return [
            sentinel.Place(
                written(address), StreamClientEndpoint(self._loop, address, None, sentinel.ANSWER_S, self._tls)
            )
            for address in (settings.addresses if settings is not None else ())
        ]

    def login(self, prefix: str) -> Server:
        """How the Redis is logged in to."""
        node = self._node
        return Server(node.name, prefix, node.username, node.password, node.database)

    def sentinel_login(self) -> Server:
        """How its Sentinels are logged in to."""
        settings = self._node.sentinel
        username, password = (settings.username, settings.password) if settings is not None else (None, None)
        return Server(self._node.name, "", username, password, 0, is_sentinel=True)


def redis_node(
    node: NodeSettings,
    requests: Limits,
    inboxes: Limits,
    prefix: str,
    clock: Clock,
    loop: asyncio.AbstractEventLoop,
    former: FormerNames | None = None,
) -> RedisNode:
    """The node that `node` describes, not started.

    Args:
        former: as of a `RedisNode`.

    Raises:
        ConfigurationError: a file for TLS cannot be used.
    """
    places = RedisEndpoints(node, loop)
    sentinels = None
    if node.sentinel is not None:
        sentinels = Sentinels(
            node.name, node.sentinel.service, places.sentinels(), places.sentinel_login(), clock, places.primary
        )
    return RedisNode(
        node.name,
        requests,
        inboxes,
        clock,
        places.endpoint if sentinels is None else sentinels.endpoint,
        sentinels=sentinels,
        prefix=prefix,
        username=node.username,
        password=node.password,
        database=node.database,
        former=former,
    )
