"""What operators read of real processes: their metrics, and whether the accounting of messages balances."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.running import LIMIT_S, Running, eventually

__all__ = ["ADMIN", "admin_of", "balance", "scrape", "settled"]

ADMIN = ("--admin", "127.0.0.1:0")


def admin_of(running: Running) -> str:
    """The URL of its admin endpoint."""
    return running.said(r"admin endpoint at (http://\S+)/")[1]


def scrape(*all_of: Running) -> dict[str, float]:
    """The sums of all samples by name, and by name and reason."""
    found: dict[str, float] = {}
    for running in all_of:
        text = httpx.get(f"{admin_of(running)}/metrics", timeout=LIMIT_S).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                for name in (sample.name, f"{sample.name}{{{sample.labels.get('reason', '')}}}"):
                    found[name] = found.get(name, 0) + sample.value
    return found


def balance(counted: dict[str, float]) -> float:
    """Messages that have come to nothing known, as in `ifserver.metrics.balance`."""
    sent, delivered, dropped = (counted[f"ifserver_messages_{what}_total"] for what in ("sent", "delivered", "dropped"))
    return sent - delivered - dropped


def settled(
    look: Callable[[], dict[str, float]], fits: Callable[[dict[str, float]], bool], within_s: float = LIMIT_S
) -> dict[str, float]:
    """The counts, once they fit."""
    found: dict[str, float] = {}

    def looked() -> bool:
        nonlocal found
        found = look()
        if fits(found):
            return True
        time.sleep(0.2)  # a look is dear
        return False

    try:
        eventually(looked, "the accounting balances", within_s)
    except AssertionError as error:
        error.add_note(f"balance {balance(found)}: " + str({k: v for k, v in found.items() if "messages" in k and v}))
        raise
    return found
