"""Closing old connections: once for all who ask at the same time, and nobody's failure or end is another's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from channels import consumer
from channels.consumer import AsyncConsumer

from ifserver.django.old_connections import SharedClosing, share_closing
from tests.django.process import LIMIT_S, in_thread


class Database:
    """Counts how often connections are closed, each of which takes until it is `released`."""

    def __init__(self) -> None:
        self.begun = 0
        self.closed = 0
        self.errors: list[Exception] = []
        self.released = asyncio.Event()

    async def close(self) -> None:
        self.begun += 1
        await self.released.wait()
        if self.errors:
            raise self.errors.pop()
        self.closed += 1

    async def has_begun(self, count: int) -> None:
        while self.begun < count:
            await asyncio.sleep(0)


def run(act: Callable[[Database, SharedClosing], Awaitable[None]]) -> None:
    async def main() -> None:
        database = Database()
        async with asyncio.timeout(LIMIT_S):
            await act(database, SharedClosing(database.close))

    in_thread(lambda: asyncio.run(main()))


def test_those_who_ask_in_the_same_turn_share_a_hop() -> None:
    async def act(database: Database, close: SharedClosing) -> None:
        database.released.set()
        await asyncio.gather(*(close() for _ in range(1000)))
        assert database.closed == 1
        await close()
        assert database.closed == 2

    run(act)


def test_who_asks_when_it_has_begun_is_not_served_by_it() -> None:
    async def act(database: Database, close: SharedClosing) -> None:
        first = asyncio.create_task(close())
        await database.has_begun(1)
        second = asyncio.create_task(close())
        await database.has_begun(2)
        database.released.set()
        await asyncio.gather(first, second)
        assert database.closed == 2

    run(act)


def test_only_the_first_waits_for_it() -> None:
    async def act(database: Database, close: SharedClosing) -> None:
        first, *others = (asyncio.create_task(close()) for _ in range(5))
        await asyncio.gather(*others)
        assert (database.begun, database.closed, first.done()) == (1, 0, False)
        database.released.set()
        await first
        assert database.closed == 1

    run(act)


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_what_the_others_do_in_the_thread_comes_after_it(is_cancelled: bool) -> None:
    async def act(_: Database, __: SharedClosing) -> None:
        done: list[str] = []

        async def in_the_thread() -> None:
            await sync_to_async(done.append)("closed")

        close = SharedClosing(in_the_thread)

        async def handle(number: int) -> None:
            await close()
            await sync_to_async(done.append)(f"query {number}")

        blocked = threading.Event()
        busy = asyncio.create_task(sync_to_async(blocked.wait)(LIMIT_S))
        await asyncio.sleep(0)
        first, *others = (asyncio.create_task(handle(number)) for number in range(3))
        await asyncio.sleep(0)
        if is_cancelled:
            first.cancel()
            await asyncio.wait([first])
        blocked.set()
        await asyncio.gather(busy, *others)
        await asyncio.wait([first])
        assert done == ["closed", "query 1", "query 2", *([] if is_cancelled else ["query 0"])]

    run(act)


@pytest.mark.parametrize("others", [0, 4])
def test_who_is_cancelled_takes_it_from_nobody(others: int) -> None:
    async def act(database: Database, close: SharedClosing) -> None:
        first, *more = (asyncio.create_task(close()) for _ in range(1 + others))
        await database.has_begun(1)
        await asyncio.gather(*more)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        database.released.set()
        while not database.closed:
            await asyncio.sleep(0)
        assert database.begun == 1

    run(act)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_failure_is_that_of_one_alone(at_once: bool) -> None:
    async def act(database: Database, close: SharedClosing) -> None:
        database.errors.append(OSError("the connection was lost"))
        if at_once:
            database.released.set()
        tasks = [asyncio.create_task(close()) for _ in range(10)]
        await database.has_begun(1)
        database.released.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(result) for result in results if result is not None] == ["the connection was lost"]
        while not database.closed:
            await asyncio.sleep(0)
        assert database.begun == 2, "it was repeated for the others"

    run(act)


def test_sync_code_that_waits_for_it_is_not_waited_for() -> None:
    """As Channels' own function: a consumer that sync code calls with `async_to_sync` closes in the thread of that."""

    async def in_the_thread() -> None:
        await sync_to_async(lambda: None)()

    async def act(_: Database, __: SharedClosing) -> None:
        close = SharedClosing(in_the_thread)
        loop = asyncio.get_running_loop()
        entered, may_go_on, comes = threading.Event(), threading.Event(), threading.Event()

        def sync_code() -> None:
            entered.set()
            may_go_on.wait(LIMIT_S)
            async_to_sync(close)()

        def call_soon_threadsafe(*arguments: Any, **named: Any) -> Any:
            try:
                return type(loop).call_soon_threadsafe(loop, *arguments, **named)
            finally:
                comes.set()

        running = asyncio.create_task(sync_to_async(sync_code)())
        while not entered.is_set():
            await asyncio.sleep(0)
        loop.call_soon_threadsafe = call_soon_threadsafe  # type: ignore[method-assign]
        may_go_on.set()
        comes.wait(LIMIT_S)
        # The sync code's comes in this very turn, and another one is there first. It needs the thread, which is taken.
        await asyncio.gather(running, close())

    run(act)


def test_whoever_has_a_thread_of_its_own_is_served_there() -> None:
    async def act(database: Database, close: SharedClosing) -> None:
        async def apart() -> None:
            async with ThreadSensitiveContext():
                await close()

        database.released.set()
        await asyncio.gather(close(), apart(), close(), apart())
        assert database.closed == 3

    run(act)


def test_loops_share_nothing() -> None:
    async def act(database: Database, close: SharedClosing) -> None:
        first = asyncio.create_task(close())
        await asyncio.sleep(0)
        database.released.set()
        await asyncio.to_thread(asyncio.run, close())
        await first
        assert database.closed == 2

    run(act)


def test_consumers_of_channels_do_it_so(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    async def close() -> None:
        nonlocal count
        count += 1

    monkeypatch.setattr(consumer, "aclose_old_connections", close)
    share_closing()
    shared = consumer.aclose_old_connections
    share_closing()
    assert consumer.aclose_old_connections is shared
    handled: list[int] = []

    class Numbered(AsyncConsumer):  # type: ignore[misc]  # Channels has no types
        async def news(self, event: dict[str, int]) -> None:
            handled.append(event["number"])

    async def act() -> None:
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*(Numbered().dispatch({"type": "news", "number": number}) for number in range(10)))

    in_thread(lambda: asyncio.run(act()))
    assert sorted(handled) == list(range(10))
    assert count == 1
