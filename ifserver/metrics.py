"""Every counter: its name, its help and its label, in one block; and the counts of one process.

For each node the sum of an idle system balances: sent = delivered + dropped, over all processes and all reasons.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

__all__ = ["COUNTERS", "Counters"]

#: name -> (help, name of the label or "")
COUNTERS: Final[dict[str, tuple[str, str]]] = {
    "messages_sent": ("Messages that a node has taken from this process.", ""),
    "messages_delivered": ("Messages that this process has pulled and handed to a stream or an application.", ""),
    "messages_dropped": ("Messages that ended otherwise.", "reason"),
    "streams_opened": ("Streams that this process has begun.", "kind"),
    "streams_closed": ("Streams that this process has ended.", "kind"),
    "requests_refused": ("Requests that were answered by the server itself.", "status"),
    "connections_refused": ("Connections that were one too many.", "of"),
    "connections_cut": ("Connections whose clients took nothing of what they were sent.", ""),
    "claims": ("Claims that were sent on their own.", ""),
    "retries": ("Requests that were offered once more.", ""),
}


class Counters:
    """The counts of one process. Counting a name that is not in `COUNTERS` raises `KeyError`."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, name: str, amount: int = 1, label: str = "") -> None:
        """Count `amount` more of `name`, under `label` where the counter has one."""
        COUNTERS[name]
        self._counts[name, label] += amount

    def value(self, name: str, label: str = "") -> int:
        """How many there were."""
        COUNTERS[name]
        return self._counts[name, label]

    def statistics(self) -> dict[str, int]:
        """All that were counted, as ``name`` or ``name{label}``."""
        return {f"{name}{{{label}}}" if label else name: n for (name, label), n in sorted(self._counts.items())}
