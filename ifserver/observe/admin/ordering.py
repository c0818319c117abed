"""What an operator orders of all servers through an admin endpoint: ``/pause`` and ``/resume``.

They are for programs too: with the token where there is one, and with the header where there is none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from ifserver import channels
from ifserver.layers import control
from ifserver.layers.control import Found
from ifserver.layers.orders import Board, Fact, Pause
from ifserver.observe.admin.subject import Subject

__all__ = ["PATHS", "PAUSE_HEADER", "Ordering", "Refused"]

#: What a request that pauses must have, with any value, where there is no token.
PAUSE_HEADER: Final = "X-Ifserver-Pause"
#: What is asked for here, and by which methods.
PATHS: Final[Mapping[str, tuple[bytes, ...]]] = {"/pause": (b"GET", b"POST"), "/resume": (b"POST",)}
#: The longest pause, in seconds: a day.
_LONGEST_PAUSE_S: Final = 86_400.0

_log = logging.getLogger(__name__)


class Refused(Exception):
    """It is not done."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Paused(Struct, frozen=True):
    """What all servers together have answered about pauses."""

    #: How many servers have answered, of how many that were asked.
    servers: int
    asked: int
    #: How long each pool will be paused, in seconds. Empty name: all pools.
    pools: dict[str, float]
    waiting: int
    under_way: int


class Ordering:
    """Asks and orders for whoever may; what comes is JSON.

    Args:
        clock: the reactor.
    """

    def __init__(self, subject: Subject, clock: Any) -> None:
        self._subject = subject
        self._clock = clock

    async def answer(self, path: str, method: bytes, arguments: Mapping[bytes, Sequence[bytes]]) -> bytes:
        """Do what is asked for.

        Raises:
            Refused: it makes no sense.
            NodeError: no node has taken it, or it is not known.
        """
        return msgspec.json.encode(await self._pause(path, method, arguments))

    async def _pause(self, path: str, method: bytes, arguments: Mapping[bytes, Sequence[bytes]]) -> Paused:
        """Pause a pool, let it go on, or (``GET /pause``) say what is paused."""
        subject = self._subject
        pool = _argument(arguments, b"pool")
        known = subject.pools() or [channels.DEFAULT_POOL]
        if pool and pool not in known:
            raise Refused(404, f"there is no pool {pool!r}; there is: {', '.join(known)}")
        if method == b"GET":
            return _paused(await control.ask(subject.clusters, self._clock))
        named = f"pool {pool}" if pool else "all pools"
        if path == "/pause":
            seconds = _seconds(arguments, subject.pause_s)
            _log.info("a pause of %g s was asked for: %s", seconds, named)
            return _paused(await self._order([Pause(pool, seconds)], await self._board()))
        _log.info("the end of the pause was asked for: %s", named)
        board = await self._board()
        ended = [pool] if pool else dict.fromkeys(("", *board.pauses_left_s()))
        return _paused(await self._order([Pause(each, 0.0) for each in ended], board))

    async def _board(self) -> Board:
        """What was ordered before."""
        board = self._subject.board
        return board if board is not None else (await control.ask(self._subject.clusters, self._clock)).board

    async def _order(self, facts: Sequence[Fact], board: Board) -> Found:
        return await control.order(self._subject.clusters, self._clock, self._subject.wall, facts, board)


def _paused(found: Found) -> Paused:
    return Paused(len(found.here), found.asked, found.board.pauses_left_s(), found.waiting, found.under_way)


def _seconds(arguments: Mapping[bytes, Sequence[bytes]], default: float) -> float:
    given = _argument(arguments, b"for")
    try:
        seconds = float(given) if given else default
    except ValueError as error:
        raise Refused(400, str(error)) from None
    if not 0 < seconds <= _LONGEST_PAUSE_S:
        raise Refused(400, f"for: expected more than 0 and at most 86400 seconds, got {given}")
    return seconds


def _argument(arguments: Mapping[bytes, Sequence[bytes]], name: bytes) -> str:
    """An argument of the URL; empty: it is not given."""
    values = arguments.get(name, [b""])
    if len(values) > 1:
        raise Refused(400, f"{name.decode()}: given twice")
    return values[0].decode("utf-8", "backslashreplace")
