"""What operators order of all servers together, and which order is the latest. Pure.

An order is a state that is to be, and never a change of one: who hears it twice, late or not at all and then from
somebody else, ends up with the same as all others. Of two orders about one thing the later one counts. Time is that of
the wall clock of the process that was asked, but never before what it has heard of (a hybrid logical clock): so the
latest command wins also where the clocks of two machines differ, and where one was set back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from ifserver.clock import Clock

__all__ = ["Board", "Fact", "Here", "Order", "Pause", "PoolHere", "Said", "Weights", "encode", "read", "read_here"]

#: The least by which an order is later than those that were known to whoever gives it, in seconds.
_TICK_S: Final = 0.001
#: So many things there may be orders about: more than pools in any file.
_MOST: Final = 1_000

_log = logging.getLogger(__name__)


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


class Said(Struct, frozen=True, array_like=True):
    """What a process says to all servers: orders, old or new."""

    orders: list[Order]
    #: The group in which it awaits answers; empty: it awaits none.
    answer_in: str = ""


class PoolHere(Struct, frozen=True, array_like=True):
    """What one server tells of a pool, and counts of it since a canary has begun to get a share."""

    name: str
    #: The pool of whose requests it takes a share; empty: it is no canary.
    canary_of: str
    #: None: it shares its requests with no other.
    weight: float | None
    #: Whether an operator has ordered that.
    is_ordered: bool
    #: Requests that were answered, and those of them with a 5xx.
    requests: int
    errors: int
    #: How long it took until they were, by the buckets of `ifserver.metrics.BOUNDS_S`.
    times: list[int]


class Here(Struct, frozen=True, array_like=True):
    """What one server answers."""

    #: Those that it knows.
    orders: list[Order]
    #: Requests that wait for the end of a pause, and those of the pools that are paused that were there before.
    waiting: int = 0
    under_way: int = 0
    #: For how long it has counted, in seconds.
    counted_s: float = 0.0
    pools: list[PoolHere] = []


encode = msgspec.msgpack.Encoder().encode
_read_order = msgspec.msgpack.Decoder(Order).decode
_read_said = msgspec.msgpack.Decoder(tuple[list[msgspec.Raw], str]).decode
_read_here = msgspec.msgpack.Decoder(tuple[list[msgspec.Raw], int, int, float, list[PoolHere]]).decode


def read(said: bytes) -> Said:
    """What was said.

    Raises:
        msgspec.MsgspecError: it is nothing of the kind.
    """
    orders, answer_in = _read_said(said)
    return Said(_orders(orders), answer_in)


def read_here(answer: bytes) -> Here:
    """What was answered; raises as `read`."""
    orders, *others = _read_here(answer)
    return Here(_orders(orders), *others)  # type: ignore[arg-type]


def _orders(raw: Iterable[msgspec.Raw]) -> list[Order]:
    """Those that are known here: a later release may have further kinds, which must not hide the others."""
    found = []
    for each in raw:
        try:
            found.append(_read_order(each))
        except msgspec.ValidationError as error:
            _log.debug("an order of a kind that is not known here: %s", error)
    return found


class Board:
    """The latest orders that one process knows.

    Args:
        clock: pauses end by it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
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
            if known is None and len(self._orders) >= _MOST:
                _log.error("an order about pool %r is ignored: there are %d already", about[1], _MOST)
                continue
            self._orders[about] = order
            if isinstance(fact, Pause):
                self._until[about] = now + fact.left_s
            news.append(order)
        return news

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
