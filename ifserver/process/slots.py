"""The worker processes of a supervisor, and the places that they fill."""

from __future__ import annotations

from ifserver.clock import Timer
from ifserver.process.children import Child
from ifserver.streams.ledger import Ledger

__all__ = ["Place", "Worker"]


class Worker:
    """One child, from its start until it has been waited for."""

    __slots__ = (
        "child",
        "claimed",
        "ledger",
        "place",
        "ready_at",
        "stale",
        "started_at",
        "timer",
        "turned_at",
        "turns",
    )

    child: Child

    def __init__(self, place: Place, ledger: Ledger, now: float) -> None:
        #: The place that it fills; None once it is told to end and another fills that place.
        self.place: Place | None = place
        self.ledger = ledger
        self.started_at = now
        #: When it said that it is ready; None before that.
        self.ready_at: float | None = None
        #: Whether it was told to end before it was ready, and its place waits for it.
        self.stale = False
        #: How often its loop had turned, when that was seen to change, and the streams that were claimed for it.
        self.turns = 0
        self.turned_at = now
        self.claimed: set[tuple[str, int]] = set()
        #: When it will be killed; None until it is told to end.
        self.timer: Timer | None = None

    @property
    def ready(self) -> bool:
        return self.ready_at is not None


class Place:
    """Where one worker is wanted: it has one, or a timer that will start one."""

    __slots__ = ("crashes", "timer", "worker")

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.timer: Timer | None = None
        self.crashes = 0
