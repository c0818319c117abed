"""Offers that are not claimed: were they taken, and will a worker still answer?

Lists are taken in order. So a request has been popped when a later one of the same list has been claimed; and where
none was for a second, the node is asked whether the oldest is still there. One that is popped and not claimed for a
second and a half is in the hands of a process that died before its ledger knew, or that is blocked (see
docs/explanation/architecture.rst, Lost offers).

Requests of a server that cannot be reached for their answers are not offered yet: they wait a little
(``broker_wait_s``).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import CancelledError, Deferred

from ifserver import channels
from ifserver.errors import NodeError
from ifserver.front.deadlines import Deadlines

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from ifserver.clock import Clock, Timer
    from ifserver.front.exchanges.attempt import Attempt
    from ifserver.front.exchanges.exchange import Exchange
    from ifserver.layers.clusters import Clusters
    from ifserver.layers.dispatch import NodeChoice
    from ifserver.layers.node import Node

__all__ = ["BrokerWait", "OfferList", "UnclaimedOffers"]

#: How often this server looks, in seconds: a part of the second that it waits each time.
_LOOK_S: Final = 0.25
#: How old an offer is when it is asked for.
_PATIENCE_S: Final = 1.0
#: How long a popped one may be without a claim. A worker begins nothing that has lain unread for half a second
#: (`ifserver.worker.pull`), and its supervisor claims what a blocked worker has begun within 0.8 s.
_UNCLAIMED_S: Final = 1.5
#: How long a node has had no connection, in seconds, when its requests are offered elsewhere: most that are lost are
#: back sooner.
_NODE_LOST_S: Final = 0.5
#: A server that looks so much later than it meant to has stood still, and has not read the claims of that time.
_LATE_S: Final = 0.5

_log = logging.getLogger(__name__)


class OfferList:
    """The offers on one list, the `channel` of `node`, that were not claimed.

    Each moves once at most, so what a claim costs does not depend on how many there are. (A plain dict would: to find
    its first item it looks at all that were deleted from its front.)
    """

    __slots__ = ("asking", "channel", "losses", "moved_at", "node", "popped", "quiet_since", "standing")

    def __init__(self, node: Node, channel: str, now: float) -> None:
        self.node = node
        self.channel = channel
        #: Those that may still be there, oldest first.
        self.standing: OrderedDict[Attempt, None] = OrderedDict()
        #: Those that were taken, in the order in which that became known.
        self.popped: OrderedDict[Attempt, None] = OrderedDict()
        #: Since when none was claimed.
        self.quiet_since = now
        self.asking = False
        #: When all were asked to leave, since nobody reads here.
        self.moved_at = -_PATIENCE_S
        #: How many connections to the node had been lost when what stood here was given up for that.
        self.losses = 0

    def __len__(self) -> int:
        return len(self.standing) + len(self.popped)

    def oldest(self, now: float) -> Attempt | None:
        """The first of those that may still be there, if it has stood for too long."""
        attempt = next(iter(self.standing), None)
        return attempt if attempt is not None and now - attempt.placed_at >= _PATIENCE_S else None

    def pop(self, attempt: Attempt, now: float) -> None:
        """`attempt` was taken, and so were those before it."""
        standing = self.standing
        while attempt in standing:
            first, _ = standing.popitem(last=False)
            first.popped_at = now
            self.popped[first] = None

    def forget(self, attempt: Attempt) -> bool:
        """Whether `attempt` was here; it no longer is."""
        if attempt in self.standing:
            del self.standing[attempt]
        elif attempt in self.popped:
            del self.popped[attempt]
        else:
            return False
        return True


class UnclaimedOffers:
    """All offers of this server that are not claimed. `nodes` knows which lists are read, and which nodes are well."""

    def __init__(self, clock: Clock, nodes: NodeChoice) -> None:
        self._clock = clock
        self._nodes = nodes
        self._lists: dict[tuple[str, str], OfferList] = {}
        self._timer: Timer | None = None
        #: When it is time to look.
        self._due = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._lists.values()))

    def made(self, attempt: Attempt, node: Node, channel: str) -> None:
        """`attempt` is offered on `channel` of `node`, and nowhere else any more."""
        if attempt.list is not None:
            self.left(attempt)
        now = self._clock.seconds()
        key = node.name, channel
        each = self._lists.get(key)
        if each is None:
            each = self._lists[key] = OfferList(node, channel, now)
        elif not each.standing:
            each.quiet_since = now
        attempt.list, attempt.placed_at = each, now
        each.standing[attempt] = None
        if self._timer is None:
            self._look_later(now)

    def claimed(self, attempt: Attempt) -> bool:
        """It was popped, and so were those before it. Whether that was soon enough to show that its node keeps up."""
        each, attempt.list = attempt.list, None
        if each is None:
            return False
        now, standing = self._clock.seconds(), each.standing
        if attempt in standing:
            while (first := standing.popitem(last=False)[0]) is not attempt:
                first.popped_at = now
                each.popped[first] = None
        elif not each.forget(attempt):
            return False
        each.quiet_since = now
        if not standing:
            self._nodes.emptied(each.node, each.channel)
        return now - attempt.placed_at < _PATIENCE_S

    def popped(self, attempt: Attempt) -> None:
        """The node has it no more."""
        if attempt.list is not None:
            attempt.list.pop(attempt, self._clock.seconds())

    def left(self, attempt: Attempt) -> None:
        """It is over, or is there no more."""
        each, attempt.list = attempt.list, None
        if each is not None:
            each.forget(attempt)

    def move(self) -> None:
        """Other lists are read than before: what stands where nobody reads is offered elsewhere."""
        now = self._clock.seconds()
        for each in list(self._lists.values()):
            each.moved_at = -_PATIENCE_S
            self._move_from(each, now)

    def stop(self) -> None:
        """Look no more."""
        self._cancel()
        self._lists.clear()

    def _look_later(self, now: float) -> None:
        self._due = now + _LOOK_S
        self._timer = self._clock.callLater(_LOOK_S, self._look)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = self._clock.seconds()
        stood_still = now - self._due > _LATE_S
        # First, so that whatever goes wrong with one of them, the others are looked at again.
        self._look_later(now)
        # What is offered anew may go to a node that has had none before.
        for each in list(self._lists.values()):
            if stood_still:
                for attempt in each.popped:
                    attempt.popped_at = now
            self._look_at(each, now)
        if not len(self):
            self._cancel()

    def _look_at(self, each: OfferList, now: float) -> None:
        timed_out = []
        for attempt in each.popped:
            if now - attempt.popped_at < _UNCLAIMED_S:
                break
            timed_out.append(attempt)
        if channels.is_resumption(each.channel) and each.node.unreachable_s() >= _PATIENCE_S:
            # An open WebSocket does not wait for a node that is lost. Where a worker has it all the same, it is the
            # next attempt that counts.
            timed_out += [attempt for attempt in each.standing if now - attempt.placed_at >= _PATIENCE_S]
        self._move_from(each, now)
        self._reroute_from_lost(each)
        oldest = each.oldest(now)
        if oldest is not None and not each.asking:
            if now - each.quiet_since < _PATIENCE_S:
                # Others have been claimed meanwhile, or the node has answered not long ago that it is there.
                self._stands(each, now)
            else:
                Deferred.fromCoroutine(self._ask(each)).addErrback(self._failed)
        for attempt in timed_out:
            if each.forget(attempt):
                attempt.list = None
                attempt.claim_timed_out()

    def _move_from(self, each: OfferList, now: float) -> None:
        """What stands where nobody reads is taken back, again a second later if that has failed."""
        if each.standing and now - each.moved_at >= _PATIENCE_S and self._nodes.is_unread(each.node, each.channel):
            each.moved_at = now
            for attempt in list(each.standing):
                attempt.take_back()

    def _reroute_from_lost(self, each: OfferList) -> None:
        """What stands on a node that is lost cannot be taken back, and may be lost with it."""
        node = each.node
        if not each.standing or node.connected or each.losses == node.losses or node.unreachable_s() < _NODE_LOST_S:
            return
        if self._nodes.has_better(node, each.channel):
            each.losses = node.losses
            for attempt in list(each.standing):
                attempt.node_lost()

    def _stands(self, each: OfferList, now: float) -> None:
        """The oldest has stood for too long: let each that has be offered elsewhere, if there is a better node."""
        if not self._nodes.behind(each.node, each.channel):
            return
        for attempt in list(each.standing):
            if now - attempt.placed_at < _PATIENCE_S:
                break
            attempt.reroute()

    async def _ask(self, each: OfferList) -> None:
        """Where nothing was claimed for a second: is the oldest still there? And while it is not, the next?"""
        each.asking = True
        try:
            while True:
                now = self._clock.seconds()
                attempt = each.oldest(now)
                if attempt is None or now - each.quiet_since < _PATIENCE_S:
                    return
                payload = attempt.payload
                if await each.node.holds(each.channel, payload):
                    now = each.quiet_since = self._clock.seconds()
                    self._stands(each, now)
                elif attempt.payload is payload:  # else it was taken back meanwhile, and is offered once more
                    each.pop(attempt, self._clock.seconds())
        except NodeError:
            each.quiet_since = self._clock.seconds()
        finally:
            each.asking = False

    def _failed(self, failure: Failure) -> None:
        _log.error("looking for unclaimed requests failed: %s", failure.getTraceback())


class BrokerWait:
    """Holds requests until this server can be reached again, or they have waited for `wait_s`; 0: none waits."""

    def __init__(self, clusters: Clusters, clock: Clock, wait_s: float) -> None:
        self._clusters = clusters
        self._wait_s = wait_s
        self._waiting: Deadlines[Exchange] = Deadlines(clock, wait_s, self._timed_out)
        self._asking: Deferred[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, exchange: Exchange) -> bool:
        """Let `exchange` wait; False: it has done so already, or none may."""
        if self._wait_s <= 0 or exchange.has_waited:
            return False
        exchange.has_waited = True
        self._waiting.add(exchange)
        if self._asking is None:
            asking = self._asking = self._clusters.home.ready()
            asking.addCallbacks(self._connected, self._not_asking)
        return True

    def left(self, exchange: Exchange) -> None:
        """The exchange has ended."""
        self._waiting.pop(exchange, None)

    def stop(self) -> None:
        """None waits any more."""
        self._waiting.stop()
        self._stop_asking()

    def _connected(self, _: None) -> None:
        self._stop_asking()
        for exchange in self._waiting.take_all():
            exchange.offer()

    def _timed_out(self, exchange: Exchange) -> None:
        exchange.give_up()

    def _not_asking(self, failure: Failure) -> None:
        failure.trap(CancelledError)

    def _stop_asking(self) -> None:
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
