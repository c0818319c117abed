"""The children that a supervisor starts, seen by people: how much each of them holds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from ifserver import channels
from ifserver.errors import ChannelNameError
from ifserver.metrics import Counters
from ifserver.process import children
from ifserver.process.children import Launch
from ifserver.process.supervisor import Spawn
from ifserver.status import Child
from ifserver.streams.ledger import Ledger

__all__ = ["Nursery"]


class _Place:
    """One child, and the memory that it shares with its supervisor."""

    __slots__ = ("ledger", "pid", "ready")

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.pid = 0
        self.ready = False


class Nursery:
    """Starts children for a `Supervisor`, and knows those that live.

    Args:
        slots: of each child's ledger.
        spawn: what really starts them.
    """

    def __init__(self, slots: int, spawn: Spawn = children.spawn) -> None:
        self._slots = slots
        self._spawn = spawn
        self._places: dict[_Place, None] = {}

    def spawn(
        self, launch: Launch, loop: asyncio.AbstractEventLoop, ready: Callable[[], None], ended: Callable[[], None], /
    ) -> children.Child:
        """As `ifserver.process.children.spawn`.

        Raises:
            OSError: there are no processes, descriptors or memory left.
        """
        assert launch.ledger_fd is not None
        place = _Place(children.open_ledger(os.dup(launch.ledger_fd), self._slots))

        def is_ready() -> None:
            place.ready = True
            ready()

        def has_ended() -> None:
            self._places.pop(place, None)
            ended()

        child = self._spawn(launch, loop, is_ready, has_ended)
        place.pid = child.pid
        self._places[place] = None
        return child

    def children(self) -> tuple[Child, ...]:
        """Those that live, oldest first."""
        return tuple(map(_child, self._places))

    def held(self) -> list[tuple[str, str]]:
        """The reply channel of every stream that a child holds, and the process name of that child."""
        found = []
        for place in self._places:
            process = _process_of(place.ledger)
            found += [(channel, process) for channel, _ in place.ledger.entries()]
        return found


def _child(place: _Place) -> Child:
    gauges = Counters(place.ledger.cells).gauges()
    return Child(
        pid=place.pid,
        process=_process_of(place.ledger),
        ready=place.ready,
        streams=gauges["streams_held"],
        unanswered=gauges["streams_unanswered"],
        free=gauges["slots_free"],
    )


def _process_of(ledger: Ledger) -> str:
    """Empty when the child has not got so far as to have an inbox, or has overwritten the memory."""
    try:
        return channels.process_of(channels.check(ledger.inbox))
    except ChannelNameError:
        return ""
