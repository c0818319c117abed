"""What a Redis node tells of who is alive, with real ones."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted

from ifserver.errors import NodeRefused
from tests.layers.helpers import async_test, error_of, eventually, turn, within
from tests.layers.redis.test_node import LONG_S, RIGHTS, Place
from tests.stepped_clock import SteppedClock, build, missing


@pytest_twisted.async_yield_fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    yield place
    await place.close()


@async_test
async def test_a_beat_counts_where_no_roll_may_be_kept(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    server = place.server()
    server.command("ACL", "SETUSER", "app", "on", ">geheim", "~ifserver:*", "-@all", *RIGHTS, "+set", "+mget")
    node = await place.node(server, username="app", password="geheim")
    for _ in range(3):
        await node.beat("1111111111", b"x", LONG_S)
    assert await node.beats(["1111111111"]) == [b"x"]
    for question in (node.census(), node.look("r")):
        assert isinstance(await error_of(question), NodeRefused)
    assert caplog.text.count("refuses to keep a census") == 2  # ZADD and ZREMRANGEBYSCORE, once each


@async_test
async def test_the_roll_forgets_those_who_are_gone(place: Place) -> None:
    server = place.server()
    node = await place.node(server)
    for i in range(20):
        await node.beat(f"{i:010}", b"x", 0.001)

    def left() -> int:
        return int(server.command("ZCARD", "ifserver:alive:"))

    # On a busy machine what is known of Redis's clock changes by some milliseconds from one beat to the next.
    for _ in range(200):
        await turn(0.05)
        await node.beat("1111111111", b"x", LONG_S)
        if left() == 1:
            break
    assert left() == 1
    assert await node.census() == {"1111111111": b"x"}
    assert 0 < server.command("PTTL", "ifserver:alive:") <= 60_000, "nor is the census, when all are gone"


@pytest.mark.skipif(bool(missing()), reason=missing())
@async_test
async def test_its_clock_is_set_and_before_anything_is_late_it_is_asked_again(place: Place, tmp_path: Path) -> None:
    wall = SteppedClock(build(tmp_path), tmp_path / "clock")
    server = place.server(environment=wall.environment)
    node = await place.node(server)

    def shown() -> int:
        """By how many hours its clock was set, as far as the node knows."""
        return round((node.clock() - time.time()) / 3600)

    async def least() -> int:
        return round((await node.least_clock() - time.time()) / 3600)

    assert (shown(), await least()) == (0, 0)
    wall.step(3600)
    assert shown() == 0
    assert (await least(), shown()) == (0, 1)
    wall.step(-7200)
    assert shown() == 1
    assert (await least(), shown()) == (-1, -1)
    wall.step(7200)
    await node.beat("1111111111", b"x", LONG_S)
    await eventually(lambda: shown() == 1, "it was asked with the beat")
    server.kill()
    assert await within(node.least_clock()) == pytest.approx(time.time() - 3600, abs=60)
    await eventually(lambda: not node.connected, "the connection is lost")
    assert await least() == -1


@async_test
async def test_one_whose_beat_is_over_is_not_in_the_census(place: Place) -> None:
    server = place.server()
    node = await place.node(server)
    await node.beat("1111111111", b"x", LONG_S)
    server.command("DEL", "ifserver:alive:1111111111")
    assert await node.census() == {}
