"""The live view: its page, and the figures and events of the last minutes that it shows.

The figures are kept from the start of the endpoint on, so that the view shows a fault also to those who open it
afterwards. That costs some 60 KB, and does not grow with the number of connections or streams.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from array import array
from collections.abc import Mapping, Sequence
from importlib import resources
from math import isnan, nan
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from ifserver.logs import events
from ifserver.metrics import Counters, quantile
from ifserver.observe.admin.subject import (
    ServerSubject,
    SupervisorSubject,
    errors_of,
    open_websockets,
    requests_of,
    tallies_of,
)
from ifserver.status import Event, Facts, History

if TYPE_CHECKING:
    from ifserver.clock import Timer
    from ifserver.front.server import InterfaceServer
    from ifserver.observe.admin.survey import Survey, Surveyor
    from ifserver.process.supervisor import Supervisor

__all__ = ["EVERY_S", "KEPT", "Recorder", "ServerFigures", "SupervisorFigures", "page"]

#: How far apart the figures are, in seconds, and how many of each are kept: a quarter of an hour.
EVERY_S: Final = 1.0
KEPT: Final = 900
#: After how many looks the nodes are asked where no other question has been sent meanwhile: a beat lives 3 s, and what
#: the last one of a process carries must not be missed.
_ASK_EVERY: Final = 2
#: Events of other processes that are kept.
_MAX_EVENTS: Final = 200
#: What waits in the nodes for a worker, a figure that every process has.
_WAITING: Final = "waiting"

#: The quantile of times that is shown: one request in twenty took longer.
_PART: Final = 0.95
#: Where the page's files are, and what ``page.html`` has in place of their contents.
_FOLDER: Final = "view"
_STYLE: Final = re.compile(r'<link rel="stylesheet" href="([a-z_]+\.css)">')
_SCRIPT: Final = re.compile(r'<script src="([a-z_]+\.js)"></script>')

_log = logging.getLogger(__name__)


# Figures.


class ServerFigures:
    """Of an interface server: answers and errors per second, times in seconds, and what is open."""

    #: In order (docs/howto/monitoring.rst).
    names: Sequence[str] = ("requests", "errors", "queue_wait", "first_byte", "websockets", "connections")

    def __init__(self, server: InterfaceServer) -> None:
        self._server = server
        self._requests = self._errors = 0
        self._queue_wait: list[int] = []
        self._first_byte: list[int] = []
        self.take(1.0)

    def take(self, elapsed_s: float) -> Mapping[str, float]:
        """What they are now; rates and times are those of the last `elapsed_s`. NaN: there was nothing to measure."""
        server, tallies = self._server, tallies_of(self._server)
        requests, errors = requests_of(tallies), errors_of(tallies)
        queue_wait = _summed([tally.queue_wait.counts for tally in tallies])
        first_byte = _summed([tally.first_byte.counts for tally in tallies])
        figures = {
            "requests": (requests - self._requests) / elapsed_s,
            "errors": (errors - self._errors) / elapsed_s,
            "queue_wait": _quantile(queue_wait, self._queue_wait),
            "first_byte": _quantile(first_byte, self._first_byte),
            "websockets": open_websockets(server.exchanges.counters),
            "connections": len(server.connections),
        }
        self._requests, self._errors, self._queue_wait, self._first_byte = requests, errors, queue_wait, first_byte
        return figures


class SupervisorFigures:
    """Of a supervisor: what its workers have taken per second, and how they stand."""

    names: Sequence[str] = ("taken", "unanswered", "open", "free", "ready")

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        #: What each living worker has taken since its start, by its process id.
        self._taken: dict[int, int] = {}
        self.take(1.0)

    def take(self, elapsed_s: float) -> Mapping[str, float]:
        taken, gauges = {}, dict.fromkeys(("streams_held", "streams_unanswered", "slots_free"), 0)
        ready = 0
        for worker in self._supervisor.workers:
            taken[worker.child.pid] = worker.taken
            ready += worker.ready
            counted = Counters(worker.ledger.cells).gauges()
            for name in gauges:
                gauges[name] += counted[name]
        new = sum(count - self._taken.get(pid, 0) for pid, count in taken.items())
        self._taken = taken
        return {
            "taken": max(0, new) / elapsed_s,
            "unanswered": gauges["streams_unanswered"],
            "open": gauges["streams_held"] - gauges["streams_unanswered"],
            "free": gauges["slots_free"],
            "ready": ready,
        }


Figures: TypeAlias = ServerFigures | SupervisorFigures


def _summed(many: Sequence[Sequence[int]]) -> list[int]:
    return [sum(counts) for counts in zip(*many, strict=True)]


def _quantile(now: Sequence[int], before: Sequence[int]) -> float:
    """Of what was counted since `before`; NaN: nothing was."""
    since = [n - b for n, b in zip(now, before, strict=True)] if before else now
    found = quantile(since, _PART)
    return nan if found is None else found


# The last minutes.


class Recorder:
    """Keeps what is measured of `subject`, from `start` to `stop`.

    Args:
        clock: the reactor.
    """

    def __init__(self, subject: ServerSubject | SupervisorSubject, surveyor: Surveyor, clock: Any) -> None:
        self._subject = subject
        self._surveyor = surveyor
        self._clock = clock
        self._wall = subject.wall
        self._figures: Figures = (
            ServerFigures(subject.server)
            if isinstance(subject, ServerSubject)
            else SupervisorFigures(subject.supervisor)
        )
        self._rings = {name: array("d", [nan]) * KEPT for name in (*self._figures.names, _WAITING)}
        #: How many have been taken of each, and when the last one was, by both clocks.
        self._count = 0
        self._taken_at = clock.seconds()
        self._last_at = self._wall()
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
        """As `Surveyor.survey`; what is answered is kept."""
        return self._surveyor.survey().addCallback(self._keep)

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

    def _keep(self, survey: Survey) -> Survey:
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
            # A node that does not answer leaves out processes that live.
            for name in self._seen.keys() - others.keys():
                self._others[name, 0] = self._ended(self._seen[name])
            self._seen = others
        while len(self._others) > _MAX_EVENTS:
            del self._others[next(iter(self._others))]
        return survey

    def _ended(self, facts: Facts) -> Event:
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


# The page.


def page() -> tuple[bytes, str, dict[str, str], str]:
    """The page, its type, its headers beside those that all answers have, and its policy.

    The page is whole with one answer, so that it can still show what it knows when its process has ended. Its policy
    (Content Security Policy, level 3) names each script and style sheet by its hash: nothing else runs, whatever comes
    to stand in the page. For the same reason nothing in it may be made from text as HTML (Trusted Types).
    """
    sources: dict[str, list[str]] = {"script": [], "style": []}

    def inline(tag: str, found: re.Match[str]) -> str:
        text = _text(found[1])
        sources[tag].append(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
        return f"<{tag}>{text}</{tag}>"

    text = _STYLE.sub(lambda found: inline("style", found), _text("page.html"))
    text = _SCRIPT.sub(lambda found: inline("script", found), text)
    policy = (
        f"default-src 'none'; script-src {' '.join(sources['script'])}; style-src {' '.join(sources['style'])}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return text.encode(), "text/html; charset=utf-8", {}, policy


def _text(name: str) -> str:
    return resources.files("ifserver.observe.admin").joinpath(_FOLDER, name).read_text("utf-8")
