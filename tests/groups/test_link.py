"""How code in any thread reaches the groups of this process."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from ifserver import groups
from ifserver.errors import ChannelNameError, ConfigurationError, NodeUnreachable
from ifserver.groups import link
from ifserver.process.reactor import MonotonicReactor, standing_in


class Safe(str):
    """As Django's SafeString, which `str` leaves as it is and nodes do not take."""

    __slots__ = ()

    def __str__(self) -> str:
        return self


class FakeGroups:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.answer: Deferred[int] | Exception | None = None
        self.thread = 0

    def publish(self, group: str, **what: Any) -> Deferred[int]:
        self.thread = threading.get_ident()
        if isinstance(self.answer, Exception):
            raise self.answer
        self.published.append((group, what))
        return succeed(2) if self.answer is None else self.answer


class FakeClusters:
    def __init__(self) -> None:
        self.groups = FakeGroups()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGroups]:
    """The groups of a worker, whose loop runs in a thread."""
    monkeypatch.setattr(link, "_link", None)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    clusters: Any = FakeClusters()
    link.work_with(loop, clusters, None)
    yield clusters.groups
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize(
    ("given", "published"),
    [
        ({"text": "ä"}, ("ä", None, None, "")),
        ({"bytes": b"\xff", "exclude": "a.1"}, (None, b"\xff", None, "a.1")),
        ({"bytes": bytearray(b"\xff")}, (None, b"\xff", None, "")),
        ({"json": {"ä": [1, None]}}, ('{"ä":[1,null]}', None, None, "")),
        ({"close": 4000}, (None, None, (4000, ""), "")),
        ({"close": (4000, "out")}, (None, None, (4000, "out"), "")),
    ],
)
def test_what_is_sent_from_a_thread_and_from_any_loop(
    worker: FakeGroups, given: dict[str, Any], published: tuple[Any, ...]
) -> None:
    assert groups.publish("news", **given) == 2
    assert worker.thread not in (0, threading.get_ident()), "on the loop of the worker"
    with ThreadPoolExecutor(1) as other:
        assert other.submit(lambda: asyncio.run(groups.send("news", **given))).result() == 2
    assert [(name, tuple(what.values())) for name, what in worker.published] == [("news", published)] * 2


def test_names_and_texts_may_be_safe_strings(worker: FakeGroups) -> None:
    groups.publish(Safe("news"), text=Safe("<b>"), exclude=Safe("a.1"))
    [(name, what)] = worker.published
    assert (name, what["text"], what["exclude"]) == ("news", "<b>", "a.1")
    assert {type(each) for each in (name, what["text"], what["exclude"])} == {str}


@pytest.mark.parametrize(
    ("given", "why"),
    [({"text": b"x"}, "text must be a str"), ({"text": "\ud800"}, "encoded"), ({"bytes": "x"}, "must be bytes")],
)
def test_what_nobody_can_be_sent_is_refused(worker: FakeGroups, given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        groups.publish("news", **given)
    assert worker.published == []


def test_a_coroutine_on_the_worker_s_own_loop(worker: FakeGroups) -> None:
    future = asyncio.run_coroutine_threadsafe(groups.send("news", text="x"), link.current().loop)
    assert future.result(60) == 2


def test_who_would_block_the_worker_s_loop_is_told(worker: FakeGroups) -> None:
    async def wrong() -> None:
        groups.publish("news", text="x")

    future = asyncio.run_coroutine_threadsafe(wrong(), link.current().loop)
    with pytest.raises(RuntimeError, match=r"await ifserver.groups.send\(\) instead"):
        future.result(60)
    assert worker.published == []


@pytest.mark.parametrize("given", [{}, {"text": "a", "bytes": b"b"}, {"text": "a", "close": 4000}])
def test_just_one_thing_is_sent(worker: FakeGroups, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exactly one of text, bytes, json and close"):
        groups.publish("news", **given)


@pytest.mark.parametrize("close", [1005, 999, 5000, (4000, "x" * 124), True])
def test_codes_that_no_close_may_have(worker: FakeGroups, close: Any) -> None:
    with pytest.raises(ValueError, match="close"):
        groups.publish("news", close=close)


def test_a_name_that_cannot_be(worker: FakeGroups) -> None:
    with pytest.raises(ChannelNameError, match="no group"):
        groups.publish("no group", text="x")


def test_errors_are_the_caller_s(worker: FakeGroups) -> None:
    worker.answer = fail(NodeUnreachable("node east: no connection"))
    with pytest.raises(NodeUnreachable, match="east"):
        groups.publish("news", text="x")
    worker.answer = ValueError("at once")
    with pytest.raises(ValueError, match="at once"):
        groups.publish("news", text="x")


def test_a_node_that_does_not_answer(worker: FakeGroups) -> None:
    worker.answer = Deferred()
    with pytest.raises(TimeoutError):
        groups.publish("news", text="x", timeout_s=0.01)


def test_a_process_that_was_forked_has_a_link_of_its_own(worker: FakeGroups, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = link.current()
    layer: Any = object()
    begun: list[link.Link] = []

    def begin(inherited: Any) -> link.Link:
        assert inherited is layer, "it has the nodes of the worker"
        begun.append(link.Link(mine.loop, mine.clusters))
        return begun[-1]

    monkeypatch.setattr(link, "_begun", begin)
    monkeypatch.setattr(mine, "layer", layer)
    monkeypatch.setattr(mine, "_pid", -1)
    assert link.current() is link.current() is begun[0]
    assert (mine.in_worker, begun[0].in_worker) == (True, False)


def test_a_process_without_nodes_is_told_what_holds_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(link, "_link", None)
    monkeypatch.delenv("IFSERVER_LAYER_CLUSTERS", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigurationError, match=r"no worker of ifserver.* can be reached by its own workers only"
    ) as error:
        groups.publish("news", text="x")
    assert "--cluster" not in str(error.value)


def test_a_reactor_that_only_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    import twisted.internet

    monkeypatch.delitem(sys.modules, "twisted.internet.reactor", raising=False)
    monkeypatch.delattr(twisted.internet, "reactor", raising=False)
    loop = asyncio.new_event_loop()
    reactor = MonotonicReactor(loop)
    with standing_in(reactor):
        from twisted.internet import reactor as found

        assert found is reactor
    assert "twisted.internet.reactor" not in sys.modules
    assert not hasattr(twisted.internet, "reactor")
    with standing_in(reactor), standing_in(MonotonicReactor(loop)):
        from twisted.internet import reactor as found

        assert found is reactor
    loop.close()
