"""A loop of their own for tests of what needs one, but no reactor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import uvloop

__all__ = ["run"]

_T = TypeVar("_T")


def run(main: Callable[[], Awaitable[_T]], limit_s: float = 120.0) -> _T:
    """Run `main` on a new uvloop loop, also where pytest-twisted has left its reactor's loop as the running one."""
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

            async def call() -> _T:
                async with asyncio.timeout(limit_s):
                    return await main()

            return runner.run(call())
    finally:
        asyncio._set_running_loop(running)
