"""A node as several processes have it, in memory: what one publishes is handed to all that hear the group, at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, fail, succeed

__all__ = ["Seat"]


class Site(Protocol):
    """Where they are."""

    seats: list[Seat]


class Seat:
    """The node, as one process has it."""

    name = "east"
    connected = True

    def __init__(self, site: Site) -> None:
        self.subscriber: Any = None
        self.groups: set[str] = set()
        self.published: list[str] = []
        self.answers = True
        self.refuses: Exception | None = None
        self._site = site

    def publish(self, group: str, payload: bytes) -> Deferred[int]:
        self.published.append(group)
        if self.refuses is not None:
            return fail(self.refuses)
        if not self.answers:
            return Deferred()
        hearing = [seat for seat in self._site.seats if group in seat.groups]
        for seat in hearing:
            seat.subscriber.published(group, payload)
        return succeed(len(hearing))

    def subscribe(self, groups: Sequence[str]) -> Deferred[None]:
        self.groups |= set(groups)
        return succeed(None) if self.answers else Deferred()

    def unsubscribe(self, groups: Sequence[str]) -> None:
        self.groups -= set(groups)
