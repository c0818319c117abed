"""What operators order of all servers together, and which order is the latest. Pure.

An order is a state that is to be, and never a change of one: who hears it twice, late or not at all and then from
somebody else, ends up with the same as all others. Of two orders about one thing the later one counts. Time is that of
the wall clock of the process that was asked, but never before what it has heard of (a hybrid logical clock): so the
latest command wins also where the clocks of two machines differ, and where one was set back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Annotated, Final, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from ifserver.channels import MAX_LENGTH
from ifserver.clock import Clock, WallClock
from ifserver.errors import UndecodableError
from ifserver.messages import UNDECODABLE, Count, Seconds

__all__ = [
    "GREATEST_WEIGHT",
    "LONGEST_PAUSE_S",
    "Board",
    "Fact",
    "Here",
    "Order",
    "Pause",
    "PoolHere",
    "Said",
    "Weights",
    "encode",
    "read",
    "read_here",
]

#: The longest pause, in seconds: a day; and the greatest weight.
LONGEST_PAUSE_S: Final = 86_400.0
GREATEST_WEIGHT: Final = 1_000_000.0
#: How far the time of an order may be ahead of the wall clock here, in seconds: a year. Clocks may be wrong, and a
#: later order counts all the same; but no order could be later than one at the end of time.
_AHEAD_S: Final = 366 * 86_400.0
#: How long further refused orders are not logged, in seconds.
_QUIET_S: Final = 60.0
#: The least by which an order is later than those that were known to whoever gives it, in seconds.
_TICK_S: Final = 0.001
#: So many things there may be orders about: more than pools in any file.
_MOST: Final = 1_000

_log = logging.getLogger(__name__)

_Each = TypeVar("_Each")


class Pause(Struct, frozen=True, array_like=True, tag="pause"):
    """A pool is paused, or is not any more."""

    #: Empty: all pools.
    pool: str
    #: How long it will be, in seconds, from now on. 0: it is over.
    left_s: float


class Weights(Struct, frozen=True, array_like=True, tag="weights"):
    """How pools share the requests of one of them."""

    #: The pool whose requests they are.
    of: str
    #: By pool. Empty: as the settings of each server say.
    weights: dict[str, float]


Fact: TypeAlias = Pause | Weights


class Order(Struct, frozen=True, array_like=True):
    """One order."""

    #: When it was given, and by which process: of two that were given at the same moment one must be the later one.
    at: float
    by: str
    fact: Fact

    @property
    def about(self) -> tuple[str, str]:
        """The thing about which it is: there is one latest order about each."""
        fact = self.fact
        return ("pause", fact.pool) if isinstance(fact, Pause) else ("weights", fact.of)

    @property
    def stamp(self) -> tuple[float, str]:
        """Of two orders about one thing that with the greater one counts."""
        return self.at, self.by


class Said(Struct, Generic[_Each], frozen=True, array_like=True):
    """What a process says to all servers: orders, old or new. They are read one by one (`read`)."""

    orders: list[_Each]
    #: The group in which it awaits answers; empty: it awaits none.
    answer_in: str = ""


class PoolHere(Struct, frozen=True, array_like=True):
    """What one server tells of a pool, and counts of it since a canary has begun to get a share."""

    name: str
    #: The pool of whose requests it takes a share; empty: it is no canary.
    canary_of: str
    #: None: it shares its requests with no other.
    weight: Annotated[float, Meta(ge=0.0, le=GREATEST_WEIGHT)] | None
    #: Whether an operator has ordered that.
    is_ordered: bool
    #: Requests that were answered, and those of them with a 5xx.
    requests: Count
    errors: Count
    #: How long it took until they were, by the buckets of `ifserver.metrics.BOUNDS_S`.
    times: list[Count]


class Here(Struct, Generic[_Each], frozen=True, array_like=True):
    """What one server answers."""

    #: Those that it knows.
    orders: list[_Each]
    #: Requests that wait for the end of a pause, and those of the pools that are paused that were there before.
    waiting: Count = 0
    under_way: Count = 0
    #: For how long it has counted, in seconds.
    counted_s: Seconds = 0.0
    pools: list[PoolHere] = []


encode = msgspec.msgpack.Encoder().encode
_read_order = msgspec.msgpack.Decoder(Order).decode
_read_said = msgspec.msgpack.Decoder(Said[msgspec.Raw]).decode
_read_here = msgspec.msgpack.Decoder(Here[msgspec.Raw]).decode


def read(said: bytes) -> Said[Order]:
    """What was said.

    Raises:
        UndecodableError: it is nothing of the kind.
    """
    try:
        found = _read_said(said)
    except UNDECODABLE as error:
        raise UndecodableError(str(error)) from error
    return Said(_orders(found.orders), found.answer_in)


def read_here(answer: bytes) -> Here[Order]:
    """What was answered; raises as `read`."""
    try:
        found = _read_here(answer)
    except UNDECODABLE as error:
        raise UndecodableError(str(error)) from error
    return msgspec.structs.replace(found, orders=_orders(found.orders))  # type: ignore[arg-type]


def _orders(raw: Iterable[msgspec.Raw]) -> list[Order]:
    """Those that are known here: a later release may have further kinds, which must not hide the others."""
    found = []
    for each in raw:
        try:
            found.append(_read_order(each))
        except UNDECODABLE as error:
            _log.debug("an order of a kind that is not known here: %s", error)
    return found


def _nonsense(order: Order, now: float) -> str:
    """Why nobody can have meant this order; empty: somebody may. Where `now` is the time of day."""
    fact = order.fact
    if not 0.0 <= order.at <= now + _AHEAD_S:
        return f"its time is {order.at:g}, and it is {now:.0f} here: check the clocks"
    if len(order.by) > MAX_LENGTH or len(order.about[1]) > MAX_LENGTH:
        return "a name is too long"
    if isinstance(fact, Pause):
        return "" if 0.0 <= fact.left_s <= LONGEST_PAUSE_S else f"a pause of {fact.left_s:g} s"
    if len(fact.weights) > _MOST or not all(0.0 <= weight <= GREATEST_WEIGHT for weight in fact.weights.values()):
        return f"weights that are not from 0 to {GREATEST_WEIGHT:.0f}, or too many of them"
    return ""


class Board:
    """The latest orders that one process knows.

    Args:
        clock: pauses end by it.
        wall: no order is from after that.
    """

    def __init__(self, clock: Clock, wall: WallClock) -> None:
        self._clock = clock
        self._wall = wall
        #: Until when orders that are refused are not logged.
        self._quiet_until = clock.seconds()
        self._orders: dict[tuple[str, str], Order] = {}
        #: When pauses end.
        self._until: dict[tuple[str, str], float] = {}

    def stamp(self, now: float) -> float:
        """When an order is given that is later than all these, where the wall clock says `now`."""
        return max([now, *(order.at + _TICK_S for order in self._orders.values())])

    def take(self, orders: Iterable[Order]) -> list[Order]:
        """Take those over that are later than what was known, and return them."""
        now, news = self._clock.seconds(), []
        for order in orders:
            about, fact = order.about, order.fact
            known = self._orders.get(about)
            if known is not None and known.stamp >= order.stamp:
                continue
            if why := _nonsense(order, self._wall()):
                self._refuse(order, why)
                continue
            if known is None and len(self._orders) >= _MOST:
                _log.error("an order about pool %r is ignored: there are %d already", about[1], _MOST)
                continue
            self._orders[about] = order
            if isinstance(fact, Pause):
                self._until[about] = now + fact.left_s
            news.append(order)
        return news

    def _refuse(self, order: Order, why: str) -> None:
        now = self._clock.seconds()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_S
            _log.error("an order of process %.40r about pool %.40r is refused: %s", order.by, order.about[1], why)

    def orders(self) -> list[Order]:
        """All that are known. What is left of pauses is told as of now."""
        now = self._clock.seconds()
        return [
            Order(order.at, order.by, Pause(about[1], max(0.0, self._until[about] - now)))
            if about in self._until
            else order
            for about, order in self._orders.items()
        ]

    def knows_more_than(self, orders: Iterable[Order]) -> bool:
        """Whether one of these is not the latest, or missing."""
        theirs = {order.about: order.stamp for order in orders}
        return any(about not in theirs or theirs[about] < order.stamp for about, order in self._orders.items())

    def has_later_than(self, orders: Iterable[Order]) -> bool:
        """Whether there is a later order about one of these things."""
        return any((known := self._orders.get(each.about)) and known.stamp > each.stamp for each in orders)

    @property
    def in_force(self) -> bool:
        """Whether a server that knows nothing of this would do something else."""
        return any(until > self._clock.seconds() for until in self._until.values()) or any(
            isinstance(order.fact, Weights) and order.fact.weights for order in self._orders.values()
        )

    def pauses_left_s(self) -> dict[str, float]:
        """How long each pool will be paused, in seconds. Empty name: all pools."""
        return {
            order.fact.pool: round(order.fact.left_s, 3)
            for order in self.orders()
            if isinstance(order.fact, Pause) and order.fact.left_s
        }

    def weights(self) -> dict[str, dict[str, float]]:
        """The weights that were ordered, by the pool whose requests are shared."""
        facts = (order.fact for order in self._orders.values())
        return {fact.of: fact.weights for fact in facts if isinstance(fact, Weights) and fact.weights}
