"""Nodes and clusters, as the settings have them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from ifserver.config.node_urls import NodeSettings, parse_cluster
from ifserver.config.settings import LayerSettings
from ifserver.errors import ConfigurationError
from ifserver.layers.embedded.client import LocalNode
from ifserver.layers.redis.node import RedisNode
from ifserver.layers.subscriptions import FormerNames
from ifserver.services.service import clusters_of, node_of


class FakeLoop:
    def call_soon(self, call: Callable[[], object]) -> None:
        raise AssertionError("nothing is sent")


RUNTIME: Any = SimpleNamespace(reactor=Clock(), loop=FakeLoop())
LAYER = LayerSettings(
    clusters=(parse_cluster("west=redis://localhost"), parse_cluster("east=local:/tmp/x,local:/tmp/y")), home="east"
)


def test_each_node_is_of_its_kind_and_home_is_the_cluster_of_that_name() -> None:
    clusters = clusters_of(RUNTIME, LAYER, "k3v9x2aq7m")
    assert {name: type(node) for name, node in clusters.nodes.items()} == {
        "west": RedisNode,
        "east-1": LocalNode,
        "east-2": LocalNode,
    }
    assert clusters.process == "k3v9x2aq7m"
    assert {node.name for node in clusters.home_nodes} == {"east-1", "east-2"}


def test_a_node_that_is_within_another_process_cannot_be_reached() -> None:
    with pytest.raises(ConfigurationError, match="node x: memory is no kind of node that another process can reach"):
        node_of(RUNTIME, LAYER, NodeSettings(name="x", kind="memory"), FormerNames())
