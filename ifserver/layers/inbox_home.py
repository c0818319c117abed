"""Where one process receives: its inbox on a node of its home cluster, and on another one when that node fails.

When the node of the inbox has been unreachable for a second, or as soon as a stream needs an address, the process opens
an inbox under the same name on another node of its home cluster, and names that for new streams (see
docs/explanation/architecture.rst, Where a process receives). The old one is read for as long as streams name it. When
its node has been gone for ``broker_grace_s``, they are given the new address, and what was lost shows as a gap.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from twisted.python.failure import Failure

from ifserver import channels
from ifserver.clock import Clock
from ifserver.layers.inbox_reader import InboxReader
from ifserver.layers.node import Node
from ifserver.layers.periodic import Periodic
from ifserver.logs import events

__all__ = ["UNREACHABLE_S", "InboxHome", "Place", "Resident"]

#: How long a node may give no sign of life before it is taken for unreachable, in seconds.
UNREACHABLE_S: Final = 1.0
#: How often the nodes are looked at.
_LOOK_S: Final = 0.25
#: How often it is asked whether streams still name an old place, which means to look at all of them.
_ASK_S: Final = 5.0

_log = logging.getLogger(__name__)


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
        reachable = [node for node in others if node.connected and node.unreachable_s() < UNREACHABLE_S]
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
