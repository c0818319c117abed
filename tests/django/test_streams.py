"""The channel layer in the streams of a worker: names that are the stream's, and groups to which its server writes."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from twisted.internet.defer import Deferred, fail

from ifserver.django import ChannelLayer
from ifserver.django.hub import hub_of
from ifserver.errors import ApplicationError, NodeRefused
from ifserver.messages import GroupJoin, GroupLeave, WebSocketAccept
from tests.django.process import LayerOf, Machine
from tests.worker.stage import STREAM, WORKER, Play, http_request, turns, websocket_connect

ACCEPT = {"type": "websocket.accept"}
NOTHING = {"channels": 0, "streams": 0, "groups": 0, "subscriptions": 0}


class Consumer(Play):
    """A stream whose application is the test."""

    context: contextvars.Context

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        self.context = contextvars.copy_context()
        await super()._application(scope, receive, send)

    def inside(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` as the application does."""
        return asyncio.get_running_loop().create_task(work, context=self.context)


async def begin(http: bool = False) -> tuple[Consumer, Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]]:
    """A stream, and what runs a coroutine in it."""
    play = await Consumer.begin(http_request() if http else websocket_connect())
    assert isinstance(play, Consumer)
    return play, play.inside


def in_worker(machine: Machine, act: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await act()
        assert hub_of(machine.link).statistics() == NOTHING

    asyncio.run_coroutine_threadsafe(limited(), machine.loop).result(30)


async def joined(play: Play, adding: asyncio.Task[Any], group: str) -> None:
    """The server answers."""
    await turns()
    assert not adding.done()
    play.joined(group)
    await adding


@contextmanager
def slow_node(machine: Machine) -> Iterator[Callable[[], None]]:
    """While the node does not answer subscriptions; what is called when it does."""
    subscribe = machine.groups.subscribe
    answers: list[Deferred[None]] = []

    def subscribing(group: str, listener: Any) -> Deferred[None]:
        answer: Deferred[None] = Deferred()
        subscribe(group, listener).addCallback(lambda _: answers.append(answer))
        return answer

    def answer() -> None:
        for each in answers:
            each.callback(None)

    machine.groups.subscribe = subscribing
    try:
        yield answer
    finally:
        machine.groups.subscribe = subscribe


async def ends(play: Play) -> None:
    """The application closes its WebSocket, or leaves its response as it is, and returns."""
    if play.scope["type"] == "websocket":
        await play.send({"type": "websocket.close"})
    await play.returns()


def test_the_names_are_the_stream_s(machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        play, inside = await begin()
        assert await inside(layer.new_channel()) == f"specific.{STREAM}!0"
        assert await inside(layer.new_channel()) == f"specific.{STREAM}!1"
        assert await inside(layer.new_channel("reply")) == f"reply.{STREAM}!2"
        await ends(play)
        with pytest.raises(ValueError, match="is no channel of this process"):
            await layer.receive(f"specific.{STREAM}!0")
        # Another worker goes on with it.
        play, inside = await begin()
        assert await inside(layer.new_channel()) == f"specific.{STREAM}!0"
        await ends(play)

    in_worker(machine, act)


def test_what_a_consumer_forgets_ends_with_its_stream(machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        play, inside = await begin()
        await play.send(ACCEPT)
        name = await inside(layer.new_channel())
        for group in ("a", "b"):
            await joined(play, inside(layer.group_add(group, name)), group)
        await layer.send(name, {"type": "unread"})
        receiving = asyncio.create_task(layer.receive(await inside(layer.new_channel())))
        await turns()
        assert hub_of(machine.link).statistics() == {"channels": 2, "streams": 1, "groups": 2, "subscriptions": 3}
        await ends(play)
        with pytest.raises(ValueError, match="has ended"):
            await receiving
        await layer.group_send("a", {"type": "x"})
        await layer.send(name, {"type": "x"})

    in_worker(machine, act)


def test_an_application_that_fails_leaves_nothing(machine: Machine) -> None:
    async def act() -> None:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            await ChannelLayer().new_channel()
            await receive()
            raise LookupError

        play = await Play.begin(websocket_connect(), application)
        await turns()
        await play.ended()

    in_worker(machine, act)


@pytest.mark.parametrize("accepted", [True, False])
def test_the_server_writes_what_it_can(machine: Machine, accepted: bool) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        play, inside = await begin()
        if accepted:
            await play.send(ACCEPT)
            play.take_sent()
        name = await inside(layer.new_channel())
        adding = inside(layer.group_add("news", name))
        await joined(play, adding, "news")
        assert play.take_sent() == [GroupJoin(STREAM, 0, WORKER, int(accepted), "news")]
        await inside(layer.group_add("news", name))
        assert play.sent == []
        # The first is the server's to write, the second the consumer's.
        await inside(layer.group_send("news", {"type": "websocket.send", "text": "x"}))
        await inside(layer.group_send("news", {"type": "chat.message"}))
        assert await layer.receive(name) == {"type": "chat.message"}
        assert len(hub_of(machine.link).channels.get(name).queue) == 0  # type: ignore[union-attr]
        await inside(layer.group_discard("news", name))
        assert play.take_sent() == [GroupLeave(STREAM, 0, WORKER, int(accepted) + 1, "news")]
        if not accepted:
            await play.send(ACCEPT)
            assert isinstance(play.take_sent()[0], WebSocketAccept)
        await ends(play)

    in_worker(machine, act)


def test_what_is_for_servers_is_never_the_consumer_s_while_it_joins(machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        play, inside = await begin()
        name = await inside(layer.new_channel())
        adding = [inside(layer.group_add("news", name)) for _ in range(2)]
        await turns()
        await layer.group_send("news", {"type": "websocket.send", "text": "x"})
        await layer.group_send("news", {"type": "chat.message"})
        assert not any(each.done() for each in adding)
        play.joined("news")
        await asyncio.gather(*adding)
        assert await layer.receive(name) == {"type": "chat.message"}
        # Nor is it when that is taken back at once.
        adding[0] = inside(layer.group_add("sport", name))
        await asyncio.sleep(0)
        leaving = inside(layer.group_discard("sport", name))
        await turns()
        play.joined("sport")
        await asyncio.gather(adding[0], leaving)
        assert [type(each) for each in play.take_sent()] == [GroupJoin, GroupJoin, GroupLeave]
        await ends(play)

    in_worker(machine, act)


def test_another_of_the_stream_s_channels_keeps_it_in_the_group(machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        play, inside = await begin()
        names = [await inside(layer.new_channel()) for _ in range(2)]
        for name in names:
            await joined(play, inside(layer.group_add("news", name)), "news")
        play.take_sent()
        await layer.group_discard("news", names[0])
        assert play.sent == []
        await layer.group_discard("news", names[1])
        assert len(play.take_sent()) == 1
        await ends(play)

    in_worker(machine, act)


def test_from_a_thread(machine: Machine) -> None:
    async def act() -> None:
        from asgiref.sync import async_to_sync

        layer = ChannelLayer()
        play, inside = await begin()

        def consumer() -> str:
            name = async_to_sync(layer.new_channel)()
            async_to_sync(layer.group_add)("news", name)
            async_to_sync(layer.group_send)("news", {"type": "x"})
            async_to_sync(layer.group_discard)("news", name)
            return name

        working = inside(sync_to_async(consumer, thread_sensitive=False)())
        while not play.sent:
            await asyncio.sleep(0.001)
        play.joined("news")
        name = await working
        assert name == f"specific.{STREAM}!0"
        assert await layer.receive(name) == {"type": "x"}
        assert [type(each) for each in play.sent] == [GroupJoin, GroupLeave]
        await ends(play)

    in_worker(machine, act)


def test_a_server_that_refuses_says_so(machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        play, inside = await begin()
        name = await inside(layer.new_channel())
        adding = inside(layer.group_add("news", name))
        await turns()
        play.joined("news", "it is in 10000 groups, which is the most")
        with pytest.raises(ApplicationError, match="which is the most"):
            await adding
        assert hub_of(machine.link).statistics()["groups"] == 0
        await ends(play)

    in_worker(machine, act)


def test_a_server_that_refuses_before_the_node_has_answered_says_so(machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        play, inside = await begin()
        name = await inside(layer.new_channel())
        with slow_node(machine) as node_answers:
            adding = [inside(layer.group_add("news", name)) for _ in range(2)]
            await turns()
            play.joined("news", "it is in 10000 groups, which is the most")
            await turns()
            node_answers()
        for each in adding:
            with pytest.raises(ApplicationError, match="which is the most"):
                await each
        assert hub_of(machine.link).statistics()["groups"] == 0
        await ends(play)

    in_worker(machine, act)


def test_a_client_that_leaves_while_it_joins(machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        play, inside = await begin()
        name = await inside(layer.new_channel())
        adding = inside(layer.group_add("news", name))
        await turns()
        play.leave(1001)
        await adding
        await inside(layer.group_add("sport", name))
        await layer.group_discard("news", name)
        await play.returns()

    in_worker(machine, act)


def test_a_stream_that_ends_while_it_joins(machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        play, inside = await begin()
        name = await inside(layer.new_channel())
        adding = inside(layer.group_add("news", name))
        await turns()
        await ends(play)
        await adding

    in_worker(machine, act)


def test_a_response_that_has_not_begun_hears_as_a_consumer(machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        play, inside = await begin(http=True)
        name = await inside(layer.new_channel())
        await inside(layer.group_add("news", name))
        await layer.group_send("news", {"type": "http.response.body", "body": b"x"})
        await layer.group_send("news", {"type": "websocket.send", "text": "y"})
        assert await layer.receive(name) == {"type": "http.response.body", "body": b"x", "more_body": True}
        assert await layer.receive(name) == {"type": "http.response.body", "body": b"y", "more_body": True}
        await play.send({"type": "http.response.start", "status": 200, "headers": []})
        # It stays so, lest it hears something twice, or not at all.
        await inside(layer.group_add("news", name))
        await inside(layer.group_discard("news", name))
        await joined(play, inside(layer.group_add("news", name)), "news")
        await layer.group_send("news", {"type": "http.response.body", "body": b"x"})
        await layer.group_send("news", {"type": "chat.message"})
        assert await layer.receive(name) == {"type": "chat.message"}
        await ends(play)

    in_worker(machine, act)


def test_a_response_with_a_length_has_no_room(machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        play, inside = await begin(http=True)
        name = await inside(layer.new_channel())
        await play.send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await inside(layer.group_add("news", name))
        await layer.group_send("news", {"type": "x"})
        assert await layer.receive(name) == {"type": "x"}
        await ends(play)

    in_worker(machine, act)


def test_the_channel_of_another_process_s_stream_joins_at_its_server(machine: Machine) -> None:
    async def act() -> None:
        layer, other = ChannelLayer(), LayerOf(machine.process())
        play, inside = await begin()
        name = await inside(layer.new_channel())
        await joined(play, asyncio.create_task(other.group_add("news", name)), "news")
        await other.group_send("news", {"type": "chat.message"})
        assert await layer.receive(name) == {"type": "chat.message"}
        await other.group_discard("news", name)
        assert [type(each) for each in play.sent] == [GroupJoin, GroupLeave]
        await ends(play)
        await other.group_add("news", name)
        await hub_of(other._link).close()

    in_worker(machine, act)


def test_an_attempt_that_is_over_takes_nothing_from_the_next(machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        old, inside_old = await begin()
        name = await inside_old(layer.new_channel())
        await joined(old, inside_old(layer.group_add("news", name)), "news")
        new, inside_new = await begin()
        assert await inside_new(layer.new_channel()) == name
        await joined(new, inside_new(layer.group_add("news", name)), "news")
        await layer.group_send("news", {"type": "x"})
        with pytest.raises(ValueError, match="is no channel"):
            await inside_old(layer.receive(name))
        await ends(old)
        await layer.group_send("news", {"type": "y"})
        assert [(await inside_new(layer.receive(name)))["type"] for _ in range(2)] == ["x", "y"]
        await ends(new)

    in_worker(machine, act)


def test_what_is_sent_to_a_stream_that_goes_on_elsewhere_reaches_it_there(machine: Machine) -> None:
    async def act() -> None:
        here, there = ChannelLayer(), LayerOf(machine.process())
        old, inside_old = await begin()
        name = await inside_old(here.new_channel())
        old.stream.release("drained")
        new, inside_new = await begin()
        assert await inside_new(there.new_channel()) == name
        await here.send(name, {"type": "x"})
        assert await inside_new(there.receive(name)) == {"type": "x"}
        await old.returns()
        await ends(new)
        assert hub_of(there._link).statistics() == NOTHING

    in_worker(machine, act)


def test_a_stream_whose_channel_cannot_be_made(machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        play, inside = await begin()
        subscribe = machine.groups.subscribe
        machine.groups.subscribe = lambda *_: fail(NodeRefused("no rights"))
        with pytest.raises(NodeRefused, match="no rights"):
            await inside(layer.new_channel())
        machine.groups.subscribe = subscribe
        name = await inside(layer.new_channel())
        assert name == f"specific.{STREAM}!1"
        await layer.send(name, {"type": "x"})
        assert await layer.receive(name) == {"type": "x"}
        await ends(play)

    in_worker(machine, act)


def test_a_stream_whose_channel_is_not_waited_for(machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        play, inside = await begin()
        with slow_node(machine):
            making = inside(layer.new_channel())
            await turns()
            making.cancel()
            await asyncio.wait([making])
        assert making.cancelled()
        assert hub_of(machine.link).statistics() == {**NOTHING, "streams": 1}
        await ends(play)

    in_worker(machine, act)


def test_what_goes_on_behind_a_stream_has_names_of_the_process(machine: Machine) -> None:
    async def act() -> None:
        layer = ChannelLayer()
        play, inside = await begin()
        goes_on = asyncio.Event()

        async def later() -> str:
            await goes_on.wait()
            return await layer.new_channel()

        async def start() -> asyncio.Task[str]:
            return asyncio.create_task(later())

        task = await inside(start())
        await ends(play)
        goes_on.set()
        name = await task
        assert name.startswith(f"specific.{machine.link.clusters.process}!")
        await layer.close()

    in_worker(machine, act)
