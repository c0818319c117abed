"""Closing old database connections once for all consumers that a message is for.

Before each message, an async consumer of Channels closes the database connections that have become too old
(``channels.db.aclose_old_connections``). They belong to the one thread in which all its sync code runs, so that takes a
hop there and back: some 150 us of CPU, several times what the consumer needs otherwise. The consumers of a process
share that thread. When a message to a group is for a thousand of them, one hop is enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import channels.consumer
from asgiref.sync import AsyncToSync, SyncToAsync

__all__ = ["SharedClosing", "share_closing"]

#: Consumers whose sync code runs in the same thread: a loop, and a context that has a thread of its own, if any.
_Thread: TypeAlias = tuple[asyncio.AbstractEventLoop, Any]


class _Call:
    """A call of `close`."""

    #: Whether somebody beside who made it relies on it.
    is_shared = False


class SharedClosing:
    """Calls `close`, once for all that call this in the same turn of the loop and share a thread.

    Only the first waits for that. The others need not: what they have to do in the thread is queued behind it.
    """

    def __init__(self, close: Callable[[], Awaitable[None]]) -> None:
        self._close = close
        #: Those of this turn.
        self._calls: dict[_Thread, _Call] = {}
        #: Calls that nobody waits for.
        self._repeated: set[asyncio.Future[None]] = set()

    async def __call__(self) -> None:
        if getattr(AsyncToSync.executors, "current", None) is not None:
            # There is sync code above that waits for this, in whichever thread: the call has to be made from there.
            await self._close()
            return
        loop = asyncio.get_running_loop()
        thread = loop, SyncToAsync.thread_sensitive_context.get(None)
        call = self._calls.get(thread)
        if call is not None:
            call.is_shared = True
            return
        call = self._calls[thread] = _Call()
        loop.call_soon(self._calls.pop, thread, None)
        try:
            await self._close()
        except BaseException:
            self._calls.pop(thread, None)
            if call.is_shared:
                # It was cancelled, or one connection could not be closed, which is given up by that. There may be more.
                repeated = asyncio.ensure_future(self._close())
                self._repeated.add(repeated)
                repeated.add_done_callback(self._repeated.discard)
            raise


def share_closing() -> None:
    """Let the consumers of this process close old connections so. A second call changes nothing."""
    close = getattr(channels.consumer, "aclose_old_connections", None)
    # It is no public name of Channels. Without it, consumers close theirs in another way, or need not.
    if close is not None and not isinstance(close, SharedClosing):
        channels.consumer.aclose_old_connections = SharedClosing(close)
