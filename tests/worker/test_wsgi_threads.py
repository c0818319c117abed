"""The threads of a WSGI application."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from ifserver.worker.wsgi_threads import Threads
from tests.fresh_loop import run


class Work:
    """A job that tells its thread, and may wait for others."""

    def __init__(self, threads: Threads, loop: asyncio.AbstractEventLoop, barrier: threading.Barrier | None) -> None:
        self._threads, self._loop, self._barrier = threads, loop, barrier
        self.thread: threading.Thread | None = None
        self.seen: asyncio.Future[None] = loop.create_future()

    def work(self) -> None:
        if self._barrier is not None:
            self._barrier.wait(120)
        self.thread = threading.current_thread()
        self._threads.tell(self, self._loop)

    def look(self) -> None:
        if not self.seen.done():
            self.seen.set_result(None)


async def done(threads: Threads, count: int, barrier: threading.Barrier | None = None) -> set[threading.Thread | None]:
    """Have so many jobs done. Returns the threads that have done them."""
    loop = asyncio.get_running_loop()
    jobs = [Work(threads, loop, barrier) for _ in range(count)]
    for job in jobs:
        threads.submit(job)
    await asyncio.wait_for(asyncio.gather(*(job.seen for job in jobs)), 120)
    return {job.thread for job in jobs}


def test_jobs_that_wait_for_each_other_have_as_many_threads_as_they_need() -> None:
    async def main() -> None:
        threads = Threads(5)
        for _ in range(20):
            assert len(await done(threads, 5, threading.Barrier(5))) == 5
        threads.stop()

    run(main)


def test_many_jobs_are_done_by_few_threads_and_none_is_forgotten() -> None:
    async def main() -> None:
        threads = Threads(3)
        used = set()
        for count in [1, 2, 3, 50, 1, 1000] * 10:
            used |= await done(threads, count)
        assert len(used) <= 3
        assert {thread.name for thread in used if thread} <= {"wsgi_1", "wsgi_2", "wsgi_3"}
        threads.stop()

    run(main)


def test_jobs_one_after_the_other_are_all_done_by_the_same_thread() -> None:
    async def main() -> None:
        threads = Threads(8)
        first = await done(threads, 1)
        for _ in range(20):
            await asyncio.sleep(0.002)  # the thread goes to sleep meanwhile
            assert await done(threads, 1) == first
        threads.stop()

    run(main)


def test_threads_that_are_stopped_end_when_they_have_done_their_jobs() -> None:
    async def main() -> None:
        threads = Threads(4)
        used = await done(threads, 4, threading.Barrier(4))
        gate = threading.Barrier(2)
        last = Work(threads, asyncio.get_running_loop(), gate)
        forgotten = Work(threads, asyncio.get_running_loop(), None)
        threads.submit(last)
        while not gate.n_waiting:
            await asyncio.sleep(0.001)
        threads.stop()
        threads.submit(forgotten)
        gate.wait(120)
        await asyncio.wait_for(last.seen, 120)
        end = time.monotonic() + 120
        while any(thread is not None and thread.is_alive() for thread in used):
            assert time.monotonic() < end
            await asyncio.sleep(0.001)

    run(main)


def test_what_is_told_to_a_loop_that_is_closed_is_lost() -> None:
    threads = Threads(1)
    loop = asyncio.new_event_loop()
    job = Work(threads, loop, None)
    loop.close()
    job.work()
    assert not job.seen.done()


def test_where_no_thread_can_be_started_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    starts = threading.Thread.start

    def fails(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        threads = Threads(4)
        monkeypatch.setattr(threading.Thread, "start", fails)
        with pytest.raises(RuntimeError, match="can't start"):
            threads.submit(Work(threads, loop, None))
        monkeypatch.setattr(threading.Thread, "start", starts)
        barrier = threading.Barrier(2)
        first = Work(threads, loop, barrier)
        threads.submit(first)
        while not barrier.n_waiting:
            await asyncio.sleep(0.001)
        monkeypatch.setattr(threading.Thread, "start", fails)
        others = [Work(threads, loop, None) for _ in range(3)]
        for each in others:
            threads.submit(each)
        barrier.wait(120)
        await asyncio.wait_for(asyncio.gather(*(each.seen for each in (first, *others))), 120)
        assert {each.thread for each in others} == {first.thread}
        assert [record.getMessage() for record in caplog.records] == [
            "cannot start one more of 4 threads, 1 go on: can't start new thread"
        ]
        # And when there is room again.
        monkeypatch.setattr(threading.Thread, "start", starts)
        assert len(await done(threads, 4, threading.Barrier(4))) == 4
        threads.stop()

    run(main)
