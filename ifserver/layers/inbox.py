"""Where one process receives: its inbox on a node of its home cluster, and on another one when that node fails."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from twisted.python.failure import Failure

from ifserver import channels
from ifserver.clock import Clock, Timer
from ifserver.errors import NodeError, NodeRefused, NodeUnreachable
from ifserver.layers.node import UNREACHABLE_S, Node
from ifserver.layers.reconnection import Periodic
from ifserver.logs import events
from ifserver.messages import is_counted

if TYPE_CHECKING:
    from ifserver.layers.clusters import Clusters

__all__ = ["InboxCleanup", "InboxHome", "InboxReader", "Place", "Resident"]

_log = logging.getLogger(__name__)


#: How often the nodes are looked at.
_LOOK_S: Final = 0.25
#: How often it is asked whether streams still name an old place, which means to look at all of them.
_ASK_S: Final = 5.0


class Place:
    """One inbox of this process."""

    __slots__ = ("ask_at", "inbox", "left_at", "node", "reader")

    def __init__(self, node: Node, process: str) -> None:
        self.node = node
        self.inbox = channels.make_inbox(node.name, process)
        #: When another became the present one; None: it is the present one.
        self.left_at: float | None = None
        #: When to ask again whether streams name it.
        self.ask_at = 0.0
        self.reader: InboxReader | None = None


class Resident(Protocol):
    """The process that receives at a `InboxHome`."""

    def deliver(self, inbox: str, payloads: list[bytes]) -> None:
        """Messages have come to this inbox."""

    def moved(self) -> None:
        """New streams name another inbox from now on."""

    def names(self, inbox: str) -> bool:
        """Whether any stream names this inbox."""

    def readdress(self, inbox: str) -> None:
        """The node of this inbox is gone: the streams that name it name the present one from now on."""


class InboxHome:
    """The inboxes of the process `process`, one of them the present one.

    Args:
        nodes: of the home cluster; the inbox is on one of them.
        grace_s: how long a node may be gone before streams are told another address.
        silent: is told of nodes that are connected and give no sign of life, again and again.
    """

    def __init__(
        self,
        process: str,
        nodes: Sequence[Node],
        clock: Clock,
        grace_s: float,
        silent: Callable[[Node], None],
    ) -> None:
        self._process = process
        self._nodes = nodes
        self._clock = clock
        self._grace_s = grace_s
        self._told_silent = silent
        #: Whether the node of the present inbox is connected, and was silent when we last looked.
        self.silent = False
        self._resident: Resident | None = None
        self._periodic = Periodic(clock, _LOOK_S, self._look)
        self._waiting: dict[Deferred[None], None] = {}
        #: Questions to the nodes whether they are connected.
        self._asking: list[Deferred[None]] = []
        #: The present one, and those that were before it.
        self.places = [Place(random.choice(nodes), process)]
        #: The present inbox, and its node.
        self.inbox, self.node = self.places[0].inbox, self.places[0].node
        #: How often streams were told another address.
        self.moves = 0
        #: Who else is told of another present node.
        self.followers: list[Callable[[Node], None]] = []

    @property
    def reads(self) -> bool:
        """Whether this process receives anything."""
        return self._resident is not None

    def nodes(self) -> list[Node]:
        """Where this process receives."""
        return [place.node for place in self.places]

    def start(self, resident: Resident) -> None:
        """Begin to read, and to look at the nodes."""
        self._resident = resident
        self._open(self.places[0])
        self._periodic.start()

    def stop(self) -> Deferred[None]:
        """Read no more; fires when the last reads have ended, whose messages are still delivered."""
        self._periodic.stop()
        self._waiting.clear()
        self._ask_no_more()
        readers = [place.reader.stop() for place in self.places if place.reader is not None]
        return gatherResults(readers).addCallback(lambda _: None) if readers else succeed(None)

    def ensure(self) -> bool:
        """Whether this process can be reached where new streams will say; it moves for that if it can."""
        # For every request, so what takes longer to find out is found out by `_look`; but it may have answered since.
        if self.node.connected and not (self.silent and self.node.unreachable_s() >= UNREACHABLE_S):
            return True
        return self._move()

    def ready(self) -> Deferred[None]:
        """Fires when this process can be reached, at once if it can. May be cancelled. Never fires after `stop`."""
        if self.ensure():
            return succeed(None)
        waiting: Deferred[None] = Deferred(lambda cancelled: self._waiting.pop(cancelled, None))
        self._waiting[waiting] = None
        if not self._asking:
            self._asking = [node.ready() for node in self._nodes]
            for asking in list(self._asking):
                asking.addCallbacks(self._connected, _cancelled)
        return waiting

    def _connected(self, _: None) -> None:
        if self._waiting and self.ensure():
            self._ask_no_more()
            waiting, self._waiting = self._waiting, {}
            for deferred in waiting:
                deferred.callback(None)

    def _ask_no_more(self) -> None:
        asking, self._asking = self._asking, []
        for each in asking:
            each.cancel()

    def _look(self) -> bool:
        for node in self._nodes:
            if node.connected and node.unreachable_s() >= UNREACHABLE_S:
                self._told_silent(node)
        present = self.node
        unreachable = present.unreachable_s() >= UNREACHABLE_S
        self.silent = unreachable and present.connected
        if unreachable:
            self._move()
        self._connected(None)
        now = self._clock.seconds()
        for place in self.places[1:]:
            if now >= place.ask_at:
                # As soon as the grace is over: others count from then on how long streams take to say where they are.
                left = self._grace_s - place.node.unreachable_s()
                place.ask_at = now + (left if 0.0 < left < _ASK_S else _ASK_S)
                self._look_back(place, now)
        return True

    def _look_back(self, place: Place, now: float) -> None:
        """A former place: do streams still name it, and can they?"""
        resident = self._resident
        if resident is None or place.left_at is None:
            return
        if place.node.unreachable_s() >= self._grace_s and self.ensure():
            if resident.names(place.inbox):
                _log.warning(
                    "node %s has been unreachable for %.0f s: its streams are told another address",
                    place.node.name,
                    place.node.unreachable_s(),
                )
                self.moves += 1
                resident.readdress(place.inbox)
        elif now - place.left_at >= self._grace_s and not resident.names(place.inbox):
            # What is late was meant for streams that have ended.
            self.places.remove(place)
            if place.reader is not None:
                place.reader.stop()

    def _move(self) -> bool:
        """Receive on another node, if one can be reached; whether one can."""
        old = self.places[0]
        others = [node for node in self._nodes if node is not old.node]
        reachable = [node for node in others if node.is_reachable()]
        if not reachable:
            return False
        node = random.choice(reachable)
        place = next((place for place in self.places if place.node is node), None)
        if place is None:
            place = Place(node, self._process)
            if self._resident is not None:
                self._open(place)
        else:
            self.places.remove(place)
        place.left_at = None
        self.inbox, self.node = place.inbox, place.node
        self.silent = False
        for follow in self.followers:
            follow(node)
        if self._resident is None or old.node.epoch is None:
            # It was never connected, so nobody can have been told of it.
            self.places[0] = place
            if old.reader is not None:
                old.reader.stop()
            if self._resident is not None:
                self._resident.moved()
            return True
        old.left_at = old.ask_at = self._clock.seconds()
        self.places.insert(0, place)
        text = "node %s is unreachable: receiving on %s from now on"
        events.report(_log, logging.WARNING, events.Mark.INBOX_MOVED, text, old.node.name, node.name)
        self._resident.moved()
        return True

    def _open(self, place: Place) -> None:
        assert self._resident is not None
        deliver = partial(self._resident.deliver, place.inbox)
        place.reader = InboxReader(place.node, place.inbox, deliver, self._clock)
        place.reader.start()


def _cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)


#: Messages taken at once: enough to make the node's cost per message vanish, few enough to keep a turn short. The
#: windows of their streams bound how much that can be.
COUNT: Final = 200
#: How long one read blocks, in seconds, and with it how long the end of this process may have to wait for.
WAIT_S: Final = 1.0
#: First pause after the node has refused or failed, and the longest.
RETRY_S: Final = 0.05
RETRY_MAX_S: Final = 1.0


class InboxReader:
    """Reads the channel `name` of `node`, and hands what comes to `deliver`, from `start` to `stop`."""

    def __init__(self, node: Node, name: str, deliver: Callable[[list[bytes]], None], clock: Clock) -> None:
        self._node = node
        self._name = name
        self._deliver = deliver
        self._clock = clock
        self._running = False
        #: What is waited for between two reads, and may be cancelled.
        self._between: Deferred[None] | None = None
        self._reading: Deferred[None] | None = None

    def start(self) -> None:
        """Begin to read."""
        self._running = True
        self._reading = Deferred.fromCoroutine(self._read())

    def stop(self) -> Deferred[None]:
        """Begin no further read. Fires when the outstanding one has ended; what it brings is delivered."""
        self._running = False
        if self._reading is None:
            return succeed(None)
        if self._between is not None:
            self._between.cancel()
        self._node.end_pulls()
        return self._reading

    async def _read(self) -> None:
        failures = 0
        while self._running:
            try:
                pulled = await self._node.pull((self._name,), COUNT, WAIT_S)
            except NodeUnreachable:
                failures += 1
                await self._wait(self._node.ready())
                if failures > 1:
                    await self._pause(failures - 1)
            except Exception as error:
                failures += 1
                expected = isinstance(error, NodeRefused)
                _log.error(
                    "node %s does not let us read %s: %s", self._node.name, self._name, error, exc_info=not expected
                )
                await self._pause(failures)
            else:
                failures = 0
                if pulled is None:
                    continue
                try:
                    self._deliver(pulled.payloads)
                except Exception:
                    # A bug of ours must not end the reading.
                    _log.exception("messages from %s could not be handled", self._name)

    async def _pause(self, failures: int) -> None:
        if self._running:
            seconds = min(RETRY_S * 2 ** min(failures - 1, 10), RETRY_MAX_S) * random.uniform(0.7, 1.3)
            over: Deferred[None] = Deferred(lambda _: timer.cancel())
            timer = self._clock.callLater(seconds, over.callback, None)
            await self._wait(over)

    async def _wait(self, event: Deferred[None]) -> None:
        self._between = event
        try:
            if self._running:
                await event
        except CancelledError:
            pass  # by `stop`
        finally:
            self._between = None


#: When to look, in seconds after the end: those who were told of it by then send nothing more; the others have asked
#: the node for it 10 s later.
_LOOKS_S: Final = (1.0, 12.0)
#: Messages taken at once.
_COUNT: Final = 1000


class InboxCleanup:
    """Whatever was sent to processes that are no more."""

    def __init__(self, clusters: Clusters, clock: Clock) -> None:
        self._clusters = clusters
        self._clock = clock
        self._pending: dict[Timer, tuple[Node, str]] = {}

    def ended(self, inbox: str) -> None:
        """The process that received at `inbox` has ended, for certain."""
        node = self._clusters.nodes.get(channels.node_of(inbox))
        if node is not None:
            for seconds in _LOOKS_S:
                self._look_later(seconds, node, inbox)

    async def stop(self) -> None:
        """Look a last time, at once. What is sent still later expires."""
        pending, self._pending = self._pending, {}
        for timer in pending:
            timer.cancel()
        for node, inbox in set(pending.values()):
            await self._empty(node, inbox)

    def _look_later(self, seconds: float, node: Node, inbox: str) -> None:
        def look() -> None:
            del self._pending[timer]
            Deferred.fromCoroutine(self._empty(node, inbox))

        timer = self._clock.callLater(seconds, look)
        self._pending[timer] = node, inbox

    async def _empty(self, node: Node, inbox: str) -> None:
        try:
            while (pulled := await node.pull((inbox,), _COUNT, 0.0)) is not None:
                self._clusters.counters.add("messages_dropped", sum(map(is_counted, pulled.payloads)), "gone")
        except NodeError as error:
            _log.info("the inbox %s of a process that has ended is left to expire: %s", inbox, error)
