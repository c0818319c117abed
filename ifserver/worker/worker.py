"""One worker process: the streams that it holds, how many more it may take, and its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from ifserver import channels
from ifserver.asgi_events import ASGIApplication
from ifserver.clock import Clock
from ifserver.config.settings import WorkerSettings
from ifserver.errors import ChannelNameError
from ifserver.layers.clusters import Clusters
from ifserver.layers.presence import SUPERVISOR_LIFE_S, Heartbeat
from ifserver.messages import STOPPED, UNREAD, HttpRequest, Release, ToWorkers, encode
from ifserver.metrics import DELIVERED, STREAMS_CLOSED, STREAMS_OPENED
from ifserver.worker.application import LoadErrorPage
from ifserver.worker.asgi_http import HttpStream
from ifserver.worker.asgi_websocket import WebSocketStream
from ifserver.worker.claims import Claims
from ifserver.worker.lifespan import Lifespan, pause, within
from ifserver.worker.pull import Puller
from ifserver.worker.servers import Servers
from ifserver.worker.stream import LOST, Stream
from ifserver.worker.wsgi import WSGIAdapter
from ifserver.worker.wsgi_call import as_get
from ifserver.worker.wsgi_stream import ThreadedStream
from ifserver.worker_ledger import Ledger, LedgerFull

__all__ = ["Worker"]

#: How long a cancelled application may take to clean up before it is abandoned.
CANCEL_S: Final = 1.0
#: How long nodes may take, at the end, to take what is still to be sent; and to end the last reads.
FLUSH_S: Final = 2.0
FLUSH_EVERY_S: Final = 0.005
#: How often to look whether what waits for a lost node can be sent elsewhere by now, in seconds.
FOLLOW_EVERY_S: Final = 0.05

_log = logging.getLogger(__name__)


class Worker:
    """Runs `application` for what it pulls. Everything happens on `loop`, which the nodes' reactor runs on.

    Args:
        ledger: what this process holds, where its supervisor can see it.
        supervisor: the process that watches over this one, named in every `Claim`.
        loop: the running event loop.
        cpu_s: the CPU time that the loop's thread has used, in seconds.
        pool: the name of the pool whose requests it takes; empty: there are none.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        clusters: Clusters,
        application: ASGIApplication,
        ledger: Ledger,
        supervisor: str,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        cpu_s: Callable[[], float],
        pool: str = "",
    ) -> None:
        self.application = application
        self.supervisor = supervisor
        self.loop = loop
        self.home = clusters.home
        self.send: Callable[[str, bytes, Callable[[], None] | None], None] = clusters.send
        self.max_websocket_message_bytes = settings.max_websocket_message_bytes
        self.file_header = None if settings.file_header is None else settings.file_header.lower().encode()
        self._settings = settings
        self._clusters = clusters
        self.groups = clusters.groups
        self._accounting = clusters.accounting
        self._counters = clusters.counters
        self._ledger = ledger
        self._clock = clock
        self._lifespan = Lifespan(application, clock, loop)
        self.state = self._lifespan.state
        self._http_stream = ThreadedStream if isinstance(application, WSGIAdapter) else HttpStream
        self._streams: dict[str, Stream] = {}
        #: Streams whose place a later attempt has taken, until their applications return.
        self._superseded: set[Stream] = set()
        #: Applications that run; those of them that have not begun to answer, or hold a thread; those of these that
        #: wait for their clients, and so hold no slot; and entries in the ledger.
        self._running = self.unanswered = self._awaiting = self._entries = 0
        self._draining = False
        self._idle: asyncio.Future[None] | None = None
        servers = self._servers = Servers(clusters, self._streams, ledger, supervisor, clusters.counters, clock)
        # Nobody looks for its beats, which are the supervisor's affair. But where it asks for servers, it beats first.
        self._heartbeat = Heartbeat(clusters, list, clock, SUPERVISOR_LIFE_S, bytes, servers.watched, servers.lose)
        self._claims = Claims(clock, self._claimed)
        self.hold_head = self._claims.hold_head
        *names, urgent = (channels.of_pool(pool, name) for name in channels.REQUEST_CHANNELS)
        if isinstance(application, LoadErrorPage):
            # Open WebSockets wait for a worker that runs the application.
            urgent, *names = names
        self.puller = Puller(
            clusters.home_nodes,
            urgent,
            names,
            settings.pull_batch,
            self,
            clusters.clock_of,
            clusters.least_clock_of,
            clock,
            cpu_s,
            loop.call_soon,
            clusters.counters,
        )

    async def start(self) -> None:
        """Start the application, then begin to receive. Does not if it has to stop meanwhile.

        Raises:
            StartupFailed: the application has sent that it cannot.
        """
        await self._lifespan.startup()
        if self._draining:
            return
        self.home.start(self._servers)
        self._servers.start()
        self._heartbeat.start()
        self.puller.start()

    async def stop(self, drain_timeout_s: float | None = None) -> None:
        """Take nothing more, wait for the streams, cancel what is left, end the application, send the last messages."""
        drain_s = self._settings.drain_timeout_s if drain_timeout_s is None else drain_timeout_s
        end = self._clock.seconds() + drain_s
        self._draining = True
        pulls = self.puller.stop().asFuture(self.loop)
        for stream in list(self._streams.values()):
            stream.drain()
        if not await within(self._clock, self.loop, max(drain_s, FLUSH_S), pulls):
            _log.error("a node has not answered the last read: stopping without it")
        await self._wait_until_idle(end - self._clock.seconds())
        if [stream for stream in list(self._streams.values()) if stream.drained()]:
            await self._wait_until_idle(CANCEL_S)
        await self._cancel_all()
        # Servers whose nodes are lost report where they receive now.
        while self._clusters.may_follow and self._clock.seconds() < end:
            await pause(self._clock, self.loop, FOLLOW_EVERY_S)
        # No stream is left that anything could be for.
        self._servers.stop()
        self._heartbeat.stop()
        self._claims.stop()
        unread = self.home.stop().asFuture(self.loop)
        await self._lifespan.shutdown(self._settings.shutdown_timeout_s)
        await within(self._clock, self.loop, FLUSH_S, unread)
        await self._flush()

    def free(self) -> int:
        """How many more requests may be taken. Below 0 when streams go on that have waited for their clients.

        Entries of the ledger count as well as running applications: while a node takes nothing from us, what it has
        not taken must not pile up.
        """
        settings = self._settings
        held = self._running if self._running > self._entries else self._entries
        return min(settings.concurrency - self.unanswered + self._awaiting, settings.max_streams - held)

    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics."""
        return {
            "streams": self._running,
            "unanswered": self.unanswered - self._awaiting,
            "ledger": self._entries,
            "free": self.free(),
            "reads": self.puller.reads,
        }

    # What happens to streams.

    def began(self) -> None:
        """A stream has begun to answer."""
        self.unanswered -= 1
        if self.puller.resting:
            self.puller.read_resting()

    def awaits_client(self, stream: Stream) -> None:
        """A stream waits for more of its request's body: others can have its slot."""
        stream.awaits_client = True
        self._awaiting += 1
        if self.puller.resting:
            self.puller.read_resting()

    def goes_on(self, stream: Stream) -> None:
        """A stream that waited for its client needs its slot again."""
        stream.awaits_client = False
        self._awaiting -= 1

    def ended(self, stream: Stream) -> None:
        """The application's coroutine has returned or raised."""
        self._running -= 1
        if not stream.answering:
            self.unanswered -= 1
        if self._streams.get(stream.link.identity) is stream:
            del self._streams[stream.link.identity]
        else:
            self._superseded.discard(stream)
        self._counters.cells[STREAMS_CLOSED[stream.KIND]] += 1
        if self.puller.resting:
            self.puller.read_resting()
        if self._idle is not None and not self._running and not self._idle.done():
            self._idle.set_result(None)

    def clear(self, slot: int) -> None:
        """The server knows of the end of the stream that has this slot of the ledger; or what it was sent was dropped,
        and it will ask: the slot must not be lost with it."""
        if slot < 0:
            return
        self._ledger.clear(slot)
        self._entries -= 1
        if self.puller.resting:
            self.puller.read_resting()

    # What is pulled: a `ifserver.worker.pull.Taker`.

    def open(self, requests: list[ToWorkers]) -> None:
        """Begin what one read has brought."""
        # What is taken now must name where its server finds us.
        home = self.home
        if home.silent or not home.node.connected:
            home.ensure()
        fresh = []
        for request in requests:
            try:
                stream = self._admit(request)
            except Exception:
                # A bug of ours, which costs this request alone.
                self._counters.add("messages_dropped", label="undecodable")
                _log.exception("request %s could not be begun", request.reply_channel)
            else:
                if stream is not None:
                    fresh.append(stream)
        if fresh:
            self._counters.cells[DELIVERED] += len(fresh)
            # Runs after the first step of each new task. What they have sent leaves in one flush, before the next read.
            self.loop.call_soon(self._claims.look, fresh, [stream.link.server for stream in fresh])
            self._clusters.flush_soon()

    def expired(self, requests: list[ToWorkers]) -> None:
        """It is too late to begin these."""
        inboxes = [channels.inbox_of(request.reply_channel) for request in requests]
        self._accounting.pulled(inbox for inbox in inboxes if channels.node_of(inbox) in self._clusters.nodes)

    def give_back(self, requests: list[ToWorkers]) -> None:
        """Begin none of these: they lay unread while the loop stood still, and others may have begun them."""
        count = f"{len(requests)} request{' goes' if len(requests) == 1 else 's go'}"
        _log.warning("the event loop was blocked (slow code in a coroutine?): %s back to the queue", count)
        self._counters.add("messages_dropped", len(requests), "withdrawn")
        self.home.ensure()
        for request in requests:
            _, server, identity = channels.split(request.reply_channel)
            try:
                self._clusters.send(server, encode(Release(identity, request.attempt, self.home.inbox, UNREAD)))
            except ChannelNameError as error:
                _log.error("a request cannot be given back: %s", error)
            else:
                self._accounting.pulled([server])

    def _admit(self, request: ToWorkers) -> Stream | None:
        channel = request.reply_channel
        node, server, identity = channels.split(channel)
        if node not in self._clusters.nodes:
            self._counters.add("messages_dropped", label="undecodable")
            _log.error("dropped a request: the node in its reply channel %r is not configured here", channel)
            return None
        earlier = self._streams.get(identity)
        if earlier is not None:
            if earlier.link.attempt >= request.attempt:
                self._counters.add("messages_dropped", label="gone")
                self._accounting.pulled([server])
                return None
            # The server has offered it again, to us: nothing that the earlier attempt sends is for anybody.
            earlier.lose()
            self._superseded.add(self._streams.pop(identity))
        try:
            slot = self._ledger.enter(channel, request.attempt)
            self._entries += 1
        except LedgerFull:
            # Cannot be, since `free` counts the entries. It is served all the same: it has been taken.
            _log.error("the ledger has no room for %s", channel)
            slot = -1
        stream: Stream
        if isinstance(request, HttpRequest):
            stream = self._http_stream(self, request, server, identity, slot)
        elif self._http_stream is ThreadedStream and request.unconfirmed is None:
            stream = ThreadedStream(self, as_get(request), server, identity, slot)
        else:
            stream = WebSocketStream(self, request, server, identity, slot)
        if self._draining:
            stream.drain()
        if stream.phase is not LOST:
            self._streams[identity] = stream
            self._running += 1
            self.unanswered += 1
            self._counters.cells[STREAMS_OPENED[stream.KIND]] += 1
            stream.start()
        return stream

    def _claimed(self, servers: list[str], claims: int) -> None:
        """From here on these servers know who has their requests; for some that took a claim."""
        if claims:
            self._counters.add("claims", claims)
        self._accounting.pulled(servers)

    # The end.

    async def _wait_until_idle(self, seconds: float) -> None:
        if self._running:
            self._idle = self.loop.create_future()
            await within(self._clock, self.loop, seconds, self._idle)

    async def _cancel_all(self) -> None:
        left = [*self._streams.values(), *self._superseded]
        if not left:
            return
        if len(left) == 1:
            _log.warning("1 request or WebSocket has not ended within drain_timeout: cancelling it")
        else:
            _log.warning("%d requests or WebSockets have not ended within drain_timeout: cancelling them", len(left))
        for stream in left:
            stream.cancel()
        await self._wait_until_idle(CANCEL_S)
        for stream in [*self._streams.values(), *self._superseded]:
            # No error: sync code of ASGI applications is in threads, and these cannot be cancelled.
            text = "%s: the application does not end when it is cancelled (a thread cannot be): abandoning it"
            _log.warning(text, stream)
            stream.release(STOPPED)

    async def _flush(self) -> None:
        end = self._clock.seconds() + FLUSH_S
        while (waiting := self._clusters.waiting()) and self._clock.seconds() < end:
            await pause(self._clock, self.loop, FLUSH_EVERY_S)
        if waiting:
            _log.error("%d messages could not be sent before the end", waiting)
