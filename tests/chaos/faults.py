"""Everything that is done to the site, and in what order: a bag of all faults is shuffled, emptied, filled again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from tests.chaos import node_faults, process_faults
from tests.chaos.misfortune import Misfortune

__all__ = ["KINDS", "Misfortune", "schedule"]

#: All faults, by their names.
KINDS: dict[str, type[Misfortune]] = {
    fault.kind(): fault
    for module in (process_faults, node_faults)
    for fault in (getattr(module, name) for name in module.__all__)
}


def schedule(random: Random, kinds: Sequence[str] | None = None) -> Iterator[tuple[type[Misfortune], float]]:
    """Faults without end, and how long everything is calm before each, in seconds."""
    while True:
        bag = list(kinds or KINDS)
        random.shuffle(bag)
        for kind in bag:
            yield KINDS[kind], random.uniform(0.2, 1.5)
