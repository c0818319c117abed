"""How code in any thread reaches the groups of this process: through the loop that the process's nodes belong to.

In a worker that is the worker's own loop. Elsewhere a thread of our own has one, from the first use on: callers come
and go with loops of theirs (``async_to_sync`` makes a new one for each call), and none of them may be kept.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ifserver.config.settings import LayerSettings
from ifserver.errors import ConfigurationError
from ifserver.layers.clusters import Clusters
from ifserver.layers.groups import Groups

#: How long the thread may take to end, in seconds.
_END_S: Final = 1.0

#: The error where no command of ours has given any.
_NO_NODES: Final = (
    "this process is no worker of ifserver, and there are no nodes in its settings: name them in ifserver.toml "
    "([clusters]) or in IFSERVER_LAYER_CLUSTERS. The broker of `ifserver run` can be reached by its own workers only: "
    "publish there with `ifserver publish GROUP --admin HOST:PORT` or POST /groups/GROUP, or use Redis, with "
    "`ifserver serve` and `ifserver worker`"
)

_T = TypeVar("_T")


class Link:
    """The nodes of a process, its groups among them, and the loop on which they live.

    Args:
        layer: the settings of these nodes, which hold in a process that is forked from this one; None: it looks for its
            own.
        in_worker: whether this process is a worker, which handles streams.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clusters: Clusters,
        layer: LayerSettings | None = None,
        *,
        in_worker: bool = False,
    ) -> None:
        self.loop = loop
        self.clusters = clusters
        self.groups: Groups = clusters.groups
        self.layer = layer
        self.in_worker = in_worker
        self._pid = os.getpid()

    @property
    def is_ours(self) -> bool:
        """Whether it belongs to this very process, and not to one from which it was forked."""
        return self._pid == os.getpid()

    def must_not_block(self, instead: str) -> None:
        """Raises RuntimeError on the loop's own thread, which would wait for itself: `instead` is to be awaited."""
        if asyncio._get_running_loop() is self.loop:
            raise RuntimeError(f"this would block the worker's event loop: await ifserver.groups.{instead}() instead")

    def ask(self, call: Callable[[Groups], Deferred[_T]]) -> concurrent.futures.Future[_T]:
        """What `call` comes to, which is called on the loop."""
        future: concurrent.futures.Future[_T] = concurrent.futures.Future()
        self.loop.call_soon_threadsafe(self._ask, call, future)
        return future

    async def awaited(self, call: Callable[[Groups], Deferred[_T]]) -> _T:
        """The same, for a coroutine on any loop."""
        loop = asyncio.get_running_loop()
        if loop is self.loop:
            return await call(self.groups).asFuture(loop)
        return await asyncio.wrap_future(self.ask(call))

    def _ask(self, call: Callable[[Groups], Deferred[_T]], future: concurrent.futures.Future[_T]) -> None:
        if not future.set_running_or_notify_cancel():
            return

        def failed(failure: Failure) -> None:
            future.set_exception(failure.value)

        try:
            call(self.groups).addCallbacks(future.set_result, failed)
        except Exception as error:
            future.set_exception(error)


#: The link of this process, of a worker or our own.
_link: Link | None = None
_lock = threading.Lock()


def current() -> Link:
    """The link of this process; begun if there is none.

    Raises:
        ConfigurationError: there is none, and no nodes are configured.
    """
    global _link
    found = _link
    if found is not None and found.is_ours:
        return found
    with _lock:
        if _link is None or not _link.is_ours:
            _link = _begun(None if _link is None else _link.layer)
        return _link


def work_with(loop: asyncio.AbstractEventLoop, clusters: Clusters, layer: LayerSettings | None) -> None:
    """This process is a worker: its nodes are these, and `layer` are their settings."""
    global _link
    _link = Link(loop, clusters, layer, in_worker=True)


def _begun(layer: LayerSettings | None) -> Link:
    """A loop in a thread of its own, and connections to all nodes of `layer`, or else of the settings.

    Raises:
        ConfigurationError: there are none, or a setting cannot be.
    """
    from ifserver import channels
    from ifserver.config import sources
    from ifserver.process.reactor import MonotonicReactor, standing_in
    from ifserver.services.service import Runtime, clusters_of, connect

    if layer is None:
        configuration = sources.configuration(os.environ)
        if not configuration.has("layer.clusters"):
            raise ConfigurationError(_NO_NODES)
        layer = configuration.layer(os.environ)
    loop = asyncio.new_event_loop()
    try:
        reactor = MonotonicReactor(loop)
        with standing_in(reactor):
            clusters = clusters_of(Runtime(reactor, loop), layer, channels.new_process_name())
    except BaseException:
        loop.close()  # another call may find corrected settings
        raise
    thread = threading.Thread(target=loop.run_forever, name="ifserver-groups", daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(connect(clusters), loop).result()
    pid = os.getpid()

    def end() -> None:
        if os.getpid() == pid:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_END_S)

    atexit.register(end)
    return Link(loop, clusters, layer)
