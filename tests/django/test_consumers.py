"""Consumers of Channels on this layer outside of a server, and on another layer: the mixin, and the tutorial's chat."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeAlias

import pytest
from asgiref.sync import async_to_sync
from asgiref.testing import ApplicationCommunicator
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.layers import InMemoryChannelLayer, channel_layers, get_channel_layer
from django.conf import settings
from django.test import override_settings

from ifserver.django import ChannelLayer, GroupSendMixin

Run: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]

BACKEND = {"default": {"BACKEND": "ifserver.django.ChannelLayer", "CONFIG": {"capacity": 7}, "TEST_CONFIG": {}}}

if not settings.configured:
    settings.configure(CHANNEL_LAYERS=BACKEND)


@pytest.fixture(params=["this layer", "another layer"])
def layer(request: pytest.FixtureRequest, run: Run) -> Iterator[Any]:
    layer = ChannelLayer() if request.param == "this layer" else InMemoryChannelLayer()
    before = channel_layers.set("default", layer)
    yield layer
    run(layer.close())
    channel_layers.set("default", before)


class AsyncChat(GroupSendMixin, AsyncWebsocketConsumer):
    groups = ["room"]  # noqa: RUF012

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps({"message": event["message"]}))

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send("room", {"type": "chat.message", "message": text_data})


class SyncChat(GroupSendMixin, WebsocketConsumer):
    groups = ["room"]  # noqa: RUF012

    def chat_message(self, event: dict[str, Any]) -> None:
        self.send(text_data=json.dumps({"message": event["message"]}))

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        async_to_sync(self.channel_layer.group_send)("room", {"type": "chat.message", "message": text_data})


@pytest.mark.parametrize("consumer", [AsyncChat, SyncChat])
def test_the_same_consumer_works_on_any_layer(run: Run, layer: Any, consumer: Any) -> None:
    async def act() -> None:
        # Channels' own communicators come with Daphne.
        scope = {"type": "websocket", "path": "/", "extensions": {}}
        clients = [ApplicationCommunicator(consumer.as_asgi(), scope) for _ in range(2)]
        for client in clients:
            await client.send_input({"type": "websocket.connect"})
            assert (await client.receive_output(5))["type"] == "websocket.accept"
        await clients[0].send_input({"type": "websocket.receive", "text": "hello"})
        await layer.group_send("room", {"type": "websocket.send", "text": "written"})
        await layer.group_send("room", {"type": "websocket.send", "bytes": b"\xff"})
        for client in clients:
            got = [await client.receive_output(5) for _ in range(3)]
            assert sorted(str(each.get("text") or each["bytes"]) for each in got) == [
                "b'\\xff'",
                "written",
                '{"message": "hello"}',
            ]
        await layer.group_send("room", {"type": "websocket.close", "code": 4001})
        for client in clients:
            closed = await client.receive_output(5)
            assert (closed["type"], closed["code"]) == ("websocket.close", 4001)
            await client.send_input({"type": "websocket.disconnect", "code": 4001})
            await client.wait(5)

    run(act())


def test_a_response_goes_on_unless_it_is_told_to_end(run: Run, layer: Any) -> None:
    class Events(GroupSendMixin, AsyncHttpConsumer):  # type: ignore[misc]
        async def handle(self, body: bytes) -> None:
            await self.channel_layer.group_add("room", self.channel_name)
            await self.send_headers()
            await self.send_body(b"joined", more_body=True)

        async def http_request(self, message: dict[str, Any]) -> None:
            await self.handle(b"")

    async def act() -> None:
        client = ApplicationCommunicator(Events.as_asgi(), {"type": "http", "method": "GET", "path": "/"})
        await client.send_input({"type": "http.request", "body": b"", "more_body": False})
        assert (await client.receive_output(5))["type"] == "http.response.start"
        assert (await client.receive_output(5))["body"] == b"joined"
        await layer.group_send("room", {"type": "http.response.body", "body": b"one"})
        await layer.group_send("room", {"type": "websocket.send", "text": "two"})
        await layer.group_send("room", {"type": "http.response.body", "body": b"three", "more_body": False})
        got = [await client.receive_output(5) for _ in range(3)]
        assert [(each["body"], each["more_body"]) for each in got] == [
            (b"one", True),
            (b"two", True),
            (b"three", False),
        ]
        await client.send_input({"type": "http.disconnect"})
        await client.wait(5)

    run(act())


def test_a_close_cuts_a_response(run: Run, layer: Any) -> None:
    class Events(GroupSendMixin, AsyncHttpConsumer):  # type: ignore[misc]
        async def http_request(self, message: dict[str, Any]) -> None:
            await self.channel_layer.group_add("room", self.channel_name)
            await self.send_headers()
            await self.send_body(b"joined", more_body=True)

    async def act() -> None:
        client = ApplicationCommunicator(Events.as_asgi(), {"type": "http", "method": "GET", "path": "/"})
        await client.send_input({"type": "http.request", "body": b"", "more_body": False})
        for _ in range(2):
            await client.receive_output(5)
        await layer.group_send("room", {"type": "websocket.close"})
        await client.wait(5)
        assert await client.receive_nothing()

    run(act())


def test_a_body_is_a_message_in_a_websocket(run: Run, layer: Any) -> None:
    async def act() -> None:
        client = ApplicationCommunicator(AsyncChat.as_asgi(), {"type": "websocket", "path": "/"})
        await client.send_input({"type": "websocket.connect"})
        await client.receive_output(5)
        await layer.group_send("room", {"type": "http.response.body", "body": b"x"})
        assert await client.receive_output(5) == {"type": "websocket.send", "bytes": b"x"}
        await client.send_input({"type": "websocket.disconnect", "code": 1000})
        await client.wait(5)

    run(act())


def test_the_layer_of_the_settings() -> None:
    with override_settings(CHANNEL_LAYERS=BACKEND):
        layer = get_channel_layer()
        assert isinstance(layer, ChannelLayer)
        assert layer.capacity == 7
        assert channel_layers.make_test_backend("default").capacity == 100
    with override_settings(CHANNEL_LAYERS={}):
        assert get_channel_layer() is None
