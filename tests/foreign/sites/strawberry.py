"""Strawberry: GraphQL with subscriptions, by its consumers for Channels, asked by the client ``gql``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, Final

import httpx
import pytest
from gql import Client, gql
from gql.transport.exceptions import TransportConnectionFailed
from gql.transport.websockets import WebsocketsTransport
from websockets.exceptions import ConnectionClosed

from tests.e2e.running import LIMIT_S, eventually
from tests.foreign.clients import events
from tests.foreign.site import Needs, Site
from tests.foreign.ways import Served

__all__ = ["SITE"]

SITE = Site("strawberry")
_PROTOCOLS: Final = ("graphql-transport-ws", "graphql-ws")


def transport(served: Served, protocol: str) -> WebsocketsTransport:
    """A WebSocket that speaks one of the two protocols."""
    url = f"{served.ws_url}/graphql/"
    # Workers that were killed are replaced meanwhile, on a machine that may be busy.
    return WebsocketsTransport(url, subprotocols=[protocol], connect_timeout=LIMIT_S, ack_timeout=LIMIT_S)


def each_protocol(run: Callable[[Served, str], Coroutine[Any, Any, None]], served: Served) -> None:
    """Run a scenario in each of the protocols."""
    for protocol in _PROTOCOLS:
        asyncio.run(asyncio.wait_for(run(served, protocol), LIMIT_S))


def post(served: Served, query: str, path: str = "/graphql/") -> Any:
    """What a query is answered over HTTP."""
    answer = httpx.post(f"{served.url}{path}", json={"query": query}, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


@SITE.scenario("queries over HTTP, by consumers and by views")
def queries(served: Served) -> None:
    if served.is_asgi:
        assert post(served, "{ version users }") == {"version": 1, "users": ["ada"]}
        page = httpx.get(f"{served.url}/graphql/", headers={"accept": "text/html"}, timeout=LIMIT_S)
        assert "GraphiQL" in page.text
    assert post(served, "{ version }", "/sync/graphql/") == {"version": 1}


@SITE.scenario("subscriptions, in both protocols", Needs.SOCKETS)
def counts(served: Served) -> None:
    async def run(served: Served, protocol: str) -> None:
        async with Client(transport=transport(served, protocol)) as session:
            found = [answer["count"] async for answer in session.subscribe(gql("subscription { count(target: 5) }"))]
            assert found == [0, 1, 2, 3, 4]

    each_protocol(run, served)


@SITE.scenario("subscriptions over HTTP, as events", Needs.ASGI)
def sent(served: Served) -> None:
    query = {"query": "subscription { count(target: 3) }"}
    with events(f"{served.url}/graphql/", json=query) as stream:
        found = [json.loads(event.data) for event in stream if event.type == "next"]
    assert [answer["data"]["count"] for answer in found] == [0, 1, 2]


@SITE.scenario("a chat: what one says reaches those at other workers", Needs.SOCKETS)
def chat(served: Served) -> None:
    async def run(served: Served, protocol: str) -> None:
        async def listen(ready: asyncio.Semaphore) -> str:
            async with Client(transport=transport(served, protocol)) as session:
                async for answer in session.subscribe(gql('subscription { said(room: "lobby") }')):
                    if answer["said"] != "joined":
                        return str(answer["said"])
                    ready.release()
            raise AssertionError("the subscription has ended")

        ready = asyncio.Semaphore(0)
        listeners = [asyncio.create_task(listen(ready)) for _ in range(10)]
        for _ in listeners:
            await ready.acquire()
        # The older protocol is for subscriptions alone.
        async with Client(transport=transport(served, _PROTOCOLS[0])) as session:
            await session.execute(gql('mutation { say(room: "lobby", text: "hello") }'))
        assert await asyncio.gather(*listeners) == ["hello"] * 10

    each_protocol(run, served)


def code_of(error: BaseException) -> int:
    """With which code the server has closed the WebSocket."""
    assert isinstance(error.__cause__, ConnectionClosed)
    assert error.__cause__.rcvd is not None
    return error.__cause__.rcvd.code


async def first_of_a_count(served: Served, protocol: str) -> dict[str, int]:
    """A new subscription's first answer."""
    async with Client(transport=transport(served, protocol)) as session:
        async for answer in session.subscribe(gql("subscription { count(target: 2) }")):
            return dict(answer)
    raise AssertionError("the subscription has ended")


@SITE.scenario("a worker is killed: subscriptions are told, and subscribe again", Needs.SOCKETS | Needs.WORKERS)
def killed(served: Served) -> None:
    async def run(served: Served, protocol: str) -> None:
        async def listen() -> None:
            async with Client(transport=transport(served, protocol)) as session:
                subscription = session.subscribe(gql("subscription { count(target: 10000) }"))
                await anext(subscription)
                served.kill_workers()
                async for _ in subscription:
                    pass

        with pytest.raises(TransportConnectionFailed) as closed:
            await listen()
        assert code_of(closed.value) == 1012
        assert await first_of_a_count(served, protocol) == {"count": 0}

    each_protocol(run, served)


@SITE.scenario("an edit under a subscription: it is told, and subscribes again", Needs.SOCKETS | Needs.RUNSERVER)
def edited(served: Served) -> None:
    async def run(served: Served, protocol: str) -> None:
        async def listen() -> None:
            async with Client(transport=transport(served, protocol)) as session:
                subscription = session.subscribe(gql('subscription { said(room: "lobby") }'))
                await anext(subscription)
                with served.edited("chat/schema.py", "VERSION = 1", "VERSION = 2"):
                    # Far less than until the consumer misses its first message, and far more than this takes.
                    await asyncio.wait_for(anext(subscription), 25)

        with pytest.raises(TransportConnectionFailed) as closed:
            await listen()
        assert code_of(closed.value) == 1012
        assert await first_of_a_count(served, protocol) == {"count": 0}

    each_protocol(run, served)
    eventually(lambda: post(served, "{ version }", "/sync/graphql/") == {"version": 1}, "the first version is back")


@SITE.scenario("system checks: a layer in memory", Needs.WORKERS | Needs.ASGI)
def checks(served: Served) -> None:
    layer = {"SITE_CHANNEL_LAYER": "channels.layers.InMemoryChannelLayer", "IFSERVER_WORKER_PROCESSES": "2"}
    check = ("check", "--deploy", "--tag", "ifserver")
    assert "ifserver.W007" in served.project.manage(*check, **{**served.environment, **layer})
    assert "ifserver.W007" not in served.manage(*check)


@SITE.scenario("its tests with ChannelsLiveServerTestCase", Needs.RUNSERVER | Needs.ASGI)
def tests(served: Served) -> None:
    assert "OK" in served.manage("test")
