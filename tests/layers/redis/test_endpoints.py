"""From the settings of a node to what reaches it."""

from __future__ import annotations

import pytest
from twisted.internet import reactor
from twisted.internet.defer import gatherResults

from ifserver.config.node_urls import NodeSettings, parse_cluster
from ifserver.errors import ConfigurationError
from ifserver.layers.node import Limits
from ifserver.layers.redis.endpoints import RedisEndpoints, redis_node
from tests.layers.helpers import LOOP, ROOMY, async_test, within
from tests.redis_server import Monitor, RedisServer


def settings(url: str) -> NodeSettings:
    [node] = parse_cluster(f"east={url}").nodes
    return node


@pytest.mark.parametrize("url", ["rediss://h?ca=/nowhere", "rediss+sentinel://h/main?ca=/nowhere"])
def test_a_file_that_is_not_there_is_an_error_that_names_the_node(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        redis_node(settings(url), ROOMY, ROOMY, "p:", reactor, LOOP)
    assert str(caught.value) == "node east: TLS: ca='/nowhere': No such file or directory"


def test_redis_and_sentinel_have_each_their_own_login() -> None:
    url = "redis+sentinel://me:geheim@a,b:1/main/2?sentinel_password=anders"
    places = RedisEndpoints(settings(url), LOOP)
    login, sentinels = places.login("p:"), places.sentinel_login()
    assert (login.node, login.prefix, login.username, login.password, login.database) == (
        "east",
        "p:",
        "me",
        "geheim",
        2,
    )
    assert (sentinels.username, sentinels.password, sentinels.database) == (None, "anders", 0)
    assert [place.where for place in places.sentinels()] == ["a:26379", "b:1"]
    assert "geheim" not in repr(login)
    assert RedisEndpoints(settings("redis://h"), LOOP).sentinels() == []


@async_test
async def test_a_node_keeps_what_the_settings_say() -> None:
    with RedisServer(password="geheim") as server:
        monitor = Monitor(server)
        urls = f"redis://:geheim@127.0.0.1:{server.port}/3", f"redis+unix://:geheim@{server.path}?db=3"
        limits = Limits(5, 30.0), Limits(10, 60.0)
        nodes = [redis_node(settings(url), *limits, "p:", reactor, LOOP) for url in urls]
        for node in nodes:
            node.start()
            await within(node.ready())
        assert (await nodes[0].push("r", [b"x"] * 7)).taken == 5
        pulled = await nodes[1].pull(("r",), 10, 1.0)
        assert pulled is not None
        assert len(pulled.payloads) == 5
        await within(gatherResults([node.stop() for node in nodes]))
        commands = monitor.commands()
    [push] = [command for command in commands if command[0] == "EVAL"]
    assert push[3].startswith("p:")
    assert commands.count(["SELECT", "3"]) == 3  # two that send, and one that reads
