"""A process as the channel layer sees it, without sockets: a loop in a thread of its own, and a node in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ifserver.channels import new_process_name
from ifserver.django import hub as hubs
from ifserver.django.hub import Hub, hub_of
from ifserver.django.layer import ChannelLayer
from ifserver.groups import link as links
from ifserver.groups.link import Link
from ifserver.layers.clusters import Clusters
from ifserver.layers.embedded.node import MemoryNode
from ifserver.layers.node import Limits
from ifserver.metrics import Counters

#: How long anything may take, in seconds. It ends what hangs.
LIMIT_S = 120.0

_T = TypeVar("_T")


def in_thread(call: Callable[[], _T]) -> _T:
    """What `call` returns in a thread without a loop, as that of a shell is; pytest-twisted's has one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(LIMIT_S)


class LoopClock:
    """`ifserver.clock.Clock`, on a loop of asyncio's; a test may let time pass. Timers do not hear of that."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        #: By how much it is ahead of the loop, in seconds.
        self.ahead_s = 0.0

    def seconds(self) -> float:
        return self._loop.time() + self.ahead_s

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> _Timer:
        return _Timer(self._loop, delay, lambda: callable(*args, **kwargs))


class _Timer:
    def __init__(self, loop: asyncio.AbstractEventLoop, delay: float, call: Callable[[], Any]) -> None:
        self._call: Callable[[], Any] | None = call
        self._handle = loop.call_later(delay, self._run)

    def _run(self) -> None:
        assert self._call is not None
        call, self._call = self._call, None
        call()

    def active(self) -> bool:
        return self._call is not None

    def cancel(self) -> None:
        assert self._call is not None
        self._call = None
        self._handle.cancel()


class Machine:
    """Processes that share one node, on one loop that runs in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.clock = LoopClock(self.loop)
        limits = Limits(10_000, 90.0), Limits(100_000, 600.0)
        self.node = MemoryNode("east", *limits, self.clock, "epoch")
        self.counters = Counters()
        self.groups: Any = None
        self.link = self.process()
        self.call(self.link.clusters.start)
        links.work_with(self.loop, self.link.clusters, None)
        self.link = links.current()
        hubs._hubs[self.link] = Hub(self.link, self.clock.seconds)

    def process(self) -> Link:
        """One more process. They share what carries groups, which has one hearer for each node."""
        clusters = Clusters(
            new_process_name(), {"east": [self.node]}, "east", self.clock, self.loop.call_soon, self.counters
        )
        if self.groups is None:
            self.groups = clusters.groups
        clusters.groups = self.groups
        self.node.subscriber = self.groups  # type: ignore[assignment]
        return Link(self.loop, clusters, in_worker=True)

    def call(self, what: Callable[[], Any]) -> Any:
        """Call it on the loop."""

        async def called() -> Any:
            return what()

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(LIMIT_S)

    def close(self) -> None:
        self.call(self.link.clusters.stop)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(LIMIT_S)
        pending = asyncio.all_tasks(self.loop)
        self.loop.close()
        links._link = None
        del hubs._hubs[self.link]
        assert not pending


class LayerOf(ChannelLayer):
    """The channel layer in a process that is not the test's."""

    def __init__(self, link: Link, **options: Any) -> None:
        super().__init__(**options)
        self._link = link

    def _hub(self) -> Hub:
        return hub_of(self._link)
