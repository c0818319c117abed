"""Open WebSockets whose worker is lost: they wait here until they are offered to the next one.

They are offered on a request channel of their own, which workers read before all others, and only so many at a time
that no limit of a node refuses them. What fails is offered again after a growing pause. How long all of that may take
in the end is decided by the stream (``resume_timeout_s``).
"""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import CancelledError, Deferred

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from ifserver.clock import Clock, Timer
    from ifserver.front.exchanges.exchange import Exchange
    from ifserver.layers.clusters import Clusters

__all__ = ["ResumptionQueue"]

#: How many are offered at a time on one request channel. Workers take a few dozen with each read, so that none of them
#: waits for the next.
MOST_OFFERED: Final = 200
#: The pause after the first attempt that has failed, and the longest, in seconds; spread by the factors below. A
#: WebSocket whose acceptance ends its worker must not end one worker after another.
PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 15.0
_JITTER: Final = (0.7, 1.3)


class _Lane:
    """Those that are offered on one request channel: the workers of one pool must not keep another's waiting."""

    __slots__ = ("offered", "waiting")

    def __init__(self) -> None:
        #: Those whose turn comes next, and those that are offered and not claimed.
        self.waiting: OrderedDict[Exchange, None] = OrderedDict()
        self.offered: set[Exchange] = set()


class ResumptionQueue:
    """The open WebSockets of one server that have no worker."""

    def __init__(self, clusters: Clusters, clock: Clock) -> None:
        self._clusters = clusters
        self._clock = clock
        #: Those that pause; and the others, by the request channel on which they are offered.
        self._pausing: dict[Exchange, Timer] = {}
        self._lanes: dict[str, _Lane] = {}
        #: Where each of them is.
        self._lane_of: dict[Exchange, _Lane] = {}
        #: Is waited for while this server cannot be reached for answers.
        self._reachable: Deferred[None] | None = None
        self._stopped = False

    def __len__(self) -> int:
        return len(self._lane_of)

    def add(self, exchange: Exchange, tries: int, channel: str) -> None:
        """`exchange` looks for a worker that reads `channel`; `tries` attempts in a row have failed."""
        self._forget(exchange)
        if self._stopped:
            return
        lane = self._lanes.get(channel)
        if lane is None:
            lane = self._lanes[channel] = _Lane()
        self._lane_of[exchange] = lane
        if tries:
            pause = min(PAUSE_S * 2.0 ** min(tries - 1, 10), LONGEST_PAUSE_S) * random.uniform(*_JITTER)
            self._pausing[exchange] = self._clock.callLater(pause, self._over, exchange)
        else:
            lane.waiting[exchange] = None
        self._offer_more(lane)

    def left(self, exchange: Exchange) -> None:
        """It is claimed, or has ended."""
        lane = self._forget(exchange)
        if lane is not None:
            self._offer_more(lane)

    def stop(self) -> None:
        """Offer no more."""
        self._stopped = True
        for timer in self._pausing.values():
            timer.cancel()
        self._pausing.clear()
        self._lanes.clear()
        self._lane_of.clear()
        reachable, self._reachable = self._reachable, None
        if reachable is not None:
            reachable.cancel()

    def _forget(self, exchange: Exchange) -> _Lane | None:
        timer = self._pausing.pop(exchange, None)
        if timer is not None and timer.active():
            timer.cancel()
        lane = self._lane_of.pop(exchange, None)
        if lane is not None:
            lane.waiting.pop(exchange, None)
            lane.offered.discard(exchange)
        return lane

    def _over(self, exchange: Exchange) -> None:
        del self._pausing[exchange]
        lane = self._lane_of[exchange]
        lane.waiting[exchange] = None
        self._offer_more(lane)

    def _offer_more(self, lane: _Lane) -> None:
        if self._reachable is not None:
            return
        while lane.waiting and len(lane.offered) < MOST_OFFERED:
            if not self._clusters.home.ensure():
                self._reachable = self._clusters.home.ready()
                self._reachable.addCallbacks(self._is_reachable, _cancelled)
                return
            exchange, _ = lane.waiting.popitem(last=False)
            lane.offered.add(exchange)
            exchange.offer_late()

    def _is_reachable(self, _: None) -> None:
        self._reachable = None
        for lane in list(self._lanes.values()):
            self._offer_more(lane)


def _cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)
