"""Closing old database connections once for all consumers that a message is for.

Before each message, an async consumer of Channels closes the database connections that have become too old
(``channels.db.aclose_old_connections``). They belong to the one thread in which all its sync code runs, so that takes a
hop there and back: some 150 us of CPU, several times what the consumer needs otherwise. The consumers of a process
share that thread. When a message to a group is for a thousand of them, one hop is enough.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import channels.consumer
from asgiref.sync import AsyncToSync, SyncToAsync

__all__ = ["SharedClosing", "share_closing"]

#: Consumers whose sync code runs in the same thread: a loop, and a context that has a thread of its own, if any.
_Thread: TypeAlias = tuple[asyncio.AbstractEventLoop, Any]


class _Outcome(enum.Enum):
    """What those are told who let somebody else call `close`."""

    CLOSED = enum.auto()
    FAILED = enum.auto()
    #: It was not called: who was to do so was cancelled.
    CANCELLED = enum.auto()


class SharedClosing:
    """Calls `close`, once for all that call this in the same turn of the loop and share a thread."""

    def __init__(self, close: Callable[[], Awaitable[None]]) -> None:
        self._close = close
        #: Those who wait for a call of `close` that has not begun.
        self._waiting: dict[_Thread, list[asyncio.Future[_Outcome]]] = {}

    async def __call__(self) -> None:
        if getattr(AsyncToSync.executors, "current", None) is not None:
            # There is sync code above that waits for this, in whichever thread: the call has to be made from there.
            await self._close()
            return
        loop = asyncio.get_running_loop()
        thread = loop, SyncToAsync.thread_sensitive_context.get(None)
        while (waiting := self._waiting.get(thread)) is not None:
            told = loop.create_future()
            waiting.append(told)
            outcome = await told
            if outcome is _Outcome.CLOSED:
                return
            if outcome is _Outcome.FAILED:
                # A connection that cannot be closed is given up by that. So this is no failure of all the others.
                await self._close()
                return
        await self._close_for_all(thread)

    async def _close_for_all(self, thread: _Thread) -> None:
        waiting = self._waiting[thread] = []
        outcome = _Outcome.CANCELLED
        try:
            try:
                await asyncio.sleep(0)
            finally:
                # Before it begins: who asks from now on may be too late for it.
                del self._waiting[thread]
            await self._close()
            outcome = _Outcome.CLOSED
        except Exception:
            outcome = _Outcome.FAILED
            raise
        finally:
            for told in waiting:
                if not told.done():
                    told.set_result(outcome)


def share_closing() -> None:
    """Let the consumers of this process close old connections so. A second call changes nothing."""
    close = getattr(channels.consumer, "aclose_old_connections", None)
    # It is no public name of Channels. Without it, consumers close theirs in another way, or need not.
    if close is not None and not isinstance(close, SharedClosing):
        channels.consumer.aclose_old_connections = SharedClosing(close)
