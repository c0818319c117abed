"""What an operator orders of all servers through an admin endpoint: ``/pause``, ``/resume``, ``/pools``.

They are for programs too: with the token where there is one, and with a header where there is none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import msgspec

from ifserver import channels
from ifserver.config.pools import shared_out
from ifserver.layers import operator_order_gossip as gossip
from ifserver.layers.operator_orders import GREATEST_WEIGHT, LONGEST_PAUSE_S, Pause, Weights
from ifserver.observe.admin.survey import agreed, side_by_side
from ifserver.status import Paused, Pools, PoolStatus

if TYPE_CHECKING:
    from ifserver.layers.operator_order_gossip import Found
    from ifserver.layers.operator_orders import Board, Fact
    from ifserver.observe.admin.subject import Subject
    from ifserver.observe.admin.survey import Survey, Surveyor

__all__ = ["PATHS", "PAUSE_HEADER", "POOLS_HEADER", "Orders", "Place", "Refused"]

#: What a request must have, with any value, where there is no token.
PAUSE_HEADER: Final = "X-Ifserver-Pause"
POOLS_HEADER: Final = "X-Ifserver-Pools"

_Arguments: TypeAlias = Mapping[bytes, Sequence[bytes]]

_log = logging.getLogger(__name__)


class Place(NamedTuple):
    """What can be asked for here."""

    methods: tuple[bytes, ...]
    header: str


PATHS: Final[Mapping[str, Place]] = {
    "/pause": Place((b"GET", b"POST"), PAUSE_HEADER),
    "/resume": Place((b"POST",), PAUSE_HEADER),
    "/pools": Place((b"GET", b"POST"), POOLS_HEADER),
    "/pools/reset": Place((b"POST",), POOLS_HEADER),
}


class Refused(Exception):
    """It is not done."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Orders:
    """Asks all servers, and orders something of them; answers in JSON.

    Args:
        surveyor: knows the workers.
        clock: the reactor.
    """

    def __init__(self, subject: Subject, surveyor: Surveyor, clock: Any) -> None:
        self._subject = subject
        self._surveyor = surveyor
        self._clock = clock

    async def answer(self, path: str, method: bytes, arguments: _Arguments) -> bytes:
        """Do what is asked for.

        Raises:
            Refused: it makes no sense.
            NodeError: no node has taken it, or it is not known.
        """
        is_about_pools = path.startswith("/pools")
        order = self._pools if is_about_pools else self._pause
        surveying = self._surveyor.survey()
        try:
            found = await order(path, method, arguments)
        except BaseException:
            surveying.addErrback(lambda _: None)  # its result is of no use now
            surveying.cancel()
            raise
        survey = await surveying
        # A server that the question has not reached is not among those that were asked.
        asked = max(found.asked, sum(facts.listening for facts in survey.processes.values()))
        return msgspec.json.encode(_pools(found, asked, survey) if is_about_pools else _paused(found, asked))

    # Pauses.

    async def _pause(self, path: str, method: bytes, arguments: _Arguments) -> Found:
        """Pause a pool, end its pause, or (``GET /pause``) show what is paused."""
        subject = self._subject
        pool = _argument(arguments, b"pool")
        known = subject.pools() or [channels.DEFAULT_POOL]
        if pool and pool not in known:
            raise Refused(404, f"there is no pool {pool!r}; there is: {', '.join(known)}")
        if method == b"GET":
            return await gossip.ask(subject.clusters, self._clock, subject.wall)
        named = f"pool {pool}" if pool else "all pools"
        if path == "/pause":
            seconds = _seconds(arguments, subject.pause_s)
            _log.info("a pause of %g s was asked for: %s", seconds, named)
            found = await gossip.ask(subject.clusters, self._clock, subject.wall)
            return await self._order([Pause(pool, seconds)], found.board)
        _log.info("the end of the pause was asked for: %s", named)
        found = await gossip.ask(subject.clusters, self._clock, subject.wall)
        paused = found.board.pauses_left_s()
        ended = [pool] if pool else list(dict.fromkeys(("", *paused)))
        resumed = [each for each in ended if each in paused]
        found = await self._order([Pause(each, 0.0) for each in ended], found.board)
        return msgspec.structs.replace(found, resumed=resumed)

    # Pools that share requests.

    async def _pools(self, path: str, method: bytes, arguments: _Arguments) -> Found:
        """Set weights, take those of the settings again, or (``GET /pools``) show the pools side by side."""
        if method == b"GET":
            return await gossip.ask(self._subject.clusters, self._clock, self._subject.wall)
        facts, board = await self._wanted(path, arguments)
        _log.info("weights were asked for: %s", _shown(facts))
        return await self._order(facts, board)

    async def _wanted(self, path: str, arguments: _Arguments) -> tuple[list[Weights], Board]:
        """The weights that are asked for, and what is known of orders before."""
        # All are asked, and not the server that we are: others may have pools that are not here (servers read new
        # settings one after the other), or know of later orders.
        found = await gossip.ask(self._subject.clusters, self._clock, self._subject.wall)
        if path == "/pools/reset":
            return _reset(found.board), found.board
        return _weights(side_by_side(found.here), arguments), found.board

    # Both.

    async def _order(self, facts: Sequence[Fact], board: Board) -> Found:
        return await gossip.order(self._subject.clusters, self._clock, self._subject.wall, facts, board)


def _pools(found: Found, asked: int, survey: Survey) -> Pools:
    pools = side_by_side(found.here)
    workers = dict.fromkeys((pool.name for pool in pools), 0)
    for facts in survey.processes.values():
        for child in facts.children:
            if child.ready and child.pool in workers:
                workers[child.pool] += 1
    counted_s = max((each.counted_s for each in found.here), default=0.0)
    return Pools(len(found.here), asked, counted_s, agreed(found.here), pools, workers)


def _paused(found: Found, asked: int) -> Paused:
    left_s = found.board.pauses_left_s()
    return Paused(len(found.here), asked, left_s, found.waiting, found.under_way, found.resumed)


def _reset(board: Board) -> list[Weights]:
    """The weights of the settings, wherever others were ordered."""
    return [Weights(of, {}) for of in board.weights()]


def _weights(pools: Sequence[PoolStatus], arguments: _Arguments) -> list[Weights]:
    """The weights that are asked for, with those of the pools that share requests with the ones that are named."""
    if not pools:
        raise Refused(404, "there are no pools")
    by_name = {pool.name: pool for pool in pools}
    given = {}
    for raw in arguments:
        name = raw.decode("utf-8", "backslashreplace")
        pool = by_name.get(name)
        if pool is None:
            raise Refused(404, f"there is no pool {name!r}; there is: {', '.join(by_name)}")
        if pool.weight is None:
            raise Refused(400, f'{name}: it shares its requests with no pool: one must have canary_of = "{name}"')
        given[name] = _weight(name, _argument(arguments, raw))
    if not given:
        raise Refused(400, f"which? for example /pools?{pools[-1].name}=5")
    found = []
    for of in dict.fromkeys(by_name[name].canary_of or name for name in given):
        canaries = [pool for pool in pools if pool.canary_of == of]
        # What a canary has is left as it is; the pool itself gets the rest.
        before = {pool.name: pool.weight for pool in canaries if pool.weight is not None}
        named = {name: weight for name, weight in given.items() if name == of or by_name[name].canary_of == of}
        try:
            found.append(Weights(of, shared_out([of, *(pool.name for pool in canaries)], before | named)))
        except ValueError as error:
            raise Refused(400, str(error)) from None
    return found


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not (isfinite(weight) and 0 <= weight <= GREATEST_WEIGHT):
        raise Refused(400, f"{name}: expected a weight, from 0 to {GREATEST_WEIGHT:.0f}, got {text!r}")
    return weight


def _shown(facts: Sequence[Weights]) -> str:
    """What is ordered, for people."""
    shown = (f"{name} {weight:g}" for fact in facts for name, weight in fact.weights.items())
    return ", ".join(shown) or "those of the settings"


def _seconds(arguments: _Arguments, default: float) -> float:
    given = _argument(arguments, b"for")
    try:
        seconds = float(given) if given else default
    except ValueError as error:
        raise Refused(400, str(error)) from None
    if not 0 < seconds <= LONGEST_PAUSE_S:
        raise Refused(400, f"for: expected more than 0 and at most 86400 seconds, got {given}")
    return seconds


def _argument(arguments: _Arguments, name: bytes) -> str:
    """An argument of the URL; empty: it is not given."""
    values = arguments.get(name, [b""])
    if len(values) > 1:
        raise Refused(400, f"{name.decode('utf-8', 'backslashreplace')}: given twice")
    return values[0].decode("utf-8", "backslashreplace")
