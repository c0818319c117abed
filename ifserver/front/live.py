"""Limits and waits that can be changed while the server runs (`ifserver.rereading` says which settings these are)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, TypeVar

from ifserver.clock import Clock
from ifserver.front.admission import Admission
from ifserver.front.deadlines import Deadlines
from ifserver.front.unsent import Unsent
from ifserver.metrics import Counters
from ifserver.networks import parse_networks
from ifserver.settings import FrontSettings

__all__ = ["LiveAdmission", "LiveDeadlines", "LiveUnsent"]

_T = TypeVar("_T", bound=Hashable)


class LiveDeadlines(Deadlines[_T]):
    """Deadlines whose length can be changed. All have the new one then, so that the oldest is still the next."""

    def change(self, seconds: float) -> None:
        """From now on, and for those that wait already, a deadline is `seconds` long."""
        if seconds != self._seconds:
            self._seconds = seconds
            self._await_oldest()


class LiveUnsent(Unsent[Any]):
    """`Unsent` whose patience can be changed."""

    def __init__(self, clock: Clock, seconds: float, counters: Counters) -> None:
        super().__init__(clock, seconds, counters)
        self._live: LiveDeadlines[Any] = LiveDeadlines(clock, seconds, self._look)
        self._deadlines = self._live

    def change(self, seconds: float) -> None:
        """From now on, `seconds` are waited for clients that take nothing."""
        self._live.change(seconds)


class LiveAdmission(Admission):
    """`Admission` whose limits can be changed. Whoever is there already stays."""

    def change(self, settings: FrontSettings) -> None:
        """From now on the limits are those of `settings`."""
        self._settings = settings
        self._uncounted = parse_networks((*settings.trusted_proxies, *settings.uncounted_networks), "front")
