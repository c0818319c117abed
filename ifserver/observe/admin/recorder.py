"""The last minutes of a process: its figures, and what has happened in all processes that it sees.

So that whoever opens the live view after a fault sees the fault. It runs only where there is an admin endpoint, beside
what is measured, and keeps some 60 KB.
"""

from __future__ import annotations

import logging
from array import array
from math import isnan, nan
from typing import Any, Final

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from ifserver.clock import Timer, WallClock
from ifserver.logs import events
from ifserver.observe.admin.subject import Subject
from ifserver.observe.admin.survey import Survey, Surveyor
from ifserver.status import Event, Facts, History

__all__ = ["EVERY_S", "KEPT", "Recorder"]

#: How far apart the figures are, in seconds, and how many of each are kept: a quarter of an hour.
EVERY_S: Final = 1.0
KEPT: Final = 900
#: How often the nodes are asked where nobody else has them asked, in looks: a beat lives 3 s, and what the last one of
#: a process tells should not be missed.
_ASK_EVERY: Final = 2
#: Events of other processes that are kept.
_MAX_EVENTS: Final = 200
#: What waits in the nodes for a worker, a figure that every process has.
_WAITING: Final = "waiting"

_log = logging.getLogger(__name__)


class Recorder:
    """Keeps what `subject` measures, from `start` to `stop`.

    Args:
        clock: the reactor.
    """

    def __init__(self, subject: Subject, surveyor: Surveyor, clock: Any, wall: WallClock) -> None:
        self._subject = subject
        self._surveyor = surveyor
        self._clock = clock
        self._wall = wall
        self._figures = subject.figures()
        self._rings = {name: array("d", [nan]) * KEPT for name in (*self._figures.names, _WAITING)}
        #: How many have been taken of each, and when the last one was, by both clocks.
        self._count = 0
        self._taken_at = clock.seconds()
        self._last_at = wall()
        self._waiting = nan
        self._looks = 0
        self._others: dict[tuple[str, int], Event] = {}
        self._seen: dict[str, Facts] = {}
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin."""
        self._timer = self._clock.callLater(EVERY_S, self._look)

    def stop(self) -> None:
        """Keep no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def survey(self) -> Deferred[Survey]:
        """As `Surveyor.survey`; what is said is kept."""
        return self._surveyor.survey().addCallback(self._heard)

    def events(self) -> tuple[Event, ...]:
        """What has happened here and elsewhere, oldest first."""
        me = self._subject.clusters.process
        own = [msgspec.structs.replace(event, process=me) for event in events.recent()]
        return tuple(sorted((*own, *self._others.values()), key=lambda event: event.at))

    def history(self, after: int) -> History:
        """The figures behind the one with number `after`."""
        first = min(max(after + 1, self._count - KEPT, 0), self._count)
        series = {
            name: [_shown(ring[index % KEPT]) for index in range(first, self._count)]
            for name, ring in self._rings.items()
        }
        return History(first=first, last_at=round(self._last_at, 3), every_s=EVERY_S, series=series)

    def _look(self) -> None:
        # First, so that whatever goes wrong with the rest, it goes on.
        self.start()
        now = self._clock.seconds()
        elapsed_s, self._taken_at = now - self._taken_at, now
        # A process that was frozen has measured nothing in between.
        for _ in range(min(KEPT, round(elapsed_s / EVERY_S) - 1)):
            self._put({})
        self._put({**self._figures.take(elapsed_s or EVERY_S), _WAITING: self._waiting})
        self._last_at = self._wall()
        self._looks += 1
        if self._looks >= _ASK_EVERY:
            self.survey().addErrback(_not_asked)

    def _put(self, figures: dict[str, float]) -> None:
        for name, ring in self._rings.items():
            ring[self._count % KEPT] = figures.get(name, nan)
        self._count += 1

    def _heard(self, survey: Survey) -> Survey:
        self._looks = 0
        nodes = [node for cluster in survey.clusters for node in cluster.nodes]
        known = [queue.length for node in nodes if node.answers for queue in node.queues]
        self._waiting = sum(known) if known else nan
        me = self._subject.clusters.process
        others = {name: facts for name, facts in survey.processes.items() if name != me}
        for facts in others.values():
            for event in facts.events:
                self._others[facts.process, event.number] = msgspec.structs.replace(event, process=facts.process)
        if all(node.answers for node in nodes):
            # A node that does not answer does not say who is gone.
            for name in self._seen.keys() - others.keys():
                self._others[name, 0] = self._gone(self._seen[name])
            self._seen = others
        while len(self._others) > _MAX_EVENTS:
            del self._others[next(iter(self._others))]
        return survey

    def _gone(self, facts: Facts) -> Event:
        """The event that a process beats no more."""
        stopping = any(event.label == events.Mark.STOPPING.label for event in facts.events)
        mark = events.Mark.STOPPED if stopping else events.Mark.GONE
        text = f"{facts.kind} {facts.process} on {facts.host}, process id {facts.pid}, beats no more"
        return Event(
            number=0, at=round(self._wall(), 3), kind=mark.kind, label=mark.label, text=text, process=facts.process
        )


def _shown(value: float) -> float | None:
    return None if isnan(value) else round(value, 4)


def _not_asked(failure: Failure) -> None:
    if not failure.check(CancelledError):
        _log.error("asking the nodes failed:\n%s", failure.getTraceback())
