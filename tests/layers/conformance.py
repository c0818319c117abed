"""What every kind of node must do: the one suite that says in code what `ifserver.layers.node.Node` says in words.

`NodeSuite` runs for all kinds, `RemoteSuite` for those that live in another process and can be lost. Both get a
``harness`` fixture, see `tests.layers.harnesses`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.threads import deferToThread

from ifserver.errors import ChannelNameError, NodeRefused, NodeUnreachable, PushInDoubt
from ifserver.layers.node import MAX_PAYLOAD_BYTES, Limits, Node, Pulled, Pushed, Queue
from tests.layers.harnesses import Harness
from tests.layers.helpers import (
    INBOX,
    LIMIT_S,
    OTHER_INBOX,
    Ear,
    async_test,
    error_of,
    eventually,
    listen,
    turn,
    within,
)

ROOT = Path(__file__).parents[2]
#: Long enough that no test which works ever sees it pass.
LONG_S = 20.0
#: How long to wait for what is not to come.
SHORT_S = 0.05


def numbered(count: int, what: str = "m") -> list[bytes]:
    return [b"%s-%d" % (what.encode(), i) for i in range(count)]


async def drain(node: Node, channel: str, count: int = 1000) -> list[bytes]:
    """All that waits on `channel`."""
    payloads: list[bytes] = []
    while (pulled := await node.pull((channel,), count, 0)) is not None:
        assert pulled.channel == channel
        payloads += pulled.payloads
    return payloads


async def hears(ear: Ear, count: int) -> None:
    """Wait until so much was published to it in all."""
    await eventually(lambda: len(ear.heard) >= count, f"that it hears {count} times")
    assert len(ear.heard) == count


def connections_of_this_process() -> int:
    """How many sockets it has open."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except FileNotFoundError:
            pass  # the one with which the folder was read
    return count


class NodeSuite:
    """For every kind of node."""

    # Order, readers, batches.

    @async_test
    async def test_messages_come_in_the_order_in_which_they_were_pushed(self, harness: Harness) -> None:
        node = await harness.node()
        messages = numbered(300)
        pushes = [node.push("r", messages[i : i + 3]) for i in range(0, 300, 3)]
        pushed = await gatherResults(pushes)
        assert [result.taken for result in pushed] == [3] * 100
        assert [result.length for result in pushed] == list(range(3, 301, 3))
        assert await drain(node, "r", 7) == messages

    @async_test
    async def test_push_tells_the_length_before_a_waiting_reader_takes_any(self, harness: Harness) -> None:
        node, reader = await harness.node(), await harness.node()
        pulling = reader.pull(("r",), 1, LONG_S)
        pushed = await node.push("r", [b"a", b"b"])
        assert pushed == Pushed(2, 2)
        assert await pulling == Pulled("r", [b"a"])
        assert await node.push("r", [b"c"]) == Pushed(1, 2)
        assert await drain(node, "r") == [b"b", b"c"]

    @async_test
    async def test_each_message_goes_to_one_reader_among_many(self, harness: Harness) -> None:
        writer = await harness.node()
        readers = [await harness.node() for _ in range(3)]
        messages = numbered(200)
        taken: list[list[bytes]] = [[], [], []]

        async def read(node: Node, mine: list[bytes]) -> None:
            while sum(map(len, taken)) < len(messages):
                pulled = await node.pull(("r",), 2, SHORT_S)
                if pulled is not None:
                    mine += pulled.payloads

        reading = [Deferred.fromCoroutine(read(node, mine)) for node, mine in zip(readers, taken, strict=True)]
        for i in range(0, len(messages), 4):
            await writer.push("r", messages[i : i + 4])
        await gatherResults(reading)
        assert sorted(chain(*taken)) == sorted(messages)
        for mine in taken:
            assert mine == sorted(mine, key=messages.index)
        assert await drain(writer, "r") == []

    @async_test
    async def test_a_pull_takes_no_more_than_it_asks_for(self, harness: Harness) -> None:
        node = await harness.node()
        await node.push("r", numbered(5))
        assert await node.pull(("r",), 2, LONG_S) == Pulled("r", numbered(5)[:2])
        assert await node.pull(("r",), 10, LONG_S) == Pulled("r", numbered(5)[2:])

    @pytest.mark.parametrize(("count", "size"), [(2500, 10), (9, 1024 * 1024), (0, 0)])
    @async_test
    async def test_a_batch_arrives_whole_and_in_order(self, harness: Harness, count: int, size: int) -> None:
        node = await harness.node()
        messages = [b"%08d" % i + bytes(size) for i in range(count)]
        assert await node.push("r", messages) == Pushed(count, count)
        assert await drain(node, "r", 10_000) == messages

    @async_test
    async def test_channels_do_not_mix(self, harness: Harness) -> None:
        node = await harness.node()
        names = ["r", "R", "r.1", "r-1", INBOX, OTHER_INBOX, INBOX + ".1f"]
        await gatherResults([node.push(name, [name.encode()]) for name in names])
        for name in names:
            assert await drain(node, name) == [name.encode()]

    # Several channels in one pull.

    @async_test
    async def test_a_pull_takes_from_the_first_of_its_channels_that_has_any(self, harness: Harness) -> None:
        node = await harness.node()
        await node.push("b", [b"b1"])
        await node.push("a", [b"a1", b"a2"])
        await node.push("c", [b"c1"])
        names = ("a", "b", "c")
        assert await node.pull(names, 10, LONG_S) == Pulled("a", [b"a1", b"a2"])
        assert await node.pull(names, 10, LONG_S) == Pulled("b", [b"b1"])
        await node.push("a", [b"a3"])
        assert await node.pull(names, 10, LONG_S) == Pulled("a", [b"a3"])
        assert await node.pull(tuple(reversed(names)), 10, LONG_S) == Pulled("c", [b"c1"])

    @async_test
    async def test_a_pull_waits_on_all_its_channels(self, harness: Harness) -> None:
        node = await harness.node()
        for name in ("a", "b", "c"):
            pulling = node.pull(("a", "b", "c"), 10, LONG_S)
            await node.push(name, [b"x"])
            assert await pulling == Pulled(name, [b"x"])

    # Capacity and expiry.

    @async_test
    async def test_a_full_channel_tells_how_many_were_taken(self, harness: Harness) -> None:
        harness.requests = Limits(5, 60.0)
        node = await harness.node()
        assert await node.push("r", [b"1", b"2", b"3"]) == Pushed(3, 3)
        assert await node.push("r", [b"4", b"5", b"6", b"7"]) == Pushed(2, 5)
        assert await node.push("r", [b"8"]) == Pushed(0, 5)
        assert await node.push("r", []) == Pushed(0, 5)
        assert await node.pull(("r",), 2, LONG_S) == Pulled("r", [b"1", b"2"])
        assert await node.push("r", [b"9", b"10", b"11"]) == Pushed(2, 5)
        assert await drain(node, "r") == [b"3", b"4", b"5", b"9", b"10"]
        assert await node.push("r", numbered(7)) == Pushed(5, 5)
        assert await drain(node, "r") == numbered(5)

    @async_test
    async def test_pushes_that_are_under_way_together_do_not_exceed_the_capacity(self, harness: Harness) -> None:
        harness.requests = Limits(40, 60.0)
        node = await harness.node()
        await node.push("r", [b"0"])
        results = await gatherResults([node.push("r", [b"%d" % i]) for i in range(1, 60)])
        assert [result.taken for result in results] == [1] * 39 + [0] * 20
        assert await drain(node, "r") == [b"%d" % i for i in range(40)]

    @async_test
    async def test_inboxes_have_a_capacity_of_their_own(self, harness: Harness) -> None:
        harness.requests, harness.inboxes = Limits(1, 60.0), Limits(3, 60.0)
        node = await harness.node()
        assert node.limits("r") == Limits(1, 60.0)
        assert node.limits(INBOX) == Limits(3, 60.0)
        assert (await node.push("r", numbered(5))).taken == 1
        assert (await node.push(INBOX, numbered(5))).taken == 3
        assert (await node.push(OTHER_INBOX, numbered(2))).taken == 2

    @async_test
    async def test_a_channel_may_have_limits_of_its_own(self, harness: Harness) -> None:
        harness.requests = Limits(1, 60.0)
        node = await harness.node()
        own = Limits(3, 0.2)
        assert await node.push("own", numbered(2), own) == Pushed(2, 2)
        assert await node.push("own", numbered(2), own) == Pushed(1, 3)
        assert await node.push("own", numbered(2), Limits(4, 0.2)) == Pushed(1, 4)
        assert await node.push("own", numbered(2), own) == Pushed(0, 4)
        assert (await node.push("r", numbered(2))).taken == 1
        while await node.holds("own", b"m-0"):
            await turn(0.01)
        assert await drain(node, "own") == []

    @async_test
    async def test_a_channel_that_nobody_reads_expires(self, harness: Harness) -> None:
        harness.requests = Limits(8, 0.2)
        node = await harness.node()
        for count in (1, 1, 3):
            assert (await node.push("r", numbered(count))).taken == count
            await node.push(INBOX, [b"stays"])
            while await node.holds("r", b"m-0"):
                await turn(0.01)
            assert await node.pull(("r",), 10, 0) is None
        assert await drain(node, INBOX) == [b"stays"] * 3

    # Blocking reads.

    @async_test
    async def test_a_pull_waits_for_a_message(self, harness: Harness) -> None:
        node, reader = await harness.node(), await harness.node()
        pulling = reader.pull(("r",), 5, LONG_S)
        await turn(SHORT_S)
        assert not pulling.called
        await node.push("r", [b"x"])
        assert await pulling == Pulled("r", [b"x"])

    @async_test
    async def test_a_pull_ends_after_its_time_with_nothing(self, harness: Harness) -> None:
        node = await harness.node()
        begun = time.monotonic()
        assert await node.pull(("r", "s"), 5, 0.2) is None
        assert time.monotonic() - begun >= 0.19

    @async_test
    async def test_a_pull_that_may_not_wait_takes_what_is_there(self, harness: Harness) -> None:
        node = await harness.node()
        assert await node.pull(("r",), 5, 0) is None
        await node.push("r", [b"x"])
        assert await node.pull(("r",), 5, 0) == Pulled("r", [b"x"])

    @async_test
    async def test_a_pull_that_has_ended_takes_no_message(self, harness: Harness) -> None:
        node, reader = await harness.node(), await harness.node()
        assert await reader.pull(("r",), 5, SHORT_S) is None
        assert await node.push("r", [b"x"]) == Pushed(1, 1)
        assert await node.push("r", [b"y"]) == Pushed(1, 2)
        assert await reader.pull(("r",), 5, LONG_S) == Pulled("r", [b"x", b"y"])

    @async_test
    async def test_no_message_is_lost_to_pulls_that_end_just_then(self, harness: Harness) -> None:
        node, reader = await harness.node(), await harness.node()
        taken: list[bytes] = []
        messages = numbered(60)
        for i, message in enumerate(messages):
            pulling = reader.pull(("r",), 5, 0.001 * (i % 4))
            await turn(0.0005 * (i % 7))
            pushing = node.push("r", [message])
            pulled = await pulling
            await pushing
            if pulled is not None:
                taken += pulled.payloads
        assert taken + await drain(node, "r") == messages

    @async_test
    async def test_cancelling_a_pull_loses_no_message(self, harness: Harness) -> None:
        node = await harness.node()
        pulling = node.pull(("r",), 5, SHORT_S)
        pulling.cancel()
        await node.push("r", [b"x"])
        taken = await drain(node, "r")
        try:
            pulled = await pulling
        except Exception:  # CancelledError, where that is safe
            pulled = None
        assert taken + (pulled.payloads if pulled is not None else []) == [b"x"]

    @async_test
    async def test_end_pulls_loses_no_message(self, harness: Harness) -> None:
        node = await harness.node()
        for round in range(20):
            wait_s = LONG_S if harness.ends_pulls else 0.02
            pulls = [node.pull(("r", "s"), 1, wait_s), node.pull(("s",), 1, wait_s)]
            messages = numbered(2, f"round-{round}")
            for _ in range(round % 3):
                await turn()
            pushes = [node.push("s", messages[:1])]
            node.end_pulls()
            pushes.append(node.push("s", messages[1:]))
            ended = [await pulling for pulling in pulls]
            taken = [payload for pulled in ended if pulled is not None for payload in pulled.payloads]
            assert [(await push).taken for push in pushes] == [1, 1]
            assert sorted(taken + await drain(node, "s")) == messages

    @async_test
    async def test_end_pulls_ends_only_what_is_under_way(self, harness: Harness) -> None:
        node, other = await harness.node(), await harness.node()
        node.end_pulls()
        pulling = node.pull(("r",), 5, LONG_S)
        await other.push("r", [b"x"])
        assert await pulling == Pulled("r", [b"x"])
        if harness.ends_pulls:
            pulls = [node.pull(("r",), 5, LONG_S) for _ in range(3)]
            node.end_pulls()
            assert await gatherResults(pulls) == [None] * 3

    # Payloads and names.

    @pytest.mark.parametrize(
        "payload",
        [bytes(range(256)), b"", b"\r\n", b"0123", b"$-1\r\n", b"\xff" * 1024 * 1024],
        ids=["every byte", "empty", "line end", "digits", "protocol", "1 MiB"],
    )
    @async_test
    async def test_payloads_are_bytes_and_nothing_else(self, harness: Harness, payload: bytes) -> None:
        node = await harness.node()
        assert await node.push(INBOX, [payload, b"between", payload]) == Pushed(3, 3)
        assert await node.holds(INBOX, payload) is True
        assert await node.withdraw(INBOX, payload) is True
        assert sorted(await drain(node, INBOX)) == sorted([b"between", payload])

    @pytest.mark.parametrize(
        "name", ["", "a b", "r\n", "!east-1", "!.0123456789", "x" * 201, ".r", "ä", "!east-1.short"]
    )
    @async_test
    async def test_what_is_no_channel_name_is_refused_at_once(self, harness: Harness, name: str) -> None:
        node = await harness.node()
        for _ in ("while it runs", "and when it has stopped"):
            with pytest.raises(ChannelNameError):
                node.push(name, [b"x"])
            with pytest.raises(ChannelNameError):
                node.pull(("r", name), 1, 1.0)
            with pytest.raises(ChannelNameError):
                node.withdraw(name, b"x")
            with pytest.raises(ChannelNameError):
                node.holds(name, b"x")
            with pytest.raises(ChannelNameError):
                node.look(name)
            await within(node.stop())

    # Withdrawal.

    @async_test
    async def test_withdrawing_says_whether_the_message_was_still_there(self, harness: Harness) -> None:
        node, other = await harness.node(), await harness.node()
        before = node.statistics()["withdrawn"]
        await node.push("r", [b"a", b"b", b"c"])
        assert await node.holds("r", b"b") is True
        assert await other.holds("r", b"a") is True
        assert await node.withdraw("r", b"b") is True
        assert await node.holds("r", b"b") is False
        assert await node.withdraw("r", b"b") is False
        assert node.statistics()["withdrawn"] == before + 1
        assert await other.pull(("r",), 1, LONG_S) == Pulled("r", [b"a"])
        assert await node.withdraw("r", b"a") is False
        assert await node.push("r", [b"d"]) == Pushed(1, 2)
        assert await drain(node, "r") == [b"c", b"d"]
        assert await node.withdraw("r", b"c") is False
        assert await node.holds("unknown", b"c") is False

    @async_test
    async def test_withdrawing_takes_one_of_equal_messages(self, harness: Harness) -> None:
        node = await harness.node()
        await node.push("r", [b"x", b"y", b"x"])
        assert await node.withdraw("r", b"x") is True
        assert await node.holds("r", b"x") is True
        assert await node.withdraw("r", b"x") is True
        assert await node.withdraw("r", b"x") is False
        assert await drain(node, "r") == [b"y"]

    # Groups.

    @async_test
    async def test_every_process_that_has_subscribed_hears_in_order(self, harness: Harness) -> None:
        nodes = [await harness.node() for _ in range(3)]
        ears = [listen(node) for node in nodes]
        await gatherResults([node.subscribe(["g", "h"]) for node in nodes])
        messages = numbered(300)
        handed = await gatherResults([nodes[0].publish("g", message) for message in messages])
        assert handed == [len(set(nodes))] * 300
        for ear in ears:
            await hears(ear, 300)
            assert ear.of("g") == messages
            assert ear.interruptions == []

    @async_test
    async def test_the_publisher_hears_itself_and_who_has_not_subscribed_hears_nothing(self, harness: Harness) -> None:
        node, other = await harness.node(), await harness.node()
        ear = listen(node)
        await node.subscribe(["g"])
        if other is not node:
            await other.subscribe(["another"])
        assert await node.publish("g", b"x") == 1
        assert await other.publish("g", b"y") == 1
        await hears(ear, 2)
        assert ear.heard == [("g", b"x"), ("g", b"y")]
        assert other is node or other.statistics()["heard"] == 0

    @async_test
    async def test_what_is_published_for_nobody_is_not_kept(self, harness: Harness) -> None:
        node, other = await harness.node(), await harness.node()
        ear = listen(node)
        assert await other.publish("g", b"nobody") == 0
        await node.subscribe(["g"])
        assert await other.publish("g", b"somebody") == 1
        await hears(ear, 1)
        assert ear.heard == [("g", b"somebody")]

    @async_test
    async def test_who_has_unsubscribed_hears_nothing_more(self, harness: Harness) -> None:
        node, other = await harness.node(), await harness.node()
        ear = listen(node)
        await node.subscribe(["g", "h", "g"])
        await node.subscribe(["g"])
        await other.publish("g", b"1")
        await hears(ear, 1)
        node.unsubscribe(["g", "never"])
        await other.publish("g", b"2")
        await other.publish("h", b"3")
        await hears(ear, 2)
        await eventually(lambda: node.statistics()["groups"] == 1)
        await node.subscribe(["g"])
        await other.publish("g", b"4")
        await hears(ear, 3)
        # Off and on within one turn, and on and off.
        node.unsubscribe(["g", "h"])
        subscribing = node.subscribe(["g", "i"])
        node.unsubscribe(["i"])
        await subscribing
        assert [await other.publish(group, b"5") for group in "gi"] == [1, 0]
        await hears(ear, 4)
        assert ear.heard == [("g", b"1"), ("h", b"3"), ("g", b"4"), ("g", b"5")]
        assert ear.interruptions == []

    @async_test
    async def test_a_process_may_be_in_ten_thousand_groups(self, harness: Harness) -> None:
        node, other = await harness.node(), await harness.node()
        ear = listen(node)
        groups = [f"room-{i}.{'x' * 20}" for i in range(10_000)]
        await node.subscribe(groups[:5_000])
        await gatherResults([node.subscribe([group]) for group in groups[5_000:]])
        some = groups[::100]
        assert await gatherResults([other.publish(group, group.encode()) for group in some]) == [1] * 100
        await hears(ear, 100)
        assert ear.heard == [(group, group.encode()) for group in some]
        assert node.statistics()["groups"] == 10_000
        for group in groups[:5_000]:
            node.unsubscribe([group])
        node.unsubscribe(groups[5_001:])
        await node.subscribe([groups[5_000]])
        while await other.publish(groups[-1], b"x"):
            await turn(0.01)
        handed = await gatherResults([other.publish(group, b"x") for group in groups[4_990:5_010]])
        assert handed == [0] * 10 + [1] + [0] * 9
        assert node.statistics()["groups"] == 1

    @async_test
    async def test_who_hears_may_publish_and_order_stays(self, harness: Harness) -> None:
        node, other = await harness.node(), await harness.node()

        class Echo(Ear):
            def published(self, group: str, payload: bytes) -> None:
                super().published(group, payload)
                if len(payload) < 5:
                    answers.append(node.publish(group, payload + b"x"))

        answers: list[Deferred[int]] = []
        ear = node.subscriber = Echo()
        await node.subscribe(["g"])
        await gatherResults([other.publish("g", b"1"), other.publish("g", b"2")])
        await hears(ear, 10)
        assert await gatherResults(answers) == [1] * 8
        for first in (b"1", b"2"):
            assert [payload for payload in ear.of("g") if payload.startswith(first)] == [
                first + b"x" * i for i in range(5)
            ]

    @pytest.mark.parametrize(
        "payload",
        [bytes(range(256)), b"", b"\r\n", b"0123", b"$-1\r\n", b"message", b"\xff" * 8 * 1024 * 1024],
        ids=["every byte", "empty", "line end", "digits", "protocol", "a word", "8 MiB"],
    )
    @async_test
    async def test_what_is_published_is_bytes_and_nothing_else(self, harness: Harness, payload: bytes) -> None:
        node, other = await harness.node(), await harness.node()
        ear = listen(node)
        await node.subscribe(["g"])
        assert await gatherResults([other.publish("g", each) for each in (payload, b"between", payload)]) == [1, 1, 1]
        await hears(ear, 3)
        assert ear.of("g") == [payload, b"between", payload]

    @async_test
    async def test_what_is_too_long_is_refused_and_the_longest_is_heard_or_told(
        self, harness: Harness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A busy machine takes seconds to encrypt so much, and to decrypt it three times, all in this process and Redis.
        monkeypatch.setattr("ifserver.layers.redis.connection.ANSWER_S", LIMIT_S)
        node = await harness.node()
        ear = listen(node)
        await node.subscribe(["g"])
        longest = bytes(MAX_PAYLOAD_BYTES)
        assert isinstance(await error_of(node.publish("g", longest + b"x")), NodeRefused)
        assert await node.publish("g", longest) == 1
        await eventually(lambda: ear.heard or ear.interruptions)
        assert ear.heard == [("g", longest)] or ear.interruptions == ["g"]
        ear.heard.clear()
        await node.publish("g", b"next")
        await hears(ear, 1)

    @async_test
    async def test_groups_and_channels_do_not_mix(self, harness: Harness) -> None:
        node = await harness.node()
        ear = listen(node)
        names = ["r", "R", ".r", "r.1", "!r", INBOX, "x" * 200]
        await node.subscribe(names)
        for name in names:
            assert await node.publish(name, name.encode()) == 1
        await node.push("r", [b"a message"])
        await hears(ear, len(names))
        assert ear.heard == [(name, name.encode()) for name in names]
        assert await drain(node, "r") == [b"a message"]

    @pytest.mark.parametrize("name", ["", "!", "a b", "r\n", "x" * 201, "ä", "a!", "!!a", "a*", "a:b"])
    @async_test
    async def test_what_is_no_name_of_a_group_is_refused_at_once(self, harness: Harness, name: str) -> None:
        node = await harness.node()
        for _ in ("while it runs", "and when it has stopped"):
            with pytest.raises(ChannelNameError):
                node.publish(name, b"x")
            with pytest.raises(ChannelNameError):
                node.subscribe(["g", name])
            with pytest.raises(ChannelNameError):
                node.unsubscribe([name])
            await within(node.stop())

    @async_test
    async def test_who_waits_for_a_subscription_may_leave(self, harness: Harness) -> None:
        node = await harness.node()
        ear = listen(node)
        subscribing = node.subscribe(["g"])
        cancelled = not subscribing.called
        subscribing.cancel()
        if cancelled:
            assert isinstance(await error_of(subscribing), CancelledError)
        await node.subscribe(["g"])
        await node.publish("g", b"x")
        await hears(ear, 1)

    @async_test
    async def test_it_counts_what_is_published_and_heard(self, harness: Harness) -> None:
        node = await harness.node()
        ear = listen(node)
        before = node.statistics()
        await node.subscribe(["g", "h"])
        await node.publish("g", b"x")
        await node.publish("nobody", b"x")
        await error_of(node.publish("g", bytes(MAX_PAYLOAD_BYTES + 1)))
        await hears(ear, 1)
        names = ("published", "publishes_refused", "publishes_in_doubt", "heard", "groups", "interruptions")
        after = node.statistics()
        assert [after[name] - before[name] for name in names] == [2, 1, 0, 1, 2, 0]
        await within(node.stop())
        await error_of(node.publish("g", b"x"))
        assert node.statistics()["publishes_unreachable"] == before["publishes_unreachable"] + 1

    @async_test
    async def test_one_that_is_stopped_has_no_groups(self, harness: Harness) -> None:
        node = await harness.node()
        ear = listen(node)
        await node.subscribe(["g"])
        await within(node.stop())
        for deferred in (node.publish("g", b"x"), node.subscribe(["g"]), node.subscribe(["h"])):
            assert isinstance(await error_of(deferred), NodeUnreachable)
        node.unsubscribe(["g"])
        assert ear.heard == []

    # What a node says of itself.

    # Beats.

    @async_test
    async def test_beats_are_seen_by_others_until_they_are_over(self, harness: Harness) -> None:
        node, other = await harness.node(), await harness.node()
        assert await other.beats(["1111111111"]) == [None]
        assert await other.beats([]) == []
        await node.beat("1111111111", b"", LONG_S)
        await node.beat("2222222222", bytes(range(256)), LONG_S)
        await node.beat("3333333333", b"short", SHORT_S)
        assert await other.beats(["2222222222", "4444444444", "1111111111"]) == [bytes(range(256)), None, b""]
        while await other.beats(["3333333333"]) != [None]:
            await turn(0.01)
        await node.beat("1111111111", b"new", LONG_S)
        assert await other.beats(["1111111111"]) == [b"new"]

    @async_test
    async def test_the_roll_names_all_who_are_alive(self, harness: Harness) -> None:
        node, other = await harness.node(), await harness.node()
        before = await other.census()
        await node.beat("1111111111", b"one", LONG_S)
        await node.beat("2222222222", bytes(range(256)), LONG_S)
        await node.beat("3333333333", b"short", SHORT_S)
        await node.beat("1111111111", b"new", LONG_S)
        while "3333333333" in (census := await other.census()):
            await turn(0.01)
        assert {name: value for name, value in census.items() if name not in before} == {
            "1111111111": b"new",
            "2222222222": bytes(range(256)),
        }

    @async_test
    async def test_beats_say_what_is_read(self, harness: Harness) -> None:
        node, other = await harness.node(), await harness.node()
        assert await other.readers() == []
        await node.beat("1111111111", b"", LONG_S, ["http.request", "websocket.connect"])
        await node.beat("2222222222", b"", LONG_S)
        await node.beat("3333333333", b"", LONG_S, ["http.request.some-pool"])

        async def read() -> list[tuple[str, ...]]:
            return sorted(reading.channels for reading in await other.readers())

        assert await read() == [("http.request", "websocket.connect"), ("http.request.some-pool",)]
        # As the clocks of several processes agree.
        assert all(reading.age_s > -0.5 for reading in await other.readers())
        while min(reading.age_s for reading in await other.readers()) < 0.2:
            await turn(0.05)
        await node.beat("1111111111", b"", LONG_S, ["http.request"])
        assert await read() == [("http.request",), ("http.request.some-pool",)]
        await node.beat("1111111111", b"", LONG_S)
        assert await read() == [("http.request.some-pool",)]
        await node.beat("3333333333", b"", SHORT_S, ["websocket.resume"])
        while await read():
            await turn(0.05)
            # Whoever beats clears away what is over.
            await node.beat("1111111111", b"", SHORT_S, ["x"])
            await node.beat("1111111111", b"", SHORT_S)

    # Sight.

    @async_test
    async def test_a_look_takes_nothing(self, harness: Harness) -> None:
        node, other = await harness.node(), await harness.node()
        assert await other.look("r") == Queue(0, None)
        await node.push("r", [b"", b"second", b"third"])
        await node.push(INBOX, [bytes(range(256))])
        assert await other.look("r") == await other.look("r") == Queue(3, b"")
        assert await other.look(INBOX) == Queue(1, bytes(range(256)))
        assert await drain(node, "r", 1) == [b"", b"second", b"third"]
        assert await other.look("r") == Queue(0, None)

    @async_test
    async def test_its_time_is_one_for_all_and_goes_on_evenly(self, harness: Harness) -> None:
        node, other = await harness.node(), await harness.node()
        assert abs(node.clock() - other.clock()) < 2.0
        ahead = node.clock() - time.monotonic()
        await turn(0.2)
        assert abs(node.clock() - time.monotonic() - ahead) < 0.1
        for each in (node, other):
            assert abs(await each.least_clock() - node.clock()) < 2.0

    @async_test
    async def test_it_counts(self, harness: Harness) -> None:
        node = await harness.node()
        before = node.statistics()
        await node.push("r", numbered(3))
        await node.pull(("r",), 2, LONG_S)
        after = node.statistics()
        assert (after["pushed"] - before["pushed"], after["pulled"] - before["pulled"]) == (3, 2)

    @async_test
    async def test_its_epoch_is_one_for_all(self, harness: Harness) -> None:
        node, other = await harness.node(), await harness.node()
        assert node.epoch
        assert node.epoch == other.epoch
        assert node.connected

    # The end.

    @async_test
    async def test_stop_ends_everything(self, harness: Harness) -> None:
        bystander = await harness.node() if harness.remote else None
        before = connections_of_this_process()
        node = await harness.node()
        pulls = [node.pull(("r",), 1, LONG_S), node.pull(("s",), 1, LONG_S)]
        await node.push("t", [b"x"])
        failing = gatherResults([Deferred.fromCoroutine(error_of(pull)) for pull in pulls])
        await within(node.stop())
        assert [type(error) for error in await failing] == [NodeUnreachable] * 2
        # The broker's end of a connection, where it is in this process, is closed a moment later.
        await eventually(lambda: connections_of_this_process() == before, "the end of its sockets")
        assert not node.connected
        for deferred in (node.push("r", [b"x"]), node.pull(("r",), 1, 1.0), node.withdraw("r", b"x")):
            assert isinstance(await error_of(deferred), NodeUnreachable)
        for question in (node.holds("r", b"x"), node.look("r"), node.census(), node.readers()):
            assert isinstance(await error_of(question), NodeUnreachable)
        assert not node.ready().called
        node.end_pulls()
        await within(node.stop())
        if bystander is not None:
            assert await drain(bystander, "t") == [b"x"]

    @async_test
    async def test_it_may_be_stopped_before_it_was_started_or_is_connected(self, harness: Harness) -> None:
        await harness.node()
        before = connections_of_this_process()
        for started in (False, True):
            node = harness.make()
            waiting = node.ready() if harness.remote else None
            if started:
                node.start()
            await within(node.stop())
            await eventually(lambda: connections_of_this_process() <= before, "the end of its sockets")
            assert waiting is None or not waiting.called


class RemoteSuite:
    """For the kinds of node that are asked over a connection."""

    @async_test
    async def test_it_says_when_it_is_ready(self, harness: Harness) -> None:
        await harness.node()
        node = harness.make()
        assert not node.connected
        assert node.epoch is None
        assert isinstance(await error_of(node.push("r", [b"x"])), NodeUnreachable)
        assert isinstance(await error_of(node.pull(("r",), 1, 1.0)), NodeUnreachable)
        first, cancelled = node.ready(), node.ready()
        cancelled.cancel()
        assert isinstance(await error_of(cancelled), Exception)
        node.start()
        await within(first)
        assert node.connected
        assert node.ready().called
        await within(node.stop())

    @async_test
    async def test_it_may_start_before_what_it_connects_to(self, harness: Harness) -> None:
        await harness.node()
        await harness.crash()
        node = harness.make()
        node.start()
        assert isinstance(await error_of(node.push("r", [b"x"])), NodeUnreachable)
        await harness.come_back()
        await within(node.ready())
        assert await node.push("r", [b"x"]) == Pushed(1, 1)
        await within(node.stop())

    @async_test
    async def test_a_broken_connection_is_told_and_made_again(self, harness: Harness) -> None:
        node = await harness.node()
        epoch = node.epoch
        await node.push("r", [b"kept"])
        pulls = [node.pull(("s",), 1, LONG_S), node.pull(("t", "u"), 1, LONG_S)]
        await turn(SHORT_S)
        failing = gatherResults([Deferred.fromCoroutine(error_of(pull)) for pull in pulls])
        await harness.cut()
        assert [type(error) for error in await failing] == [NodeUnreachable] * 2
        await eventually(lambda: node.statistics()["connections_lost"] == 1, "the loss of the connection")
        await within(node.ready())
        assert node.epoch == epoch
        pulling = node.pull(("s",), 1, LONG_S)
        assert await node.push("s", [b"new"]) == Pushed(1, 1)
        assert await pulling == Pulled("s", [b"new"])
        assert await drain(node, "r") == [b"kept"]

    @async_test
    async def test_what_was_asked_and_not_answered_is_in_doubt(self, harness: Harness) -> None:
        node = await harness.node()
        pulling = node.pull(("r",), 1, LONG_S)
        await turn(SHORT_S)
        harness.freeze()
        asked = [
            (node.push("r", [b"x"]), PushInDoubt),
            (node.push("s", numbered(2000)), PushInDoubt),
            (node.withdraw("r", b"x"), PushInDoubt),
            (node.holds("r", b"x"), NodeUnreachable),
            (node.look("r"), NodeUnreachable),
            (node.census(), NodeUnreachable),
            (node.readers(), NodeUnreachable),
            (node.publish("g", b"x"), PushInDoubt),
            (pulling, NodeUnreachable),
        ]
        await turn(SHORT_S)
        errors = gatherResults([Deferred.fromCoroutine(error_of(deferred)) for deferred, _ in asked])
        await harness.crash()
        found = await within(errors)
        assert [type(error) for error in found] == [kind for _, kind in asked]
        assert all(node.name in str(error) for error in found)
        await eventually(lambda: not node.connected)
        assert isinstance(await error_of(node.push("r", [b"x"])), NodeUnreachable)
        assert isinstance(await error_of(node.pull(("r",), 1, 1.0)), NodeUnreachable)
        await harness.come_back()
        await within(node.ready())
        assert await node.push("r", [b"again"]) == Pushed(1, 1)
        assert await drain(node, "r") == [b"again"]

    @async_test
    async def test_groups_are_heard_again_after_a_broken_connection(self, harness: Harness) -> None:
        node, other = await harness.node(), await harness.node()
        ear = listen(node)
        await node.subscribe(["g", "h", "i"])
        await other.publish("g", b"before")
        await hears(ear, 1)
        for round in range(1, 3):
            await harness.cut()
            await eventually(lambda: len(ear.interruptions) == 3, "that it is told")
            assert sorted(ear.interruptions) == ["g", "h", "i"]
            assert node.statistics()["interruptions"] == 3 * round
            await within(other.ready())
            assert await other.publish("g", b"after") == 1
            await hears(ear, 1 + round)
            ear.interruptions.clear()
        assert ear.of("g") == [b"before", b"after", b"after"]

    @async_test
    async def test_groups_may_change_while_the_node_is_gone(self, harness: Harness) -> None:
        node, other = await harness.node(), await harness.node()
        ear = listen(node)
        await node.subscribe(["kept", "left"])
        await harness.crash()
        await eventually(lambda: not node.connected and not other.connected)
        await turn(SHORT_S)
        node.unsubscribe(["left"])
        subscribing, cancelled, left = node.subscribe(["new", "kept"]), node.subscribe(["x"]), node.subscribe(["y"])
        cancelled.cancel()
        assert isinstance(await error_of(cancelled), CancelledError)
        node.unsubscribe(["x", "y"])
        await within(left)
        assert isinstance(await error_of(other.publish("kept", b"lost")), NodeUnreachable)
        assert not subscribing.called
        await harness.come_back()
        await within(subscribing)
        assert ear.interruptions == ["kept"]
        await within(other.ready())
        assert [await other.publish(group, b"z") for group in ("kept", "left", "new", "x", "y")] == [1, 0, 1, 0, 0]
        await hears(ear, 2)
        assert ear.heard == [("kept", b"z"), ("new", b"z")]

    @async_test
    async def test_a_subscription_waits_for_the_first_connection(self, harness: Harness) -> None:
        other = await harness.node()
        node = harness.make()
        ear = listen(node)
        first, never = node.subscribe(["g"]), harness.make().subscribe(["h"])
        await turn(SHORT_S)
        assert not first.called
        node.start()
        await within(first)
        assert not never.called
        assert await other.publish("g", b"x") == 1
        await hears(ear, 1)
        assert ear.interruptions == []
        await within(node.stop())

    @async_test
    async def test_one_that_is_stopped_meanwhile_fails_who_waits(self, harness: Harness) -> None:
        node = await harness.node()
        listen(node)
        await node.subscribe(["g"])
        harness.freeze()
        waiting = [node.subscribe(["h"]), node.subscribe(["h", "i"])]
        await turn(SHORT_S)
        failing = gatherResults([Deferred.fromCoroutine(error_of(each)) for each in waiting])
        await within(node.stop())
        assert [type(error) for error in await failing] == [NodeUnreachable] * 2
        await harness.crash()

    @async_test
    async def test_other_processes_hear_in_order_or_are_told(
        self, harness: Harness, request: pytest.FixtureRequest
    ) -> None:
        node = await harness.node()
        kind = request.node.callspec.params["harness"]
        command = [sys.executable, "-m", "tests.layers.hearer", kind, harness.address, "g"]
        hearers = [
            subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        messages = numbered(3000)
        try:
            for hearer in hearers:
                assert hearer.stdout is not None
                assert await within(deferToThread(hearer.stdout.readline)) == "ready\n"
            handed: list[int] = []
            for i in range(0, len(messages), 50):
                handed += await gatherResults([node.publish("g", message) for message in messages[i : i + 50]])
            assert handed == [2] * 3000
            assert await node.publish("g", b"the end") == 2
            results = await within(gatherResults([deferToThread(hearer.communicate) for hearer in hearers]))
        finally:
            for hearer in hearers:
                hearer.kill()  # does nothing to one that has ended
                hearer.communicate()
        for out, _ in results:
            assert json.loads(out) == {"heard": [message.decode() for message in messages], "interruptions": []}

    @async_test
    async def test_what_was_popped_before_a_crash_does_not_come_back(self, harness: Harness) -> None:
        node, other = await harness.node(), await harness.node()
        epoch = node.epoch
        await node.push("r", [b"popped", b"waiting"])
        await node.push(INBOX, [b"also"])
        harness.snapshot()
        assert await node.pull(("r",), 1, LONG_S) == Pulled("r", [b"popped"])
        await harness.crash()
        await eventually(lambda: not node.connected and not other.connected)
        await harness.come_back()
        await gatherResults([within(node.ready()), within(other.ready())])
        assert node.epoch is not None
        assert node.epoch != epoch
        assert other.epoch == node.epoch
        pulling = other.pull(("r", INBOX), 10, LONG_S)
        assert await node.holds("r", b"popped") is False
        assert await node.push("r", [b"new"]) == Pushed(1, 1)
        assert await pulling == Pulled("r", [b"new"])
        assert await node.pull(("r", INBOX), 10, SHORT_S) is None

    @async_test
    async def test_one_that_is_stopped_while_the_other_end_is_frozen_ends_all_the_same(self, harness: Harness) -> None:
        node = await harness.node()
        before = connections_of_this_process()
        pulling = node.pull(("r",), 1, LONG_S)
        harness.freeze()
        # More than the sockets hold, so that something is still to be written when it is to end.
        pushing = node.push("r", [bytes(4 * 1024 * 1024)] * 2)
        await turn(SHORT_S)
        failing = gatherResults([Deferred.fromCoroutine(error_of(deferred)) for deferred in (pulling, pushing)])
        await within(node.stop(), 5.0)
        assert [type(error) for error in await failing] == [NodeUnreachable, PushInDoubt]
        await eventually(lambda: connections_of_this_process() < before, "the end of its sockets")
        await harness.crash()

    @async_test
    async def test_processes_that_race_get_each_message_once(
        self, harness: Harness, request: pytest.FixtureRequest
    ) -> None:
        node = await harness.node()
        kind = request.node.callspec.params["harness"]
        command = [sys.executable, "-m", "tests.layers.racer", kind, harness.address, "r"]
        racers = [
            subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        messages = [f"m-{i}" for i in range(1000)]
        try:
            for racer in racers:
                assert racer.stdout is not None
                assert await within(deferToThread(racer.stdout.readline)) == "ready\n"
            for i in range(0, len(messages), 5):
                pushed = await node.push("r", [message.encode() for message in messages[i : i + 5]])
                assert pushed.taken == 5
            results = await within(gatherResults([deferToThread(racer.communicate) for racer in racers]))
            taken = [json.loads(out) for out, _ in results]
        finally:
            for racer in racers:
                racer.kill()  # does nothing to one that has ended
                racer.communicate()
        assert sorted(taken[0] + taken[1]) == sorted(messages)
        # Each takes in order, and neither was shut out.
        for mine in taken:
            assert mine == sorted(mine, key=messages.index)
            assert mine
        assert await drain(node, "r") == []
