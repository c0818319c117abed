"""Closing old database connections once for all consumers that a message is for.

Before each message, an async consumer of Channels closes the database connections that have become too old
(``channels.db.aclose_old_connections``). They belong to the one thread in which all its sync code runs, so that takes a
hop there and back: some 150 us of CPU, several times what the consumer needs otherwise. The consumers of a process
share that thread. When a message to a group is for a thousand of them, one hop is enough.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
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

    Only the first waits for that. The others need not: `close` queues its work for the thread in its first step, and
    what they have to do there comes behind it.
    """

    def __init__(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._close = close
        #: Those of this turn.
        self._calls: dict[_Thread, _Call] = {}
        #: The tasks in which they run. Who waits for one may be cancelled; that must not take it from the others.
        self._tasks: set[asyncio.Task[None]] = set()

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
        closing, context = self._close(), contextvars.copy_context()
        try:
            # Now and not when a task begins: the others do not wait for that.
            awaited = context.run(closing.send, None)
        except StopIteration:
            return
        except BaseException:
            self._calls.pop(thread)
            raise
        task = loop.create_task(_rest_of(closing, awaited), context=context)
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, call))
        await asyncio.shield(task)

    def _ended(self, call: _Call, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if call.is_shared and not task.cancelled() and task.exception() is not None:
            # One connection could not be closed, which is given up by that. There may be more.
            again = task.get_loop().create_task(self._close())
            self._tasks.add(again)
            again.add_done_callback(self._tasks.discard)


@types.coroutine
def _rest_of(coroutine: Coroutine[Any, Any, None], awaited: object) -> Generator[object, None, None]:
    """What is left of a coroutine whose first step was made, and which waits for `awaited`."""
    try:
        while True:
            try:
                yield awaited
            except BaseException as error:
                awaited = coroutine.throw(error)
            else:
                awaited = coroutine.send(None)
    except StopIteration:
        return


def share_closing() -> None:
    """Let the consumers of this process close old connections so. A second call changes nothing."""
    close = getattr(channels.consumer, "aclose_old_connections", None)
    # It is no public name of Channels. Without it, consumers close theirs in another way, or need not.
    if close is not None and not isinstance(close, SharedClosing):
        channels.consumer.aclose_old_connections = SharedClosing(close)
