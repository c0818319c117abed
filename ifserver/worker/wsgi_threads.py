"""The threads in which a WSGI application runs, and how they tell the event loop that there is news."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from typing import Final, Protocol

__all__ = ["Job", "Threads"]

_log = logging.getLogger(__name__)


class Job(Protocol):
    """What a thread does."""

    def work(self) -> None:
        """Do it, in a thread. Raises nothing."""

    def look(self) -> None:
        """See what the thread has to tell, in the event loop. Called one time or more for each `Threads.tell`."""


class Threads:
    """Up to `count` threads, started when they are needed. The methods are for the event loop but for `tell`.

    A thread that has done its job takes the next one without sleeping. Others are woken one after another, each by the
    one before it when that has begun a job: to wake more of them than can run makes them wait for the interpreter's
    lock, which costs more than a short request does.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._started = 0
        self._starting = threading.Lock()
        self._jobs: deque[Job] = deque()
        #: The locks on which idle threads sleep; the one that went to sleep last is woken first.
        self._idle: list[threading.Lock] = []
        #: Whether a thread was woken, or started, that does not run yet. It will look for jobs, so no other need.
        self._waking = False
        self._stopped = False
        self._has_warned = False
        #: Jobs that have something to tell, and whether the loop will look there.
        self._news: deque[Job] = deque()
        self._told = False

    def submit(self, job: Job) -> None:
        """Have `job` done by the next thread that is free.

        Raises:
            RuntimeError: there is no thread, and the system lets none be started.
        """
        self._jobs.append(job)
        if not self._waking:
            try:
                self._wake_one()
            except RuntimeError:
                self._jobs.remove(job)
                raise

    def tell(self, job: Job, loop: asyncio.AbstractEventLoop) -> None:
        """Have `job` looked at by `loop`. Called by threads: the loop is woken once for all that is told meanwhile."""
        self._news.append(job)
        if not self._told:
            self._told = True
            try:
                loop.call_soon_threadsafe(self._look)
            except RuntimeError:
                pass  # the process ends, and the loop is closed

    def stop(self) -> None:
        """Drop the jobs that have not begun, and let the threads end when they have done theirs."""
        self._stopped = True
        self._jobs.clear()
        while self._idle:
            self._idle.pop().release()

    def _look(self) -> None:
        self._told = False  # before: what comes from now on may be too late for this turn
        news = self._news
        while news:
            news.popleft().look()

    def _wake_one(self) -> None:
        # Several threads may be here at a time. Then one more is woken than is needed.
        try:
            sleeper = self._idle.pop()
        except IndexError:
            with self._starting:
                if self._started == self._count:
                    return
                self._waking = True
                self._started += 1
            # It must not hold up the end of the process, whatever the application does.
            thread = threading.Thread(target=self._run, name=f"wsgi_{self._started}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                with self._starting:
                    self._started -= 1
                    left = self._started
                self._waking = False
                # Those that run look for jobs before they sleep. Each of them counts, so whoever is one has not failed.
                if not left:
                    raise
                if not self._has_warned:
                    self._has_warned = True
                    _log.warning("cannot start one more of %d threads, %d go on: %s", self._count, left, error)
        else:
            self._waking = True
            sleeper.release()

    def _run(self) -> None:
        sleeper: Final = threading.Lock()
        sleeper.acquire()
        jobs, idle = self._jobs, self._idle
        while not self._stopped:
            self._waking = False  # before: a job that comes from now on wakes another thread
            while jobs:
                try:
                    job = jobs.popleft()
                except IndexError:
                    break
                if jobs and not self._waking:
                    self._wake_one()
                job.work()
                del job  # what it holds is not kept while the thread sleeps
            idle.append(sleeper)
            # One that came before the last line has found nobody to wake.
            if jobs or self._stopped:
                try:
                    idle.remove(sleeper)
                    continue
                except ValueError:
                    pass  # somebody has woken this thread meanwhile
            sleeper.acquire()
