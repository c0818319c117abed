"""The channel layer within one process, and what Channels' own layers are tested with: channels_redis 4.3 (test_core,
test_pubsub) and Channels 4.3 (test_layers, test_inmemorychannel), by meaning."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.exceptions import ChannelFull, MessageTooLarge
from twisted.internet.defer import Deferred, fail

from ifserver.django import ChannelLayer
from ifserver.django.hub import hub_of
from ifserver.errors import ApplicationError, ConfigurationError, NodeRefused, NodeUnreachable
from tests.django.process import LIMIT_S, LayerOf, Machine, in_thread

Run: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]

#: How long a test waits to see that nothing comes, in seconds.
SHORT_S = 0.05
NAME = re.compile(r"^[a-zA-Z\d\-_.]+(\![\d\w\-_.]*)?$")


async def comes(layer: ChannelLayer, name: str, count: int = 1) -> list[str]:
    """The types of the next messages."""
    async with asyncio.timeout(LIMIT_S):
        return [(await layer.receive(name))["type"] for _ in range(count)]


async def nothing_comes(layer: ChannelLayer, name: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SHORT_S):
            await layer.receive(name)


def told(caplog: pytest.LogCaptureFixture, line: str) -> None:
    """Wait until it is in the log."""
    until = time.monotonic() + LIMIT_S
    while line not in caplog.messages:
        assert time.monotonic() < until, caplog.messages
        time.sleep(0.01)


def as_in_a_shell(test: Callable[..., None]) -> Callable[..., None]:
    """Run `test` in a thread that has no loop."""

    @functools.wraps(test)
    def wrapped(**fixtures: Any) -> None:
        in_thread(lambda: test(**fixtures))

    return wrapped


# Sending and receiving.


@pytest.mark.parametrize("kind", ["specific", "normal"])
def test_what_is_sent_is_received_in_order(run: Run, kind: str) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        name = await layer.new_channel() if kind == "specific" else "test-channel-1"
        await layer.send(name, {"type": "test.message", "text": "Ahoy-hoy!"})
        assert await layer.receive(name) == {"type": "test.message", "text": "Ahoy-hoy!"}
        for number in range(3):
            await layer.send(name, {"type": f"message.{number}"})
        assert await comes(layer, name, 3) == ["message.0", "message.1", "message.2"]
        await nothing_comes(layer, name)
        await layer.flush()

    run(act())


@pytest.mark.parametrize("kind", ["specific", "normal"])
def test_a_receiver_waits_for_what_is_sent(run: Run, kind: str) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        name = await layer.new_channel() if kind == "specific" else "test-channel-1"
        receiving = asyncio.create_task(layer.receive(name))
        await asyncio.sleep(SHORT_S)
        assert not receiving.done()
        await layer.send(name, {"type": "test.message"})
        async with asyncio.timeout(LIMIT_S):
            assert await receiving == {"type": "test.message"}

    run(act())


@pytest.mark.parametrize("name", ["test-channel-1", ""])
def test_capacity(run: Run, name: str) -> None:
    async def act() -> None:
        layer = ChannelLayer(capacity=3)
        channel = name or await layer.new_channel()
        for _ in range(3):
            await layer.send(channel, {"type": "test.message"})
        with pytest.raises(ChannelFull):
            await layer.send(channel, {"type": "test.message"})
        await comes(layer, channel)
        await layer.send(channel, {"type": "test.message"})
        with pytest.raises(ChannelFull):
            await layer.send(channel, {"type": "test.message"})
        await layer.flush()
        await nothing_comes(layer, channel)

    run(act())


def test_capacity_by_name(run: Run) -> None:
    async def act() -> None:
        layer = ChannelLayer(capacity=5, channel_capacity={"one": 1, "special.*": 2, re.compile("^t"): 3})
        for name, capacity in (("one", 1), ("three", 3), ("five", 5), (await layer.new_channel("special"), 2)):
            for _ in range(capacity):
                await layer.send(name, {"type": "test.message"})
            with pytest.raises(ChannelFull):
                await layer.send(name, {"type": "test.message"})

    run(act())


def test_names_that_are_none(run: Run) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        for name in ("=+135!", "¯\\_(ツ)_/¯", "a" * 100, "", "a b", "a!ä", "a!b!c", "\u0661", "a\n", None, 7):
            with pytest.raises(TypeError):
                await layer.send(name, {"type": "foom"})
            with pytest.raises(TypeError):
                await layer.receive(name)
            with pytest.raises(TypeError):
                await layer.group_add("group", name)
        for name in ("a!b", "¯\\_(ツ)_/¯", "a" * 100, "", None, "\u0661", "a\n"):
            with pytest.raises(TypeError, match="Group name must be a valid unicode string with length < 100"):
                await layer.group_send(name, {"type": "foom"})
        with pytest.raises(TypeError):
            await layer.new_channel("a" * 90)
        await layer.send("a" * 99, {"type": "foom"})
        await layer.group_send("a" * 99, {"type": "foom"})

    run(act())


def test_channels_of_others_cannot_be_received_from(run: Run) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        with pytest.raises(ValueError, match="not-client-prefix!local_part is no channel of this process"):
            await layer.receive("not-client-prefix!local_part")
        await layer.send("not-client-prefix!local_part", {"type": "to nobody"})

    run(act())


@pytest.mark.parametrize(
    "message", ["text", None, {"type": "x", "value": object()}, {"type": "x", "value": 2**70}, {"type": "\ud800"}]
)
def test_what_is_no_message(run: Run, message: Any) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        with pytest.raises((TypeError, OverflowError, UnicodeEncodeError)):
            await layer.send("channel", message)
        with pytest.raises((TypeError, OverflowError, UnicodeEncodeError)):
            await layer.group_send("group", message)

    run(act())


def test_a_message_that_is_too_large(run: Run) -> None:
    async def act() -> None:
        layer = ChannelLayer(max_message_bytes=1000)
        name = await layer.new_channel()
        for message in ({"type": "x", "text": "x" * 1000}, {"type": "websocket.send", "text": "ä" * 501}):
            with pytest.raises(MessageTooLarge):
                await layer.group_send("group", message)
            with pytest.raises(MessageTooLarge):
                await layer.send(name, message)
        await nothing_comes(layer, name)

    run(act())


class Safe(str):
    """As Django's SafeString."""

    def __str__(self) -> str:
        return self


def test_names_may_be_safe_strings(run: Run, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Django's ``slugify`` gives them. Nodes get what can be sent to them."""
    node, subscribe, publish, types = machine.node, machine.node.subscribe, machine.node.publish, set[type]()

    def subscribed(groups: Sequence[str]) -> Any:
        types.update(map(type, groups))
        return subscribe(groups)

    def published(group: str, payload: bytes) -> Any:
        types.add(type(group))
        return publish(group, payload)

    monkeypatch.setattr(node, "subscribe", subscribed)
    monkeypatch.setattr(node, "publish", published)

    async def act() -> None:
        layer, group = ChannelLayer(), Safe("group")
        name = await layer.new_channel(Safe("mine"))
        for member in (Safe(name), Safe("normal")):
            await layer.group_add(group, member)
            await layer.group_send(group, {"type": "message.1"})
            assert await comes(layer, Safe(member)) == ["message.1"]
            await layer.group_discard(group, member)
            await layer.group_send(group, {"type": "message.2"})
            await layer.send(member, {"type": "message.3"})
            assert await comes(layer, Safe(member)) == ["message.3"]

    run(act())
    assert types == {str}


def test_what_messages_may_hold(run: Run) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        name = await layer.new_channel()
        await layer.group_add("group", name)
        message = {"type": "x", "bytes": b"\0\xff", "n": None, "f": 1.5, "b": True, "l": [1, {"a": []}], 7: Safe("<b>")}
        for sending in (layer.send(name, message), layer.group_send("group", message)):
            await sending
            got = await layer.receive(name)
            assert got == {**message, 7: "<b>"}
            assert type(got[7]) is str
        await layer.send(name, {"type": "x", "tuple": (1, 2)})
        assert (await layer.receive(name))["tuple"] == [1, 2]

    run(act())


def test_each_receiver_owns_its_copy(run: Run) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        names = [await layer.new_channel() for _ in range(2)]
        message: dict[str, Any] = {"type": "x", "nested": {"list": [1]}}
        for name in names:
            await layer.group_add("group", name)
        await layer.group_send("group", message)
        await layer.send(names[0], message)
        message["nested"]["list"].append("of the sender")
        one = await layer.receive(names[0])
        one["nested"]["list"].append("of another")
        assert await layer.receive(names[0]) == {"type": "x", "nested": {"list": [1]}}
        assert await layer.receive(names[1]) == {"type": "x", "nested": {"list": [1]}}

    run(act())


# Cancelling.


@pytest.mark.parametrize("kind", ["specific", "normal"])
def test_a_receiver_that_is_cancelled_loses_nothing(run: Run, kind: str) -> None:
    async def act() -> None:
        layer = ChannelLayer(capacity=1000)
        name = await layer.new_channel() if kind == "specific" else "test-channel-1"
        got: list[int] = []
        for number in range(200):
            receiving = asyncio.create_task(layer.receive(name))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            await layer.send(name, {"type": "x", "number": number})
            for _ in range(number % 7):
                await asyncio.sleep(0)
            receiving.cancel()
            try:
                got.append((await receiving)["number"])
            except asyncio.CancelledError:
                pass
        while len(got) < 200:
            async with asyncio.timeout(LIMIT_S):
                got.append((await layer.receive(name))["number"])
        assert got == list(range(200))

    run(act())


def test_a_cancelled_receiver_lets_another_have_it(run: Run) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        name = await layer.new_channel()
        first, second = (asyncio.create_task(layer.receive(name)) for _ in range(2))
        await asyncio.sleep(0)
        await layer.send(name, {"type": "x"})
        first.cancel()
        async with asyncio.timeout(LIMIT_S):
            await asyncio.wait([first])
            if first.cancelled():
                assert await second == {"type": "x"}
            else:
                second.cancel()

    run(act())


@as_in_a_shell
def test_a_receiver_whose_loop_is_gone_takes_nothing(machine: Machine) -> None:
    layer = ChannelLayer()
    name = async_to_sync(layer.new_channel)()
    loop = asyncio.new_event_loop()
    receiving = loop.create_task(layer.receive(name))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    async_to_sync(layer.send)(name, {"type": "x"})
    assert async_to_sync(layer.receive)(name) == {"type": "x"}
    receiving._log_destroy_pending = False  # type: ignore[attr-defined]
    receiving.get_coro().close()  # type: ignore[union-attr]


# Event loops and threads.


@as_in_a_shell
def test_a_loop_for_each_call(machine: Machine) -> None:
    layer = ChannelLayer()
    names = [async_to_sync(layer.new_channel)() for _ in range(2)]
    for number, name in enumerate(names):
        async_to_sync(layer.send)(name, {"type": f"test.message.{number}"})
        async_to_sync(layer.group_add)("group", name)
    async_to_sync(layer.group_send)("group", {"type": "to.all"})
    for number in (1, 0):
        receive = async_to_sync(layer.receive)
        assert [receive(names[number])["type"] for _ in range(2)] == [f"test.message.{number}", "to.all"]
    async_to_sync(layer.send)("normal", {"type": "x"})
    assert async_to_sync(layer.receive)("normal") == {"type": "x"}
    async_to_sync(layer.flush)()
    async_to_sync(layer.close)()


def test_receiving_on_one_loop_and_sending_on_another(run: Run) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        name = await layer.new_channel()
        await layer.group_add("group", name)
        receiving = asyncio.create_task(layer.receive(name))
        send, group_send = (async_to_sync(each, force_new_loop=True) for each in (layer.send, layer.group_send))
        await sync_to_async(send)(name, {"type": "one"})
        async with asyncio.timeout(LIMIT_S):
            assert await receiving == {"type": "one"}
        receiving = asyncio.create_task(layer.receive(name))
        await sync_to_async(group_send)("group", {"type": "two"})
        async with asyncio.timeout(LIMIT_S):
            assert await receiving == {"type": "two"}

    run(act())


@as_in_a_shell
def test_many_threads(machine: Machine) -> None:
    layer = ChannelLayer(capacity=10_000)
    name = async_to_sync(layer.new_channel)()

    def send(thread: int) -> None:
        async def act() -> None:
            for number in range(200):
                await layer.send(name, {"type": "x", "from": thread, "number": number})

        asyncio.run(act())

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    got: dict[int, list[int]] = {number: [] for number in range(4)}

    async def receive() -> None:
        for _ in range(400):
            message = await layer.receive(name)
            got[message["from"]].append(message["number"])

    async def act() -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(receive(), receive())

    asyncio.run(act())
    for each in threads:
        each.join()
    assert all(len(numbers) == 200 for numbers in got.values())


# Names.


def test_names_are_valid_and_never_the_same(run: Run) -> None:
    async def act() -> None:
        names = set()
        for seed in (1, 1):
            random.seed(seed)
            layer = ChannelLayer()
            names |= {
                await layer.new_channel(),
                await layer.new_channel("prefix"),
                await layer.new_channel("specific."),
            }
        assert len(names) == 6
        assert all(NAME.match(name) and len(name) < 100 for name in names)

    run(act())


# Groups.


@pytest.mark.parametrize("prefixes", [("one", "two", "three"), ("same",) * 3])
def test_groups(run: Run, prefixes: tuple[str, ...]) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        names = [await layer.new_channel(prefix) for prefix in prefixes]
        for name in names:
            await layer.group_add("test-group", name)
            await layer.group_add("test-group", name)
        await layer.group_discard("test-group", names[1])
        await layer.group_send("test-group", {"type": "message.1"})
        await layer.group_send("other-group", {"type": "message.2"})
        for name in (names[0], names[2]):
            assert await comes(layer, name) == ["message.1"]
            await nothing_comes(layer, name)
        await nothing_comes(layer, names[1])

    run(act())


def test_a_group_of_normal_channels(run: Run) -> None:
    async def act() -> None:
        layer = ChannelLayer(capacity=3)
        for name in ("test-gr-chan-1", "test-gr-chan-2", "test-gr-chan-3"):
            await layer.group_add("test-group", name)
        await layer.group_discard("test-group", "test-gr-chan-2")
        for number in range(5):
            await layer.group_send("test-group", {"type": f"message.{number}"})
        await layer.group_send("test-group", {"type": "websocket.send", "text": "no room"})
        assert await comes(layer, "test-gr-chan-1", 3) == ["message.0", "message.1", "message.2"]
        assert await comes(layer, "test-gr-chan-3", 3) == ["message.0", "message.1", "message.2"]
        await nothing_comes(layer, "test-gr-chan-2")
        await layer.group_discard("test-group", "test-gr-chan-3")
        await layer.group_send("test-group", {"type": "websocket.close", "code": 4000})
        assert await layer.receive("test-gr-chan-1") == {"type": "websocket.close", "code": 4000, "reason": ""}
        await nothing_comes(layer, "test-gr-chan-3")
        await layer.group_discard("test-group", "test-gr-chan-1")

    run(act())


def test_who_adds_a_normal_channel_again_waits_as_well(
    run: Run, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribing: list[Deferred[None]] = []

    def subscribe(group: str, listener: object) -> Deferred[None]:
        subscribing.append(Deferred())
        return subscribing[-1]

    async def act() -> None:
        layer = ChannelLayer()
        first = asyncio.create_task(layer.group_add("group", "normal"))
        second = asyncio.create_task(layer.group_add("group", "normal"))
        await asyncio.sleep(0)
        await layer.group_discard("other", "normal")  # behind both, on the loop of the nodes
        await asyncio.sleep(0)
        assert not first.done()
        assert not second.done()
        machine.loop.call_soon_threadsafe(subscribing.pop().callback, None)
        await asyncio.gather(first, second)
        await layer.group_discard("group", "normal")

    monkeypatch.setattr(machine.groups, "subscribe", subscribe)
    run(act())
    assert subscribing == []


def test_to_discard_what_was_never_added(run: Run) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        await layer.group_discard("test-group", await layer.new_channel())
        await layer.group_discard("test-group", "normal")
        await layer.group_discard("test-group", "specific.gone!1")
        await layer.group_add("test-group", "specific.gone!1")
        await layer.group_send("test-group", {"type": "x"})

    run(act())


def test_a_full_member_loses_messages_and_nobody_else(
    run: Run, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "ifserver")

    async def act() -> None:
        layer = ChannelLayer(capacity=3)
        one, full = [await layer.new_channel() for _ in range(2)]
        for name in (one, full):
            await layer.group_add("test-group", name)
        await layer.send(full, {"type": "message.0"})
        for number in range(1, 4):
            await layer.group_send("test-group", {"type": f"message.{number}"})
        assert await comes(layer, one, 3) == ["message.1", "message.2", "message.3"]
        assert await comes(layer, full, 3) == ["message.0", "message.1", "message.2"]
        await nothing_comes(layer, full)

    run(act())
    told(caplog, "group test-group: 1 message found a full queue (capacity)")
    assert machine.counters.value("channel_layer_drops", "full") == 1


def test_many_members(run: Run) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        names = [await layer.new_channel() for _ in range(100)]
        for name in names:
            await layer.group_add("test-group", name)
        await layer.group_send("test-group", {"type": "message.1"})
        for name in names:
            assert await comes(layer, name) == ["message.1"]

    run(act())


def test_a_group_has_one_subscription_and_leaves_nothing(run: Run, machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        hub = hub_of(machine.link)
        names = [await layer.new_channel() for _ in range(3)]
        await asyncio.gather(*(layer.group_add("test-group", name) for name in names))
        assert hub.statistics() == {"channels": 3, "streams": 0, "groups": 1, "subscriptions": 2}
        await layer.flush()
        assert hub.statistics() == {"channels": 3, "streams": 0, "groups": 0, "subscriptions": 1}
        receiving = asyncio.create_task(layer.receive(names[0]))
        await asyncio.sleep(0)
        await layer.close()
        assert hub.statistics() == {"channels": 0, "streams": 0, "groups": 0, "subscriptions": 0}
        with pytest.raises(ValueError, match=r"has ended|is no channel"):
            await receiving

    run(act())


# Expiry.


def test_channels_of_no_stream_end_when_nobody_uses_them(run: Run, machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer(group_expiry=60)
        unused, used, awaited = [await layer.new_channel() for _ in range(3)]
        await layer.group_add("group", unused)
        receiving = asyncio.create_task(layer.receive(awaited))
        await asyncio.sleep(0)  # the receiver waits
        machine.clock.ahead_s += 61
        await layer.send(used, {"type": "x"})
        await comes(layer, used)
        await layer.new_channel()
        hub = hub_of(machine.link)
        assert [hub.channels.get(name) is None for name in (unused, used, awaited)] == [True, False, False]
        assert hub.statistics() == {"channels": 3, "streams": 0, "groups": 0, "subscriptions": 1}
        receiving.cancel()
        await layer.close()

    run(act())


@pytest.mark.parametrize("kind", ["specific", "group", "normal"])
def test_messages_expire(run: Run, machine: Machine, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    caplog.set_level(logging.WARNING, "ifserver")

    async def act() -> str:
        layer = ChannelLayer(expiry=60)
        name = "normal" if kind == "normal" else await layer.new_channel()
        await layer.group_add("group", name)

        async def send(kind_: str) -> None:
            await (layer.group_send("group", {"type": kind_}) if kind == "group" else layer.send(name, {"type": kind_}))

        await send("first")
        machine.clock.ahead_s += 40
        await send("second")
        machine.clock.ahead_s += 30
        await send("third")
        assert await comes(layer, name, 2) == ["second", "third"]
        await nothing_comes(layer, name)
        await layer.flush()
        return name

    name = run(act())
    told(caplog, f"channel {name}: 1 message expired before anybody received them")


def test_what_has_expired_takes_no_room(run: Run, machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer(expiry=60, capacity=1)
        name = await layer.new_channel()
        await layer.send(name, {"type": "first"})
        with pytest.raises(ChannelFull):
            await layer.send(name, {"type": "second"})
        machine.clock.ahead_s += 61
        await layer.send(name, {"type": "third"})
        assert await comes(layer, name) == ["third"]

    run(act())


def test_a_message_that_nobody_waits_for_any_more_expires(run: Run, machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer(expiry=0.05)
        hub = hub_of(machine.link)
        hub.normal._keep([b"\xc1"], machine.node, hub.normal._new("normal"))
        pushed = hub.normal.push
        await hub.on_loop(_pushed(hub, pushed))
        pulled = await hub.on_loop(_pull(machine))
        hub.normal._keep(pulled.payloads, machine.node, hub.normal._new("normal"))
        async with asyncio.timeout(LIMIT_S):
            while hub.normal._channels:
                await asyncio.sleep(0.01)
        await nothing_comes(layer, "normal")

    run(act())


def test_a_message_whose_receiver_is_cancelled_when_it_comes_expires(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "ifserver")

    async def act() -> None:
        layer = ChannelLayer(expiry=0.05)
        normal = layer._hub().normal
        keep = normal._keep

        def kept(*what: Any) -> None:
            keep(*what)
            receiving.cancel()

        normal._keep = kept  # type: ignore[method-assign]
        receiving = asyncio.create_task(layer.receive("normal"))
        await asyncio.sleep(0)
        await layer.send("normal", {"type": "x"})
        await asyncio.wait([receiving])
        assert receiving.cancelled()
        async with asyncio.timeout(LIMIT_S):
            while normal._channels:
                await asyncio.sleep(0.01)

    asyncio.run_coroutine_threadsafe(act(), machine.loop).result(LIMIT_S)
    told(caplog, "channel normal: 1 message expired before anybody received them")


async def _pushed(hub: Any, push: Any) -> None:
    await push("normal", b"\x81\xa4type\xa1x", 1, 0.05).asFuture(hub.link.loop)


async def _pull(machine: Machine) -> Any:
    return await machine.node.pull(("channels.normal",), 1, 0.0).asFuture(machine.loop)


# Loss.


def test_gaps_are_told(run: Run, machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "ifserver")

    async def act() -> None:
        name = await ChannelLayer().new_channel()
        await ChannelLayer().group_add("news", name)
        hub = hub_of(machine.link)
        for missed in (3, 4):
            hub.gap("news", missed)
        hub.gap("sport", None)
        hub.gap("chess", 2)
        hub.gap("chess", None)
        hub.gap("!specific.abc", 1)

    run(act())
    told(caplog, "group news: 7 messages got lost on the way to this process")
    told(caplog, "group sport: an unknown number of messages got lost on the way to this process")
    told(caplog, "group chess: 2 or more messages got lost on the way to this process")
    told(caplog, "channels specific.abc!*: 1 message got lost on the way to this process")
    assert machine.counters.value("channel_layer_drops", "lost") == 11


def test_what_concerns_many_groups_is_told_in_a_few_lines(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "ifserver")
    for number in range(1500):
        hub_of(machine.link).gap(f"group-{number}", None)
    told(caplog, "... and so for 991 more groups or channels")
    assert len(caplog.messages) == 11
    assert caplog.messages[0] == "group group-0: an unknown number of messages got lost on the way to this process"


def test_what_cannot_be_read_is_told(run: Run, machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "ifserver")

    async def act() -> str:
        layer = ChannelLayer()
        name = await layer.new_channel()
        channel = hub_of(machine.link).channels.get(name)
        assert channel is not None
        channel.queue.put(b"\xc1")
        await layer.send(name, {"type": "x"})
        assert await comes(layer, name) == ["x"]
        return name

    name = run(act())
    told(caplog, f"channel {name}: 1 message could not be decoded")


def test_a_node_that_is_gone(run: Run, machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        name = await layer.new_channel()
        receiving = asyncio.create_task(layer.receive("normal"))
        await asyncio.sleep(SHORT_S)
        await hub_of(machine.link).on_loop(_stop(machine))
        with pytest.raises(NodeUnreachable):
            await layer.send("normal", {"type": "x"})
        await layer.send(name, {"type": "x"})
        assert await comes(layer, name) == ["x"]
        machine.node.start()
        await layer.send("normal", {"type": "back"})
        async with asyncio.timeout(LIMIT_S):
            assert await receiving == {"type": "back"}

    run(act())


async def _stop(machine: Machine) -> None:
    machine.node.stop()


# What servers write.


@pytest.mark.parametrize(
    ("message", "published"),
    [
        ({"type": "websocket.send", "text": "ä"}, {"text": "ä"}),
        ({"type": "websocket.send", "text": Safe("<b>"), "bytes": None}, {"text": "<b>"}),
        ({"type": "websocket.send", "bytes": bytearray(b"\xff")}, {"data": b"\xff"}),
        ({"type": "websocket.close"}, {"close": (1000, "")}),
        ({"type": "websocket.close", "code": 4000, "reason": "out"}, {"close": (4000, "out")}),
        ({"type": "http.response.body", "body": b"x"}, {"data": b"x"}),
        ({"type": "http.response.body", "body": b"x", "more_body": True}, {"data": b"x"}),
        ({"type": "http.response.body", "body": b"x", "more_body": False}, None),
        ({"type": "websocket.send", "text": "x", "sender": 7}, None),
        ({"type": "websocket.send"}, None),
        ({"type": "websocket.send", "text": "a", "bytes": b"b"}, None),
        ({"type": "chat.message", "text": "a"}, None),
        ({"text": "a"}, None),
    ],
)
def test_which_messages_servers_write(run: Run, message: dict[str, Any], published: dict[str, Any] | None) -> None:
    async def act() -> None:
        seen: list[dict[str, Any]] = []
        layer = ChannelLayer()
        groups = layer._hub().link.groups
        publish = groups.publish

        def publishing(group: str, **what: Any) -> Any:
            seen.append(what)
            return publish(group, **what)

        groups.publish = publishing  # type: ignore[method-assign]
        await layer.group_send("group", message)
        await ChannelLayer(by_server=False).group_send("group", message)
        assert ("message" in seen[0]) == (published is None)
        if published is not None:
            assert seen[0] == published
        assert "message" in seen[1]

    run(act())


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.send", "text": b"x"},
        {"type": "websocket.send", "bytes": "x"},
        {"type": "websocket.close", "code": 1005},
        {"type": "http.response.body", "body": "x"},
    ],
)
def test_wrong_values_for_servers_are_told_to_the_sender(run: Run, message: dict[str, Any]) -> None:
    async def act() -> None:
        with pytest.raises(ApplicationError):
            await ChannelLayer().group_send("group", message)

    run(act())


def test_members_without_a_server_get_what_servers_write(run: Run) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        name = await layer.new_channel()
        await layer.group_add("group", name)
        await layer.group_send("group", {"type": "websocket.send", "text": "a"})
        await layer.group_send("group", {"type": "websocket.send", "bytes": b"b"})
        await layer.group_send("group", {"type": "websocket.close", "code": 4000, "reason": "out"})
        assert [await layer.receive(name) for _ in range(3)] == [
            {"type": "websocket.send", "text": "a"},
            {"type": "websocket.send", "bytes": b"b"},
            {"type": "websocket.close", "code": 4000, "reason": "out"},
        ]

    run(act())


# Several processes.


def test_a_channel_of_another_process(run: Run, machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "ifserver")

    async def act() -> str:
        here, there = ChannelLayer(), LayerOf(machine.process(), capacity=3)
        name = await there.new_channel()
        with pytest.raises(ValueError, match="is no channel of this process"):
            await here.receive(name)
        for number in range(5):
            await here.send(name, {"type": f"message.{number}"})
        assert await comes(there, name, 3) == ["message.0", "message.1", "message.2"]
        await nothing_comes(there, name)
        await there.close()
        await here.send(name, {"type": "to.nobody"})
        return name

    name = run(act())
    told(caplog, f"channel {name}: 2 messages found a full queue (capacity)")


def test_groups_over_processes(run: Run, machine: Machine) -> None:
    async def act() -> None:
        here, there = ChannelLayer(), LayerOf(machine.process())
        one, other = await here.new_channel(), await there.new_channel()
        await here.group_add("group", one)
        await here.group_add("group", other)
        for layer in (here, there):
            await layer.group_send("group", {"type": "x"})
        assert await comes(here, one, 2) == ["x", "x"]
        assert await comes(there, other, 2) == ["x", "x"]
        await here.group_discard("group", other)
        await here.group_send("group", {"type": "y"})
        assert await comes(here, one) == ["y"]
        await nothing_comes(there, other)
        await there.close()
        await here.group_add("group", other)

    run(act())


def test_a_normal_channel_is_a_member_by_each_process_that_has_added_it(run: Run, machine: Machine) -> None:
    async def act() -> None:
        here, there = ChannelLayer(), LayerOf(machine.process())
        for layer in (here, there):
            await layer.group_add("group", "normal")
            await layer.group_add("group", "normal")
        await here.group_send("group", {"type": "x"})
        assert await comes(here, "normal", 2) == ["x", "x"]
        await here.group_discard("group", "normal")
        await here.group_send("group", {"type": "y"})
        assert await comes(here, "normal") == ["y"]
        await there.close()
        await here.group_send("group", {"type": "z"})
        await nothing_comes(here, "normal")

    run(act())


def test_another_process_that_cannot_add_its_channel_says_so(run: Run, machine: Machine) -> None:
    async def act() -> None:
        here, there = ChannelLayer(), LayerOf(machine.process())
        name = await there.new_channel()
        await here.group_add("before", name)
        subscribe = machine.groups.subscribe

        def refused(group: str, listener: Any) -> Any:
            return fail(NodeRefused("no rights")) if group == "news" else subscribe(group, listener)

        machine.groups.subscribe = refused
        machine.groups.unsubscribe = lambda group, listener: None
        with pytest.raises(NodeRefused, match=r"no rights"):
            await here.group_add("news", name)
        with pytest.raises(NodeRefused, match=r"no rights"):
            await there.group_add("news", name)
        with pytest.raises(NodeRefused, match=r"no rights"):
            await there.group_add("news", "normal")
        assert hub_of(there._link).statistics()["groups"] == 1

    run(act())


def test_another_process_that_does_not_answer(run: Run, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ifserver.django.subscriptions._CHANGE_S", SHORT_S)

    async def act() -> None:
        here, there = ChannelLayer(), LayerOf(machine.process())
        name = await there.new_channel()
        monkeypatch.setattr(hub_of(there._link), "_received", lambda *_: None)
        with pytest.raises(TimeoutError, match="was not added to group news: its process does not answer"):
            await here.group_add("news", name)
        with pytest.raises(TimeoutError, match="was not discarded from group news"):
            await here.group_discard("news", name)

    run(act())


def test_one_of_several_processes_gets_what_is_on_a_normal_channel(run: Run, machine: Machine) -> None:
    async def act() -> None:
        layers = [ChannelLayer(), LayerOf(machine.process()), LayerOf(machine.process())]
        got: list[int] = []

        async def work(layer: ChannelLayer) -> None:
            while True:
                got.append((await layer.receive("thumbnails"))["id"])
                if len(got) == 300:
                    for each in workers:
                        each.cancel()

        workers = [asyncio.create_task(work(layer)) for layer in layers]
        sender = ChannelLayer(capacity=1000)
        for number in range(300):
            await sender.send("thumbnails", {"type": "make", "id": number})
        async with asyncio.timeout(10):
            await asyncio.wait(workers)
        assert sorted(got) == list(range(300))

    run(act())


# Configuration.


def test_the_options_of_channels_redis_are_named_and_not_used(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ifserver")
    layer = ChannelLayer(hosts=[("127.0.0.1", 6379)], prefix="x", group_expiry=10, capacity=7)
    assert (layer.capacity, layer.group_expiry, layer.expiry) == (7, 10, 60)
    [line] = caplog.messages
    assert "hosts, prefix" in line


def test_options_that_cannot_be() -> None:
    with pytest.raises(ConfigurationError, match="rediss://"):
        ChannelLayer(symmetric_encryption_keys=["secret"])
    with pytest.raises(ConfigurationError, match="has no option capcity"):
        ChannelLayer(capcity=7)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"expiry": "60s"}, "expiry: expected a number of seconds above 0, got '60s'"),
        ({"expiry": 0}, "expiry: expected a number of seconds above 0, got 0"),
        ({"expiry": float("nan")}, "expiry: expected a number of seconds above 0, got nan"),
        ({"group_expiry": None}, "group_expiry: expected a number of seconds above 0, got None"),
        ({"capacity": "x"}, "capacity: expected a whole number of at least 1, got 'x'"),
        ({"capacity": True}, "capacity: expected a whole number of at least 1, got True"),
        ({"capacity": 1.5}, "capacity: expected a whole number of at least 1, got 1.5"),
        ({"channel_capacity": 5}, "channel_capacity: expected a dict of names and capacities, got 5"),
        ({"channel_capacity": {3: 5}}, "channel_capacity: expected a glob or a compiled pattern, got 3"),
        ({"channel_capacity": {"a*": "5"}}, "channel_capacity['a*']: expected a whole number of at least 1, got '5'"),
        ({"max_message_bytes": "1MiB"}, "max_message_bytes: expected a whole number of at least 1, got '1MiB'"),
        ({"by_server": "no"}, "by_server: expected True or False, got 'no'"),
        (
            {"by_server": 1, "capcity": 7},
            "by_server: expected True or False, got 1; ifserver.django.ChannelLayer has no option capcity",
        ),
    ],
)
def test_values_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        ChannelLayer(**options)
    assert str(error.value) == f"CHANNEL_LAYERS: {said}"


def test_extensions() -> None:
    assert {"groups", "flush"} <= set(ChannelLayer.extensions)
