"""The groups, those of ifserver's own among them, to which this process has subscribed for Channels."""

from __future__ import annotations

import asyncio

from twisted.python.failure import Failure

from ifserver.layers.groups import Groups, Listener

__all__ = ["Subscriptions"]


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
        """Hold `group` until `drop`. What is returned is done when all is heard that is sent from then on; it fails if
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
            held.ready.exception()  # whoever waits is told, and somebody who does not wait need not be
