"""Pools that are paused: their requests wait here, while the operator changes what the application needs.

Requests that were offered before go on, and so do responses. What the clients of open WebSockets send is kept as far as
a worker's credit would reach; then they are not read. Nothing of this costs anything while nothing is paused.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Mapping
from typing import Any, Final, Protocol

from ifserver.clock import Clock, Timer
from ifserver.flow_control import MESSAGE_OVERHEAD, message_bytes
from ifserver.front.deadlines import Deadlines
from ifserver.logs import events
from ifserver.state_machines.effects import Flushed, MessageReceived
from ifserver.state_machines.stream import Stream

__all__ = ["Pausable", "Pauses", "described"]

#: What one WebSocket's client may send before it is not read, in units of a window: as much as its stream holds.
_HELD_UNITS: Final = 64 * 1024

_log = logging.getLogger(__name__)


class Pausable(Hashable, Protocol):
    """An exchange."""

    stream: Stream
    #: Its open WebSocket.
    websocket: Any

    @property
    def pool_name(self) -> str:
        """The pool that it is for."""

    @property
    def is_under_way(self) -> bool:
        """Whether the application has its request, or may have."""

    @property
    def looks_for_worker(self) -> bool:
        """Whether it is an open WebSocket that is offered to nobody yet."""

    def handle(self, event: object) -> None:
        """Something has happened to its client."""

    def go_on(self, offer: bool) -> None:
        """The pause is over; `offer` it."""

    def paused_too_long(self) -> None:
        """It was held for ``pause_timeout_s``."""


class Exchanges(Protocol):
    """What is needed of `ifserver.front.exchanges.factory.Exchanges`."""

    #: Who is asked while something is paused; else None.
    paused: Pauses | None

    @property
    def registry(self) -> Mapping[str, Pausable]:
        """All exchanges."""


def described(pool: str) -> str:
    """A pool that is paused, for people."""
    return f"pool {pool}" if pool else "all pools"


class Pauses:
    """The pauses of one server."""

    def __init__(self, exchanges: Exchanges, clock: Clock, timeout_s: float) -> None:
        self._exchanges = exchanges
        self._clock = clock
        #: When each pause ends by itself. Empty name: all pools.
        self._until: dict[str, float] = {}
        self._timers: dict[str, Timer] = {}
        #: Requests that wait, oldest first; those whose deadlines have passed while they did; and open WebSockets.
        self._held: Deadlines[Pausable] = Deadlines(clock, timeout_s, self._too_long)
        self._late: dict[Pausable, None] = {}
        self._websockets: dict[Pausable, _HeldClient] = {}

    def change(self, timeout_s: float) -> None:
        """From now on a request waits for `timeout_s` at most."""
        self._held.change(timeout_s)

    def stop(self) -> None:
        """Hold nothing any more."""
        self.resume("")
        self._held.stop()

    def left_s(self) -> dict[str, float]:
        """How long each pool will be paused, in seconds. Empty name: all pools."""
        now = self._clock.seconds()
        return {pool: round(max(0.0, until - now), 3) for pool, until in self._until.items()}

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._held)

    def under_way(self) -> int:
        """How many requests of the pools that are paused the application has, or may have."""
        exchanges = list(self._exchanges.registry.values()) if self._until else []
        return sum(each.is_under_way and self._covers(each) and each not in self._held for each in exchanges)

    # What exchanges ask for.

    def hold(self, exchange: Pausable) -> bool:
        """Keep a request that is to be offered; False: its pool is not paused."""
        if not self._covers(exchange):
            return False
        self._held.add(exchange)
        return True

    def postpones(self, exchange: Pausable) -> bool:
        """Whether a deadline does not count, since it was the pause that has kept the exchange waiting."""
        if not self._covers(exchange) or not (exchange in self._held or exchange.looks_for_worker):
            return False
        self._late[exchange] = None
        return True

    def opened(self, exchange: Pausable) -> None:
        """Its WebSocket is open."""
        if self._covers(exchange) and exchange not in self._websockets:
            self._websockets[exchange] = _HeldClient(exchange)

    def closing(self, exchange: Any) -> None:
        """Its WebSocket is being closed: what its client does concerns no application any more."""
        held = self._websockets.pop(exchange, None)
        if held is not None:
            held.go_on()

    def left(self, exchange: Pausable) -> None:
        """It has ended."""
        self._held.pop(exchange, None)
        self._late.pop(exchange, None)

    # What the operator asks for.

    def pause(self, pool: str, seconds: float) -> None:
        """Pause `pool`, from now on for so many `seconds`."""
        timer = self._timers.pop(pool, None)
        if timer is not None:
            timer.cancel()
        self._until[pool] = self._clock.seconds() + seconds
        self._timers[pool] = self._clock.callLater(seconds, self._over, pool)
        self._exchanges.paused = self
        for exchange in list(self._exchanges.registry.values()):
            if exchange.websocket is not None:
                self.opened(exchange)
        text = "%s paused for %g s: new requests and messages wait; %d requests are under way"
        events.tell(_log, logging.INFO, events.Mark.PAUSED, text, described(pool), seconds, self.under_way())

    def resume(self, pool: str) -> None:
        """Let `pool` go on; all, where it has no name."""
        self.end([each for each in self._until if each == pool or not pool])

    def end(self, pauses: Collection[str]) -> None:
        """End the pauses of these pools, and of `all pools` where one has no name; nothing if there are none."""
        ended = [each for each in pauses if each in self._until]
        for each in ended:
            self._timers.pop(each).cancel()
            del self._until[each]
        if ended:
            self._go_on(", ".join(map(described, ended)))

    def _over(self, pool: str) -> None:
        del self._timers[pool], self._until[pool]
        self._go_on(f"the time of the pause is over: {described(pool)}")

    def _go_on(self, what: str) -> None:
        """Those go on that nothing holds any more, in the order in which they came."""
        if not self._until:
            self._exchanges.paused = None
        websockets = [each for each in self._websockets if not self._covers(each)]
        held = [each for each in self._held if not self._covers(each)]
        late = [each for each in self._late if not self._covers(each)]
        text = "%s: resumed, %d requests and %d WebSockets go on"
        events.tell(_log, logging.INFO, events.Mark.RESUMED, text, what, len(held), len(websockets))
        for exchange in late:
            del self._late[exchange]
            if exchange not in self._held:
                exchange.go_on(False)
        for exchange in held:
            # One may have ended by what the ones before it did.
            if self._held.pop(exchange, None) is not None:
                exchange.go_on(True)
        for exchange in websockets:
            self._websockets.pop(exchange).go_on()

    def _covers(self, exchange: Pausable) -> bool:
        until = self._until
        return "" in until or exchange.pool_name in until

    def _too_long(self, exchange: Pausable) -> None:
        self._late.pop(exchange, None)
        exchange.paused_too_long()


class _HeldClient:
    """What the client of an open WebSocket does during a pause: its connection tells it to this."""

    __slots__ = ("_events", "_exchange", "_stopped", "_units")

    def __init__(self, exchange: Pausable) -> None:
        self._exchange = exchange
        self._events: list[object] = []
        self._units = 0
        self._stopped = False
        exchange.websocket.tell(self)

    def handle(self, event: object) -> None:
        """See `Exchange.handle`."""
        if type(event) is Flushed:
            self._exchange.handle(event)
            return
        self._events.append(event)
        if type(event) is MessageReceived:
            self._units += message_bytes(event.text, event.data) + MESSAGE_OVERHEAD
            if self._units >= _HELD_UNITS:
                self._stopped = True
                self._exchange.websocket.stop_reading()

    def go_on(self) -> None:
        """Let its stream have all that."""
        exchange = self._exchange
        exchange.websocket.tell(exchange)
        for event in self._events:
            exchange.handle(event)
        if self._stopped and exchange.stream.reading:
            exchange.websocket.resume_reading()
