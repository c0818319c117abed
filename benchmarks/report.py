"""Tables of what was measured, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.loads import LOADS
from benchmarks.outcome import Measurement
from benchmarks.subjects import is_reference

__all__ = ["markdown"]

_ROLES = ("front", "worker", "node", "publisher")
_COLUMNS = (
    "front us", "worker us", "node us", "publisher us", "all us", "front / uvicorn", "all / uvicorn", "per s", "p50 ms",
    "p99 ms", "client us",
)  # fmt: skip


def markdown(measured: Sequence[Measurement], about: Mapping[str, str]) -> str:
    """One table for each load: medians over the rounds, half the range behind "±", and ratios to uvicorn."""
    lines = ["# ifserver beside its peers", ""]
    lines += [f"* {name}: {value}" for name, value in about.items()]
    for load in dict.fromkeys(each.load for each in measured):
        lines += ["", f"## {LOADS[load].title}", "", *_table([each for each in measured if each.load == load])]
    return "\n".join(lines) + "\n"


def _table(measured: Sequence[Measurement]) -> Iterable[str]:
    yield f"| server | {' | '.join(_COLUMNS)} |"
    yield f"| --- |{' ---: |' * len(_COLUMNS)}"
    by_subject: dict[str, list[Measurement]] = {}
    for each in measured:
        by_subject.setdefault(each.subject, []).append(each)
    reference = [each.total_us for each in measured if is_reference(each.subject)]
    for subject, rounds in by_subject.items():
        totals = [each.total_us for each in rounds]
        fronts = [each.cpu_us["front"] for each in rounds]
        costs = [_middle([each.cpu_us[role] for each in rounds if role in each.cpu_us]) for role in _ROLES]
        ratios = [_ratio(fronts, reference), _ratio(totals, reference)]
        rates = _middle([each.result.done / each.result.seconds for each in rounds], 0)
        p50, p99 = (_middle([getattr(each.result, name) for each in rounds], 2) for name in ("p50_ms", "p99_ms"))
        failed = sum(each.result.failed for each in rounds)
        name = f"{subject} ({failed} failed)" if failed else subject
        client = _middle([each.client_us for each in rounds])
        yield f"| {' | '.join((name, *costs, _middle(totals), *ratios, rates, p50, p99, client))} |"


def _middle(values: Sequence[float], digits: int = 1) -> str:
    if not values:
        return ""
    half = (max(values) - min(values)) / 2
    return f"{statistics.median(values):,.{digits}f} ± {half:,.{digits}f}"


def _ratio(values: Sequence[float], reference: Sequence[float]) -> str:
    """Round by round, for what disturbs one disturbs its neighbour."""
    pairs = zip(values, reference, strict=False)
    return f"{statistics.median(a / b for a, b in pairs):.2f}" if reference else ""
