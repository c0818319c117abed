"""The order to pause pools, and to go on: sent to all servers of all clusters through a group, and answered by each."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from ifserver.channels import new_process_name
from ifserver.layers.clusters import Clusters
from ifserver.layers.membership import Question

__all__ = ["GROUP", "Order", "Paused", "PausedHere", "answer", "order", "read"]

#: The group that every server hears.
GROUP: Final = "!pause"


class Order(Struct, frozen=True, array_like=True):
    """What servers are to do with a pool."""

    #: Empty: all pools.
    pool: str
    #: How long to pause it. 0: let it go on; None: nothing, but tell.
    seconds: float | None
    #: The group in which the answer is awaited.
    answer_in: str


class PausedHere(Struct, frozen=True, array_like=True):
    """What one server answers."""

    #: How long each pool will be paused, in seconds. Empty name: all pools.
    pools: dict[str, float]
    #: Requests that wait for the end of the pause, and those of the pools that are paused that were there before.
    waiting: int
    under_way: int


class Paused(Struct, frozen=True):
    """What all servers together have answered."""

    #: How many servers have answered, of how many that were asked.
    servers: int
    asked: int
    pools: dict[str, float]
    waiting: int
    under_way: int


answer = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PausedHere).decode
#: Raises `msgspec.MsgspecError`: it is no order.
read = msgspec.msgpack.Decoder(Order).decode


async def order(clusters: Clusters, clock: Any, pool: str, seconds: float | None) -> Paused:
    """Let all servers pause `pool` for some `seconds` (0: go on; None: only tell), and hear what they say to that.

    Raises:
        NodeError: no node has taken it, or it is not known.
    """
    question = Question(clusters.groups, f"!paused.{clusters.process}.{new_process_name()}", clock)
    raw = await question.put(GROUP, message=answer(Order(pool, seconds, question.name)))
    answers = [_decode(each) for each in raw.values()]
    pools: dict[str, float] = {}
    for each in answers:
        for name, left_s in each.pools.items():
            pools[name] = max(left_s, pools.get(name, 0.0))
    waiting, under_way = sum(each.waiting for each in answers), sum(each.under_way for each in answers)
    return Paused(len(answers), question.expected, pools, waiting, under_way)
