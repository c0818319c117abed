"""What becomes of what a node cannot do."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from ifserver.errors import ChannelNameError, NodeRefused
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import OptionalCalls
from ifserver.layers.workers import FreeWorkers
from tests.layers.helpers import ROOMY, async_test, error_of


class Minimal(MemoryNode):
    """A node that does what every node must, and nothing else."""

    end_pulls = OptionalCalls.end_pulls
    withdraw = OptionalCalls.withdraw
    holds = OptionalCalls.holds
    census = OptionalCalls.census
    look = OptionalCalls.look


def make() -> Minimal:
    node = Minimal("east-1", ROOMY, ROOMY, Clock(), "epoch")
    node.start()
    return node


@async_test
async def test_what_a_node_cannot_do_it_refuses() -> None:
    node = make()
    for asked in (node.withdraw("r", b"x"), node.holds("r", b"x"), node.look("r"), node.census()):
        error = await error_of(asked)
        assert isinstance(error, NodeRefused)
        assert str(error).startswith("node east-1: it cannot ")


def test_a_name_that_is_none_is_an_error_all_the_same() -> None:
    for call in (lambda: make().withdraw("!", b""), lambda: make().holds("!", b""), lambda: make().look("!")):
        with pytest.raises(ChannelNameError):
            call()


def test_pulls_that_cannot_be_ended_go_on() -> None:
    node = make()
    pulling = node.pull(("r",), 1, 1.0)
    node.end_pulls()
    assert not pulling.called
    node.push("r", [b"x"])
    assert pulling.called


def test_where_nobody_tells_who_is_alive_no_workers_are_taken_to_be_free(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    workers = FreeWorkers(clock, lambda node, pool: pytest.fail("found"))
    for _ in range(3):
        workers.seek([make()], "default")
        clock.advance(1.0)
    assert not workers.are_on("east-1", "default")
    assert caplog.text.count("does not say whether it has free workers") == 1
