"""What every fault is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random
from typing import ClassVar

from tests.chaos.fleet import Fleet, Node
from tests.chaos.records import Trait

__all__ = ["Misfortune"]


class Misfortune(ABC):
    """One fault: `inject` begins it and `heal` ends it, `lasts_s` later.

    Args:
        random: chooses the victim and the time.
        fleet: the site, in order.
    """

    trait: ClassVar[Trait]

    def __init__(self, random: Random, fleet: Fleet) -> None:
        self.fleet = fleet
        self.lasts_s = self.duration(random)
        self.servers: frozenset[int] = frozenset()
        self.workers: frozenset[int] = frozenset()
        self.node: Node | None = None
        #: Of whom, for people.
        self.victim = ""
        self.choose(random)

    @classmethod
    def kind(cls) -> str:
        """Its name."""
        return "".join(f" {c.lower()}" if c.isupper() else c for c in cls.__name__).strip()

    def duration(self, random: Random) -> float:
        """How long it lasts, in seconds."""
        return 0.0

    @abstractmethod
    def choose(self, random: Random) -> None:
        """Choose the victim."""

    @abstractmethod
    def inject(self) -> None:
        """Begin it."""

    @abstractmethod
    def heal(self) -> None:
        """End it; returns when the victim is back."""
