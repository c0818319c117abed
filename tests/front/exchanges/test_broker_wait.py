"""Requests that wait for a node that can be reached."""

from __future__ import annotations

from tests.front.fakes import World

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def without_node(**settings: float) -> World:
    """A server whose only node is not there yet."""
    world = World(start=False, **settings)
    world.server.start()
    return world


def test_nobody_waits_unless_it_is_asked_for() -> None:
    client = without_node().client(GET)
    assert client.received().startswith(b"HTTP/1.1 503 ")


def test_a_request_waits_and_is_offered_when_a_node_is_there() -> None:
    world = without_node(broker_wait_s=5)
    first, second = world.client(GET), world.client(GET)
    world.advance(4.9)
    assert first.received() == second.received() == b""
    assert len(world.server.exchanges.broker_wait) == 2
    world.node.start()
    for job in world.worker.jobs():
        job.respond(body=b"late")
    world.settle()
    assert first.received().endswith(b"late")
    assert second.received().endswith(b"late")
    first.leave()
    second.leave()
    world.assert_empty()


def test_it_waits_no_longer_than_that() -> None:
    world = without_node(broker_wait_s=5)
    client = world.client(GET)
    world.advance(5.0)
    assert client.received().startswith(b"HTTP/1.1 503 ")
    assert len(world.server.exchanges.broker_wait) == 0
    world.node.start()
    assert world.worker.jobs() == []
    client.leave()
    world.assert_empty()


def test_a_client_that_leaves_waits_no_more() -> None:
    world = without_node(broker_wait_s=5)
    world.client(GET).leave()
    world.settle()
    assert len(world.server.exchanges.broker_wait) == 0
    world.node.start()
    assert world.worker.jobs() == []
    world.assert_empty()


def test_the_end_of_the_server_ends_the_waiting() -> None:
    world = without_node(broker_wait_s=50, drain_timeout_s=1)
    world.client(GET)
    done = world.drain()
    world.advance(1.0)
    assert done == [None]
    assert len(world.server.exchanges.broker_wait) == 0
