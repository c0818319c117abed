"""One run of chaos: the site is started, clients come, faults happen and are healed, the clients leave, and the judge
speaks.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.chaos.checker import violations
from tests.chaos.faults import Misfortune, schedule
from tests.chaos.fleet import SHAPES, Fleet
from tests.chaos.load import HANG_S, Load
from tests.chaos.proxy import loop_in_thread
from tests.chaos.records import Fault, History, Request, Socket, runs_in

__all__ = ["Plan", "run"]

#: How long the site and its clients run before the first fault.
_WARM_S = 1.0


class Plan(NamedTuple):
    """What a run is to be."""

    #: The faults, their victims and what the clients do follow from it, but not how processes race.
    seed: int
    #: How long it lasts at most, beside starting and ending.
    seconds: float = 600.0
    #: How many faults there are at most; None: as many as fit.
    faults: int | None = None
    #: Which faults to choose from (`tests.chaos.faults.KINDS`); None: all.
    kinds: Sequence[str] | None = None
    #: What the site is made of (`tests.chaos.fleet.SHAPES`).
    shape: str = "two clusters"
    #: How many clients there are, compared with the usual number.
    clients: float = 1.0
    #: How long a request may wait to be taken, in seconds; so long waits whose last word was lost. More than any fault
    #: lasts that loses nothing (4 s), and its recovery.
    queue_timeout_s: float = 30.0
    #: Whether all that the processes have written is told in any case.
    logs: bool = False


def run(plan: Plan, say: Callable[[str], None]) -> list[str]:
    """Carry out `plan`; everything that was wrong. `say` is told what happens meanwhile."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        loop = stack.enter_context(loop_in_thread())
        fleet = Fleet(SHAPES[plan.shape], stack, loop, folder, plan.queue_timeout_s)
        fleet.start()
        load = Load(fleet, str(plan.seed), plan.clients)
        load.history.queue_timeout_s = plan.queue_timeout_s
        running = asyncio.run_coroutine_threadsafe(load.run(), loop)
        _Faults(fleet, load.history, say).happen(plan, running.done)
        loop.call_soon_threadsafe(load.stop)
        running.result(3 * HANG_S)
        load.history.runs = runs_in(folder)
        for line in (*_unusual(load.history), _summary(load.history)):
            say(line)
        found = violations(load.history) + fleet.end()
        if found or plan.logs:
            say(fleet.output())
    return found


class _Faults:
    """What happens, one thing after another."""

    def __init__(self, fleet: Fleet, history: History, say: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._say = say
        self._faults: list[Fault] = []
        self._history = history
        history.faults = self._faults

    def happen(self, plan: Plan, over: Callable[[], bool]) -> None:
        """Until they have, or there is no time for the next; the last one is healed, and its recovery awaited."""
        until = time.monotonic() + plan.seconds
        random = Random(f"{plan.seed} faults")
        self._wait(_WARM_S)
        for kind, calm_s in itertools.islice(schedule(random, plan.kinds), plan.faults):
            misfortune = kind(random, self._fleet)
            after_s = max(misfortune.trait.recovery_s, misfortune.trait.told_s) + calm_s
            if time.monotonic() + misfortune.lasts_s + after_s > until or over():
                return
            self._happens(misfortune)
            self._wait(after_s)

    def _happens(self, misfortune: Misfortune) -> None:
        what = f"{misfortune.kind()}: {misfortune.victim}"
        fault = Fault(
            misfortune.kind(), what, misfortune.trait, time.monotonic(), float("inf"), misfortune.servers,
            misfortune.workers, misfortune.node.name if misfortune.node is not None else None,
        )  # fmt: skip
        self._say(f"{fault.begun_at:.2f} {what}, for {misfortune.lasts_s:.1f} s")
        self._faults.append(fault)
        misfortune.inject()
        self._wait(misfortune.lasts_s)
        misfortune.heal()
        self._faults[-1] = fault._replace(healed_at=time.monotonic())

    def _wait(self, seconds: float) -> None:
        """A part of the schedule is that time passes."""
        threading.Event().wait(seconds)
        self._history.load = max(self._history.load, os.getloadavg()[0] / (os.cpu_count() or 1))


def _unusual(history: History) -> Iterator[str]:
    """What went wrong, rightly or not, in the order of time, and who ran it; but not what is told at once."""
    runs: dict[str, list[str]] = defaultdict(list)
    for run in history.runs:
        runs[run.name].append(f"{run.worker} {run.began_at:.2f}-{run.ended_at:.2f}")
    every: list[Request | Socket] = [*history.requests, *history.sockets]
    for each in sorted(every, key=lambda each: each.ended_at):
        took_s = each.ended_at - each.began_at
        if each.outcome not in ("ok", "left", "refused") and (each.outcome != "503" or took_s > 1.0):
            ran = ", ".join(runs[each.name]) or "nobody"
            what = f"{each.name} on server {each.server}: {each.outcome} after {took_s:.2f} s"
            yield f"{each.ended_at:.2f} {what}, run by {ran}"


def _summary(history: History) -> str:
    outcomes = Counter(f"{request.kind} {request.outcome}" for request in history.requests)
    outcomes += Counter(f"socket {socket.outcome}" for socket in history.sockets)
    echoes = sum(len(socket.echoes) for socket in history.sockets)
    told = ", ".join(f"{outcome} {count}" for outcome, count in sorted(outcomes.items()))
    lag = sum(each.seconds for each in history.lags)
    late = f"clients late by {lag:.1f} s in all, load {history.load:.1f} for each CPU"
    heard = sum(len(numbers) for member in history.members for numbers in member.heard.values())
    gaps = sum(len(member.gaps) for member in history.members)
    return f"{len(history.requests)} requests, {echoes} messages, {heard} broadcasts heard, {gaps} gaps, {late}: {told}"
