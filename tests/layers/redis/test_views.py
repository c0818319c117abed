"""What a Redis node tells of who is alive, with real ones."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import hiredis
import pytest
import pytest_twisted

from ifserver.errors import ChannelNameError, NodeRefused
from ifserver.layers.node import Limits
from ifserver.layers.redis import views
from ifserver.layers.redis.views import REMEMBERED_S, Keys, Leads, lead_of
from tests.layers.helpers import INBOX, async_test, error_of, eventually, turn, within
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


# Lists.


REQUESTS, INBOXES = Limits(100, 30.0), Limits(1000, 0.0001)


def make_keys() -> Keys:
    made = Keys(lambda channel: INBOXES if channel.startswith("!") else REQUESTS)
    made.prefix = b"p:epoch:"
    return made


def test_a_new_channel_is_as_good_as_full() -> None:
    key = make_keys()["r"]
    assert (key.key, key.capacity, key.plain, key.length, key.flying) == (b"p:epoch:r", 100, 75, 100, 0)
    assert (key.expiry_ms, key.renew_s, key.renew_at) == (30_000, 10.0, 0.0)
    assert key.pexpire == hiredis.pack_command((b"PEXPIRE", b"p:epoch:r", 30_000))


def test_each_kind_of_channel_has_its_limits_and_nothing_expires_at_once() -> None:
    key = make_keys()[INBOX]
    assert (key.capacity, key.expiry_ms) == (1000, 1)


def test_a_channel_is_looked_up_once() -> None:
    known = make_keys()
    assert known["r"] is known["r"]


def test_what_is_no_channel_is_not_remembered() -> None:
    known = make_keys()
    with pytest.raises(ChannelNameError):
        known["no channel"]
    assert known == {}


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_MAX_KEYS", 2)
    known = make_keys()
    for name in ("a", "b", "c"):
        known[name]
    assert list(known) == ["b", "c"]


# The time.


def test_a_lead_is_measured_in_the_middle_of_question_and_answer() -> None:
    assert lead_of([b"1000", b"250000"], 9.0, 11.0) == 990.25


def test_nothing_is_known_at_first() -> None:
    leads = Leads()
    assert (leads.now_s, leads.least_s(0.0)) == (0.0, 0.0)


@pytest.mark.parametrize(("by", "least"), [(3600.0, 1000.0), (-3600.0, -2600.0)])
def test_after_a_step_the_smaller_one_counts_as_long_as_it_is_remembered(by: float, least: float) -> None:
    leads = Leads()
    leads.measured(1000.0, 10.0)
    leads.measured(1000.0, 50.0)
    leads.measured(1000.0 + by, 55.0)
    assert leads.now_s == 1000.0 + by
    assert leads.least_s(50.0 + REMEMBERED_S) == least
    leads.measured(1000.0 + by, 50.0 + REMEMBERED_S)
    assert leads.least_s(50.0 + REMEMBERED_S) == least
    assert leads.least_s(51.0 + REMEMBERED_S) == 1000.0 + by


def test_a_lead_is_remembered_from_when_it_was_measured_last() -> None:
    leads = Leads()
    for at in range(0, 3 * int(REMEMBERED_S), 5):
        leads.measured(1000.0, at)
    leads.measured(2000.0, at + 5)
    assert leads.least_s(at + REMEMBERED_S) == 1000.0


def test_a_lead_that_creeps_is_one_and_the_least_of_it_counts() -> None:
    leads = Leads()
    for number in range(100):
        leads.measured(1000.0 - number * 0.01, number)
    assert leads.least_s(100.0) == leads.now_s == pytest.approx(999.01)
    leads.measured(999.5, 101.0)
    assert leads.now_s == 999.5
    assert leads.least_s(101.0) == pytest.approx(999.01)


def test_where_nothing_was_measured_for_long_the_last_one_counts() -> None:
    leads = Leads()
    leads.measured(1000.0, 0.0)
    assert leads.least_s(10 * REMEMBERED_S) == 1000.0


def test_steps_that_are_over_are_forgotten() -> None:
    leads = Leads()
    for at in range(10_000):
        leads.measured(float(at % 2 * 3600), at)
    assert len(leads._known) <= REMEMBERED_S + 1
