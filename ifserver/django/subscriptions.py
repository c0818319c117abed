"""The groups to which this process has subscribed for Channels, also those by which processes reach each other."""

from __future__ import annotations

import asyncio
import itertools
from typing import Final

from twisted.python.failure import Failure

from ifserver.django.wire import Change, Changed, encode, local_part, subject_of
from ifserver.errors import NodeError, NodeRefused
from ifserver.groups.link import Link
from ifserver.layers.groups import Groups, Listener

__all__ = ["Changes", "Subscriptions"]

#: How long another process may take to add its channel to a group, in seconds.
_CHANGE_S: Final = 5.0


class _Held:
    """A group, by how many it is held, and what those wait for who have come first."""

    __slots__ = ("count", "ready")

    def __init__(self, ready: asyncio.Future[None]) -> None:
        self.count = 0
        self.ready = ready


class Subscriptions:
    """Subscribes with the first who holds a group, and no longer with the last. All on `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, groups: Groups, listener: Listener) -> None:
        self._loop = loop
        self._groups = groups
        self._listener = listener
        self._held: dict[str, _Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, group: str) -> asyncio.Future[None]:
        """Hold `group` until `drop`. Returns what is done when all is received that is sent from then on, and fails if
        that cannot be. To be awaited through `asyncio.shield`, since others wait for it as well."""
        held = self._held.get(group)
        if held is None:
            held = self._held[group] = _Held(self._loop.create_future())
            self._groups.subscribe(group, self._listener).addCallbacks(
                self._done, self._failed, (held,), errbackArgs=(held,)
            )
        held.count += 1
        return held.ready

    def ready(self, group: str) -> asyncio.Future[None]:
        """The same, for one who holds it already."""
        return self._held[group].ready

    def drop(self, group: str) -> None:
        """Hold it no longer."""
        held = self._held[group]
        held.count -= 1
        if not held.count:
            del self._held[group]
            if not held.ready.done():
                held.ready.set_result(None)  # nobody needs it any more
            self._groups.unsubscribe(group, self._listener)

    def _done(self, _: object, held: _Held) -> None:
        if not held.ready.done():
            held.ready.set_result(None)

    def _failed(self, failure: Failure, held: _Held) -> None:
        if not held.ready.done():
            held.ready.set_exception(failure.value or RuntimeError(failure.getErrorMessage()))
            held.ready.exception()  # what waits gets the error, and nothing need wait


class Changes:
    """Changes of groups that other processes are asked for, since they have the channels. On the link's loop."""

    def __init__(self, link: Link, subscriptions: Subscriptions) -> None:
        self._link = link
        self._subscriptions = subscriptions
        self._asked: dict[int, asyncio.Future[str]] = {}
        self._ids = itertools.count()
        self._has_replies = False

    def answered(self, answer: Changed) -> None:
        """The other process has answered."""
        asked = self._asked.get(answer.id)
        if asked is not None and not asked.done():
            asked.set_result(answer.error)

    async def ask(self, name: str, group: str, joins: bool) -> None:
        """Ask the process that has the channel, if there is one, and wait until it has done it.

        Raises:
            NodeRefused: it could not.
            TimeoutError: it does not answer.
        """
        reply = f"!reply.{self._link.clusters.process}"
        if not self._has_replies:
            try:
                await asyncio.shield(self._subscriptions.hold(reply))
            except NodeError:
                self._subscriptions.drop(reply)
                raise
            self._has_replies = True
        id = next(self._ids)
        asked = self._asked[id] = self._link.loop.create_future()
        try:
            change = encode(Change(local_part(name), group, joins, reply, id))
            there = await self._link.groups.publish(subject_of(name), message=change).asFuture(self._link.loop)
            if not there:
                return
            async with asyncio.timeout(_CHANGE_S):
                error = await asked
        except TimeoutError:
            what = "added to" if joins else "discarded from"
            raise TimeoutError(f"channel {name} was not {what} group {group}: its process does not answer") from None
        finally:
            del self._asked[id]
        if error:
            raise NodeRefused(f"channel {name}, group {group}: {error}")
