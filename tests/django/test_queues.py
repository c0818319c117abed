"""Queues of one process: order, bounds, and receivers that come and go."""

from __future__ import annotations

import asyncio
import threading
from threading import RLock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifserver.django.queues import Queue, QueueClosed
from tests.django.process import LIMIT_S, in_thread


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(capacity: int = 100, expiry_s: float = 60.0) -> tuple[Queue, Time, list[int]]:
    """A queue, its time, and how many messages have expired at a time."""
    time, expired = Time(), list[int]()
    return Queue(RLock(), capacity, expiry_s, time, expired.append), time, expired


def test_a_queue_is_bounded_and_expired_messages_make_room() -> None:
    queue, time, expired = made(capacity=2)
    assert [queue.put(b"%d" % number) for number in range(3)] == [True, True, False]
    time.now += 59.9
    assert not queue.put(b"3")
    time.now += 0.1
    assert queue.put(b"4")
    assert expired == [2]
    assert len(queue) == 1
    assert in_thread(lambda: asyncio.run(queue.get())) == b"4"


def test_what_was_taken_from_a_node_has_room_and_its_own_time() -> None:
    queue, time, expired = made(capacity=0)
    queue.keep(b"1", 5.0)
    queue.keep(b"2", 10.0)
    assert queue.oldest_life_s == 5.0
    time.now += 5.0
    queue.tidy()
    assert (len(queue), expired, queue.oldest_life_s) == (1, [1], 5.0)
    queue.clear()
    assert (len(queue), queue.oldest_life_s) == (0, None)


def test_a_queue_that_is_closed_lets_everybody_go() -> None:
    queue, _, _ = made()

    async def act() -> None:
        waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
        await asyncio.sleep(0)
        assert queue.is_awaited
        queue.close()
        for each in waiting:
            with pytest.raises(QueueClosed):
                await each
        with pytest.raises(QueueClosed):
            await queue.get()
        assert not queue.is_awaited

    in_thread(lambda: asyncio.run(act()))


def test_a_message_from_another_thread_wakes_the_receiver() -> None:
    queue, _, _ = made()

    async def act() -> bytes:
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        thread = threading.Thread(target=queue.put, args=(b"x",))
        thread.start()
        async with asyncio.timeout(LIMIT_S):
            got = await waiting
        thread.join()
        return got

    assert in_thread(lambda: asyncio.run(act())) == b"x"


def test_when_it_was_last_used() -> None:
    queue, time, _ = made()
    time.now += 10
    queue.put(b"x")
    assert queue.used_at == 1000.0
    in_thread(lambda: asyncio.run(queue.get()))
    assert queue.used_at == 1010.0


@given(st.lists(st.sampled_from(["put", "receive", "cancel first", "cancel last", "turn"]), max_size=60))
def test_whatever_receivers_do_each_message_is_received_once_and_in_order(steps: list[str]) -> None:
    queue, _, _ = made()
    got: list[int] = []

    async def receive() -> None:
        got.append(int(await queue.get()))

    async def act() -> None:
        count, tasks = 0, list[asyncio.Task[None]]()
        for step in steps:
            if step == "put":
                queue.put(b"%d" % count)
                count += 1
            elif step == "receive":
                tasks.append(asyncio.create_task(receive()))
            elif step == "turn":
                await asyncio.sleep(0)
            elif tasks:
                tasks.pop(0 if step == "cancel first" else -1).cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(queue) == 0 or all(each.done() for each in tasks), "a receiver waits beside a message"
        while len(queue):
            await receive()
        assert got == list(range(count))
        for each in tasks:
            each.cancel()

    in_thread(lambda: asyncio.run(act()))
