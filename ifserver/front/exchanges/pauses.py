"""What operators order of all servers, as one server does it: pauses of pools, and how pools share requests.

Requests of a pool that is paused wait here, while the operator changes what the application needs. Those that were
offered before go on, and so do responses. What the clients of open WebSockets send is kept as far as a worker's credit
would reach; then they are not read. Nothing of this costs anything while nothing is paused.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from ifserver import channels
from ifserver.flow_control import MESSAGE_OVERHEAD, message_bytes
from ifserver.front.deadlines import Deadlines
from ifserver.layers.operator_orders import Fact, Here, Order, Pause, PoolHere, Weights
from ifserver.logs import events
from ifserver.state_machines.effects import Flushed, MessageReceived, OfferRefused, TimedOut, Waiting, packed, unpacked
from ifserver.state_machines.websocket import State as WebSocketState

if TYPE_CHECKING:
    from ifserver.clock import Clock, Timer
    from ifserver.front.exchanges.exchange import Exchange
    from ifserver.front.exchanges.exchanges import Exchanges

__all__ = ["OperatorOrders", "Pauses", "described"]

#: What one WebSocket's client may send before it is not read, in units of a window: as much as its stream holds.
_HELD_UNITS: Final = 64 * 1024

_log = logging.getLogger(__name__)


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
        self._held: Deadlines[Exchange] = Deadlines(clock, timeout_s, self._too_long)
        self._late: dict[Exchange, None] = {}
        self._websockets: dict[Exchange, _HeldClient] = {}

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
        return sum(_is_under_way(each) and self._covers(each) and each not in self._held for each in exchanges)

    # What exchanges ask for.

    def hold(self, exchange: Exchange) -> bool:
        """Keep a request that is to be offered; False: its pool is not paused."""
        if not self._covers(exchange):
            return False
        self._held.add(exchange)
        return True

    def postpones(self, exchange: Exchange) -> bool:
        """Whether a deadline does not count, since it was the pause that has kept the exchange waiting."""
        if not self._covers(exchange) or not (exchange in self._held or _looks_for_worker(exchange)):
            return False
        self._late[exchange] = None
        return True

    def opened(self, exchange: Exchange) -> None:
        """Its WebSocket is open."""
        if self._covers(exchange) and exchange not in self._websockets:
            self._websockets[exchange] = _HeldClient(exchange)

    def closing(self, exchange: Exchange) -> None:
        """Its WebSocket is being closed: what its client does concerns no application any more."""
        held = self._websockets.pop(exchange, None)
        if held is not None:
            held.release()

    def left(self, exchange: Exchange) -> None:
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
        events.report(_log, logging.INFO, events.Mark.PAUSED, text, described(pool), seconds, self.under_way())

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
        events.report(_log, logging.INFO, events.Mark.RESUMED, text, what, len(held), len(websockets))
        for exchange in late:
            del self._late[exchange]
            if exchange not in self._held:
                _go_on(exchange, offer=False)
        for exchange in held:
            # One may have ended by what the ones before it did.
            if self._held.pop(exchange, None) is not None:
                _go_on(exchange, offer=True)
        for exchange in websockets:
            self._websockets.pop(exchange).release()

    def _covers(self, exchange: Exchange) -> bool:
        until = self._until
        return "" in until or channels.pool_of(exchange.attempt.channel) in until

    def _too_long(self, exchange: Exchange) -> None:
        self._late.pop(exchange, None)
        if exchange.resumes:
            exchange.handle(TimedOut())
        else:
            why = f"its pool is paused for longer than {exchange.shared.settings.pause_timeout_s:g} s (pause_timeout)"
            exchange.handle(OfferRefused(False, why))


def _is_under_way(exchange: Exchange) -> bool:
    """Whether the application has its request, or may have. That of an open WebSocket that does nothing has not."""
    is_offered = exchange.attempt.list is not None
    return exchange.websocket is None or is_offered or exchange.stream.state is WebSocketState.TAKEN


def _looks_for_worker(exchange: Exchange) -> bool:
    """Whether it is an open WebSocket that is offered to no worker yet."""
    return exchange.resumes and exchange.attempt.list is None and exchange.stream.state is WebSocketState.WAITING


def _go_on(exchange: Exchange, offer: bool) -> None:
    """The pause is over: its present wait begins anew, and if `offer`, it is offered."""
    if exchange.ended:
        return
    exchange.wait(Waiting.RESUMPTION if exchange.resumes else Waiting.WORKER)
    if offer:
        exchange.has_waited = False
        exchange.offer_late()


class _HeldClient:
    """Receives and keeps what the client of an open WebSocket does during a pause."""

    __slots__ = ("_events", "_exchange", "_stopped", "_units", "_websocket")

    def __init__(self, exchange: Exchange) -> None:
        assert exchange.websocket is not None
        self._exchange = exchange
        self._websocket = exchange.websocket
        self._events: list[object] = []
        self._units = 0
        self._stopped = False
        self._websocket.report_to(self)

    def handle(self, event: object) -> None:
        """See `Exchange.handle`."""
        if type(event) is Flushed:
            self._exchange.handle(event)
            return
        self._events.append(packed(event) if type(event) is MessageReceived else event)
        if type(event) is MessageReceived:
            self._units += message_bytes(event.text, event.data) + MESSAGE_OVERHEAD
            if self._units >= _HELD_UNITS:
                self._stopped = True
                self._websocket.stop_reading()

    def release(self) -> None:
        """Let its stream have all that."""
        exchange, websocket = self._exchange, self._websocket
        websocket.report_to(exchange)
        for event in self._events:
            exchange.handle(unpacked(event) if isinstance(event, bytes) else event)
        if self._stopped and exchange.stream.reading:
            websocket.resume_reading()


class OperatorOrders:
    """Does what is ordered, and reports what it does."""

    def __init__(self, exchanges: Exchanges) -> None:
        self._exchanges = exchanges
        #: Since when the tallies have counted what is reported of pools.
        self._marked_at = exchanges.clock.seconds()

    def ordered(self, facts: Sequence[Fact]) -> None:
        """This holds from now on."""
        pauses = [fact for fact in facts if isinstance(fact, Pause)]
        for pause in pauses:
            if pause.left_s:
                self._exchanges.pauses.pause(pause.pool, pause.left_s)
        self._exchanges.pauses.end([pause.pool for pause in pauses if not pause.left_s])
        weights = [fact for fact in facts if isinstance(fact, Weights)]
        if weights:
            self._weigh(weights)

    def _weigh(self, ordered: Sequence[Weights]) -> None:
        exchanges = self._exchanges
        for each in ordered:
            if each.weights:
                exchanges.weights[each.of] = each.weights
            else:
                exchanges.weights.pop(each.of, None)
        router = exchanges.router
        if router is None:
            return
        before = router.weights
        router.weigh(exchanges.weights)
        if router.begins(before):
            self.count_anew()
        for each in ordered:
            if each.of in router.weights:
                shown = ", ".join(f"{name} {weight:g}" for name, weight in router.weights[each.of].items())
                why = "as was ordered" if each.weights else "as the settings say"
                text = "pools share requests, %s: %s"
                events.report(_log, logging.INFO, events.Mark.WEIGHTS, text, why, shown)

    def here(self, orders: list[Order]) -> Here[Order]:
        """What this server reports; `orders` are those that it knows."""
        exchanges = self._exchanges
        pauses, counted_s = exchanges.pauses, exchanges.clock.seconds() - self._marked_at
        return Here(orders, pauses.waiting, pauses.under_way(), round(counted_s, 3), self.pools())

    def pools(self) -> list[PoolHere]:
        """The pools of this server, in their order; empty: there are none."""
        exchanges, router = self._exchanges, self._exchanges.router
        if router is None or exchanges.tallies is None:
            return []
        weights = {name: (of, weight) for of, each in router.weights.items() for name, weight in each.items()}
        found = []
        for name in dict.fromkeys(router.channels.values()):
            tally = exchanges.tallies[channels.of_pool(name, channels.HTTP_REQUEST)]
            of, weight = weights.get(name, ("", None))
            found.append(PoolHere(name, "" if of == name else of, weight, of in exchanges.weights, *tally.since()))
        return found

    def count_anew(self) -> None:
        """What is reported of pools is what happens from now on: a new version is tried."""
        self._marked_at = self._exchanges.clock.seconds()
        for tally in (self._exchanges.tallies or {}).values():
            tally.mark()
