"""Waiting with a limit, by the clock that was given: asyncio's own timeouts read the loop's, which no test can turn."""

from __future__ import annotations

import asyncio
from typing import Any

from ifserver.clock import Clock

__all__ = ["pause", "within"]


async def pause(clock: Clock, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Wait for `seconds`."""
    over: asyncio.Future[None] = loop.create_future()
    timer = clock.callLater(seconds, _fire, over)
    try:
        await over
    finally:
        if timer.active():
            timer.cancel()


async def within(clock: Clock, loop: asyncio.AbstractEventLoop, seconds: float, what: asyncio.Future[Any]) -> bool:
    """Whether `what` is done (or has failed, or was cancelled) before `seconds` have passed. Never cancels it."""
    if what.done() or seconds <= 0:
        return what.done()
    over: asyncio.Future[None] = loop.create_future()
    timer = clock.callLater(seconds, _fire, over)
    try:
        await asyncio.wait((what, over), return_when=asyncio.FIRST_COMPLETED)
    finally:
        if timer.active():
            timer.cancel()
        over.cancel()
    return what.done()


def _fire(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
