"""Asking who is in a group, from a coroutine on any loop and from any thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from ifserver import groups
from ifserver.errors import ChannelNameError, NodeUnreachable
from ifserver.groups import link

FOUND = groups.Members(1, [groups.Member("k3v9x2aq7m.1f", "ann")])


class Worker:
    """A process that has nodes, and the thread in which its loop runs."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.asked: list[tuple[str, bool, int]] = []
        self.answer: Callable[[], Deferred[Any]] = lambda: succeed(FOUND)
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        clusters: Any = SimpleNamespace(groups=None, membership=self)
        link.work_with(self.loop, clusters, None)

    def ask(self, group: str, which: bool) -> Deferred[Any]:
        self.asked.append((group, which, threading.get_ident()))
        return self.answer()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)


def elsewhere(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What it comes to on another loop. (There is one already in the thread of the tests.)"""
    with ThreadPoolExecutor() as pool:
        return pool.submit(asyncio.run, coroutine).result(10)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(link, "_link", None)
    worker = Worker()
    yield worker
    worker.loop.call_soon_threadsafe(worker.loop.stop)
    worker.thread.join()
    worker.loop.close()


def test_from_a_thread(worker: Worker) -> None:
    assert groups.get_members("news") == FOUND
    assert groups.get_members("news", tags=True) == FOUND
    assert worker.asked == [("news", False, worker.thread.ident), ("news", True, worker.thread.ident)]


def test_from_any_loop(worker: Worker) -> None:
    assert elsewhere(groups.members("news", tags=True)) == FOUND
    assert worker.run(groups.members("news")) == FOUND
    assert worker.asked == [("news", True, worker.thread.ident), ("news", False, worker.thread.ident)]


def test_what_fails(worker: Worker) -> None:
    worker.answer = lambda: fail(NodeUnreachable("gone"))
    with pytest.raises(NodeUnreachable, match="gone"):
        groups.get_members("news")
    with pytest.raises(NodeUnreachable, match="gone"):
        elsewhere(groups.members("news"))
    worker.answer = Deferred
    with pytest.raises(TimeoutError):
        groups.get_members("news", timeout_s=0.01)


def test_names(worker: Worker) -> None:
    with pytest.raises(ChannelNameError):
        groups.get_members("a b")
    with pytest.raises(ChannelNameError):
        elsewhere(groups.members("!x"))
    assert worker.asked == []


def test_on_the_loop_of_a_worker_it_does_not_block(worker: Worker) -> None:
    async def view() -> None:
        groups.get_members("news")

    with pytest.raises(RuntimeError, match=r"await ifserver\.groups\.members\(\) instead"):
        worker.run(view())
