"""The kinds of work that servers are compared by."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from benchmarks.http_loads import TEN_KB_POSTS, beside_slow_ones, wrk
from benchmarks.outcome import Result
from benchmarks.websocket_loads import broadcasts, connects, echo

__all__ = ["LOADS", "Load"]

#: Of the requests that come beside slow ones: the share of those, the CPU time that one takes
#: (`benchmarks.application`), that of any other with all that belongs to it, and how much of the machine all take.
_SLOW_SHARE: Final = 0.01
_SLOW_S: Final = 0.2
_ANY_S: Final = 0.0004
_USED: Final = 0.6
_WORKERS: Final = 4
_RATE: Final = _USED * min(_WORKERS, os.cpu_count() or 1) / (_SLOW_SHARE * _SLOW_S + _ANY_S)


class Load(Struct, frozen=True):
    """One kind of work."""

    name: str
    title: str
    #: Does it against a port, for so many seconds. One that sends to groups calls a third argument when its members
    #: have joined, and before they leave: what is measured is in between. A fourth sends to them.
    run: Callable[..., Result]
    #: How many processes run the application.
    workers: int = 1
    websockets: bool = False
    #: Whether what is measured is sent to a group.
    groups: bool = False


LOADS: Final = {
    load.name: load
    for load in (
        Load("get", "GET, 13 bytes, 64 connections", wrk("/", 64)),
        Load("one", "GET, one connection", wrk("/", 1)),
        Load("post", "POST 10 KB, answer 10 KB, 32 connections", wrk("/10k", 32, TEN_KB_POSTS)),
        Load("mib", "GET, 1 MiB, 8 connections", wrk("/mib", 8)),
        Load("echo", "WebSocket echo, 64 bytes, 100 connections", echo(100, 64), websockets=True),
        Load("connect", "WebSocket: connect, shake hands, close", connects(8), websockets=True),
        Load("room", "Broadcast of 100 bytes to 1,000 WebSockets", broadcasts(1000), websockets=True, groups=True),
        Load("hall", "Broadcast of 100 bytes to 5,000 WebSockets", broadcasts(5000), websockets=True, groups=True),
        Load(
            "beside", f"GET beside 1 % of 200 ms of CPU, {_WORKERS} workers, {_RATE:.0f} a second",
            beside_slow_ones(_RATE, _SLOW_SHARE, 20.0), _WORKERS,
        ),
    )
}  # fmt: skip
